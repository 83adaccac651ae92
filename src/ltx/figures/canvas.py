"""What the digits cannot decide: tickets, a fixed kept count, and MPT-1/1, on the harder canvas."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, decide, nearest_level, stated
from ltx.figures.drawing import curve, reference
from ltx.report.letters import SMALL
from ltx.report.style import density_axis, number_axis, page, within

# The style of each line of the table.
LINES = {"ticket": 0, "plain": 1, "annealed": 2, "dense": 3, "edge-popup": 4, "MPT-1/1": 5}


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return the arms: tickets over density, searches at a fixed kept count over width, and binary ones over width."""
    found = [Arm("ticket", fixed["ticket"], {"panel": "ticket", "line": "ticket", "width": 0.5})]

    def add(panel: str, line: str, width: float, words: list[str]) -> None:
        name = f"{panel} {line} {width}"
        found.append(Arm(name, [*words, f"width={width}"], {"panel": panel, "line": line, "width": float(width)}))

    for width, weights in fixed["kept"]["of"].items():
        search = [*fixed["kept"]["words"], f"method.density={fixed['kept']['count'] / weights:.6f}"]
        add("kept", "plain", width, search)
        add("kept", "annealed", width, [*search, "method.anneal=true"])
    for width in fixed["binary"]["widths"]:
        for line in ("dense", "edge-popup", "MPT-1/1"):
            add("binary", line, width, [*fixed["binary"]["words"], *fixed["binary"][line]])
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm, seed and level; a censored early stop counts as the last step."""
    columns = ["seed", "level", "step", "density", "kept", "test_accuracy", "early_stop_step"]
    table = store.table(columns)
    table["stop"] = table["early_stop_step"].fillna(table["step"].astype("Float64")).astype(float)
    return table


def panel(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of one panel."""
    return table[table["panel"] == name]


def draw(table: pd.DataFrame) -> Figure:
    """Draw tickets' accuracy and early stops over density; below, accuracy over width at a fixed count and at 50 %."""
    figure, ((top, stops), (kept, binary)) = page(2, 1.75, 2)
    ticket = panel(table, "ticket")
    curve(top, ticket, "density", "test_accuracy", "ticket", LINES["ticket"], 1, 100, at=0)
    reference(top, ticket.loc[ticket["level"] == 0, "test_accuracy"], "dense, before it is pruned")
    curve(stops, ticket, "density", "stop", "_as the ticket", LINES["ticket"], 1, 100, most=ticket["step"].max(), at=0)
    stops.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    stops.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for axes, label in ((top, "test accuracy"), (stops, "early stop (step)")):
        density_axis(axes, 100 * ticket["density"])
        axes.set_xlabel("weights kept (%)")
        titled(axes, label, "LeNet, width 0.5")
    for axes, name, heading in (
        (kept, "kept", f"LeNet, {panel(table, 'kept')['kept'].median():,.0f} weights kept"),
        (binary, "binary", "BatchNorm network, 50 % kept"),
    ):
        groups = list(panel(table, name).groupby("line", sort=False))
        for at, (line, group) in enumerate(groups):
            label = f"edge-popup, {line}" if name == "kept" else str(line)
            curve(axes, group, "width", "test_accuracy", label, LINES[str(line)], len(groups), at=at)
        within(axes, 0, 1)
        number_axis(axes, panel(table, name)["width"], "width")
        titled(axes, "test accuracy", heading)
    return figure


def titled(axes: Axes, label: str, heading: str) -> None:
    """Name the vertical axis of a panel, and the panel."""
    axes.set_ylabel(label)
    axes.set_title(heading, fontsize=SMALL, pad=3)


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide the claims of three papers."""
    said, ticket = stated(fixed), panel(table, "ticket")
    accuracy = ticket.pivot(index="seed", columns="level", values="test_accuracy")
    stops = ticket.pivot(index="seed", columns="level", values="stop")
    best, inside = (nearest_level(ticket, fixed[name]) for name in ("best", "earliest"))
    earlier = [decide(said["early stop"], (stops[end] - stops[inside]).tolist()) for end in (0, stops.columns[-1])]
    rest = table[table["panel"] != "ticket"]
    over_width = rest.pivot(index="seed", columns=["panel", "line", "width"], values="test_accuracy")
    over_width = over_width.sort_index(axis=1)
    binary = over_width["binary"]
    close, gap = binary["MPT-1/1"] - binary["edge-popup"], binary["dense"] - binary["MPT-1/1"]
    narrow, wide = gap.columns.min(), gap.columns.max()
    return {
        "better": decide(said["better"], (accuracy[best] - accuracy[0]).tolist()),
        # The claim is of both ends, so the end that speaks more against it decides.
        "early stop": min(earlier, key=lambda claim: (claim.verdict != "failed", claim.interval[0])),
        "annealed": decide(said["annealed"], risen(over_width["kept", "annealed"])),
        "plain": decide(said["plain"], risen(over_width["kept", "plain"])),
        "close": decide(said["close"], close[wide].dropna().tolist()),
        "gap": decide(said["gap"], (gap[narrow] - gap[wide]).dropna().tolist()),
    }


def risen(accuracy: pd.DataFrame) -> list[float]:
    """Return by how much accuracy is higher at the largest width than at the smallest, seed by seed."""
    return (accuracy[accuracy.columns.max()] - accuracy[accuracy.columns.min()]).dropna().tolist()
