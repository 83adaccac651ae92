"""The one look of all pictures: a column of 9 cm, letters of 6 points or more, marks that differ without colour too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform

from ltx.analysis.intervals import Interval
from ltx.report.letters import SMALL, TEXT, measured

WIDTH = 9 / 2.54  # inches, the column of a journal
EDGE = 0.04  # inches left free at the border of a picture
# Okabe & Ito, distinct for colour-blind readers, ordered so that neighbours differ in lightness as well.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#CC79A7", "#009E73", "#56B4E9", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (7, 1.5)))
GREY, BAND = "#555555", "#E2E2E2"


def page(rows: int, height: float, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure one column wide and its panels, `height` inches each, as an array of rows and columns."""
    figure = Figure(figsize=(WIDTH, rows * height), dpi=300)  # text is as wide as in the file
    panels = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in panels.flat:
        axes.tick_params(labelsize=SMALL, width=0.5, length=2.5, pad=2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_linewidth(0.5)
        axes.set_axisbelow(True)
        axes.grid(color="#E8E8E8", lw=0.4)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set_size(TEXT)
            axis.labelpad = 3
        axes.yaxis.set_major_locator(round_ticks())
        axes.ticklabel_format(useOffset=False)
    return figure, panels


def look(index: int) -> dict[str, Any]:
    """Return colour, marker and line of the line with this index: 35 of them differ."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "ls": LINES[index % len(LINES)],
        "lw": 0.9,
        "ms": 3,
        "mew": 0.6,
    }


def dodged(axes: Axes, points: float, vertical: bool = False) -> Transform:
    """Return the data's transform moved by some points, so that intervals at one place stand beside one another."""
    figure = axes.figure
    x, y = (0, points / 72) if vertical else (points / 72, 0)
    return axes.transData + ScaledTranslation(x, y, figure.dpi_scale_trans)


def spread(index: int, n: int, room: float) -> float:
    """Return by how many points to move mark `index` of n, so that all of them take `room` points."""
    return 0 if n < 2 else room * (index / (n - 1) - 0.5)


def beside(index: int, n: int, places: int, columns: int = 1) -> float:
    """Return by how many points to move line `index` of n where a panel has so many places, and may be one of a row."""
    return spread(index, n, min(1.8 * n, 7, 0.45 * 160 / columns / max(places, 1)))


def curve(axes: Axes, xs: Sequence[float], ys: Sequence[Interval], label: str, index: int, shift: float = 0) -> Line2D:
    """Draw means as a line with markers and their intervals as thin bars, and return the line."""
    moved = dodged(axes, shift)
    (line,) = axes.plot(xs, [y.mean for y in ys], label=label, transform=moved, **look(index))
    if len(xs) > 12:
        line.set_markersize(2.2)
    bars(axes, xs, ys, line.get_color(), moved)
    seen(axes, [y.mean for y in ys])
    return line


def bars(axes: Axes, xs: Sequence[float], ys: Sequence[Interval], colour: Any, moved: Transform) -> None:
    """Draw the intervals that there are as thin vertical bars."""
    known = [(x, y) for x, y in zip(xs, ys, strict=True) if not math.isnan(y.low)]
    if known:
        lows, highs = [y.low for _, y in known], [y.high for _, y in known]
        axes.vlines([x for x, _ in known], lows, highs, color=colour, lw=0.7, transform=moved)
        seen(axes, [*lows, *highs])


def seen(axes: Axes, ys: Sequence[float]) -> None:
    """Let a vertical axis reach some values: matplotlib looks at no mark that stands beside its place."""
    axes.update_datalim([(0, y) for y in ys], updatex=False)
    axes.autoscale_view(scalex=False)


def dot(axes: Axes, xs: Sequence[Interval], ys: Sequence[float], label: str, index: int, shift: float = 0) -> Line2D:
    """Draw means as dots beside names and their intervals as thin horizontal bars, and return the dots."""
    moved = dodged(axes, shift, vertical=True)
    (found,) = axes.plot([x.mean for x in xs], ys, label=label, transform=moved, **{**look(index), "ls": "none"})
    known = [(x, y) for x, y in zip(xs, ys, strict=True) if not math.isnan(x.low)]
    lows, highs = [x.low for x, _ in known], [x.high for x, _ in known]
    axes.hlines([y for _, y in known], lows, highs, color=found.get_color(), lw=0.7, transform=moved)
    axes.update_datalim([(x, 0) for x in (*lows, *highs, *(x.mean for x in xs))], updatey=False)
    axes.autoscale_view(scaley=False)
    return found


def dot_axis(axes: Axes, names: Sequence[str], xlabel: str, least: float, most: float) -> None:
    """Write names at the rows 0, 1, ... of dots, the first above, and let the other axis end where the values can."""
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(limited(axes.get_xlim(), least, most))
    axes.xaxis.set_major_locator(round_ticks())
    axes.set_xlabel(xlabel)


def round_ticks() -> MaxNLocator:
    """Return what puts three to six ticks at round numbers."""
    return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3)


