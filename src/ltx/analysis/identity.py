"""What comparing two tickets gives: how much of the masks is shared, how alike the weights are, what lies between."""

from __future__ import annotations

from dataclasses import dataclass, field

from ltx.analysis.connectivity import Barrier
from ltx.analysis.overlap import Null, Overlap

# The orders of the second network's units that are looked at.
IDENTITY, WEIGHTS, ACTIVATIONS = "as they are", "weights matched", "activations matched"
SHOWN = 2.0  # standard deviations above a null from which an overlap is said to be more than it


@dataclass(frozen=True)
class Side:
    """One of the two tickets: where it is, what found it, what it keeps and how good it is on the test part."""

    run: str
    seed: int
    level: int
    found_by: str
    density: float
    accuracy: float
    dead: int  # hidden units that can never matter

    @property
    def name(self) -> str:
        """Write it as a person names it on the command line."""
        return f"{self.run}:{self.seed}:{self.level}"


@dataclass(frozen=True)
class Alike:
    """How alike two networks are with the units of the second in one order, both in their balanced gauge.

    iou: of the masks. cosine: between all weights of a unit, the mean over hidden units. distance: the norm of the
    difference over the root of both squared norms: 0 where equal, 1 where orthogonal. fixed: the share of the hidden
    units that keep their place.
    """

    iou: float
    cosine: float
    distance: float
    fixed: float


@dataclass(frozen=True)
class Line:
    """Loss or error on the straight line between two networks.

    order: of the second's units. part: of the data. restated: BatchNorm statistics are estimated anew at every point.
    """

    order: str
    part: str
    of: str
    restated: bool
    values: list[float]
    barrier: Barrier


@dataclass(frozen=True)
class Ceiling:
    """How much a search shares with itself: its masks of one initialisation, with other data order and scores."""

    of: str
    run: str
    iou: float


@dataclass(frozen=True)
class Identity:
    """Two tickets of networks of one shape, compared.

    same_init: both masks are over the same initial weights. layers: overlap and layer-matched null by layer. nulls: by
    name, all layers together. ceilings: where the store holds a run of the same search; `missing` says how to make the
    others. alike: by the order of the second's units. unrelated: the same after matching, of unrelated inits.
    disagreement: the share of test examples that the two classify differently. notes: what could not be compared.
    """

    one: Side
    other: Side
    same_init: bool
    overlap: Overlap
    layers: dict[str, tuple[Overlap, Null]]
    nulls: dict[str, Null]
    disagreement: float
    alike: dict[str, Alike] = field(default_factory=dict)
    unrelated: list[Alike] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
