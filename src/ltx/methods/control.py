"""Controls: retrain (or only evaluate) the tickets of a trunk with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge

from ltx.errors import nearest
from ltx.masks import keep_top, shuffle
from ltx.methods import Context, Layout, Plan, State, dense, masked
from ltx.methods.biprop import binarised
from ltx.symmetry import table_of, verify
from ltx.symmetry.gauge import balanced, folded, permuted
from ltx.symmetry.matching import weight_matching
from ltx.tensors import Tensors

Change = Callable[[State, Context, int], State]


@dataclass(frozen=True)
class Kind:
    """What a control changes.

    change(trunk, context, level): the trunk's anchor with the mask and ranks of its ticket, changed.
    drawn: initial weights are drawn, so that training begins at step 0 and with fresh buffers.
    trained: false where the ticket is only measured, BatchNorm statistics estimated anew.
    other_order: the data come in another order, with other augmentation, after the anchor.
    """

    change: Change
    drawn: bool = False
    trained: bool = True
    other_order: bool = False


def as_it_is(trunk: State, context: Context, level: int) -> State:
    """Change nothing: what the trunk's other data, labels or stream do is tested."""
    return trunk


def reinit(trunk: State, context: Context, level: int) -> State:
    """Draw the weights anew from the model's own law (Frankle & Carbin 2019)."""
    return replace(trunk, weights=context.redrawn())


def reinit_signs(trunk: State, context: Context, level: int) -> State:
    """Draw the magnitudes anew; every weight keeps its sign (Zhou et al. 2019)."""
    fresh = context.redrawn()
    signs = {name: trunk.weights[name].sign() for name in context.prunable}
    return replace(trunk, weights=fresh | {name: sign * fresh[name].abs() for name, sign in signs.items()})


def signed_constant(trunk: State, context: Context, level: int) -> State:
    """Make every weight its sign times its layer's root mean square (Zhou et al. 2019)."""
    size = {name: context.init.weights[name].square().mean().sqrt() for name in context.prunable}
    constant = {name: trunk.weights[name].sign() * size[name] for name in context.prunable}
    return replace(trunk, weights=context.redrawn() | constant)


def own_init(trunk: State, context: Context, level: int) -> State:
    """Take this run's own initialisation: a mask moved to another seed or data set."""
    return replace(trunk, weights=context.init.weights)


def shuffled(trunk: State, context: Context, level: int) -> State:
    """Permute the mask within each layer, each level for itself (Frankle et al. 2021)."""
    mask = shuffle(trunk.mask, lambda name: context.streams.generator("mask", "shuffle", level, name))
    return replace(trunk, mask=mask)


def random(trunk: State, context: Context, level: int) -> State:
    """Draw the mask with each layer's count; the levels of a seed are nested as pruning at random would be."""

    def score(name: str, like: torch.Tensor) -> torch.Tensor:
        rng = context.streams.generator("mask", "random", name, *like.shape)  # the same at every level
        return torch.from_numpy(rng.random(tuple(like.shape)))

    return replace(trunk, mask={n: keep_top(score(n, keep), int(keep.sum())) for n, keep in trunk.mask.items()})


def transported(trunk: State, context: Context, level: int) -> State:
    """Take this run's own initialisation, and the mask with its units in the order of this run's (Adnan et al. 2025).

    The order is the one in which the trained dense network that the mask comes from is most like the trained dense
    network of this run's own seed, both in their balanced gauge.
    """
    assert context.dense is not None
    table = table_of(context.network)

    def canonical(state: State) -> Tensors:
        context.network.load_state_dict(state.weights | state.buffers)
        verify(context.network, table, context.batch(0)[0], context.streams.generator("mask", "verify"))
        return balanced(folded(context.network, table, torch.float64).state_dict(), table)

    own, other = canonical(context.dense(True)), canonical(context.dense(False))
    orders = weight_matching(own, other, table, context.streams.generator("mask", "matching"))
    return replace(trunk, weights=context.init.weights, mask=permuted(trunk.mask, table, orders))


