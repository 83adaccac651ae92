"""The shape of a distribution's upper tail: what lies over a high threshold, and what a Gaussian would show there.

The excesses of nearly any law over a high threshold approach a generalised Pareto law (Balkema & de Haan 1974; Pickands
1975), P(excess > y) = (1 + xi y / scale)^(-1/xi). xi > 0 is a long tail, xi = 0 an exponential one, and xi < 0 a
bounded one. A Gaussian has xi = 0 in the limit and looks bounded at any threshold that can be sampled: compare with
`gaussian_null`, never with zero, and qualities with `squared_gaussian_null` too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltx.analysis.laws import Law, gaussian, squared_gaussian

LEAST = 100  # excesses that a fit demands
DISTINCT = 0.9  # share of the excesses that may not be ties
CHI2 = 3.841458820694124  # the 95 % quantile of chi-squared with one degree of freedom


@dataclass(frozen=True)
class Fit:
    """A generalised Pareto law fitted to the n excesses over a threshold; low and high bound xi with 95 %."""

    threshold: float
    n: int
    xi: float
    low: float
    high: float
    scale: float


@dataclass(frozen=True)
class Row:
    """What a quantile as the threshold gives: the fit, and the moment estimate of xi beside it."""

    quantile: float
    fit: Fit
    moment: float


@dataclass(frozen=True)
class Null:
    """The estimates of xi of samples of a known law: their mean, and the middle 95 % of them, in `repeats` samples."""

    xi: float
    low: float
    high: float
    repeats: int


@dataclass(frozen=True)
class OverInits:
    """The mean xi of several inits with its 95 % interval, and the fit of each init."""

    xi: float
    low: float
    high: float
    fits: tuple[Fit, ...]


def excesses(values: np.ndarray, quantile: float) -> tuple[float, np.ndarray]:
    """Return the threshold and by how much the highest values exceed it, ascending.

    Of N values the highest round((1 - quantile) N) count, and the threshold is the value below these.
    Raises ValueError for fewer than 100 excesses, for values that are not finite, and for ties: a threshold that falls
    on a value several share, or more than a tenth of the excesses tied. A fit to ties would measure their grid.
    """
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    count = counted(len(values), quantile)
    if not np.isfinite(values).all():
        raise ValueError("some values are infinite or not a number")
    top = np.sort(np.partition(values, -count - 1)[-count - 1 :])
    threshold, above = float(top[0]), top[1:] - top[0]
    if above[0] == 0:
        shared = int((values == threshold).sum())
        raise ValueError(
            f"the threshold at quantile {quantile} is {threshold:.6g}, which {shared} of {len(values)} values share; "
            "take a higher quantile"
        )
    distinct = 1 + int((np.diff(above) > 0).sum())
    if distinct < DISTINCT * count:
        raise ValueError(
            f"only {distinct} of {count} excesses over quantile {quantile} are distinct; a tail is fitted to a "
            "continuous quality"
        )
    return threshold, above


def counted(n: int, quantile: float) -> int:
    """Return how many of n values lie over a quantile; ValueError where these are too few for a fit, or all."""
    if not 0 < quantile < 1:
        raise ValueError(f"quantile {quantile} is not between 0 and 1")
    count = round((1 - quantile) * n)
    if count < LEAST or count >= n:
        raise ValueError(
            f"quantile {quantile} of {n} values leaves {count} excesses, and a fit demands at least {LEAST}, with a "
            "value below them"
        )
    return count


def fit(values: np.ndarray, quantile: float) -> Fit:
    """Fit a generalised Pareto law to the excesses over a quantile, with the profile likelihood's interval for xi."""
    threshold, above = excesses(values, quantile)
    xi, scale = maximum_likelihood(above)
    low, high = profile_interval(above, xi, scale)
    return Fit(threshold, len(above), xi, low, high, scale)


