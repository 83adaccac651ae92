"""What leaves a network's outputs alone: permutations, scales, folded norms, and the gauges that fix the scales."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from helpers import STREAMS, same
from test_networks import ALL, network
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ltx.models import conv, convnet, initialise, lenet, mlp, resnet, vgg, vgg_small
from ltx.streams import generator
from ltx.symmetry import Table, Units, order, sizes, table_of, verify
from ltx.symmetry.gauge import balanced, dead, folded, permuted, rescaled, unit_norm, without_dead
from ltx.tensors import Tensors, matrices

TABLE, IMAGE, STEM_IMAGE = (64,), (2, 8, 8), (2, 16, 16)
BINARY = {"norm": "batch", "bias": False, "activation": "sign"}
RESIDUAL = {"stem_channels": 4, "blocks": [2, 2], "channels": [4, 6], "norm": "batch", "bias": True}
SMALL, LARGE = ({**RESIDUAL, "stem": stem, "expansion": None} for stem in ("small", "imagenet"))
BOTTLENECKS = {**RESIDUAL, "stem": "small", "blocks": [2, 1], "channels": [2, 3], "expansion": 4}
STAGES = {"stages": [[3, 4], [5]], "hidden": [6], "average": False, "norm": "batch", "bias": True}
NETWORKS: dict[str, tuple[Any, tuple[int, ...], dict[str, Any]]] = {
    "lenet": (lenet.Model, TABLE, {"hidden": [12, 8], "norm": None, "bias": True}),
    "mlp": (mlp.Model, TABLE, {"hidden": [9, 8, 7], "norm": "batch", "bias": True}),
    "mlp without biases": (mlp.Model, TABLE, {"hidden": [9, 8], "norm": None, "bias": False}),
    "mlp binary": (mlp.Model, TABLE, {"hidden": [9, 8], **BINARY}),
    "conv": (conv.Model, IMAGE, STAGES),
    "conv binary": (conv.Model, IMAGE, {**STAGES, **BINARY}),
    "vgg average": (vgg.Model, IMAGE, {**STAGES, "hidden": [], "average": True}),
    "vgg_small": (vgg_small.Model, IMAGE, {**STAGES, "hidden": [], "bias": False}),
    "convnet": (convnet.Model, IMAGE, {"channels": [5, 6, 7], "norm": "batch", "bias": False}),
    "convnet not affine": (
        convnet.Model,
        IMAGE,
        {"channels": [5, 6, 7], "norm": "batch", "bias": False, "affine": False},
    ),
    "resnet20": (resnet.Model, IMAGE, SMALL),
    "bottlenecks": (resnet.Model, IMAGE, BOTTLENECKS),
    "imagenet stem": (resnet.Model, STEM_IMAGE, LARGE),
    "imagenet stem binary": (resnet.Model, STEM_IMAGE, {**LARGE, **BINARY}),
}
POOLED = ("conv binary", "convnet", "imagenet stem binary")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(generator("noise", seed, "draw", *shape).standard_normal(shape)).float()


@cache
def drawn(name: str) -> tuple[nn.Module, Table, Tensor]:
    """Return a network with biases and norms drawn too, negative factors among them, its table, and examples.

    Its norms have statistics of these examples, drawn a little aside, so that most units vary.
    """
    kind, shape, fields = NETWORKS[name]
    module, x = kind(shape, 10, 1.0, **fields), draw(100, 100, *shape)
    initialise(module, "kaiming_normal", STREAMS)
    with torch.no_grad():
        for i, (key, parameter) in enumerate(module.named_parameters()):
            if key not in matrices(module):
                parameter.copy_(0.3 * draw(i, *parameter.shape))
                if key.endswith("weight"):
                    parameter += 1
                    parameter[0] *= -1
        norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = 1
        module.train()(x)
        for i, norm in enumerate(norms):
            norm.running_mean += 0.2 * norm.running_var.sqrt() * draw(i, norm.num_features)
            norm.running_var *= 0.5 + draw(50 + i, norm.num_features).square()
    return module.eval(), table_of(module), x


def orders_of(counts: list[int], seed: int = 0) -> list[Tensor]:
    rng = generator("noise", seed, "orders")
    return [torch.from_numpy(rng.permutation(count)) for count in counts]


def scales_of(counts: list[int], seed: int = 0) -> list[Tensor]:
    rng = generator("noise", seed, "scales")
    return [torch.from_numpy(10 ** rng.uniform(-1, 1, count)) for count in counts]


def apart(one: Tensor, other: Tensor) -> float:
    return float(((one - other).abs().max() / other.abs().max()).detach())


def farthest(one: Tensors, other: Tensors) -> float:
    return max(apart(one[name], other[name]) for name in one if one[name].any())


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


class Ladder(nn.Module):
    """Add what two layers make of a stream to it: the second layer reads and writes the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x).relu()
        return self.out(x + self.fc2(x).relu())

    def symmetry(self) -> list[Units] | Table:
        return [Units(("fc1", "fc2"), ("fc2", "out"))]


def ladder(seed: int = 0) -> Ladder:
    made = Ladder()
    for i, parameter in enumerate(made.parameters()):
        parameter.data.copy_(draw(1000 * seed + i, *parameter.shape))
    return made


def test_a_module_of_ones_own_says_its_units_in_a_list() -> None:
    made, x = ladder(), draw(3, 20, 6)
    table = table_of(made)
    assert table == Table((Units(("fc1", "fc2"), ("fc2", "out")),))
    verify(made, table, x, generator("noise", 0, "verify"))
    weights = folded(made, table, torch.float64).state_dict()
    canonical = balanced(weights, table)
    assert farthest(balanced(rescaled(weights, table, scales_of([5])), table), canonical) < 1e-6


def test_a_layer_that_reads_the_units_it_writes_is_balanced_however_strong_it_is() -> None:
    made = ladder()
    table, weights = table_of(made), {name: tensor.detach().double() for name, tensor in made.named_parameters()}
    weights["fc2.weight"] = 30 * weights["fc2.weight"].triu(1)
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
