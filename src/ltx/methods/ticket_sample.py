"""How good random tickets are: blocks of random masks of the network as it was drawn, and the best of them so far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from ltx.analysis.quality import BLOCK, Examples, Quality, drawn, fitting, joined, quality, subsets
from ltx.methods import Context, Layout, Plan, State, dense, nothing_left, without
from ltx.methods.counts import Density, check_alive, shapes
from ltx.tensors import Tensors

FITTED = 256  # examples that a temperature is fitted to, at most: it is one number, and each costs eight passes
SCORED = 2_000  # examples that a quality is the mean of, at most


@dataclass(frozen=True)
class Tickets(dense.Method):
    """What sampling and splitting share: networks that keep exactly round(density * n) of each layer, never trained."""

    extents: ClassVar[frozenset[str]] = frozenset({"levels"})

    density: Density
    levels: Annotated[int, Ge(0)]
    examples: Annotated[int, Ge(1)] | None
    exclude: list[str]
    allow_dead_layers: bool

    @property
    def last_level(self) -> int:
        return self.levels

    @property
    def factor(self) -> float:
        return 1 / math.sqrt(self.density)

    def prunable(self, matrices: list[str]) -> list[str]:
        return without(self.exclude, matrices)

    def check(self, layout: Layout, steps: int) -> None:
        if not layout.prunable:
            raise ValueError(nothing_left(self.exclude, "mask"))
        check_network(layout)
        check_alive(self.kept(layout.prunable), self.density, self.allow_dead_layers)

    def kept(self, tensors: Tensors) -> dict[str, int]:
        """Return how many weights each of these layers keeps."""
        return {name: round(self.density * shape.numel()) for name, shape in shapes(tensors).items()}

    def kept_of_all(self, weights: Tensors, prunable: list[str]) -> dict[str, int]:
        """Return how many weights every layer keeps, those that are not prunable all of theirs."""
        whole = {name: weight.numel() for name, weight in weights.items()}
        return whole | self.kept({name: weights[name] for name in prunable})

    def plan(self, level: int, steps: int, trunk: Plan | None) -> Plan:
        return Plan(level, parent=max(0, level - 1), first=0, last=0, anchor=None if level else 0)

    def end(self, weights: Tensors, mask: Tensors, previous: State, sample: Tensors) -> State:
        """Return the end of a level whose ticket is a mask of the prunable layers, over the initial weights."""
        effective = {name: weights[name] * self.factor * keep for name, keep in mask.items()}
        return replace(previous, weights=weights | effective, mask=mask, sample=sample)


@dataclass(frozen=True)
class Method(Tickets):
    """Draw masks that keep exactly round(density * n) of each layer, and measure the quality of each.

    A level is a block of 10,000 masks. Its mask is the best of this and all earlier blocks; the qualities of the block
    stand beside it as `sample/quality`, with `sample/dead` where the network's output is constant.
    density: kept, of each layer; the weights are multiplied by 1/sqrt(density), which keeps their variance.
    levels: the last block.
    population: masks of one init; or inits under one mask, and then the level's weights are those of the best init.
    Null for masks.
    examples: how many are scored at most; null for 2,000.
    exclude: layers kept whole, at their random weights.
    allow_dead_layers: go on where the density rounds a layer to no weight at all.
    """

    population: Literal["masks", "inits"] | None

    def work(self, level: int) -> int:
        """Return how many masks a level scores."""
        return BLOCK

    def advance(
        self, level: int, previous: State, context: Context
    ) -> tuple[State, Mapping[str, float | int | str | None]]:
        seen = examples(context, self.examples or SCORED).to(context.device)
        best = float(previous.sample["best"]) if level else -math.inf
        end, parts = previous, []
        for weights, masks in self.networks(level, context, seen):
            found = quality(weights, masks, seen)
            parts.append(found)
            place = int(found.quality.argmax())
            if found.quality[place] > best:
                best = float(found.quality[place])
                own = {name: (w if w.ndim == 2 else w[place]).cpu().clone() for name, w in weights.items()}
                end = self.end(own, {name: masks[name][place].cpu().clone() for name in context.prunable}, previous, {})
        block = joined(parts)
        sample = {
            "quality": torch.from_numpy(block.quality),
            "dead": torch.from_numpy(block.dead),
            "best": torch.tensor([best], dtype=torch.float64),
        }
        columns = {"best": best, **columns_of(block, len(list(previous.weights.values())[-1]))}
        return replace(end, sample=sample), columns

    def networks(self, level: int, context: Context, seen: Examples) -> Iterator[tuple[Tensors, Tensors]]:
        """Yield the networks of a block, as many at once as memory bounds: weights, of all or of each, and masks."""
        weights = {name: weight.to(context.device) for name, weight in context.init.weights.items()}
        kept, sizes, at_once = self.kept_of_all(weights, context.prunable), shapes(weights), fitting(weights, seen)
        if self.population != "inits":
            for masks in drawn(sizes, kept, context.streams, level, at_once, context.device):
                yield weights, masks
            return
        one = {}
        for name, shape in sizes.items():
            rng = context.streams.generator("mask", "one mask", name, *shape)
            one[name] = subsets(1, shape.numel(), kept[name], rng, context.device).reshape(1, *shape)
        for start in range(level * BLOCK, (level + 1) * BLOCK, at_once):
            inits = [context.drawn(i) for i in range(start, min(start + at_once, (level + 1) * BLOCK))]
            own = {name: torch.stack([init[name] for init in inits]).to(context.device) for name in weights}
            yield own, {name: mask.expand(len(inits), -1, -1) for name, mask in one.items()}


def columns_of(block: Quality, classes: int) -> dict[str, float]:
    """Return what a row says of a block: mean and sd of all its qualities, and the shares that know nothing.

    dead: masks whose output is constant. atom: masks whose best temperature leaves all classes alike, -log(classes).
    """
    return {
        "block_mean": float(block.quality.mean()),
        "block_sd": float(block.quality.std(ddof=1)),
        "dead": block.dead_share,
        "atom": float(np.mean(block.quality == -math.log(classes))),
    }


def examples(context: Context, most: int = SCORED) -> Examples:
    """Return the examples that tell a quality, the same for all seeds and blocks, at most `most` of them scored.

    Temperatures are fitted to the validation part and scored on the training part: nothing is trained, so that the
    training part is as new to the network as any other and the largest there is, and the best of very many masks is
    the less a matter of the examples it was chosen by. The test part chooses nothing.
    """
    return examples_of(context.examples("val", FITTED), context.examples("train", most))


def examples_of(fitted: tuple[Tensor, Tensor], scored: tuple[Tensor, Tensor]) -> Examples:
    """Return the examples that temperatures are fitted to and those that are scored, x and y each, as one."""
    (x, y), (more_x, more_y) = fitted, scored
    return Examples(torch.cat([x, more_x]).flatten(1).float(), torch.cat([y, more_y]), len(y))


def check_network(layout: Layout) -> None:
    """Raise ValueError for anything but a bias-free ReLU network of fully connected layers that tells classes apart."""
    only = "many masks at once are computed for plain fully connected ReLU networks alone"
    if not getattr(layout.network, "fully_connected", False):
        raise ValueError(f"{only}, and this network is another: model=lenet or model=mlp")
    if layout.task != "classification":
        raise ValueError(
            f"a ticket's quality is minus the cross-entropy of classes, and data of {layout.task} have none; take data "
            "with classes"
        )
    if not all(isinstance(part, nn.Linear) for part in layout.network.children()):
        raise ValueError(f"{only}, and this one has norms: model.norm=null does without")
    if layout.biases:
        raise ValueError(f"{only}, without biases, and this one has some: model.bias=false does without")
