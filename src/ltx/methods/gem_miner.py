"""Strong tickets by Gem-Miner (Sreenivasan et al. 2022): scores in [0, 1] rounded, ever more of them frozen off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge

from ltx.masks import count, prune, straight_through
from ltx.methods import Context, State
from ltx.methods.edge_popup import ANNEAL_UNTIL, Search
from ltx.tensors import Tensors


@dataclass(frozen=True)
class Method(Search):
    """Round scores, which stay within [0, 1] after every step; every `freeze_every` steps the lowest are frozen off,
    down to the density at half of training.

    The mask holds what is not frozen; weight decay on the scores is the method's L2 penalty.
    """

    score_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    freeze_every: Annotated[int, Ge(1)]

    @property
    def restates(self) -> bool:
        return True

    @property
    def every(self) -> int:
        return self.freeze_every

    def check(self, prunable: Tensors, steps: int) -> None:
        super().check(prunable, steps)
        if self.anneal:
            raise ValueError("method.anneal=true has no meaning here: freezing is the annealing; leave it false")
        last = (steps - 1) // self.freeze_every * self.freeze_every
        if last < ANNEAL_UNTIL * steps:
            raise ValueError(
                f"method.freeze_every={self.freeze_every} is too rare: {steps} steps end above the density"
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
        self, weights: Tensors, extra: Tensors, mask: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        def keep(name: str) -> torch.Tensor:
            return straight_through((extra[name] >= 0.5).to(extra[name].dtype), extra[name]) * mask[name]

        return weights | {name: weights[name] * keep(name) for name in extra}

    def between(
        self, weights: Tensors, extra: Tensors, mask: Tensors, done: float, rng: Callable[[str], np.random.Generator]
    ) -> tuple[Tensors, Tensors, Tensors]:
        kept = self.kept(extra, 1.0)
        sizes = {name: score.numel() for name, score in extra.items()}

        def now(k: int, n: int) -> int:
            return max(k, round(n * (max(k, 1) / n) ** min(1.0, done / ANNEAL_UNTIL)))

        alive = {name: m > 0 for name, m in mask.items()}
        counts = now(kept, sum(sizes.values())) if isinstance(kept, int) else {n: now(kept[n], sizes[n]) for n in sizes}
        return weights, extra, {n: m.to(mask[n].dtype) for n, m in prune(extra, alive, counts).items()}

    def settled(self, mask: Tensors) -> bool:
        kept, alive = self.kept(mask, 1.0), {name: count({name: m}) for name, m in mask.items()}
        return sum(alive.values()) <= (kept if isinstance(kept, int) else sum(kept.values()))

    def ranks(self, extra: Tensors) -> Tensors:
        return extra

    def ticket_mask(self, extra: Tensors, mask: Tensors) -> Tensors:
        return {name: (extra[name] >= 0.5) & (mask[name] > 0) for name in extra}
