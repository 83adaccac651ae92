"""Norms folded, scales fixed, dead units found: what brings networks that compute the same to the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from helpers import same
from symmetric import NETWORKS, POOLED, apart, draw, drawn, farthest, ladder, scales_of
from torch import Tensor, nn
from torch.func import functional_call

from ltx.models import mlp
from ltx.symmetry import Table, sizes, table_of
from ltx.symmetry.gauge import balanced, dead, folded, rescaled, unit_norm, without_dead
from ltx.tensors import Tensors


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_computes_the_same_without_norms(name: str) -> None:
    module, table, x = drawn(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert apart(folded(module, table)(x), module(x)) < 1e-5
    double = folded(copy.deepcopy(module).train(), table, torch.float64)
    assert apart(double(x.double()), in_double(module)(x.double())) < 1e-10
    assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in double.modules())
    assert bool([key for key in double.state_dict() if key.endswith(".sign")]) == (name in POOLED)
    assert same(before, module.state_dict()) and not double.training


def in_double(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the network itself in float64: what folding should agree with."""
    state = {key: value.double() if value.is_floating_point() else value for key, value in module.state_dict().items()}
    return lambda x: functional_call(module, state, (x,))


@pytest.mark.parametrize("gauge", [unit_norm, balanced])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gauge_gives_the_same_weights_after_any_rescaling_and_the_same_outputs(
    name: str, gauge: Callable[[Tensors, Table], Tensors]
) -> None:
    module, table, x = drawn(name)
    whole = folded(module, table, torch.float64)
    weights, _ = without_dead(whole.state_dict(), table)
    canonical = gauge(weights, table)
    for seed in (1, 2):
        other = rescaled(weights, table, scales_of(sizes(module, table), seed))
        assert farthest(gauge(other, table), canonical) < 1e-6
    assert apart(functional_call(whole, canonical, (x.double(),)), whole(x.double())) < 1e-10
    if not table.units[0].rescales:
        assert same(canonical, weights)


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_unit_norm_leaves_every_first_writer_with_rows_of_norm_1(name: str) -> None:
    module, table, _ = drawn(name)
    made = unit_norm(folded(module, table, torch.float64).state_dict(), table)
    for units in table.units:
        first = units.writers[0]
        rows = torch.cat([made[f"{first}.weight"].flatten(1), made[f"{first}.bias"][:, None]], 1)
        assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows)).double())


@pytest.mark.parametrize("name", ["lenet", "conv", "bottlenecks"])
def test_balanced_weights_have_the_least_norm_and_as_much_coming_in_as_going_out(name: str) -> None:
    module, table, _ = drawn(name)
    weights, _ = without_dead(folded(module, table, torch.float64).state_dict(), table)
    made = balanced(weights, table)
    for u, (units, count) in enumerate(zip(table.units, sizes(module, table), strict=True)):
        coming = sum(made[f"{w}.weight"].flatten(1).square().sum(1) + made[f"{w}.bias"] ** 2 for w in units.writers)
        going = sum(
            made[f"{r}.weight"].unflatten(1, (count, -1)).transpose(0, 1).flatten(1).square().sum(1)
            for r in units.readers
        )
        assert torch.allclose(coming, going, rtol=1e-9), u

    def energy(tensors: Tensors) -> float:
        return sum(float(tensor.square().sum()) for tensor in tensors.values() if tensor.is_floating_point())

    ones = [torch.ones(count).double() for count in sizes(module, table)]
    for u, i in ((0, 0), (0, 2), (len(ones) - 1, 1)):
        for factor in (0.99, 1.01):
            near = [scale.clone() for scale in ones]
            near[u][i] = factor
            assert energy(rescaled(made, table, near)) > energy(made)


def test_a_layer_that_reads_the_units_it_writes_is_balanced_however_strong_it_is() -> None:
    made = ladder()
    table, weights = table_of(made), {name: tensor.detach().double() for name, tensor in made.named_parameters()}
    weights["fc2.weight"] = 30 * weights["fc2.weight"].triu(1)
    canonical = balanced(weights, table)
    assert farthest(balanced(rescaled(weights, table, scales_of([5])), table), canonical) < 1e-6