def maximum_likelihood(above: np.ndarray) -> tuple[float, float]:
    """Return xi and the scale that make positive excesses most likely, with xi >= -1.

    Grimshaw (1993): for a fixed theta = xi / scale the best xi is the mean of log(1 + theta y), or -1 where that is
    less, which leaves one number to search. Below xi = -1 the likelihood has no maximum; at -1 the law is uniform up to
    the largest excess.
    """
    from scipy.optimize import minimize_scalar

    largest, mean = float(above.max()), float(above.mean())
    y = above / largest

    def best_xi(theta: float) -> tuple[float, float]:
        log_reach = float(np.log1p(theta * y).mean())
        return max(log_reach, -1.0), log_reach

    def cost(place: float) -> float:  # minus the mean log-likelihood of y; the place is log(1 + theta), for theta > -1
        theta = math.expm1(place)
        if abs(theta) < 1e-9:
            return math.log(mean / largest) + 1
        xi, log_reach = best_xi(theta)
        return math.log(xi / theta) + (1 + 1 / xi) * log_reach

    # Coarsely first, for there can be a second, lower maximum. A long tail has theta far above 1 / median.
    places = np.linspace(-20, 10 - math.log(float(np.median(y))), 60)
    best = int(np.argmin([cost(place) for place in places]))
    around = places[max(best - 1, 0)], places[min(best + 1, len(places) - 1)]
    found = minimize_scalar(cost, bounds=around, method="bounded", options={"xatol": 1e-7})
    if not found.fun < 0:  # the uniform law on [0, largest] has cost 0
        return -1.0, largest
    theta = math.expm1(float(found.x))
    if abs(theta) < 1e-9:
        return 0.0, mean
    xi, _ = best_xi(theta)
    return xi, xi / theta * largest


def log_likelihood(above: np.ndarray, xi: float, scale: float) -> float:
    """Return the log-likelihood of excesses; minus infinity where the law cannot reach them."""
    n = len(above)
    if xi == -1:
        return -n * math.log(scale) if scale >= above.max() else -math.inf
    if abs(xi) < 1e-9:
        return -n * math.log(scale) - float(above.sum()) / scale
    reach = xi * above / scale
    return -math.inf if reach.min() <= -1 else -n * math.log(scale) - (1 + 1 / xi) * float(np.log1p(reach).sum())


def profile(above: np.ndarray, xi: float) -> float:
    """Return the log-likelihood of a given xi >= -1 at the scale that suits it best."""
    from scipy.optimize import brentq

    largest, mean = float(above.max()), float(above.mean())
    if xi <= -1:
        return log_likelihood(above, -1.0, largest)

    # The derivative by the scale is zero where this is, and it only falls as the scale grows.
    def slope(log_scale: float) -> float:
        return (1 + xi) * float((above / (math.exp(log_scale) + xi * above)).mean()) - 1

    most = (1 + xi) * mean + max(0.0, -xi) * largest
    if xi < 0:
        least = -xi * largest * (1 + 1e-12)
        if slope(math.log(least)) <= 0:  # the best scale lies closer to the bound than numbers can
            return log_likelihood(above, xi, least)
    else:
        least = most / 2
        while slope(math.log(least)) <= 0:
            least /= 16
    best = brentq(slope, math.log(least), math.log(most) + 1e-9, xtol=1e-10)
    return log_likelihood(above, xi, math.exp(best))


def profile_interval(above: np.ndarray, xi: float, scale: float) -> tuple[float, float]:
    """Return the xi on both sides of the best one whose profile likelihood is just not rejected at 5 % (Coles 2001).

    The lower end stops at -1, below which there is no likelihood. The theory asks for xi > -1/2 (Smith 1985). Simulated
    samples below that are covered nearly as well: at xi = -3/4, 93 % with 1000 excesses and 90 % with 100.
    """
    from scipy.optimize import brentq

    least = log_likelihood(above, xi, scale) - CHI2 / 2

    def left(at: float) -> float:
        return profile(above, at) - least

    def end(sign: float) -> float:
        inner, step = xi, 2 / math.sqrt(len(above))
        while True:
            outer = max(-1.0, inner + sign * step)
            if left(outer) < 0:
                return float(brentq(left, inner, outer, xtol=1e-6))
            if outer == -1.0:
                return outer
            inner, step = outer, 2 * step

    return end(-1.0), end(1.0)


