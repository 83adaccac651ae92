"""How much of two masks is shared, and how that compares with what a null expects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEAST = 1e-150  # chances below are left out: products of two of them are still numbers of full precision


@dataclass(frozen=True)
class Overlap:
    """Counts of two masks over the same weights: kept by both, by one, by the other, and all weights."""

    shared: int
    one: int
    other: int
    total: int

    @property
    def iou(self) -> float:
        """Return the share of the weights kept by either that both keep; nan where neither keeps any."""
        either = self.one + self.other - self.shared
        return self.shared / either if either else math.nan


@dataclass(frozen=True)
class Law:
    """The law of a shared count under a null: chances of `lowest`, `lowest` + 1, ...

    mean, variance: of the count. Chances below 1e-150 are left out, so that a smaller p comes out as 0.
    """

    mean: float
    variance: float
    lowest: int
    chances: np.ndarray

    def at_least(self, count: int) -> float:
        """Return the chance of at least so large a count."""
        return min(1.0, float(self.chances[max(count - self.lowest, 0) :][::-1].sum()))


@dataclass(frozen=True)
class Null:
    """What a null says of an overlap.

    mean, sd: of the IoU under the null. z: of the shared count, nan where it cannot vary. p: the chance of at least
    so large a shared count. corrected: the shared count above its mean, as a share of the most that it could be above;
    0 where the null explains all, 1 where one mask lies within the other, nan where the null leaves no room.
    """

    mean: float
    sd: float
    z: float
    p: float
    corrected: float


def by_layer(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Overlap]:
    """Return the overlap of two masks in every layer that both have; a layer of one alone does not count.

    Raises ValueError where no layer is common, where shapes differ, and for tensors that are not bool.
    """
    names = [name for name in one if name in other]
    if not names:
        raise ValueError(f"no layer is common: {sorted(one)} and {sorted(other)}; give masks of one network")
    found = {}
    for name in names:
        a, b = one[name], other[name]
        if a.shape != b.shape or not a.dtype == b.dtype == torch.bool:
            raise ValueError(
                f"the masks of {name} are {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}; "
                "both should be bool and of one shape"
            )
        found[name] = Overlap(int((a & b).sum()), int(a.sum()), int(b.sum()), a.numel())
    return found


def overlap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Overlap:
    """Return the overlap of two masks over all layers that both have; see `by_layer`."""
    layers = by_layer(one, other).values()
    return Overlap(
        sum(layer.shared for layer in layers),
        sum(layer.one for layer in layers),
        sum(layer.other for layer in layers),
        sum(layer.total for layer in layers),
    )


def against(found: Overlap, law: Law) -> Null:
    """Return what the law of the shared count says of an overlap."""
    counts = law.lowest + np.arange(len(law.chances))
    either = found.one + found.other - counts
    iou = np.divide(counts, either, out=np.full(len(counts), math.nan), where=either > 0)
    mean = float(law.chances @ iou)
    excess, room = found.shared - law.mean, min(found.one, found.other) - law.mean
    return Null(
        mean,
        math.sqrt(float(law.chances @ (iou - mean) ** 2)),
        excess / math.sqrt(law.variance) if law.variance > 0 else math.nan,
        law.at_least(found.shared),
        excess / room if room > 1e-9 * law.mean else math.nan,
    )


def together(laws: Iterable[Law]) -> Law:
    """Return the law of the sum of independent counts, such as those of the layers of one network."""
    mean, variance, lowest, chances = 0.0, 0.0, 0, np.ones(1)
    for law in laws:
        mean, variance = mean + law.mean, variance + law.variance
        lowest, chances = trimmed(lowest + law.lowest, np.convolve(chances, law.chances))
    return Law(mean, variance, lowest, chances)


def trimmed(lowest: int, chances: np.ndarray) -> tuple[int, np.ndarray]:
    """Return chances without the tails below 1e-150, and the count of the first that is left."""
    places = np.flatnonzero(chances >= LEAST)
    return lowest + int(places[0]), chances[places[0] : places[-1] + 1]
