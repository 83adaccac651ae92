"""A small convolutional network with BatchNorm for images of 8x8 and more."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Len
from torch import Tensor, nn
from torch.nn import functional as F

from ltx.models import Activation, activate, batch_norm, check_activation, check_images, units_at
from ltx.symmetry import Table, chain


class Model(nn.Module):
    """Map images (N, C, H, W) to logits (N, classes): 3x3 blocks of conv, [pool], [norm], ReLU, then a linear out.

    Every block but the first halves the image, as long as it is larger than one pixel.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: float,
        channels: Annotated[list[Annotated[int, Ge(1)]], Len(1)],
        norm: Literal["batch"] | None,
        bias: bool,
        affine: bool | None = None,
        activation: Activation | None = None,
    ):
        super().__init__()
        check_images(input_shape)
        check_activation(activation, norm)
        self.activation = activation
        before, height, side = input_shape
        self.blocks: list[
            tuple[nn.Module, nn.Module | None, bool]
        ] = []  # a plain list: they are registered by their names below
        for i, base in enumerate(channels, 1):
            after = units_at(base, width)
            conv = nn.Conv2d(before, after, 3, padding=1, bias=bias)
            normalise = batch_norm(nn.BatchNorm2d, after, norm, affine)
            pool = i > 1 and min(height, side) > 1
            self.add_module(f"conv{i}", conv)
            if normalise is not None:
                self.add_module(f"norm{i}", normalise)
            self.blocks.append((conv, normalise, pool))
            if pool:
                height, side = height // 2, side // 2
            before = after
        self.out = nn.Linear(before * height * side, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm, pool in self.blocks:
            x = conv(x)
            x = F.max_pool2d(x, 2) if pool else x
            x = activate(x if norm is None else norm(x), self.activation)
        return self.out(x.flatten(1))

    def symmetry(self) -> Table:
        """Name the channels, and the layers and norms around them."""
        layers = [f"conv{i}" for i in range(1, len(self.blocks) + 1)]
        norms = {f"norm{i}": f"conv{i}" for i, (_, norm, _) in enumerate(self.blocks, 1) if norm is not None}
        pooled = [f"norm{i}" for i, (_, norm, pool) in enumerate(self.blocks, 1) if norm is not None and pool]
        return chain([*layers, "out"], norms, pooled, rescales=self.activation != "sign")
