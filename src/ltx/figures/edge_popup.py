"""Edge-popup over density and width, signed constants against normal weights, and a fixed kept count."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.drawing import CHANCE, against_width, curve, grid_and_legend, reference
from ltx.tensors import matrices


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return the arms of the three panels: over density, over width, and over width at a fixed kept count."""
    search, found = "method=edge_popup", []

    def add(panel: str, line: str, at: float, words: list[str]) -> None:
        found.append(Arm(f"{panel} {line} {at}", words, {"panel": panel, "line": line}))

    for density in fixed["densities"]:
        words = [search, f"width={fixed['width']}", f"method.density={density}"]
        add("density", "signed constant", density, words)
        add("density", "normal", density, [*words, "model.init=kaiming_normal"])
    for width in fixed["widths"]:
        add("width", "edge-popup", width, [search, f"width={width}"])
        add("width", "dense", width, ["method=dense", f"width={width}"])
    for width in fixed["kept_widths"]:
        network = [search, f"width={width}"]
        words = [*network, f"method.density={fixed['kept'] / prunable(network):.6f}"]
        add("kept", "plain", width, words)
        add("kept", "annealed", width, [*words, "method.anneal=true"])
    return found


def prunable(words: list[str]) -> int:
    """Return how many weights a run with these overrides chooses from; the network is built without its values."""
    spec = Spec.of(compose(words, []))
    network = spec.network(device="meta")
    return sum(network.get_parameter(name).numel() for name in spec.method.prunable(matrices(network)))


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm and seed: panel, line of the panel, width, density, kept, accuracy and loss."""
    found = []
    for done in store.arms:
        for row in done.rows:
            values = {name: getattr(row, name) for name in ("seed", "density", "kept", "test_accuracy", "test_loss")}
            found.append({**done.arm.facts, "width": done.spec.config["width"], **values})
    return pd.DataFrame(found)


def over_density(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first panel, their exact densities rounded to those that were asked for."""
    return table[table["panel"] == "density"].assign(density=lambda found: found["density"].round(2))


def draw(table: pd.DataFrame) -> Figure:
    """Draw accuracy over density, accuracy over width, and accuracy and loss over width at a fixed kept count."""
    figure = Figure(figsize=(9, 6.5))
    axes = figure.subplots(2, 2).ravel()
    first = over_density(table)
    width = first["width"].iloc[0]
    dense = table[(table["line"] == "dense") & (table["width"] == width)]["test_accuracy"].mean()
    for index, (line, group) in enumerate(first.groupby("line", sort=False)):
        curve(axes[0], group, "density", "test_accuracy", str(line), index, 100)
    reference(axes[0], dense, "dense")
    reference(axes[0], CHANCE, "chance", ":")
    axes[0].set(xlabel=f"density at width {width:g}: weights kept, %", ylabel="test accuracy")
    kept = table.loc[table["panel"] == "kept", "kept"].median()
    same_count = f"{kept:.0f} weights kept at every width"
    for ax, panel, column, where in (
        (axes[1], "width", "test_accuracy", "density 50 %"),
        (axes[2], "kept", "test_accuracy", same_count),
        (axes[3], "kept", "test_loss", same_count),
    ):
        shown = table[table["panel"] == panel]
        for index, (line, group) in enumerate(shown.groupby("line", sort=False)):
            curve(ax, group, "width", column, str(line), index)
        against_width(ax, shown["width"], f"width, {where}", column.replace("_", " "))
    grid_and_legend(axes)
    return figure


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide the paper's claims; what happens at a fixed kept count is drawn, and claimed only at the paper's scale."""
    said = stated(fixed)
    accuracy = over_density(table).pivot(index="seed", columns=["line", "density"], values="test_accuracy")
    constant, normal = accuracy["signed constant"], accuracy["normal"]
    ends = constant[[constant.columns.min(), constant.columns.max()]].max(axis=1)
    middle = [density for density in constant.columns if 0.2 <= density <= 0.9]
    width = table[table["panel"] == "width"].pivot(index="seed", columns=["line", "width"], values="test_accuracy")
    gap = width["dense"] - width["edge-popup"]
    return {
        "interior": decide(said["interior"], (constant[fixed["interior"]] - ends).tolist()),
        "ends": decide(said["ends"], (fixed["near_chance"] - ends).tolist()),
        "constant": decide(said["constant"], (constant[middle] - normal[middle]).mean(axis=1).tolist()),
        "gap": decide(said["gap"], (gap[min(gap.columns)] - gap[max(gap.columns)]).tolist()),
    }
