"""Masks moved to another initialisation, by matched units and as they are, and masks ranked free of scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ltx.analysis.intervals import Interval, interval
from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.drawing import curve
from ltx.report.letters import SMALL
from ltx.report.style import beside, dashed, page, place, within
from ltx.report.style import curve as style_curve

TICKET = "IMP ticket"  # what the others are held against


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return for every width an arm per search, and one per control and level of the trunk that it stands on."""
    found = []
    for width in fixed["widths"]:
        for line, words in fixed["searches"].items():
            facts: dict[str, str | float] = {"line": line, "width": float(width)}
            found.append(Arm(f"{line} {width}", [*words, *fixed["search"], f"width={width}"], facts))
        for line, words in fixed["controls"].items():
            for level in fixed["levels"]:
                chosen = [*fixed["control"], *words, f"width={width}", f"method.trunk_level={level}"]
                facts = {"line": line, "width": float(width), "stands_on": level}
                found.append(Arm(f"{line} {width} level {level}", chosen, facts))
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per line, width, seed and level, which of a control is the level of the trunk that it stands on."""
    table = store.table(["seed", "level", "density", "test_accuracy", "test_loss"])
    table["level"] = table.pop("stands_on").fillna(table["level"]).astype(int)
    return table


def draw(table: pd.DataFrame) -> Figure:
    """Draw the accuracy of every line against width, and below how many times the loss of IMP's ticket its loss is."""
    lines, widths = list(dict.fromkeys(table["line"])), sorted(table["width"].unique())
    levels = sorted(table.loc[table["line"] == lines[-1], "level"].unique())
    figure, panels = page(2, 1.7, len(levels), sharey="row")
    for (above, below), level in zip(panels.T, levels, strict=True):
        at = table[table["level"] == level]
        for index, line in enumerate(lines):
            curve(above, at[at["line"] == line], "width", "test_accuracy", line, index, len(lines))
            if line != TICKET:
                ratios = [times(logs) for logs in per_width(apart(at, line, TICKET))]
                style_curve(below, widths, ratios, line, index, beside(index, len(lines), len(widths), len(levels)))
        below.axhline(1, **dashed(":"))
        above.set_title(f"{100 * at['density'].mean():.3g} % kept", fontsize=SMALL, pad=3)
        for axes, name in ((above, ""), (below, "width")):
            axes.set_xscale("log")
            axes.set_xlim(widths[0] / 1.25, widths[-1] * 1.25)
            place(axes, widths, name)
    within(panels[0, 0], 0, 1)
    panels[0, 0].set_ylabel("test accuracy")
    panels[1, 0].set_ylabel("loss / IMP ticket's loss")
    return figure


def times(logs: list[float]) -> Interval:
    """Return the geometric mean of ratios with its interval from their logs."""
    found = interval(logs)
    return Interval(math.exp(found.mean), math.exp(found.low), math.exp(found.high), found.n)


def apart(at: pd.DataFrame, line: str, other: str) -> pd.DataFrame:
    """Return log(loss of a line / loss of another) at one level, a column per width and a row per seed.

    Ratios, because losses fall several-fold with the width, and differences between them likewise.
    """
    loss = np.log(at.pivot_table(index="seed", columns=["line", "width"], values="test_loss"))
    return loss[line] - loss[other]


def per_width(values: pd.DataFrame) -> list[list[float]]:
    """Return the values of the seeds that have one, width by width."""
    return [values[width].dropna().tolist() for width in values]


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide whether a line's loss is below another's: at a width, over widths, or more so at the narrowest."""
    found = {}
    for name, said in stated(fixed).items():
        of = fixed["claims"][name]["of"]
        below = apart(table[table["level"] == of["level"]], of["below"], of["line"])
        if of["at"] == "mean":
            values = below.mean(axis=1, skipna=False)
        elif of["at"] == "narrow - wide":
            values = below[below.columns.min()] - below[below.columns.max()]
        else:
            values = below[of["at"]]
        found[name] = decide(said, values.dropna().tolist())
    return found
