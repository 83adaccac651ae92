"""What a level is trained with and in which spans, how it is heard, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ltx.data.splits import Dataset
from ltx.methods import Method, Plan, State
from ltx.streams import Streams
from ltx.tensors import Tensors, under
from ltx.training.form import USUAL, Form
from ltx.training.graphs import capturable
from ltx.training.leaves import masks_alone
from ltx.training.optim import SGD, Adam

Resume = tuple[Tensors, dict[str, Any]]


@dataclass(frozen=True)
class Hooks:
    """How a level under way is heard: rows of the records, progress, and checkpoints at least every `seconds`.

    `check` is called now and then, and raises where the level should not go on.
    """

    record: Callable[[list[dict[str, Any]]], None]
    progress: Callable[[int, float], None]
    checkpoint: Callable[[Tensors, dict[str, Any]], object]
    seconds: float
    check: Callable[[], None] = lambda: None


@dataclass
class Trained:
    """What a level leaves: its end, the point of smallest validation loss, the anchor, and seconds of training.

    `best` holds parameters and buffers by name, scores as `score/name`; it is empty where nothing was trained.
    replicas: how many seeds were trained side by side with it, itself included.
    """

    weights: Tensors
    buffers: Tensors
    scores: Tensors
    mask: Tensors
    best: Tensors
    best_step: int
    anchor: Tensors
    seconds: float
    replicas: int = 1

    @property
    def state(self) -> State:
        """The end as a state."""
        return State(self.weights, self.buffers, self.mask, self.scores)

    def best_state(self, mask: Tensors) -> State | None:
        """Return the network of the smallest validation loss with a mask, None where nothing was trained."""
        if not self.best:
            return None
        weights = {name: self.best[name] for name in self.weights}
        return State(weights, {name: self.best[name] for name in self.buffers}, mask, under("score", self.best))


@dataclass(frozen=True)
class Setup:
    """What one level is trained with.

    compressed: the weights that are trained as their kept values alone (see `rows`). plain: the network is one of ltx's
    own, which draw nothing and do the same at every step. graphs: the steps of such a one may be captured on a GPU (see
    `graphs`).
    """

    network: nn.Module
    method: Method
    state: State
    plan: Plan
    optim: SGD | Adam
    data: Dataset
    streams: Streams
    hooks: Hooks
    form: Form = USUAL
    compressed: Sequence[str] = ()
    plain: bool = False
    graphs: bool = True

    @property
    def simple(self) -> bool:
        """Whether all steps are the same but for batch and rate: those of fixed masks on data in memory."""
        fixed = masks_alone(self.method, self.plan) and not self.compressed
        return self.plain and fixed and capturable(self.data)


class Chunks(torch.utils.data.IterableDataset):
    """The (start, stop) spans of optimiser steps that one training_step each takes."""

    def __init__(self, first: int, last: int, size: int):
        self.spans = [(start, min(start + size, last)) for start in range(first, last, size)]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.spans)
