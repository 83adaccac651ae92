"""Models scale with one width, are initialised by law from the init stream, and say what may be pruned."""

import math

import pytest
import torch
from helpers import same
from torch import Tensor, nn
from torch.nn import functional as F

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.models import convnet, initialise, mlp, units_at
from ltx.streams import Streams
from ltx.tensors import buffers, fans, matrices

MODELS = ("convnet", "lenet", "mlp")  # tests/test_networks.py goes over all
SEEDS = {"init": 1, "order": 2, "augment": 3, "mask": 4, "noise": 5}
LAWS = ("glorot_normal", "glorot_uniform", "kaiming_normal", "kaiming_uniform")


def spec(*overrides: str) -> Spec:
    return Spec.of(compose(["device=cpu", "method=dense", *overrides], []))


def drawn(module: nn.Module, law: str = "kaiming_normal", **changed: int) -> dict[str, Tensor]:
    """The parameters of a module, initialised."""
    initialise(module, law, Streams(**{**SEEDS, **changed}))
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def net(hidden: list[int], norm: str | None = None, bias: bool = True) -> mlp.Model:
    return mlp.Model((1, 4, 4), 3, 1.0, hidden, norm, bias)


def test_width_is_rounded_and_at_least_one():
    assert [units_at(300, w) for w in (0.25, 0.5, 1, 2, 4)] == [75, 150, 300, 600, 1200]
    assert [units_at(10, w) for w in (0.01, 0.04, 0.16, 0.26)] == [1, 1, 2, 3]


def test_lenet_300_100_on_28x28_has_266610_parameters():
    hidden = compose(["model=lenet"], [])["model"]["hidden"]
    network = mlp.Model((1, 28, 28), 10, 1.0, hidden, None, True)
    assert sum(p.numel() for p in network.parameters()) == 266_610
    assert matrices(network) == ["fc1.weight", "fc2.weight", "out.weight"]


@pytest.mark.parametrize("width", [0.01, 0.25, 2.0])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_conf_builds_and_runs_on_digits_at_any_width(name: str, width: float):
    made = spec(f"model={name}", f"width={width}")
    network = made.network(streams=made.streams(0))
    base = spec(f"model={name}").network(device="meta")
    names = matrices(network)
    assert names == matrices(base) and names
    hidden = {n: network.get_parameter(n).shape[0] for n in names[:-1]}
    assert hidden == {n: units_at(base.get_parameter(n).shape[0], width) for n in names[:-1]}
    x = made.data.train.x[:5]
    for mode in (network.train(), network.eval()):
        logits = mode(x)
        assert logits.shape == (5, 10) and torch.isfinite(logits).all()


@pytest.mark.parametrize("norm", ["batch", "null"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_runs_with_and_without_batchnorm(name: str, norm: str):
    made = spec(f"model={name}", f"model.norm={norm}", "width=0.1")
    network = made.network(streams=made.streams(0))
    assert network(made.data.train.x[:4]).shape == (4, 10)
    names = {n.rsplit(".", 1)[-1] for n in buffers(network)}
    assert names == ({"running_mean", "running_var", "num_batches_tracked"} if norm == "batch" else set())


def test_the_multilayer_perceptron_computes_linear_norm_relu():
    network = net([6, 5], "batch").train()
    x = torch.randn(7, 1, 4, 4)
    w = dict(network.named_parameters())
    h = x.flatten(1)
    for i in (1, 2):
        h = h @ w[f"fc{i}.weight"].T + w[f"fc{i}.bias"]
        h = ((h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()).relu()
    assert torch.allclose(network(x), h @ w["out.weight"].T + w["out.bias"], atol=1e-5)


@pytest.mark.parametrize("side", [8, 3])
def test_the_convnet_computes_conv_pool_norm_relu_and_pools_every_block_but_the_first(side: int):
    network = convnet.Model((2, side, side), 3, 0.5, [4, 6, 8], "batch", False).train()
    x = torch.randn(5, 2, side, side)
    w = dict(network.named_parameters())
    h, left = x, side
    for i in (1, 2, 3):
        h = F.conv2d(h, w[f"conv{i}.weight"], padding=1)
        if i > 1 and left > 1:
            h, left = F.max_pool2d(h, 2), left // 2
        mean, var = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), unbiased=False, keepdim=True)
        h = ((h - mean) / (var + 1e-5).sqrt()).relu()
    assert h.shape == (5, 4, left, left)
    assert torch.allclose(network(x), h.flatten(1) @ w["out.weight"].T, atol=1e-5)


@pytest.mark.parametrize("init", LAWS)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_initial_variances_follow_the_law(kind: str, init: str):
    module = nn.Sequential(nn.Linear(300, 200) if kind == "linear" else nn.Conv2d(60, 40, 3))
    values = drawn(module, init)["0.weight"]
    fan_in, fan_out = (300, 200) if kind == "linear" else (60 * 9, 40 * 9)
    variance = 2 / (fan_in + fan_out) if init.startswith("glorot") else 2 / fan_in
    assert float(values.var()) == pytest.approx(variance, rel=0.04)
    assert abs(float(values.mean())) < 4 * math.sqrt(variance / values.numel())
    beyond = float(values.abs().max()) / math.sqrt(3 * variance)
    assert beyond > 1.2 if init.endswith("normal") else 0.99 < beyond <= 1 + 1e-6


def test_biases_start_at_zero_and_norms_at_one():
    values = drawn(net([6, 5], "batch"))
    assert not any(values[name].any() for name in values if name.endswith("bias"))
    assert (values["norm1.weight"] == 1).all() and (values["fc1.weight"] != 0).all()


def test_a_weight_does_not_depend_on_the_other_parameters():
    plain = drawn(net([6, 5]))
    for other in (net([6, 5, 4]), net([6, 9]), net([6, 5], "batch"), net([6, 5], bias=False)):
        assert torch.equal(drawn(other)["fc1.weight"], plain["fc1.weight"])
    assert torch.equal(drawn(net([6, 5, 5]))["fc2.weight"], plain["fc2.weight"])
    backwards = nn.ModuleDict({"out": nn.Linear(5, 3), "fc2": nn.Linear(6, 5), "fc1": nn.Linear(16, 6)})
    assert all(torch.equal(value, plain[name]) for name, value in drawn(backwards).items())


def test_layers_of_one_shape_get_different_weights():
    values = drawn(net([5, 5, 5]))
    assert not torch.equal(values["fc2.weight"], values["fc3.weight"])


def test_the_same_init_stream_gives_the_same_network_and_the_other_streams_do_not_matter():
    plain = drawn(net([6, 5]))
    torch.manual_seed(99)  # torch's own generator does not matter either
    assert same(drawn(net([6, 5]), order=9, augment=9, mask=9, noise=9), plain)
    assert not torch.equal(drawn(net([6, 5]), init=9)["fc1.weight"], plain["fc1.weight"])


@pytest.mark.parametrize("init", ["glorot_normal", "null"])
def test_a_network_is_a_function_of_the_init_stream_even_with_its_own_initialisation(init: str):
    made = spec("model.hidden=[6]", f"model.init={init}")
    pinned = spec("model.hidden=[6]", f"model.init={init}", "streams.init=0")
    torch.manual_seed(1)
    first = dict(made.network(streams=made.streams(0)).named_parameters())
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = dict(made.network(streams=made.streams(0)).named_parameters())
    assert torch.equal(torch.get_rng_state(), before)  # and leaves the global generator alone
    assert same(first, again) and same(first, dict(pinned.network(streams=pinned.streams(5)).named_parameters()))
    other = dict(made.network(streams=made.streams(5)).named_parameters())
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])


