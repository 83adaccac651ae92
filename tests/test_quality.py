"""The quality of random masks: exact uniform masks, logits of the plain network, the best temperature, any chunk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltx.analysis.quality import (
    BLOCK,
    Examples,
    Quality,
    drawn,
    inverse_temperature,
    joined,
    logits,
    quality,
    quality_of_block,
    subsets,
)
from ltx.data.digits import MEAN, SD
from ltx.data.digits import examples as digits
from ltx.streams import Streams, generator
from ltx.tensors import Tensors

STREAMS = Streams.of(0, dict.fromkeys(("init", "order", "augment", "mask", "noise")))
SHAPES = {"fc1.weight": (16, 64), "out.weight": (10, 16)}
TINY = {"fc1.weight": (3, 4), "out.weight": (2, 3)}


def normal(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Kaiming normal weights."""
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=rng) * math.sqrt(2 / shape[1]) for name, shape in shapes.items()}


def of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Size]:
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def masks(
    shapes: Mapping[str, tuple[int, ...]], share: float, block: int = 0, count: int = 100, seed: int = 0
) -> Tensors:
    kept = {name: round(share * math.prod(shape)) for name, shape in shapes.items()}
    streams = Streams.of(seed, dict.fromkeys(("init", "order", "augment", "mask", "noise")))
    return next(drawn(of(shapes), kept, streams, block, count))


@cache
def three_hundred() -> Examples:
    x, y = digits()
    pictures = torch.tensor((x[:300] - MEAN) / SD).float().reshape(300, 1, 8, 8)
    return Examples.halves(pictures, torch.tensor(y[:300]))


def plain(weights: Tensors, chosen: Tensors, i: int, x: Tensor) -> Tensor:
    """The logits (N, classes) of mask i alone, through plain torch modules."""
    layers: list[nn.Module] = []
    for name, weight in weights.items():
        mask = chosen[name][i]
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight = nn.Parameter(weight * mask / math.sqrt(int(mask.sum()) / mask.numel()))
        layers += [linear, nn.ReLU()]
    with torch.no_grad():
        return nn.Sequential(*layers[:-1])(x)


def told(z: Tensor, y: Tensor) -> tuple[float, float]:
    """The best inverse temperature of logits (N, classes), and its cross-entropy, as scipy finds them in float64."""
    from scipy.optimize import minimize_scalar

    def loss(beta: float) -> float:
        return float(F.cross_entropy(z.double() * beta, y))

    found = minimize_scalar(loss, bounds=(0, 100), method="bounded", options={"xatol": 1e-9})
    return float(found.x), float(found.fun)


@pytest.mark.parametrize(
    "shapes",
    [
        SHAPES,
        {"out.weight": (10, 64)},
        {"a": (20, 64), "b": (7, 20), "c": (9, 7), "d": (10, 9)},
        {"a": (1, 64), "b": (10, 1)},
    ],
)
def test_logits_are_those_of_the_plain_network_with_each_mask(shapes: dict[str, tuple[int, ...]]):
    weights, chosen, x = normal(shapes), masks(shapes, 0.3, count=20), three_hundred().x
    z = logits(weights, chosen, x)
    assert z.dtype == torch.float32 and z.shape == (20, 10, 300)
    for i in range(20):
        assert torch.allclose(z[i].T, plain(weights, chosen, i, x), atol=1e-5)


def test_masks_of_different_densities_are_each_rescaled_by_their_own():
    weights = normal(SHAPES)
    chosen = joined_masks([masks(SHAPES, share, count=1) for share in (0.05, 0.5, 1)])
    z = logits(weights, chosen, three_hundred().x)
    for i in range(3):
        assert torch.allclose(z[i].T, plain(weights, chosen, i, three_hundred().x), atol=1e-5)


