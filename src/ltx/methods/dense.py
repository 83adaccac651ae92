"""Ordinary training: the reference every ticket is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ltx.methods import Context, Layout, Plan, State, Trains, masked
from ltx.streams import Streams
from ltx.tensors import Tensors


@dataclass(frozen=True)
class Method:
    """Train every weight once."""

    extents: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[Trains] = "weights"
    needs_trunk: ClassVar[bool] = False

    @property
    def last_level(self) -> int:
        return 0

    @property
    def factor(self) -> float:
        return 1.0

    @property
    def trains_norms(self) -> bool:
        return False

    @property
    def needs_symmetry(self) -> bool:
        """Tell whether the method renames or rescales hidden units, so that the network's table of them must hold."""
        return False

    def prunable(self, matrices: list[str]) -> list[str]:
        return matrices

    def check(self, layout: Layout, steps: int) -> None:
        """Accept every network."""

    def plan(self, level: int, steps: int, trunk: Plan | None) -> Plan:
        return Plan(level, parent=level, first=0, last=steps, anchor=None if level else 0)

    def start(self, level: int, context: Context) -> State:
        mask = {name: torch.ones_like(context.init.weights[name], dtype=torch.bool) for name in context.prunable}
        return State(context.init.weights, context.init.buffers, mask)

    def effective(
        self, weights: Tensors, scores: Tensors, gate: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        return masked(weights, gate)

    def between(
        self, weights: Tensors, scores: Tensors, mask: Tensors, done: float, rng: Callable[[str], np.random.Generator]
    ) -> tuple[Tensors, Tensors, Tensors]:
        return weights, scores, mask

    def ticket(self, scores: Tensors, mask: Tensors) -> tuple[Tensors, Tensors]:
        return mask, scores

    def value_bits(self, kept: int, width: int) -> int:
        return kept * width

    def columns(
        self, end: State, streams: Streams, accuracy: Callable[[Tensors], float]
    ) -> Mapping[str, float | int | str | None]:
        return {}
