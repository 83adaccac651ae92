"""Supermasks by sampling (Zhou et al. 2019): every weight is kept with a learned probability."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from ltx.masks import straight_through
from ltx.methods import Context, Plan, State
from ltx.methods.search import Scores
from ltx.streams import Streams
from ltx.tensors import Tensors

DRAWS = 10  # masks whose mean accuracy is reported


@dataclass(frozen=True)
class Method(Scores):
    """Train v with mask ~ Bernoulli(sigmoid(v)), straight through; the ticket is the rounded mask, its density emerges.

    v starts at 0. Plain SGD needs a very large rate (100). `draws_test_accuracy` is the mean of 10 drawn masks.
    """

    def plan(self, level: int, steps: int, trunk: Plan | None) -> Plan:
        return replace(super().plan(level, steps, trunk), noise=True, restates=True)

    def start(self, level: int, context: Context) -> State:
        scores = {name: torch.zeros_like(context.init.weights[name]) for name in context.prunable}
        mask, _ = self.ticket(scores, {})
        return State(context.init.weights, context.init.buffers, mask, scores)

    def effective(
        self, weights: Tensors, scores: Tensors, gate: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        def keep(name: str) -> torch.Tensor:
            probability = scores[name].sigmoid()
            threshold = 0.5 if noise is None else 1 - noise[name]
            return straight_through((probability >= threshold).to(probability.dtype), probability)

        return weights | {name: weights[name] * keep(name) for name in scores}

    def ticket(self, scores: Tensors, mask: Tensors) -> tuple[Tensors, Tensors]:
        return {name: score.sigmoid() >= 0.5 for name, score in scores.items()}, scores

    def columns(
        self, end: State, streams: Streams, accuracy: Callable[[Tensors], float]
    ) -> Mapping[str, float | int | str | None]:
        total = 0.0
        for i in range(DRAWS):
            rng = streams.generator("noise", "draw", i)
            total += accuracy(
                {n: torch.from_numpy(rng.random(tuple(t.shape), "float32")) for n, t in end.scores.items()}
            )
        return {"draws_test_accuracy": total / DRAWS}
