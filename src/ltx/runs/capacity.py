"""How many workers may run at once: by cores, and by the memory that workers were measured to take."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ltx.launch.local import cores

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
SHARE = 0.9  # of the free memory that workers may take; the rest is for what varies between levels
CONTEXT = 0.6e9  # bytes of a GPU that CUDA itself takes for each process, beside torch's; about 0.5e9 on an H100


@dataclass(frozen=True)
class Memory:
    """What a worker took of its device at most until now, and what was free there then, in bytes."""

    taken: float
    free: float


@dataclass
class Place:
    """A device that workers share."""

    device: str
    running: set[str] = field(default_factory=set)  # jobs
    unmeasured: set[str] = field(default_factory=set)  # of these, whose workers have not said what they take
    free: float = 0.0  # bytes when a worker last looked


class Capacity:
    """Knows how many workers there is room for and on which device the next one goes; see `launch.local.Room`.

    workers=N of the config is N. Otherwise on CPUs it is one a core, as long as memory is free for one more of the
    largest that was measured. A GPU gets one worker, and when that has said what it takes, as many as fit beside it.
    A worker with several devices takes as many cores, or GPUs that follow each other, which it has for itself.
    """

    def __init__(self, config: Mapping[str, Any]):
        self.asked, asked = config["workers"], config["device"]
        self.devices = config["trainer"]["devices"]
        gpus = torch.cuda.device_count() if asked in ("auto", "cuda") else 0
        self.gpu = gpus > 0 or asked.startswith("cuda:")
        firsts = range(0, gpus - self.devices + 1, self.devices)
        self.places = [Place(f"cuda:{n}") for n in firsts] if len(firsts) > 1 else [Place(asked)]
        self.cores = max(1, cores() // (config["threads"] * self.devices))
        self.largest = 0.0  # bytes that a worker took

    def next_device(self) -> str:
        """Return the device of the next job: of several GPUs the one with the most room."""
        return max(self.places, key=lambda place: (self.more(place), -len(place.running))).device

    def hear(self, job: str, device: str, kind: str, value: Any) -> None:
        """Take a job's report into account."""
        place = next((place for place in self.places if place.device == device), self.places[0])
        if kind == "started":
            place.running.add(job)
            place.unmeasured.add(job)
        elif kind == "memory":
            place.unmeasured.discard(job)
            self.largest, place.free = max(self.largest, value.taken), value.free
        elif kind == "ended":
            place.running.discard(job)
            place.unmeasured.discard(job)

    def most(self, running: int) -> int:
        """Return how many workers may run at once, of which some do."""
        if self.asked is not None:
            return int(self.asked)
        return max(1, min(self.cores, running + sum(max(0, self.more(place)) for place in self.places)))

    def more(self, place: Place) -> int:
        """Return how many more workers there is memory for on a device, of one that is full 0 or less."""
        free = place.free if self.gpu else available()
        if self.gpu and (self.devices > 1 or not (self.largest and free)):
            return 1 - len(place.running)
        if free is None or not self.largest:
            return self.cores - len(place.running)
        return int(SHARE * free / (self.largest * self.devices)) - len(place.unmeasured)


def memory_of_this_process(device: str) -> Memory | None:
    """Return what this process took of a device at most, and what is free there; None where the system does not say."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return Memory(torch.cuda.max_memory_reserved(device) + CONTEXT, float(free))
    free_now = available()
    unit = 1 if sys.platform == "darwin" else 1024
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - shared()
    return None if free_now is None else Memory(max(taken, 1.0), free_now)


def shared() -> float:
    """Return the bytes of this process that are those of files, which all workers share: libraries above all."""
    return 1024.0 * line_of(PROC / "self" / "status", "RssFile:")


def available() -> float | None:
    """Return the bytes of memory that can be taken before this machine, or a limit of this job, is full."""
    there = 1024.0 * line_of(PROC / "meminfo", "MemAvailable:")
    rooms = [there] if there else []
    for folder in cgroups():  # of a container, or of a cluster's job
        limit, used = number(folder / "memory.max"), number(folder / "memory.current")
        if limit is not None and used is not None:
            rooms.append(limit - used + line_of(folder / "memory.stat", "inactive_file"))
    return min(rooms, default=None)


def cgroups() -> list[Path]:
    """Return the folders of this process's control group and of those it is in."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    return [CGROUP, *(CGROUP / Path(*Path(own).parts[: n + 1]) for n in range(len(Path(own).parts)))]


def line_of(path: Path, name: str) -> float:
    """Return the number that follows a name in a file of lines, 0 where it is not there."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0.0)


def number(path: Path) -> float | None:
    """Return the number that a file holds, None where it is not there or holds none, as `max` for no limit."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def pool(config: Mapping[str, Any]) -> int:
    """Return how many workers a command begins with, for estimates."""
    return Capacity(config).most(0)
