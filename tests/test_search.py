"""Searches by scores: straight-through gradients, binarised weights, annealing, re-drawing, sampling, freezing."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from helpers import SMALL, STREAMS, File, context, counts, gates, never, spec, whole
from torch import Tensor
from torch.nn import functional as F

import ltx.runs.levels as ltx_levels
from ltx.masks import straight_through
from ltx.methods import State
from ltx.methods.biprop import binarised
from ltx.models import activate
from ltx.runs.worker import run_seed
from ltx.store.files import unpack
from ltx.streams import Streams
from ltx.tensors import Tensors, under

ANNEALED = ("method.anneal=true", "method.density=.1")
SHAPES = {"fc1.weight": (40, 30), "out.weight": (10, 40)}


def method(name: str, **changed: Any) -> Any:
    return helpers.method(name, *SMALL, "optim.steps=60", **changed)


def normal(seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES, dtype: Any = torch.float32) -> Tensors:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=rng, dtype=dtype) for name, shape in shapes.items()}


def start(found: Any, weights: Tensors, streams: Streams = STREAMS) -> State:
    """The state a search starts from on given weights."""
    network = torch.nn.Module()
    for name, weight in weights.items():
        holder = torch.nn.Module()
        holder.weight = torch.nn.Parameter(weight)
        network.add_module(name.removesuffix(".weight"), holder)
    return found.start(0, context(weights, network=network, streams=streams))


def trained(folder: Path, *words: str) -> File:
    """Train one seed in this process and read its file."""
    return helpers.trained(spec(*SMALL, *words), folder)[0]


def test_straight_through_has_the_value_of_hard_and_the_gradient_of_soft() -> None:
    hard = normal(0)["fc1.weight"]
    soft = (3 * normal(1)["fc1.weight"]).requires_grad_()
    assert not torch.equal((hard + soft) - soft, hard), "the order that rounds does so here"
    value = straight_through(hard.clone().requires_grad_(), soft.square())
    assert torch.equal(value, hard)
    value.sum().backward()
    assert torch.equal(soft.grad, 2 * soft)


@pytest.mark.parametrize("done", [0.1, 1.0])
@pytest.mark.parametrize("name", ["edge_popup", "biprop"])
def test_the_gradient_of_a_score_is_that_of_the_definition(name: str, done: float) -> None:
    # The definition: the mask of the moment, its value constant, its slope that of |s|; alpha is a constant too.
    found = method(name, density=0.3, anneal=True)
    shapes = {"out.weight": (4, 6)}
    w, s, x, y = (normal(i, shapes, torch.float64)["out.weight"] for i in range(4))
    w.requires_grad_(name == "biprop")  # alpha's own slope must not leak into the scores

    def loss(seen: Tensor) -> Tensor:
        return (x @ seen.T - y[:, :4]).square().sum() + seen.pow(3).sum()

    scores = s.clone().requires_grad_()
    seen = found.effective({"out.weight": w}, {"out.weight": scores}, {}, done)["out.weight"]
    (slope,) = torch.autograd.grad(loss(seen), scores, retain_graph=True)
    leaf = seen.detach().requires_grad_()
    (of_weight,) = torch.autograd.grad(loss(leaf), leaf)
    factor = math.sqrt(0.3 / found.density_at(done)) if name == "edge_popup" else 1.0
    assert torch.allclose(slope, factor * of_weight * w * s.sign(), rtol=1e-12, atol=1e-14)
    for i in range(s.numel()):  # central differences of L(w_seen + w (|s| - |s0|))
        h = torch.zeros(s.numel(), dtype=torch.float64).index_fill_(0, torch.tensor(i), 1e-6).reshape(s.shape)
        up, down = (loss(seen + factor * w * ((s + d).abs() - s.abs())) for d in (h, -h))
        assert float(slope.reshape(-1)[i]) == pytest.approx(float((up - down).detach()) / 2e-6, rel=1e-6, abs=1e-7)
    if name == "biprop":
        assert torch.autograd.grad(loss(seen), w, allow_unused=True) == (None,)


def test_alpha_is_the_mean_over_the_kept_weights_and_the_sign_of_zero_is_plus() -> None:
    weight = torch.tensor([[3.0, -1.0, 0.0], [-4.0, 9.0, -0.0]])
    mask = torch.tensor([[True, False, True], [True, False, True]])
    a = (3 + 0 + 4 + 0) / 4  # not / 6, and without the 1 and the 9
    assert binarised(weight, mask).tolist() == [[a, 0, a], [-a, 0, a]]
    assert binarised(weight, mask.float()).tolist() == binarised(weight, mask).tolist()
    assert not binarised(weight, torch.zeros(2, 3)).any(), "a layer that keeps nothing gives zeros"


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_biprop_sees_exactly_minus_alpha_zero_and_alpha(scope: str) -> None:
    found = method("biprop", density=0.2, scope=scope)
    weights, scores = normal(0), normal(1)
    (mask, _), seen = found.ticket(scores, {}), found.effective(weights, scores, {})
    for name, weight in seen.items():
        alpha = weights[name][mask[name]].abs().mean()
        assert torch.equal(weight.unique(), weight.abs().max() * torch.tensor([-1.0, 0.0, 1.0]))
        assert torch.allclose(weight.max(), alpha, rtol=1e-6) and torch.equal(weight != 0, mask[name])
        assert torch.equal(weight.sign(), weights[name].sign() * mask[name])
    tiny = method("biprop", density=1e-4, allow_dead_layers=True).effective(weights, scores, {})
    assert not any(weight.any() or weight.isnan().any() for weight in tiny.values())


def test_the_binary_activation_follows_its_table() -> None:
    x = torch.tensor([-1.5, -1, -0.5, -0.0, 0, 0.5, 1, 1.5], requires_grad=True)
    y = activate(x, "sign")
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
    (grad,) = torch.autograd.grad(y, x, torch.full_like(x, 3.0))
    assert grad.tolist() == [0, 0, 3, 6, 6, 3, 0, 0]  # 3 * 2 (1 - |x|) inside [-1, 1]


def test_on_signed_constants_biprop_is_edge_popup(tmp_path: Path) -> None:
    words = ("model.init=signed_constant", "optim.steps=5", "optim.lr=.1", "optim.batch=60")
    popup = trained(tmp_path / "popup", "method=edge_popup", "method.scale=false", *words)[0]
    biprop = trained(tmp_path / "biprop", "method=biprop", *words)[0]
    for name, mask in under("mask", popup).items():
        assert torch.equal(mask, biprop[f"mask/{name}"]) and torch.equal(popup[f"end/{name}"], biprop[f"end/{name}"])
        assert torch.allclose(popup[f"score/{name}"], biprop[f"score/{name}"], rtol=1e-4, atol=1e-6)
    half = {"fc1.weight": torch.where(normal(0, {"w": (4, 8)})["w"] > 0, 0.5, -0.5)}  # sqrt(2 / 8): no rounding at all
    scores = normal(1, {"fc1.weight": (4, 8)})
    one, other = (method(name).effective(half, scores, {}) for name in ("edge_popup", "biprop"))
    assert torch.equal(one["fc1.weight"], other["fc1.weight"])


@pytest.mark.parametrize("name", ["edge_popup", "biprop"])
def test_an_annealed_density_falls_geometrically_to_the_target_in_half_the_run(name: str) -> None:
    found, plain = method(name, density=0.02, anneal=True), method(name, density=0.02)
    weights, scores = normal(0), normal(1)
    for done, density in ((0, 0.5), (0.25, 0.1), (0.5, 0.02), (0.75, 0.02), (1, 0.02)):  # sqrt(.5 * .02) = .1
        expected = {key: round(density * weight.numel()) for key, weight in weights.items()}
        assert counts(found.effective(weights, scores, {}, done)) == expected
        assert counts(plain.effective(weights, scores, {}, done)) == {"fc1.weight": 24, "out.weight": 8}
    assert replace(found, density=0.7).density_at(0.0) == 0.7


def test_the_scale_of_edge_popup_follows_the_density_of_the_moment() -> None:
    found = method("edge_popup", density=0.02, anneal=True)
    weights, scores = normal(0), normal(1)
    begin = start(found, weights).weights
    assert all(torch.allclose(begin[name], weights[name] / math.sqrt(0.02)) for name in weights)
    for done, density in ((0.0, 0.5), (0.25, 0.1)):
        for name, seen in found.effective(begin, scores, {}, done).items():
            assert torch.allclose(seen, weights[name] / math.sqrt(density) * (seen != 0), rtol=1e-5)
    for done in (0.5, 1.0):  # the factor is 1, to the bit
        for name, seen in found.effective(begin, scores, {}, done).items():
            assert torch.equal(seen, begin[name] * (seen != 0))
    assert all(torch.equal(start(method("edge_popup", scale=False), weights).weights[n], weights[n]) for n in weights)


def test_the_memory_layout_does_not_move_the_mask() -> None:
    shapes = {"conv1.weight": (8, 5, 3, 3)}
    for name in ("edge_popup", "biprop"):
        found, weights, scores = method(name, density=0.3), normal(0, shapes), normal(1, shapes)
        last = {key: score.contiguous(memory_format=torch.channels_last) for key, score in scores.items()}
        one, other = found.effective(weights, scores, {}), found.effective(weights, last, {})
        assert counts(one) == {"conv1.weight": 108} and torch.equal(one["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("name", ["edge_popup", "biprop"])
def test_first_scores_are_uniform_up_to_the_root_of_the_fan_in_and_follow_the_mask_stream(name: str) -> None:
    shapes = {"fc1.weight": (60, 50), "conv1.weight": (40, 5, 3, 3)}
    scores = start(method(name), normal(0, shapes)).scores
    for key, fan_in in (("fc1.weight", 50), ("conv1.weight", 45)):
        score, bound = scores[key], 1 / math.sqrt(fan_in)
        assert 0.99 * bound < float(score.abs().max()) <= bound and abs(float(score.mean())) < 0.1 * bound
        assert float(score.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    for stream in ("init", "order", "augment", "noise", "mask"):
        again = start(method(name), normal(5, shapes), replace(STREAMS, **{stream: 9})).scores
        assert torch.equal(again["fc1.weight"], scores["fc1.weight"]) == (stream != "mask")


def test_redrawing_touches_a_share_of_the_pruned_weights_alone() -> None:
    found = method("edge_popup", density=0.3, redraw=0.25, redraw_every=300)
    weights, scores = normal(0), normal(1)
    before = {name: weight.clone() for name, weight in weights.items()}

    def redrawn(step: int, seed: int = 0) -> Tensors:
        streams = replace(STREAMS, noise=seed)
        rng = lambda name: streams.generator("noise", "between", 0, step, name)  # noqa: E731
        changed, after, mask = found.between(weights, scores, {}, 0.5, rng)
        assert after is scores and mask == {}
        return changed

    after, (mask, _) = redrawn(300), found.ticket(scores, {})
    pruned = torch.cat([(after[name] != weights[name])[~mask[name]] for name in weights]).float()
    assert 0.2 < float(pruned.mean()) < 0.3
    for name, weight in after.items():
        assert torch.equal(weight[mask[name]], weights[name][mask[name]])
        assert torch.equal(weights[name], before[name]), "what was handed over is left alone"
        assert set(weight.abs().reshape(-1).tolist()) <= set(before[name].abs().reshape(-1).tolist())
        assert torch.equal(weight, redrawn(300)[name])
        assert not torch.equal(weight, redrawn(600)[name]) and not torch.equal(weight, redrawn(300, seed=1)[name])
    assert found.plan(0, 900, None).every == 300 and method("edge_popup").plan(0, 900, None).every == 0


def test_a_supermask_keeps_each_weight_with_its_probability_and_rounds_without_noise() -> None:
    found = method("supermask")
    scores = {"out.weight": torch.tensor([[-3.0, -0.4, 0.0, 0.7, 2.0]], requires_grad=True)}
    ones = {"out.weight": torch.ones(1, 5)}
    rng = np.random.default_rng(0)
    n, total = 4000, torch.zeros(1, 5)
    for _ in range(n):
        noise = {"out.weight": torch.from_numpy(rng.random((1, 5), "float32"))}
        seen = found.effective(ones, scores, {}, 0.5, noise)["out.weight"]
        assert set(seen.tolist()[0]) <= {0.0, 1.0}
        total += seen.detach()
    probability = scores["out.weight"].detach().sigmoid()
    assert (total / n - probability).abs().max() < 4 * math.sqrt(0.25 / n)
    assert found.effective(ones, scores, {})["out.weight"].tolist() == [[0, 0, 1, 1, 1]]
    assert found.ticket(scores, {})[0]["out.weight"].int().tolist() == [[0, 0, 1, 1, 1]]
    (grad,) = torch.autograd.grad(seen.sum(), scores["out.weight"])
    assert torch.allclose(grad, probability * (1 - probability)), "straight through the draw"


def test_the_mean_of_the_drawn_supermasks_stands_in_the_summary(ltx: Any) -> None:
    result = ltx("run", "method=supermask", *SMALL)
    assert result.code == 0, result.err
    (row,) = csv.DictReader((result.folder / "summary.csv").read_text().splitlines())
    written = unpack(next(result.folder.glob("seed_000/level_00.safetensors")))[1]["row"]
    assert float(row["draws_test_accuracy"]) == written["draws_test_accuracy"] != written["test_accuracy"]
    assert 0 <= written["draws_test_accuracy"] <= 1


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_what_gem_miner_freezes_off_never_returns_and_the_density_is_reached(scope: str) -> None:
    found = method("gem_miner", density=0.1, scope=scope, freeze_every=1)
    mask = whole(normal(0))
    masks = [mask]
    for i in range(1, 11):
        scores = normal(i)  # as if training had turned everything over
        mask = found.between(normal(0), scores, masks[-1], i / 10, never)[2]
        kept, ranks = found.ticket(scores, mask)
        assert ranks is scores and all(not (kept[name] & ~masks[-1][name]).any() for name in SHAPES)
        masks.append(mask)
    assert all(not (after[name] & ~before[name]).any() for before, after in pairwise(masks) for name in mask)
    assert sum(counts(mask).values()) == 160 and (
        scope == "global" or counts(mask) == {"fc1.weight": 120, "out.weight": 40}
    )
    seen = found.effective(normal(0), normal(10), gates(mask))
    assert all(not seen[name][~mask[name]].any() for name in seen)


@pytest.mark.parametrize("steps, every", [(60, 1), (60, 7), (61, 1), (61, 20), (9, 4)])
def test_gem_miner_chooses_no_step_before_its_density_is_there(steps: int, every: int) -> None:
    found = method("gem_miner", density=0.1, freeze_every=every)
    first, settled, mask = found.plan(0, steps, None).best_from, steps, whole(normal(0))
    for step in range(every, steps, every):
        mask = found.between(normal(0), normal(1), mask, step / steps, never)[2]
        if sum(counts(mask).values()) == 160:
            settled = step
            break
    assert first == settled < steps


def test_gem_miner_keeps_its_scores_within_0_and_1_between_two_freezings_and_ranks_all_layers_together(tmp_path):
    tensors, _ = trained(tmp_path, "method=gem_miner", "method.freeze_every=8", "method.density=.3", "optim.lr=100")
    scores = under("score", tensors)
    assert all(float(score.min()) >= 0 and float(score.max()) <= 1 for score in scores.values())
    assert any(bool((score == 1).any()) for score in scores.values()), "nothing was clamped: the test is too mild"
    found = method("gem_miner")
    assert isinstance(found.kept(scores, 1.0), int), "the default ranks all layers together"


@pytest.mark.parametrize("every", [2, 5, 7])
def test_a_finished_gem_miner_keeps_no_more_than_the_density(every: int, tmp_path: Path) -> None:
    tensors, _ = trained(tmp_path, "method=gem_miner", "method.density=.2", f"method.freeze_every={every}")
    masks = under("mask", tensors).values()
    assert 0 < sum(int(mask.sum()) for mask in masks) <= round(0.2 * sum(mask.numel() for mask in masks))


def test_a_search_whose_scores_explode_is_reported_as_diverged(tmp_path: Path) -> None:
    for name in ("edge_popup", "biprop"):
        folder = tmp_path / name
        config = spec(*SMALL, f"method={name}", "optim.lr=1e20", "optim.steps=420").config  # between two records
        run_seed(config, str(folder), 0, lambda kind, value: None)
        assert json.loads((folder / "seed_000" / "failed.json").read_text())["kind"] == "diverged"


SAMPLED = ("device=cpu", "model=convnet", "model.channels=[4,4]", "optim.steps=12", "optim.batch=50", "seeds=1")


@pytest.mark.parametrize(
    "words", [("method=supermask",), ("method=gem_miner", "method.freeze_every=2"), ("method=edge_popup", *ANNEALED)]
)
def test_the_best_step_is_chosen_and_kept_with_batchnorm_statistics_of_the_tickets_weights(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    train = ltx_levels.train

    def kept(*arguments: Any) -> Any:
        made.append(train(*arguments))
        return made[-1]

    monkeypatch.setattr(ltx_levels, "train", kept)
    found = spec(*SAMPLED, *words)
    run_seed(found.config, str(tmp_path / "run"), 0, lambda kind, value: None)
    best = made[0].best
    weights = found.method.effective(made[0].weights, under("score", best), gates(made[0].mask))
    mean = F.conv2d(found.data.train.x[:1024], weights["conv1.weight"], padding=1).mean((0, 2, 3))
    assert torch.allclose(best["norm1.running_mean"], mean, atol=1e-5)
    plan = type(found.method).plan
    monkeypatch.setattr(type(found.method), "plan", lambda *given: replace(plan(*given), restates=False))
    run_seed(found.config, str(tmp_path / "plain"), 0, lambda kind, value: None)
    assert not torch.allclose(made[1].best["norm1.running_mean"], mean, atol=1e-3), "any statistics would pass"
    same = [torch.equal(made[0].scores[name], score) for name, score in made[1].scores.items()]
    assert same and all(same), "what is measured on the way changes the training"
