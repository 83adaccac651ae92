"""The spread of test losses over seeds against width: do wide networks win by averaging more tickets?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from ltx.analysis.spread import Estimate, Statistic, exponent, scatter
from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, decide, judged, stated
from ltx.report.letters import SMALL
from ltx.report.style import dashed, look, number_axis, page, round_ticks
from ltx.streams import generator

LINES = ("dense", "IMP ticket", "edge-popup ticket")  # in the order of their styles
STATISTICS: dict[Statistic, str] = {"sd": "sd of test loss", "cv": "sd / mean", "mean": "mean test loss"}
NAMES = {"digits": "8×8 digits", "mnist1d": "MNIST-1D"}


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return an arm per data set, search and width; level 0 of IMP is the dense network."""
    found = []
    for data, words in fixed["data"].items():
        for search in fixed["searches"]:
            for width in fixed["widths"]:
                chosen = [f"data={data}", *fixed["searches"][search], *words, f"width={width}"]
                facts = {"data": data, "search": search, "width": float(width)}
                found.append(Arm(f"{data} {search} {width}", chosen, facts))
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per data set, line, width and seed; the levels between dense networks and tickets are left out."""
    table = store.table(["seed", "level", "density", "kept", "test_loss", "test_accuracy"])
    last = table.groupby("search")["level"].transform("max")
    dense = (table["search"] == "imp") & (table["level"] == 0)
    table["line"] = np.where(dense, LINES[0], table["search"].map({"imp": LINES[1], "edge-popup": LINES[2]}))
    return table[dense | (table["level"] == last)].reset_index(drop=True)


def losses(table: pd.DataFrame, data: str, line: str) -> dict[float, list[float]]:
    """Return the test losses of the seeds by width, of one line of one data set; one seed alone has no spread."""
    chosen = table[(table["data"] == data) & (table["line"] == line)]
    groups = chosen.groupby("width")["test_loss"]
    return {float(width): values.tolist() for width, values in groups if len(values) > 1}  # type: ignore[arg-type]


def draw(table: pd.DataFrame) -> Figure:
    """Draw sd, sd / mean and mean of the test loss against width, a column per data set."""
    sets = list(dict.fromkeys(table["data"]))
    figure, panels = page(len(STATISTICS), 1.45, len(sets), sharex=True)
    for column, data in enumerate(sets):
        for axes, statistic in zip(panels[:, column], STATISTICS, strict=True):
            axes.set_yscale("log")
            ends = []
            for index, line in enumerate(LINES):
                found = losses(table, data, line)
                if not found:
                    continue
                draws = generator("figure", 0, "seed-variance", data, line, statistic)
                values = [scatter(values, statistic, draws) for values in found.values()]
                banded(axes, list(found), values, index)
                ends.append((values[-1].value, line, index))
            if statistic == "sd" and ends:
                averaging(axes, losses(table, data, LINES[0]))
            number_axis(axes, table["width"], "width" if statistic == "mean" else "")
            log_ticks(axes)
            if column == len(sets) - 1:
                name_ends(axes, max(table["width"]), ends)
            if column == 0:
                axes.set_ylabel(STATISTICS[statistic])
        panels[0, column].set_title(NAMES[data], fontsize=SMALL, pad=3)
    return figure


def banded(axes: Axes, widths: list[float], values: list[Estimate], index: int) -> None:
    """Draw estimates over widths as a line with its interval as a band."""
    (line,) = axes.plot(widths, [found.value for found in values], **look(index))
    lows, highs = [found.low for found in values], [found.high for found in values]
    axes.fill_between(widths, lows, highs, color=line.get_color(), alpha=0.14, lw=0)


def averaging(axes: Axes, dense: dict[float, list[float]]) -> None:
    """Draw how the sd of an average of independent tickets falls, as width^(-1/2), at the height of dense networks."""
    widths = np.array(list(dense))
    height = np.mean([np.log(np.std(values, ddof=1)) for values in dense.values()])
    axes.plot(widths, np.exp(height - (np.log(widths) - np.log(widths).mean()) / 2), **dashed())


def log_ticks(axes: Axes) -> None:
    """Write plain numbers at 1, 2 and 5 of every decade of a vertical logarithmic axis, or at more in a short range."""
    low, high = axes.get_ylim()
    decades = FixedLocator([m * 10.0**e for e in range(-6, 3) for m in (1, 2, 5)])
    axes.yaxis.set_major_locator(decades if high > 5 * low else round_ticks())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def name_ends(axes: Axes, x: float, ends: list[tuple[float, str, int]]) -> None:
    """Write the name of every line beside its right end, moved apart where two would touch."""
    low, high = np.log(axes.get_ylim())
    points = 72.0  # of height, about
    at = -np.inf
    for y, name, index in sorted(ends):
        place = points * (np.log(y) - low) / (high - low)
        at = max(place, at + 1.2 * SMALL)
        options: dict[str, Any] = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(name, (x, y), (7, at - place), fontsize=SMALL, color=look(index)["color"], **options)


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide whether sd and sd / mean fall, over all widths or from one on; the effect is b of width^(-b)."""
    found = {}
    for name, said in stated(fixed).items():
        of = fixed["claims"][name]["of"]
        of_line = losses(table, of["data"], of["line"])
        of_widths = {width: values for width, values in of_line.items() if width >= of["least"]}
        if len(of_widths) < 2:
            found[name] = decide(said, [])
            continue
        fitted = exponent(of_widths, of["statistic"], generator("figure", 0, "seed-variance", name))
        found[name] = judged(said, -fitted.value, (-fitted.high, -fitted.low), fitted.n)
    return found
