"""Masks moved to another initialisation, by matched units and as they are, and masks ranked free of scale."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ltx.analysis.intervals import interval
from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.drawing import curve
from ltx.report.letters import SMALL
from ltx.report.style import beside, dashed, number_axis, page, within
from ltx.report.style import curve as style_curve

TICKET = "IMP ticket"  # what all others are held against


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
    """Draw the accuracy of every line against width, and below it by how much each is under IMP's ticket."""
    lines, widths = list(dict.fromkeys(table["line"])), sorted(table["width"].unique())
    levels = sorted(table.loc[table["line"] == lines[-1], "level"].unique())
    figure, panels = page(2, 1.7, len(levels), sharey="row")
    for (above, below), level in zip(panels.T, levels, strict=True):
        at = table[table["level"] == level]
        for index, line in enumerate(lines):
            curve(above, at[at["line"] == line], "width", "test_accuracy", line, index, len(lines))
        above.set_title(f"{100 * at['density'].mean():.3g} % kept", fontsize=SMALL, pad=3)
        lost(below, at, lines)
        number_axis(above, widths, "")
        number_axis(below, widths, "width")
        within(above, 0, 1)
    panels[0, 0].set_ylabel("test accuracy")
    panels[1, 0].set_ylabel(f"accuracy above {TICKET}'s")
    return figure


def lost(axes: Axes, at: pd.DataFrame, lines: list[str]) -> None:
    """Draw by how much the accuracy of every line is above that of IMP's ticket, paired by seed."""
    axes.axhline(0, **dashed(":"))
    for index, line in enumerate(lines):
        if line != TICKET:
            apart = difference(at, "test_accuracy", line, [TICKET])
            values = [interval(apart[width].dropna().tolist(), -1, 1) for width in apart]
            style_curve(axes, list(apart), values, line, index, beside(index, len(lines), len(values), 2))


def difference(at: pd.DataFrame, column: str, one: str, others: list[str]) -> pd.DataFrame:
    """Return by how much a line is above the mean of others at one level, a column per width and a row per seed."""
    values = at.pivot_table(index="seed", columns=["line", "width"], values=column)
    mean = sum((values[other] for other in others), start=0 * values[one]) / len(others)
    return values[one] - mean


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide whether a line is above others, as the mean over widths or by more at the narrowest than at the widest."""
    found = {}
    for name, said in stated(fixed).items():
        of = fixed["claims"][name]["of"]
        apart = difference(table[table["level"] == of["level"]], "test_accuracy", of["one"], of["others"])
        narrow, wide = apart.columns.min(), apart.columns.max()
        values = apart.mean(axis=1, skipna=False) if of["over"] == "mean" else apart[narrow] - apart[wide]
        found[name] = decide(said, values.dropna().tolist())
    return found
