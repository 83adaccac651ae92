"""What shuffling within layers, reinitialising and inverting cost each method's ticket once it is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ltx.analysis.intervals import interval
from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, Stated, decide, stated
from ltx.report.letters import SMALL
from ltx.report.style import BAND, dot, dot_axis, page, spread

CHANGES = {"ticket": "ticket", "shuffle": "shuffled", "reinit": "reinitialised", "invert": "inverted"}
NAMES = {"imp": "IMP", "gem-miner": "Gem-Miner", "snip": "SNIP", "grasp": "GraSP", "synflow": "SynFlow"}


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return an arm per density, method and kind of control; tickets of all methods are trained by Adam."""
    found = []
    claimed = fixed["claimed"]
    for density, level in zip(fixed["densities"], fixed["levels"], strict=True):
        for method, trunk in fixed["trunks"].items():
            # IMP reaches the density at a level of its own; the other methods are asked for it, at their only level.
            chosen = "" if method == "imp" else f",method.density:{density}"
            for kind in fixed["kinds"]:
                words = ["method=control", "optim=adam", f"method.kind={kind}", f"trunk={{{trunk}{chosen}}}"]
                words.append(f"method.trunk_level={level if method == 'imp' else 0}")
                if method in claimed["methods"] and kind in claimed["kinds"]:
                    words.append(f"seeds={claimed['seeds']}")
                facts = {"method": method, "kind": kind, "density": float(density)}
                found.append(Arm(f"{method} {kind} {density}", words, facts))
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per method, kind, density asked for, and seed."""
    return store.table(["seed", "kept", "total", "test_accuracy", "test_loss"])


def draw(table: pd.DataFrame) -> Figure:
    """Draw the accuracy of every method and kind, a panel per density and a row per method."""
    densities = list(dict.fromkeys(table["density"]))
    methods, kinds = list(dict.fromkeys(table["method"])), list(dict.fromkeys(table["kind"]))
    figure, panels = page(1, 0.3 * len(methods) + 0.5, len(densities), sharey=True)
    for axes, density in zip(panels[0], densities, strict=True):
        for index, kind in enumerate(kinds):
            at = table[(table["density"] == density) & (table["kind"] == kind)]
            values = [interval(at[at["method"] == method]["test_accuracy"].tolist(), 0, 1) for method in methods]
            dot(
                axes,
                values,
                range(len(methods)),
                CHANGES[kind],
                index,
                -spread(index, len(kinds), 4.5 * (len(kinds) - 1)),
            )
        dot_axis(axes, [NAMES.get(method, method) for method in methods], "test accuracy", 0, 1)
        axes.grid(visible=False, axis="y")
        axes.hlines([i + 0.5 for i in range(len(methods) - 1)], 0, 1, color=BAND, lw=0.6, zorder=0.5)
        axes.set_title(f"{100 * density:g} % kept", fontsize=SMALL, pad=3)
    return figure


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide whether shuffling hurts trained tickets more than those chosen at initialisation, at each density."""
    said, result = stated(fixed), {}
    accuracy = table.pivot(index="seed", columns=["method", "kind", "density"], values="test_accuracy")
    for density in fixed["densities"]:
        loss = {
            m: (accuracy[m, "ticket", density] - accuracy[m, "shuffle", density]).dropna()
            for m in fixed["claimed"]["methods"]
        }
        for initial in ("snip", "synflow"):
            for trained in ("imp", "edge-popup"):
                name = f"{trained} {initial} {density}"
                result[name] = decide(said[name], (loss[trained] - loss[initial]).tolist())
            name = f"{initial} {density}"
            result[name] = decide_harmless(said[name], loss[initial].tolist())
    return result


def decide_harmless(stated: Stated, losses: list[float]) -> Claim:
    """Decide whether a loss of accuracy is none: passed where it is small enough, failed where it is shown above 0."""
    claim = decide(stated, [-loss for loss in losses])
    shown = claim.verdict != "passed" and claim.interval[1] < 0
    return replace(claim, verdict="failed") if shown else claim
