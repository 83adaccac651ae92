"""What leaves a network's outputs alone, and the tables that say so: tried, refused where they are wrong."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers import same
from symmetric import NETWORKS, Ladder, apart, draw, drawn, farthest, ladder, orders_of, scales_of
from test_networks import ALL, network
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ltx.models import mlp
from ltx.streams import generator
from ltx.symmetry import Table, Units, order, sizes, table_of, verify
from ltx.symmetry.gauge import balanced, folded, permuted, rescaled, unit_norm, without_dead
from ltx.tensors import matrices


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_under_a_permutation_and_a_rescaling_of_every_set_at_once(name: str) -> None:
    module, table, x = drawn(name)
    counts, expected = sizes(module, table), module(x)
    moved = permuted(module.state_dict(), table, orders_of(counts))
    assert not same(moved, module.state_dict())
    assert apart(functional_call(module, moved, (x,)), expected) < 1e-5
    whole = folded(module, table)
    scaled = rescaled(permuted(whole.state_dict(), table, orders_of(counts)), table, scales_of(counts))
    assert apart(functional_call(whole, scaled, (x,)), expected) < 1e-5
    assert any(units.rescales for units in table.units) == ("binary" not in name)


def test_a_module_of_ones_own_says_its_units_in_a_list() -> None:
    made, x = ladder(), draw(3, 20, 6)
    table = table_of(made)
    assert table == Table((Units(("fc1", "fc2"), ("fc2", "out")),))
    verify(made, table, x, generator("noise", 0, "verify"))
    weights = folded(made, table, torch.float64).state_dict()
    canonical = balanced(weights, table)
    assert farthest(balanced(rescaled(weights, table, scales_of([5])), table), canonical) < 1e-6


def test_the_group_of_a_tiny_network_has_as_many_members_as_the_factorials_say() -> None:
    made = mlp.Model((4,), 2, 1.0, [3, 2], norm=None, bias=True)
    for i, parameter in enumerate(made.parameters()):
        parameter.data.copy_(draw(i, *parameter.shape))
    table = table_of(made)
    every = itertools.product(*(map(torch.tensor, itertools.permutations(range(n))) for n in sizes(made, table)))
    members = [permuted(made.state_dict(), table, [*orders]) for orders in every]
    found = {tuple(torch.cat([tensor.flatten() for tensor in one.values()]).tolist()) for one in members}
    assert len(found) == order(sizes(made, table)) == math.factorial(3) * math.factorial(2) == 12
    assert order([300, 100]) == math.factorial(300) * math.factorial(100)


def test_a_mask_permutes_with_its_weights_and_stays_a_mask() -> None:
    module, table, _ = drawn("conv")
    names = [name for name in matrices(module) if not name.startswith("out")]
    mask = {name: draw(7, *module.get_parameter(name).shape) > 0 for name in names}
    orders = orders_of(sizes(module, table))
    moved, kept = permuted(mask, table, orders), permuted(module.state_dict(), table, orders)
    masked = {name: module.get_parameter(name).detach() * mask[name] for name in names}
    assert {*moved} == {*names} and all(keep.dtype == torch.bool for keep in moved.values())
    assert same({name: kept[name] * moved[name] for name in names}, permuted(masked, table, orders))
    assert same(rescaled(mask, table, scales_of(sizes(module, table))), mask)


def test_nothing_is_changed_in_place() -> None:
    module, table, _ = drawn("resnet20")
    weights = folded(module, table, torch.float64).state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    counts = sizes(module, table)
    permuted(weights, table, orders_of(counts))
    rescaled(weights, table, scales_of(counts))
    without_dead(weights, table)
    unit_norm(weights, table)
    balanced(weights, table)
    assert same(before, weights)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_table_of_ltx_holds(name: str) -> None:
    module, table, x = drawn(name)
    verify(module, table, x, generator("noise", 0, "verify"))


@pytest.mark.parametrize("name", ALL)
def test_every_network_of_conf_says_what_all_its_layers_write_and_read(name: str) -> None:
    module = network(name)
    table, layers = table_of(module), [matrix.removesuffix(".weight") for matrix in matrices(module)]
    assert {*table.writes} == {*layers[:-1]} and {*table.reads} == {*layers[1:]}
    norms = [key for key, layer in module.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert {*table.norms} == {*norms} and len({*table.norms.values()}) == len(norms)


def changed(table: Table, u: int, **fields: tuple[str, ...] | bool) -> Table:
    """Return a table with one set said otherwise."""
    units = list(table.units)
    units[u] = replace(units[u], **fields)
    return replace(table, units=tuple(units))


def refused(module: nn.Module, table: Table, x: Tensor) -> str:
    with pytest.raises(ValueError) as said:
        verify(module, table, x, generator("noise", 0, "verify"))
    return str(said.value)


def test_a_table_that_is_wrong_is_refused_with_the_units_it_is_wrong_about() -> None:
    module, table, x = drawn("resnet20")
    stage, inner = table.units[0], table.units[1]
    assert stage.writers[0] == "stem" and inner.writers == ("block1.1.conv1",)
    wrong = changed(table, 0, writers=stage.writers[:-1])
    assert "the order of the units of 'stem'" in refused(module, wrong, x)
    wrong = changed(table, 0, readers=stage.readers[:-1])
    assert "the order of the units of 'stem'" in refused(module, wrong, x)
    swapped = changed(changed(table, 1, readers=table.units[2].readers), 2, readers=inner.readers)
    assert "the order of the units of 'block1.1.conv1'" in refused(module, swapped, x)
    unnamed = replace(table, norms={k: v for k, v in table.norms.items() if v != "stem"})
    assert "the order of the units of 'stem'" in refused(module, unnamed, x)


@pytest.mark.parametrize("activation", [F.gelu, F.silu, torch.tanh])
def test_a_scale_is_refused_where_no_relu_stands(activation: Callable[[Tensor], Tensor]) -> None:
    class Smooth(Ladder):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(activation(self.fc2(activation(self.fc1(x)))))

    made, x = Smooth(), draw(3, 20, 6)
    right = Table((Units(("fc1",), ("fc2",), False), Units(("fc2",), ("out",), False)))
    verify(made, right, x, generator("noise", 0, "verify"))
    assert "the scale of the units of 'fc2'; say rescales=False" in refused(made, changed(right, 1, rescales=True), x)


def test_a_scale_is_refused_for_signs_and_a_pool_that_is_not_said() -> None:
    module, table, x = drawn("mlp binary")
    assert "the scale of the units of 'fc1'" in refused(module, changed(table, 0, rescales=True), x)
    module, table, x = drawn("convnet")
    assert "cannot be folded" in refused(module, replace(table, pooled=()), x)


def test_a_table_that_does_not_fit_its_layers_is_refused_in_a_sentence() -> None:
    made = ladder()

    def said(*units: Units, norms: dict[str, str] | None = None, pooled: tuple[str, ...] = ()) -> str:
        made.symmetry = lambda: Table(units, norms or {}, pooled)
        with pytest.raises(ValueError) as error:
            table_of(made)
        return str(error.value)

    one = Units(("fc1",), ("fc2",))
    assert "Ladder has no layer 'fc9'; did you mean" in said(Units(("fc9",), ("out",)))
    assert "write 5 and 3 units" in said(Units(("fc1", "out"), ("fc2",)))
    assert "'fc1' has 6 inputs, no multiple of the 5 units of 'fc2'" in said(Units(("fc2",), ("fc1",)))
    assert "'fc2' reads two sets" in said(one, Units(("fc2",), ("fc2",)))
    assert "'fc1' writes two sets" in said(one, Units(("fc1",), ("out",)))
    assert "no layers on one side" in said(Units(("fc1",), ()))
    assert "'fc2' is no BatchNorm" in said(one, norms={"fc2": "fc1"})
    assert "'norm' is pooled but no norm" in said(one, pooled=("norm",))
    made.fc2 = nn.Bilinear(5, 5, 5)
    assert "'fc2' is a Bilinear and not a Linear" in said(one)
    made.fc2 = nn.BatchNorm1d(4)
    assert "'fc2' normalises 4 units and 'fc1' has 5" in said(Units(("fc1",), ("out",)), norms={"fc2": "fc1"})


def test_a_module_without_a_table_is_told_how_to_state_one() -> None:
    with pytest.raises(ValueError, match=r"Sequential does not say what its hidden units are(.|\n)*def symmetry"):
        table_of(nn.Sequential(nn.Linear(2, 2)))
