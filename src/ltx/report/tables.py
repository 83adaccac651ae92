"""The tables that a person sees: one per run with a line per level, one per sweep with a line per point.

In all of them density is kept / prunable, kept a count of weights, and total the count of all matrix weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from ltx.analysis.intervals import Interval, interval
from ltx.config.flat import short_names, value_text
from ltx.report.grid import Line, fitting, grid, without
from ltx.store.rows import Row, by_level
from ltx.store.sweeps import Label

VALIDATION = "val accuracy"


def of_scores(values: Sequence[float]) -> Interval:
    """Return the mean of accuracies with its interval, within [0, 1]; R squared, a regression's, can be below 0."""
    return interval(values, 0 if min(values, default=0) >= 0 else -math.inf, 1)


def interval_text(found: Interval, digits: int = 4, sign: str = "") -> str:
    """Write a mean and its 95 % interval, `0.978 [0.971, 0.985]`; the mean alone for one seed, - for none."""
    if found.n == 0:
        return "-"
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in (found.mean, found.low, found.high))
    return mean if found.n == 1 else f"{mean} [{low}, {high}]"


def interval_words(counts: Sequence[int], scores: Sequence[float] = ()) -> str:
    """Say which interval a table shows, and over how many seeds where that is the same everywhere."""
    n = set(counts)
    if n == {1}:
        return "one seed, so that no interval is known"
    seeds = f"{n.pop()} seeds" if len(n) == 1 else "n seeds"
    cut = "0 and 1" if min(scores, default=0) >= 0 else "1"
    return f"mean [95 % interval] over {seeds}: Student's t, as seeds are few, cut at {cut}"


def early_stop_text(rows: Sequence[Row], bounds: bool = True) -> str:
    """Write the mean early-stop step of the seeds that have one, and how many of all are censored."""
    steps = [r.early_stop_step for r in rows if r.early_stop_step is not None]
    found = interval(steps, 0, max(r.step for r in rows))
    text = interval_text(found, 0) if bounds or not steps else f"{found.mean:.0f}"
    censored = len(rows) - len(steps)
    return f"{text} ({censored}/{len(rows)})" if censored else text


def size_cells(group: Sequence[Row]) -> dict[str, str]:
    """Return density, kept and total of a level, the mean over seeds where a method leaves them free."""
    n = len(group)
    density, kept = math.fsum(r.density for r in group) / n, round(sum(r.kept for r in group) / n)
    return {"density": f"{100 * density:.2f} %", "kept": f"{kept:,}", "total": f"{group[0].total:,}"}


def level_cells(group: Sequence[Row], digits: int, bounds: bool) -> dict[str, str]:
    """Return the cells of one level by column; a method that draws its mask at random has the mean of draws too."""
    cells = {"level": str(group[0].level), **size_cells(group)}
    cells[VALIDATION] = interval_text(of_scores([r.val_accuracy for r in group]), digits)
    cells["test accuracy"] = interval_text(of_scores([r.test_accuracy for r in group]), digits)
    if "draws_test_accuracy" in group[0].extra:
        draws = [float(r.extra["draws_test_accuracy"] or 0) for r in group]
        cells["of 10 draws"] = interval_text(of_scores(draws), digits)
    if "best" in group[0].extra:
        best = [float(r.extra["best"] or 0) for r in group]
        cells["best quality"] = interval_text(interval(best, -math.inf, 0), digits)
    if "trained" in group[0].extra:
        cells["trained"] = f"{group[0].extra['trained']:,}"
    if any(r.step for r in group):
        cells["early stop"] = early_stop_text(group, bounds)
    cells["n"] = str(len(group))
    return cells


