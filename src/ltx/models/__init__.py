"""What models share: the meaning of width, and initialisation from the init stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import nn

from ltx.streams import Streams
from ltx.tensors import matrices

Init = Literal["glorot_normal", "glorot_uniform", "kaiming_normal", "kaiming_uniform"]


def scaled(base: int, width: float) -> int:
    """Return the number of hidden units or channels at a width multiplier, at least 1."""
    return max(1, round(base * width))


def initialise(module: nn.Module, init: Init | None, streams: Streams) -> None:
    """Draw every matrix of `module` in place from the init stream, each from its own name and shape; biases are zero.

    `init=None` leaves what the module's own constructor drew (see `constructed`). Glorot & Bengio 2010: variance
    2 / (fan_in + fan_out); He et al. 2015: 2 / fan_in. Uniform laws have the same variance as the normal ones.
    """
    if init is None:
        return
    matrix = set(matrices(module))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in matrix:
                fan_out, fan_in = parameter.shape[0], parameter[0].numel()
                receptive = parameter[0, 0].numel() if parameter.ndim > 2 else 1
                fan = fan_in + fan_out * receptive if init.startswith("glorot") else fan_in
                std = math.sqrt(2 / fan)
                rng = streams.generator("init", name, *parameter.shape)
                draw: Callable = rng.standard_normal if init.endswith("normal") else uniform_of_unit_variance(rng)
                parameter.copy_(torch.from_numpy(std * draw(tuple(parameter.shape))))
            elif name.rsplit(".", 1)[-1] == "bias":
                parameter.zero_()


def uniform_of_unit_variance(rng: np.random.Generator) -> Callable:
    """Return a sampler of U(-sqrt 3, sqrt 3)."""
    return lambda shape: rng.uniform(-math.sqrt(3), math.sqrt(3), shape)


def constructed(make: Callable[[], nn.Module], streams: Streams) -> nn.Module:
    """Call a constructor with torch's global generator seeded from the init stream, and put that generator back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(streams.generator("init", "constructor").integers(2**63)))
        return make()
