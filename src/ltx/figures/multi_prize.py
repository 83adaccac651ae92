"""Binary weights (MPT-1/32) and binary weights and activations (MPT-1/1) over density and width, beside edge-popup."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.drawing import curve, reference
from ltx.report.letters import SMALL
from ltx.report.style import number_axis, page, within
from ltx.report.wording import MODELS


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return the arms: each search over density at one width and over width at one half; what it is held against."""
    found = []

    def add(net: str, line: str, width: float, density: float, words: list[str]) -> None:
        facts: dict[str, str | float] = {"net": net, "line": line, "width": float(width), "nominal": float(density)}
        found.append(Arm(f"{net} {line} at {width} {density}", [*words, f"width={width}"], facts))

    narrow = [(fixed["width"], density) for density in fixed["densities"]]
    half = [(width, 0.5) for width in fixed["widths"]]
    for net, line, words in (
        ("lenet", "edge-popup", ["method=edge_popup"]),
        ("lenet", "MPT-1/32", ["method=biprop"]),
        ("convnet", "edge-popup", ["method=edge_popup", "model=convnet"]),
        ("convnet", "MPT-1/1", fixed["binary"]),
    ):
        for width, density in dict.fromkeys(narrow + half):
            add(net, line, width, density, [*words, f"method.density={density}"])
    wound_back = ["method=control", "method.kind=untrained", "method.binarise=true", "method.trunk_level=1"]
    for width in fixed["widths"]:
        add("lenet", "dense", width, 1, ["method=dense"])
        add("convnet", "dense", width, 1, ["method=dense", "model=convnet"])
        add("lenet", "wound back, binarised", width, 0.5, [*wound_back, fixed["bridge"]])
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm and seed: net, line, width, nominal and exact density, accuracy, loss."""
    return store.table(["seed", "density", "test_accuracy", "test_loss"])


def at_half(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of tickets that keep one half, and of the dense networks beside them."""
    return table[table["nominal"].isin([0.5, 1])]


def draw(table: pd.DataFrame) -> Figure:
    """Draw accuracy over density at the narrow width, and over width at one half, a row per network."""
    figure, panels = page(2, 1.75, 2, sharey="row")
    lines = list(dict.fromkeys(table["line"]))
    for (left, right), (net, group) in zip(panels, table.groupby("net", sort=False), strict=True):
        narrow = group.groupby("width")["nominal"].nunique().idxmax()
        own = list(group.groupby("line", sort=False))
        for at, (line, part) in enumerate(own):
            index, over_density = lines.index(line), part[part["width"] == narrow]
            if over_density["nominal"].nunique() > 1:
                curve(left, over_density, "nominal", "test_accuracy", str(line), index, len(own), 100, at=at)
            curve(right, at_half(part), "width", "test_accuracy", str(line), index, len(own), at=at)
        dense = group[(group["line"] == "dense") & (group["width"] == narrow)]
        reference(left, dense["test_accuracy"], "dense, at that width")
        within(left, 0, 1)
        left.set_ylabel(f"{MODELS[str(net)]}: test accuracy")
        left.set_title(f"width {narrow:g}", fontsize=SMALL, pad=3)
        right.set_title("50 % kept", fontsize=SMALL, pad=3)
        number_axis(left, 100 * group.loc[group["line"] != "dense", "nominal"], "weights kept (%)", even=True)
        number_axis(right, group["width"], "width")
    return figure


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide the paper's claims, and the founding discussion's: is biprop's ticket the trained one wound back?"""
    said, result = stated(fixed), {}
    accuracy = at_half(table).pivot(index="seed", columns=["net", "line", "width"], values="test_accuracy")
    narrow, wide = min(fixed["widths"]), max(fixed["widths"])
    for net, line in (("lenet", "MPT-1/32"), ("convnet", "MPT-1/1")):
        close = accuracy[net, line, fixed["width"]] - accuracy[net, "edge-popup", fixed["width"]]
        result[f"{line} close"] = decide(said[f"{line} close"], close.tolist())
        gap = {width: accuracy[net, "dense", width] - accuracy[net, line, width] for width in (narrow, wide)}
        result[f"{line} gap"] = decide(said[f"{line} gap"], (gap[narrow] - gap[wide]).tolist())
    wound = accuracy["lenet", "MPT-1/32", wide] - accuracy["lenet", "wound back, binarised", wide]
    return {**result, "wound back": decide(said["wound back"], wound.tolist())}
