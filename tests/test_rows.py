"""Layers of few weights, trained from their kept values alone, compute what masked matrices do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Result, only
from helpers import dying, same, spec, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import RECIPES, Case, begin, equal, timeless
from torch import Tensor, nn
from torch.nn import functional as F

import ltx.runs.levels
from ltx.methods import dense
from ltx.models import mlp
from ltx.store.files import unpack
from ltx.tensors import Tensors
from ltx.training import rows
from ltx.training.form import Form
from ltx.training.rows import Places, Rows, fits, sparse_enough

WIDE = ("width=.3", "seeds=1", "method.levels=3", "method.fraction=.6", "optim.steps=30", "trainer.chunk=7")
NAMES = ("fc1.weight", "fc2.weight")


def network() -> nn.Module:
    return mlp.Model((1, 4, 4), 3, 1.0, [6, 5], None, True)


def sparse(recipe: str, density: float = 0.3, names: tuple[str, ...] = NAMES, **changed: Any) -> Case:
    """A level whose pruned weights are zero, some of its layers as compressed rows."""
    return Case(RECIPES[recipe], network=network, state=begin(network(), density), compressed=names, **changed)


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small layers be compressed too."""
    monkeypatch.setattr(rows, "SMALLEST", 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 7), st.floats(0, 1), st.integers(0, 10**6), st.booleans())
def test_rows_compute_what_the_masked_matrix_does(
    out: int, inputs: int, examples: int, density: float, seed: int, bias: bool
):
    mask = torch.rand((out, inputs), generator=torch.Generator().manual_seed(seed)) < density
    assert_alike(mask, examples, seed, bias)


@pytest.mark.parametrize("singly", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["one empty row", "one full row", "one empty column", "dead", "full"])
def test_rows_compute_it_where_rows_are_empty_or_full(kind: str, singly: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows, "SINGLY", singly)
    mask = torch.rand((5, 7), generator=torch.Generator().manual_seed(3)) < 0.3
    if kind == "one empty column":
        mask[:, 2] = False
    elif kind in ("dead", "full"):
        mask[:] = kind == "full"
    else:
        mask[2] = kind == "one full row"
    assert Places(mask).singly == (singly > 0 or kind == "dead")
    assert_alike(mask, 4, 5, bias=True)


def assert_alike(mask: Tensor, examples: int, seed: int, bias: bool) -> None:
    """Compare outputs and all gradients with those of a masked matrix in float64."""
    out, inputs = mask.shape
    x = random((examples, inputs), seed + 1).requires_grad_()
    values = random((int(mask.sum()),), seed + 2).requires_grad_()
    b = random((out,), seed + 3).requires_grad_() if bias else None
    outputs = F.linear(x, Rows.of(values, Places(mask)), b)
    sent = random((examples, out), seed + 4)
    outputs.backward(sent)

    weight = torch.zeros(out, inputs, dtype=torch.float64)
    weight[mask] = values.detach().double()
    expected = x.detach().double() @ weight.T + (0 if b is None else b.detach().double())
    assert torch.allclose(outputs.double(), expected, atol=1e-5)
    assert x.grad is not None and torch.allclose(x.grad.double(), sent.double() @ weight, atol=1e-5)
    assert values.grad is not None
    assert torch.allclose(values.grad.double(), (sent.double().T @ x.detach().double())[mask], atol=1e-5)
    assert b is None or (b.grad is not None and torch.allclose(b.grad, sent.sum(0), atol=1e-5))


def test_inputs_of_more_dimensions_and_other_functions_of_torch_work_too():
    mask = torch.rand((4, 6), generator=torch.Generator().manual_seed(0)) < 0.5
    values = random((int(mask.sum()),), 1).requires_grad_()
    weight = torch.zeros(4, 6).masked_scatter(mask, values.detach())
    found = Rows.of(values, Places(mask))
    x = random((2, 3, 6), 2)
    assert torch.allclose(F.linear(x, found), x @ weight.T, atol=1e-6)
    assert torch.equal(found.whole(), weight) and found.shape == (4, 6)
    assert torch.equal(torch.mm(x[0], found.t()), torch.mm(x[0], weight.t()))
    assert torch.equal(F.linear(x, weight=found), F.linear(x, weight))
    (gradient,) = torch.autograd.grad((found * 2).sum(), values)
    assert torch.equal(gradient, torch.full_like(values, 2.0))


CHANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu_,
    "sum": lambda y: y.add_(1.0),
    "a part": lambda y: y[..., :2].mul_(3.0),
}


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6), (6,)], ids=str)
@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_network_may_change_outputs_in_place(change: Callable[[Tensor], Tensor], shape: tuple[int, ...]):
    ours, theirs = gradients(lambda x, weight: change(F.linear(x, weight)), shape)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("shape", [(0, 6), (0, 3, 6), (3, 0, 6)], ids=str)
