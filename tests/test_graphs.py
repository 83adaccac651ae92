"""Spans of steps at once, on a GPU as CUDA graphs, do what one step after another does."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from test_train import RECIPES, Case, begin, blobs, equal, timeless

import ltx.training.fit
from ltx.data.batches import Batches
from ltx.models import mlp
from ltx.training.fit import Fit
from ltx.training.graphs import Graphs, spans
from ltx.training.setup import Trained

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def case(recipe: str, **changed: object) -> Case:
    """A level whose pruned weights are zero, on data that is given as it is."""
    network = mlp.Model((1, 4, 4), 3, 1.0, [6, 5], "batch", True)
    options = {"state": begin(network, 0.4), "data": blobs(augment=False), "last": 40, "anchor": 5, "chunk": 13}
    return Case(RECIPES[recipe], **{**options, **changed})  # type: ignore[arg-type]


def in_spans(self: Fit, begun: object = Fit.on_fit_start) -> None:
    """Let a level on the CPU take spans of steps, whatever it was asked."""
    begun(self)  # type: ignore[operator]
    optimiser = self.raw_optimiser()
    batches = Batches(self.data, self.recipe.batch, self.streams, self.device)
    self.graphs = Graphs(batches, partial(self.update, optimiser), optimiser)


@pytest.fixture(autouse=True)
def few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate so seldom that spans have several steps."""
    monkeypatch.setattr(ltx.training.fit, "grid", lambda first, last: [*(s for s in (3, 8, 21) if s > first), last])


def test_spans_end_where_something_happens():
    assert [*spans(0, 13, {0, 5, 13, 20})] == [(0, 5), (5, 13)]
    assert [*spans(13, 26, {20, 30})] == [(13, 20), (20, 26)]
    assert [*spans(3, 4, set())] == [(3, 4)]


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_spans_of_steps_equal_one_step_after_another(recipe: str, monkeypatch: pytest.MonkeyPatch):
    plain = case(recipe)
    expected = plain.train()
    monkeypatch.setattr(ltx.training.fit.Fit, "on_fit_start", in_spans)
    spanned = case(recipe)
    assert equal(spanned.train(), expected) and timeless(spanned.records) == timeless(plain.records)
    saved = case(recipe, every=0)
    assert equal(saved.train(), expected)
    assert sorted(saved.checkpoints) == [3, 5, 8, 13, 21, 26, 39]  # the looks, the anchor, and the chunks
    for step in (5, 26):
        assert equal(case(recipe).train(saved.saved(step)), expected)


@GPU
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_graphs_end_where_single_steps_do(recipe: str):
    def on_gpu(graphs: bool) -> tuple[Trained, Case]:
        found = replace(case(recipe), device="cuda", graphs=graphs, checkpoints={}, records=[])
        return found.train(), found

    (captured, one), (single, other) = on_gpu(True), on_gpu(False)
    assert captured.best_step == single.best_step
    for part in ("weights", "buffers", "best", "anchor"):
        ours, theirs = getattr(captured, part), getattr(single, part)
        assert all(torch.allclose(ours[n].double(), theirs[n].double(), rtol=1e-5, atol=1e-6) for n in theirs), part
    for ours, theirs in zip(timeless(one.records), timeless(other.records), strict=True):
        assert ours["step"] == theirs["step"] and ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


@GPU
def test_a_level_of_graphs_resumed_in_the_middle_equals_an_uninterrupted_one():
    whole = replace(case("adam"), device="cuda", graphs=True, every=0)
    expected = whole.train()
    for step in (5, 26):
        again = replace(case("adam"), device="cuda", graphs=True, checkpoints={}, records=[])
        found = again.train(whole.saved(step))
        assert all(torch.allclose(found.weights[n], w, rtol=1e-6, atol=1e-7) for n, w in expected.weights.items())
