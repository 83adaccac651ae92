"""What models share: the meaning of width, and initialisation from the init stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ltx.streams import Streams
from ltx.tensors import fans, matrices, seeded

Init = Literal["glorot_normal", "glorot_uniform", "kaiming_normal", "kaiming_uniform", "signed_constant"]
Activation = Literal["relu", "sign"]


def units_at(base: int, width: float) -> int:
    """Return the number of hidden units or channels at a width multiplier, at least 1."""
    return max(1, round(base * width))


def initialise(module: nn.Module, init: Init | None, streams: Streams) -> None:
    """Draw every matrix of `module` in place from the init stream, each from its own name and shape; biases are zero.

    `init=None` leaves what the module's own constructor drew (see `constructed`). Glorot & Bengio 2010: variance
    2 / (fan_in + fan_out); He et al. 2015: 2 / fan_in. Uniform laws have the same variance as the normal ones; signed
    constants (Ramanujan et al. 2020) are the sign of the normal draw times its standard deviation.
    """
    if init is None:
        return
    matrix = set(matrices(module))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in matrix:
                fan_in, fan_out = fans(module, name)
                fan = fan_in + fan_out if init.startswith("glorot") else fan_in
                std = math.sqrt(2 / fan)
                rng = streams.generator("init", name, *parameter.shape)
                parameter.copy_(torch.from_numpy(std * unit(init, rng, tuple(parameter.shape))))
            elif name.rsplit(".", 1)[-1] == "bias":
                parameter.zero_()


def unit(init: Init, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from the law of an initialisation at mean 0 and variance 1."""
    if init.endswith("uniform"):
        return rng.uniform(-math.sqrt(3), math.sqrt(3), shape)
    normal = rng.standard_normal(shape)
    return np.where(normal >= 0, 1.0, -1.0) if init == "signed_constant" else normal


class _Sign(torch.autograd.Function):
    """sign(x), +1 at 0; backward g * 2 (1 - |x|) on [-1, 1], the quadratic straight-through estimator."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * 2 * (1 - x.abs()).clamp(min=0)

    generate_vmap_rule = True


def activate(x: Tensor, activation: Activation | None) -> Tensor:
    """Return ReLU, or the binary activation of MPT-1/1 (Diffenderfer & Kailkhura 2021)."""
    return _Sign.apply(x) if activation == "sign" else x.relu()


def check_images(input_shape: tuple[int, ...]) -> None:
    """Raise ValueError where a convolutional network is given no images."""
    if len(input_shape) != 3:
        raise ValueError(
            "it needs images, of the shape channels x height x width; model=lenet and model=mlp take tables"
        )


def check_activation(activation: Activation | None, norm: str | None) -> None:
    """Raise ValueError where binary activations have no norm before them."""
    if activation == "sign" and norm is None:
        raise ValueError("binary activations need a norm before them: model.norm=batch")


def batch_norm(kind: type[nn.Module], units: int, norm: str | None, affine: bool | None) -> nn.Module | None:
    """Return a BatchNorm layer, affine unless told otherwise, or None."""
    return kind(units, affine=affine is not False) if norm else None


def constructed(make: Callable[[], nn.Module], streams: Streams) -> nn.Module:
    """Call a constructor with torch's global generator seeded from the init stream, and put that generator back."""
    with seeded(streams.torch_seed("init", "constructor")):
        return make()
