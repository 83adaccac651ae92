"""What a person sees of a run: progress with an ETA, the table per level, the plot, the status of all runs."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table

from ltx.analysis.intervals import mean_interval
from ltx.errors import printable
from ltx.store.files import Damaged, commit, process_lives, side_file, text
from ltx.store.folders import RunFolder

Row = dict[str, Any]


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
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[eta]}"),
            )
            self.bars = Bars(*columns, console=self.console, refresh_per_second=4)
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
            self.finished += steps(value["level"])[1]
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


def counted(counts: Row) -> str:
    """Write how many jobs are done, running and failed."""
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{counts['done']} of {counts['jobs']} jobs done{failed}, {counts['running']} running"


def under_way(folder: Path, tidy: bool = False) -> list[Row]:
    """Return what the commands under way say of themselves; `tidy` removes what killed ones left."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            state = told(side_file(path))
            here, age = state["host"] == socket.gethostname(), time.time() - path.stat().st_mtime
        except (OSError, ValueError, KeyError, TypeError):
            continue  # ended meanwhile, or no such file
        if process_lives(state["pid"]) if here else age < 60:
            found.append(state)
        elif tidy:
            path.unlink(missing_ok=True)
    return found


def told(state: Row) -> Row:
    """Return what a command says of itself, each value of its type. Raises KeyError, ValueError or TypeError."""
    counts = {name: int(state[name]) for name in ("pid", "done", "jobs", "running", "failed")}
    left = state["eta_seconds"]
    return {
        **{name: printable(str(state[name])) for name in ("host", "title")},
        **{"runs": [printable(str(key)) for key in state["runs"]], **counts, "share": float(state["share"])},
        "eta_seconds": None if left is None else float(left),
    }


