"""What a person sees of a run: progress with an ETA, the table per level, the plot, the status of all runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table

from ltx.analysis.intervals import mean_interval
from ltx.store import RunFolder

Row = dict[str, Any]


def clock(seconds: float) -> str:
    """Write a duration as `5 s`, `1:23` or `2:03:04`."""
    whole = round(max(0.0, seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


class Progress:
    """Show one display for all jobs: how many are done, running and failed, where each stands, the ETA of the whole.

    On a terminal a bar that renews itself; elsewhere (a log file) a line every 10 seconds.
    """

    def __init__(self, title: str, total: int, console: Console | None = None):
        self.console = console or Console(highlight=False)
        self.total, self.title = total, title
        self.running: dict[str, str] = {}
        self.within: dict[str, int] = {}
        self.finished, self.done, self.failed = 0, 0, 0
        self.began = self.printed = time.monotonic()

    def __enter__(self) -> Progress:
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
        elif kind in ("failed", "diverged", "killed"):
            self.failed += 1
        elif kind == "ended":
            self.done += 1
            del self.running[job], self.within[job]
        self.show()

    def show(self) -> None:
        """Draw, or print when 10 seconds have passed."""
        steps = self.finished + sum(self.within.values())
        now = time.monotonic()
        eta = f"ETA {clock((self.total - steps) * (now - self.began) / steps)}" if steps else ""
        failed = f", {self.failed} failed" if self.failed else ""
        jobs = f"{self.done} jobs done{failed}, {len(self.running)} running: " if self.done or failed else ""
        text = jobs + ", ".join(self.running.values())
        if self.bars is not None:
            self.bars.update(self.task, completed=steps, description=text or self.title, eta=eta)
        elif now - self.printed >= 10 and self.total:
            self.printed = now
            self.console.print(f"{steps / self.total:4.0%} {eta}; {text}", soft_wrap=True)

    def say(self, text: str) -> None:
        """Print above the bar."""
        self.console.print(text, soft_wrap=True, markup=False)


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
    for name in ("level", "density", "kept", "val accuracy", "test accuracy", "early-stop step"):
        result.add_column(name, justify="right", no_wrap=name != "early-stop step")  # a narrow terminal folds it
    for level, group in by_level(rows).items():
        result.add_row(
            str(level),
            f"{100 * group[0]['density']:.2f} %",
            f"{group[0]['kept']:,}",
            interval_text([r["val_accuracy"] for r in group]),
            interval_text([r["test_accuracy"] for r in group]),
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


def compared(groups: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """Return of every point the level to compare it at: the last, or the one that keeps most like the searches.

    Where some points have one sparse level (a search's ticket) and others several (pruning), the latter are taken at
    the level whose kept / total is nearest the mean of the former.
    """
    shares = [
        group[0]["kept"] / group[0]["total"]
        for group in groups
        if group and len(by_level(group)) == 1 and group[0]["density"] < 1
    ]
    if not shares:
        return [last_level(group) for group in groups]
    target = sum(shares) / len(shares)

    def nearest_level(group: Sequence[Row]) -> list[Row]:
        return min(
            by_level(group).values(), key=lambda rows: abs(rows[0]["kept"] / rows[0]["total"] - target), default=[]
        )

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
        values = ["-" if point.get(name) is None else str(point[name]) for name in names]
        seeds = str(len({r["seed"] for r in group}))
        if last:
            accuracy = interval_text([r["test_accuracy"] for r in last])
            share = f"{100 * last[0]['kept'] / last[0]['total']:.2f} %"
            result.add_row(*values, seeds, str(last[0]["level"]), share, accuracy, state)
        else:
            result.add_row(*values, seeds, "-", "-", "-", state)
    result.caption = "kept: of all matrix weights; mean ± 95 % interval over seeds"
    return result


def status(path: Path) -> Row:
    """Return what is known of a run without reading any tensor: done levels and seeds, last metric, age, state."""
    folder = RunFolder(path)
    manifest = folder.manifest()
    seeds, last = manifest.get("seeds", []), manifest.get("last_level", 0)
    done = {seed: len(list(folder.seed(seed).path.glob("level_*.safetensors"))) for seed in seeds}
    failed = [seed for seed in seeds if folder.seed(seed).failure_path.exists()]
    complete = bool(seeds) and all(count > last for count in done.values())
    running = folder.running()
    newest = max([p.stat().st_mtime for p in (path / "summary.csv", path / "manifest.json") if p.exists()], default=0.0)
    lines = (path / "summary.csv").read_text().splitlines() if (path / "summary.csv").exists() else []
    last_row = dict(zip(lines[0].split(","), lines[-1].split(","), strict=False)) if len(lines) > 1 else {}
    return {
        "key": path.name,
        "state": "running" if running else "done" if complete else "failed" if failed else "unfinished",
        "levels_done": sum(done.values()),
        "levels": len(seeds) * (last + 1),
        "seeds_done": sum(count > last for count in done.values()),
        "seeds": len(seeds),
        "failed": failed,
        "test_accuracy": float(last_row["test_accuracy"]) if last_row.get("test_accuracy") else None,
        "age_seconds": round(time.time() - newest) if newest else None,
    }


def status_table(entries: Sequence[Row]) -> Table:
    """Return the status of runs, one line each."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "levels", "seeds", "test", "age"):
        result.add_column(name, justify="left" if name in ("run", "state") else "right", no_wrap=name == "run")
    for e in entries:
        accuracy = "-" if e["test_accuracy"] is None else f"{e['test_accuracy']:.4f}"
        failed = f", seed {', '.join(map(str, e['failed']))} failed" if e["failed"] else ""
        counts = f"{e['levels_done']}/{e['levels']}", f"{e['seeds_done']}/{e['seeds']}"
        result.add_row(e["key"], e["state"] + failed, *counts, accuracy, clock(e["age_seconds"] or 0))
    return result


def to_json(value: object) -> str:
    """Return JSON for a program to read."""
    return json.dumps(value, indent=1)
