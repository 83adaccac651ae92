"""Residual networks (He et al. 2016), for small images with a 3x3 stem and for ImageNet with a 7x7 one."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from annotated_types import Ge, Len
from torch import Tensor, nn
from torch.nn import functional as F

from ltx.models import Activation, activate, check_images, units_at
from ltx.symmetry import Table, Units

Count = Annotated[int, Ge(1)]


class Model(nn.Module):
    """Map images (N, C, H, W) to logits (N, classes): stem, stages of residual blocks, mean over all pixels, out.

    Every stage but the first halves the image; the ImageNet stem divides it by four. A shortcut is the identity where
    a block keeps image and channels, and a 1x1 convolution with a norm of its own elsewhere. Convolutions have no
    biases, because norms follow: `bias` is that of `out`. With binary activations sign stands in the place of every
    ReLU, so that all convolutions but the stem see +-1, and a norm stands before it; the stem pools before its norm.

    stem: `small` is a 3x3 convolution, `imagenet` a 7x7 one with stride 2 and a pooling. stem_channels: its channels.
    blocks, channels: of each stage, how many blocks it has and the channels of their 3x3 convolutions.
    expansion: null for blocks of two 3x3 convolutions; a number for bottlenecks, 1x1, 3x3 and 1x1, which end in as
        many times the channels.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: float,
        stem: Literal["small", "imagenet"],
        stem_channels: Count,
        blocks: Annotated[list[Count], Len(1)],
        channels: Annotated[list[Count], Len(1)],
        expansion: Count | None,
        norm: Literal["batch"],
        bias: bool,
        affine: bool | None = None,
        activation: Activation | None = None,
    ):
        super().__init__()
        check_images(input_shape)
        if len(blocks) != len(channels):
            raise ValueError(
                f"model.blocks={blocks} has {len(blocks)} stages and model.channels={channels} has {len(channels)}; "
                "each should name one number for every stage"
            )
        self.activation, self.pools = activation, stem == "imagenet"
        kernel, stride, padding = (7, 2, 3) if self.pools else (3, 1, 1)
        normed = affine is not False
        self.stem = nn.Conv2d(
            input_shape[0], units_at(stem_channels, width), kernel, stride, padding=padding, bias=False
        )
        self.norm = nn.BatchNorm2d(self.stem.out_channels, affine=normed)
        self.stages: list[nn.Sequential] = []  # a plain list: they are registered by their names below
        before = stem_channels
        for s, (count, base) in enumerate(zip(blocks, channels, strict=True), 1):
            stage = nn.Sequential()
            for b in range(1, count + 1):
                stride = 2 if s > 1 and b == 1 else 1
                block = Block(before, base, expansion, stride, width, normed, activation)
                stage.add_module(str(b), block)
                before = block.channels
            self.add_module(f"block{s}", stage)
            self.stages.append(stage)
        self.out = nn.Linear(units_at(before, width), classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.activation == "sign":
            x = activate(self.norm(self.pooled(x)), self.activation)
        else:
            x = self.pooled(activate(self.norm(x), self.activation))
        for stage in self.stages:
            x = stage(x)
        return self.out(x.mean((2, 3)))

    def pooled(self, x: Tensor) -> Tensor:
        """Halve an image after the ImageNet stem."""
        return F.max_pool2d(x, 3, stride=2, padding=1) if self.pools else x

    def symmetry(self) -> Table:
        """Name the channels, and the layers and norms around them.

        What blocks add to, up to the next convolution in a shortcut, is one set of channels that all of them share.
        """
        binary = self.activation == "sign"
        found: list[tuple[list[str], list[str]]] = [(["stem"], [])]  # writers and readers
        norms, shared = {"norm": "stem"}, found[0]
        for s, stage in enumerate(self.stages, 1):
            for b, block in stage.named_children():
                assert isinstance(block, Block)
                name = f"block{s}.{b}"
                convs = [f"{name}.conv{i}" for i in range(1, len(block.layers) + 1)]
                norms |= {f"{name}.norm{i}": conv for i, conv in enumerate(convs, 1)}
                shared[1].append(convs[0])
                if block.projects:
                    shared[1].append(f"{name}.shortcut")
                    norms[f"{name}.norm_shortcut"] = f"{name}.shortcut"
                    shared = ([f"{name}.shortcut"], [])
                    found.append(shared)
                shared[0].append(convs[-1])
                found += [([conv], [after]) for conv, after in itertools.pairwise(convs)]
        shared[1].append("out")
        units = tuple(Units(tuple(writers), tuple(readers), not binary) for writers, readers in found)
        return Table(units, norms, ("norm",) if binary and self.pools else ())


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 with an expansion, beside a shortcut; channels are those at width 1.

    The 3x3 convolution has the stride, as in torchvision.
    """

    def __init__(
        self,
        before: int,
        base: int,
        expansion: int | None,
        stride: int,
        width: float,
        affine: bool,
        activation: Activation | None,
    ):
        super().__init__()
        self.activation = activation
        self.channels = base * (expansion or 1)
        layers = [(3, base, stride), (3, base, 1)]
        if expansion is not None:
            layers = [(1, base, 1), (3, base, stride), (1, self.channels, 1)]
        self.layers: list[tuple[nn.Module, nn.Module]] = []  # a plain list: they are registered by their names below
        inputs = units_at(before, width)
        for i, (kernel, base_outputs, step) in enumerate(layers, 1):
            outputs = units_at(base_outputs, width)
            conv = nn.Conv2d(inputs, outputs, kernel, step, padding=kernel // 2, bias=False)
            norm = nn.BatchNorm2d(outputs, affine=affine)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"norm{i}", norm)
            self.layers.append((conv, norm))
            inputs = outputs
        self.projects = stride != 1 or before != self.channels  # channels at width 1, so that width changes no layers
        if self.projects:
            self.shortcut = nn.Conv2d(units_at(before, width), inputs, 1, stride, bias=False)
            self.norm_shortcut = nn.BatchNorm2d(inputs, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.norm_shortcut(self.shortcut(x)) if self.projects else x
        for conv, norm in self.layers[:-1]:
            x = activate(norm(conv(x)), self.activation)
        conv, norm = self.layers[-1]
        return activate(norm(conv(x)) + shortcut, self.activation)
