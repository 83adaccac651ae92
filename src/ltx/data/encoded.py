"""A split of encoded images, far more than memory holds: decoded when they are wanted, by processes ahead of need."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ltx.data import decode
from ltx.data.origin import Images
from ltx.data.splits import Example, Rngs, at_once, stacked, whole
from ltx.errors import BadInput

PIECE = 32  # images that a process decodes at once: several share a batch, and few wait in memory
TRIES = 10  # boxes that are drawn for an image until one fits into it
DRAWS = 4 * TRIES + 1  # uniform draws an image: area, ratio, top and left of every box, and the mirror
RATIOS = (3 / 4, 4 / 3)  # of width to height of a box

Draws = np.ndarray[Any, Any]
Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class View:
    """How an image becomes an array of `side` x `side` pixels.

    Evaluated: its shorter side is made `resize` pixels and the centre is cut out. Trained (Szegedy et al. 2015): a
    random box of at least `area` of it, of a ratio between 3/4 and 4/3, is resized; with `flip` half are mirrored.
    """

    side: int
    resize: int
    area: float
    flip: bool

    def __call__(self, image: Image.Image, draws: Draws | None) -> np.ndarray[Any, Any]:
        """Return an RGB image as uint8 (3, side, side); `draws` are DRAWS uniform numbers, None to evaluate."""
        if draws is None:
            return decode.array(decode.centre(decode.shorter(image, self.resize), self.side))
        at = box(image.width, image.height, draws[:-1].reshape(TRIES, 4), self.area)
        image = image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=at)
        if self.flip and draws[-1] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return decode.array(image)


def box(width: int, height: int, draws: Draws, least: float) -> Box:
    """Return the first box that fits into an image, of draws in [0, 1) (tries, 4); of none the largest in the middle.

    A box has a share of the area from `least` to 1, uniformly, and the logarithm of its ratio is uniform too.
    """
    low, high = map(math.log, RATIOS)
    for area, ratio, down, right in draws.tolist():
        pixels = width * height * (least + (1 - least) * area)
        shape = math.exp(low + (high - low) * ratio)
        wide, tall = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(right * (width - wide + 1)), int(down * (height - tall + 1))
            return left, top, left + wide, top + tall
    wide, tall = min(width, round(height * RATIOS[1])), min(height, round(width / RATIOS[0]))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


@dataclass(frozen=True)
class Encoded:
    """Images that are decoded by index, and normalised, (value / 255 - mean) / sd, on the device.

    images: of a whole part of the source. rows: which of them are examples, int64 (N,). y: targets (N,).
    mean, sd: of each channel, of values in [0, 1], float32 (C,). content: the digest that names the images.
    decoders: processes that decode; 0: this one.
    """

    images: Images
    view: View
    rows: Tensor
    y: Tensor
    mean: Tensor
    sd: Tensor
    content: str
    decoders: int
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def x(self) -> Tensor:
        return self.take(slice(None))[0]

    def __getitem__(self, asked: tuple[int, Draws | None]) -> Tensor | BadInput:
        """Decode the image of a row of the source, as bytes; an error that names it where it cannot be."""
        row, draws = asked
        try:
            (image,) = decode.loaded(self.images, row, row + 1, 3)
        except BadInput as error:  # errors travel between processes as values
            return error
        return torch.from_numpy(self.view(image, draws))

    def take(self, indices: Tensor | slice, rng: np.random.Generator | None = None) -> Example:
        wanted = torch.arange(len(self))[indices.cpu() if isinstance(indices, Tensor) else indices]
        return next(self.ahead([wanted], None if rng is None else [rng]))

    def ahead(self, batches: Iterable[Tensor], rngs: Rngs | None = None) -> Iterator[Example]:
        asked = Asked(self.rows, batches, rngs)
        pieces = self.decoded(asked)
        try:
            for piece in pieces:
                indices = asked.given.pop(0)
                x = [whole(piece)]
                while sum(map(len, x)) < len(indices):
                    x.append(whole(next(pieces)))
                bytes_of = torch.cat(x) if len(x) > 1 else x[0]
                yield self.normalised(bytes_of), self.y[indices.to(self.y.device)]
        finally:
            pieces.close()  # its processes are told at once, not when it is collected

    def decoded(self, asked: Asked) -> Any:
        """Give the decoded pieces of the batches, uint8 (n, C, H, W), or the error of one, in order."""
        if not self.decoders or not hasattr(os, "fork"):
            for piece in asked:
                yield stacked([self[one] for one in piece])
            return
        from torch.utils.data import DataLoader

        yield from DataLoader(
            self,  # type: ignore[arg-type]  # a loader needs no more than __len__ and __getitem__
            batch_sampler=asked,  # type: ignore[arg-type]
            num_workers=self.decoders,
            collate_fn=stacked,
            multiprocessing_context="fork",
            generator=torch.Generator(),  # otherwise it draws from the global one, and changes what dropout draws
        )

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return bytes as what a network sees, on the device."""
        mean, sd = (values.to(self.device)[:, None, None] for values in (self.mean, self.sd))
        return pixels.to(self.device).float().div_(255).sub_(mean).div_(sd)

    def chunks(self, size: int) -> Iterator[Example]:
        size = at_once(size, (3, self.view.side, self.view.side), self.device)
        return self.ahead(torch.arange(len(self)).split(size))

    def part(self, indices: Tensor) -> Encoded:
        return replace(self, rows=self.rows[indices], y=self.y[indices])

    def labelled(self, y: Tensor) -> Encoded:
        return replace(self, y=y)

    def to(self, device: torch.device | str) -> Encoded:
        return replace(self, y=self.y.to(device), device=device)

    def digest(self) -> bytes:
        arrays = (self.rows, self.y.cpu(), self.mean, self.sd)
        return self.content.encode() + b"".join(hashlib.sha256(array.numpy().tobytes()).digest() for array in arrays)


class Asked:
    """The pieces of the batches of indices, as a loader wants them: rows of the source, each with its draws.

    given: the batches that it has taken, in order.
    """

    def __init__(self, rows: Tensor, batches: Iterable[Tensor], rngs: Rngs | None):
        self.rows, self.batches, self.rngs = rows, batches, rngs
        self.given: list[Tensor] = []

    def __iter__(self) -> Iterator[list[tuple[int, Draws | None]]]:
        rngs = None if self.rngs is None else iter(self.rngs)
        for indices in self.batches:
            self.given.append(indices.cpu())
            rows = self.rows[self.given[-1]].tolist()
            draws: Sequence[Draws | None] = [None] * len(rows)
            if rngs is not None:
                draws = [*next(rngs).random((len(rows), DRAWS))]
            asked = [*zip(rows, draws, strict=True)]
            for start in range(0, len(asked), PIECE):
                yield asked[start : start + PIECE]
