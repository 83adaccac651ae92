"""Levels trained side by side are what each is alone, within rounding, and one that fails leaves the others going."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import RECIPES, STREAMS, Case, begin, blobs, scored, sparse_grid, timeless  # noqa: F401
from torch.nn import functional as F

from ltx.models import initialise, mlp
from ltx.tensors import cpu
from ltx.training.fit import Fit
from ltx.training.replicas import Matrices, stackable, train_all
from ltx.training.setup import Resume, Trained
from ltx.training.watch import Diverged

PARTS = ("weights", "buffers", "mask", "best", "anchor")
OPTIONS = {"deterministic": True, "chunk": 100}
DATA = blobs(augment=False)


def network() -> mlp.Model:
    return mlp.Model((1, 4, 4), 3, 1.0, [6, 5], None, True)


def case(seed: int, recipe: str = "sgd", density: float = 0.5, **changed: Any) -> Case:
    """A level of a seed: its own initialisation, mask and order."""
    streams = replace(STREAMS, init=10 + seed, order=20 + seed)
    of_seed = network()
    initialise(of_seed, "kaiming_normal", streams)
    state = begin(of_seed)
    weights = cpu(dict(of_seed.named_parameters()))
    rng = torch.Generator().manual_seed(seed)
    mask = {name: torch.rand(m.shape, generator=rng) < density for name, m in state.mask.items()}
    state = replace(state, weights=weights | {n: weights[n] * m for n, m in mask.items()}, mask=mask)
    made = {"network": network, "data": DATA, "state": state, "streams": streams, **changed}
    return Case(RECIPES[recipe], **made)


def side_by_side(
    cases: Sequence[Case], resumes: Sequence[Resume | None] | None = None
) -> list[Trained | BaseException]:
    torch.set_num_threads(1)
    found = train_all([one.setup() for one in cases], "cpu", OPTIONS, resumes or [None] * len(cases))
    assert len(found) == len(cases)
    return found


def far(one: Trained | BaseException, other: Trained) -> float:
    """Return the largest difference of any number; the steps of the two must be the same."""
    assert isinstance(one, Trained), one
    assert one.best_step == other.best_step
    pairs = [(getattr(one, part), getattr(other, part)) for part in PARTS]
    assert all(a.keys() == b.keys() for a, b in pairs)
    return max(float((a[n].double() - b[n].double()).abs().max()) for a, b in pairs for n in a)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_seeds_side_by_side_end_where_each_does_alone(recipe: str, stacks: list[int]) -> None:
    cases = [case(seed, recipe, density) for seed, density in enumerate((1.0, 0.5, 0.2))]
    together = side_by_side(cases)
    assert stacks == [3]
    for seed, one in enumerate(cases):
        alone = case(seed, recipe, (1.0, 0.5, 0.2)[seed])
        assert far(together[seed], alone.train()) < 1e-6
        assert len(one.records) == len(alone.records) > 0
        for a, b in zip(timeless(one.records), timeless(alone.records), strict=True):
            assert a == pytest.approx(b, abs=1e-6)
    ends = [end.weights["fc1.weight"] for end in together if isinstance(end, Trained)]
    assert not torch.allclose(ends[0], ends[1], atol=0.1)
    pruned = ~cases[1].state.mask["fc1.weight"]  # type: ignore[union-attr]
    assert pruned.any() and not ends[1][pruned].any()


def test_pruned_weights_that_are_not_zero_stay_unseen_side_by_side_too(stacks: list[int]) -> None:
    def wild(seed: int) -> Case:
        one = case(seed, "momentum")
        assert one.state is not None
        weights = {
            n: torch.where(one.state.mask[n], t, 7.0) if n in one.state.mask else t
            for n, t in one.state.weights.items()
        }
        return replace(one, state=replace(one.state, weights=weights), records=[])

    together = side_by_side([wild(0), case(1, "momentum")])
    assert stacks == [2]
    assert far(together[0], wild(0).train()) < 1e-5  # pruned weights decay from 7
    assert far(together[1], case(1, "momentum").train()) < 1e-6


@pytest.mark.parametrize("recipe", ["momentum", "adam"])
def test_a_level_that_was_begun_alone_goes_on_side_by_side_and_the_other_way_round(
    recipe: str, stacks: list[int]
) -> None:
    whole = [case(seed, recipe, every=0) for seed in range(3)]
    ends = [one.train() for one in whole]
    at_8 = [one.saved(8) for one in whole]
    assert max(map(far, side_by_side([case(s, recipe) for s in range(3)], at_8), ends)) < 1e-6
    mixed = side_by_side([case(s, recipe) for s in range(3)], [None, *at_8[1:]])
    assert stacks == [3, 2] and max(map(far, mixed, ends)) < 1e-6
    together = [case(seed, recipe, every=0) for seed in range(3)]
    side_by_side(together)
    for seed, one in enumerate(together):
        assert far(case(seed, recipe).train(one.saved(8)), ends[seed]) < 1e-6


def test_a_seed_that_diverges_or_cannot_write_leaves_the_others_going() -> None:
    def full(rows: Any) -> None:
        raise OSError("full")

    cases = [case(seed, "adam") for seed in range(4)]
    state = cases[1].state
    assert state is not None
    cases[1].state = replace(state, weights=state.weights | {"fc1.bias": torch.full((6,), torch.nan)})
    setups = [one.setup() for one in cases]
    setups[2] = replace(setups[2], hooks=replace(setups[2].hooks, record=full))
    found = train_all(setups, "cpu", OPTIONS, [None] * 4)
    assert isinstance(found[1], Diverged) and found[1].step == 0
    assert isinstance(found[2], OSError)
    assert max(far(found[i], case(i, "adam").train()) for i in (0, 3)) < 1e-6


def test_when_every_seed_fails_the_level_stops_and_each_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(Fit, "take_step", lambda self, step, optimiser: steps.append(step))

    def lost() -> None:
        raise OSError("lost")

    found = side_by_side([case(seed, check=lost) for seed in range(2)])
    assert [str(error) for error in found] == ["lost", "lost"] and not steps


def test_what_cannot_be_stacked_is_trained_one_after_another(stacks: list[int]) -> None:
    def with_norm(seed: int) -> Case:
        return case(seed, state=None, network=lambda: mlp.Model((1, 4, 4), 3, 1.0, [6, 5], "batch", True))

    found = side_by_side([with_norm(seed) for seed in range(2)])
    assert not stacks and max(far(found[s], with_norm(s).train()) for s in range(2)) == 0.0
    assert stackable(case(0).setup())
    assert not stackable(case(0, data=blobs()).setup())  # augmented
    assert not stackable(case(0, compressed=("fc1.weight",)).setup())
    assert not stackable(case(0, first=16).setup())  # nothing to train
    assert not stackable(replace(case(0).setup(), plain=False))
    assert not stackable(scored(data=DATA).setup())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_stacked_matrices_give_each_replica_its_own_product(
    n: int, batch: int, into: int, out: int, bias: bool
) -> None:
    rng = torch.Generator().manual_seed(n + 10 * batch + 100 * into)
    weight = torch.randn(n, out, into, generator=rng, requires_grad=True)
    shift = torch.randn(n, out, generator=rng, requires_grad=True) if bias else None
    x = torch.randn(n * batch, into, generator=rng)
    got = F.linear(x, Matrices.of(weight), shift)
    one_by_one = [F.linear(part, weight[i], None if shift is None else shift[i]) for i, part in enumerate(x.chunk(n))]
    assert torch.allclose(got, torch.cat(one_by_one), atol=1e-5)
    assert torch.allclose(
        torch.autograd.grad(got.square().sum(), weight)[0],
        torch.autograd.grad(torch.cat(one_by_one).square().sum(), weight)[0],
        atol=1e-4,
    )