def inverted(trunk: State, context: Context, level: int) -> State:
    """Keep of each layer the weights that ranked lowest, by score or by trained magnitude."""
    return replace(trunk, mask={n: keep_top(-trunk.scores[n], int(keep.sum())) for n, keep in trunk.mask.items()})


KINDS = {
    "ticket": Kind(as_it_is),
    "reinit": Kind(reinit, drawn=True),
    "reinit_signs": Kind(reinit_signs, drawn=True),
    "signed_constant": Kind(signed_constant, drawn=True),
    "shuffle": Kind(shuffled),
    "random": Kind(random),
    "data_order": Kind(as_it_is, other_order=True),
    "untrained": Kind(as_it_is, trained=False),
    "own_init": Kind(own_init, drawn=True),
    "transport": Kind(transported, drawn=True),
    "invert": Kind(inverted),
}


@dataclass(frozen=True)
class Method(dense.Method):
    """Level L is the trunk's ticket of level L with one thing changed, trained as the trunk's weights were.

    Over a search, which trained none, the control has an optimiser of its own.

    kind: what is changed, one of KINDS. Those that draw initial weights train from step 0, the others from the trunk's
        anchor.
    trunk_level: stand on that level of the trunk alone. trunk_seed: every seed stands on that seed of the trunk.
    trunk_shift: every seed stands on the trunk's seed of its own number plus this.
    binarise: start from sign(w) * alpha * mask, alpha = mean |w| over the layer's kept weights.
    """

    extents: ClassVar[frozenset[str]] = frozenset({"levels"})
    needs_trunk: ClassVar[bool] = True

    kind: str
    levels: Annotated[int, Ge(0)] | None
    trunk_level: Annotated[int, Ge(0)] | None
    trunk_seed: Annotated[int, Ge(0)] | None
    binarise: Literal[True] | None = None
    trunk_shift: Annotated[int, Ge(1)] | None = None

    @property
    def last_level(self) -> int:
        return 0 if self.trunk_level is not None else self.levels or 0

    @property
    def needs_symmetry(self) -> bool:
        return self.kind == "transport"

    def check(self, layout: Layout, steps: int) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"method.kind={self.kind} is unknown{nearest(self.kind, KINDS)}")
        if self.levels is None and self.trunk_level is None:
            raise ValueError("method=control needs trunk={method:imp,...} to stand on")
        if self.trunk_seed is not None and self.trunk_shift is not None:
            raise ValueError(
                f"method.trunk_seed={self.trunk_seed} and method.trunk_shift={self.trunk_shift} both say which seed of "
                "the trunk is stood on; give one of them"
            )
        if self.kind == "transport":
            if self.trunk_seed is None and self.trunk_shift is None:
                raise ValueError(
                    "method.kind=transport moves the mask of another seed, but every seed stands on the trunk's seed "
                    "of its own number; give method.trunk_shift=1 or method.trunk_seed=0"
                )
            table_of(layout.network)

    def plan(self, level: int, steps: int, trunk: Plan | None) -> Plan:
        kind = KINDS[self.kind]
        first = 0 if kind.drawn or trunk is None else trunk.anchor or 0
        last = max(first, steps) if kind.trained else first
        return Plan(
            level, parent=level, first=first, last=last, anchor=None if level else first, other_order=kind.other_order
        )

    def start(self, level: int, context: Context) -> State:
        assert context.trunk is not None
        kind, trunk = KINDS[self.kind], context.trunk(level if self.trunk_level is None else self.trunk_level)
        changed = kind.change(trunk, context, level)
        begin = masked(changed.weights, changed.mask)
        if self.binarise:
            begin |= {name: binarised(changed.weights[name], keep) for name, keep in changed.mask.items()}
        buffers = context.init.buffers if kind.drawn else trunk.buffers
        return State(begin, buffers, changed.mask, step=0 if kind.drawn else trunk.step)