def moment(values: np.ndarray, quantile: float) -> float:
    """Return the moment estimate of xi (Dekkers, Einmahl & de Haan 1989) from the values over a quantile.

    It takes logarithms, so that it depends on where zero lies: zero is put at the median of all values, and the
    quantile has to lie above it.
    """
    if quantile <= 0.5:
        raise ValueError(f"quantile {quantile} does not lie above the median, where the moment estimate has its zero")
    threshold, above = excesses(values, quantile)
    logs = np.log1p(above / (threshold - float(np.median(values))))
    first, second = float(logs.mean()), float((logs**2).mean())
    return first + 1 - 0.5 / (1 - first**2 / second)


def stability(values: np.ndarray, quantiles: Sequence[float]) -> list[Row]:
    """Return the fit and the moment estimate at several quantiles: xi settles where the tail begins."""
    return [Row(quantile, fit(values, quantile), moment(values, quantile)) for quantile in quantiles]


def qq(above: np.ndarray, xi: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the quantiles of a generalised Pareto law at (i - 1/2) / n, and the sorted excesses beside them."""
    n = len(above)
    log_survival = np.log1p(-(np.arange(1, n + 1) - 0.5) / n)
    model = -log_survival if xi == 0 else np.expm1(-xi * log_survival) / xi
    return scale * model, np.sort(above)


def gaussian_null(n: int, quantile: float, rng: np.random.Generator, repeats: int = 200) -> Null:
    """Return the xi that Gaussian samples of n values show over a quantile.

    Mean and standard deviation do not matter, for neither shifting nor stretching a sample changes its xi; so this is
    the null of the Gaussian that matches any sample of n.
    """
    return null(gaussian, n, quantile, rng, repeats)


def squared_gaussian_null(
    n: int, quantile: float, rng: np.random.Generator, repeats: int = 200, atom: float = 0.0
) -> Null:
    """Return the xi that n squared Gaussian values show over a quantile, a share `atom` of them worth nothing.

    Near -log(classes) a quality is the square of a signal, so that this and not the Gaussian is the null of qualities
    whose signal is Gaussian; see `laws.squared_gaussian`.
    """
    return null(squared_gaussian(atom), n, quantile, rng, repeats)


def null(law: Law, n: int, quantile: float, rng: np.random.Generator, repeats: int = 200) -> Null:
    """Return the xi that samples of n values of a law show over a quantile.

    Only the values over the threshold are drawn, as the smallest of n uniform tail probabilities (Renyi 1953).
    """
    count = counted(n, quantile)
    found = np.empty(repeats)
    for i in range(repeats):
        steps = np.cumsum(rng.standard_exponential(count + 1))
        tail = steps / (steps[-1] + rng.standard_gamma(n - count))
        top = law(np.log(tail))
        found[i] = maximum_likelihood(top[:-1] - top[-1])[0]
    low, high = np.quantile(found, [0.025, 0.975])
    return Null(float(found.mean()), float(low), float(high), repeats)


def over_inits(
    samples: Sequence[np.ndarray], quantile: float, rng: np.random.Generator, repeats: int = 2000
) -> OverInits:
    """Return the mean xi of several inits, each fitted alone, with a 95 % interval from resampling whole inits.

    samples: the qualities of the masks of each init. Masks of one init are not independent samples of all inits, so
    that inits are what is drawn. Raises ValueError for fewer than five inits.
    """
    fits = tuple(fit(values, quantile) for values in samples)
    low, high = cluster_bootstrap([one.xi for one in fits], rng, repeats)
    return OverInits(float(np.mean([one.xi for one in fits])), low, high, fits)


def cluster_bootstrap(estimates: Sequence[float], rng: np.random.Generator, repeats: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of one estimate a cluster.

    The percentiles are taken further out than 2.5 and 97.5 as Student's t asks for few clusters (Hesterberg 2015,
    "expanded percentile interval"): plain ones are too narrow by sqrt((n - 1) / n) and more.
    """
    from scipy.special import ndtr, stdtrit

    values = np.asarray(estimates, dtype=np.float64)
    n = len(values)
    if n < 5:
        raise ValueError(f"{n} inits are too few to resample: at least 5")
    means = values[rng.integers(n, size=(repeats, n))].mean(axis=1)
    outside = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.025)))
    low, high = np.quantile(means, [outside, 1 - outside])
    return float(low), float(high)
