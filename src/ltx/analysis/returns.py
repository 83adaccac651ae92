"""What drawing more subnetworks brings: the best of n, the bits that a quality needs, and the bits there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bits:
    """Bits that a quality needs, with their exact 95 % interval; `hits` of n values were at least that good."""

    bits: float
    low: float
    high: float
    hits: int
    n: int


def expected_best(values: np.ndarray, draws: Sequence[int]) -> np.ndarray:
    """Return the expected best of n draws, for each n in `draws`, from N independent values.

    The mean of the best over all subsets of n of the values, which is unbiased: the i-th smallest is the best of
    C(i-1, n-1) of the C(N, n) subsets. A mean over few subsets says little, so that n is at most N / 10; ValueError
    for more.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64).reshape(-1))
    total = len(ordered)
    best = np.empty(len(draws))
    for place, n in enumerate(draws):
        if not 1 <= n <= total / 10:
            raise ValueError(f"the best of {n} cannot be told from {total} values: at least 1, at most a tenth of them")
        # From the largest down, C(i-2, n-1) = C(i-1, n-1) (i-n)/(i-1); in logarithms, for they fall below any number.
        i = np.arange(total, n, -1)
        log_weights = math.log(n / total) + np.concatenate([[0.0], np.cumsum(np.log1p(-(n - 1) / (i - 1)))])
        best[place] = np.exp(log_weights) @ ordered[n - 1 :][::-1]
    return best


def bits_needed(values: np.ndarray, qualities: Sequence[float]) -> list[Bits]:
    """Return -log2 P(value >= quality) for each quality, with exact binomial intervals (Clopper & Pearson 1934).

    values: N independent ones. A quality that none reaches needs infinitely many bits by this estimate; its `low` is
    still a bound.
    """
    from scipy.special import betaincinv

    ordered = np.sort(np.asarray(values, dtype=np.float64).reshape(-1))
    n = len(ordered)
    if not n or np.isnan(ordered[-1]):  # what is not a number sorts last
        raise ValueError("there are no values" if not n else "some values are not a number")
    found = []
    for quality in qualities:
        hits = n - int(np.searchsorted(ordered, quality, side="left"))
        least = float(betaincinv(hits, n - hits + 1, 0.025)) if hits else 0.0
        most = float(betaincinv(hits + 1, n - hits, 0.975)) if hits < n else 1.0
        found.append(Bits(_bits(hits / n), _bits(most), _bits(least), hits, n))
    return found


def _bits(probability: float) -> float:
    return -math.log2(probability) + 0.0 if probability else math.inf  # + 0.0 makes 0 of -0


def log2_choose(n: int, k: int) -> float:
    """Return log2 of the number of ways to keep k of n weights: the bits that a layer's masks can say."""
    if not 0 <= k <= n:
        raise ValueError(f"cannot keep {k} of {n} weights")
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def random_energy_best(mean: float, sd: float, bits: float) -> float:
    """Return the best of 2^bits independent Gaussian qualities, mean + sd sqrt(2 ln 2 bits) (Derrida 1981)."""
    return mean + sd * math.sqrt(2 * math.log(2) * bits)