class Mixed(nn.Module):
    """One of everything that has parameters."""

    def __init__(self):
        super().__init__()
        self.embedding, self.bag = nn.Embedding(5, 4), nn.EmbeddingBag(5, 4)
        self.conv, self.norm2d = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.fc, self.norm1d = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.layer, self.plane = nn.LayerNorm(4), nn.LayerNorm([2, 4])
        self.rnn, self.attention = nn.GRU(4, 3), nn.MultiheadAttention(4, 2, add_bias_kv=True)


def test_prunable_matrices_are_those_of_linear_convolution_recurrent_and_attention_layers():
    found = matrices(Mixed())
    assert {"conv.weight", "fc.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0"} <= set(found)
    assert {"attention.in_proj_weight", "attention.out_proj.weight"} <= set(found)


@pytest.mark.parametrize("layer", ["embedding", "bag", "norm2d", "norm1d", "layer", "plane"])
def test_embeddings_and_norms_are_never_prunable(layer: str):
    assert not [name for name in matrices(Mixed()) if name.startswith(f"{layer}.")]


def test_biases_are_never_prunable():
    assert not [name for name in matrices(Mixed()) if "bias" in name]


def test_an_output_layer_tied_to_an_embedding_is_not_prunable():
    module = nn.ModuleDict({"words": nn.Embedding(5, 4), "out": nn.Linear(4, 5)})
    module["out"].weight = module["words"].weight
    assert matrices(module) == []


# Layer, the names of its matrices, and (fan in, fan out) of the first one, counted by hand.
LAYERS = {
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), ["weight"], (9, 54)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2), ["weight"], (2 * 9, 3 * 9)),
    "one-dimensional": (nn.Conv1d(2, 3, 5), ["weight"], (10, 15)),
    "three-dimensional": (nn.Conv3d(2, 3, 2), ["weight"], (16, 24)),
    "bilinear": (nn.Bilinear(2, 3, 4), ["weight"], (6, 12)),
    "LSTM": (nn.LSTM(3, 4, proj_size=2), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"], (3, 16)),
    "GRU cell": (nn.GRUCell(3, 4), ["weight_ih", "weight_hh"], (3, 12)),
    "attention": (nn.MultiheadAttention(4, 2, add_bias_kv=True), ["in_proj_weight", "out_proj.weight"], (4, 12)),
    "attention of three widths": (
        nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
        (4, 4),
    ),
    "transformer": (
        nn.TransformerEncoderLayer(4, 2, 8),
        ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"],
        (4, 12),
    ),
    **{
        name: (layer, [], None)
        for name, layer in {
            "norm over images": nn.LayerNorm((3, 4)),
            "group norm": nn.GroupNorm(2, 4),
            "instance norm": nn.InstanceNorm2d(4, affine=True),
            "embedding": nn.Embedding(5, 3),
            "PReLU": nn.PReLU(4),
        }.items()
    },
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_type_of_a_layer_says_what_is_a_matrix_and_how_many_inputs_a_unit_has(kind: str) -> None:
    layer, names, expected = LAYERS[kind]
    assert matrices(layer) == names
    assert not names or fans(layer, names[0]) == expected


def test_a_parameter_of_a_users_own_layer_is_a_matrix_where_it_has_two_dimensions_and_is_no_bias() -> None:
    layer = nn.Module()
    layer.map, layer.scale = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(3))
    layer.bias_table = nn.Parameter(torch.zeros(3, 2))
    assert matrices(layer) == ["map"]
