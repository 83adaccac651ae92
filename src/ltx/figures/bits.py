"""How many bits a ticket of a quality needs, how many there are, and where tickets that were searched for lie."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from ltx.analysis.curves import continued, reached_by
from ltx.analysis.intervals import interval
from ltx.analysis.quality import Examples, quality
from ltx.analysis.returns import random_energy_best
from ltx.figures.arms import Arm, Finished, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.random_tickets import level, points, sampled, split
from ltx.methods.ticket_sample import FITTED, SCORED, examples_of
from ltx.report import style
from ltx.report.layout import legend_above
from ltx.report.style import number_axis, page
from ltx.report.tail_points import Init, Point
from ltx.runs.levels import examples
from ltx.tensors import under

DEPTHS = np.arange(1, 12.01, 0.5)  # minus log10 of the share of masks
TENS, TWOS = math.log(10), math.log(2)
SEARCHES = ("edge-popup", "biprop", "IMP")


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return the arms: sampled and split at equal density, split at an equal kept count, and what was searched for."""
    widths, density = fixed["widths"], fixed["density"]
    found = [sampled(fixed, width) for width in widths]
    found += [arm for width in widths for arm in split(fixed, width, density, deep=True)]
    found += [arm for width in widths[1:] for arm in split(fixed, width, density * widths[0] / width)]
    for name, words in fixed["found"].items():
        for width in widths:
            facts = {"kind": name, "width": float(width)}
            found.append(Arm(f"{name}, width {width:g}", [*words, f"width={width:g}"], facts))
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per number: its `part`, question, width, init, x and y.

    Questions: the widths at `equal density`, or at an `equal kept count`. Parts: `needed`, the bits (x) that a gain of
    y nats needs; `at`, the bits (y) that a gain of x nats needs, x being reached by every init; `spare`, the bits that
    there are less these; `there`, the bits that there are. Of equal density alone: `found`, the nats (y) that the mask
    of a search gains on the untouched weights, `name`d, with `bits` as the tail continues and the nats `on_test`;
    `dense`, the nats that the trained dense network gains; `all`, the nats that the best of all masks gains if the tail
    continues, and `gaussian` if qualities were independent and Gaussian (the random-energy model).
    """
    every = points(store)
    narrow = min(every)
    equal = {
        "equal density": [point for (_, density), point in every.items() if density == narrow[1]],
        "equal kept count": [point for point in every.values() if abs(point.kept / every[narrow].kept - 1) < 0.02],
    }
    # An init nearly all of whose masks know nothing may have no curve: its splitting died out at once.
    inits = [init for own in equal.values() for point in own for init in point.inits.values() if init.split is not None]
    ends = min(DEPTHS[-1], math.floor(min(-init.split.deepest / TENS for init in inits if init.split is not None)))
    gains = {
        depth: min(init.quality_at(-depth * TENS) - init.nothing for init in inits)
        for depth in sorted({3, 6, ends})
        if depth <= ends
    }
    table = [row for question, own in equal.items() for row in of_question(question, own, gains)]
    table += [row for point in equal["equal density"] for row in of_all(point)]
    by_width = {point.width: point for point in equal["equal density"]}
    for done in store.arms:
        if done.arm.facts["kind"] not in ("sample", "split"):
            table += of_search(done, by_width[float(done.arm.facts["width"])])
    return pd.DataFrame(table)


def of_question(question: str, own: list[Point], gains: dict[float, float]) -> list[dict[str, Any]]:
    """Return what the widths of one question need.

    gains: nats, by the depth at which every init of every width gains them.
    """
    table: list[dict[str, Any]] = []
    inits = [(point, number, init) for point in own for number, init in point.inits.items()]
    for point, number, init in inits:
        at = {"question": question, "width": point.width, "init": number}
        table.append({**at, "part": "there", "y": point.bits})
        deepest = DEPTHS[-1] if init.split is None else -init.split.deepest / TENS
        for depth in np.arange(1, max(deepest, DEPTHS[-1]) + 0.01, 0.5):
            gain = init.quality_at(-depth * TENS) - init.nothing
            table.append({**at, "part": "needed", "x": depth * TENS / TWOS, "y": gain})
        for depth, gain in gains.items():
            bits = -init.log_p_at(init.nothing + gain) / TWOS
            table.append({**at, "part": "at", "depth": depth, "x": gain, "y": bits})
            table.append({**at, "part": "spare", "depth": depth, "x": gain, "y": point.bits - bits})
    return table


def of_all(point: Point) -> list[dict[str, Any]]:
    """Return what the best of all masks of a width would gain, by the measured tail and by the random-energy model."""
    table: list[dict[str, Any]] = []
    for number, init in point.inits.items():
        at = {"question": "equal density", "width": point.width, "init": number}
        values = init.qualities
        energy = random_energy_best(float(values.mean()), float(values.std(ddof=1)), point.bits)
        table.append({**at, "part": "gaussian", "y": min(0.0, energy) - init.nothing})
        if init.split is not None:
            best = reached_by(init.split, -point.bits * TWOS)
            table.append({**at, "part": "all", "y": min(0.0, best) - init.nothing})
    return table


def of_search(done: Finished, point: Point) -> list[dict[str, Any]]:
    """Return what a search's masks gain on the untouched weights; of dense networks, what the trained one gains."""
    kind, spec = str(done.arm.facts["kind"]), done.spec
    most = spec.config["method"].get("examples") or SCORED
    seen, unseen = (
        examples_of(examples(spec.data, "val", FITTED), examples(spec.data, part, most)) for part in ("train", "test")
    )
    table = []
    for seed in spec.seeds:
        last = max(row.level for row in done.rows if row.seed == seed)
        begin, end = under("begin", level(done, seed, 0)), level(done, seed, last)
        init = point.inits[spec.streams(seed).init]
        at = {"question": "equal density", "width": point.width, "init": spec.streams(seed).init}
        if kind == "dense":
            weights = {name: tensor for name, tensor in under("end", end).items() if tensor.ndim == 2}
            masks = {name: torch.ones_like(tensor, dtype=torch.bool) for name, tensor in weights.items()}
            table.append({**at, "part": "dense", "y": gain(weights, masks, seen, init)})
            continue
        weights = {name: tensor for name, tensor in begin.items() if tensor.ndim == 2}
        masks = under("mask", end)
        found = gain(weights, masks, seen, init)
        bits = math.nan if init.split is None else -continued(init.split, init.nothing + found) / TWOS
        own = {"part": "found", "name": kind, "y": found, "bits": bits, "on_test": gain(weights, masks, unseen, init)}
        table.append({**at, **own, "kept": sum(int(mask.sum()) for mask in masks.values())})
    return table


