"""What the figures of random tickets share: their arms, and what the runs of these say of every width."""

from __future__ import annotations

from typing import Any

from ltx.figures.arms import Arm, Finished, Store
from ltx.report.tail_points import Point, Seed, add_seed
from ltx.store.folders import RunFolder
from ltx.tensors import Tensors


def sampled(fixed: dict[str, Any], width: float) -> Arm:
    """Return the arm that samples random tickets at a width: a seed is an init."""
    return Arm(
        f"sampled, width {width:g}", [*fixed["sample"], f"width={width:g}"], {"kind": "sample", "width": float(width)}
    )


def split(fixed: dict[str, Any], width: float, density: float, deep: bool = False) -> list[Arm]:
    """Return the arms that split random tickets at a width and density, one for each init; seeds are repeats.

    deep: to the last level that the yaml has under `deep` for this width, if it has one.
    """
    words = [*fixed["split"], f"width={width:g}", f"method.density={density:g}"]
    if deep and width in fixed["deep"]:
        words.append(f"method.levels={fixed['deep'][width]}")
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
                streams, rows = done.spec.streams(seed), [row for row in done.rows if row.seed == seed]
                levels = (level(done, seed, row.level) for row in rows)
                config, classes = done.spec.config, done.spec.facts.classes
                add_seed(found, Seed(done.spec.key, seed, config, classes, streams.init, streams.mask), levels, rows)
    return found


def level(done: Finished, seed: int, number: int) -> Tensors:
    """Return the tensors of a finished level."""
    found = RunFolder(done.spec.directory).seed(seed).read_level(number, done.spec.identity(seed))
    assert found is not None, f"level {number} of seed {seed} of {done.spec.key}"
    return found[0]
