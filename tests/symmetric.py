"""What tests of symmetries share: a trained-looking network of every family, and random orders and scales."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from helpers import STREAMS
from torch import Tensor, nn

from ltx.models import conv, convnet, initialise, lenet, mlp, resnet, vgg, vgg_small
from ltx.streams import generator
from ltx.symmetry import Table, Units, table_of
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
