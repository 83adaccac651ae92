"""Means over seeds with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the mean and the half-width of its Student-t interval; the half-width of one value is nan."""
    from scipy.special import stdtrit  # scipy.stats would take a second to import

    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, math.nan
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, float(stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(variance / n)


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds with its 95 % interval; low and high are nan for one seed, all three for none."""

    mean: float
    low: float
    high: float
    n: int


def interval(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Interval:
    """Return the mean with its Student-t interval over seeds, cut off at what the quantity can be.

    Seeds are independent replicates and few, so their own spread decides, with Student's t. An accuracy has least=0 and
    most=1: its mean over all seeds lies there, so that cutting the interval off there leaves its coverage as it is.
    """
    if not values:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean, half = mean_interval(values)
    if math.isnan(half):
        return Interval(mean, math.nan, math.nan, 1)
    return Interval(mean, max(least, mean - half), min(most, mean + half), len(values))


def longest_run(flags: Sequence[bool]) -> tuple[int, int]:
    """Return the start and the length of the longest run of true values."""
    best, start, length = (0, 0), 0, 0
    for i, flag in enumerate(flags):
        start, length = (start, length + 1) if flag and length else (i, int(flag))
        if length > best[1]:
            best = start, length
    return best
