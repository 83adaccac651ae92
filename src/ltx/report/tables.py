"""The tables that a person sees: one per run with a line per level, one per sweep with a line per point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from ltx.analysis.intervals import mean_interval
from ltx.store.rows import Row, by_level

Label = dict[str, Any]  # what distinguishes a point of a sweep


def interval_text(values: Sequence[float], digits: int = 4) -> str:
    """Write a mean and its 95 % interval, the mean alone for one seed."""
    mean, half = mean_interval(values)
    return f"{mean:.{digits}f}" if math.isnan(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"


def early_stop_text(rows: Sequence[Row]) -> str:
    """Write the mean early-stop step of the seeds that have one, and how many of all are censored."""
    steps = [r.early_stop_step for r in rows if r.early_stop_step is not None]
    censored = len(rows) - len(steps)
    text = interval_text(steps, 0) if steps else "-"
    return f"{text} ({censored}/{len(rows)})" if censored else text


def level_cells(group: Sequence[Row]) -> dict[str, str]:
    """Return the cells of one level by column; a method that draws its mask at random has the mean of draws too."""
    cells = {
        "level": str(group[0].level),
        "density": f"{100 * group[0].density:.2f} %",
        "kept": f"{group[0].kept:,}",
        "val accuracy": interval_text([r.val_accuracy for r in group]),
        "test accuracy": interval_text([r.test_accuracy for r in group]),
    }
    if "draws_test_accuracy" in group[0].extra:
        cells["of 10 draws"] = interval_text([float(r.extra["draws_test_accuracy"] or 0) for r in group])
    if "trained" in group[0].extra:
        cells["trained"] = f"{group[0].extra['trained']:,}"
    cells["early-stop step"] = early_stop_text(group)
    return cells


def table(rows: Sequence[Row], title: str) -> Table:
    """Return the table per level: density, kept, accuracies with 95 % intervals over seeds, early-stop step."""
    result = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    result.collapse_padding = True
    lines = [level_cells(group) for group in by_level(rows).values()]
    for name in lines[0]:
        result.add_column(name, justify="right", no_wrap=name != "early-stop step")  # a narrow terminal folds it
    for cells in lines:
        result.add_row(*cells.values())
    n = len({r.seed for r in rows})
    result.caption = f"mean ± 95 % interval over {n} seeds"
    if "trained" in lines[0]:
        result.caption += "; trained: parameters of norms beside the scores"
    if any(row.early_stop_step is None for row in rows):
        result.caption += f"; (k/{n}) are censored: validation loss still falling at the last step"
    return result


def last_level(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the last level."""
    level = max((r.level for r in rows), default=0)
    return [r for r in rows if r.level == level]


def compared(groups: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """Return of every point the level to compare it at: the last, or the one that keeps most like the searches.

    Where some points have one sparse level (a search's ticket) and others several (pruning), the latter are taken at
    the level whose share of all weights is nearest the mean of the former.
    """
    shares = [group[0].share for group in groups if group and len(by_level(group)) == 1 and group[0].density < 1]
    if not shares:
        return [last_level(group) for group in groups]
    target = sum(shares) / len(shares)

    def nearest_level(group: Sequence[Row]) -> list[Row]:
        return min(by_level(group).values(), key=lambda rows: abs(rows[0].share - target), default=[])

    return [nearest_level(group) for group in groups]


def sweep_table(points: Sequence[Label], rows: Sequence[Sequence[Row]], states: Sequence[str]) -> Table:
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
        seeds = str(len({r.seed for r in group}))
        if last:
            accuracy = interval_text([r.test_accuracy for r in last])
            result.add_row(*values, seeds, str(last[0].level), f"{100 * last[0].share:.2f} %", accuracy, state)
        else:
            result.add_row(*values, seeds, "-", "-", "-", state)
    result.caption = "kept: of all matrix weights; mean ± 95 % interval over seeds"
    return result
