"""Accuracy against density of tickets whose signs, magnitudes or masks are replaced, and of untrained tickets."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ltx.figures.arms import Store
from ltx.figures.claims import Claim, decide, decide_consecutive, nearest_level, stated
from ltx.figures.drawing import CHANCE, against_density, curve, grid_and_legend, reference


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm, seed and level."""
    return store.table()


def draw(table: pd.DataFrame) -> Figure:
    """Draw trained arms above, the untrained ticket below."""
    figure = Figure(figsize=(7.5, 6))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for index, (arm, group) in enumerate(table.groupby("arm", sort=False)):
        curve(bottom if arm == "untrained" else top, group, "density", "test_accuracy", str(arm), index, 100)
    reference(bottom, CHANCE, "chance")
    top.set_ylabel("test accuracy, trained")
    against_density(bottom, "test accuracy, untrained")
    grid_and_legend((top, bottom))
    return figure


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide the paper's claims."""
    said, sparse = stated(fixed), (0.0, 0.06)
    untrained = table[table["arm"] == "untrained"]
    at = untrained["level"] == nearest_level(untrained, fixed["untrained_at"])
    return {
        "signs": decide_consecutive(said["signs"], table, ("sign-kept reinit", "free reinit"), sparse),
        "constant": decide_consecutive(said["constant"], table, ("signed constant", "free reinit"), sparse),
        "shuffle": decide_consecutive(said["shuffle"], table, ("ticket", "shuffled mask"), (0.0, 0.2)),
        "untrained": decide(said["untrained"], untrained.loc[at, "test_accuracy"].tolist()),
    }
