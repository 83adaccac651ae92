"""How a number changes with the width, from several inits or seeds at each width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ltx.analysis.intervals import Interval

LEAST_SEEDS = 30  # of each width, for a standard deviation worth comparing


def slope(places: Sequence[float], groups: Sequence[Sequence[float] | np.ndarray]) -> Interval:
    """Return the slope of the straight line through the means of groups, with its 95 % interval.

    places: where each group stands. The slope is a fixed combination of the means, so that its variance follows from
    the spread within each group, whether or not the means lie on a line; Student's t with Welch's degrees of freedom.
    n counts the places. Raises ValueError for fewer than two places, or fewer than two values in a group.
    """
    from scipy.special import stdtrit

    x = np.asarray(places, dtype=np.float64)
    if len(set(places)) < 2 or any(len(group) < 2 for group in groups):
        sizes = [len(group) for group in groups]
        raise ValueError(f"a slope needs two places with two values each at least, and got {sizes} values")
    means = np.array([np.mean(group) for group in groups])
    variances = np.array([np.var(group, ddof=1) / len(group) for group in groups])
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    parts = weights**2 * variances
    found, variance = float(weights @ means), float(parts.sum())
    if variance == 0:
        return Interval(found, found, found, len(x))
    freedom = variance**2 / float((parts**2 / np.array([len(group) - 1 for group in groups])).sum())
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(variance)
    return Interval(found, found - half, found + half, len(x))


def per_doubling(values: Mapping[float, Sequence[float]]) -> Interval:
    """Return by how much a number changes when the width doubles; values: those of each width's inits or seeds."""
    widths = sorted(values)
    return slope([math.log2(width) for width in widths], [values[width] for width in widths])


def pseudo_values(values: Sequence[float], relative: bool = False) -> np.ndarray:
    """Return the jackknife's pseudo-values of the logarithm of a standard deviation, one for each value.

    Their mean is ln sd with its bias taken off, and their spread gives its variance whatever the values' law: losses
    are skewed, and the formula for Gaussians is wrong for them. relative: of ln(sd / mean) instead.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    if n < 3 or not np.ptp(x) > 0:
        raise ValueError(f"a standard deviation's uncertainty needs at least three values that differ, and got {n}")
    if relative and not x.min() > 0:
        raise ValueError("a standard deviation relative to the mean is for losses above 0")
    means = (x.sum() - x) / (n - 1)
    squares = ((x - x.mean()) ** 2).sum() - (x - x.mean()) ** 2 * n / (n - 1)  # about the mean of the others

    def told(square: np.ndarray, mean: np.ndarray, count: int) -> np.ndarray:
        return np.log(square / (count - 1)) / 2 - (np.log(mean) if relative else 0)

    whole = told(((x - x.mean()) ** 2).sum(), x.mean(), n)
    return n * whole - (n - 1) * told(squares, means, n - 1)


@dataclass(frozen=True)
class SeedTest:
    """How losses of seeds change with the width, by a power law fitted between widths.

    sd: the exponent of their standard deviation. relative: that of sd / mean. mean: the change of the mean loss when
    the width doubles. n: seeds of the width that has fewest.
    """

    sd: Interval
    relative: Interval
    mean: Interval
    n: int

    @property
    def shrinks(self) -> bool:
        """Tell whether the standard deviation falls with the width for certain."""
        return self.sd.high < 0

    @property
    def falls(self) -> bool:
        """Tell whether the mean loss falls with the width for certain."""
        return self.mean.high < 0


def seed_test(losses: Mapping[float, Sequence[float]]) -> SeedTest:
    """Return how the losses of seeds change with the width; losses: those of each width.

    The mean loss cannot fall far without the standard deviation falling too, for losses are positive. Therefore that of
    sd / mean is told beside it: where it does not fall, the smaller loss alone explains the smaller spread. Raises
    ValueError for fewer than three widths, or than 30 seeds at one of them.
    """
    widths = sorted(losses)
    fewest = min((len(losses[width]) for width in widths), default=0)
    if len(widths) < 3 or fewest < LEAST_SEEDS:
        raise ValueError(
            f"the spread over seeds is compared over at least 3 widths with {LEAST_SEEDS} seeds each, and got "
            f"{len(widths)} widths, the smallest of {fewest} seeds"
        )
    logs = [math.log(width) for width in widths]
    sd, relative = (slope(logs, [pseudo_values(losses[width], one) for width in widths]) for one in (False, True))
    return SeedTest(sd, relative, per_doubling(losses), fewest)
