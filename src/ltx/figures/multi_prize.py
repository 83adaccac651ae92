"""Binary weights (MPT-1/32) and binary weights and activations (MPT-1/1) over density and width, beside edge-popup."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ltx.figures import Claim, Store, curve, decide, stated


def arms(fixed: dict[str, Any]) -> dict[str, list[str]]:
    """Return the overrides of every arm: `NET LINE at WIDTH DENSITY`."""
    lines = {
        "lenet edge-popup": ["method=edge_popup"],
        "lenet MPT-1/32": ["method=biprop"],
        "convnet edge-popup": ["method=edge_popup", "model=convnet"],
        "convnet MPT-1/1": fixed["binary"],
    }
    dense = {"lenet dense": ["method=dense"], "convnet dense": ["method=dense", "model=convnet"]}
    found = {}
    for line, words in lines.items():
        places = [(fixed["width"], d) for d in fixed["densities"]] + [(w, 0.5) for w in fixed["widths"]]
        for width, density in dict.fromkeys(places):
            found[f"{line} at {width} {density}"] = [*words, f"width={width}", f"method.density={density}"]
    for width in fixed["widths"]:
        for line, words in dense.items():
            found[f"{line} at {width} 1"] = [*words, f"width={width}"]
        bridge = [
            "method=control",
            "method.kind=untrained",
            "method.binarise=true",
            "method.trunk_level=1",
            fixed["bridge"],
        ]
        found[f"lenet wound back, binarised at {width} 0.5"] = [*bridge, f"width={width}"]
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm and seed: net, line, width, nominal and exact density, accuracy, loss."""
    found = []
    for arm in store.arms:
        name, _, place = arm.rpartition(" at ")
        net, _, line = name.partition(" ")
        width, nominal = map(float, place.split())
        for row in store.rows[arm]:
            values = {key: row[key] for key in ("seed", "density", "test_accuracy", "test_loss")}
            found.append({"net": net, "line": line, "width": width, "nominal": nominal, **values})
    return pd.DataFrame(found)


def draw(table: pd.DataFrame) -> Any:
    """Draw accuracy over density at the narrow width, and over width at one half, a row per network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5))
    axes = figure.subplots(2, 2)
    lines = list(dict.fromkeys(table["line"]))
    for i, (net, group) in enumerate(table.groupby("net", sort=False)):
        narrow = group.groupby("width")["nominal"].nunique().idxmax()
        for line, part in group.groupby("line", sort=False):
            at = part[part["width"] == narrow]
            if at["nominal"].nunique() > 1:
                curve(axes[i][0], at, "nominal", "test_accuracy", str(line), lines.index(line), 100)
            curve(
                axes[i][1], part[part["nominal"].isin([0.5, 1])], "width", "test_accuracy", str(line), lines.index(line)
            )
        dense = group[(group["line"] == "dense") & (group["width"] == narrow)]["test_accuracy"].mean()
        axes[i][0].axhline(dense, color="#555555", ls="--", lw=0.8, label="dense")
        axes[i][0].set(xlabel=f"density at width {narrow:g}: weights kept, %", ylabel=f"{net}: test accuracy")
        axes[i][1].set(xscale="log", xlabel="width, density 50 %")
        ticks = sorted(group["width"].unique())
        axes[i][1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes[i][1].minorticks_off()
    for ax in axes.ravel():
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    return figure


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide the paper's claims, and the founding discussion's: is biprop's ticket the trained one wound back?"""
    said, result = stated(fixed), {}
    half = table[table["nominal"].isin([0.5, 1])]
    accuracy = half.pivot(index="seed", columns=["net", "line", "width"], values="test_accuracy")
    narrow, wide = min(fixed["widths"]), max(fixed["widths"])
    for net, line in (("lenet", "MPT-1/32"), ("convnet", "MPT-1/1")):
        close = accuracy[net, line, fixed["width"]] - accuracy[net, "edge-popup", fixed["width"]]
        result[f"{line} close"] = decide(said[f"{line} close"], close.tolist())
        gap = {width: accuracy[net, "dense", width] - accuracy[net, line, width] for width in (narrow, wide)}
        result[f"{line} gap"] = decide(said[f"{line} gap"], (gap[narrow] - gap[wide]).tolist())
    wound = accuracy["lenet", "MPT-1/32", wide] - accuracy["lenet", "wound back, binarised", wide]
    return {**result, "wound back": decide(said["wound back"], wound.tolist())}
