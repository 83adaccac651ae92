"""Ordinary training: the reference every ticket is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

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

    @property
    def last_level(self) -> int:
        return 0

    @property
    def anchor_step(self) -> int:
        return 0

    def prunable(self, matrices: list[str]) -> list[str]:
        return matrices

    def check(self, sizes: Mapping[str, int], steps: int) -> None:
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

    def effective(self, weights: Tensors, extra: Tensors, mask: Tensors) -> Tensors:
        return masked(weights, mask)
