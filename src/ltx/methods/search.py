"""What searches by scores share: a score per weight, an exact count kept, the weights as they were drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ltx.masks import top
from ltx.methods import Context, Layout, Plan, State, Trains, dense, nothing_left, without
from ltx.methods.counts import Density, Kept, Scope, check_alive, kept, shapes
from ltx.tensors import Tensors, fans

ANNEAL_FROM = 0.5  # the density that annealing starts at
ANNEAL_UNTIL = 0.5  # the share of training after which the target density is reached


@dataclass(frozen=True)
class Search(dense.Method):
    """One score per weight, exactly round(density * n) of the largest kept, weights frozen.

    density: kept, of each layer, of all together or by the layers' shapes (see `counts`).
    exclude: layers kept whole, at their random weights.
    anneal: go from density 0.5 to the target geometrically over the first half of training; below 0.1 the plain
        search collapses.
    allow_dead_layers: go on where the density rounds a layer to no weight at all.
    """

    trains: ClassVar[Trains] = "scores"
    trains_norms: ClassVar[bool] = False  # affine norms are allowed, and trained beside the scores

    density: Density
    scope: Scope
    exclude: list[str]
    anneal: bool
    allow_dead_layers: bool

    def prunable(self, matrices: list[str]) -> list[str]:
        return without(self.exclude, matrices)

    def check(self, layout: Layout, steps: int) -> None:
        if not layout.prunable:
            raise ValueError(nothing_left(self.exclude, "mask"))
        check_frozen(layout.biases, [] if self.trains_norms else layout.others)
        check_alive(self.kept(layout.prunable, 1.0), self.density, self.allow_dead_layers)

    def plan(self, level: int, steps: int, trunk: Plan | None) -> Plan:
        return replace(super().plan(level, steps, trunk), restates=self.anneal)

    def density_at(self, done: float) -> float:
        """Return the density when a share `done` of training is behind."""
        if not self.anneal or self.density >= ANNEAL_FROM:
            return self.density
        return self.density * (ANNEAL_FROM / self.density) ** max(0.0, 1 - done / ANNEAL_UNTIL)

    def kept(self, scores: Mapping[str, Tensor], done: float) -> Kept:
        """Return how many weights are kept when a share `done` of training is behind."""
        return kept(shapes(scores), self.density_at(done), self.scope)

    def start(self, level: int, context: Context) -> State:
        scores = {name: first_score(name, context) for name in context.prunable}
        scaled = {name: context.init.weights[name] * self.factor for name in context.prunable}
        mask, _ = self.ticket(scores, {})
        return State(context.init.weights | scaled, context.init.buffers, mask, scores)

    def ticket(self, scores: Tensors, mask: Tensors) -> tuple[Tensors, Tensors]:
        ranks = absolute(scores)
        return {name: m.bool() for name, m in top(ranks, self.kept(scores, 1.0)).items()}, ranks


def check_frozen(biases: list[str], others: list[str]) -> None:
    """Raise ValueError where a network has parameters that a search over frozen weights would have to train."""
    for names, what, remedy in (
        (biases, "biases contradict", "model.bias=false, or a model without them"),
        (others, "affine norms contradict", "model.affine=false, or a model without them"),
    ):
        if names:
            raise ValueError(f"{what} a search over frozen weights ({', '.join(names)} would be trained): {remedy}")


def first_score(name: str, context: Context) -> Tensor:
    """Draw the scores of a layer from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    weight = context.init.weights[name]
    bound = 1 / math.sqrt(fans(context.network, name)[0])
    rng = context.streams.generator("mask", "score", name, *weight.shape)
    return torch.from_numpy(rng.uniform(-bound, bound, tuple(weight.shape))).to(weight.dtype)


def absolute(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return |t| by name."""
    return {name: tensor.abs() for name, tensor in tensors.items()}
