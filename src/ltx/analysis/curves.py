"""How probable it is that a random mask reaches a quality, as a curve that can be read in both directions.

A curve is known at some points, as splitting gives them. Between two points the logarithm of P changes linearly with
the quality. Nothing is told outside of the points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_HITS = 10  # masks at least as good, below which a share of sampled masks says little of a probability


@dataclass(frozen=True)
class Curve:
    """The natural logarithm of P(quality >= q) at rising qualities q, and the median of all qualities.

    quality: rises. log_p: falls. median: the quality that half of all masks reach, where the curve has its zero.
    """

    quality: np.ndarray
    log_p: np.ndarray
    median: float

    @classmethod
    def of(cls, quality: Sequence[float] | np.ndarray, log_p: Sequence[float] | np.ndarray, median: float) -> Curve:
        """Check the points of a curve. Raises ValueError where they are too few, not finite, or do not fall."""
        q, p = np.asarray(quality, dtype=np.float64), np.asarray(log_p, dtype=np.float64)
        if q.shape != p.shape or q.ndim != 1 or len(q) < 2:
            raise ValueError(
                f"a curve needs at least two qualities with a probability each, and got {q.size} and {p.size}"
            )
        if not (np.isfinite(q).all() and np.isfinite(p).all() and math.isfinite(median)):
            raise ValueError("a curve's qualities and logarithms of P must be finite numbers")
        if (np.diff(q) <= 0).any() or (np.diff(p) > 0).any() or p[0] > 0:
            raise ValueError("along a curve the quality must rise and the probability, at most 1, must not")
        return cls(q, p, float(median))

    @property
    def deepest(self) -> float:
        """The logarithm of the smallest P that the curve knows."""
        return float(self.log_p[-1])

    def log_p_at(self, quality: float) -> float:
        """Return ln P at a quality, nan outside of the points."""
        return float(np.interp(quality, self.quality, self.log_p, left=math.nan, right=math.nan))

    def quality_at(self, log_p: float) -> float:
        """Return the quality that has a given ln P, nan outside of the points."""
        return float(np.interp(-log_p, -self.log_p, self.quality, left=math.nan, right=math.nan))

    def signal(self, classes: int) -> Curve:
        """Return the curve of sqrt(q + log classes): the size of the signal that gains a quality over knowing nothing.

        Close to -log(classes) the gain is the square of what the logits tell, so that this is their own unit.
        """
        base = math.log(classes)
        low = self.quality > -base
        return Curve.of(np.sqrt(self.quality[low] + base), self.log_p[low], math.sqrt(max(0.0, self.median + base)))


def sampled(values: np.ndarray, points: int = 60) -> Curve:
    """Return the curve of independent qualities: the share of them that is at least as good as the i-th best.

    The ranks i are spread evenly over the logarithm of P, down to ten masks. Of tied qualities all count.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64).reshape(-1))
    n = len(ordered)
    if n < 10 * LEAST_HITS or not np.isfinite(ordered).all():
        raise ValueError(f"a curve of sampled qualities needs at least {10 * LEAST_HITS} finite ones, and got {n}")
    ranks = np.unique(np.geomspace(LEAST_HITS, n / 2, points).round().astype(int))
    quality = np.unique(ordered[n - ranks])
    hits = n - np.searchsorted(ordered, quality, side="left")
    return Curve.of(quality, np.log(hits / n), float(np.median(ordered)))


def averaged(repeats: Sequence[Curve]) -> Curve:
    """Return the curve of one init from independent repeats: the mean of their P, over the qualities they share.

    Each repeat's P is unbiased, so that the mean of P is, and not that of its logarithm. Raises ValueError where the
    repeats have no stretch of qualities in common.
    """
    if not repeats:
        raise ValueError("there are no repeats to average")
    if len(repeats) == 1:
        return repeats[0]
    low = max(curve.quality[0] for curve in repeats)
    high = min(curve.quality[-1] for curve in repeats)
    if not low < high:
        raise ValueError(f"the repeats share no qualities: one begins at {low:.4g}, and another ends at {high:.4g}")
    inner = np.concatenate([curve.quality for curve in repeats])
    quality = np.unique(np.concatenate([[low, high], inner[(inner > low) & (inner < high)]]))
    logs = np.array([np.interp(quality, curve.quality, curve.log_p) for curve in repeats])
    log_p = np.logaddexp.reduce(logs, axis=0) - math.log(len(repeats))
    return Curve.of(quality, log_p, float(np.mean([curve.median for curve in repeats])))


def power(curve: Curve) -> float:
    """Return the power of quality - median by which -ln P grows over the last two thirds of the curve's depth in ln P.

    nan where the curve has no point above its median there, or does not reach below P = 1e-3.
    """
    top = curve.deepest / 3
    above, deepest = curve.quality_at(top) - curve.median, curve.quality[-1] - curve.median
    if not 0 < above < deepest or curve.deepest > math.log(1e-3):
        return math.nan
    return math.log(3) / math.log(deepest / above)


def continued(curve: Curve, quality: float) -> float:
    """Return ln P at a quality, beyond the deepest point by an extrapolation: as if -ln P went on as the same power.

    See `power`. No mask beyond the deepest point was seen, and nothing says that the tail goes on like that.
    """
    if quality <= curve.quality[-1]:
        return curve.log_p_at(quality)
    deepest = curve.quality[-1] - curve.median
    return curve.deepest * float((quality - curve.median) / deepest) ** power(curve)


def reached_by(curve: Curve, log_p: float) -> float:
    """Return the quality of a given ln P, beyond the deepest point by the extrapolation of `continued`."""
    if log_p >= curve.deepest:
        return curve.quality_at(log_p)
    deepest = float(curve.quality[-1]) - curve.median
    return curve.median + deepest * (log_p / curve.deepest) ** (1 / power(curve))
