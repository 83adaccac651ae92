"""A fully connected ReLU network of any hidden sizes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Ge, Len
from torch import Tensor, nn

from ltx.models import scaled


class Model(nn.Module):
    """Map images (N, *input_shape) to logits (N, classes) through fc1 .. fcD and out, [norm] and ReLU between them."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: float,
        hidden: Annotated[list[Annotated[int, Ge(1)]], Len(1)],
        norm: Literal["batch"] | None,
        bias: bool,
    ):
        super().__init__()
        units = math.prod(input_shape)
        self.blocks: list[tuple[nn.Module, nn.Module | None]] = []  # plain: the modules are registered by name
        for i, base in enumerate(hidden, 1):
            after = scaled(base, width)
            fc, normalise = nn.Linear(units, after, bias=bias), nn.BatchNorm1d(after) if norm else None
            self.add_module(f"fc{i}", fc)
            if normalise is not None:
                self.add_module(f"norm{i}", normalise)
            self.blocks.append((fc, normalise))
            units = after
        self.out = nn.Linear(units, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for fc, norm in self.blocks:
            x = fc(x).relu() if norm is None else norm(fc(x)).relu()
        return self.out(x)
