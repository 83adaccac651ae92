"""Optimisers and the learning-rate schedule, addressed by absolute step."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Count = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class Optim:
    """What every optimiser has: length, batch, rate and its schedule, decay, clip (gradient norm), label smoothing.

    `steps` is the absolute step at which dense training ends; `milestones` and `warmup` are absolute steps too.
    """

    steps: Count
    batch: Count
    lr: Positive
    schedule: Literal["constant", "multistep", "cosine"]
    milestones: list[Count]
    gamma: Positive
    warmup: Annotated[int, Ge(0)]
    weight_decay: NonNegative
    clip: Positive | None
    label_smoothing: Fraction

    def rate(self, step: int) -> float:
        """Return the learning rate of the step from `step` to `step + 1`."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "multistep":
            return self.lr * warm * self.gamma ** sum(step >= m for m in self.milestones)
        if self.schedule == "cosine":
            done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
            return self.lr * warm * 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * warm

    def check(self) -> None:
        """Raise ValueError where the fields contradict each other."""
        if self.warmup > self.steps:
            raise ValueError(f"optim.warmup={self.warmup} is longer than the run (optim.steps={self.steps})")
        if self.schedule == "multistep" and not self.milestones:
            raise ValueError("optim.schedule=multistep never drops without optim.milestones=[STEP,STEP]")


@dataclass(frozen=True)
class SGD(Optim):
    """Stochastic gradient descent with momentum, plain or Nesterov."""

    momentum: Fraction
    nesterov: bool

    def check(self) -> None:
        super().check()
        if self.nesterov and not self.momentum:
            raise ValueError("optim.nesterov=true needs optim.momentum above 0")

    def build(self, parameters: list[torch.nn.Parameter], capturable: bool = False) -> torch.optim.Optimizer:
        """Return the fused torch optimiser over `parameters`; its steps can be captured in a CUDA graph as they are."""
        return torch.optim.SGD(
            parameters,
            self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True,
        )


@dataclass(frozen=True)
class Adam(Optim):
    """Adam (Kingma & Ba 2015), its decay added to the gradient."""

    betas: list[Fraction]
    eps: Positive

    def check(self) -> None:
        super().check()
        if len(self.betas) != 2:
            raise ValueError(f"optim.betas={self.betas} should be two numbers")

    def build(self, parameters: list[torch.nn.Parameter], capturable: bool = False) -> torch.optim.Optimizer:
        """Return the fused torch optimiser over `parameters`, one that can be captured in a CUDA graph if asked for."""
        kind = torch.optim.AdamW if isinstance(self, AdamW) else torch.optim.Adam
        betas = (self.betas[0], self.betas[1])
        options = {"betas": betas, "eps": self.eps, "weight_decay": self.weight_decay, "capturable": capturable}
        return kind(parameters, self.lr, **options, fused=True)  # type: ignore[arg-type]


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""


@torch.no_grad()
def move(optimiser: torch.optim.Optimizer) -> None:
    """Do what `optimiser.step()` does, without the hooks and the profiler's notes that torch puts around it.

    They take 17 microseconds, of a small network's step 4 %.
    """
    inspect.unwrap(type(optimiser).step)(optimiser)


OPTIMISERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
