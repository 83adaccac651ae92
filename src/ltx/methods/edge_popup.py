"""Strong tickets by edge-popup (Ramanujan et al. 2020): a mask searched by scores, the weights stay as drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le

from ltx.masks import straight_through, top
from ltx.methods import Plan
from ltx.methods.search import Search, absolute
from ltx.tensors import Tensors


@dataclass(frozen=True)
class Method(Search):
    """Keep the largest |score| of each layer; the gradient goes straight through: dL/ds = dL/dw * w * sign(s).

    scale: multiply the initial weights by 1/sqrt(density), so that the kept ones carry the variance of all.
    redraw: share of the pruned weights drawn anew every `redraw_every` steps (IteRand, Chijiwa et al. 2021); 0: never.
        Signs are drawn and magnitudes resampled from the layer's own: exact for signed constants, nearly so otherwise.
    """

    scale: bool
    redraw: Annotated[float, Ge(0), Le(1)]
    redraw_every: Annotated[int, Ge(1)]

    @property
    def factor(self) -> float:
        return 1 / math.sqrt(self.density) if self.scale else 1.0

    def plan(self, level: int, steps: int, trunk: Plan | None) -> Plan:
        return replace(super().plan(level, steps, trunk), every=self.redraw_every if self.redraw else 0)

    def effective(
        self, weights: Tensors, scores: Tensors, gate: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        soft = absolute(scores)
        hard = top(soft, self.kept(soft, done))
        # the weights carry 1/sqrt(final density); while annealing the factor must follow the density of the moment
        factor = math.sqrt(self.density / self.density_at(done)) if self.scale else 1.0
        return weights | {name: factor * weights[name] * straight_through(hard[name], soft[name]) for name in soft}

    def between(
        self, weights: Tensors, scores: Tensors, mask: Tensors, done: float, rng: Callable[[str], np.random.Generator]
    ) -> tuple[Tensors, Tensors, Tensors]:
        kept = top(absolute(scores), self.kept(scores, done))
        changed = {}
        for name in scores:
            draw, old = rng(name), weights[name].detach()
            # the new value is the magnitude of another weight of the layer, drawn at random, with a sign drawn for it
            pick = torch.from_numpy(draw.integers(0, old.numel(), tuple(old.shape))).to(old.device)
            sign = torch.from_numpy(draw.choice([-1.0, 1.0], tuple(old.shape))).to(old.device, old.dtype)
            again = torch.from_numpy(draw.random(tuple(old.shape)) < self.redraw).to(old.device)
            changed[name] = torch.where(again & (kept[name] == 0), old.reshape(-1)[pick].abs() * sign, old)
        return weights | changed, scores, mask
