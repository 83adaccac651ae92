"""Supermasks by sampling (Zhou et al. 2019): every weight is kept with a learned probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ltx.masks import straight_through
from ltx.methods import Context, State, dense
from ltx.methods.edge_popup import Method as EdgePopup
from ltx.tensors import Tensors


@dataclass(frozen=True)
class Method(dense.Method):
    """Train v with mask ~ Bernoulli(sigmoid(v)), straight through; the ticket is the rounded mask, its density emerges.

    v starts at 0. Plain SGD needs a very large rate (100). `draws_test_accuracy` is the mean of 10 drawn masks.
    """

    trains: ClassVar[str] = "extra"
    noisy: ClassVar[bool] = True
    check_model = EdgePopup.check_model

    def start(self, level: int, context: Context) -> State:
        scores = {name: torch.zeros_like(context.init.weights[name]) for name in context.prunable}
        return State(context.init.weights, context.init.buffers, self.ticket_mask(scores, {}), scores)

    def effective(
        self, weights: Tensors, extra: Tensors, mask: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        def keep(name: str) -> torch.Tensor:
            probability = extra[name].sigmoid()
            threshold = 0.5 if noise is None else 1 - noise[name]
            return straight_through((probability >= threshold).to(probability.dtype), probability)

        return weights | {name: weights[name] * keep(name) for name in extra}

    def ranks(self, extra: Tensors) -> Tensors:
        return extra

    def ticket_mask(self, extra: Tensors, mask: Tensors) -> Tensors:
        return {name: score.sigmoid() >= 0.5 for name, score in extra.items()}
