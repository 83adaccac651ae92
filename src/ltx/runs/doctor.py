"""What `ltx doctor` looks at: whether runs are possible on this machine, and what would make them better."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from ltx.errors import BadInput

SHOWN = ("torch", "lightning", "hydra-core", "omegaconf", "numpy", "wandb", "datasets")
OPTIONAL = ("timm", "torchvision", "submitit", "ray")
CLUSTER = ("sbatch", "squeue", "ray")  # commands of Slurm and of Ray
CONSTRAINTS = Path(__file__).resolve().parents[3] / "constraints.txt"  # of a checkout; an installed package has none
LITTLE, FULL = 1e9, 1e6  # bytes of disk that a sweep soon fills, and that the smallest run does not fit into


@dataclass(frozen=True)
class Finding:
    """What one check found. state: ok, note or problem; with a problem no run is possible. remedy: what to do."""

    check: str
    state: str
    said: str
    remedy: str = ""


def findings(root: Path) -> Iterator[Finding]:
    """Yield what is found, in order; where a library that ltx needs is missing, what needs libraries is left out."""
    libraries = [Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}"), *versions()]
    yield from libraries
    if any(found.state == "problem" for found in libraries):
        return
    yield from devices()
    yield cores_and_memory()
    from ltx.data import cache

    yield output(root)
    yield room("disk of outputs", root, "make room, or name another folder with root=DIR or LTX_OUTPUT", FULL)
    yield room("disk of images", cache.home()[0], "make room, or set LTX_CACHE to a folder on another disk")
    yield mirror()
    for name in CLUSTER:
        path = shutil.which(name)
        remedy = "" if path else "needed on such a cluster alone"
        yield Finding(f"command {name}", "ok" if path else "note", path or "not on the path", remedy)
    for name in OPTIONAL:
        own = installed(name)
        remedy = "" if own else f"pip install {name}, where it is wanted"
        yield Finding(f"package {name}", "ok" if own else "note", own or "not installed", remedy)


def versions() -> Iterator[Finding]:
    """Yield the versions of ltx and of the libraries it needs; of the small ones only those that do not fit."""
    from packaging.requirements import Requirement

    tested = pinned(CONSTRAINTS)
    yield Finding("ltx", "ok", version("ltx"))
    for requirement in map(Requirement, requires("ltx") or []):
        name, own = requirement.name, installed(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if own is None:
            yield Finding(name, "problem", "not installed", f"pip install '{requirement}'")
        elif not requirement.specifier.contains(own, prereleases=True):
            yield Finding(name, "note", f"{own}; ltx asks for {requirement.specifier}", f"pip install '{requirement}'")
        elif name in tested and own.partition("+")[0] != tested[name]:
            yield Finding(
                name, "note", f"{own}; ltx is tested with {tested[name]}", f"pip install {name}=={tested[name]}"
            )
        elif name in SHOWN:
            yield Finding(name, "ok", own)


def installed(name: str) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def pinned(file: Path) -> dict[str, str]:
    """Return the versions that a constraints file names, none where there is no file."""
    lines = file.read_text().splitlines() if file.is_file() else []
    matches = (re.fullmatch(r"([\w.-]+)==(\S+)", line) for line in lines)
    return {found[1]: found[2] for found in matches if found}


def devices() -> Iterator[Finding]:
    """Yield the GPUs, or why there is none."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("device", "problem", f"torch cannot be imported ({error})", "install torch anew")
        return
    from ltx.runs.estimate import size_text

    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    for number in range(torch.cuda.device_count()):
        facts: Any = torch.cuda.get_device_properties(number)
        yield Finding(f"cuda:{number}", "ok", f"{facts.name}, {size_text(facts.total_memory)}; {built}")
    if torch.cuda.is_available():
        return
    if shutil.which("nvidia-smi"):
        remedy = "install a build of torch for CUDA, and a driver that it accepts"
        yield Finding("device", "note", f"cpu alone, though there is a driver (nvidia-smi); {built}", remedy)
    else:
        yield Finding("device", "ok", f"cpu; {built}")


def cores_and_memory() -> Finding:
    """Tell the cores and the memory, and how many workers a sweep has by default."""
    from ltx.config import defaults
    from ltx.launch.local import cores
    from ltx.runs.estimate import machine_memory, size_text

    own = defaults.read().values
    workers = own.get("workers")
    threads = own.get("threads") or 1
    count = max(1, cores() // threads) if workers is None else workers
    said = f"{cores()} of {os.cpu_count()} cores and {size_text(machine_memory())} of memory; on the CPU "
    return Finding("machine", "ok", f"{said}workers={count} by default, threads={threads} each")


def output(root: Path) -> Finding:
    """Tell whether the output root can be written, and claimed by one process at a time; leaves nothing behind."""
    from ltx.runs.checks import check_place
    from ltx.store.claims import Claim

    remedy = "name another folder with root=DIR or LTX_OUTPUT"
    try:
        check_place(root.absolute(), f"root={root}")
        with tempfile.TemporaryDirectory(prefix=".ltx-", dir=existing(root)) as folder:
            claim = Claim(Path(folder) / "lock")
            claim.attempt()
            second = Claim(claim.path).attempt()
            claim.release()
    except BadInput as error:
        return Finding("output", "problem", str(error).rstrip("."), remedy)
    except OSError as error:
        return Finding("output", "problem", f"{root} cannot be claimed: {error.strerror or error}", remedy)
    if second:
        return Finding("output", "problem", f"two processes can claim the same file in {root}", remedy)
    return Finding("output", "ok", f"{root.absolute()} can be written and claimed")


def existing(place: Path) -> Path:
    """Return the folder itself, or the nearest one above it that is there."""
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())


def room(check: str, place: Path, remedy: str, least: float = 0) -> Finding:
    """Tell how much of the disk below a folder is free; with less than `least` bytes no run is possible."""
    from ltx.runs.estimate import size_text

    free = shutil.disk_usage(existing(place)).free
    said = f"{size_text(free)} free at {place.absolute()}"
    if free >= LITTLE:
        return Finding(check, "ok", said)
    return Finding(check, "problem" if free < least else "note", said, remedy)


def mirror() -> Finding:
    """Tell what becomes of the mirror in wandb; of a key only whether there is one."""
    from ltx.config import defaults
    from ltx.report.mirror import has_key
    from ltx.runs.checks import WANDB_MODES

    asked, named = defaults.read().values.get("wandb.mode"), os.environ.get("WANDB_MODE")
    key = "a key was found" if has_key() else "no key was found"
    if asked:
        return Finding("wandb mode", "ok", f"{asked}, of your defaults; {key}")
    if named and named not in WANDB_MODES:
        return Finding("wandb mode", "problem", f"WANDB_MODE={named} is unknown", f"one of {', '.join(WANDB_MODES)}")
    if named:
        return Finding("wandb mode", "ok", f"{named}, of WANDB_MODE; {key}")
    if has_key():
        return Finding("wandb mode", "ok", f"online; {key}")
    return Finding("wandb mode", "note", f"offline; {key}", "wandb login, or wandb.mode=disabled for none at all")
