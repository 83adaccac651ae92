"""What a network costs to run and to write down, as counts: multiply-adds of an example, and bits."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Counts = dict[str, int | None]  # by matrix; None where it cannot be told

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


class _Applied(TorchFunctionMode):
    """Hears which function of torch's gets which matrix, and counts at how many places it is applied."""

    def __init__(self, matrices: Mapping[str, Tensor]):
        super().__init__()
        self.names = {id(tensor): name for name, tensor in matrices.items()}
        self.places: Counts = {}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        given = [t for t in flat([*args, *kwargs.values()]) if id(t) in self.names]
        if given and any(isinstance(made, Tensor) for made in flat([result])):  # a shape or a type is no use of it
            for matrix in given:
                name, count = self.names[id(matrix)], places(function, args, kwargs, result, matrix)
                before = self.places.get(name, 0)
                self.places[name] = None if before is None or count is None else before + count
        return result


def flat(values: list[Any]) -> list[Any]:
    """Return values with those inside of lists and tuples in their place."""
    return [inner for value in values for inner in (flat([*value]) if isinstance(value, list | tuple) else [value])]


def rows(x: Tensor) -> int:
    """Return how many vectors a tensor holds, its last dimension being one."""
    return x.numel() // x.shape[-1]


def places(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, matrix: Tensor
) -> int | None:
    """Return at how many places a function applies a matrix it was given, None where that is not known of it."""
    name = function.__name__
    if name == "multi_head_attention_forward":
        return tokens(inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs).arguments, matrix)
    if {"input", "weight"} & kwargs.keys():
        return None
    if name == "linear" or name in RECURRENT or name in CELLS:
        return rows(args[0])
    if name in CONVOLUTIONS or name == "bilinear":
        return int(result.numel()) // matrix.shape[0]
    return args[0].numel() // matrix.shape[0] if name in TRANSPOSED else None


def tokens(given: Mapping[str, Any], matrix: Tensor) -> int | None:
    """Return at how many tokens attention applies one of its matrices.

    None for one matrix whose rows see queries and keys of two lengths.
    """
    texts = {"in_proj_weight": ("query", "key", "value"), "out_proj_weight": ("query",)}
    texts |= {f"{text[0]}_proj_weight": (text,) for text in ("query", "key", "value")}
    seen = next((texts[argument] for argument in texts if given.get(argument) is matrix), ())
    lengths = {rows(given[text]) for text in seen}
    return lengths.pop() if len(lengths) == 1 else None


def applications(network: nn.Module, x: Tensor, matrices: list[str]) -> Counts:
    """Return at how many places a forward pass of one example applies each matrix: pixels, tokens, steps in time.

    x: a batch (N, *input_shape); on `meta` nothing is computed. A matrix is seen where torch's own functions get it:
    linear, convolutions, also transposed, bilinear, recurrent and attention. None where another function gets it, or
    none does, so that how often it is applied is not known.
    """
    applied = _Applied({name: network.get_parameter(name) for name in matrices})
    training = network.training
    network.eval()
    with applied, torch.enable_grad():  # without gradients torch takes short cuts that show no single matrix
        network(x)
    network.train(training)
    found = {name: applied.places.get(name) for name in matrices}
    return {name: None if count is None else count // len(x) for name, count in found.items()}


def multiply_adds(kept: Mapping[str, int], applied: Mapping[str, int | None]) -> int | None:
    """Return the multiply-adds of one example's forward pass through the kept weights.

    kept: weights of every matrix, all of them where it is not masked. A kept weight is one at every place of its
    matrix, padding included. Norms, biases, activations and the products of attention with attention count nothing.
    None where it is not known of one matrix.
    """
    total = 0
    for name, k in kept.items():
        count = applied[name]
        if count is None:
            return None
        total += k * count
    return total


def positions(kept: int, n: int) -> int:
    """Return the bits that say which of n weights are kept: a bitmap or a list of positions, whichever is shorter."""
    return 0 if kept == n else min(n, kept * math.ceil(math.log2(n)))


def bits(mask: Mapping[str, Tensor], rest: Mapping[str, Tensor], width: int, values: Callable[[int, int], int]) -> int:
    """Return the bits it takes to write a network down.

    mask: of every masked matrix. rest: all other parameters and buffers, each at the width of its type. width: bits
    of one weight. values(kept, width): the bits of a matrix's kept values. Weights that were never trained, and that a
    seed would draw again, are written like others.
    """
    sizes = [(int(m.sum()), m.numel()) for m in mask.values()]
    written = sum(values(kept, width) + positions(kept, n) for kept, n in sizes)
    return written + sum(tensor.numel() * bits_of(tensor) for tensor in rest.values())


def bits_of(tensor: Tensor) -> int:
    """Return the bits of one of a tensor's numbers."""
    return 8 * tensor.element_size()