def gain(weights: Any, masks: Any, seen: Examples, init: Init) -> float:
    """Return the nats that one mask gains over knowing nothing."""
    ordered = {name: masks[name][None] for name in weights}
    return float(quality(weights, ordered, seen).quality[0]) - init.nothing


def draw(table: pd.DataFrame) -> Figure:
    """Draw bits over quality with what was found, bits over width at two questions, and what is found over width."""
    figure, ((needed,), (at,), (spare,), (best,)) = page(4, 1.75, height_ratios=(3.2, 2, 2, 2.4))
    widths = sorted(table["width"].unique())
    draw_needed(needed, table, widths)
    handles = []
    for index, (question, own) in enumerate(table[table["part"] == "at"].groupby("question", sort=False)):
        for depth, group in own.groupby("depth"):
            means = [interval(one["y"].dropna().tolist(), 0) for _, one in group.groupby("width")]
            label = str(question) if depth == own["depth"].min() else f"_{question} {depth}"
            shift = style.beside(index, 2, len(widths))
            line = style.curve(at, widths, means, label, index, shift)
            handles += [line] if depth == own["depth"].min() else []
    at.set_ylim(0)
    gains = ", ".join(f"{x:.2g}" for x in sorted(table.loc[table["part"] == "at", "x"].unique()))
    at.set_ylabel(f"bits needed to gain\n{gains} nats")
    legend_above(at, handles)
    handles = []
    deep = table[(table["part"] == "spare") & (table["depth"] == table["depth"].max())]
    for index, (question, group) in enumerate(deep.groupby("question", sort=False)):
        means = [interval(one["y"].dropna().tolist()) for _, one in group.groupby("width")]
        label = f"{question}, {group['x'].iloc[0]:.2g} nats"
        handles.append(style.curve(spare, widths, means, label, index, style.beside(index, 2, len(widths))))
    if deep["y"].notna().any():
        spare.set_yscale("log")
    spare.yaxis.set_minor_formatter(NullFormatter())
    spare.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    spare.set_ylabel("spare bits")
    legend_above(spare, handles)
    draw_found(best, table, widths)
    for axes in (at, spare, best):
        number_axis(axes, widths, "width")
    return figure


