"""Means over seeds with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the mean and the half-width of its Student-t interval; the half-width of one value is nan."""
    from scipy.special import stdtrit  # scipy.stats would take a second to import

    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, math.nan
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, float(stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(variance / n)


def longest_run(flags: Sequence[bool]) -> tuple[int, int]:
    """Return the start and the length of the longest run of true values."""
    best, start, length = (0, 0), 0, 0
    for i, flag in enumerate(flags):
        start, length = (start, length + 1) if flag and length else (i, int(flag))
        if length > best[1]:
            best = start, length
    return best