def test_a_batch_may_be_empty(shape: tuple[int, ...]):
    ours, theirs = gradients(lambda x, weight: F.linear(x, weight), shape)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_network_may_call_autocast_by_itself():
    def call(x: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.linear(F.linear(x, weight) @ torch.ones(4, 6), weight)

    ours, theirs = gradients(call, (5, 6))
    assert ours[0].dtype == torch.bfloat16
    assert all(torch.allclose(a, b, rtol=0.02) for a, b in zip(ours, theirs, strict=True))


def test_second_derivatives_are_refused_and_not_left_out():
    mask = torch.ones(4, 6, dtype=torch.bool)
    values, x = random((24,), 1).requires_grad_(), random((5, 6), 2).requires_grad_()
    outputs = F.linear(x, Rows.of(values, Places(mask)))
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(outputs.square().sum(), x, create_graph=True)


def gradients(call: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> list[tuple[Tensor, ...]]:
    """Return outputs and gradients of inputs and kept values: of compressed rows, and of the matrix itself."""
    mask = torch.rand((4, 6), generator=torch.Generator().manual_seed(0)) < 0.5
    found = []
    for compressed in (True, False):
        values, x = random((int(mask.sum()),), 1).requires_grad_(), random(shape, 2).requires_grad_()
        rows = Rows.of(values, Places(mask))
        outputs = call(x, rows if compressed else rows.whole())
        found.append((outputs, *torch.autograd.grad(outputs.float().square().sum(), (x, values))))
    return found


@pytest.mark.parametrize("names", [NAMES, NAMES[1:]], ids=["two layers", "one layer"])
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_twenty_steps_of_compressed_rows_equal_those_of_masked_matrices(recipe: str, names: tuple[str, ...]):
    case = sparse(recipe, names=names, last=20)
    found, expected = case.train(), replace(case, compressed=(), records=[]).train()
    for part in ("weights", "best", "anchor"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[n], theirs[n], rtol=0, atol=1e-6) for n in theirs), part
    assert found.best_step == expected.best_step and same(found.mask, expected.mask)
    for name, keep in case.state.mask.items():
        assert not found.weights[name][~keep].any() and (found.weights[name][keep] != 0).all()
    assert not torch.allclose(found.weights[names[0]], case.state.weights[names[0]], atol=1e-3)


def test_a_network_that_draws_draws_the_same_of_compressed_rows():
    def own() -> nn.Module:
        hidden = (nn.Linear(16, 6), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(6, 5), nn.Dropout(0.3))
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(5, 3))

    case = Case(network=own, state=begin(own(), 0.3), compressed=("1.weight", "4.weight"), plain=False, last=20)
    found, expected = case.train(), replace(case, compressed=(), records=[]).train()
    assert all(torch.allclose(found.weights[n], w, rtol=0, atol=1e-6) for n, w in expected.weights.items())


def test_the_optimiser_holds_the_kept_values_alone():
    case = sparse("adam", every=0)
    case.train()
    kept = {name: int(case.state.mask[name].sum()) for name in NAMES}
    tensors, meta = case.saved(9)
    sizes = sorted(t.numel() for name, t in tensors.items() if name.endswith("/exp_avg"))
    dense_sizes = [t.numel() for name, t in case.state.weights.items() if name not in NAMES]
    assert sizes == sorted([*dense_sizes, *kept.values()]) and meta["compressed"] == [*NAMES]


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_level_of_compressed_rows_resumed_in_the_middle_equals_an_uninterrupted_one(recipe: str):
    whole, interrupted = sparse(recipe, chunk=5), sparse(recipe, chunk=5, every=0)
    expected = whole.train()
    assert equal(interrupted.train(), expected)
    for step in (1, 6, 15):
        again = sparse(recipe, chunk=5)
        assert equal(again.train(interrupted.saved(step)), expected)
        assert timeless(again.records) == [row for row in timeless(whole.records) if row["step"] > step]


