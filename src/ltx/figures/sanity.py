"""What shuffling within layers, reinitialising and inverting cost each method's ticket once it is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ltx.analysis.intervals import mean_interval
from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, Stated, decide, stated
from ltx.figures.drawing import style


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
    """Draw the accuracy of every method and kind, a panel per density."""
    densities = list(dict.fromkeys(table["density"]))
    figure = Figure(figsize=(9, 3 + 1.5 * len(densities)))
    axes = figure.subplots(len(densities), 1, squeeze=False)[:, 0]
    methods, kinds = list(dict.fromkeys(table["method"])), list(dict.fromkeys(table["kind"]))
    for ax, density in zip(axes, densities, strict=True):
        for k, kind in enumerate(kinds):
            at = table[(table["density"] == density) & (table["kind"] == kind)]
            values = [mean_interval(at[at["method"] == m]["test_accuracy"].tolist()) for m in methods]
            places = [i + 0.15 * (k - (len(kinds) - 1) / 2) for i in range(len(methods))]
            options = {**style(k), "ls": "none", "label": kind}
            ax.errorbar(places, [mean for mean, _ in values], yerr=[half for _, half in values], **options)
        ax.set_xticks(range(len(methods)), methods)
        ax.set_ylabel(f"test accuracy, {100 * density:g} % kept")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7, ncols=len(kinds))
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