def test_dead_units_are_found_to_the_last_one_and_counted() -> None:
    made = mlp.Model((4,), 2, 1.0, [5, 4, 3], norm=None, bias=True)
    table, x = table_of(made), draw(1, 30, 4)
    for i, parameter in enumerate(made.parameters()):
        parameter.data.copy_(draw(i, *parameter.shape))
    weights = {name: tensor.detach().clone().double() for name, tensor in made.named_parameters()}
    weights["fc1.weight"][:3] = 0
    weights["fc1.bias"][:3] = torch.tensor([-1.0, 0.0, 1.0])  # nothing, nothing, a constant
    weights["fc2.weight"][0, 2:] = 0  # sees only the two that are dead
    weights["fc2.bias"][0] = -0.5
    weights["out.weight"][:, 1] = 0  # nothing goes out of unit 1 of fc3
    weights["fc3.weight"][0, 3] = weights["fc3.weight"][2, 3] = 0  # what only that one sees
    expected = [[True, True, False, False, False], [True, False, False, True], [False, True, False]]
    assert [units.tolist() for units in dead(weights, table)] == expected
    cleared, count = without_dead(weights, table)
    assert count == 5 and [units.tolist() for units in dead(cleared, table)] == expected
    made.double()
    assert apart(functional_call(made, cleared, (x.double(),)), functional_call(made, weights, (x.double(),))) < 1e-12
    assert (
        not cleared["fc3.weight"][1].any()
        and not cleared["fc3.bias"][1].any()
        and not cleared["fc3.weight"][:, 0].any()
    )
    for gauge in (unit_norm, balanced):  # what is alive is scaled as if the dead were gone, and they stay as they are
        assert same(without_dead(gauge(weights, table), table)[0], gauge(cleared, table))


def test_a_unit_of_a_stage_is_dead_when_all_its_writers_or_all_its_readers_are() -> None:
    made = ladder()
    weights = {name: tensor.detach().clone() for name, tensor in made.named_parameters()}
    weights["fc1.weight"][0] = weights["fc2.weight"][0] = 0
    weights["fc1.weight"][1] = 0
    weights["fc2.weight"][:, 2] = weights["out.weight"][:, 2] = 0
    weights["out.weight"][:, 3] = 0
    weights["fc1.bias"][:2] = weights["fc2.bias"][:2] = -1
    assert dead(weights, table_of(made))[0].tolist() == [True, False, True, False, False]


def test_a_loop_that_nothing_enters_is_dead() -> None:
    made = ladder()
    weights = {name: tensor.detach().clone() for name, tensor in made.named_parameters()}
    weights["fc1.weight"][0] = weights["fc2.weight"][0, 1:] = 0
    weights["fc1.bias"][0] = weights["fc2.bias"][0] = 0
    assert dead(weights, table_of(made))[0].tolist() == [True, False, False, False, False]


def test_a_binary_unit_without_weights_is_a_constant_and_not_dead() -> None:
    module, table, _ = drawn("mlp binary")
    weights = folded(module, table).state_dict()
    weights["fc1.weight"][0], weights["fc1.bias"][0] = 0, -1
    weights["fc2.weight"][:, 1] = 0
    assert dead(weights, table)[0].tolist()[:3] == [False, True, False]


def test_a_unit_behind_a_pool_with_a_negative_factor_is_dead_where_its_constant_is_positive() -> None:
    module, table, _ = drawn("convnet")
    weights = folded(module, table).state_dict()
    minus = int((weights["norm2.sign"] < 0).nonzero()[0])
    weights["conv2.weight"][minus] = 0
    for bias, expected in ((1.0, True), (-1.0, False)):
        weights["conv2.bias"][minus] = bias
        assert bool(dead(weights, table)[1][minus]) == expected