def by_level(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Group summary rows by level."""
    return {level: [r for r in rows if r["level"] == level] for level in sorted({r["level"] for r in rows})}


def interval_text(values: Sequence[float], digits: int = 4) -> str:
    """Write a mean and its 95 % interval, the mean alone for one seed."""
    mean, half = mean_interval(values)
    return f"{mean:.{digits}f}" if math.isnan(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"


def early_stop_text(rows: Sequence[Row]) -> str:
    """Write the mean early-stop step of the seeds that have one, and how many of all are censored."""
    steps = [r["early_stop_step"] for r in rows if r["early_stop_step"] is not None]
    censored = len(rows) - len(steps)
    text = interval_text(steps, 0) if steps else "-"
    return f"{text} ({censored}/{len(rows)})" if censored else text


def table(rows: Sequence[Row], title: str) -> Table:
    """Return the table per level: density, kept, accuracies with 95 % intervals over seeds, early-stop step."""
    result = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    result.collapse_padding = True
    draws = ["of 10 draws"] if "draws_test_accuracy" in rows[0] else []  # a random mask, beside its rounded one
    for name in ("level", "density", "kept", "val accuracy", "test accuracy", *draws, "early-stop step"):
        result.add_column(name, justify="right", no_wrap=name != "early-stop step")  # a narrow terminal folds it
    for level, group in by_level(rows).items():
        result.add_row(
            str(level),
            f"{100 * group[0]['density']:.2f} %",
            f"{group[0]['kept']:,}",
            interval_text([r["val_accuracy"] for r in group]),
            interval_text([r["test_accuracy"] for r in group]),
            *(interval_text([r["draws_test_accuracy"] for r in group]) for _ in draws),
            early_stop_text(group),
        )
    n = len({r["seed"] for r in rows})
    result.caption = f"mean ± 95 % interval over {n} seeds"
    if any(row["early_stop_step"] is None for row in rows):
        result.caption += f"; (k/{n}) are censored: validation loss still falling at the last step"
    return result


def last_level(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the last level."""
    level = max((r["level"] for r in rows), default=0)
    return [r for r in rows if r["level"] == level]


def share(row: Row) -> float:
    """Return how much of all matrix weights a level keeps, layers that are never pruned included."""
    return (row["kept"] + row["total"] - row["prunable"]) / row["total"]


def compared(groups: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """Return of every point the level to compare it at: the last, or the one that keeps most like the searches.

    Where some points have one sparse level (a search's ticket) and others several (pruning), the latter are taken at
    the level whose share of all weights is nearest the mean of the former.
    """
    shares = [share(group[0]) for group in groups if group and len(by_level(group)) == 1 and group[0]["density"] < 1]
    if not shares:
        return [last_level(group) for group in groups]
    target = sum(shares) / len(shares)

    def nearest_level(group: Sequence[Row]) -> list[Row]:
        return min(by_level(group).values(), key=lambda rows: abs(share(rows[0]) - target), default=[])

    return [nearest_level(group) for group in groups]


def sweep_table(points: Sequence[Row], rows: Sequence[Sequence[Row]], states: Sequence[str]) -> Table:
    """Return a line per point: what distinguishes it, its last level's density and accuracy, its state."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    names = [
        name
        for name in dict.fromkeys(name for point in points for name in point)
        if len({str(point.get(name)) for point in points}) > 1 or name in ("method", "width")
    ]
    for name in (*names, "seeds", "level", "kept", "test accuracy", "state"):
        result.add_column(name.rpartition(".")[2], justify="right")
    for point, group, last, state in zip(points, rows, compared(rows), states, strict=True):
        values = ["-" if point.get(name) is None else escape(str(point[name])) for name in names]
        seeds = str(len({r["seed"] for r in group}))
        if last:
            accuracy = interval_text([r["test_accuracy"] for r in last])
            result.add_row(*values, seeds, str(last[0]["level"]), f"{100 * share(last[0]):.2f} %", accuracy, state)
        else:
            result.add_row(*values, seeds, "-", "-", "-", state)
    result.caption = "kept: of all matrix weights; mean ± 95 % interval over seeds"
    return result


def status(path: Path, command: Row | None = None) -> Row:
    """Return what is known of a run without reading any tensor: done levels and seeds, last metric, age, state.

    A run that a `command` under way has still to work on is waiting, and shows how far the command is.
    """
    folder = RunFolder(path)
    manifest = folder.manifest()
    seeds, last = manifest["seeds"], manifest["last_level"]
    done = {seed: len(folder.seed(seed).levels()) for seed in seeds}
    failed = [seed for seed in seeds if folder.seed(seed).failure()]
    complete = bool(seeds) and all(count > last for count in done.values())
    running = folder.running()
    newest = max([p.stat().st_mtime for p in (path / "summary.csv", path / "manifest.json") if p.exists()], default=0.0)
    states = {"running": running, "done": complete, "failed": failed, "waiting": command, "unfinished": True}
    return {
        "key": path.name,
        "state": next(state for state, holds in states.items() if holds),
        "levels_done": sum(done.values()),
        "levels": len(seeds) * (last + 1),
        "seeds_done": sum(count > last for count in done.values()),
        "seeds": len(seeds),
        "failed": failed,
        "test_accuracy": last_accuracy(path / "summary.csv"),
        "age_seconds": round(time.time() - newest) if newest else None,
        "command": command and {name: value for name, value in command.items() if name != "runs"},
    }


def last_accuracy(summary: Path) -> float | None:
    """Return the test accuracy of a summary's last row, None where there is none."""
    try:
        lines = (text(summary) or "").splitlines()
        return float(dict(zip(lines[0].split(","), lines[-1].split(","), strict=False))["test_accuracy"])
    except (Damaged, ValueError, KeyError, IndexError):
        return None


def status_table(entries: Sequence[Row]) -> Table:
    """Return the status of runs, one line each."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "levels", "seeds", "test", "age"):
        result.add_column(name, justify="left" if name in ("run", "state") else "right", no_wrap=name == "run")
    for e in entries:
        accuracy = "-" if e["test_accuracy"] is None else f"{e['test_accuracy']:.4f}"
        failed = f", seed {', '.join(map(str, e['failed']))} failed" if e["failed"] else ""
        counts = f"{e['levels_done']}/{e['levels']}", f"{e['seeds_done']}/{e['seeds']}"
        age = "-" if e["age_seconds"] is None else clock(e["age_seconds"])
        result.add_row(e["key"], e["state"] + failed, *counts, accuracy, age)
    return result


def to_json(value: object) -> str:
    """Return JSON for a program to read."""
    return json.dumps(value, indent=1)
