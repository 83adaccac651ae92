"""What the figures of random tickets share: their arms, and what the runs of these say of every width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ltx.analysis.returns import log2_choose
from ltx.figures.arms import Arm, Finished, Store
from ltx.report.tail_runs import Init, Point, Repeat, Settings, split_curve
from ltx.store.folders import RunFolder
from ltx.store.rows import Row
from ltx.tensors import Tensors, under


def sampled(fixed: dict[str, Any], width: float) -> Arm:
    """Return the arm that samples random tickets at a width: a seed is an init."""
    return Arm(
        f"sampled, width {width:g}", [*fixed["sample"], f"width={width:g}"], {"kind": "sample", "width": float(width)}
    )


def split(fixed: dict[str, Any], width: float, density: float) -> list[Arm]:
    """Return the arms that split random tickets at a width and density, one for each init; seeds are repeats."""
    words = [*fixed["split"], f"width={width:g}", f"method.density={density:g}"]
    inits = range(fixed["first_seed"], fixed["first_seed"] + fixed["inits"])
    name = f"split, width {width:g}, density {density:g}"
    facts: dict[str, Any] = {"kind": "split", "width": float(width), "density": float(density)}
    return [Arm(f"{name}, init {i}", [*words, f"streams.init={i}"], {**facts, "init": i}) for i in inits]


def points(store: Store) -> dict[tuple[float, float], Point]:
    """Return what sampling and splitting say, by width and density, of the seeds and levels that were asked for."""
    found: dict[tuple[float, float], Point] = {}
    for done in store.arms:
        if done.arm.facts["kind"] in ("sample", "split"):
            for seed in done.spec.seeds:
                add(found, done, seed, [row for row in done.rows if row.seed == seed])
    return found


def add(found: dict[tuple[float, float], Point], done: Finished, seed: int, rows: Sequence[Row]) -> None:
    """Add one seed of an arm to the points."""
    config, streams = done.spec.config, done.spec.streams(seed)
    width, density = float(config["width"]), float(config["method"]["density"])
    masks = under("mask", level(done, seed, 0))
    if (width, density) not in found:
        kept = {name: int(mask.sum()) for name, mask in masks.items()}
        bits = math.fsum(log2_choose(mask.numel(), kept[name]) for name, mask in masks.items())
        found[width, density] = Point(width, density, sum(kept.values()), bits)
    classes = done.spec.facts.classes
    init = found[width, density].inits.setdefault(streams.init, Init(-math.log(classes)))
    if done.arm.facts["kind"] == "sample":
        for row in rows:
            block = level(done, seed, row.level)
            init.blocks.setdefault(streams.mask, []).append(block["sample/quality"].numpy())
            init.dead += int(block["sample/dead"].sum())
    else:
        found_curve = split_curve(rows, f"{done.spec.key}, seed {seed}")
        if found_curve is not None:
            method = config["method"]
            settings = Settings(int(method["masks"]), float(method["keep"]), int(method["sweeps"]))
            init.split_runs.append(Repeat(streams.mask, settings, len(rows), *found_curve))


def level(done: Finished, seed: int, number: int) -> Tensors:
    """Return the tensors of a finished level."""
    found = RunFolder(done.spec.directory).seed(seed).read_level(number, done.spec.identity(seed))
    assert found is not None, f"level {number} of seed {seed} of {done.spec.key}"
    return found[0]
