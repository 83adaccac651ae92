"""Linear mode connectivity: what happens to the error on the straight line between two networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ltx.tensors import Tensors


def between(one: Mapping[str, Tensor], other: Mapping[str, Tensor], share: float) -> Tensors:
    """Return (1 - share) * one + share * other, by name."""
    return {name: tensor.lerp(other[name], share) for name, tensor in one.items()}


def errors_along(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], error: Callable[[Tensors], float], points: int = 30
) -> list[float]:
    """Return the error at `points` equidistant points of the line, both ends included."""
    return [error(between(one, other, i / (points - 1))) for i in range(points)]


def instability(errors: Sequence[float]) -> float:
    """Return the highest error on the line minus the mean of its ends (Frankle et al. 2020, section 2)."""
    return max(errors) - (errors[0] + errors[-1]) / 2
