"""Iterative magnitude pruning with rewinding (Frankle & Carbin 2019; Frankle et al. 2020; Renda et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt

from ltx.masks import prune
from ltx.methods import Context, Layout, Plan, State, dense, masked, nothing_left, select, without
from ltx.methods.counts import Kept, Scope, Shapes, emptied, kept, shapes
from ltx.symmetry import table_of, verify
from ltx.symmetry.gauge import balanced, folded, without_dead
from ltx.tensors import Tensors

Rate = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True)
class Method(dense.Method):
    """Train, remove a fraction of the surviving weights, rewind, and again: level L keeps round(n (1 - fraction)^L).

    levels: the last level; level 0 is dense.
    fraction: pruned per level, one number, or {layer: number} with scope=layer.
    scope: `global` ranks all weights together, `layer` prunes each layer by the same share, `erk` by shares that follow
        from the layers' shapes (see `counts`).
    rewind: the step whose state is the anchor (0: the initialisation).
    retrain: `rewind` starts at anchor * mask at step `rewind`; `lr_rewind` keeps the trained weights and repeats the
        schedule from step `rewind`; `finetune` keeps them and trains as long at the schedule's last rate.
    one_shot: prune every level from the trained dense network instead of from the level before.
    criterion: what ranks a weight (Zhou et al. 2019): |w_end|, |w_init|, |w_end| - |w_init|, |w_end - w_init|, random;
        `gauge_magnitude`: |w_end| where every hidden unit's incoming and outgoing weights have one norm, to which any
        network that computes the same by rescaled ReLU units comes (see `symmetry.gauge.balanced`).
    exclude: layers never pruned, by name or glob; `output` is the last one.
    """

    extents: ClassVar[frozenset[str]] = frozenset({"levels"})

    levels: Annotated[int, Ge(0)]
    fraction: Rate | dict[str, Rate]
    scope: Scope
    rewind: Annotated[int, Ge(0)]
    retrain: Literal["rewind", "lr_rewind", "finetune"]
    one_shot: bool
    criterion: Literal["final", "initial", "increase", "movement", "random", "gauge_magnitude"]
    exclude: list[str]

    @property
    def last_level(self) -> int:
        return self.levels

    @property
    def needs_symmetry(self) -> bool:
        return self.criterion == "gauge_magnitude"

    def prunable(self, matrices: list[str]) -> list[str]:
        left = without(self.exclude, matrices)
        for pattern in self.fraction if isinstance(self.fraction, dict) else ():
            if not set(left) & set(select(pattern, matrices)):
                raise ValueError(
                    f"method.fraction gives '{pattern}' a rate, but method.exclude={self.exclude} keeps it whole"
                )
        return left

    def kept(self, level: int, at: Shapes) -> Kept:
        """Return the exact number kept at a level, in all or by parameter."""
        if isinstance(self.fraction, float):
            return kept(at, (1 - self.fraction) ** level, self.scope)
        rates = dict.fromkeys(at, 0.0)  # layers that are not named keep all
        for pattern, rate in self.fraction.items():
            rates |= dict.fromkeys(select(pattern, list(at)), rate)
        return {name: round(shape.numel() * (1 - rates[name]) ** level) for name, shape in at.items()}

    def check(self, layout: Layout, steps: int) -> None:
        if self.rewind >= steps:
            raise ValueError(f"method.rewind={self.rewind} is past the end: a level trains {steps} steps (optim.steps)")
        at = shapes(layout.prunable)
        if not at:
            raise ValueError(nothing_left(self.exclude, "prune"))
        if self.criterion == "gauge_magnitude" and not any(units.rescales for units in table_of(layout.network).units):
            raise ValueError(
                "method.criterion=gauge_magnitude needs units that can be rescaled, and this network has none: no ReLU "
                "follows them; method.criterion=final ranks by the magnitude as it is"
            )
        if isinstance(self.fraction, dict) and self.scope != "layer":
            raise ValueError("method.fraction per layer needs method.scope=layer")
        n, before = sum(shape.numel() for shape in at.values()), self.kept(0, at)
        for level in range(1, self.levels + 1):
            now = self.kept(level, at)
            possible = f"at most method.levels={level - 1} is possible"
            if emptied(now):
                dead = emptied(self.kept(self.levels, at))
                where = f"in layer {', '.join(dead)}" if isinstance(now, dict) else f"of {n} in all"
                asked = f"method.levels={self.levels} at method.fraction={self.fraction}"
                raise ValueError(f"{asked} leaves no weight {where}; {possible}")
            if isinstance(now, dict) and isinstance(before, dict) and any(now[name] > before[name] for name in now):
                raise ValueError(f"method.scope=erk gives a layer weights back at level {level}; {possible}")
            before = now

    def plan(self, level: int, steps: int, trunk: Plan | None) -> Plan:
        if level == 0:
            return Plan(0, parent=0, first=0, last=steps, anchor=self.rewind)
        rate_at = steps - 1 if self.retrain == "finetune" else None
        return Plan(level, parent=0 if self.one_shot else level - 1, first=self.rewind, last=steps, rate_at=rate_at)

    def start(self, level: int, context: Context) -> State:
        if level == 0:
            return super().start(level, context)
        previous = context.previous
        mask = {name: previous.mask[name] for name in context.prunable}  # a file has another order: `output` is last
        mask = prune(self.rank(level, context), mask, self.kept(level, shapes(mask)))
        base = context.anchor if self.retrain == "rewind" else previous
        return State(masked(base.weights, mask), base.buffers, mask, step=self.rewind)

    def rank(self, level: int, context: Context) -> Tensors:
        """Return what ranks each weight of the parent level; higher is kept."""
        if self.criterion == "gauge_magnitude":
            return gauge_magnitude(context)

        def rank(name: str) -> torch.Tensor:
            start, end = context.init.weights[name], context.previous.weights[name]
            if self.criterion == "final":
                return end.abs()
            if self.criterion == "initial":
                return start.abs()
            if self.criterion == "increase":
                return end.abs() - start.abs()
            if self.criterion == "movement":
                return (end - start).abs()
            rng = context.streams.generator("mask", "prune", level, name, *end.shape)
            return torch.from_numpy(rng.random(tuple(end.shape)))

        return {name: rank(name) for name in context.prunable}


def gauge_magnitude(context: Context) -> Tensors:
    """Return |w| of the parent level's end with its norms folded and its units balanced; dead units rank lowest."""
    network, end = context.network, context.previous
    network.load_state_dict(end.weights | end.buffers)
    table = table_of(network)
    verify(network, table, context.batch(0)[0], context.streams.generator("mask", "verify"))
    alive, _ = without_dead(folded(network, table, torch.float64).state_dict(), table)
    ranks = balanced(alive, table)
    return {name: ranks[name].abs() for name in context.prunable}
