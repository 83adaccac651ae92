"""A fully connected ReLU network of any hidden sizes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Ge, Len
from torch import Tensor, nn

from ltx.models import Activation, activate, batch_norm, check_activation, units_at
from ltx.symmetry import Table, chain


class Model(nn.Module):
    """Map images (N, *input_shape) to logits (N, classes) through fc1 .. fcD and out, [norm] and ReLU between them."""

    # Says that its matrices follow on one another in their order, so that `analysis.quality` can compute what it does.
    fully_connected = True

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: float,
        hidden: Annotated[list[Annotated[int, Ge(1)]], Len(1)],
        norm: Literal["batch"] | None,
        bias: bool,
        affine: bool | None = None,
        activation: Activation | None = None,
    ):
        super().__init__()
        check_activation(activation, norm)
        self.activation = activation
        units = math.prod(input_shape)
        self.blocks: list[
            tuple[nn.Module, nn.Module | None]
        ] = []  # a plain list: the modules are registered by their names below
        for i, base in enumerate(hidden, 1):
            after = units_at(base, width)
            fc, normalise = nn.Linear(units, after, bias=bias), batch_norm(nn.BatchNorm1d, after, norm, affine)
            self.add_module(f"fc{i}", fc)
            if normalise is not None:
                self.add_module(f"norm{i}", normalise)
            self.blocks.append((fc, normalise))
            units = after
        self.out = nn.Linear(units, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for fc, norm in self.blocks:
            x = fc(x)
            x = activate(x if norm is None else norm(x), self.activation)
        return self.out(x)

    def symmetry(self) -> Table:
        """Name the hidden units, and the layers and norms around them."""
        layers = [f"fc{i}" for i in range(1, len(self.blocks) + 1)]
        norms = {f"norm{i}": f"fc{i}" for i, (_, norm) in enumerate(self.blocks, 1) if norm is not None}
        return chain([*layers, "out"], norms, rescales=self.activation != "sign")
