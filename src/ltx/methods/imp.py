"""Iterative magnitude pruning with rewinding (Frankle & Carbin 2019; Frankle et al. 2020; Renda et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt

from ltx.masks import prune
from ltx.methods import Context, State, dense, layer, masked, select
from ltx.tensors import Tensors

Rate = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True)
class Method(dense.Method):
    """Train, remove a fraction of the surviving weights, rewind, and again: level L keeps round(n (1 - fraction)^L).

    levels: the last level; level 0 is dense.
    fraction: pruned per level, one number, or {layer: number} with scope=layer.
    scope: `global` ranks all weights together, `layer` prunes each layer by the same share.
    rewind: the step whose state is the anchor (0: the initialisation).
    retrain: `rewind` starts at anchor * mask at step `rewind`; `lr_rewind` keeps the trained weights and repeats the
        schedule from step `rewind`; `finetune` keeps them and trains as long at the schedule's last rate.
    one_shot: prune every level from the trained dense network instead of from the level before.
    criterion: what ranks a weight (Zhou et al. 2019): |w_end|, |w_init|, |w_end| - |w_init|, |w_end - w_init|, random.
    exclude: layers never pruned, by name or glob; `output` is the last one.
    """

    extents: ClassVar[frozenset[str]] = frozenset({"levels"})

    levels: Annotated[int, Ge(0)]
    fraction: Rate | dict[str, Rate]
    scope: Literal["global", "layer"]
    rewind: Annotated[int, Ge(0)]
    retrain: Literal["rewind", "lr_rewind", "finetune"]
    one_shot: bool
    criterion: Literal["final", "initial", "increase", "movement", "random"]
    exclude: list[str]

    @property
    def last_level(self) -> int:
        return self.levels

    @property
    def anchor_step(self) -> int:
        return self.rewind

    def prunable(self, matrices: list[str]) -> list[str]:
        excluded = {name for pattern in self.exclude for name in select(pattern, matrices)}
        for pattern in self.fraction if isinstance(self.fraction, dict) else ():
            if excluded.issuperset(select(pattern, matrices)):
                raise ValueError(
                    f"method.fraction gives '{pattern}' a rate, but method.exclude={self.exclude} keeps it whole"
                )
        return [name for name in matrices if name not in excluded]

    def kept(self, level: int, sizes: Mapping[str, int]) -> int | dict[str, int]:
        """Return the exact number kept at a level, in all or by parameter."""
        if self.scope == "global":
            assert isinstance(self.fraction, float)
            return round(sum(sizes.values()) * (1 - self.fraction) ** level)
        rates = self.rates(sizes)
        return {name: round(n * (1 - rates[name]) ** level) for name, n in sizes.items()}

    def rates(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Return the fraction pruned per level of every prunable parameter; layers not named keep all."""
        if isinstance(self.fraction, float):
            return dict.fromkeys(sizes, self.fraction)
        rates = dict.fromkeys(sizes, 0.0)
        for pattern, rate in self.fraction.items():
            rates |= dict.fromkeys(select(pattern, list(sizes)), rate)
        return rates

    def check(self, prunable: Tensors, steps: int) -> None:
        if self.rewind >= steps:
            raise ValueError(f"method.rewind={self.rewind} is past the end: a level trains {steps} steps (optim.steps)")
        sizes = {name: tensor.numel() for name, tensor in prunable.items()}
        if not sizes:
            raise ValueError(f"method.exclude={self.exclude} leaves nothing to prune")
        if isinstance(self.fraction, dict) and self.scope == "global":
            raise ValueError("method.fraction per layer needs method.scope=layer")
        empty = self.emptied(self.levels, sizes)
        if empty:
            reach = max(level for level in range(self.levels) if not self.emptied(level, sizes))
            raise ValueError(
                f"method.levels={self.levels} at method.fraction={self.fraction} leaves no weight {empty}; "
                f"at most method.levels={reach} is possible"
            )

    def emptied(self, level: int, sizes: Mapping[str, int]) -> str:
        """Name where a level keeps nothing, or return an empty string."""
        kept = self.kept(level, sizes)
        if isinstance(kept, int):
            return "" if kept else f"of {sum(sizes.values())} in all"
        gone = [layer(name) for name, k in kept.items() if not k]
        return f"in layer {', '.join(gone)}" if gone else ""

    def parent(self, level: int) -> int:
        return 0 if self.one_shot or level == 0 else level - 1

    def rate_step(self, level: int, step: int, steps: int) -> int:
        return steps - 1 if level and self.retrain == "finetune" else step

    def start(self, level: int, context: Context) -> State:
        if level == 0:
            return super().start(level, context)
        previous = context.previous
        kept = self.kept(level, {name: previous.mask[name].numel() for name in context.prunable})
        mask = prune(self.scores(level, context), previous.mask, kept)
        base = context.anchor if self.retrain == "rewind" else previous
        return State(masked(base.weights, mask), base.buffers, mask, step=self.rewind)

    def scores(self, level: int, context: Context) -> Tensors:
        """Return what ranks each weight of the parent level; higher is kept."""

        def score(name: str) -> torch.Tensor:
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

        return {name: score(name) for name in context.prunable}
