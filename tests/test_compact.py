"""Units that cannot matter are removed, all of them and no other, and the network computes what it did."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from symmetric import NETWORKS, drawn, ladder
from torch import Tensor, nn

from ltx.export import plain
from ltx.export.compact import compacted, packed
from ltx.models.mlp import Model as Mlp
from ltx.streams import generator
from ltx.symmetry import Table, table_of
from ltx.symmetry.gauge import dead, folded
from ltx.tensors import Tensors, matrices


def masked(module: nn.Module, density: float, seed: int) -> nn.Module:
    """Return a copy in float64 whose matrices keep about this share of their weights."""
    made = copy.deepcopy(module).double()
    for i, name in enumerate(matrices(made)):
        weight = made.get_parameter(name)
        weight.data *= torch.from_numpy(generator("noise", seed, i, "mask").random(tuple(weight.shape)) < density)
    return made


def shrunk(module: nn.Module, found: Tensors) -> nn.Module:
    made = copy.deepcopy(module)
    plain.shrink(made, found)
    return made


@torch.no_grad()
def apart(module: nn.Module, small: nn.Module, x: Tensor) -> float:
    expected = module(x)
    return float((small(x) - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def units(module: nn.Module, table: Table) -> int:
    return sum(len(module.get_parameter(f"{one.writers[0]}.weight")) for one in table.units)


@pytest.mark.parametrize("density", [0.2, 0.05, 0.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_without_its_useless_units_computes_the_same(name: str, density: float) -> None:
    module, table, x = drawn(name)
    whole = masked(module, density, len(name))
    found, removed = compacted(whole, table, x[:9])
    small = shrunk(whole, found)
    assert apart(whole, small, x[:30].double()) < 1e-12, "of examples that it has not seen too"
    assert units(whole, table) - units(small, table) == removed and (removed or density)
    assert all(len(small.get_parameter(f"{one.writers[0]}.weight")) for one in table.units), "none is empty"
    assert not compacted(small, table, x[:9])[1], "once is enough"
    for layer in small.modules():
        if isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features)
        elif isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert layer.num_features == len(layer.running_mean)


@pytest.mark.parametrize("name", ["lenet", "convnet", "bottlenecks"])
def test_in_float32_it_is_the_same_up_to_rounding(name: str) -> None:
    module, table, x = drawn(name)
    whole = masked(module, 0.05, 0).float()
    found, removed = compacted(whole, table, x[:20])
    assert removed and apart(whole, shrunk(whole, found), x) < 1e-5


def between(weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Tell of each hidden layer which units lie on a path of nonzero weights from an input to an output."""
    coming, going = [np.ones(weights[0].shape[1], bool)], [np.ones(weights[-1].shape[0], bool)]
    for weight in weights:
        coming.append((weight != 0) @ coming[-1])
    for weight in reversed(weights):
        going.append((weight != 0).T @ going[-1])
    return [one & other for one, other in zip(coming[1:-1], going[-2:0:-1], strict=True)]


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("seed", range(8))
def test_of_a_chain_of_linear_layers_the_units_between_inputs_and_outputs_stay(seed: int, norm: str | None) -> None:
    module = masked(Mlp((5,), 3, 1.0, [7, 6, 7], norm, True), 0.12 + 0.02 * seed, seed)
    rng = generator("noise", seed, "biases")
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data = torch.from_numpy(rng.standard_normal(parameter.shape))
    names = matrices(module)
    x = torch.from_numpy(rng.standard_normal((20, 5)))
    found, _ = compacted(module.eval(), table_of(module), x)
    small = shrunk(module, found)
    stay = between([module.get_parameter(name).detach().numpy() for name in names])
    assert [len(small.get_parameter(name)) for name in names[:-1]] == [max(1, int(one.sum())) for one in stay]
    assert apart(module, small, x) < 1e-12


@pytest.mark.parametrize("name", ["mlp without biases", "vgg_small", "convnet not affine"])
def test_without_biases_the_units_that_stay_are_those_that_are_not_dead(name: str) -> None:
    """`symmetry.gauge.dead` counts them by another way, on networks whose norms are folded into the layers."""
    module, table, x = drawn(name)
    for seed in range(4):
        whole = masked(module, 0.12, seed)
        for norm in table.norms:
            whole.get_buffer(f"{norm}.running_mean").zero_()
            for shift in ("weight", "bias"):
                if f"{norm}.{shift}" in dict(whole.named_parameters()):
                    whole.get_parameter(f"{norm}.{shift}").data.fill_(float(shift == "weight"))
        expected = [min(int(one.sum()), len(one) - 1) for one in dead(folded(whole, table).state_dict(), table)]
        assert compacted(whole, table, x[:20])[1] == sum(expected)


def chain(*widths: int) -> nn.Module:
    """Return a chain of linear layers with biases, all of whose weights are 1."""
    module = Mlp((widths[0],), widths[-1], 1.0, list(widths[1:-1]), None, True).double()
    for parameter in module.parameters():
        parameter.data.fill_(1.0)
    return module.eval()


