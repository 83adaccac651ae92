"""Loss and accuracy of a network on a split: sums over examples, whatever the batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltx.data import Dataset, Split
from ltx.streams import Streams
from ltx.tensors import Tensors, call

CHUNK = 2048  # examples at once


@torch.no_grad()
def evaluate(network: nn.Module, weights: Tensors, split: Split) -> tuple[float, float]:
    """Return the mean cross-entropy (nats) and accuracy of `network` with `weights` in place of its own, eval mode.

    Every example counts once, also in a short last chunk. The network's mode is left as it was.
    """
    training = network.training
    network.eval()
    loss = torch.zeros((), dtype=torch.float64, device=split.y.device)
    correct = torch.zeros((), dtype=torch.int64, device=split.y.device)
    for x, y in zip(split.x.split(CHUNK), split.y.split(CHUNK), strict=True):
        logits: Tensor = call(network, weights, x).float()
        loss += F.cross_entropy(logits, y, reduction="sum")
        correct += (logits.argmax(1) == y).sum()
    network.train(training)
    return float(loss) / len(split.y), int(correct) / len(split.y)


def calibration(data: Dataset, streams: Streams, examples: int = 1024) -> Split:
    """Return the fixed subset that statistics are estimated on: the first training examples, augmented."""
    x, y = data.train.x[:examples], data.train.y[:examples]
    return Split(x if data.augment is None else data.augment(x, streams.generator("augment", "calibration")), y)


@torch.no_grad()
def reestimate(network: nn.Module, weights: Tensors, split: Split) -> None:
    """Estimate the BatchNorm statistics of `network` for `weights`, in place: plain averages over the split."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    training, momenta = network.training, [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    network.train()
    for x in split.x.split(CHUNK):
        call(network, weights, x)
    network.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def grid(first: int, last: int) -> list[int]:
    """Return the steps at which validation loss is read: at most 2 % of the run apart, the last included."""
    every = max(1, last // 50)
    return [*(step for step in range(every, last, every) if step > first), last]
