"""What every method is: pure functions of one network, from (weights, extra, mask) to the weights the network sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import ClassVar, Protocol

import numpy as np
from torch import Tensor, nn

from ltx.errors import nearest
from ltx.streams import Streams
from ltx.tensors import Tensors


@dataclass(frozen=True)
class State:
    """One network at one moment: all parameters, buffers, what else is trained (`extra`: scores), and the mask.

    `mask` holds exactly the prunable parameters, bool. Tensors are on the CPU and never changed in place.
    `step` is the absolute step the state stands at.
    """

    weights: Tensors
    buffers: Tensors
    mask: Tensors
    extra: Tensors = field(default_factory=dict)
    step: int = 0


@dataclass(frozen=True)
class Context:
    """What `start` may look at: the initialisation, the anchor, the end of the parent level, and the random streams.

    `prunable` names the parameters that the mask holds. At level 0 anchor and previous are the initialisation.
    `redrawn` draws the model's initialisation once more, otherwise. `network` is a scratch module for functional_call,
    batch(i) a training batch. `trunk` gives the anchor of a level of the run this one stands on, with that level's
    mask and scores.
    """

    prunable: list[str]
    init: State
    anchor: State
    previous: State
    streams: Streams
    redrawn: Callable[[], Tensors]
    network: nn.Module
    batch: Callable[[int], tuple[Tensor, Tensor]]
    trunk: Callable[[int], State] | None = None


class Method(Protocol):
    """The protocol of a method; `methods/<name>.py` holds one as a frozen dataclass named Method."""

    extents: ClassVar[frozenset[str]]  # fields that may grow without making another run: they stay out of its key
    trains: ClassVar[str]  # the tree that receives gradients: "weights" or "extra"
    needs_trunk: ClassVar[bool]
    noisy: ClassVar[bool]  # effective weights are random while training
    score_range: ClassVar[tuple[float, float] | None]  # what scores are clamped to after every step, None: nothing

    @property
    def restates(self) -> bool:
        """Tell whether training sees other weights than the ticket's, so that BatchNorm statistics must be estimated.

        That is so where masks are drawn, annealed or frozen off by steps.
        """

    @property
    def every(self) -> int:
        """Return after how many steps `between` is called, 0 for never."""

    @property
    def last_level(self) -> int:
        """Return the last level: levels run from 0."""

    @property
    def anchor_step(self) -> int:
        """Return the step of level 0 whose state is the anchor."""

    def prunable(self, matrices: list[str]) -> list[str]:
        """Return the parameters to mask, in order. Raises ValueError for an unknown layer."""

    def check(self, prunable: Tensors, steps: int) -> None:
        """Raise ValueError where the fields do not fit the network's shapes (meta tensors) or the run's length."""

    def streams(self, streams: Streams) -> Streams:
        """Return the random streams that training sees."""

    def steps(self, level: int, steps: int) -> int:
        """Return the step at which a level ends."""

    def parent(self, level: int) -> int:
        """Return the level whose end this level starts from, the level itself where it starts from no other."""

    def rate_step(self, level: int, step: int, steps: int) -> int:
        """Return the step at which the learning-rate schedule is read."""

    def start(self, level: int, context: Context) -> State:
        """Return the state that the level starts from."""

    def check_model(self, biases: list[str], others: list[str]) -> None:
        """Raise ValueError, with the remedy, where what a model has beside its matrices contradicts the method.

        `biases` are the names of those of layers with matrices, `others` of all the rest: norms, embeddings.
        """

    def effective(
        self, weights: Tensors, extra: Tensors, mask: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        """Return the weights the network sees; pure and differentiable, one network at a time.

        `done` is the share of training behind (1: the final ticket), `noise` uniform draws where `noisy`.
        """

    def between(
        self, weights: Tensors, extra: Tensors, mask: Tensors, done: float, rng: Callable[[str], np.random.Generator]
    ) -> tuple[Tensors, Tensors, Tensors]:
        """Return weights, extra and mask changed between two steps; called every `every` steps (0: never)."""

    def settled(self, mask: Tensors) -> bool:
        """Tell whether the ticket has its density, so that a best step may be chosen."""

    def scaled(self, weights: Tensors) -> Tensors:
        """Return initial weights of masked layers as the method starts from them."""

    def ranks(self, extra: Tensors) -> Tensors:
        """Return what orders the weights by the trained scores; higher was kept."""

    def ticket_mask(self, extra: Tensors, mask: Tensors) -> Tensors:
        """Return the mask of the trained ticket, bool."""


def layer(parameter: str) -> str:
    """Return the layer's name: `fc1` of `fc1.weight`."""
    return parameter.removesuffix(".weight")


def select(pattern: str, matrices: list[str]) -> list[str]:
    """Return the parameters a layer name or glob means; `output` and `input` mean the last and the first one.

    Raises ValueError naming the nearest layer.
    """
    if pattern in ("output", "input"):
        return [matrices[-1 if pattern == "output" else 0]]
    found = [name for name in matrices if fnmatch(layer(name), pattern)]
    if not found:
        raise ValueError(f"no layer is named '{pattern}'{nearest(pattern, ['output', 'input', *map(layer, matrices)])}")
    return found


def masked(weights: Tensors, mask: Tensors) -> Tensors:
    """Multiply every masked weight by its mask, inside the graph: the gradient of a pruned weight is exactly zero."""
    return weights | {name: weights[name] * keep for name, keep in mask.items()}
