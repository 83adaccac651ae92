"""Upper quantiles of the laws that a tail is compared with, by the logarithm of the probability to lie above.

Near -log(classes), where most random masks lie, a quality's gain over knowing nothing is the square of the signal in
the logits. A Gaussian signal therefore gives qualities with a tail at least as long as an exponential one, and only
what is longer than a squared Gaussian is long.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Law = Callable[[np.ndarray], np.ndarray]  # from ln P(value > x) to x


def gaussian(log_p: np.ndarray) -> np.ndarray:
    """Return the upper quantiles of a Gaussian, exact however small P is."""
    from scipy.special import ndtri_exp

    return -ndtri_exp(log_p)


def exponential(log_p: np.ndarray) -> np.ndarray:
    """Return the upper quantiles of an exponential law."""
    return -np.asarray(log_p)


def squared_gaussian(atom: float = 0.0) -> Law:
    """Return the law of a squared Gaussian signal of which a share `atom` is worth nothing.

    With at least half at the atom only a signal above its (1 - atom) upper quantile counts, by the square of what it
    lies above: what is below zero cannot be used, for temperatures are positive. With less than half it is chi-squared
    with one degree of freedom, the longest that such a signal gives.
    """
    if not 0 <= atom < 1:
        raise ValueError(f"a share of {atom} at the atom is not from 0 to below 1")

    def law(log_p: np.ndarray) -> np.ndarray:
        if atom < 0.5:
            return gaussian(np.asarray(log_p) - math.log(2)) ** 2
        zero = gaussian(np.asarray(math.log1p(-atom)))
        return np.maximum(gaussian(log_p) - zero, 0) ** 2

    return law


def median(law: Law, atom: float = 0.0) -> float:
    """Return the median of a law of which the lowest share `atom` is moved up to one value, the largest of them."""
    return float(law(np.asarray(math.log(min(0.5, 1 - atom)))))