def dashed(line: Any = (0, (5, 2))) -> dict[str, Any]:
    """Return the look of what curves are held against."""
    return {"color": GREY, "ls": line, "lw": 0.8, "zorder": 1.5}


def reference(axes: Axes, at: Interval, label: str, **options: Any) -> Line2D:
    """Draw what curves are held against: a thin grey line, and its interval as a band behind everything."""
    if not math.isnan(at.low):
        axes.axhspan(at.low, at.high, color=BAND, lw=0, zorder=0.5)
    return axes.axhline(at.mean, label=label, **{**dashed(), **options})


def within(axes: Axes, least: float = -math.inf, most: float = math.inf) -> None:
    """Let a vertical axis end a little outside of what the quantity can be, so that marks at the end stay whole."""
    axes.set_ylim(limited(axes.get_ylim(), least, most))


def limited(limits: tuple[float, float], least: float, most: float) -> tuple[float, float]:
    """Return the limits of an axis, moved inwards to just outside of the least and the most."""
    low, high = limits
    pad = 0.04 * (min(high, most) - max(low, least))
    return max(low, least - pad), min(high, most + pad)


def density_axis(axes: Axes, densities: Iterable[float]) -> None:
    """Make a logarithmic axis of densities in percent, the dense at the left, with ticks also for few levels."""
    values = sorted(set(densities))
    low, high = values[0], values[-1]
    margin = (high / low) ** 0.04 if high > low else 1.5
    axes.set_xscale("log")
    axes.set_xlim(high * margin, low / margin)
    ticks = density_ticks(low, high)
    place(axes, ticks, "weights kept (% of prunable weights)")


def density_ticks(low: float, high: float) -> list[float]:
    """Return round numbers from low to high, at least three of them wherever the two differ."""
    if low == high:
        return [low]
    decades = [10.0**e for e in range(-6, 3)]
    for tens in (decades, [m * ten for ten in decades for m in (1, 2, 5)]):
        ticks = [tick for tick in tens if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if 4 <= len(ticks) <= 9 or (len(ticks) == 3 and ticks[0] <= 2 * low and 2 * ticks[-1] >= high):
            return ticks
    round_ones = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3).tick_values(low, high)
    return [float(tick) for tick in round_ones if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


def number_axis(axes: Axes, values: Iterable[float], name: str, even: bool = False) -> None:
    """Make an axis of the values that were run: logarithmic where they are positive and span a decade, unless even."""
    ticks = sorted(set(values))
    low, high = ticks[0], ticks[-1]
    if low > 0 and high >= 10 * low and not even:
        axes.set_xscale("log")
        margin = (high / low) ** 0.07
        axes.set_xlim(low / margin, high * margin)
    else:
        margin = 0.07 * (high - low) or abs(low) or 1
        axes.set_xlim(low - margin, high + margin)
    place(axes, ticks, name)


def columns_of(axes: Axes) -> int:
    """Return how many panels stand beside one another."""
    grid = axes.get_gridspec()
    return grid.ncols if grid else 1


def place(axes: Axes, ticks: Sequence[float], name: str) -> None:
    """Put ticks on a horizontal axis, and numbers at as many of them as fit beside one another."""
    left, right = axes.get_xlim()
    scale = math.log if axes.get_xscale() == "log" else float
    across = (WIDTH - 0.55) / columns_of(axes) * 72 * 0.92  # points, about
    texts = [f"{tick:.3g}" if tick < 1000 else f"{tick:.6g}" for tick in ticks]
    spots = [across * (scale(tick) - scale(left)) / (scale(right) - scale(left)) for tick in ticks]
    halves = [0.5 * measured(text, SMALL) + 1.5 for text in texts]
    shown: list[int] = []
    for i in [0, len(ticks) - 1, *range(1, len(ticks) - 1)]:
        if all(abs(spots[i] - spots[j]) >= halves[i] + halves[j] for j in shown):
            shown.append(i)
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.set_xticks(ticks, [text if i in shown else "" for i, text in enumerate(texts)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(name)
