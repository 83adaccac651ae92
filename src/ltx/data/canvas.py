"""The real 8x8 digits placed on a larger canvas among fragments of other digits: off the ceiling, with no download."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le, Len

from ltx.data import digits as shipped
from ltx.data.arrays import assemble
from ltx.data.augment import shift
from ltx.data.splits import Dataset, Facts
from ltx.streams import generator

ORIGINALS = {"test": 360, "val": 180, "train": 1257}  # of scikit-learn's 1,797 digits, the same in each as in digits
VAL, TEST = 1260, 2520  # pictures: seven of every original
MEAN, SD = 28.5, 50.8  # of the pixels of the defaults, which run from 0 to 255
SEED = 0  # of all that is drawn beside the split
PATCH = 4  # rows and columns of a digit that a fragment shows
CHUNK = 256  # pictures that are drawn at once, with one generator for their noise
TURN = [(round(math.cos(math.radians(d)) * 2**14), round(math.sin(math.radians(d)) * 2**14)) for d in range(360)]

Array = np.ndarray[Any, Any]
Layer = tuple[Array, Array, Array, Array, Array]  # the arguments of `drawn` after the size
Uniform = Callable[..., Array]  # a whole number for every picture from (low, high, *purpose), both ends included


@dataclass(frozen=True)
class Data:
    """Draw the digits on the canvas, the same pictures on every machine; a test holds the digest of the defaults.

    An original digit, as a picture or as a fragment, is in one part alone. Every part shows each of its originals
    equally often, up to one, so that the 1,260 pictures to validate and the 2,520 to test are of 180 and 360 digits.
    Fewer `examples` are the first ones; the other two parts stay as they are.

    examples: pictures to train. size: of the canvas in pixels. scale: sides of a digit in pixels, from and to.
    offset: pixels from the centre at most, within what fits. rotation: degrees to either side at most.
    contrast: of the strokes of digits and fragments, from and to; 1 is white on black.
    fragments: 4x4 patches of other digits, anywhere and turned by any angle. noise: its standard deviation, of 255.
    shift: pixels that a training picture is moved by at most, anew at every step.

    Test accuracy of dense networks with Adam at 1.2e-3 and batches of 60, mean over seeds (chance is .1):

        width                                               .25   .5    1     2     4
        model=lenet optim.steps=2000, n = 2                 .545  .612  .660  .690  .691
        model=conv2 optim.steps=1000, n = 3 (on CUDA)       .790  .854  .872  .586  .094
        the same with optim.lr=3e-4, n = 3 (on CUDA)        .667  .769  .836  .875  .896
        model=convnet (BatchNorm) optim.steps=1000, n = 1   .756        .893
        the same with channels [16,16] and no norm, n = 2   .461  .646  .756  .741  (n = 1 at width 2)

    What is left out was not measured. At width 2 the rate of 1.2e-3 is too high for one Conv-2 of three, and at width 4
    for all: their loss stays where it began. In the last row, at widths .5 and 1, the validation loss of three of the
    four networks was still falling at the last step.
    """

    split_seed: Annotated[int, Ge(0)]
    shift: Annotated[int, Ge(0), Le(4)]
    examples: Annotated[int, Ge(200), Le(100_000)]
    size: Annotated[int, Ge(12), Le(64)]
    scale: Annotated[list[Annotated[int, Ge(8)]], Len(2, 2)]
    offset: Annotated[int, Ge(0), Le(64)]
    rotation: Annotated[int, Ge(0), Le(180)]
    contrast: Annotated[list[Annotated[float, Gt(0), Le(1)]], Len(2, 2)]
    fragments: Annotated[int, Ge(0), Le(16)]
    noise: Annotated[int, Ge(0), Le(128)]

    def __post_init__(self) -> None:
        pairs: dict[str, Sequence[float]] = {"scale": self.scale, "contrast": self.contrast}
        for name, (low, high) in pairs.items():
            if low > high:
                raise ValueError(f"data.{name}=[{low},{high}] runs downwards; write data.{name}=[{high},{low}]")
        if self.scale[1] > self.size:
            raise ValueError(
                f"digits of data.scale=[{self.scale[0]},{self.scale[1]}] pixels do not fit a canvas of data.size="
                f"{self.size}; the larger of the two should be at most {self.size}"
            )

    def facts(self) -> Facts:
        """Return what the set is, without drawing it."""
        return Facts((1, self.size, self.size), classes=10, train=self.examples, val=VAL, test=TEST)

    def load(self) -> Dataset:
        """Return the three splits, x (N, 1, size, size) standardised."""
        x, y = shipped.examples()
        scans = x.astype("uint8").reshape(-1, 8, 8)
        parts = {}
        for part, members in originals(self.split_seed).items():
            pictures, chosen = self.part(part, scans[members], getattr(self.facts(), part))
            parts[part] = ((pictures[:, None] - np.float32(MEAN)) / np.float32(SD), y[members][chosen])
        augment = shift(self.shift, fill=-MEAN / SD) if self.shift else None
        return assemble(parts, self.split_seed, augment=augment)

    def part(self, part: str, digits: Array, count: int) -> tuple[Array, Array]:
        """Return `count` pictures (count, size, size), uint8, and which of the digits (N, 8, 8) each of them shows.

        All arithmetic is on whole numbers, so that the pictures are the same on every machine.
        """
        n = len(digits)
        rounds = [generator("canvas", SEED, part, "originals", i).permutation(n) for i in range(-(-count // n))]
        chosen = np.concatenate(rounds)[:count]

        def uniform(low: int, high: int, *what: str | int) -> Array:
            return generator("canvas", SEED, part, *what).integers(low, high, count, "int32", endpoint=True)

        layers = [self.digit(digits[chosen], uniform)]
        for i in range(self.fragments):
            other = (chosen + uniform(1, n - 1, "fragment", i)) % n
            layers.append(self.fragment(i, digits[other], uniform))
        pictures = np.empty((count, self.size, self.size), "uint8")
        for first in range(0, count, CHUNK):
            chunk = slice(first, first + CHUNK)
            picture = np.maximum.reduce([drawn(self.size, *(each[chunk] for each in layer)) for layer in layers])
            if self.noise:
                rng = generator("canvas", SEED, part, "noise", first)
                picture = np.clip(picture + noise(rng, self.noise, self.size)[: len(picture)], 0, 255)
            pictures[chunk] = picture
        return pictures, chosen

    def digit(self, images: Array, uniform: Uniform) -> Layer:
        """Say how the digit of each picture is drawn."""
        side = self.sides(uniform, "side")
        room = np.minimum(16 * self.offset, 8 * self.size - side // 2)
        moved = [uniform(-(2**14), 2**14, axis) * room >> 14 for axis in ("down", "right")]
        angle = uniform(-self.rotation, self.rotation, "angle")
        return images, 8 * self.size + np.stack(moved, 1), side, angle, self.levels(uniform, "contrast")

    def fragment(self, i: int, images: Array, uniform: Uniform) -> Layer:
        """Say how the i-th fragment of each picture is drawn, which is cut out of an image."""
        n = np.arange(len(images))[:, None, None]
        rows, columns = (uniform(0, 8 - PATCH, "fragment", i, axis)[:, None] + np.arange(PATCH) for axis in "yx")
        patches = images[n, rows[:, :, None], columns[:, None, :]]
        centre = np.stack([uniform(0, 16 * self.size, "fragment", i, axis) for axis in ("down", "right")], 1)
        side = self.sides(uniform, "fragment", i, "side") * PATCH // 8
        angle = uniform(0, 359, "fragment", i, "angle")
        return patches, centre, side, angle, self.levels(uniform, "fragment", i, "level")

    def sides(self, uniform: Uniform, *what: str | int) -> Array:
        """Draw the sides of digits in sixteenths of a pixel."""
        return uniform(16 * self.scale[0], 16 * self.scale[1], *what)

    def levels(self, uniform: Uniform, *what: str | int) -> Array:
        """Draw what the full strokes of digits become, of 255."""
        return uniform(round(255 * self.contrast[0]), round(255 * self.contrast[1]), *what)


def originals(split_seed: int) -> dict[str, Array]:
    """Return which of scikit-learn's digits are in each part: those that `digits` has there."""
    order, found = generator("split", split_seed).permutation(sum(ORIGINALS.values())), {}
    for part, count in ORIGINALS.items():
        found[part], order = order[:count], order[count:]
    return found


