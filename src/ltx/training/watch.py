"""What is seen of a level while it trains: the training loss, the validation loss on a grid, the best step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ltx.data.splits import Split
from ltx.methods import Plan
from ltx.tensors import Tensors, buffers, prefixed, under
from ltx.training.evaluate import evaluate, reestimate
from ltx.training.leaves import Leaves
from ltx.training.task import Task

FLUSH = 64  # steps whose losses and outputs wait on the device before they are summed


class Diverged(Exception):
    """The training loss stopped being a number."""

    def __init__(self, level: int, step: int):
        super().__init__(f"the training loss is not a finite number at level {level}, step {step}")
        self.level, self.step = level, step


class Watch:
    """Sums the training loss between two records and keeps the network of the smallest validation loss.

    `calibration` is the subset that BatchNorm statistics are estimated on before a record, where the plan says that
    training sees other weights than the ticket's.
    """

    def __init__(self, plan: Plan, task: Task, leaves: Leaves, val: Split, calibration: Split | None):
        self.plan, self.task, self.leaves, self.val, self.calibration = plan, task, leaves, val, calibration
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self.sums = torch.zeros(
            3, dtype=torch.float64
        )  # the sums of loss and score and the number of targets since the last record
        self.best: Tensors = {}
        self.best_step, self.best_loss = -1, math.inf

    def place(self, device: torch.device) -> None:
        """Move the data it looks at to a device."""
        self.val = self.val.to(device)
        self.calibration = None if self.calibration is None else self.calibration.to(device)

    def add(self, loss: Tensor, outputs: Tensor, y: Tensor, step: int) -> None:
        """Take the loss and the outputs of the step that ended at `step`. Raises Diverged, some steps later."""
        self.waiting.append((loss.detach(), outputs.detach(), y))
        if len(self.waiting) >= FLUSH:
            self.flush(step)

    def flush(self, step: int) -> None:
        """Sum the waiting losses and scores. Raises Diverged naming the first step that is not finite."""
        if not self.waiting:
            return
        losses, outputs, targets = (torch.stack(column) for column in zip(*self.waiting, strict=True))
        self.waiting.clear()
        self.sum(losses, outputs, targets, step)

    def sum(self, losses: Tensor, outputs: Tensor, targets: Tensor, step: int) -> None:
        """Add the losses (steps) and scores of the last steps up to `step`. Raises Diverged."""
        finite = torch.isfinite(losses)
        if not finite.all():
            raise Diverged(self.plan.level, step - len(losses) + int((~finite).nonzero()[0]))
        n = targets.numel()
        score = self.task.score(outputs, targets)
        self.sums += torch.stack([losses.double().sum() * n / len(losses), score.double(), score.new_tensor(n)]).cpu()

    def record(self, step: int, looked: tuple[float, float] | None = None) -> tuple[dict[str, float], dict[str, float]]:
        """Return the mean training loss and accuracy since the last record, and those of validation now.

        looked: the latter, where they are known.
        """
        self.flush(step)
        before = self.restate()
        loss, accuracy = self.look() if looked is None else looked
        if not math.isfinite(loss):
            raise Diverged(self.plan.level, step)
        train_loss, score, n = self.sums.tolist()
        self.sums.zero_()
        if loss < self.best_loss and step >= self.plan.best_from:
            self.best_loss, self.best_step = loss, step
            scores = {name: score.detach().clone() for name, score in self.leaves.scores.items()}
            self.best = self.leaves.snapshot() | prefixed("score", scores)
        self.leaves.network.load_state_dict(before, strict=False)
        return {"loss": train_loss / n, "accuracy": score / n}, {"loss": loss, "accuracy": accuracy}

    @torch.no_grad()
    def look(self) -> tuple[float, float]:
        """Return validation loss and accuracy as the leaves are."""
        return evaluate(self.leaves.network, self.leaves.effective(), self.val, self.task, self.leaves.form)

    def restate(self) -> Tensors:
        """Estimate BatchNorm statistics for the ticket; return those of training, which go on afterwards."""
        if self.calibration is None:
            return {}
        before = {name: tensor.clone() for name, tensor in buffers(self.leaves.network).items()}
        with torch.no_grad():
            reestimate(self.leaves.network, self.leaves.effective(), self.calibration, self.leaves.form)
        return before

    def tensors(self) -> Tensors:
        """Return the tensors that a checkpoint must hold of it."""
        return prefixed("best", self.best) | {"sums": self.sums}

    def meta(self) -> dict[str, Any]:
        """Return the numbers that a checkpoint must hold of it."""
        return {"best_step": self.best_step, "best_loss": self.best_loss if self.best else None}

    def restore(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        """Continue from what `tensors` and `meta` returned."""
        self.best, self.best_step = under("best", tensors), meta["best_step"]
        self.best_loss = math.inf if meta["best_loss"] is None else meta["best_loss"]
        self.sums.copy_(tensors["sums"])