def table(rows: Sequence[Row], title: str, room: int = 80) -> Table:
    """Return the table per level: density, kept, accuracies with 95 % intervals over seeds, early-stop step.

    What does not fit into `room` characters is left out whole: decimals, the total, which then stands below, the
    accuracy on the validation part, the interval of the early-stop step, and that step.
    """
    groups = [*by_level(rows).values()]
    counts = [len(group) for group in groups]
    same = ["n"] if len(set(counts)) == 1 else []

    def way(digits: int, *left_out: str, bounds: bool = True) -> list[Line]:
        return without([level_cells(group, digits, bounds) for group in groups], *same, *left_out)

    ways = (
        way(4),
        way(3),
        *([way(3, "total")] if room >= 100 else []),
        way(4, VALIDATION),
        way(3, VALIDATION),
        way(3, VALIDATION, "total"),
        way(3, VALIDATION, "total", bounds=False),
        way(3, VALIDATION, "total", "kept", bounds=False),
        way(3, VALIDATION, "total", "kept", "early stop"),
    )
    lines = fitting(ways, room)
    first = rows[0]
    notes = [interval_words(counts, [min(r.val_accuracy, r.test_accuracy) for r in rows])]
    if "trained" in lines[0]:
        notes.append("trained: parameters of norms beside the scores")
    if "early stop" in lines[0] and any(row.early_stop_step is None for row in rows):
        notes.append("(k/n) censored, so not in the mean: validation loss still falling at the last step")
    notes.append(f"density = kept / {first.prunable:,} prunable")
    if "total" not in lines[0]:
        notes[-1] += f" of {first.total:,} matrix weights in all"
    return grid(lines, title=title, caption="; ".join(notes))


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


def sweep_table(points: Sequence[Label], rows: Sequence[Sequence[Row]], states: Sequence[str], room: int = 80) -> Table:
    """Return a line per point: what distinguishes it, its density and accuracy at the level compared, its state.

    What does not fit into `room` characters and is the same on every line stands below the table instead.
    """
    chosen = compared(rows)
    varying = varying_names(points)
    heads = short_names(varying)

    def line(point: Label, group: Sequence[Row], state: str, digits: int) -> dict[str, str]:
        label = {heads[name]: label_text(point.get(name)) for name in varying}
        sizes = size_cells(group) if group else dict.fromkeys(("density", "kept", "total"), "-")
        accuracy = interval_text(of_scores([r.test_accuracy for r in group]), digits)
        level = str(group[0].level) if group else "-"
        return {**label, "level": level, **sizes, "test accuracy": accuracy, "n": str(len(group)), "state": state}

    def way(digits: int) -> list[Line]:
        return [line(*parts, digits) for parts in zip(points, chosen, states, strict=True)]

    full, words = way(3), [*heads.values(), "state", "point"]
    same = [
        name for name in ("state", "n", "level", *heads.values(), "total") if len({cells[name] for cells in full}) == 1
    ]
    fewer = [without(full, *same[:count]) for count in range(len(same) + 1)]
    small = without(fewer[-1], "total", "kept")
    last = [in_one(line, [*heads.values(), "level", "n", "state"]) for line in small]
    lines = fitting([way(4), *fewer, without(fewer[-1], "total"), small, last], room, words)
    left_out = [f"{name} {full[0][name]}" for name in same if name not in lines[0]]
    scores = [row.test_accuracy for group in chosen for row in group]
    at_last = all(group == last_level(found) for group, found in zip(chosen, rows, strict=True))
    notes = [", ".join(left_out)] if left_out else []
    notes += ["at the last level" if at_last else "pruned networks at the level that keeps most like the searches"]
    notes += [interval_words([len(group) for group in chosen], scores)]
    notes += ["density = kept / prunable, total: all matrix weights"]
    return grid(lines, words, caption="; ".join(notes))


def in_one(line: Line, names: Sequence[str]) -> Line:
    """Return a line whose cells of these columns stand in one, which can be folded."""
    point = " ".join(f"{name}={line[name]}" for name in names if name in line)
    return {"point": point, **{name: cell for name, cell in line.items() if name not in names}}


def swept(labels: Sequence[Label]) -> list[str]:
    """List the keys in which the points of a sweep differ."""
    keys = dict.fromkeys(key for label in labels for key in label)
    return [key for key in keys if len({str(label.get(key)) for label in labels}) > 1]


def varying_names(points: Sequence[Label]) -> list[str]:
    """Return what distinguishes the points, method and width always."""
    several = swept(points)
    names = dict.fromkeys(name for point in points for name in point)
    return [name for name in names if name in several or name in ("method", "width")]


def label_text(value: object) -> str:
    """Write what distinguishes a point, so that a long one can be folded after its commas."""
    text = "-" if value is None else value_text(value)
    return text.replace(",", ", ") if len(text) > 20 else text
