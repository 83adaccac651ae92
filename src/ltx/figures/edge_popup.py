"""Edge-popup over density and width, signed constants against normal weights, and a fixed kept count."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.drawing import CHANCE, curve, line_at, reference
from ltx.report.letters import SMALL
from ltx.report.style import number_axis, page, within
from ltx.tensors import matrices

# The style and the name of each line of the table: the first three are the same search in three panels.
LINES = {
    "signed constant": (0, "edge-popup"),
    "edge-popup": (0, "edge-popup"),
    "plain": (0, "edge-popup"),
    "normal": (1, "edge-popup, normal weights"),
    "dense": (2, "dense"),
    "annealed": (3, "edge-popup, annealed"),
}


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
    figure, panels = page(2, 1.75, 2)
    first = over_density(table)
    width = first["width"].iloc[0]
    kept = table.loc[table["panel"] == "kept", "kept"].median()
    same_count = f"{kept:,.0f} weights kept"
    for axes, shown, x, column, heading in (
        (panels[0, 0], first, "density", "test_accuracy", f"width {width:g}"),
        (panels[0, 1], table[table["panel"] == "width"], "width", "test_accuracy", "50 % kept"),
        (panels[1, 0], table[table["panel"] == "kept"], "width", "test_accuracy", same_count),
        (panels[1, 1], table[table["panel"] == "kept"], "width", "test_loss", same_count),
    ):
        groups, scale = list(shown.groupby("line", sort=False)), 100.0 if x == "density" else 1.0
        most = 1 if column == "test_accuracy" else math.inf
        for at, (name, group) in enumerate(groups):
            line, label = LINES[str(name)]
            curve(axes, group, x, column, label, line, len(groups), scale, most, at)
        if x == "density":
            dense = table[(table["line"] == "dense") & (table["width"] == width)]
            reference(axes, dense["test_accuracy"], "dense, at that width")
            line_at(axes, CHANCE, "chance")
        within(axes, 0, most)
        number_axis(axes, scale * shown[x], "weights kept (%)" if x == "density" else "width", x == "density")
        axes.set_ylabel(column.replace("_", " "))
        axes.set_title(heading, fontsize=SMALL, pad=3)
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
