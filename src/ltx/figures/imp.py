"""Accuracy and early stopping against density: ticket, reinitialised ticket, random mask, one-shot pruning."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ltx.figures.arms import Store
from ltx.figures.claims import Claim, decide, decide_consecutive, levels_within, mean_over, nearest_level, stated
from ltx.figures.drawing import GREY, against_density, curve, grid_and_legend, reference


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm, seed and level; a censored early stop counts as the last step and says so."""
    table = store.table()
    table["censored"] = table["early_stop_step"].isna()
    table["stop"] = table["early_stop_step"].fillna(table["step"].astype("Float64")).astype(float)
    return table


def draw(table: pd.DataFrame) -> Figure:
    """Draw test accuracy above, early-stop step below."""
    figure = Figure(figsize=(7.5, 6.5))
    top, bottom = figure.subplots(2, 1, sharex=True)
    for index, (arm, group) in enumerate(table.groupby("arm", sort=False)):
        curve(top, group, "density", "test_accuracy", str(arm), index, 100)
        curve(bottom, group, "density", "stop", str(arm), index, 100)
        some = group.groupby("density")[["censored", "stop"]].agg({"censored": "any", "stop": "mean"})
        marked = some[some["censored"]]
        bottom.plot(100 * marked.index, marked["stop"], "^", mfc="none", color=GREY, ms=9)
    bottom.plot([], [], "^", mfc="none", color=GREY, ms=9, label="a seed censored: lower bound")
    reference(top, table.loc[table["level"] == 0, "test_accuracy"].mean(), "dense")
    top.set_ylabel("test accuracy, last step")
    against_density(bottom, "early-stop step")
    grid_and_legend((top, bottom))
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
