"""Accuracy against density of tickets whose signs, magnitudes or masks are replaced, and of untrained tickets."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ltx.figures import Claim, Store, against_density, curve, decide, decide_consecutive

SOURCE = "Zhou et al. 2019"
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


def claims(table: pd.DataFrame) -> list[Claim]:
    """Decide the paper's claims."""
    untrained = table[(table["arm"] == "untrained") & (table["level"] > 0)]
    best = untrained.groupby("level")["test_accuracy"].mean().idxmax()
    values = untrained.loc[untrained["level"] == best, "test_accuracy"].tolist()
    density = 100 * untrained.loc[untrained["level"] == best, "density"].iloc[0]
    sparse = (0.0, 0.06)
    return [
        decide_consecutive(
            "sign-kept reinit - free reinit > 0 at 3 consecutive densities <= 6 %",
            *(SOURCE, table, ("sign-kept reinit", "free reinit"), sparse),
        ),
        decide_consecutive(
            "signed constant - free reinit > 0 at 3 consecutive densities <= 6 %",
            *(SOURCE, table, ("signed constant", "free reinit"), sparse),
        ),
        decide_consecutive(
            "ticket - shuffled mask > 0 at 3 consecutive densities <= 20 %",
            *(SOURCE, table, ("ticket", "shuffled mask"), (0.0, 0.2)),
        ),
        decide(
            f"untrained ticket (large final) is far above chance: 3 times, at {density:.0f} %",
            SOURCE,
            values,
            3 * CHANCE,
        ),
    ]