@torch.no_grad()
def test_a_unit_that_nothing_reads_takes_those_with_it_that_only_it_reads() -> None:
    module = chain(4, 3, 3, 3, 2)
    module.out.weight[:, 1] = 0  # unit 1 of fc3 is not read
    module.fc3.weight[[0, 2], 2] = 0  # unit 2 of fc2 is read by that one alone
    module.fc2.weight[:2, 0] = 0  # and unit 0 of fc1 by that one
    found, removed = compacted(module, table_of(module), torch.ones(3, 4))
    small = shrunk(module, found)
    assert removed == 3 and [len(layer.weight) for layer in (small.fc1, small.fc2, small.fc3)] == [2, 2, 2]
    assert not plain.under("folded", found) and apart(module, small, torch.randn(9, 4).double()) < 1e-12


@torch.no_grad()
def test_a_unit_that_reads_nothing_is_taken_over_by_the_biases_behind_it() -> None:
    module = chain(4, 3, 3, 2)
    module.fc1.weight[0] = 0
    module.fc1.bias[0] = 5.0  # always 5: the layer behind it takes that over
    module.fc1.weight[1] = 0
    module.fc1.bias[1] = -5.0  # always 0 behind the ReLU
    module.fc2.weight[1, 2] = 0  # reads nothing but these two: always 1 + 5
    found, removed = compacted(module, table_of(module), torch.ones(3, 4))
    small = shrunk(module, found)
    assert removed == 3 and small.fc2.bias.tolist() == [6.0, 6.0] and small.out.bias.tolist() == [7.0, 7.0]
    assert apart(module, small, torch.randn(9, 4).double()) < 1e-12


@torch.no_grad()
def test_a_layer_without_a_bias_gets_one_where_it_must_take_something_over() -> None:
    module = chain(4, 3, 2)
    module.fc1.weight[0], module.fc1.bias[0], module.out.bias = 0, 2.0, None
    found, removed = compacted(module, table_of(module), torch.ones(3, 4))
    assert removed == 1 and shrunk(module, found).out.bias.tolist() == [2.0, 2.0]
    assert apart(module, shrunk(module, found), torch.randn(9, 4).double()) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_a_channel_that_is_always_the_same_stays_where_zeros_are_padded_to_it(shift: float) -> None:
    module, table, x = drawn("convnet")
    module = copy.deepcopy(module).double()
    module.conv1.weight[2], module.norm1.bias[2] = 0, shift
    module.norm1.weight[2], module.norm1.running_mean[2] = 1, 0
    found, removed = compacted(module, table, x[:20])
    assert removed == (shift < 0), "behind the ReLU it is 0, or else 1 up to the border and 0 beyond it"
    assert apart(module, shrunk(module, found), x.double()) < 1e-12


@torch.no_grad()
def test_in_a_residual_stage_a_unit_goes_where_no_layer_of_the_stage_reads_it() -> None:
    module = ladder().double()
    x = torch.randn(9, 6).double()
    module.out.weight[:, 1] = 0
    assert compacted(module, table_of(module), x)[1] == 0, "the second layer reads it"
    module.fc2.weight[:, 1] = 0
    found, removed = compacted(module, table_of(module), x)
    assert removed == 1 and apart(module, shrunk(module, found), x) < 1e-12


@torch.no_grad()
def test_a_unit_that_happens_to_be_dead_on_the_examples_stays() -> None:
    module = chain(4, 3, 2)
    assert compacted(module, table_of(module), -torch.ones(3, 4)) == ({}, 0)


def test_bits_come_back() -> None:
    for size in (0, 1, 7, 8, 9, 64, 1001):
        mask = torch.from_numpy(generator("noise", size, "bits").random(size) < 0.4)
        assert packed(mask).numel() == -(-size // 8) and torch.equal(plain.bits(packed(mask), size), mask)
        assert packed(mask).numpy().tobytes() == np.packbits(mask.numpy()).tobytes()


@pytest.mark.parametrize("large, layout", [(600, torch.sparse_csr), (10**6, torch.strided)])
def test_a_sparse_layer_computes_what_the_dense_one_did(
    large: int, layout: torch.layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "WEIGHTS", 600)
    monkeypatch.setattr(plain, "LARGE", large)
    linear = (nn.Linear(30, 40), nn.Linear(40, 20, bias=False), nn.Linear(20, 29), nn.Linear(29, 30))
    network = nn.Sequential(linear[0], nn.ReLU(), *linear[1:])
    whole = copy.deepcopy(network)
    for at, density in ((0, 0.04), (2, 0.04), (3, 0.01), (4, 0.4)):  # the third is small, the last one dense
        weight = network[at].weight
        weight.data *= torch.from_numpy(generator("noise", at, "rows").random(tuple(weight.shape)) < density)
    whole.load_state_dict(network.state_dict())
    plain.hold_sparse(network)
    assert [isinstance(part, plain.SparseLinear) for part in network] == [True, False, True, False, False]
    with torch.no_grad():
        for x in (torch.randn(1, 30), torch.randn(50, 30), torch.randn(3, 5, 30)):
            assert torch.allclose(network(x), whole(x), atol=1e-5)
    assert network[0].weight.layout == layout and network[0].values.numel() < 100
