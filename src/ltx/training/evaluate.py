"""Loss and accuracy of a network on a split: sums over targets, whatever the batches."""

from __future__ import annotations

import torch
from torch import nn

from ltx.data.splits import Dataset, Memory, Split
from ltx.streams import Streams
from ltx.tensors import Tensors, call
from ltx.training.form import USUAL, Form
from ltx.training.task import Task

CHUNK = 2048  # examples at once
CALIBRATION = 1024  # examples that BatchNorm statistics are estimated on


@torch.no_grad()
def evaluate(network: nn.Module, weights: Tensors, split: Split, task: Task, form: Form = USUAL) -> tuple[float, float]:
    """Return the mean loss and accuracy of `network` with `weights` in place of its own, eval mode.

    Every target counts once, also in a short last chunk. The network's mode is left as it was.
    """
    training = network.training
    network.eval()
    loss = torch.zeros((), dtype=torch.float64)
    score, targets = torch.zeros((), dtype=torch.float64), 0
    for x, y in split.chunks(CHUNK):
        outputs = call(network, weights, form.inputs(x)).float()
        loss += task.loss(outputs, y, reduction="sum").to("cpu")
        score += task.score(outputs, y).to("cpu")
        targets += y.numel()
    network.train(training)
    return float(loss) / targets, float(score) / targets


def calibration(data: Dataset, streams: Streams) -> Split:
    """Return the fixed subset that statistics are estimated on: the first training examples, augmented."""
    rng = streams.generator("augment", "calibration")
    x, y = data.train.take(slice(0, CALIBRATION), rng)
    return Memory(x if data.augment is None else data.augment(x, rng), y)


@torch.no_grad()
def reestimate(network: nn.Module, weights: Tensors, split: Split, form: Form = USUAL) -> None:
    """Estimate the BatchNorm statistics of `network` for `weights`, in place: plain averages over the split."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    training, momenta = network.training, [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    network.train()
    for x, _ in split.chunks(CHUNK):
        call(network, weights, form.inputs(x))
    network.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def grid(first: int, last: int) -> list[int]:
    """Return the steps at which validation loss is read: at most 2 % of the run apart, the last included."""
    every = max(1, last // 50)
    return [*(step for step in range(every, last, every) if step > first), last]
