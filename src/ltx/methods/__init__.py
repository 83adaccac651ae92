"""What every method is: pure functions of one network, from (weights, scores, mask) to the weights the network sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from ltx.errors import nearest
from ltx.streams import Streams
from ltx.tensors import Tensors, matrices, norms

Trains = Literal["weights", "scores"]


@dataclass(frozen=True)
class State:
    """One network at one moment: all parameters, buffers, scores (of a search) and the mask.

    `mask` holds exactly the prunable parameters, bool. Tensors are on the CPU and never changed in place.
    `step` is the absolute step the state stands at. `sample` is what a method without gradients found out at a level
    beside the network, by names of its own; the level's file keeps it.
    """

    weights: Tensors
    buffers: Tensors
    mask: Tensors
    scores: Tensors = field(default_factory=dict)
    step: int = 0
    sample: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What one level does, known before it is trained. All steps are absolute.

    parent: the level whose end this one starts from; the level itself where it starts from none.
    first, last: the level trains from `first` to `last`; where they are equal it is only measured.
    anchor: the step whose state later levels rewind to; None above level 0.
    rate_at: the step at which the learning-rate schedule is read throughout; None: at each step itself.
    every: how many steps lie between two calls of `between`; 0: it is never called.
    noise: the effective weights are random while training.
    restates: training sees other weights than the ticket's (masks are drawn, annealed or frozen off), so that
        BatchNorm statistics are estimated anew for the ticket.
    best_from: the first step that may be chosen for its validation loss.
    clamp: the range that scores are held in after every step; None: they are free.
    other_order: the data come in another order, with other augmentation.
    """

    level: int
    parent: int
    first: int
    last: int
    anchor: int | None = None
    rate_at: int | None = None
    every: int = 0
    noise: bool = False
    restates: bool = False
    best_from: int = 0
    clamp: tuple[float, float] | None = None
    other_order: bool = False


@dataclass(frozen=True)
class Layout:
    """The parameters of a network: those the method prunes by name, and the names of what is no matrix.

    biases: beside matrices. norms: of normalisation layers, their biases included. others: embeddings and the like.
    network: the module itself, on `meta`. fields: what the config of the model may set, so that a remedy names nothing
    that is not there. task: what the data ask for.
    """

    prunable: Tensors
    biases: list[str]
    norms: list[str]
    others: list[str]
    network: nn.Module
    fields: frozenset[str] = frozenset()
    task: str = "classification"

    @classmethod
    def of(cls, network: nn.Module, prunable: list[str], fields: Iterable[str], task: str) -> Layout:
        """Return the layout of a network whose parameters `prunable` the method prunes, on data of a task."""
        matrix, norm = matrices(network), norms(network)
        layers = {name.rpartition(".")[0] for name in matrix}
        rest = [name for name, _ in network.named_parameters() if name not in {*matrix, *norm}]
        biases = [name for name in rest if name.rpartition(".")[0] in layers]
        others = [name for name in rest if name not in biases]
        masked: Tensors = {name: network.get_parameter(name) for name in prunable}
        return cls(masked, biases, norm, others, network, frozenset(fields), task)


