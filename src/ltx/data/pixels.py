"""A split whose examples stay bytes until they are asked for: a quarter of the memory, and processes share it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ltx.data.splits import Example, Rngs, at_once, chosen

COUNTED = 2048  # images whose pixels are counted at once


@dataclass(frozen=True)
class Pixels:
    """Images that are normalised, (value / 255 - mean) / sd, when they are taken, on the device.

    pixels: uint8 (M, C, H, W), usually a mapped file. rows: which M of them are examples, int64 (N,).
    y: targets (N,). mean, sd: of each channel, of values in [0, 1], float32 (C,).
    content: the digest that names `pixels`.
    """

    pixels: Tensor
    rows: Tensor
    y: Tensor
    mean: Tensor
    sd: Tensor
    content: str

    def __len__(self) -> int:
        return len(self.y)

    @property
    def x(self) -> Tensor:
        return self.take(slice(None))[0]

    def take(self, indices: Tensor | slice, rng: np.random.Generator | None = None) -> Example:
        x = chosen(self.pixels, self.rows[indices]).float()
        mean, sd = (values[:, None, None] for values in (self.mean, self.sd))
        return x.div_(255).sub_(mean).div_(sd), chosen(self.y, indices)

    def ahead(self, batches: Iterable[Tensor], rngs: Rngs | None = None) -> Iterator[Example]:
        return map(self.take, batches)

    def chunks(self, size: int) -> Iterator[Example]:
        size = at_once(size, self.pixels.shape[1:], self.pixels.device)
        return (self.take(slice(start, start + size)) for start in range(0, len(self), size))

    def part(self, indices: Tensor) -> Pixels:
        return replace(self, rows=self.rows[indices], y=self.y[indices])

    def labelled(self, y: Tensor) -> Pixels:
        return replace(self, y=y)

    def to(self, device: torch.device | str) -> Pixels:
        if torch.device(device) == self.pixels.device:
            return self  # a copy of what is mapped would belong to this process alone
        return Pixels(
            self.pixels[self.rows].to(device),
            torch.arange(len(self), device=device),
            self.y.to(device),
            self.mean.to(device),
            self.sd.to(device),
            self.content,
        )

    def digest(self) -> bytes:
        arrays = (self.rows, self.y, self.mean, self.sd)
        return self.content.encode() + b"".join(hashlib.sha256(array.numpy().tobytes()).digest() for array in arrays)


def moments(pixels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each channel of some images, of values in [0, 1], float32 (C,).

    Each of the 256 values is counted, so that the result does not depend on an order of summation.
    """
    counts = np.zeros((pixels.shape[1], 256))
    for some in rows.split(COUNTED):
        taken = pixels[some].numpy()
        counts += [np.bincount(taken[:, channel].ravel(), minlength=256) for channel in range(len(counts))]
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    variance = counts @ values**2 / counts.sum(1) - mean**2
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(np.maximum(variance, 0))).float()
