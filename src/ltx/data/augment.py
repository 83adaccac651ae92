"""Augmentation: batched operations on normalised images, each a pure function of the images and a step's generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ltx.data.splits import Augment


def composed(*steps: Augment) -> Augment | None:
    """Return one augmentation after the other, all with draws from the one generator, in their order; None of none."""
    if not steps:
        return None

    def augment(x: Tensor, rng: np.random.Generator) -> Tensor:
        for step in steps:
            x = step(x, rng)
        return x

    return augment


def shift(pixels: int, fill: float | Sequence[float]) -> Augment:
    """Return the augmentation that moves each image by up to `pixels` in both directions.

    fill: what comes in at the edges, one value or one of each channel.
    """

    def augment(x: Tensor, rng: np.random.Generator) -> Tensor:
        n, channels, height, width = x.shape
        down, right = torch.from_numpy(rng.integers(0, 2 * pixels + 1, (2, n))).to(x.device)
        edge = torch.tensor(fill, dtype=x.dtype, device=x.device).reshape(1, -1, 1, 1)
        padded = edge.expand(n, channels, height + 2 * pixels, width + 2 * pixels).contiguous()
        padded[:, :, pixels : pixels + height, pixels : pixels + width] = x
        rows = down[:, None] + torch.arange(height, device=x.device)
        columns = right[:, None] + torch.arange(width, device=x.device)
        at = torch.arange(n, device=x.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[at, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()

    return augment


def flip(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    mirrored = torch.from_numpy(rng.integers(0, 2, len(x)) == 1).to(x.device)
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def cutout(side: int) -> Augment:
    """Return the augmentation that sets a square of each image to 0, the mean (DeVries & Taylor 2017).

    side: in pixels. The middle of the square is anywhere in the image, so that part of it may lie outside.
    """

    def augment(x: Tensor, rng: np.random.Generator) -> Tensor:
        n, _, height, width = x.shape
        top, left = (torch.from_numpy(rng.integers(0, size, n) - side // 2).to(x.device) for size in (height, width))
        rows = torch.arange(height, device=x.device) - top[:, None]
        columns = torch.arange(width, device=x.device) - left[:, None]
        within = [(line >= 0) & (line < side) for line in (rows, columns)]
        return x.masked_fill((within[0][:, :, None] & within[1][:, None, :])[:, None], 0)

    return augment
