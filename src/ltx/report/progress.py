"""Progress while runs train: one display with an ETA, and a file that lets another terminal show the same."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleRenderable
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment, Segments

from ltx.errors import printable
from ltx.report.lines import View, Worker, bar_line, worker_lines
from ltx.store.files import commit, process_lives, side_file

Job = tuple[str, int]  # a run's key and a seed


def clock(seconds: float) -> str:
    """Write a duration as `5 s`, `1:23` or `2:03:04`."""
    whole = round(max(0.0, seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


class Display(Live):
    """A display at the bottom of a terminal that is drawn anew four times a second, and with each message above it.

    Between two drawings the cursor rests at the beginning of its first line. A terminal that becomes narrower wraps
    lines that are there; a display that counted its lines from the last one would then leave some of them behind.
    """

    def __init__(self, console: Console, view: View):
        super().__init__(console=console)
        self.view = view

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Erase what was drawn, print what there is to print, and draw again; the last time, stand below it."""
        with contextlib.suppress(OSError, ValueError):  # of this file, where rich asks standard input
            width, height = os.get_terminal_size(self.console.file.fileno())
            if width and height:
                self.console.size = width, height  # type: ignore[assignment]  # the setter takes any pair
        first, *others = self.lines(*self.console.size)
        drawn = first + [segment for line in others for segment in (Segment.line(), *line)]
        up = f"\x1b[{len(others)}A" if others else ""
        drawn.append(control(f"\r{up}") if self.is_started else Segment.line())
        return [Segments([control("\r\x1b[J")]), *renderables, Segments(drawn)]

    def lines(self, width: int, height: int) -> list[list[Segment]]:
        """Return the lines that fit a terminal, which keeps one row for what was printed last."""
        before, length, after = bar_line(self.view, width)
        bar = ProgressBar(total=1.0, completed=self.view.share, width=length)
        drawn = Segment.adjust_line_length([*self.console.render(bar)], length) if length else []
        texts = worker_lines(self.view.workers, width, height - 2)
        plain = "~" if self.console.options.ascii_only else "…"
        return [
            [Segment(before.replace("…", plain)), *drawn, Segment(after)],
            *([Segment(text.replace("…", plain))] for text in texts),
        ]


def control(codes: str) -> Segment:
    """Return what moves the cursor or erases, and takes no room."""
    return Segment(codes, None, [(ControlType.CARRIAGE_RETURN,)])


@dataclass
class Pace:
    """When a job began, and how long the level under way takes by how its share grew since it was first heard of."""

    began: float  # seconds since 1970
    level: int | None = None
    first: tuple[float, float] = (0.0, 0.0)  # when the level was first heard of, by time.monotonic, and its share then
    level_seconds: float | None = None

    def hear(self, level: int, share: float) -> None:
        """Take the share of a level."""
        now = time.monotonic()
        if level != self.level:
            self.level, self.first = level, (now, share)  # the time of another level stands until there is a better one
        elif share > self.first[1]:
            self.level_seconds = (now - self.first[0]) / (share - self.first[1])


