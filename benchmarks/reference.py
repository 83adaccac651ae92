"""The plain loops that ltx is measured against, written as one would without it; they import nothing of ltx."""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

Tensors = dict[str, Tensor]


class LoggingModule(lightning.LightningModule):
    """Masked training as most repositories do it: zero the pruned weights in place, step, log every step."""

    def __init__(self, network: nn.Module, mask: Tensors, lr: float):
        super().__init__()
        self.network, self.lr = network, lr
        self.masks = [(name, keep.float()) for name, keep in mask.items()]

    def on_fit_start(self) -> None:
        self.masks = [(name, keep.to(self.device)) for name, keep in self.masks]

    def zero(self) -> None:
        """Set the pruned weights to zero."""
        with torch.no_grad():
            for name, keep in self.masks:
                weight = self.network.get_parameter(name)
                weight.mul_(keep.to(weight.device))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        self.zero()
        logits = self.network(x)
        loss = F.cross_entropy(logits, y)
        self.log("train_loss", loss)
        self.log("train_accuracy", (logits.argmax(1) == y).float().mean())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), lr=self.lr)


def lightning_loop(
    network: nn.Module, mask: Tensors, x: Tensor, y: Tensor, batches: np.ndarray, lr: float, accelerator: str = "cpu"
) -> None:
    """Train `network` in place on the batches of example indices (steps, batch): Trainer, DataLoader, self.log."""
    module = LoggingModule(network, mask, lr)
    loader = DataLoader(TensorDataset(x, y), batch_sampler=batches.tolist())
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    module.zero()


def bare_loop(
    weights: Tensors,
    mask: Tensors,
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    batches: Tensor,
    grid: set[int],
    lr: float,
) -> tuple[Tensors, list[float]]:
    """Train a fc1-fc2-out ReLU network with masked weights by Adam; return its end and the losses on `grid`.

    Nothing but torch: no module, no Trainer, no records. Every operation of ltx's step and evaluation is here once.
    """
    params = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    keep = {name: m.float() for name, m in mask.items()}
    optimiser = torch.optim.Adam(params.values(), lr=lr, fused=True)
    losses = []

    def forward(x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in ("fc1", "fc2", "out"):
            weight = params[f"{layer}.weight"]
            if f"{layer}.weight" in keep:
                weight = weight * keep[f"{layer}.weight"]
            x = F.linear(x, weight, params[f"{layer}.bias"])
            x = x if layer == "out" else x.relu()
        return x

    for step, chosen in enumerate(batches, 1):
        x, y = train[0][chosen], train[1][chosen]
        optimiser.zero_grad()
        loss = F.cross_entropy(forward(x), y)
        loss.backward()
        optimiser.step()
        if step in grid:
            with torch.no_grad():
                logits = forward(val[0])
                losses.append(float(F.cross_entropy(logits, val[1])))
                (logits.argmax(1) == val[1]).sum().item()
    return {name: tensor.detach() for name, tensor in params.items()}, losses


def stacked(x: Tensor, y: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return a batch as a DataLoader makes it: example by example, then stacked."""
    examples = [(x[i], y[i]) for i in chosen.tolist()]
    return torch.stack([example for example, _ in examples]), torch.stack([target for _, target in examples])


def masked_step(network: nn.Module, mask: Tensors, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """Take one step of masked training, pruned weights set to zero in place, and return the loss."""
    with torch.no_grad():
        for name, keep in mask.items():
            network.get_parameter(name).mul_(keep.float())
    optimiser.zero_grad()
    loss = F.cross_entropy(network(x), y)
    loss.backward()
    optimiser.step()
    return loss.item()


class Sorted(torch.autograd.Function):
    """The mask of the largest scores by sorting them, the gradient straight through, as in hidden-networks."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, density: float) -> Tensor:
        order = scores.flatten().sort().indices
        below = scores.numel() - round(density * scores.numel())
        out = scores.clone()
        flat = out.flatten()
        flat[order[:below]] = 0
        flat[order[below:]] = 1
        return flat.reshape(scores.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def score_step(
    network: nn.Module,
    scores: Tensors,
    density: float,
    binary: bool,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
) -> float:
    """Take one step of edge-popup, or of biprop with binary weights, on the scores of a network; return the loss."""
    seen = {}
    for name, score in scores.items():
        weight, mask = network.get_parameter(name).detach(), Sorted.apply(score.abs(), density)
        seen[name] = weight * mask
        if binary:
            alpha = (weight.abs() * mask).sum().detach() / mask.sum().detach()
            value = torch.where(weight >= 0, alpha, -alpha) * mask.detach()
            soft = weight * mask
            seen[name] = value + (soft - soft.detach())
    optimiser.zero_grad()
    loss = F.cross_entropy(torch.func.functional_call(network, seen, (x,)), y)
    loss.backward()
    optimiser.step()
    return loss.item()
