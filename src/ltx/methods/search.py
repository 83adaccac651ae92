"""What searches by scores share: a score per weight, an exact count kept, the weights as they were drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ltx.masks import top
from ltx.methods import Context, Layout, Plan, State, Trains, dense, nothing_left, without
from ltx.methods.counts import Density, Kept, Scope, check_alive, kept, shapes
from ltx.tensors import Tensors, fans

ANNEAL_FROM = 0.5  # the density that annealing starts at
ANNEAL_UNTIL = 0.5  # the share of training after which the target density is reached


@dataclass(frozen=True)
class Scores(dense.Method):
    """What every search is: scores are trained, and the network's own parameters stay as they were drawn.

    A network that has more than matrices needs a word on the rest:
    freeze: biases, norms and all else stay as they were drawn.
    train_norms: norms are trained beside the scores by the same optimiser, all else stays as it was drawn.
    """

    trains: ClassVar[Trains] = "scores"

    freeze: Literal[True] | None = field(default=None, kw_only=True)
    train_norms: Literal[True] | None = field(default=None, kw_only=True)

    @property
    def trains_norms(self) -> bool:
        return self.train_norms is True

    def check(self, layout: Layout, steps: int) -> None:
        if self.freeze and self.train_norms:
            raise ValueError(
                "method.freeze=true leaves norms as they are drawn and method.train_norms=true trains them: give one "
                "of the two; with train_norms all but norms stays as it is drawn, too"
            )
        if self.train_norms and not layout.norms:
            raise ValueError(without_norms(layout))
        if not self.freeze and not self.train_norms:
            check_scores_alone(layout)


@dataclass(frozen=True)
class Search(Scores):
    """One score per weight, exactly round(density * n) of the largest kept, weights frozen.

    density: kept, of each layer, of all together or by the layers' shapes (see `counts`).
    exclude: layers kept whole, at their random weights.
    anneal: go from density 0.5 to the target geometrically over the first half of training; below 0.1 the plain
        search collapses.
    allow_dead_layers: go on where the density rounds a layer to no weight at all.
    """

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
        super().check(layout, steps)
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


def check_scores_alone(layout: Layout) -> None:
    """Raise ValueError where a network has more than matrices, with what is there and the ways to go on."""
    found = {"biases": layout.biases, "affine norms": layout.norms, "other parameters": layout.others}
    there = [f"{what} ({listed(names)})" for what, names in found.items() if names]
    if not there:
        return
    ways = ["method.freeze=true leaves all of that as drawn"]
    if layout.norms:
        ways.append("method.train_norms=true trains the norms beside the scores and leaves the rest as drawn")
    switches = {"bias": layout.biases, "affine": layout.norms}
    off = [f"model.{name}=false" for name, names in switches.items() if names and name in layout.fields]
    if off:
        ways.append(f"{' and '.join(off)} {'do' if len(off) > 1 else 'does'} without")
    raise ValueError(
        f"a search trains nothing but scores, but this network also has {' and '.join(there)}: {'; '.join(ways)}"
    )


def without_norms(layout: Layout) -> str:
    """Say that there are no norms to train, what is there instead, and what would change that."""
    usual = {"norm": "batch", "affine": "true"}
    switches = [f"model.{name}={value}" for name, value in usual.items() if name in layout.fields]
    rest = [*layout.biases, *layout.others]
    found = f" ({listed(rest)} belong to none)" if rest else ""
    remedy = f"give {' and '.join(switches)}, or leave it out" if switches else "leave it out"
    return f"method.train_norms=true, but this network has no affine norms{found}: {remedy}"


def listed(names: list[str]) -> str:
    """Write some names, the first four of many."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def first_score(name: str, context: Context) -> Tensor:
    """Draw the scores of a layer from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    weight = context.init.weights[name]
    bound = 1 / math.sqrt(fans(context.network, name)[0])
    rng = context.streams.generator("mask", "score", name, *weight.shape)
    return torch.from_numpy(rng.uniform(-bound, bound, tuple(weight.shape))).to(weight.dtype)


def absolute(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return |t| by name."""
    return {name: tensor.abs() for name, tensor in tensors.items()}
