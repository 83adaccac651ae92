"""Strong tickets by Gem-Miner (Sreenivasan et al. 2022): scores in [0, 1] rounded, ever more of them frozen off."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge

from ltx.masks import prune, straight_through
from ltx.methods import Context, Layout, Plan, State
from ltx.methods.search import ANNEAL_UNTIL, Search
from ltx.tensors import Tensors


@dataclass(frozen=True)
class Method(Search):
    """Round scores, which stay within [0, 1] after every step; every `freeze_every` steps the lowest are frozen off,
    down to the density at half of training.

    The mask holds what is not frozen; weight decay on the scores is the method's L2 penalty.
    """

    freeze_every: Annotated[int, Ge(1)]

    def check(self, layout: Layout, steps: int) -> None:
        super().check(layout, steps)
        if self.anneal:
            raise ValueError("method.anneal=true has no meaning here: freezing is the annealing; leave it false")
        if self.settled_at(steps) >= steps:
            raise ValueError(
                f"method.freeze_every={self.freeze_every} is too rare: {steps} steps end above the density"
            )

    def settled_at(self, steps: int) -> int:
        """Return the step at which the density is reached."""
        return math.ceil(ANNEAL_UNTIL * steps / self.freeze_every) * self.freeze_every

    def plan(self, level: int, steps: int, trunk: Plan | None) -> Plan:
        return replace(
            super().plan(level, steps, trunk),
            every=self.freeze_every,
            restates=True,
            best_from=self.settled_at(steps),
            clamp=(0.0, 1.0),
        )

    def start(self, level: int, context: Context) -> State:
        scores, mask = {}, {}
        for name in context.prunable:
            weight = context.init.weights[name]
            rng = context.streams.generator("mask", "score", name, *weight.shape)
            scores[name] = torch.from_numpy(rng.random(tuple(weight.shape))).to(weight.dtype)
            mask[name] = torch.ones_like(weight, dtype=torch.bool)
        return State(context.init.weights, context.init.buffers, mask, scores)

    def effective(
        self, weights: Tensors, scores: Tensors, gate: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        def keep(name: str) -> torch.Tensor:
            return straight_through((scores[name] >= 0.5).to(scores[name].dtype), scores[name]) * gate[name]

        return weights | {name: weights[name] * keep(name) for name in scores}

    def between(
        self, weights: Tensors, scores: Tensors, mask: Tensors, done: float, rng: Callable[[str], np.random.Generator]
    ) -> tuple[Tensors, Tensors, Tensors]:
        kept = self.kept(scores, 1.0)
        sizes = {name: score.numel() for name, score in scores.items()}

        def now(k: int, n: int) -> int:
            return max(k, round(n * (max(k, 1) / n) ** min(1.0, done / ANNEAL_UNTIL)))

        counts = now(kept, sum(sizes.values())) if isinstance(kept, int) else {n: now(kept[n], sizes[n]) for n in sizes}
        return weights, scores, prune(scores, mask, counts)

    def ticket(self, scores: Tensors, mask: Tensors) -> tuple[Tensors, Tensors]:
        return {name: (scores[name] >= 0.5) & mask[name] for name in scores}, scores
