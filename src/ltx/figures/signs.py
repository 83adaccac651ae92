"""Accuracy against density of tickets whose signs, magnitudes or masks are replaced, and of untrained tickets."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ltx.figures.arms import Store
from ltx.figures.claims import Claim, decide, decide_consecutive, nearest_level, stated
from ltx.figures.drawing import CHANCE, curve, line_at, reference
from ltx.report.style import density_axis, page, within


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm, seed and level."""
    return store.table()


def draw(table: pd.DataFrame) -> Figure:
    """Draw trained arms above, the untrained ticket below."""
    figure, ((top,), (bottom,)) = page(2, 1.9, sharex=True, height_ratios=(3, 2))
    arms = list(table.groupby("arm", sort=False))
    for index, (arm, group) in enumerate(arms):
        axes, of = (bottom, 1) if arm == "untrained" else (top, len(arms) - 1)
        curve(axes, group, "density", "test_accuracy", str(arm), index, of, 100)
    reference(top, table.loc[(table["level"] == 0) & (table["arm"] == "ticket"), "test_accuracy"], "dense")
    line_at(bottom, CHANCE, "chance")
    within(top, 0, 1)
    within(bottom, 0, 1)
    top.set_ylabel("accuracy, trained")
    bottom.set_ylabel("accuracy, untrained")
    density_axis(bottom, 100 * table["density"])
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