def drawn(size: int, images: Array, centre: Array, side: Array, angle: Array, level: Array) -> Array:
    """Draw square images (N, s, s) of 0 to 16 onto black canvases (N, size, size), int32 from 0 to 255, bilinearly.

    centre (N, 2) and side (N,) are in sixteenths of a pixel, angle (N,) in degrees, level (N,) is that of a full 16.
    """
    n, s, _ = images.shape
    cos, sin = np.array(TURN, "int32")[angle].T
    middles = 16 * np.arange(size, dtype="int32") + 8  # of the pixels
    down, right = (middles - centre[:, axis, None].astype("int32") for axis in (0, 1))

    def cells(along: Array, of_rows: Array, across: Array, of_columns: Array) -> Array:
        """Return the coordinate of every pixel in the image, in 1/256 of a cell; 256 is the first cell's middle."""
        rows, columns = ((f * (64 * s) // side)[:, None] * d for f, d in ((along, of_rows), (across, of_columns)))
        found = (rows[:, :, None] + columns[:, None, :]) >> 12
        return np.clip(found + (128 * (s - 1) + 256), 0, 256 * (s + 1))

    y, x = cells(cos, down, -sin, right), cells(sin, down, cos, right)
    width = s + 3  # black around: a cell before, two after, so that every pixel has four neighbours
    padded = np.pad(images.astype("int32"), ((0, 0), (1, 2), (1, 2))).ravel()
    at = (np.arange(n) * width**2)[:, None, None] + (y >> 8) * width + (x >> 8)
    y, x = y & 255, x & 255
    corner, beside, below, across = (padded[step:][at] for step in (0, 1, width, width + 1))
    above, beneath = 256 * corner + (beside - corner) * x, 256 * below + (across - below) * x
    return ((256 * above + (beneath - above) * y) * level[:, None, None].astype("int32") + 2**19) >> 20


def noise(rng: np.random.Generator, sd: int, size: int) -> Array:
    """Draw nearly Gaussian whole numbers (CHUNK, size, size): sums of four bytes, whose sd is 65536 / 443.4."""
    shape = (4, CHUNK, size, size)
    total = np.frombuffer(rng.bytes(math.prod(shape)), "uint8").reshape(shape).sum(0, dtype="int32") - 510
    return (total * (443 * sd) + 2**15) >> 16
