"""The processes that train one level together, one a device: each computes its part of every batch.

All of them hold the same weights and draw the same batches. Gradients are summed before they are used, and BatchNorm's
statistics are those of the whole batch, so that a step is that of one device within rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, distributed, nn

JOINING = timedelta(minutes=2)  # until all ranks must have met
MEASURING = timedelta(days=7)  # that ranks wait for rank 0, which measures alone; one that ended is seen at once


@dataclass(frozen=True)
class Ranks:
    """This process among those that train a level together."""

    rank: int = 0
    count: int = 1

    def part(self, size: int) -> slice:
        """Return which examples of a batch are this rank's."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def sum(self, gradients: Sequence[Tensor], outputs: Tensor, size: int) -> Tensor:
        """Sum gradients over the ranks, in place; return the outputs of the whole batch (size, ...), given one's part.

        Both travel as one tensor: a step of a small network costs little more than the messages do.
        """
        whole = outputs.new_zeros(size, *outputs.shape[1:])
        whole[self.part(size)] = outputs
        tensors = [*gradients, whole]
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view(tensor.shape))
        return whole


ALONE = Ranks()


def join(store: distributed.Store, rank: int, count: int, device: str) -> Ranks:
    """Meet the other ranks of a store, with Gloo on CPUs and NCCL on GPUs."""
    place = torch.device(device)
    gpu = place.type == "cuda"
    distributed.init_process_group(
        "nccl" if gpu else "gloo",
        store=store,
        rank=rank,
        world_size=count,
        timeout=JOINING,
        device_id=place if gpu else None,
    )
    world = distributed.group.WORLD
    assert world is not None
    world.set_timeout(MEASURING)
    return Ranks(rank, count)


class Total(torch.autograd.Function):
    """The sum of a tensor over all ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def batch_norms(network: nn.Module) -> list[BatchNorm]:
    """Return the BatchNorm layers of a network that do what torch's do; an heir may do something else."""
    return [module for module in network.modules() if type(module) in get_args(BatchNorm)]  # type: ignore[misc]


@contextmanager
def over_ranks(network: nn.Module) -> Iterator[None]:
    """Let the BatchNorm layers of a network normalise by the statistics of all ranks' examples together.

    torch's SyncBatchNorm does so on GPUs alone, and would also where rank 0 estimates statistics by itself.
    """
    norms = [norm for norm in batch_norms(network) if norm.training]
    for norm in norms:
        norm.forward = partial(batch_norm, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def batch_norm(norm: BatchNorm, x: Tensor) -> Tensor:
    """Normalise a rank's examples (N, C, ...) by mean and variance of all ranks', as torch does for one batch."""
    axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
    values = x.float()
    own = values.new_tensor([x.numel() / x.shape[1]])
    sums = Total.apply(torch.cat([values.sum(axes), own]))
    mean, count = sums[:-1] / sums[-1], sums[-1].detach()
    centred = values - mean.view(shape)
    variance = Total.apply(centred.square().sum(axes)) / count
    normed = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.weight is not None:
        normed = normed * norm.weight.view(shape)
    if norm.bias is not None:
        normed = normed + norm.bias.view(shape)
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            unbiased = variance * count / (count - 1)
            for running, now in ((norm.running_mean, mean), (norm.running_var, unbiased)):
                running.copy_(torch.lerp(running.float(), now, share))
    return normed.to(x.dtype)
