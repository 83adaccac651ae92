"""Scores at initialisation against closed forms and hand computations, and the exact counts of their masks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import helpers
import pytest
import torch
from helpers import STREAMS
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

from ltx.masks import count, keep_top
from ltx.methods import Context, at_init
from ltx.methods.counts import kept, shapes
from ltx.models import mlp
from ltx.streams import Streams
from ltx.tensors import Tensors, matrices

CRITERIA = ("random", "erk", "magnitude", "snip", "grasp", "synflow")
Batches = list[tuple[Tensor, Tensor]]


def method(criterion: str, **changed: Any) -> at_init.Method:
    usual = {"exclude": [], "rounds": 1, "batches": 1}
    return helpers.method("at_init", f"method.criterion={criterion}", **{**usual, **changed})


def context(network: nn.Module, weights: Tensors, batches: Batches, streams: Streams = STREAMS) -> Context:
    given = {"prunable": matrices(network), "network": network, "batch": lambda i: batches[i], "streams": streams}
    return helpers.context(weights, **given)


def whole(weights: Tensors, network: nn.Module) -> Tensors:
    return helpers.whole({name: weights[name] for name in matrices(network)})


class Chain(nn.Module):
    """Linear maps one after the other, no biases."""

    def __init__(self, *units: int):
        super().__init__()
        self.names = [f"fc{i}" for i in range(1, len(units))]
        for name, before, after in zip(self.names, units, units[1:], strict=False):
            self.add_module(name, nn.Linear(before, after, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = getattr(self, name)(x)
        return x


def drawn(network: nn.Module, seed: int = 0) -> Tensors:
    """Every parameter of a network from a normal law, in float64, biases too."""
    rng = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=rng, dtype=torch.float64) for n, p in network.named_parameters()}


def examples(units: int, classes: int, n: int = 20, seed: int = 1) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, units, generator=rng, dtype=torch.float64), torch.arange(n) % classes


def test_snip_is_the_absolute_weight_times_the_gradient_of_the_mean_loss() -> None:
    # W x = [1 + .5 * 2, 2 + 0] = [2, 2], so p = [.5, .5]; label 0: dL/dz = [-.5, .5], dL/dW = [[-.5, -1], [.5, 1]].
    # The second batch is three times the first with label 1: dL/dW = [[1.5, 3], [-1.5, -3]]. Their mean is
    # [[.5, 1], [-.5, -1]] and |w g| = [[.5, .5], [1, 0]]; a mean of absolute gradients would give [[1, 1], [2, 0]].
    weights = {"fc1.weight": torch.tensor([[1.0, 0.5], [2.0, 0.0]])}
    batches = [(torch.tensor([[1.0, 2.0]]), torch.tensor([0])), (torch.tensor([[3.0, 6.0]]), torch.tensor([1]))]
    network = Chain(2, 2)
    given = context(network, weights, batches)
    scores = method("snip", batches=2).start(0, given).scores["fc1.weight"]
    assert torch.allclose(scores, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    assert torch.allclose(method("snip").start(0, given).scores["fc1.weight"], scores), "by symmetry"
    state = method("snip", density=0.5).start(0, given)
    assert state.mask["fc1.weight"].int().tolist() == [[1, 0], [1, 0]]  # the tie at .5 goes to the lower index
    assert state.mask["fc1.weight"].tolist() == [[True, False], [True, False]]


def flattened(
    network: nn.Module, weights: Tensors, mask: Tensors, batches: Batches, temperature: float = 1.0
) -> tuple[Any, Tensor]:
    """The mean loss, at a temperature, as a function of all weights in one vector, and that vector."""
    names, shapes = list(weights), [w.shape for w in weights.values()]

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes])
        seen = {n: p.reshape(s) * mask[n] for n, p, s in zip(names, parts, shapes, strict=True)}
        return torch.stack(
            [F.cross_entropy(functional_call(network, seen, (x,)) / temperature, y) for x, y in batches]
        ).mean()

    return loss, torch.cat([w.reshape(-1) for w in weights.values()])


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_grasp_is_the_weight_times_the_hessian_times_the_gradient_and_the_highest_stay(temperature: float) -> None:
    network = Chain(3, 4, 2)
    weights, batches = drawn(network), [examples(3, 2, seed=1), examples(3, 2, seed=2)]
    masks = whole(weights, network)
    masks["fc1.weight"][0, 1] = False  # as in a later round
    loss, vector = flattened(network, weights, masks, batches, temperature)
    gradient = torch.func.grad(loss)(vector)
    expected = vector * (hessian(loss)(vector) @ gradient)
    found = method("grasp", batches=2, density=0.3, temperature=temperature)
    given = context(network, weights, batches)
    scores = found.rank(given, masks)
    assert torch.allclose(torch.cat([s.reshape(-1) for s in scores.values()]), expected, rtol=1e-9, atol=1e-16)
    assert expected.min() < 0 < expected.max(), "a signed score: not its absolute value"
    loss, vector = flattened(network, weights, whole(weights, network), batches, temperature)
    expected = vector * (hessian(loss)(vector) @ torch.func.grad(loss)(vector))
    kept = torch.cat([m.reshape(-1) for m in found.start(0, given).mask.values()])
    assert torch.equal(kept, keep_top(expected, round(0.3 * 20)))


def test_synflow_of_a_linear_chain_is_the_sum_over_the_paths_through_a_weight() -> None:
    network = Chain(3, 4, 2)
    weights = {name: w.float() for name, w in drawn(network).items()}
    given = context(network, weights, [(torch.full((5, 3), torch.nan), torch.zeros(5))])  # data-free
    scores = method("synflow").start(0, given).scores
    one, two = (weights[f"fc{i}.weight"].double().abs() for i in (1, 2))
    assert torch.allclose(scores["fc1.weight"], one * two.sum(0)[:, None])
    assert torch.allclose(scores["fc2.weight"], two * one.sum(1)[None, :])


def test_synflow_is_conserved_from_layer_to_layer_masked_or_not() -> None:
    network = Chain(5, 7, 6, 4, 3)
    weights = drawn(network)
    given = context(network, weights, [examples(5, 3)])
    for density in (1.0, 0.4):
        mask = {
            name: torch.rand(w.shape, generator=torch.Generator().manual_seed(3)) < density
            for name, w in weights.items()
        }
        scores = method("synflow").rank(given, mask)
        sums = torch.stack([score.sum() for score in scores.values()])
        assert sums[0] > 0 and torch.allclose(sums, sums[0].expand(4), rtol=1e-10)
        assert all(not scores[name][~mask[name]].any() for name in mask)


def rescaled(weights: Tensors, layer: str, after: str, c: Tensor) -> Tensors:
    """The same function: incoming weights and bias of each unit times c, outgoing weights over c."""
    changed = {
        f"{layer}.weight": weights[f"{layer}.weight"] * c[:, None],
        f"{layer}.bias": weights[f"{layer}.bias"] * c,
    }
    return weights | changed | {f"{after}.weight": weights[f"{after}.weight"] / c}


@pytest.mark.parametrize("criterion", ["snip", "synflow", "magnitude"])
def test_snip_and_synflow_do_not_see_a_rescaling_of_relu_units_and_magnitude_does(criterion: str) -> None:
    network = mlp.Model((6,), 3, 1.0, [8, 7], None, True)
    weights, batch = drawn(network), examples(6, 3)
    c = torch.logspace(-1, 1, 8, dtype=torch.float64)
    other = rescaled(rescaled(weights, "fc1", "fc2", c), "fc2", "out", c.flip(0)[:7])
    outputs = [functional_call(network, values, (batch[0],)) for values in (weights, other)]
    assert torch.allclose(*outputs), "the same function"
    found = method(criterion, density=0.3)
    states = [found.start(0, context(network, values, [batch])) for values in (weights, other)]
    same = all(torch.equal(states[0].mask[name], states[1].mask[name]) for name in states[0].mask)
    assert same == (criterion != "magnitude")
    if same:
        for name, score in states[0].scores.items():
            assert torch.allclose(score, states[1].scores[name], rtol=1e-6, atol=1e-12)


SIZES = {"fc1.weight": (300, 64), "fc2.weight": (100, 300), "out.weight": (10, 100)}


@pytest.mark.parametrize("density", [0.01, 0.05, 0.2, 0.5, 0.9, 1.0])
def test_erk_densities_follow_the_dimensions_and_sum_to_the_target(density: float) -> None:
    layers = {name: torch.ones(shape) for name, shape in SIZES.items()}
    sizes, found = {name: m.numel() for name, m in layers.items()}, kept(shapes(layers), density, "erk")
    assert isinstance(found, dict) and sum(found.values()) == round(density * sum(sizes.values()))
    assert all(0 < found[name] <= sizes[name] for name in found)
    partial = [name for name in found if found[name] < sizes[name]]  # n * (sum of dimensions) / n = sum of dimensions
    rates = [found[name] / sum(SIZES[name]) for name in partial]
    assert max(rates, default=1) == pytest.approx(min(rates, default=1), rel=0.02)
    if density == 0.5:
        assert partial == ["fc1.weight", "fc2.weight"], "the small output layer is full, and no fuller"


def test_erk_counts_the_kernel_of_a_convolution_among_the_dimensions() -> None:
    layers = {"conv1.weight": torch.ones(16, 8, 3, 3), "out.weight": torch.ones(10, 200)}
    found = kept(shapes(layers), 0.1, "erk")
    assert isinstance(found, dict)
    assert found["conv1.weight"] / found["out.weight"] == pytest.approx((16 + 8 + 3 + 3) / (10 + 200), rel=0.02)


def test_erk_counts_do_not_depend_on_the_order_in_which_a_file_gives_the_layers() -> None:
    sizes = {"fc1.weight": (9, 7), "fc2.weight": (7, 9), "fc3.weight": (9, 7)}  # alike: one takes what is left over
    layers = shapes({name: torch.ones(size) for name, size in sizes.items()})
    for density in (0.1, 0.37, 0.5):
        turned = dict(reversed(layers.items()))
        assert kept(layers, density, "erk") == kept(turned, density, "erk")


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_hundred_rounds_are_nested_and_follow_the_density_geometrically(criterion: str, monkeypatch: Any) -> None:
    network = mlp.Model((6,), 3, 1.0, [30, 20], None, True)
    weights, masks = drawn(network), [whole(drawn(network), network)]
    prune = at_init.prune

    def kept_too(*given: Any) -> Tensors:
        masks.append(prune(*given))
        return masks[-1]

    monkeypatch.setattr(at_init, "prune", kept_too)
    state = method(criterion, density=0.1, rounds=100).start(0, context(network, weights, [examples(6, 3)]))
    n = count(masks[0])
    assert len(masks) == 101
    assert all(not (after[name] & ~before[name]).any() for before, after in pairwise(masks) for name in after)
    assert all(abs(count(mask) - n * 0.1 ** (i / 100)) <= 1.5 for i, mask in enumerate(masks))
    assert all(torch.equal(state.mask[name], masks[-1][name]) for name in state.mask)
    for name in state.mask:
        assert torch.equal(state.weights[name], weights[name]), "controls need the pruned weights too"
    assert torch.equal(state.weights["fc1.bias"], weights["fc1.bias"])


@pytest.mark.parametrize("density", [0.03, 0.2, 0.77, 1.0])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_total_is_exact(criterion: str, density: float) -> None:
    network = mlp.Model((6,), 3, 1.0, [30, 20], None, True)
    state = method(criterion, density=density).start(0, context(network, drawn(network), [examples(6, 3)]))
    sizes = {name: m.numel() for name, m in state.mask.items()}
    if criterion == "random":
        assert {name: int(m.sum()) for name, m in state.mask.items()} == {
            name: round(density * n) for name, n in sizes.items()
        }
    else:
        assert count(state.mask) == round(density * sum(sizes.values()))


def test_new_scores_in_every_round_keep_synflow_from_cutting_a_layer_off() -> None:
    network = Chain(30, 30, 3, 30)  # a bottleneck of few, heavily used weights behind one of many
    weights = {name: w * (0.01 if name == "fc1.weight" else 1) for name, w in drawn(network).items()}
    given = context(network, weights, [examples(30, 30)])
    once, often = (method("synflow", density=0.01, rounds=rounds).start(0, given).mask for rounds in (1, 100))
    assert count(once) == count(often) == 11 and not all(torch.equal(once[name], often[name]) for name in once)
    assert all(mask.any() for mask in often.values()), "a path is left"
    assert functional_call(
        network,
        method("synflow", density=0.01, rounds=100).start(0, given).weights,
        (torch.eye(30, dtype=torch.float64),),
    ).any()


def test_random_and_erk_follow_the_mask_stream_and_magnitude_ranks_all_layers_together() -> None:
    network = mlp.Model((6,), 3, 1.0, [30, 20], None, True)
    weights = drawn(network)

    def mask(criterion: str, **changed: int) -> Tensors:
        given = context(network, weights, [examples(6, 3)], replace(STREAMS, **changed))
        return method(criterion, density=0.3).start(0, given).mask

    for criterion in ("random", "erk"):
        first, moved = mask(criterion), mask(criterion, init=9, order=9, augment=9, noise=9)
        assert all(torch.equal(first[name], moved[name]) for name in first)
        assert not any(torch.equal(first[name], mask(criterion, mask=9)[name]) for name in first)
    flat = torch.cat([weights[name].reshape(-1).abs() for name in matrices(network)])
    kept = torch.cat([m.reshape(-1) for m in mask("magnitude").values()])
    assert torch.equal(kept, keep_top(flat, round(0.3 * len(flat))))


def test_grasps_temperature_is_its_authors_and_touches_no_other_criterion() -> None:
    assert method("grasp").temperature == 200
    network = Chain(3, 4, 2)
    weights = drawn(network)
    given = context(network, weights, [examples(3, 2)])
    snip = [method("snip", temperature=t).start(0, given).scores for t in (1.0, 200.0)]
    assert all(torch.equal(snip[0][name], snip[1][name]) for name in weights)
