"""Tensors = a dict of tensors by parameter name, and the few functions on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


def cpu(tensors: Mapping[str, Tensor]) -> Tensors:
    """Copy every tensor to the CPU, detached, contiguous and owned by the result."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor in the memory layout of another one of its shape; itself where it lies so already."""
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def all_laid_out(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Tensors:
    """Return tensors by name in the memory layout of those of the same name."""
    return {name: laid_out(tensor, like[name]) for name, tensor in tensors.items()}


def in_kind(tensors: Mapping[str, Tensor], kind: torch.dtype) -> Tensors:
    """Return tensors by name with the floating ones as floats of one kind; masks and counts stay."""
    return {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Name every tensor `prefix/name`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Return what `prefixed` named, under its own names again."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def buffers(module: nn.Module) -> Tensors:
    """Return the running statistics and other buffers that a checkpoint must carry."""
    trained = dict(module.named_parameters())
    return {name: tensor for name, tensor in module.state_dict().items() if name not in trained}


def parameters(module: nn.Module) -> Tensors:
    """Return the values of a module's parameters, without gradients."""
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def call(module: nn.Module, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Call `module` on x with `tensors` in place of its parameters of those names.

    torch.func.functional_call for parameters alone, without its checks, which cost a small network 3 % of its step.
    """
    own = []
    try:
        for name, tensor in tensors.items():
            owner, _, leaf = name.rpartition(".")
            slot = module.get_submodule(owner)._parameters
            own.append((slot, leaf, slot[leaf]))
            slot[leaf] = tensor  # type: ignore[assignment]
        return module(x)
    finally:
        for slot, leaf, parameter in own:
            slot[leaf] = parameter


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Seed torch's own generators, the CPU's and the device's, and put their states back at the end.

    What a network draws by itself (dropout, stochastic depth) comes from there. torch.manual_seed would take a
    millisecond where there is no GPU, since it keeps the call's stack for when there might be one.
    """
    place = torch.device(device)
    before = generators(place)
    torch.default_generator.manual_seed(seed)
    if place.type == "cuda":
        with torch.cuda.device(place):
            torch.cuda.manual_seed(seed)
    try:
        yield
    finally:
        set_generators(before, place)


def generators(device: torch.device) -> Tensors:
    """Return the states of torch's own generators, the CPU's and the device's."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Continue from what `generators` returned; a device that has no state there is left as it is."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


_CONVOLUTIONS = nn.modules.conv._ConvNd
_WITH_MATRICES = (nn.Linear, nn.Bilinear, _CONVOLUTIONS, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
_WITHOUT = (nn.Embedding, nn.EmbeddingBag, nn.PReLU, *_NORMS)


def matrices(module: nn.Module) -> list[str]:
    """Name the weights that may be pruned, by the type of the layer that holds them.

    Linear, bilinear, convolution (also transposed and depthwise), recurrent and attention layers: their `weight` or
    `..._weight...` parameters. Embeddings, norms and PReLU have none; biases, also those of attention, are none. Of a
    module that torch does not know, every parameter with two dimensions or more whose name does not begin with `bias`.
    """
    found = []
    for owner, layer in module.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if isinstance(layer, _WITHOUT):
                continue
            known = isinstance(layer, _WITH_MATRICES)
            if "weight" in name if known else parameter.ndim >= 2 and not name.startswith("bias"):
                found.append(f"{owner}.{name}" if owner else name)
    order = [name for name, _ in module.named_parameters()]
    return sorted(set(found) & set(order), key=order.index)


def norms(module: nn.Module) -> list[str]:
    """Name the parameters of normalisation layers, weights and biases: those of torch's classes and of heirs of them.

    A norm of a user's own counts where its class inherits from one of torch's.
    """
    return [
        f"{owner}.{name}" if owner else name
        for owner, layer in module.named_modules()
        if isinstance(layer, _NORMS)
        for name, _ in layer.named_parameters(recurse=False)
    ]


def fans(module: nn.Module, name: str) -> tuple[int, int]:
    """Return how many inputs a unit of a matrix has and how many outputs an input has, taps of a kernel included.

    A transposed convolution holds its weight as (in, out / groups, *kernel), every other layer as (out, in, ...).
    """
    owner, _, leaf = name.rpartition(".")
    layer = module.get_submodule(owner)
    shape = getattr(layer, leaf).shape
    taps = math.prod(shape[2:])
    if isinstance(layer, _CONVOLUTIONS) and layer.transposed:
        return shape[0] // layer.groups * taps, shape[1] * taps
    return shape[1] * taps, shape[0] * taps
