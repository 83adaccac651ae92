"""Plain convolutional networks: Conv-2 to Conv-8 (Frankle & Carbin 2019) and, with other values, VGG networks."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Len
from torch import Tensor, nn
from torch.nn import functional as F

from ltx.models import Activation, activate, batch_norm, check_activation, check_images, units_at
from ltx.symmetry import Table, chain

Count = Annotated[int, Ge(1)]
Stage = Annotated[list[Count], Len(1)]


class Model(nn.Module):
    """Map images (N, C, H, W) to logits (N, classes): stages of 3x3 convolutions, fully connected layers, out.

    A pooling at the end of every stage halves the image, as long as that is larger than one pixel. With `average` the
    last stage ends in the mean over all pixels instead. A block is conv, [norm], ReLU, [pool], and with binary
    activations conv, [pool], norm, sign as in MPT-1/1 (Diffenderfer & Kailkhura 2021).
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: float,
        stages: Annotated[list[Stage], Len(1)],
        average: bool,
        hidden: list[Count],
        norm: Literal["batch"] | None,
        bias: bool,
        affine: bool | None = None,
        activation: Activation | None = None,
    ):
        super().__init__()
        check_images(input_shape)
        check_activation(activation, norm)
        self.activation, self.average = activation, average
        self.convs: list[tuple[nn.Module, nn.Module | None, bool]] = []  # plain lists: registered by their names below
        self.fcs: list[tuple[nn.Module, nn.Module | None]] = []
        before, height, side = input_shape
        ends = [(base, b == len(stage)) for stage in stages for b, base in enumerate(stage, 1)]
        for i, (base, end) in enumerate(ends, 1):
            after = units_at(base, width)
            conv = nn.Conv2d(before, after, 3, padding=1, bias=bias)
            normalise = batch_norm(nn.BatchNorm2d, after, norm, affine)
            pool = end and min(height, side) > 1 and not (average and i == len(ends))
            self.add_module(f"conv{i}", conv)
            self.add_module(f"norm{i}", normalise)
            self.convs.append((conv, normalise, pool))
            if pool:
                height, side = height // 2, side // 2
            before = after
        units = before if average else before * height * side
        for i, base in enumerate(hidden, 1):
            after = units_at(base, width)
            fc, normalise = nn.Linear(units, after, bias=bias), batch_norm(nn.BatchNorm1d, after, norm, affine)
            self.add_module(f"fc{i}", fc)
            self.add_module(f"norm_fc{i}", normalise)
            self.fcs.append((fc, normalise))
            units = after
        self.out = nn.Linear(units, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        binary = self.activation == "sign"
        for conv, norm, pool in self.convs:
            x = conv(x)
            x = F.max_pool2d(x, 2) if pool and binary else x
            x = activate(x if norm is None else norm(x), self.activation)
            x = F.max_pool2d(x, 2) if pool and not binary else x
        x = x.mean((2, 3)) if self.average else x.flatten(1)
        for fc, norm in self.fcs:
            x = fc(x)
            x = activate(x if norm is None else norm(x), self.activation)
        return self.out(x)

    def symmetry(self) -> Table:
        """Name the channels and hidden units, and the layers and norms around them."""
        binary = self.activation == "sign"
        layers = [f"conv{i}" for i in range(1, len(self.convs) + 1)] + [f"fc{i}" for i in range(1, len(self.fcs) + 1)]
        norms = {f"norm{i}": f"conv{i}" for i, (_, norm, _) in enumerate(self.convs, 1) if norm is not None}
        norms |= {f"norm_fc{i}": f"fc{i}" for i, (_, norm) in enumerate(self.fcs, 1) if norm is not None}
        pooled = [f"norm{i}" for i, (_, _, pool) in enumerate(self.convs, 1) if pool and binary]
        return chain([*layers, "out"], norms, pooled, rescales=not binary)