def joined_masks(parts: list[Tensors]) -> Tensors:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_a_mask_keeps_exactly_k_for_every_n_and_k():
    rng = generator("mask", 0, "exactly")
    for n in range(1, 14):
        for k in range(n + 1):
            chosen = subsets(50, n, k, rng)
            assert chosen.shape == (50, n) and chosen.dtype == torch.bool and (chosen.sum(1) == k).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_draws_the_same_masks_and_finds_nearly_the_same_qualities():
    weights, examples = normal(SHAPES), three_hundred()
    kept = {name: weight.numel() // 2 for name, weight in weights.items()}
    (here,), (there,) = (drawn(of(SHAPES), kept, STREAMS, 0, BLOCK, device) for device in ("cpu", "cuda"))
    assert all(torch.equal(here[name], there[name].cpu()) for name in here)
    on_cpu = quality(weights, here, examples)
    on_cuda = quality({name: weight.cuda() for name, weight in weights.items()}, there, examples.to("cuda"))
    assert np.abs(on_cpu.quality - on_cuda.quality).max() < 1e-4


def test_each_layer_keeps_its_own_count_in_every_mask_of_a_block():
    kept = {"fc1.weight": 100, "out.weight": 160}
    (chosen,) = drawn(of(SHAPES), kept, STREAMS, 0)
    assert {name: tuple(mask.shape) for name, mask in chosen.items()} == {n: (BLOCK, *s) for n, s in SHAPES.items()}
    assert all((mask.flatten(1).sum(1) == kept[name]).all() for name, mask in chosen.items())


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_every_mask_is_equally_likely(k: int):
    """Chi-squared over all masks of a layer of five weights, and over pairs of masks of two layers."""
    from scipy.stats import chisquare

    shapes = {"a": (1, 5), "b": (5, 1)}
    (chosen,) = drawn(of(shapes), {"a": k, "b": k}, STREAMS, 7)
    codes = {name: (mask.flatten(1).long() * 2 ** torch.arange(5)).sum(1).numpy() for name, mask in chosen.items()}
    for code, ways in ((codes["a"], 1), (codes["b"], 1), (codes["a"] * 32 + codes["b"], 2)):
        seen = np.unique(code, return_counts=True)[1]
        assert len(seen) == math.comb(5, k) ** ways
        assert chisquare(seen).pvalue > 0.001


def test_a_block_is_the_same_whether_drawn_alone_or_after_others():
    kept = {"fc1.weight": 5, "out.weight": 3}
    before = [next(drawn(of(TINY), kept, STREAMS, block)) for block in range(4)]
    (alone,) = drawn(of(TINY), kept, STREAMS, 3)
    assert all(torch.equal(alone[name], before[3][name]) for name in TINY)
    assert not torch.equal(before[2]["fc1.weight"], before[3]["fc1.weight"])


def test_other_mask_streams_draw_other_masks_and_other_streams_the_same():
    kept = {"fc1.weight": 5, "out.weight": 3}
    named = {"init": 1, "order": 1, "augment": 1, "mask": 0, "noise": 1}
    (one,), (same,) = drawn(of(TINY), kept, STREAMS, 0), drawn(of(TINY), kept, Streams(**named), 0)
    (other,) = drawn(of(TINY), kept, Streams(**{**named, "mask": 1}), 0)
    assert torch.equal(one["fc1.weight"], same["fc1.weight"])
    assert not torch.equal(one["fc1.weight"], other["fc1.weight"])


def test_the_size_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ltx.analysis.quality.BLOCK", 500)
    weights, kept = normal(SHAPES), {"fc1.weight": 512, "out.weight": 80}
    (whole,) = drawn(of(SHAPES), kept, STREAMS, 0, 500)
    for at_once in (1, 7, 64, 499):
        pieces = list(drawn(of(SHAPES), kept, STREAMS, 0, at_once))
        assert all(torch.equal(torch.cat([piece[name] for piece in pieces]), whole[name]) for name in SHAPES)
    once = quality(weights, whole, three_hundred(), 500)
    assert once.quality.shape == (500,) and once.quality.dtype == np.float64
    for at_once in (None, 7, 64, 499):
        for again in (
            quality(weights, whole, three_hundred(), at_once),
            quality_of_block(weights, kept, STREAMS, 0, three_hundred(), at_once),
        ):
            for field in fields(Quality):
                assert getattr(again, field.name) == pytest.approx(getattr(once, field.name), abs=1e-6)


def test_temperature_and_quality_are_those_of_a_search_for_each_mask():
    weights, chosen, examples = normal(SHAPES), masks(SHAPES, 0.5, count=60), three_hundred()
    found = quality(weights, chosen, examples)
    zero = 0
    for i in range(60):
        z = plain(weights, chosen, i, examples.x)
        beta, _ = told(z[:150], examples.y[:150])
        if beta < 1e-6:
            assert (found.inverse_temperature[i], found.quality[i]) == (0, -math.log(10))
            zero += 1
        else:
            assert found.inverse_temperature[i] == pytest.approx(beta, abs=2e-6)
            expected = -float(F.cross_entropy(z[150:].double() * beta, examples.y[150:]))
            assert found.quality[i] == pytest.approx(expected, abs=1e-6)
    assert 10 < zero < 50


def test_the_temperature_is_zero_exactly_where_the_loss_does_not_fall_there():
    weights, chosen, examples = normal(SHAPES), masks(SHAPES, 0.5), three_hundred()
    z, y = logits(weights, chosen, examples.x).double(), examples.y
    beta = torch.zeros(100, dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(z * beta[:, None, None], y.expand(100, -1), reduction="none").mean(1)
    (slope,) = torch.autograd.grad(loss.sum(), beta)
    assert torch.equal(inverse_temperature(z.float(), y) > 0, slope < 0)
    assert 10 < int((slope < 0).sum()) < 90


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("accuracy", [0.3, 0.9, 0.99])
def test_the_temperature_of_a_network_that_knows_the_answers_is_found_too(accuracy: float, scale: float):
    rng = generator("noise", 0, "knows", str(accuracy))
    y = torch.from_numpy(rng.integers(10, size=2000))
    noise = torch.from_numpy(rng.standard_normal((2000, 10)))
    z = noise + {0.3: 1, 0.9: 3, 0.99: 4.2}[accuracy] * F.one_hot(y, 10)
    assert float((z.argmax(1) == y).double().mean()) == pytest.approx(accuracy, abs=0.05)
    beta, best = told(z, y)
    found = float(inverse_temperature(scale * z.float().T[None], y)) * scale
    assert found == pytest.approx(beta, rel=1e-4)
    assert float(F.cross_entropy(z * found, y)) == pytest.approx(best, abs=1e-8)


def test_a_network_that_is_always_right_gets_a_finite_temperature_and_hardly_any_loss():
    y = torch.arange(10).repeat(5)
    beta = inverse_temperature(F.one_hot(y, 10).float().T[None], y)
    assert 5 < float(beta) < 100


def test_a_network_that_is_always_wrong_is_told_nothing():
    y = torch.arange(10).repeat(5)
    assert float(inverse_temperature(-F.one_hot(y, 10).float().T[None], y)) == 0


def test_a_step_that_leads_too_far_is_taken_back():
    """One class stands out and is right half the time: plain Newton steps jump over the best ever further."""
    y = torch.tensor([0, 1] * 20)
    z = torch.zeros(1, 10, 40)
    z[0, 0] = 1
    assert float(inverse_temperature(z, y)) == pytest.approx(math.log(9), abs=1e-6)


def test_what_is_added_to_all_logits_of_an_example_does_not_matter():
    rng = generator("noise", 0, "added")
    y = torch.from_numpy(rng.integers(10, size=200))
    z = (torch.from_numpy(rng.standard_normal((200, 10))) + 2 * F.one_hot(y, 10)).float().T[None]
    found = float(inverse_temperature(z, y))
    assert found > 1 and float(inverse_temperature(z + 500, y)) == pytest.approx(found, rel=1e-4)


def test_dead_masks_are_those_with_one_output_for_all_examples():
    weights, examples = normal({"fc1.weight": (2, 64), "out.weight": (10, 2)}), three_hundred()
    chosen = {"fc1.weight": torch.ones(4, 2, 64, dtype=torch.bool), "out.weight": torch.ones(4, 10, 2).bool()}
    chosen["out.weight"][1] = False  # keeps nothing
    chosen["fc1.weight"][2, 0], chosen["out.weight"][2, :, 1] = False, False  # no way through
    chosen["fc1.weight"][3, 0] = False  # one unit is left
    found = quality(weights, chosen, examples)
    assert found.dead.tolist() == [False, True, True, False] and found.dead_share == 0.5
    assert found.quality[found.dead].tolist() == [-math.log(10)] * 2


def test_an_output_is_dead_where_the_same_for_all_examples_not_for_all_classes():
    x, y = torch.rand(40, 2), torch.tensor([0, 1] * 20)
    x[:, 0] = 1  # a pixel that no example differs in
    weights = {"out.weight": torch.tensor([[1.0, 1.0], [2.0, 1.0]])}
    chosen = torch.tensor([[[True, False], [True, False]], [[False, True], [False, True]]])
    assert quality(weights, {"out.weight": chosen}, Examples(x, y, 20)).dead.tolist() == [True, False]


def test_rescaling_a_hidden_unit_leaves_the_quality():
    weights, chosen = normal(SHAPES), masks(SHAPES, 0.5)
    scaled = {"fc1.weight": weights["fc1.weight"] * 7, "out.weight": weights["out.weight"] / 3}
    one, other = quality(weights, chosen, three_hundred()), quality(scaled, chosen, three_hundred())
    assert one.quality == pytest.approx(other.quality, abs=1e-6)
    assert 7 / 3 * other.inverse_temperature == pytest.approx(one.inverse_temperature, abs=1e-5)


def test_the_scored_examples_do_not_move_the_temperature_nor_the_fitted_ones_the_score_beyond_it():
    weights, chosen, examples = normal(SHAPES), masks(SHAPES, 0.5), three_hundred()
    y = examples.y.clone()
    y[150:] = (y[150:] + 1) % 10
    found, other = quality(weights, chosen, examples), quality(weights, chosen, Examples(examples.x, y, 150))
    assert np.array_equal(found.inverse_temperature, other.inverse_temperature)
    assert not np.allclose(found.quality, other.quality)


def test_pieces_are_joined_in_order():
    one = Quality(np.array([1.0]), np.array([2.0]), np.array([True]))
    other = Quality(np.array([3.0, 4.0]), np.array([5.0, 6.0]), np.array([False, False]))
    both = joined([one, other])
    assert both.quality.tolist() == [1, 3, 4] and both.inverse_temperature.tolist() == [2, 5, 6]
    assert both.dead_share == pytest.approx(1 / 3)


def test_what_does_not_fit_is_refused_by_name():
    weights, chosen, examples = normal(SHAPES), masks(SHAPES, 0.5), three_hundred()
    with pytest.raises(ValueError, match=r"out.weight is \(10, 16\), and 64 numbers come in"):
        quality({"out.weight": weights["out.weight"]}, chosen, examples)
    with pytest.raises(ValueError, match=r"the masks of fc1.weight are \(3, 4\), not \(16, 64\)"):
        quality(weights, masks(TINY, 0.5), examples)
    with pytest.raises(ValueError, match="300 of 300 examples for the temperature"):
        quality(weights, chosen, Examples(examples.x, examples.y, 300))
    with pytest.raises(ValueError, match=r"cannot keep 13 of 12 weights of fc1\.weight"):
        next(drawn(of(TINY), {"fc1.weight": 13, "out.weight": 1}, STREAMS, 0))


def test_networks_with_weights_of_their_own_have_the_qualities_they_have_alone():
    examples, several = three_hundred(), [normal(SHAPES, seed) for seed in range(5)]
    drawn_masks = masks(SHAPES, 0.5, count=5)
    own = {name: torch.stack([weights[name] for weights in several]) for name in SHAPES}
    alone = [
        quality(weights, {name: mask[i : i + 1] for name, mask in drawn_masks.items()}, examples).quality[0]
        for i, weights in enumerate(several)
    ]
    for at_once in (None, 2):
        assert quality(own, drawn_masks, examples, at_once).quality == pytest.approx(np.array(alone), abs=1e-6)
    with pytest.raises(ValueError, match="the masks of"):
        quality({name: weight[:4] for name, weight in own.items()}, drawn_masks, examples)
