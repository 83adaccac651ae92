"""Controls: retrain (or only evaluate) the tickets of a trunk with one thing changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge

from ltx.masks import keep_top, shuffle
from ltx.methods import Context, State, dense, masked
from ltx.methods.biprop import binarised
from ltx.streams import Streams
from ltx.tensors import Tensors

Kind = Literal[
    "ticket",
    "reinit",
    "reinit_signs",
    "signed_constant",
    "shuffle",
    "random",
    "data_order",
    "untrained",
    "own_init",
    "invert",
]
INITIALISED = ("reinit", "reinit_signs", "signed_constant", "own_init")


@dataclass(frozen=True)
class Method(dense.Method):
    """Level L is the trunk's ticket of level L with one thing changed, trained as the trunk's weights were.

    Over a search, which trained none, the control has an optimiser of its own.

    kind, what is changed (Frankle & Carbin 2019; Zhou et al. 2019; Frankle et al. 2021):
        ticket: nothing; with another data group, labels or stream on the trunk this is a transfer of its ticket.
        reinit: the weights, drawn anew from the model's own law.
        reinit_signs: the magnitudes, drawn anew; every weight keeps its sign.
        signed_constant: the magnitudes; every weight is its sign times its layer's root mean square.
        shuffle: the mask, permuted within each layer, each level for itself.
        random: the mask, drawn with each layer's count; the levels of a seed are nested as pruning at random would be.
        data_order: the order (and augmentation) of the data after the anchor.
        untrained: nothing, and it is not trained: the ticket at its anchor, BatchNorm statistics estimated anew.
        own_init: the weights, this run's own initialisation: a mask moved to another seed or data set.
        invert: the mask: of each layer the weights that ranked lowest, by score or by trained magnitude.
    Kinds that draw initial weights train from step 0, the others from the trunk's anchor.
    binarise: start from sign(w) * alpha * mask, alpha = mean |w| over the layer's kept weights.
    """

    extents: ClassVar[frozenset[str]] = frozenset({"levels"})
    needs_trunk: ClassVar[bool] = True

    kind: Kind
    levels: Annotated[int, Ge(0)] | None
    trunk_level: Annotated[int, Ge(0)] | None
    trunk_seed: Annotated[int, Ge(0)] | None
    binarise: Literal[True] | None = None

    @property
    def last_level(self) -> int:
        return 0 if self.trunk_level is not None else self.levels or 0

    def check(self, prunable: Tensors, steps: int) -> None:
        if self.levels is None and self.trunk_level is None:
            raise ValueError("method=control needs trunk={method:imp,...} to stand on")

    def streams(self, streams: Streams) -> Streams:
        if self.kind != "data_order":
            return streams
        return replace(streams, order=streams.other(streams.order), augment=streams.other(streams.augment))

    def steps(self, level: int, steps: int) -> int:
        return 0 if self.kind == "untrained" else steps

    def start(self, level: int, context: Context) -> State:
        assert context.trunk is not None
        trunk = context.trunk(level if self.trunk_level is None else self.trunk_level)
        mask = self.mask(level, trunk, context)
        first = 0 if self.kind in INITIALISED else trunk.step
        weights = self.weights(trunk.weights, context) if self.kind in INITIALISED else trunk.weights
        buffers = context.init.buffers if self.kind in INITIALISED else trunk.buffers
        begin = masked(weights, mask)
        if self.binarise:
            begin |= {name: binarised(weights[name], keep) for name, keep in mask.items()}
        return State(begin, buffers, mask, step=first)

    def weights(self, anchor: Tensors, context: Context) -> Tensors:
        """Return the initial weights of a kind that changes them; biases and normalisation as freshly drawn."""
        if self.kind == "own_init":
            return context.init.weights
        fresh = context.redrawn()
        if self.kind == "reinit":
            return fresh
        signs = {name: anchor[name].sign() for name in context.prunable}
        if self.kind == "reinit_signs":
            return fresh | {name: sign * fresh[name].abs() for name, sign in signs.items()}
        init = context.init.weights
        return fresh | {name: sign * init[name].square().mean().sqrt() for name, sign in signs.items()}

    def mask(self, level: int, trunk: State, context: Context) -> Tensors:
        """Return the mask of the control: the trunk's own, shuffled, inverted, or random with the same counts."""
        mask = trunk.mask
        if self.kind == "invert":
            return {name: keep_top(-trunk.extra[name], int(keep.sum())) for name, keep in mask.items()}
        if self.kind == "shuffle":
            return shuffle(mask, lambda name: context.streams.generator("mask", "shuffle", level, name))
        if self.kind == "random":
            return {name: keep_top(uniform(name, keep, context), int(keep.sum())) for name, keep in mask.items()}
        return mask


def uniform(name: str, like: torch.Tensor, context: Context) -> torch.Tensor:
    """Draw one score per weight, the same at every level."""
    rng = context.streams.generator("mask", "random", name, *like.shape)
    return torch.from_numpy(rng.random(tuple(like.shape)))
