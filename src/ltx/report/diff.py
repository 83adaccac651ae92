"""In what two runs differ: their configs, and their accuracies at the levels that keep about as many weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from ltx.analysis.intervals import Interval, interval
from ltx.config import flat
from ltx.errors import printable
from ltx.report.grid import Line, fitting, grid, without
from ltx.report.tables import interval_text, of_scores, size_cells
from ltx.store.rows import Row, by_level

FAR = 0.13  # two levels are compared whose shares of all weights differ by less; pruning a fifth puts levels .2 apart


@dataclass(frozen=True)
class Pair:
    """A level of A and the one of B that keeps about as many weights: their rows, by seed."""

    a: list[Row]
    b: list[Row]

    @property
    def difference(self) -> Interval:
        """The test accuracy of A minus that of B, paired over the seeds that both have."""
        other = {row.seed: row.test_accuracy for row in self.b}
        found = [row.test_accuracy - other[row.seed] for row in self.a if row.seed in other]
        return interval(found, -1, 1) if min(row.test_accuracy for row in (*self.a, *self.b)) >= 0 else interval(found)


def differences(a: flat.Flat, b: flat.Flat) -> dict[str, tuple[Any, Any]]:
    """Return the keys of two flat configs that differ with both values, what trunks only take over left out."""
    own_a, own_b = flat.own_values(a), flat.own_values(b)
    return {key: (own_a.get(key), own_b.get(key)) for key in {**own_a, **own_b} if own_a.get(key) != own_b.get(key)}


def compared_levels(a: Sequence[Row], b: Sequence[Row]) -> list[Pair]:
    """Return the levels of two runs that are each other's nearest in the share of all matrix weights they keep."""
    groups_a, groups_b = [*by_level(a).values()], [*by_level(b).values()]

    def apart(one: list[Row], other: list[Row]) -> float:
        shares = one[0].share, other[0].share
        return abs(math.log(shares[0] / shares[1])) if min(shares) > 0 else math.inf

    def nearest(group: list[Row], among: list[list[Row]]) -> list[Row]:
        return min(among, key=lambda other: (apart(group, other), abs(group[0].level - other[0].level)))

    pairs = [Pair(group, nearest(group, groups_b)) for group in groups_a] if groups_b else []
    return [p for p in pairs if apart(p.a, p.b) < FAR and nearest(p.b, groups_a) is p.a]


def config_table(values: dict[str, tuple[Any, Any]]) -> Table:
    """Return the keys in which two configs differ."""

    def cell(value: Any) -> str:
        return "-" if value is None else printable(flat.value_text(value)).replace(",", ", ")

    return grid([{"key": key, "A": cell(a), "B": cell(b)} for key, (a, b) in values.items()], ("key", "A", "B"))


def levels_table(pairs: Sequence[Pair], room: int) -> Table:
    """Return three lines for each pair of levels: A, B, and A - B paired by seed."""

    def lines(digits: int) -> list[Line]:
        found: list[Line] = []
        for pair in pairs:
            for name, rows in (("A", pair.a), ("B", pair.b)):
                accuracy = of_scores([row.test_accuracy for row in rows])
                cells = {"": name, "level": str(rows[0].level), **size_cells(rows)}
                found.append({**cells, "test accuracy": interval_text(accuracy, digits), "n": str(accuracy.n)})
            paired = pair.difference
            text = interval_text(paired, digits, "+")
            found.append({"": "A - B", "test accuracy": text, "n": str(paired.n)})
        return found

    ways = (lines(4), lines(3), without(lines(3), "total"), without(lines(3), "total", "kept"))
    caption = (
        "levels that keep about as many of all matrix weights; mean [95 % interval] over n seeds by Student's t, as "
        "seeds are few, of accuracies cut at 0 and 1; A - B: paired, over the n seeds that both have"
    )
    return grid(fitting(ways, room), caption=caption)


def to_plain(values: dict[str, tuple[Any, Any]], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the same for a program to read."""

    def numbers(found: Interval) -> dict[str, float | int | None]:
        bounds = {"mean": found.mean, "low": found.low, "high": found.high}
        return {**{name: None if math.isnan(x) else x for name, x in bounds.items()}, "n": found.n}

    def side(rows: list[Row]) -> dict[str, Any]:
        first = rows[0]
        sizes = {"level": first.level, "density": first.density, "kept": first.kept, "total": first.total}
        return {**sizes, "test_accuracy": numbers(of_scores([row.test_accuracy for row in rows]))}

    levels = [{"a": side(p.a), "b": side(p.b), "difference": numbers(p.difference)} for p in pairs]
    return {"config": {key: list(both) for key, both in values.items()}, "levels": levels}
