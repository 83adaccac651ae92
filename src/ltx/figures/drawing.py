"""What the pictures of figures share: the style of an arm, curves with intervals, axes, and the claims below."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ltx.analysis.intervals import mean_interval
from ltx.figures.claims import Claim
from ltx.report.plots import COLOURS, MARKERS

CHANCE = 0.1  # accuracy of a guess: every figure is on ten digits, and the table that is drawn holds no classes
GREY = "#555555"


def style(arm_index: int) -> dict[str, Any]:
    """Return colour, marker and line of the arm with this index: distinct in colour, to all eyes, and in grey."""
    lines = ("-", "--", "-.", ":")
    return {
        "color": COLOURS[arm_index % len(COLOURS)],
        "marker": MARKERS[arm_index % len(MARKERS)],
        "ls": lines[arm_index % len(lines)],
        "ms": 4,
        "lw": 1.2,
        "capsize": 2,
    }


def curve(axes: Axes, table: pd.DataFrame, x: str, y: str, label: str, index: int, scale: float = 1.0) -> None:
    """Draw the mean of y over seeds with its 95 % interval against scale * x, in the style of an arm's index."""
    groups = [
        (key, mean_interval(group[y].dropna().tolist())) for key, group in table.groupby(x) if group[y].notna().any()
    ]
    xs = [scale * float(key) for key, _ in groups]
    halves = [0 if math.isnan(half) else half for _, (_, half) in groups]
    axes.errorbar(xs, [mean for _, (mean, _) in groups], yerr=halves, label=label, **style(index))


def reference(axes: Axes, y: float, label: str, line: str = "--", width: float = 0.8) -> None:
    """Draw a thin grey line at a height that curves are to be held against."""
    axes.axhline(y, color=GREY, ls=line, lw=width, label=label)


def against_density(axes: Axes, ylabel: str) -> None:
    """Label an axis of densities in percent, dense at the left."""
    axes.set(xscale="log", xlabel="density: weights kept, %", ylabel=ylabel)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.invert_xaxis()


def against_width(axes: Axes, widths: Iterable[float], xlabel: str, ylabel: str = "") -> None:
    """Label an axis of widths, with a tick at each width that was run."""
    axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    ticks = sorted(set(widths))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def grid_and_legend(panels: Iterable[Axes]) -> None:
    """Give each panel a faint grid and a small legend."""
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)


def caption(figure: Figure, title: str, source: str, claims: Sequence[Claim]) -> None:
    """Print the title above a figure and every claim with its verdict below it."""
    width, height = figure.get_size_inches()
    room = int(17 * width)  # this many characters of the font below fit on a line
    lines = [line for claim in claims for line in textwrap.wrap(claim.line(), room, subsequent_indent="    ")]
    below = 0.16 * len(lines) + 0.15
    figure.set_size_inches(width, height + below)
    figure.set_layout_engine("constrained", rect=(0, below / (height + below), 1, 1 - below / (height + below)))
    figure.suptitle(f"{title}\n{source}; mean and 95 % interval over seeds", fontsize=9)
    for i, line in enumerate(reversed(lines)):
        colour = "#A00000" if line.startswith("FAILED") else "#000000"
        figure.text(0.01, (0.08 + 0.16 * i) / (height + below), line, fontsize=6.5, color=colour, family="monospace")
