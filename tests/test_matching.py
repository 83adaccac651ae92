"""Which units of two networks belong together: planted permutations are found, no match is below the identity."""

from __future__ import annotations

import itertools

import pytest
import torch
from symmetric import NETWORKS, apart, draw, drawn, ladder, orders_of, scales_of
from torch import Tensor

from ltx.models.mlp import Model as MLP
from ltx.streams import generator
from ltx.symmetry import sizes, table_of
from ltx.symmetry.gauge import balanced, folded, permuted, rescaled
from ltx.symmetry.matching import activation_matching, activations, cosines, fixed, weight_matching
from ltx.tensors import Tensors


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def inner(one: Tensors, other: Tensors) -> float:
    return sum(float((one[name] * other[name]).sum()) for name in one)


def little(seed: int) -> tuple[MLP, Tensors]:
    """Return a network of 3 and 2 hidden units, and its weights."""
    made = MLP((4,), 2, 1.0, [3, 2], norm=None, bias=True)
    for i, parameter in enumerate(made.parameters()):
        parameter.data.copy_(draw(10 * seed + i, *parameter.shape))
    return made, {name: parameter.detach().double() for name, parameter in made.named_parameters()}


def undone(orders: list[Tensor]) -> list[Tensor]:
    return [order.argsort() for order in orders]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_planted_permutation_and_scaling_is_found_by_weights_in_every_network(name: str) -> None:
    module, table, _ = drawn(name)
    counts = sizes(module, table)
    weights = folded(module, table, torch.float64).state_dict()
    planted = orders_of(counts, seed=5)
    moved = rescaled(permuted(weights, table, planted), table, scales_of(counts))
    one, other = balanced(weights, table), balanced(moved, table)
    found = weight_matching(one, other, table, generator("noise", 0, "match"))
    assert all(torch.equal(a, b) for a, b in zip(found, undone(planted), strict=True))
    back = permuted(other, table, found)
    assert all(apart(back[key], one[key]) < 1e-6 for key in one if one[key].any())
    assert all(torch.allclose(cosine, torch.ones(1).double()) for cosine in cosines(one, back, table))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_planted_permutation_and_scaling_is_found_by_activations_in_every_network(name: str) -> None:
    module, table, x = drawn(name)
    whole, other = (folded(module, table, torch.float64) for _ in range(2))
    counts = sizes(module, table)
    planted = orders_of(counts, seed=6)
    other.load_state_dict(rescaled(permuted(other.state_dict(), table, planted), table, scales_of(counts)))
    one = activations(whole, table, x.double())
    found = activation_matching(one, activations(other, table, x.double()))
    lively = [values.std(0) > 0 for values in one]
    assert torch.cat(lively).double().mean() > 0.8
    for varies, order, expected in zip(lively, found, undone(planted), strict=True):
        assert torch.equal(order[varies], expected[varies])


def test_activations_are_what_the_first_reader_is_given() -> None:
    module, table, x = drawn("conv")
    counts, found = sizes(module, table), activations(module.train(), table, x)
    assert not module.conv1._forward_pre_hooks and module.training and module.norm1.num_batches_tracked == 1
    module.eval()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert [values.shape[1] for values in found] == counts
    assert [len(values) for values in found] == [6400, 1600, 400, 100]
    seen = []
    for _, layer in (("fc1", module.fc1), ("conv2", module.conv2)):
        handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        module(x)
        handle.remove()
    flat, image = seen
    assert torch.equal(found[2][5], flat.reshape(100, 5, 4)[1, :, 1]), "example 1, pixel 1"
    assert torch.equal(found[0][64 + 9], image[1, :, 1, 1]), "example 1, row 1, column 1"
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


def test_matching_is_never_below_the_identity_and_finds_the_best_of_all_orders_of_a_tiny_network() -> None:
    best = 0
    for seed in range(20):
        (made, one), (_, other) = little(seed), little(seed + 100)
        table = table_of(made)
        found = weight_matching(one, other, table, generator("noise", seed, "match"), restarts=8)
        every = itertools.product(*(map(torch.tensor, itertools.permutations(range(n))) for n in (3, 2)))
        values = [inner(one, permuted(other, table, [*orders])) for orders in every]
        reached = inner(one, permuted(other, table, found))
        best += reached >= max(values) - 1e-9
        none = weight_matching(one, other, table, generator("noise", seed, "match"), restarts=0)
        assert reached >= inner(one, permuted(other, table, none)) - 1e-9 >= inner(one, other) - 2e-9
    assert best == 20


def test_a_layer_that_reads_the_units_it_writes_is_matched_too() -> None:
    made = ladder()
    table = table_of(made)
    one = {name: parameter.detach().double() for name, parameter in made.named_parameters()}
    planted = orders_of([5], seed=2)
    found = weight_matching(one, permuted(one, table, planted), table, generator("noise", 0, "match"))
    assert torch.equal(found[0], planted[0].argsort())
    other = {name: parameter.detach().double() for name, parameter in ladder(1).named_parameters()}
    found = weight_matching(one, other, table, generator("noise", 0, "match"), restarts=0)
    assert inner(one, permuted(other, table, found)) >= inner(one, other)


def test_a_network_that_is_itself_stays_where_it_is() -> None:
    module, table, x = drawn("resnet20")
    weights = balanced(folded(module, table).state_dict(), table)
    assert fixed(weight_matching(weights, weights, table, generator("noise", 0, "match"))) == 1
    values = activations(module, table, x)
    assert fixed(activation_matching(values, values)) > 0.9


def test_constant_units_correlate_with_nothing() -> None:
    one = torch.tensor([[0.0, 7.0, 1.0], [1.0, 7.0, 0.0], [2.0, 7.0, 3.0]])
    other = torch.tensor([[0.1, 1.0, 0.0], [0.1, 0.0, 1.0], [0.1, 3.0, 2.0]])  # a constant, then units 2 and 0 of one
    assert [order.tolist() for order in activation_matching([one], [other])] == [[2, 0, 1]]


def test_cosines_are_those_of_all_weights_around_a_unit() -> None:
    (made, one), (_, other) = little(1), little(2)
    found = cosines(one, other, table_of(made))

    def around(weights: Tensors, layer: str, after: str, i: int) -> Tensor:
        return torch.cat(
            [weights[f"{layer}.weight"][i], weights[f"{layer}.bias"][i : i + 1], weights[f"{after}.weight"][:, i]]
        )

    for values, layer, after in zip(found, ("fc1", "fc2"), ("fc2", "out"), strict=True):
        for i, value in enumerate(values):
            a, b = around(one, layer, after, i), around(other, layer, after, i)
            assert value == pytest.approx(float(a @ b / a.norm() / b.norm()))
    nothing = {name: torch.zeros_like(tensor) for name, tensor in one.items()}
    assert not torch.cat(cosines(one, nothing, table_of(made))).any()


def test_fixed_is_the_share_of_units_in_their_places() -> None:
    assert fixed([torch.tensor([0, 2, 1]), torch.tensor([0])]) == 0.5