class Multiplied(dense.Method):
    """Masks weights as `dense` does, in words of its own, so that nothing is known of it."""

    def effective(
        self, weights: Tensors, scores: Tensors, gate: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        return weights | {name: weights[name] * keep for name, keep in gate.items()}


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_masking_gradients_equals_multiplying_weights_to_the_bit(recipe: str):
    case = sparse(recipe, names=())
    assert equal(case.train(), replace(case, method=Multiplied()).train())


def test_pruned_weights_that_are_not_zero_are_kept_from_the_network():
    case = sparse("sgd", names=NAMES[1:])
    stray = {name: case.state.weights[name] + 7.0 * ~keep for name, keep in case.state.mask.items()}
    found = replace(case, state=replace(case.state, weights=case.state.weights | stray)).train()
    expected = case.train()
    for name, keep in case.state.mask.items():
        assert torch.allclose(found.weights[name][keep], expected.weights[name][keep], atol=1e-6)
        assert torch.equal(found.weights[name][~keep], stray[name][~keep])


def test_large_linear_layers_fit_and_few_enough_of_their_weights_decide():
    large = nn.Sequential(nn.Linear(256, 256), nn.Conv2d(3, 200, 9), nn.Linear(8, 8), nn.Bilinear(60, 60, 20))
    assert fits(large, Form()) == ["0.weight"]
    assert fits(large, Form("bf16-mixed")) == fits(large, Form("bf16-true")) == fits(large.double(), Form()) == []
    sizes, options = {"a": (25, 100), "b": (26, 100)}, {"sparse_cpu": 0.25, "sparse_cuda": 0.0}
    assert sparse_enough(sizes, "cpu", options) == ["a"] and sparse_enough(sizes, "cuda:1", options) == []
    assert sparse_enough({"dead": (0, 100)}, "cuda", options) == [] and sparse_enough({"dead": (0, 9)}, "cpu", options)


def test_a_run_compresses_the_levels_of_few_weights_and_says_so(
    ltx: Callable[..., Result], root: Path, small: None, tmp_path: Path
):
    planned = ltx("run", *WIDE, "device=cpu", "--dry-run")
    assert "compressed rows: fc1, fc2 at levels 2-3" in planned.out, planned.out
    result = ltx("run", *WIDE, "device=cpu")
    assert result.code == 0
    folder = only(root)
    metas = [unpack(path)[1] for path in sorted(folder.glob("seed_000/level_*"))]
    shares = [{name: meta["layers"][name.removesuffix(".weight")] for name in NAMES} for meta in metas]
    expected = [[name for name in NAMES if share[name] <= 0.2] for share in shares]
    assert [meta.get("compressed", []) for meta in metas] == expected and expected[0] == [] and len(expected[3]) == 2
    shown = ltx("show", folder.name).out
    assert "compressed rows: fc1, fc2 at levels" in shown and "level 3 took" in shown
    assert "compressed" not in ltx("run", *WIDE, "device=cpu", "trainer.sparse_cpu=0", "--dry-run").out

    other = spec(*WIDE, "trainer.sparse_cpu=0", f"root={tmp_path / 'dense'}")
    files = trained(other, tmp_path / "dense")
    assert other.key == folder.name
    for level, ((tensors, meta), path) in enumerate(zip(files, sorted(folder.glob("seed_000/level_*")), strict=True)):
        ours, _ = unpack(path)
        assert meta.get("compressed") is None
        assert all(torch.allclose(ours[n].float(), t.float(), atol=1e-4) for n, t in tensors.items()), level


def test_a_level_goes_on_as_it_was_begun_whatever_is_asked_for_now(tmp_path: Path, small: None):
    found = spec(*WIDE, "trainer.checkpoint_seconds=0", "trainer.chunk=3")
    whole, again = ([*trained(spec(*WIDE), tmp_path / "whole")], tmp_path / "again")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltx.runs.levels.commit", dying(ltx.runs.levels.commit, 3 + 3 * 30 + 12))
        with pytest.raises(OSError, match="killed"):
            trained(found, again)
    assert (again / "seed_000" / "level_02.safetensors").exists()
    sparse_off = {**found.config, "trainer": {**found.config["trainer"], "sparse_cpu": 0.0}}
    finished = trained(replace(found, config=sparse_off), again)
    assert [meta["compressed"] for _, meta in finished[3:]] == [[*NAMES]]
    assert all(same(one, other) for (one, _), (other, _) in zip(finished, whole, strict=True))


def test_searches_and_methods_that_are_not_known_to_mask_alone_are_left_dense(tmp_path: Path, small: None):
    ((_, meta),) = trained(spec("method=edge_popup", "width=.3", "optim.steps=5", "seeds=1"), tmp_path / "popup")
    assert "compressed" not in meta
    words = ("method=at_init", "width=.3", "optim.steps=5", "seeds=1", "method.density=.1")
    ((_, meta),) = trained(spec(*words), tmp_path / "snip")
    assert meta["compressed"] == [*NAMES]
    ((_, meta),) = trained(spec(*words, "optim.weight_decay=.01"), tmp_path / "decayed")
    assert "compressed" not in meta  # its pruned weights are not zero, and decay
