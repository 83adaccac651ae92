"""The form of a run's tensors: the precision it computes in, and the memory layout of its convolutions."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Form:
    """What a network, its inputs and its outputs are made of, in training and wherever a state is measured.

    precision: see `TrainerConfig`. channels_last: kernels and images lie in memory with the channels innermost.
    """

    precision: str = "32-true"
    channels_last: bool = False

    @property
    def reduced(self) -> bool:
        """Tell whether weights, scores, statistics and moments are bfloat16 themselves."""
        return self.precision == "bf16-true"

    def network(self, network: nn.Module) -> nn.Module:
        """Bring a network into this form, in place, and return it."""
        if self.reduced:
            network.to(torch.bfloat16)
        if self.channels_last:
            for parameter in network.parameters():
                if parameter.ndim == 4:
                    parameter.data = innermost(parameter.data)
        return network

    def inputs(self, x: Tensor) -> Tensor:
        """Return a batch as the network takes it; tokens stay what they are."""
        if self.reduced and x.is_floating_point():
            x = x.to(torch.bfloat16)
        if self.channels_last and x.ndim == 4:
            x = innermost(x)
        return x

    def outputs(self, outputs: Tensor) -> Tensor:
        """Return outputs as the loss takes them: a loss of bfloat16 numbers would keep three digits."""
        return outputs.float() if self.reduced else outputs

    def context(self, device: torch.device | str) -> AbstractContextManager[object]:
        """Return what a network is called in outside of Lightning's Trainer, which does the same while it trains."""
        if self.precision == "bf16-mixed":
            return torch.autocast(torch.device(device).type, torch.bfloat16)
        return reduced_by_default() if self.reduced else nullcontext()


USUAL = Form()


def overruns(network: nn.Module) -> bool:
    """Tell whether the channels of a network must not lie innermost, because a convolution would write past its memory.

    oneDNN, which convolves on the CPU, reserves too little for a 1x1 convolution with a stride whose inputs have fewer
    channels than a vector has numbers, 8 with AVX2 and 16 with AVX-512: torch 2.13 then crashes or gets gradients
    wrong (https://github.com/uxlfoundation/oneDNN/issues/6035). Where channels lie outermost nothing is amiss.
    """
    return any(
        isinstance(layer, nn.Conv2d)
        and layer.in_channels < 16
        and set(layer.kernel_size) == {1}
        and set(layer.stride) != {1}
        for layer in network.modules()
    )


def innermost(tensor: Tensor) -> Tensor:
    """Return a tensor (N, C, H, W) with the channels innermost in memory, also where there is but one.

    One channel lies alike in both layouts and torch takes such a tensor as it is; by the strides alone a convolution
    then chooses its own layout, and every layer after the first would be converted at each step.
    """
    if tensor.is_contiguous(memory_format=torch.channels_last) and tensor.stride(1) == 1:
        return tensor
    return torch.empty_like(tensor, memory_format=torch.channels_last).copy_(tensor)


@contextmanager
def reduced_by_default() -> Iterator[None]:
    """Let what a network makes by itself, zeros say, be bfloat16."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
