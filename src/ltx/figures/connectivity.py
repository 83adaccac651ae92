"""Barriers between data orders, successive levels and inits: against rewinding step, density and width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ltx.analysis.identity import ACTIVATIONS, IDENTITY, WEIGHTS
from ltx.figures.arms import Arm, Finished, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.drawing import curve, line_at
from ltx.figures.networks import known, one_thread, the_arm
from ltx.identity.measure import Known, lines, orders
from ltx.report.layout import legend_above
from ltx.report.style import density_axis, number_axis, page

ORDERS, LEVELS, INITS = "data orders", "successive levels", "inits"  # what the two networks of a pair differ in
EARLY = "matched before training"  # units in the order in which the untrained networks' weights match
CONNECTED = 0.02  # Frankle et al. 2020, section 3: an instability below 2 % is none
DENSE = "dense"


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return IMP's runs for every setting and rewinding step, and a dense one for every width, each with its copies.

    A copy is trained in another data order, or from another init; the fact `copy` says which, and is empty otherwise.
    """
    found = []
    levels = [*fixed["imp"], "method.levels=$levels"]
    for setting, network in fixed["settings"].items():
        for k in fixed["rewind"][setting]:
            facts: dict[str, str | float] = {"setting": setting, "k": k, "width": 1.0}
            imp = ["method=imp", *levels, "method.fraction=$fraction", f"method.rewind={k}"]
            found.append(Arm(f"{setting} k={k}", [*network, *imp], {**facts, "copy": ""}))
            trunk = f"trunk={{method:imp,method.levels:$levels,method.fraction:$fraction,method.rewind:{k}}}"
            words = [*network, "method=control", *levels, "method.kind=data_order", trunk]
            found.append(Arm(f"{setting} k={k} copy", words, {**facts, "copy": ORDERS}))
    for width in fixed["widths"]:
        network = [*fixed["dense"], f"width={width}"]
        facts = {"setting": DENSE, "k": 0, "width": float(width)}
        found.append(Arm(f"dense {width}", [*network, "method=dense"], {**facts, "copy": ""}))
        for copy, kind in ((ORDERS, "data_order"), (INITS, "reinit")):
            words = [*network, "method=control", f"method.kind={kind}", "trunk={method:dense}"]
            found.append(Arm(f"dense {width} {kind}", words, {**facts, "copy": copy}))
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per pair of networks, order of units, part of the data, and value: both barriers on their line.

    `level` and `density` are those of the sparser network. `of` is loss or error. `restated` says that BatchNorm
    statistics were estimated anew on the line; `trained` is false for a line between untrained networks.
    """
    found: list[dict[str, Any]] = []
    with one_thread():
        for done in store.arms:
            facts = {name: value for name, value in done.arm.facts.items() if name != "copy"}
            if done.arm.facts["copy"]:
                continue
            other = the_arm(store, **facts, copy=ORDERS)
            redrawn = the_arm(store, **facts, copy=INITS) if facts["setting"] == DENSE else None
            for seed in done.spec.seeds:
                seen = between_levels(done, other, seed)
                if redrawn is not None:
                    seen += between_inits(known(done, seed, 0), known(redrawn, seed, 0))
                found += [{**facts, "seed": seed, **row} for row in seen]
    return pd.DataFrame(found)


def untrained(one: Known) -> Known:
    """Return the same network before the first step of its level."""
    begun = replace(one.ticket, weights=one.ticket.begin, end=one.ticket.end | one.ticket.begin)
    return replace(one, ticket=begun)


def between_levels(done: Finished, other: Finished, seed: int) -> list[dict[str, Any]]:
    """Return the rows between a run and its copy in another data order at every level, and between its levels."""
    found: list[dict[str, Any]] = []
    as_is: dict[str, list[Tensor]] = {IDENTITY: []}
    before = None
    for level in range(done.spec.method.last_level + 1):
        end = known(done, seed, level)
        found += on_line(ORDERS, end, known(other, seed, level), as_is)
        if before is not None:
            found += on_line(LEVELS, before, end, as_is)
        before = end
    return found


def between_inits(one: Known, other: Known) -> list[dict[str, Any]]:
    """Return the rows between networks of two inits, for orders of units found after training and before."""
    begun = untrained(one), untrained(other)
    early = orders(*begun)
    trained = {**orders(one, other), EARLY: early[WEIGHTS]}
    return on_line(INITS, one, other, trained) + on_line(INITS, *begun, {WEIGHTS: early[WEIGHTS]}, trained=False)


def on_line(
    pair: str, one: Known, other: Known, chosen: dict[str, list[Tensor]], trained: bool = True
) -> list[dict[str, Any]]:
    """Return the rows of one pair: one for every order of the second's units, part of the data, and value."""
    facts = {"pair": pair, "level": other.level, "density": other.ticket.density, "trained": trained}
    return [
        {
            **facts,
            "units": line.order,
            "part": line.part,
            "of": line.of,
            "restated": line.restated,
            "above_mean": line.barrier.above_mean,
            "above_chord": line.barrier.above_chord,
        }
        for line in lines(one, other, chosen)
    ]


def seen(table: pd.DataFrame, of: str, part: str = "test") -> pd.DataFrame:
    """Return the rows of loss or error on a part, with statistics estimated anew where the network has any."""
    anew = table["restated"] == table.groupby("setting")["restated"].transform("any")
    return table[anew & (table["of"] == of) & (table["part"] == part)]


def of_pair(table: pd.DataFrame, pair: str, *settings: str) -> pd.DataFrame:
    """Return the rows between trained networks that differ in one thing, in some settings."""
    return table[(table["pair"] == pair) & table["setting"].isin(settings) & table["trained"]]


