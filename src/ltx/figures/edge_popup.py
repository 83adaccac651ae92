"""Edge-popup over density and width, signed constants against normal weights, and a fixed kept count."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ltx.figures import Claim, Store, curve, decide, stated

CHANCE = 0.1


def arms(fixed: dict[str, Any]) -> dict[str, list[str]]:
    """Return the overrides of every arm; its first word says the panel."""
    search, found = "method=edge_popup", {}
    for density in fixed["densities"]:
        words = [search, f"width={fixed['width']}", f"method.density={density}"]
        found[f"density signed constant {density}"] = words
        found[f"density normal {density}"] = [*words, "model.init=kaiming_normal"]
    for width in fixed["widths"]:
        found[f"width edge-popup {width}"] = [search, f"width={width}"]
        found[f"width dense {width}"] = ["method=dense", f"width={width}"]
    for width in fixed["kept_widths"]:
        a, b = max(1, round(300 * width)), max(1, round(100 * width))
        words = [search, f"width={width}", f"method.density={fixed['kept'] / (64 * a + a * b + 10 * b):.6f}"]
        found[f"kept plain {width}"] = words
        found[f"kept annealed {width}"] = [*words, "method.anneal=true"]
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm and seed: panel, line of the panel, width, density, kept, accuracy and loss."""
    found = []
    for arm, spec in store.arms.items():
        panel, _, rest = arm.partition(" ")
        for row in store.rows[arm]:
            values = {name: row[name] for name in ("seed", "density", "kept", "test_accuracy", "test_loss")}
            found.append({"panel": panel, "line": rest.rpartition(" ")[0], "width": spec.config["width"], **values})
    return pd.DataFrame(found)


def draw(table: pd.DataFrame) -> Any:
    """Draw accuracy over density, accuracy over width, and accuracy and loss over width at a fixed kept count."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5))
    axes = figure.subplots(2, 2).ravel()
    width = table.loc[table["panel"] == "density", "width"].iloc[0]
    dense = table[(table["line"] == "dense") & (table["width"] == width)]["test_accuracy"].mean()
    for index, (line, group) in enumerate(table[table["panel"] == "density"].groupby("line", sort=False)):
        group = group.assign(density=group["density"].round(2))
        curve(axes[0], group, "density", "test_accuracy", str(line), index, 100)
    axes[0].axhline(dense, color="#555555", ls="--", lw=0.8, label="dense")
    axes[0].axhline(CHANCE, color="#555555", ls=":", lw=0.8, label="chance")
    axes[0].set(xlabel=f"density at width {width:g}: weights kept, %", ylabel="test accuracy")
    panels = (("width", "test_accuracy", axes[1]), ("kept", "test_accuracy", axes[2]), ("kept", "test_loss", axes[3]))
    for panel, column, ax in panels:
        for index, (line, group) in enumerate(table[table["panel"] == panel].groupby("line", sort=False)):
            curve(ax, group, "width", column, str(line), index)
        kept = table.loc[table["panel"] == "kept", "kept"].median()
        where = "density 50 %" if panel == "width" else f"{kept:.0f} weights kept at every width"
        ax.set(xscale="log", xlabel=f"width, {where}", ylabel=column.replace("_", " "))
        ticks = sorted(table.loc[table["panel"] == panel, "width"].unique())
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    return figure


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide the paper's claims; what happens at a fixed kept count is drawn, and claimed only at the paper's scale."""
    said = stated(fixed)
    by = table[table["panel"] == "density"].assign(density=lambda t: t["density"].round(2))
    accuracy = by.pivot(index="seed", columns=["line", "density"], values="test_accuracy")
    constant, normal = accuracy["signed constant"], accuracy["normal"]
    ends = constant[[constant.columns.min(), constant.columns.max()]].max(axis=1)
    middle = [d for d in constant.columns if 0.2 <= d <= 0.9]
    width = table[table["panel"] == "width"].pivot(index="seed", columns=["line", "width"], values="test_accuracy")
    gap = width["dense"] - width["edge-popup"]
    return {
        "interior": decide(said["interior"], (constant[fixed["interior"]] - ends).tolist()),
        "ends": decide(said["ends"], (fixed["near_chance"] - ends).tolist()),
        "constant": decide(said["constant"], (constant[middle] - normal[middle]).mean(axis=1).tolist()),
        "gap": decide(said["gap"], (gap[min(gap.columns)] - gap[max(gap.columns)]).tolist()),
    }
