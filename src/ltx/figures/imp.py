"""Accuracy and early stopping against density: ticket, reinitialised ticket, random mask, one-shot pruning."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from ltx.figures.arms import Store
from ltx.figures.claims import Claim, decide, decide_consecutive, levels_within, mean_over, nearest_level, stated
from ltx.figures.drawing import curve, hollow, reference
from ltx.report.layout import label_ends
from ltx.report.style import density_axis, page, within

HEIGHT = 1.9  # inches of each panel


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm, seed and level; a censored early stop counts as the last step and says so."""
    table = store.table()
    table["censored"] = table["early_stop_step"].isna()
    table["stop"] = table["early_stop_step"].fillna(table["step"].astype("Float64")).astype(float)
    return table


def draw(table: pd.DataFrame) -> Figure:
    """Draw test accuracy above, early-stop step below, hollow where a seed is censored."""
    figure, ((top,), (bottom,)) = page(2, HEIGHT, sharex=True)
    arms = list(table.groupby("arm", sort=False))
    dense = table[(table["level"] == 0) & (table["arm"] == arms[0][0])]
    lines = [
        curve(top, group, "density", "test_accuracy", str(arm), index, len(arms), 100)
        for index, (arm, group) in enumerate(arms)
    ]
    within(top, 0, 1)
    label_ends(top, lines, 0.75 * HEIGHT)
    reference(top, dense["test_accuracy"], "dense")
    for index, (arm, group) in enumerate(arms):
        line = curve(bottom, group, "density", "stop", str(arm), index, len(arms), 100, most=table["step"].max())
        line.set_label("_as above")
        hollow(bottom, line, group.groupby("density")["censored"].any().tolist()[::-1])
    top.set_ylabel("test accuracy")
    bottom.set_ylabel("early stop (step)")
    bottom.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    bottom.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    density_axis(bottom, 100 * table["density"])
    return figure


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide the paper's claims."""
    said = stated(fixed)
    ticket = table[table["arm"] == "ticket"]
    accuracy = ticket.pivot(index="seed", columns="level", values="test_accuracy")
    stops = ticket.pivot(index="seed", columns="level", values="stop")
    inside = nearest_level(ticket, fixed["earliest"])
    ends = (0, stops.columns[-1])
    earlier = [decide(said["early stop"], (stops[end] - stops[inside]).tolist()) for end in ends]
    sparse = levels_within(table, 0, 0.2)
    sparsest_quarter = sparse[-max(1, len(sparse) // 4) :]
    dense, level = accuracy[0], nearest_level(ticket, fixed["matching"])
    gap = accuracy[level] - dense if level in sparse else dense.iloc[:0]
    return {
        "random mask": decide_consecutive(said["random mask"], table, ("ticket", "random mask"), (0, 0.2)),
        "reinit": decide_consecutive(said["reinit"], table, ("ticket", "reinit"), (0, 0.2)),
        "matching": decide(said["matching"], gap.tolist(), -float(dense.std())),
        # The claim is of both ends, so the end that speaks more against it decides.
        "early stop": min(earlier, key=lambda claim: (claim.verdict != "failed", claim.interval[0])),
        "one-shot": decide(said["one-shot"], mean_over(table, "ticket", "one-shot", sparsest_quarter)),
    }
