"""What the pictures of figures share: curves of a table's means with intervals, and the claims below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ltx.analysis.intervals import interval
from ltx.figures.claims import Claim
from ltx.report import style
from ltx.report.layout import Paragraph, complete

CHANCE = 0.1  # accuracy of a guess: every figure is on ten digits, and the table that is drawn holds no classes
MEANS = "Mean over $n with its 95 % Student-t interval, within what is possible."


def curve(
    axes: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    label: str,
    index: int,
    of: int,
    scale: float = 1.0,
    most: float = 1.0,
    at: int | None = None,
) -> Line2D:
    """Draw the mean of y over seeds with its 95 % interval against scale * x, in the look of an index, beside others.

    y lies between 0 and `most`; it stands at place `at` of as many as `of`, by default at its index.
    """
    groups = [(key, group[y].dropna().tolist()) for key, group in table.groupby(x) if group[y].notna().any()]
    if x == "density":
        groups.reverse()  # a line ends with the sparse, as it is drawn
    xs = [scale * float(key) for key, _ in groups]
    means = [interval(values, 0, most) for _, values in groups]
    shift = style.beside(index if at is None else at, of, len(xs), style.columns_of(axes))
    return style.curve(axes, xs, means, label, index, shift)


def hollow(axes: Axes, line: Line2D, which: Sequence[bool]) -> None:
    """Make some of a line's markers hollow."""
    xs, ys = (np.asarray(values)[list(which)] for values in line.get_data())
    look: dict[str, Any] = {
        "marker": line.get_marker(),
        "ms": line.get_markersize(),
        "mec": line.get_color(),
    }
    axes.plot(xs, ys, ls="none", mfc="white", mew=0.6, transform=line.get_transform(), **look)


def reference(axes: Axes, values: pd.Series, label: str) -> Line2D:
    """Draw the mean accuracy that curves are to be held against, with its interval as a band."""
    return style.reference(axes, interval(values.tolist(), 0, 1), label)


def line_at(axes: Axes, y: float, label: str) -> Line2D:
    """Draw a known height, such as that of a guess, as a dotted line."""
    return axes.axhline(y, label=label, **style.dashed(":"))


def with_claims(
    figure: Figure, title: str, source: str, words: str, claims: Sequence[Claim], effect: str = "the mean over seeds"
) -> Figure:
    """Put the title above a figure, below it the caption and then every claim with whether it holds.

    effect: what the numbers behind the claims are.
    """
    heading = Paragraph(
        f"Claims of {source.replace('; ', ' and ')}. Yes: the 95 % interval of {effect} is above 0, or "
        "above what is asked; NO: it is below; undecided: neither."
    )
    said = [Paragraph(claim.words(), claim.verdict == "failed", hanging=True) for claim in claims]
    return complete(figure, title, words, [heading, *said])


def seeds_of(counts: dict[str, int], shown: str = MEANS) -> str:
    """Say over how many seeds a figure is, in place of $n in `shown`; arms that differ are named where they are few."""
    numbers = sorted(set(counts.values()))
    if len(numbers) == 1:
        return shown.replace("$n", f"{numbers[0]} seed{'s' if numbers[0] > 1 else ''}")
    most = max(numbers, key=lambda n: sum(count == n for count in counts.values()))
    others = [f"{name} {n}" for name, n in counts.items() if n != most]
    n = f"{most} seeds ({', '.join(others)})" if len(others) <= 3 else f"{numbers[0]} to {numbers[-1]} seeds"
    return shown.replace("$n", n)
