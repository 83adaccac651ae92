"""A level under way as tensors and numbers: all that the rest of it depends on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltx.tensors import Tensors, cpu, laid_out, prefixed, under

LAYOUT = 2  # of the tensors' names: a checkpoint of another layout is not continued
Meta = dict[str, Any]


def joined(parts: dict[str, Tensors]) -> Tensors:
    """Copy the tensors of all parts to the CPU, named `part/name`."""
    return {name: tensor for part, tensors in parts.items() for name, tensor in cpu(prefixed(part, tensors)).items()}


def part(name: str, tensors: Tensors) -> Tensors:
    """Return what one part of `joined` was given."""
    return under(name, tensors)


def moments(optimiser: torch.optim.Optimizer) -> Tensors:
    """Return an optimiser's state by `parameter's number/name`."""
    state = optimiser.state_dict()["state"]
    return {f"{i}/{k}": torch.as_tensor(v) for i, slot in state.items() for k, v in slot.items() if v is not None}


def set_moments(optimiser: torch.optim.Optimizer, found: Tensors) -> None:
    """Continue an optimiser that was built alike from what `moments` returned.

    A fused optimiser walks through the memory of a parameter and its moments alike, so that they must lie alike.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in found.items():
        i, _, key = name.partition("/")
        of = parameters[int(i)]
        slots.setdefault(int(i), {})[key] = laid_out(tensor, of) if tensor.shape == of.shape else tensor
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
