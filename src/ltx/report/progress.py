"""Progress while runs train: one display with an ETA, and a file that lets another terminal show the same."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars

from ltx.errors import printable
from ltx.store.files import commit, process_lives, side_file


def clock(seconds: float) -> str:
    """Write a duration as `5 s`, `1:23` or `2:03:04`."""
    whole = round(max(0.0, seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


class Progress:
    """Show one display for all jobs: how many are done, running and failed, where each stands, the ETA of the whole.

    On a terminal a bar that renews itself; elsewhere (a log file) a line every 10 seconds. `jobs` counts them by run,
    `total` is their optimiser steps. A file in `folder` lets `ltx status` show the same meanwhile.
    """

    def __init__(self, title: str, total: int, jobs: Mapping[str, int], folder: Path, console: Console | None = None):
        self.console = console or Console(highlight=False)
        self.total, self.title, self.jobs = total, title, jobs
        self.file, self.published = folder / f"{socket.gethostname()}-{os.getpid()}.json", 0.0
        self.running: dict[str, str] = {}
        self.within: dict[str, int] = {}
        self.finished, self.done, self.failed = 0, 0, 0
        self.elsewhere = 0  # steps that other processes take instead of this one
        self.began = self.printed = time.monotonic()

    def __enter__(self) -> Progress:
        under_way(self.file.parent, tidy=True)
        self.bars = None
        if self.console.is_terminal and self.total:
            self.bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[eta]}"),
                console=self.console,
                refresh_per_second=4,
            )
            self.task = self.bars.add_task(self.title, total=self.total, eta="")
            self.bars.start()
        elif self.total:
            self.console.print(f"{self.title}: {self.total} optimiser steps", soft_wrap=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bars is not None:
            self.bars.stop()
        with contextlib.suppress(OSError):
            self.file.unlink(missing_ok=True)
            self.file.parent.rmdir()  # unless another command is under way

    def event(self, job: str, kind: str, value: Any, steps: Callable[[int], tuple[int, int]]) -> None:
        """Take a worker's report; steps(level) gives the first step and the number of steps of a level."""
        if kind == "started":
            self.running[job], self.within[job] = job, 0
        elif kind == "progress":
            level, step, loss = value
            self.running[job] = f"{job} level {level} loss {loss:.3f}"
            self.within[job] = min(max(0, step - steps(level)[0]), steps(level)[1])
        elif kind == "level":
            self.finished += steps(value.level)[1]
            self.within[job] = 0
        elif kind == "held":
            self.done -= 1  # it is given out again; "ended" follows
        elif kind in ("failed", "diverged", "killed"):
            self.failed += 1
        elif kind == "ended":
            self.done += 1
            del self.running[job], self.within[job]
        self.show()

    def show(self) -> None:
        """Draw, or print when 10 seconds have passed."""
        steps = self.finished + sum(self.within.values()) + self.elsewhere
        now = time.monotonic()
        left = (self.total - steps) * (now - self.began) / steps if steps else None
        eta = "" if left is None else f"ETA {clock(left)}"
        counts = {"done": self.done, "jobs": sum(self.jobs.values()), "running": len(self.running)}
        counts["failed"] = self.failed
        said = (counted(counts) + ": " if counts["jobs"] > 1 else "") + ", ".join(self.running.values())
        if self.bars is not None:
            self.bars.update(self.task, completed=steps, description=said or self.title, eta=eta)
        elif now - self.printed >= 10 and self.total:
            self.printed = now
            self.console.print(f"{steps / self.total:4.0%} {eta}; {said}", soft_wrap=True)

        if now - self.published >= 1 and self.total:
            self.published = now
            state = {"host": socket.gethostname(), "pid": os.getpid(), "title": self.title, "runs": [*self.jobs]}
            state |= {**counts, "share": steps / self.total, "eta_seconds": left}
            with contextlib.suppress(OSError):  # a full disk ends no run for this
                commit(self.file, json.dumps(state).encode())

    def say(self, text: str) -> None:
        """Print above the bar."""
        self.console.print(printable(text), soft_wrap=True, markup=False)


def counted(counts: dict[str, Any]) -> str:
    """Write how many jobs are done, running and failed."""
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{counts['done']} of {counts['jobs']} jobs done{failed}, {counts['running']} running"


def under_way(folder: Path, tidy: bool = False) -> list[dict[str, Any]]:
    """Return what the commands under way say of themselves; `tidy` removes what killed ones left."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            state = told(side_file(path))
            here, age = state["host"] == socket.gethostname(), time.time() - path.stat().st_mtime
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the command has ended meanwhile, or the file is not one of ours
        if process_lives(state["pid"]) if here else age < 60:
            found.append(state)
        elif tidy:
            path.unlink(missing_ok=True)
    return found


def told(state: dict[str, Any]) -> dict[str, Any]:
    """Return what a command says of itself, each value of its type. Raises KeyError, ValueError or TypeError."""
    counts = {name: int(state[name]) for name in ("pid", "done", "jobs", "running", "failed")}
    left = state["eta_seconds"]
    texts = {name: printable(str(state[name])) for name in ("host", "title")}
    runs = [printable(str(key)) for key in state["runs"]]
    eta = None if left is None else float(left)
    return {**texts, **counts, "runs": runs, "share": float(state["share"]), "eta_seconds": eta}
