"""MNIST-1D (Greydanus, arXiv:2011.14439): ten short curves, hidden in noise, drawn by a program; no download."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le, Len

from ltx.data.arrays import assemble
from ltx.data.splits import Dataset, Facts
from ltx.streams import generator

# The curves of the digits 0 to 9 as they are published, in hundredths.
CURVES = (
    (500, 600, 650, 675, 700, 700, 700, 700, 675, 650, 600, 500),
    (500, 300, 300, 340, 380, 420, 460, 500, 540, 580, 500, 500),
    (500, 600, 650, 650, 600, 525, 475, 400, 350, 350, 400, 500),
    (500, 600, 650, 650, 600, 500, 500, 600, 650, 650, 600, 500),
    (500, 440, 380, 320, 260, 260, 500, 500, 500, 500, 500, 500),
    (500, 300, 300, 300, 300, 500, 600, 650, 650, 600, 450, 500),
    (500, 400, 350, 325, 300, 300, 300, 300, 325, 350, 400, 500),
    (500, 700, 700, 660, 620, 580, 540, 500, 460, 420, 500, 500),
    (500, 400, 350, 350, 400, 500, 500, 400, 350, 350, 400, 500),
    (500, 400, 350, 350, 400, 500, 500, 500, 500, 470, 430, 500),
)
POINTS = 12  # of a curve
VAL, TEST = 400, 1000  # examples; those to validate are among the 4,000 that are published to train
MEAN, SD = -0.0057, 0.1546  # of the signals of the defaults
SEED = 0  # of all that is drawn beside the split
CHUNK = 500  # examples that are drawn at once, each class equally often
# A signal is computed in whole numbers of 1/65536, because the last bit of a floating-point number differs between
# machines. What rounds down at a step is lost; it is a thousandth of the noise.
ONE = 2**16
RADIUS = 8  # points to either side that the smoothing of the noise looks at: four of its standard deviations
GAUSSIAN = [math.exp(-(k**2) / 8) for k in range(-RADIUS, RADIUS + 1)]
KERNEL = np.array([round(ONE * value / sum(GAUSSIAN)) for value in GAUSSIAN])

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Data:
    """Draw the signals, the same on every machine; a test holds the digest of the defaults.

    A curve gets zeros behind it and is stretched to 12 + `padding[1]` points, scaled, and moved around in a circle;
    where there is no curve comes smoothed noise; noise is added everywhere, a line is subtracted, and the whole is
    resampled. Every part has its own draws, and each knob its own, so that one knob changes nothing else.

    examples: to train, 400 to validate among them; fewer are the first ones. 1,000 to test are drawn beside them.
    padding: zeros behind a curve, from and to. scale: a curve is scaled by 1 - scale/2 to 1 + scale/2.
    translation: points of the stretched signal that it is moved by at most.
    correlated_noise: standard deviation of the noise around the curve before a Gaussian of sd 2 points smooths it,
    which leaves .38 of it. noise: standard deviation of what is added to every point.
    shear: the line falls or rises by at most half of it from the first point to the last.
    length: points of an example. shuffle: bring the points into an order that is random and the same for all examples.

    Test accuracy of dense networks, with Adam at 1.2e-3 and 1,500 batches of 60, mean over three seeds (chance is .1):

        width        .25   .5    1     2     4
        model=lenet  .577  .584  .620  .661  .673
        model=mlp    .523  .572  .612  .640  .651

    Standard deviations are up to .02, and .04 in the last cell. Published are .32 for logistic regression, which
    reaches that here too, and .68 for a fully connected network.
    """

    split_seed: Annotated[int, Ge(0)]
    examples: Annotated[int, Ge(500), Le(100_000)]
    padding: Annotated[list[Annotated[int, Ge(0), Le(200)]], Len(2, 2)]
    scale: Annotated[float, Ge(0), Le(2)]
    translation: Annotated[int, Ge(0), Le(200)]
    correlated_noise: Annotated[float, Ge(0), Le(10)]
    noise: Annotated[float, Ge(0), Le(10)]
    shear: Annotated[float, Ge(0), Le(10)]
    length: Annotated[int, Ge(2), Le(200)]
    shuffle: bool

    def __post_init__(self) -> None:
        low, high = self.padding
        if low > high:
            raise ValueError(f"data.padding=[{low},{high}] runs downwards; write data.padding=[{high},{low}]")

    def facts(self) -> Facts:
        """Return what the set is, without drawing it."""
        return Facts((1, self.length), classes=10, train=self.examples - VAL, val=VAL, test=TEST)

    def load(self) -> Dataset:
        """Return the three splits, x (N, 1, length) standardised; convolutions over points take it as one channel."""
        parts = {}
        for part, count in (("train", self.examples), ("test", TEST)):
            signals, labels = self.part(part, count)
            x = signals.astype("float32") / np.float32(ONE)
            parts[part] = ((x[:, None] - np.float32(MEAN)) / np.float32(SD), labels)
        return assemble(parts, self.split_seed, val=VAL)

    def part(self, part: str, count: int) -> tuple[Array, Array]:
        """Return `count` signals (count, length) as whole numbers of 1/65536, and their digits (count,)."""
        chunks = [self.chunk(part, first) for first in range(0, count, CHUNK)]
        signals = np.concatenate(chunks)[:count]
        if self.shuffle:
            signals = signals[:, generator("mnist1d", SEED, "shuffle").permutation(self.length)]
        return signals, np.arange(count) % len(CURVES)

    def chunk(self, part: str, first: int) -> Array:
        """Draw the signals of a part from a first one on (CHUNK, length); digits follow one another from 0 to 9."""

        def rng(purpose: str) -> np.random.Generator:
            return generator("mnist1d", SEED, part, purpose, first)

        def spread(purpose: str, size: float) -> Array:
            """Draw uniform numbers (CHUNK, 1) from -size/2 to size/2."""
            return rng(purpose).integers(-ONE // 2, ONE // 2, (CHUNK, 1), endpoint=True) * round(ONE * size) // ONE

        shortest, longest = self.padding
        points = POINTS + longest
        padded = np.pad(np.tile(templates(), (CHUNK // len(CURVES), 1)), ((0, 0), (0, longest)))
        lengths = POINTS + rng("padding").integers(shortest, longest, CHUNK, endpoint=True)
        signals = resampled(padded, lengths, points)
        signals = signals * (ONE + spread("scale", self.scale)) // ONE
        # A curve reaches up to the first of the zeros behind it.
        is_curve = (lengths[:, None] - 1) * np.arange(points) < POINTS * (points - 1)

        moved = rng("translation").integers(0, self.translation, (CHUNK, 1), endpoint=True)
        origin = (np.arange(points) - moved) % points
        signals, is_curve = (np.take_along_axis(values, origin, 1) for values in (signals, is_curve))

        white = gaussian(rng("correlated_noise"), (CHUNK, points))
        mirrored = np.pad(white, ((0, 0), (RADIUS, RADIUS)), "symmetric")  # as published, at either end
        smooth = np.lib.stride_tricks.sliding_window_view(mirrored, len(KERNEL), axis=1) @ KERNEL // ONE
        signals = np.where(is_curve, signals, smooth * round(ONE * self.correlated_noise) // ONE)
        signals = signals + gaussian(rng("noise"), (CHUNK, points)) * round(ONE * self.noise) // ONE

        line = 2 * np.arange(points) - (points - 1)  # from -1/2 to 1/2, times 2 * (points - 1)
        signals = signals - spread("shear", self.shear) * line // (2 * (points - 1))
        return resampled(signals, np.full(CHUNK, points), self.length)


def templates() -> Array:
    """Return the curves (10, 12) of variance 1/36 that begin at 0, as whole numbers of 1/65536."""
    curves = np.array(CURVES)
    from_first = curves - curves[:, :1]
    variances = POINTS * (curves**2).sum(1) - curves.sum(1) ** 2  # times 144, exactly
    # Square roots and quotients are the same on every machine: IEEE 754 says how they are rounded.
    return np.rint(ONE * POINTS / 6 * from_first / np.sqrt(variances)[:, None]).astype("int64")


def resampled(signals: Array, lengths: Array, points: int) -> Array:
    """Interpolate the first `lengths` (N,) values of signals (N, L) linearly at `points` places, ends included."""
    left, beyond = np.divmod((lengths[:, None] - 1) * np.arange(points), points - 1)
    right = np.minimum(left + 1, lengths[:, None] - 1)
    start, end = (np.take_along_axis(signals, at, 1) for at in (left, right))
    return start + (end - start) * beyond // (points - 1)


def gaussian(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Draw nearly Gaussian numbers of sd 1 as whole numbers of 1/65536: sums of twelve bytes, whose sd is 255.998."""
    total = np.frombuffer(rng.bytes(12 * math.prod(shape)), "uint8").reshape(12, *shape).sum(0, dtype="int64")
    return (total - 12 * 255 // 2) * (ONE // 256)
