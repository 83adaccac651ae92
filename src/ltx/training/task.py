"""What is learned: loss and score in one place, chosen by the data."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ltx.data.splits import Facts, TaskName

Reduction = Literal["mean", "sum", "none"]


class Task(Protocol):
    """Loss and score of a network's outputs; both are summed or averaged over all targets, or each loss is returned."""

    def shape(self, examples: int, facts: Facts) -> tuple[int, ...]:
        """Return the shape that the outputs for a number of examples should have."""

    def loss(self, outputs: Tensor, y: Tensor, smoothing: float = 0.0, reduction: Reduction = "mean") -> Tensor:
        """Return the loss to be trained."""

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the sum of what a larger number is better of, at most 1 for each target; columns call it accuracy."""


class Classification:
    """One of several classes: cross-entropy in nats, the share of right answers. Outputs (N, classes), y (N,)."""

    def shape(self, examples: int, facts: Facts) -> tuple[int, ...]:
        return examples, facts.classes

    def loss(self, outputs: Tensor, y: Tensor, smoothing: float = 0.0, reduction: Reduction = "mean") -> Tensor:
        return F.cross_entropy(outputs, y, label_smoothing=smoothing, reduction=reduction)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs.argmax(-1) == y).sum()


class NextToken(Classification):
    """The token after each of a sequence: as classification. Outputs (N, length, vocabulary), y (N, length)."""

    def shape(self, examples: int, facts: Facts) -> tuple[int, ...]:
        return examples, *facts.input_shape, facts.classes

    def loss(self, outputs: Tensor, y: Tensor, smoothing: float = 0.0, reduction: Reduction = "mean") -> Tensor:
        return super().loss(outputs.flatten(0, -2), y.flatten(), smoothing, reduction)


class Regression:
    """Numbers with mean 0 and variance 1 over the training part: squared error; the score's mean is R squared.

    Outputs and y are (N, numbers). Label smoothing has no meaning here and is left out.
    """

    def shape(self, examples: int, facts: Facts) -> tuple[int, ...]:
        return examples, facts.classes

    def loss(self, outputs: Tensor, y: Tensor, smoothing: float = 0.0, reduction: Reduction = "mean") -> Tensor:
        return F.mse_loss(outputs, y, reduction=reduction)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (1 - (outputs - y).square()).sum(dtype=torch.float64)


TASKS: dict[TaskName, Task] = {
    "classification": Classification(),
    "next_token": NextToken(),
    "regression": Regression(),
}
