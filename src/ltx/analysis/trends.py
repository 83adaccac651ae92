"""How a number changes with the width, from several inits or seeds at each width; see `spread` for that of a spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ltx.analysis.intervals import Interval
from ltx.analysis.spread import Estimate, exponent

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


@dataclass(frozen=True)
class SeedTest:
    """How losses of seeds change with the width.

    sd: the power of the width as which their standard deviation changes. relative: that of sd / mean. mean: the change
    of the mean loss when the width doubles. n: seeds of the width that has fewest.
    """

    sd: Estimate
    relative: Estimate
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


def seed_test(losses: Mapping[float, Sequence[float]], rng: np.random.Generator) -> SeedTest:
    """Return how the losses of seeds change with the width; losses: those of each width.

    The mean loss cannot fall far without the standard deviation falling too, for losses are positive. Therefore that of
    sd / mean is told beside it: where it does not fall, the smaller loss alone explains the smaller spread. Raises
    ValueError for fewer than three widths, for fewer than 30 seeds at one of them, and as `spread.exponent` does.
    """
    widths = sorted(losses)
    fewest = min((len(losses[width]) for width in widths), default=0)
    if len(widths) < 3 or fewest < LEAST_SEEDS:
        raise ValueError(
            f"the spread over seeds is compared over at least 3 widths with {LEAST_SEEDS} seeds each, and got "
            f"{len(widths)} widths, the smallest of {fewest} seeds"
        )
    return SeedTest(exponent(losses, "sd", rng), exponent(losses, "cv", rng), per_doubling(losses), fewest)
