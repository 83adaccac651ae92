"""Accuracy and early stopping against density: ticket, reinitialised ticket, random mask, one-shot pruning."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ltx.figures import Claim, Store, against_density, curve, decide, decide_consecutive, levels_within, mean_over

SOURCE = "Frankle & Carbin 2019"
EARLIEST = 0.21  # the density at which the paper's LeNet stops earliest; chosen before looking, unlike our own minimum


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm, seed and level; a censored early stop counts as the last step and says so."""
    table = store.table()
    table["censored"] = table["early_stop_step"].isna()
    table["stop"] = table["early_stop_step"].fillna(table["step"].astype("Float64")).astype(float)
    return table


def draw(table: pd.DataFrame) -> Any:
    """Draw test accuracy above, early-stop step below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6.5))
    top, bottom = figure.subplots(2, 1, sharex=True)
    for index, (arm, group) in enumerate(table.groupby("arm", sort=False)):
        curve(top, group, "density", "test_accuracy", str(arm), index, 100)
        curve(bottom, group, "density", "stop", str(arm), index, 100)
        some = group.groupby("density")[["censored", "stop"]].agg({"censored": "any", "stop": "mean"})
        marked = some[some["censored"]]
        bottom.plot(100 * marked.index, marked["stop"], "^", mfc="none", color="#555555", ms=9)
    bottom.plot([], [], "^", mfc="none", color="#555555", ms=9, label="a seed censored: lower bound")
    top.axhline(table.loc[table["level"] == 0, "test_accuracy"].mean(), color="#555555", ls="--", lw=0.8, label="dense")
    top.set_ylabel("test accuracy, last step")
    against_density(bottom, "early-stop step")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure


def claims(table: pd.DataFrame) -> list[Claim]:
    """Decide the paper's claims."""
    sparse = levels_within(table, 0, 0.2)
    ticket = table[table["arm"] == "ticket"]
    dense = ticket.loc[ticket["level"] == 0].set_index("seed")["test_accuracy"]
    gaps = {level: ticket[ticket["level"] == level].set_index("seed")["test_accuracy"] - dense for level in sparse}
    best = max(gaps.values(), key=lambda gap: gap.mean(), default=dense.iloc[:0])
    density = ticket.groupby("level")["density"].first()
    inside = int((density - EARLIEST).abs().idxmin())
    stops = ticket.pivot(index="seed", columns="level", values="stop")
    text = f"the early stop at {100 * density[inside]:.0f} % kept is before those of dense and of the sparsest, steps"
    earlier = [decide(text, SOURCE, (stops[end] - stops[inside]).tolist()) for end in (0, stops.columns[-1])]
    quarter = sparse[-max(1, len(sparse) // 4) :]
    gain = mean_over(table, "ticket", "one-shot", quarter)
    return [
        decide_consecutive(
            "ticket - layer-matched random mask > 0 at 3 consecutive densities <= 20 %",
            *(SOURCE, table, ("ticket", "random mask"), (0, 0.2)),
        ),
        decide_consecutive(
            "ticket - reinitialised ticket > 0 at 3 consecutive densities <= 20 %",
            *(SOURCE, table, ("ticket", "reinit"), (0, 0.2)),
        ),
        decide("ticket - (dense - 1 sd) > 0 at some density <= 20 %", SOURCE, best.tolist(), -float(dense.std())),
        min(earlier, key=lambda claim: (claim.verdict != "failed", claim.interval[0])),  # it must hold of both
        decide("iterative - one-shot >= 0 at the sparsest quarter of the densities below 20 %", SOURCE, gain),
    ]