class Progress:
    """Show one display for all jobs: how many are done, running and failed, where each stands, the ETA of the whole.

    On a terminal lines that renew themselves; elsewhere (a log file) a line every 10 seconds. `jobs` counts them by
    run, `names` calls the runs by what tells them apart, `total` is their optimiser steps, or what `unit` names.

    A file in `folder` lets `ltx status` show the same meanwhile, and what each worker does: `workers` lists run, name,
    seed, level, share and loss as the display has them, `level_seconds` that the level will have taken, and `began`,
    when the job did (UTC, seconds since 1970). `rate` is the part of all steps that this process takes a second, by
    which the time left of several that share a sweep is found. What is not known yet is null.
    """

    def __init__(
        self,
        title: str,
        total: int,
        jobs: Mapping[str, int],
        folder: Path,
        names: Mapping[str, str] | None = None,
        console: Console | None = None,
        unit: str = "optimiser steps",
    ):
        self.console = console or Console(highlight=False, emoji=False)
        self.total, self.title, self.jobs, self.names, self.unit = total, title, jobs, names or {}, unit
        self.file, self.published = folder / f"{socket.gethostname()}-{os.getpid()}.json", 0.0
        self.running: dict[Job, Worker] = {}
        self.paces: dict[Job, Pace] = {}  # of those that run
        self.within: dict[Job, int] = {}  # steps taken of the level under way
        self.unfinished: set[Job] = set()  # of those that run: they failed, or another process has the seed
        self.finished, self.done, self.failed = 0, 0, 0
        self.elsewhere = 0  # steps that other processes take instead of this one
        self.lost = 0  # steps that nobody takes because their seeds failed
        self.display: Display | None = None
        self.began = self.printed = time.monotonic()

    def __enter__(self) -> Progress:
        under_way(self.file.parent, tidy=True)
        if self.total:
            self.say(f"{self.title}: {self.total} {self.unit}")
        if self.total and self.console.is_terminal and self.console.is_interactive:
            self.display = Display(self.console, self.view())
            self.display.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.display is not None:
            self.display.view = self.last_view()
            self.display.stop()
        with contextlib.suppress(OSError):
            self.file.unlink(missing_ok=True)
            self.file.parent.rmdir()  # unless another command is under way

    def event(self, job: Job, kind: str, value: Any, steps: Callable[[int], tuple[int, int]]) -> None:
        """Take a worker's report; steps(level) gives the first step and the number of steps of a level."""
        if kind == "started":
            self.running[job], self.within[job] = Worker(self.names.get(job[0], ""), job[1]), 0
            self.paces[job] = Pace(time.time())
        elif kind == "progress":
            level, step, loss = value
            first, count = steps(level)
            self.within[job] = min(max(0, step - first), count)
            share = self.within[job] / count if count else 1.0
            self.running[job] = replace(self.running[job], level=level, share=share, loss=loss)
            self.paces[job].hear(level, share)
        elif kind == "level":
            self.finished += steps(value.level)[1]
            self.within[job] = 0
            if self.running[job].level != value.level:  # computed without reports in between
                self.running[job] = replace(self.running[job], level=value.level, share=1.0, loss=value.test_loss)
        elif kind == "held":
            self.unfinished.add(job)  # it is given out again
        elif kind in ("failed", "diverged", "killed"):
            self.failed += job not in self.unfinished
            self.unfinished.add(job)
        elif kind == "ended":
            self.done += job not in self.unfinished
            self.unfinished.discard(job)
            del self.running[job], self.within[job], self.paces[job]
        self.show()

    @property
    def steps(self) -> int:
        """How many of the steps are taken."""
        return self.finished + sum(self.within.values()) + self.elsewhere

    @property
    def share(self) -> float:
        """Which part of the steps that can be taken is taken, from 0 to 1."""
        possible = self.total - self.lost
        return min(1.0, self.steps / possible) if possible > 0 else 1.0

    @property
    def left(self) -> float | None:
        """How many seconds it will take, by what the steps until now took; None before the first."""
        left = max(0, self.total - self.lost - self.steps)
        return left * (time.monotonic() - self.began) / self.steps if self.steps else None

    @property
    def rate(self) -> float:
        """Which part of all steps this process itself takes a second."""
        own = self.steps - self.elsewhere
        return own / max(1, self.total) / max(1e-3, time.monotonic() - self.began)

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs there are, by how they stand."""
        jobs = sum(self.jobs.values())
        return {"done": self.done, "jobs": jobs, "running": len(self.running), "failed": self.failed}

    def view(self) -> View:
        """Return what the display shows now."""
        counts, left = self.counts, self.left
        failed = f", {self.failed} failed" if self.failed else ""
        brief = f"{self.done}/{counts['jobs']}"
        said = (counted(counts), f"{brief} done{failed}, {counts['running']} running", brief + failed)
        ending = "" if left is None else f"ETA {clock(left)}"
        return View(self.share, said, ending, tuple(self.running.values()))

    def last_view(self) -> View:
        """Return what stays when all is over."""
        said = counted({**self.counts, "running": 0}).removesuffix(", 0 running")
        brief = said.replace(" of ", "/").replace(" jobs", "")
        return View(self.share, (said, brief), f"took {clock(time.monotonic() - self.began)}")

    def show(self) -> None:
        """Draw, or print when 10 seconds have passed, and publish once a second."""
        now = time.monotonic()
        if self.display is not None:
            self.display.view = self.view()
        elif now - self.printed >= 10 and self.total:
            self.printed = now
            self.say(self.plain())

        if now - self.published >= 1 and self.total:
            self.published = now
            state = {"host": socket.gethostname(), "pid": os.getpid(), "title": self.title, "runs": [*self.jobs]}
            state |= {**self.counts, "share": self.share, "eta_seconds": self.left, "rate": self.rate}
            state["workers"] = self.workers()
            with contextlib.suppress(OSError):  # a full disk ends no run for this
                commit(self.file, json.dumps(state).encode())

    def workers(self) -> list[dict[str, Any]]:
        """Return what each worker does, for other processes to read."""
        return [
            {
                "run": run,
                "name": worker.name,
                "seed": seed,
                "level": worker.level,
                "share": worker.share,
                "loss": worker.loss if math.isfinite(worker.loss) else None,
                "level_seconds": self.paces[run, seed].level_seconds,
                "began": self.paces[run, seed].began,
            }
            for (run, seed), worker in self.running.items()
        ]

    def plain(self) -> str:
        """Return all of it in one line for a log, which may be as long as it likes."""
        view = self.view()
        workers = [" ".join([worker.name, *worker.cells(with_share=False)]).strip() for worker in view.workers]
        begin = f"{view.share:4.0%} {view.ending}".rstrip()
        return f"{begin}; {view.counts[0]}" + (f": {', '.join(workers)}" if workers else "")

    def say(self, text: str) -> None:
        """Print above the display."""
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
    workers = [worker_told(worker) for worker in state.get("workers", [])]  # older versions tell of none
    numbers = {"share": float(state["share"]), "eta_seconds": eta, "rate": float(state.get("rate", 0))}
    return {**texts, **counts, "runs": runs, **numbers, "workers": workers}


def worker_told(state: dict[str, Any]) -> dict[str, Any]:
    """Return what a command says of one of its workers. Raises KeyError, ValueError or TypeError."""
    texts = {name: printable(str(state[name])) for name in ("run", "name")}
    level = None if state["level"] is None else int(state["level"])
    numbers = {name: None if state[name] is None else float(state[name]) for name in ("loss", "level_seconds")}
    whole = {"seed": int(state["seed"]), "level": level, "share": float(state["share"]), "began": float(state["began"])}
    return {**texts, **whole, **numbers}
