"""Linear mode connectivity: what happens to loss or error on the straight line between two networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ltx.tensors import Tensors


@dataclass(frozen=True)
class Barrier:
    """How high the values on a line rise above its ends.

    above_mean: the highest value minus the mean of the ends (Frankle et al. 2020, section 2). above_chord: the most
    that a value lies above the straight line through the values of the ends (Entezari et al. 2022, section 2). Both
    are at least 0, because the ends count, and exactly 0 where all values are equal.
    """

    above_mean: float
    above_chord: float


def between(one: Mapping[str, Tensor], other: Mapping[str, Tensor], share: float) -> Tensors:
    """Return (1 - share) * one + share * other, by name; counts and other integers are those of `one`."""
    return {
        name: tensor.lerp(other[name], share) if tensor.is_floating_point() else tensor for name, tensor in one.items()
    }


def instability(values: Sequence[float]) -> float:
    """Return the highest value on the line minus the mean of its ends (Frankle et al. 2020, section 2)."""
    return max(values) - (values[0] + values[-1]) / 2


def barriers(values: Sequence[float]) -> Barrier:
    """Return both barriers of the values at equidistant points of a line, both ends included.

    Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values do not make a line; give those at both ends at least")
    first, step = values[0], (values[-1] - values[0]) / (len(values) - 1)
    inner = [value - (first + i * step) for i, value in enumerate(values[1:-1], 1)]
    return Barrier(instability(values), max(0.0, *inner))
