"""Ordinary training: the reference every ticket is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ltx.methods import Context, State, masked
from ltx.streams import Streams
from ltx.tensors import Tensors


@dataclass(frozen=True)
class Method:
    """Train every weight once."""

    extents: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "weights"
    needs_trunk: ClassVar[bool] = False
    noisy: ClassVar[bool] = False
    score_range: ClassVar[tuple[float, float] | None] = None

    @property
    def restates(self) -> bool:
        return self.noisy

    @property
    def every(self) -> int:
        return 0

    @property
    def last_level(self) -> int:
        return 0

    @property
    def anchor_step(self) -> int:
        return 0

    def prunable(self, matrices: list[str]) -> list[str]:
        return matrices

    def check(self, prunable: Tensors, steps: int) -> None:
        """Accept every network."""

    def streams(self, streams: Streams) -> Streams:
        return streams

    def steps(self, level: int, steps: int) -> int:
        return steps

    def parent(self, level: int) -> int:
        return level

    def rate_step(self, level: int, step: int, steps: int) -> int:
        return step

    def start(self, level: int, context: Context) -> State:
        mask = {name: torch.ones_like(context.init.weights[name], dtype=torch.bool) for name in context.prunable}
        return State(context.init.weights, context.init.buffers, mask)

    def check_model(self, biases: list[str], others: list[str]) -> None:
        """Accept every model."""

    def effective(
        self, weights: Tensors, extra: Tensors, mask: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        return masked(weights, mask)

    def between(
        self, weights: Tensors, extra: Tensors, mask: Tensors, done: float, rng: Callable[[str], np.random.Generator]
    ) -> tuple[Tensors, Tensors, Tensors]:
        return weights, extra, mask

    def settled(self, mask: Tensors) -> bool:
        return True

    def scaled(self, weights: Tensors) -> Tensors:
        return weights

    def ranks(self, extra: Tensors) -> Tensors:
        return {name: score.abs() for name, score in extra.items()}

    def ticket_mask(self, extra: Tensors, mask: Tensors) -> Tensors:
        return mask