def draw_needed(axes: Axes, table: pd.DataFrame, widths: list[float]) -> None:
    """Draw the bits that a gain needs at each width, continued by dashes to the masks that were searched for."""
    own = table[table["question"] == "equal density"]
    for index, width in enumerate(widths):
        here = own[own["width"] == width]
        needed, found = here[here["part"] == "needed"], here[here["part"] == "found"]
        over_inits = needed.groupby("x")["y"].agg(["mean", "count"])
        means = over_inits.loc[over_inits["count"] == needed["init"].nunique(), "mean"]
        colour = style.COLOURS[index]
        axes.plot(means.to_numpy(), means.index.to_numpy(), color=colour, lw=1.1, label=f"width {width:g}")
        marks = found.groupby("name")[["y", "bits"]].mean().sort_values("y")
        if len(marks):
            gains, bits = [means.iloc[-1], *marks["y"]], [means.index[-1], *marks["bits"]]
            axes.plot(gains, bits, color=colour, lw=0.7, ls=(0, (3, 2)))
        for name, mark in marks.iterrows():
            marker = style.MARKERS[SEARCHES.index(str(name))]
            axes.plot([mark["y"]], [mark["bits"]], marker=marker, ms=3.5, ls="none", color=colour)
        there = float(here.loc[here["part"] == "there", "y"].iloc[0])
        axes.plot([0.97, 1], [there] * 2, color=colour, lw=1.1, transform=axes.get_yaxis_transform(), clip_on=False)
    for place, name in enumerate(SEARCHES):
        axes.plot([], [], marker=style.MARKERS[place], ms=3.5, ls="none", color=style.GREY, label=name)
    axes.plot([], [], **style.dashed((0, (3, 2))), label="extrapolated")
    axes.plot([], [], color=style.GREY, lw=1.1, label="at the right: bits there are")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(0)
    axes.set_xlabel("nats gained over knowing nothing")
    axes.set_ylabel("bits needed")


def draw_found(axes: Axes, table: pd.DataFrame, widths: list[float]) -> None:
    """Draw what was searched for gains over width, with what the best of all masks would."""
    handles = []
    lines = [(name, table[(table["part"] == "found") & (table["name"] == name)]) for name in SEARCHES]
    lines += [("best of all, tail extrapolated", table[table["part"] == "all"])]
    lines += [("of independent Gaussians", table[table["part"] == "gaussian"])]
    for index, (name, group) in enumerate(lines):
        means = [interval(one["y"].dropna().tolist()) for _, one in group.groupby("width")]
        handles.append(style.curve(axes, widths, means, name, index, style.beside(index, len(lines), len(widths))))
    dense = table[table["part"] == "dense"]
    if len(dense):
        means = dense.groupby("width")["y"].mean()
        handles += axes.plot(means.index, means.to_numpy(), label="dense, trained", **style.dashed(":"))
    axes.set_ylim(0)
    axes.set_ylabel("nats gained")
    legend_above(axes, handles)


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide whether wide networks need fewer bits, whether spare bits grow, and whether searches find what is rare."""
    said, found = stated(fixed), {}
    depth = table["depth"].max()
    for question, name in (("equal density", "density"), ("equal kept count", "count")):
        own = table[(table["question"] == question) & (table["depth"] == depth)]
        for part in ("at", "spare"):
            per = own[own["part"] == part].pivot(index="init", columns="width", values="y").dropna()
            change = (per[per.columns.max()] - per[per.columns.min()]) / math.log2(
                per.columns.max() / per.columns.min()
            )
            key = f"{'fewer' if part == 'at' else 'spare'} {name}"
            found[key] = decide(said[key], (-change if part == "at" else change).tolist())
    searched = table[(table["part"] == "found") & (table["width"] == fixed["at"])].pivot(index="init", columns="name")
    rare = table[(table["part"] == "needed") & (table["width"] == fixed["at"]) & (table["question"] == "equal density")]
    deepest = rare[np.isclose(rare["x"], DEPTHS[-1] * TENS / TWOS)].set_index("init")["y"]
    for name in SEARCHES:
        gained = searched["y"][name] - deepest
        found[name] = decide(said[name], gained.dropna().tolist())
    return found
