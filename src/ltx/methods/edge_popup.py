"""Strong tickets by edge-popup (Ramanujan et al. 2020): a mask searched by scores, the weights stay as drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ltx.masks import straight_through, top
from ltx.methods import Context, State, dense, layer, select
from ltx.tensors import Tensors, fans

Density = Annotated[float, Gt(0), Le(1)]
ANNEAL_FROM, ANNEAL_UNTIL = 0.5, 0.5  # density at the start; share of training after which the target is reached


@dataclass(frozen=True)
class Search(dense.Method):
    """What searches by scores share: one score per weight, exactly round(density * n) kept, weights frozen.

    density: kept, of each layer or (scope=global) of all together.
    exclude: layers kept whole, at their random weights.
    anneal: go from density 0.5 to the target geometrically over the first half of training; below 0.1 the plain
        search collapses.
    allow_dead_layers: go on where the density rounds a layer to no weight at all.
    """

    trains: ClassVar[str] = "extra"

    density: Density
    scope: Literal["layer", "global"]
    exclude: list[str]
    anneal: bool
    allow_dead_layers: bool

    @property
    def restates(self) -> bool:
        return self.anneal

    def prunable(self, matrices: list[str]) -> list[str]:
        excluded = {name for pattern in self.exclude for name in select(pattern, matrices)}
        return [name for name in matrices if name not in excluded]

    def check(self, prunable: Tensors, steps: int) -> None:
        if not prunable:
            raise ValueError(f"method.exclude={self.exclude} leaves nothing to mask")
        kept = self.kept(prunable, 1.0)
        dead = [layer(name) for name, k in kept.items() if not k] if isinstance(kept, dict) else [] if kept else ["all"]
        if dead and not self.allow_dead_layers:
            raise ValueError(
                f"method.density={self.density} keeps no weight of layer {', '.join(dead)}; raise it, exclude the "
                "layer, or go on with method.allow_dead_layers=true"
            )

    def check_model(self, biases: list[str], others: list[str]) -> None:
        for names, what, remedy in (
            (biases, "biases contradict", "model.bias=false, or a model without them"),
            (others, "affine norms contradict", "model.affine=false, or a model without them"),
        ):
            if names:
                raise ValueError(f"{what} a search over frozen weights ({', '.join(names)} would be trained): {remedy}")

    def density_at(self, done: float) -> float:
        """Return the density when a share `done` of training is behind."""
        if not self.anneal or self.density >= ANNEAL_FROM:
            return self.density
        return self.density * (ANNEAL_FROM / self.density) ** max(0.0, 1 - done / ANNEAL_UNTIL)

    def kept(self, scores: Mapping[str, Tensor], done: float) -> int | dict[str, int]:
        """Return how many weights are kept when a share `done` of training is behind."""
        density = self.density_at(done)
        if self.scope == "global":
            return round(density * sum(score.numel() for score in scores.values()))
        return {name: round(density * score.numel()) for name, score in scores.items()}

    def start(self, level: int, context: Context) -> State:
        scores = {name: first_score(name, context) for name in context.prunable}
        weights = context.init.weights | self.scaled({name: context.init.weights[name] for name in context.prunable})
        return State(weights, context.init.buffers, self.ticket_mask(scores, {}), scores)

    def ticket_mask(self, extra: Tensors, mask: Tensors) -> Tensors:
        return {name: m.bool() for name, m in top(absolute(extra), self.kept(extra, 1.0)).items()}


def first_score(name: str, context: Context) -> Tensor:
    """Draw the scores of a layer from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    weight = context.init.weights[name]
    bound = 1 / math.sqrt(fans(context.network, name)[0])
    rng = context.streams.generator("mask", "score", name, *weight.shape)
    return torch.from_numpy(rng.uniform(-bound, bound, tuple(weight.shape))).to(weight.dtype)


def absolute(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return |t| by name."""
    return {name: tensor.abs() for name, tensor in tensors.items()}


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
    def every(self) -> int:
        return self.redraw_every if self.redraw else 0

    def scaled(self, weights: Tensors) -> Tensors:
        factor = 1 / math.sqrt(self.density) if self.scale else 1.0
        return {name: weight * factor for name, weight in weights.items()}

    def effective(
        self, weights: Tensors, extra: Tensors, mask: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        soft = absolute(extra)
        hard = top(soft, self.kept(soft, done))
        # the weights carry 1/sqrt(final density); while annealing the factor must follow the density of the moment
        factor = math.sqrt(self.density / self.density_at(done)) if self.scale else 1.0
        return weights | {name: factor * weights[name] * straight_through(hard[name], soft[name]) for name in soft}

    def between(
        self, weights: Tensors, extra: Tensors, mask: Tensors, done: float, rng: Callable[[str], np.random.Generator]
    ) -> tuple[Tensors, Tensors, Tensors]:
        kept = top(absolute(extra), self.kept(extra, done))
        changed = {}
        for name in extra:
            draw, old = rng(name), weights[name].detach()
            # a value of the layer's own law: another of its weights, drawn at random, with a sign of its own
            pick = torch.from_numpy(draw.integers(0, old.numel(), tuple(old.shape))).to(old.device)
            sign = torch.from_numpy(draw.choice([-1.0, 1.0], tuple(old.shape))).to(old.device, old.dtype)
            again = torch.from_numpy(draw.random(tuple(old.shape)) < self.redraw).to(old.device)
            changed[name] = torch.where(again & (kept[name] == 0), old.reshape(-1)[pick].abs() * sign, old)
        return weights | changed, extra, mask