def draw(table: pd.DataFrame) -> Figure:
    """Draw the barriers of IMP's settings above, against rewinding step and density, and against width below."""
    figure, panels = page(4, 1.5)
    errors, losses = seen(table, "error"), seen(table, "loss")
    imp = [str(name) for name in table["setting"].unique() if name != DENSE]
    by_k, by_density, by_width, by_init = panels[:, 0]

    apart = of_pair(errors, ORDERS, *imp)
    ends = apart[apart["level"].isin([apart["level"].min(), apart["level"].max()])]
    named(by_k, ends, ["setting", "level"], "k", lambda part: f"{setting(part)}, {kept(part)}")
    number_axis(by_k, ends["k"], "rewinding step")

    steps = of_pair(errors, LEVELS, *imp)
    named(by_density, steps, ["setting", "k"], "density", lambda part: f"{setting(part)}, step {part['k'].iloc[0]}")
    density_axis(by_density, 100 * steps["density"])

    for index, part in enumerate(("test", "train")):
        own = of_pair(seen(table, "error", part), ORDERS, DENSE)
        curve(by_width, own, "width", "above_mean", f"{ORDERS}, {part}", index, 4)
    between = of_pair(errors, INITS, DENSE)
    for index, units in ((2, WEIGHTS), (3, ACTIVATIONS)):
        own = between[between["units"] == units]
        curve(by_width, own, "width", "above_mean", f"inits, {units}, test", index, 4)
    number_axis(by_width, table["width"], "width")

    between = of_pair(losses, INITS, DENSE)
    for index, units in enumerate((IDENTITY, EARLY, WEIGHTS, ACTIVATIONS)):
        own = between[between["units"] == units]
        curve(by_init, own, "width", "above_chord", f"inits, {units}", index, 5, most=math.inf)
    curve(by_init, of_pair(losses, ORDERS, DENSE), "width", "above_chord", ORDERS, 4, 5, most=math.inf)
    number_axis(by_init, table["width"], "width")

    names = (f"error, {ORDERS}", "error, next level", "error", "test loss")
    for axes, label in zip(panels[:, 0], names, strict=True):
        if axes is not by_init:
            line_at(axes, CONNECTED, "2 %: connected below")
        axes.set_ylabel(label)
        legend_above(axes, axes.get_legend_handles_labels()[0])
    return figure


def named(axes: Axes, rows: pd.DataFrame, by: Sequence[str], x: str, label: Callable[[pd.DataFrame], str]) -> None:
    """Draw a line for every value of some columns."""
    groups = [part for _, part in rows.groupby(list(by), sort=False)]
    for index, part in enumerate(groups):
        scale = 100 if x == "density" else 1
        curve(axes, part, x, "above_mean", label(part), index, len(groups), scale)


def setting(part: pd.DataFrame) -> str:
    """Name the setting that some rows share."""
    return str(part["setting"].iloc[0])


def kept(part: pd.DataFrame) -> str:
    """Write the density that some rows share."""
    return f"{100 * part['density'].iloc[0]:.3g} % kept"


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide what is connected, what rewinding, width and matched units change, and what they leave."""
    errors, losses, late = seen(table, "error"), seen(table, "loss"), fixed["late"]

    def by_k(pair: str) -> pd.DataFrame:
        """Return the unstable network's error barriers by seed and rewinding step, mean over the sparsest levels."""
        own = of_pair(errors, pair, "unstable")
        sparsest = sorted(own["level"].unique())[-3:]
        return own[own["level"].isin(sparsest)].pivot_table(index="seed", columns="k", values="above_mean")

    def worst(pair: str, setting: str) -> pd.Series:
        """Return by how much the highest error barrier of a seed is below 2 %."""
        return CONNECTED - of_pair(errors, pair, setting).groupby("seed")["above_mean"].max()

    def by_width(rows: pd.DataFrame, column: str) -> pd.DataFrame:
        return rows.pivot_table(index="seed", columns="width", values=column)

    def inits(units: str, rows: pd.DataFrame = losses, column: str = "above_chord") -> pd.DataFrame:
        own = of_pair(rows, INITS, DENSE)
        return by_width(own[own["units"] == units], column)

    apart, steps = by_k(ORDERS), by_k(LEVELS)
    naive, early, weights, activations = (inits(units) for units in (IDENTITY, EARLY, WEIGHTS, ACTIVATIONS))
    least, most = weights.columns.min(), weights.columns.max()
    one_init = by_width(of_pair(losses, ORDERS, DENSE), "above_chord")
    begun = losses[(losses["pair"] == INITS) & ~losses["trained"] & (losses["units"] == WEIGHTS)]
    found = {
        "orders unstable": apart[0],
        "orders late": CONNECTED - apart[late],
        "orders stable": worst(ORDERS, "stable"),
        "levels unstable": steps[0],
        "levels gain": steps[0] - steps[late],
        "levels late": CONNECTED - steps[late],
        "levels stable": worst(LEVELS, "stable"),
        "orders dense": worst(ORDERS, DENSE),
        "weights": (naive - weights).mean(axis=1),
        "activations": (naive - activations).mean(axis=1),
        "early": (naive - early).mean(axis=1),
        "late matching": (early - weights).mean(axis=1),
        "naive width": naive[least] - naive[most],
        "weights width": weights[least] - weights[most],
        "activations width": activations[least] - activations[most],
        "weights connect": CONNECTED - inits(WEIGHTS, errors, "above_mean")[most],
        "weights left": (weights - one_init)[most],
        "untrained": by_width(begun, "above_chord").mean(axis=1),
    }
    return {name: decide(said, found[name].dropna().tolist()) for name, said in stated(fixed).items()}
