"""Accuracy against density of tickets whose signs, magnitudes or masks are replaced, and of untrained tickets."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ltx.figures import Claim, Store, against_density, curve, decide, decide_consecutive, stated

CHANCE = 0.1


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm, seed and level."""
    return store.table()


def draw(table: pd.DataFrame) -> Any:
    """Draw trained arms above, the untrained ticket below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for index, (arm, group) in enumerate(table.groupby("arm", sort=False)):
        curve(bottom if arm == "untrained" else top, group, "density", "test_accuracy", str(arm), index, 100)
    bottom.axhline(CHANCE, color="#555555", ls="--", lw=0.8, label="chance")
    top.set_ylabel("test accuracy, trained")
    against_density(bottom, "test accuracy, untrained")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide the paper's claims."""
    said, sparse = stated(fixed), (0.0, 0.06)
    untrained = table[table["arm"] == "untrained"]
    at = int((untrained.groupby("level")["density"].first() - fixed["untrained_at"]).abs().idxmin())
    return {
        "signs": decide_consecutive(said["signs"], table, ("sign-kept reinit", "free reinit"), sparse),
        "constant": decide_consecutive(said["constant"], table, ("signed constant", "free reinit"), sparse),
        "shuffle": decide_consecutive(said["shuffle"], table, ("ticket", "shuffled mask"), (0.0, 0.2)),
        "untrained": decide(said["untrained"], untrained.loc[untrained["level"] == at, "test_accuracy"].tolist()),
    }