@dataclass(frozen=True)
class Context:
    """What a level may look at when it starts.

    prunable: the names of the parameters that the mask holds; for a control all matrices, of which its trunk's masks
        hold those that the trunk prunes.
    init: the initialisation. anchor, previous: the anchor, and the end of the parent level; at level 0 the
        initialisation.
    redrawn: draws a second, different initialisation. drawn(i): draws number i of a series of others.
    network: a scratch module for torch.func.functional_call. batch(i): a training batch.
    loss(weights, batch): the task's loss of the network's outputs on a batch, logits divided by a temperature.
    measure(state, part): loss and accuracy of a state on `train` or `val`.
    examples(part, most): x and y of `train`, `val` or `test`, a fixed random subset where there are more than `most`.
        What is measured on `test` may only be reported: it chooses nothing.
    device: where computing is asked for; all tensors here are on the CPU.
    trunk(level): the anchor of the run this one stands on, with the mask and the ranks of one of its levels.
    dense(own): the trained dense network of that run, the end of its level 0: of the seed that this one stands on, or
        of this seed itself.
    """

    prunable: list[str]
    init: State
    anchor: State
    previous: State
    streams: Streams
    redrawn: Callable[[], Tensors]
    drawn: Callable[[int], Tensors]
    network: nn.Module
    batch: Callable[[int], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    measure: Callable[[State, str], tuple[float, float]]
    examples: Callable[[str, int], tuple[Tensor, Tensor]]
    device: str = "cpu"
    trunk: Callable[[int], State] | None = None
    dense: Callable[[bool], State] | None = None


class Method(Protocol):
    """The protocol of a method; `methods/<name>.py` holds one as a frozen dataclass named Method."""

    extents: ClassVar[frozenset[str]]  # fields that may grow without making another run: they stay out of its key
    trains: ClassVar[Trains]  # what receives gradients
    needs_trunk: ClassVar[bool]

    @property
    def last_level(self) -> int:
        """Return the last level: levels run from 0."""

    @property
    def factor(self) -> float:
        """Return what the method multiplies the initial weights of masked layers by."""

    @property
    def trains_norms(self) -> bool:
        """Tell whether a search trains the parameters of norms beside its scores; it trains nothing else."""

    @property
    def needs_symmetry(self) -> bool:
        """Tell whether the method renames or rescales hidden units, so that the network's table of them must hold."""

    def prunable(self, matrices: list[str]) -> list[str]:
        """Return the parameters to mask, in order. Raises ValueError for an unknown layer."""

    def check(self, layout: Layout, steps: int) -> None:
        """Raise ValueError, with the remedy, where the fields do not fit the network or the run's length."""

    def plan(self, level: int, steps: int, trunk: Plan | None) -> Plan:
        """Return the plan of a level; `steps` is a run's length, `trunk` the plan of the trunk's level 0."""

    def start(self, level: int, context: Context) -> State:
        """Return the state that the level starts from, standing at the plan's first step."""

    def effective(
        self, weights: Tensors, scores: Tensors, gate: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        """Return the weights the network sees; pure and differentiable, one network at a time.

        `gate` is the mask as numbers, 0 and 1 (bools are multiplied four times as slowly). `done` is the share of
        training behind (1: the final ticket), `noise` uniform draws where the plan has noise.
        """

    def between(
        self, weights: Tensors, scores: Tensors, mask: Tensors, done: float, rng: Callable[[str], np.random.Generator]
    ) -> tuple[Tensors, Tensors, Tensors]:
        """Return weights, scores and mask (bool) changed between two steps; the plan says how often."""

    def ticket(self, scores: Tensors, mask: Tensors) -> tuple[Tensors, Tensors]:
        """Return the mask of the trained ticket, bool, and what ranked its weights: higher was kept.

        The ranks are empty where trained weights rank themselves by magnitude.
        """

    def value_bits(self, kept: int, width: int) -> int:
        """Return the bits it takes to write the kept values of a matrix down; `width` are those of one number."""

    def columns(
        self, end: State, streams: Streams, accuracy: Callable[[Tensors], float]
    ) -> Mapping[str, float | int | str | None]:
        """Return further columns of the level's row; `accuracy(noise)` is the test accuracy under a drawn mask."""


@runtime_checkable
class WithoutGradients(Protocol):
    """A method whose levels are computed and not trained: sampling, random search, constructions.

    `work(level)`, if it has that too, says how many masks a level scores. Each takes about as long as an optimiser step
    of a small network, and progress and estimates count it as one.
    """

    def advance(
        self, level: int, previous: State, context: Context
    ) -> tuple[State, Mapping[str, float | int | str | None]]:
        """Return the end of a level, made from the end of the one before, and further columns of its row.

        At level 0 `previous` is the initialisation times the method's factor, with a mask of all.
        """


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


def without(exclude: list[str], matrices: list[str]) -> list[str]:
    """Return the parameters that no pattern of `exclude` means. Raises ValueError for an unknown layer."""
    excluded = {name for pattern in exclude for name in select(pattern, matrices)}
    return [name for name in matrices if name not in excluded]


def nothing_left(exclude: list[str], what: str) -> str:
    """Say that `exclude` keeps all layers whole, and the remedy."""
    return f"method.exclude=[{','.join(exclude)}] leaves nothing to {what}; method.exclude=[] leaves no layer out"


def masked(weights: Tensors, gate: Tensors) -> Tensors:
    """Multiply every masked weight by its mask, inside the graph: the gradient of a pruned weight is exactly zero."""
    return weights | {name: weights[name] * keep for name, keep in gate.items()}
