"""The shape of a tail: planted laws are found again, a Gaussian's null is its own, and ties are refused in words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ltx.analysis.tail import (
    cluster_bootstrap,
    counted,
    excesses,
    fit,
    gaussian_null,
    log_likelihood,
    maximum_likelihood,
    moment,
    over_inits,
    profile,
    profile_interval,
    qq,
    stability,
)
from ltx.streams import generator


def rng(*purpose: str | int) -> np.random.Generator:
    return generator("mask", 0, "test tail", *purpose)


def pareto(xi: float, n: int, draw: np.random.Generator) -> np.ndarray:
    """Generalised Pareto excesses of scale 1: exponential for xi = 0, uniform on [0, 1] for xi = -1."""
    e = draw.standard_exponential(n)
    return e if xi == 0 else np.expm1(xi * e) / xi


@pytest.mark.parametrize("xi", [-1.0, -0.5, -0.2, 0.0, 0.3, 1.0, 3.0])
def test_the_interval_holds_a_planted_shape_in_nine_of_ten_samples(xi: float):
    draw = rng("coverage")
    found = []
    for _ in range(100):
        above = 7 * pareto(xi, 300, draw)
        best, scale = maximum_likelihood(above)
        low, high = profile_interval(above, best, scale)
        assert -1 <= low <= best <= high
        found.append((best, scale, low <= xi <= high, high - low))
    best, scale, inside, width = (np.array(column) for column in zip(*found, strict=True))
    assert inside.sum() >= 90
    assert abs(best.mean() - xi) < 0.05 and abs(scale.mean() / 7 - 1) < 0.05
    assert 0.5 < width.mean() / (2 * 1.96 * best.std()) < 2  # an interval is as wide as the estimates scatter


@pytest.mark.parametrize("xi", [-0.6, -0.2, 0.0, 0.5, 2.0])
def test_the_fit_is_the_highest_point_of_the_likelihood(xi: float):
    above = pareto(xi, 500, rng("highest", str(xi)))
    best, scale = maximum_likelihood(above)
    top = log_likelihood(above, best, scale)
    assert top >= log_likelihood(above, xi, 1.0)
    assert profile(above, best) == pytest.approx(top, abs=1e-6)
    for other in best + np.array([-0.1, -0.01, 0.01, 0.1]):
        over_scales = max(log_likelihood(above, other, scale * s) for s in np.geomspace(0.5, 2, 2001))
        assert profile(above, other) < top
        assert profile(above, other) == pytest.approx(over_scales, abs=2e-3)
    low, high = profile_interval(above, best, scale)
    assert top - profile(above, low) == pytest.approx(1.9207, abs=1e-3)
    assert top - profile(above, high) == pytest.approx(1.9207, abs=1e-3)


def test_the_fit_is_the_one_scipy_finds():
    from scipy.stats import genpareto

    above = pareto(0.25, 400, rng("scipy"))
    best, scale = maximum_likelihood(above)
    xi, _, theirs = genpareto.fit(above, floc=0)
    assert (best, scale) == pytest.approx((xi, theirs), abs=1e-3)
    assert log_likelihood(above, best, scale) == pytest.approx(genpareto.logpdf(above, best, 0, scale).sum())


def test_evenly_spaced_excesses_are_uniform():
    above = (np.arange(1000) + 0.5) / 1000
    xi, scale = maximum_likelihood(above)
    assert xi == pytest.approx(-1, abs=0.02) and scale == pytest.approx(1, abs=0.02)
    assert profile_interval(above, xi, scale)[0] == -1


def test_a_tail_that_begins_at_the_threshold_is_found_whatever_lies_below():
    draw = rng("a tail over a bulk")
    values = np.concatenate([draw.uniform(-5, 1, 18000), 1 + 0.5 * pareto(0.4, 2000, draw)])
    draw.shuffle(values)
    found = fit(values, 0.9)
    assert found.n == 2000 and found.threshold == pytest.approx(1, abs=0.001)
    assert found.low < 0.4 < found.high and found.scale == pytest.approx(0.5, rel=0.15)


def test_shifting_and_stretching_a_sample_leaves_its_shape():
    values = rng("shift").standard_normal(5000)
    one, other = fit(values, 0.95), fit(3 * values - 20, 0.95)
    assert (one.xi, one.low, one.high) == pytest.approx((other.xi, other.low, other.high), abs=1e-4)
    assert other.scale == pytest.approx(3 * one.scale, rel=1e-3)
    assert moment(values, 0.95) == pytest.approx(moment(3 * values - 20, 0.95))


@pytest.mark.parametrize("xi", [-1.0, -0.3, 0.0, 0.5, 1.0])
def test_the_moment_estimate_finds_a_planted_shape(xi: float):
    """Of a law whose whole range is one tail, far out, where the estimate has no bias left."""
    found = [moment(pareto(xi, 40_000, rng("moment", i)), 0.98) for i in range(20)]
    spread = 1 if xi <= 0 else math.sqrt(1 + xi**2)
    assert np.mean(found) == pytest.approx(xi, abs=4 * spread / math.sqrt(800 * 20) + 0.05)


def test_the_moment_estimate_is_its_formula():
    values = np.concatenate([np.zeros(900), 1 + rng("formula").random(101)])
    top = np.sort(values)[-101:]
    logs = [math.log(x / top[0]) for x in top[1:]]
    first, second = math.fsum(logs) / 100, math.fsum(x * x for x in logs) / 100
    assert moment(values, 1 - 100 / 1001) == pytest.approx(first + 1 - 1 / (2 * (1 - first**2 / second)))


def test_a_pareto_tail_has_one_shape_at_every_threshold_and_a_gaussian_does_not():
    draw = rng("stability")
    rows = stability(pareto(0.5, 50_000, draw), [0.8, 0.9, 0.97, 0.99])
    assert [row.fit.n for row in rows] == [10_000, 5000, 1500, 500]
    assert all(row.fit.low < 0.5 < row.fit.high for row in rows)
    assert rows[-1].moment == pytest.approx(0.5, abs=0.2)
    bounded = stability(draw.standard_normal(50_000), [0.6, 0.99])
    assert bounded[0].fit.high < bounded[1].fit.xi - 0.05  # it rises towards zero


def test_points_of_the_right_law_lie_on_the_diagonal():
    for xi in (-0.5, 0.0, 0.5):
        above = 2 * pareto(xi, 20_000, rng("qq"))
        model, seen = qq(above, xi, 2.0)
        assert model[10_000] == pytest.approx(2 * (math.log(2) if xi == 0 else (2**xi - 1) / xi), rel=1e-3)
        assert np.abs(model[:19_000] / seen[:19_000] - 1)[200:].max() < 0.2
        assert np.all(np.diff(seen) >= 0)
    wrong, seen = qq(above, 0.0, 2.0)
    assert seen[-1] > 3 * wrong[-1]


@pytest.mark.parametrize("n, quantile", [(10_000, 0.95), (1000, 0.2)])
def test_the_gaussian_null_is_that_of_whole_gaussian_samples(n: int, quantile: float):
    """Of any mean and standard deviation; only the null takes the short way to the highest values."""
    draw = rng("whole", n)
    whole = np.array([fit(5 * draw.standard_normal(n) - 2, quantile).xi for _ in range(150)])
    null = gaussian_null(n, quantile, rng("null", n), repeats=600)
    spread = whole.std()
    assert null.xi == pytest.approx(whole.mean(), abs=4 * spread * math.sqrt(1 / 150 + 1 / 600))
    assert (null.high - null.low) / (4 * spread) == pytest.approx(1, abs=0.2)
    assert 0.88 <= np.mean((null.low <= whole) & (whole <= null.high)) <= 1


def test_a_gaussian_looks_bounded_and_less_so_further_out():
    """Whole samples of 100,000, fitted: -.148 +- .004 and -.091 +- .004."""
    found = [gaussian_null(100_000, q, rng("far", str(q)), repeats=60) for q in (0.9, 0.99)]
    assert [null.xi for null in found] == pytest.approx([-0.146, -0.091], abs=0.015)
    assert found[0].high < 0 and found[1].high < 0


def test_the_bootstrap_over_inits_covers_the_mean_of_few_inits():
    draw = rng("bootstrap")
    intervals = [cluster_bootstrap(draw.normal(0.2, 0.1, 6), draw, repeats=1000) for _ in range(400)]
    inside = np.mean([low <= 0.2 <= high for low, high in intervals])
    assert 0.91 <= inside <= 0.98


def test_inits_are_fitted_one_by_one_and_their_spread_makes_the_interval():
    draw = rng("inits")
    apart = [10.0 * i + pareto(xi, 5000, draw) for i, xi in enumerate((-0.4, -0.2, 0.0, 0.2, 0.4))]
    alike = [10.0 * i + pareto(0.0, 5000, draw) for i in range(5)]
    one, other = over_inits(apart, 0.9, draw), over_inits(alike, 0.9, draw)
    assert one.fits == tuple(fit(values, 0.9) for values in apart)
    assert one.xi == pytest.approx(np.mean([single.xi for single in one.fits]))
    assert one.low < 0 < one.high and other.low < 0 < other.high
    assert one.high - one.low > 3 * (other.high - other.low)
    with pytest.raises(ValueError, match="4 inits are too few"):
        over_inits(alike[:4], 0.9, draw)


def test_the_highest_values_are_counted_exactly():
    threshold, above = excesses(np.arange(1000.0)[::-1], 0.8)
    assert threshold == 799 and above.tolist() == list(range(1, 201))
    assert counted(1000, 0.9) == 100


@pytest.mark.parametrize(
    "values, quantile, said",
    [
        (np.arange(900.0), 0.9, "leaves 90 excesses, and a fit demands at least 100"),
        (np.arange(150.0), 0.001, "leaves 150 excesses"),
        (np.zeros(0), 0.9, "quantile 0.9 of 0 values"),
        (np.arange(1000.0), 1.0, "quantile 1.0 is not between 0 and 1"),
        (np.maximum(np.arange(1000.0), 920), 0.9, "threshold at quantile 0.9 is 920, which 921 of 1000 values share"),
        (np.arange(1000) // 4 * 1.0, 0.8, "only 50 of 200 excesses over quantile 0.8 are distinct"),
        (np.append(np.arange(1000.0), np.nan), 0.8, "not a number"),
        (np.append(np.arange(1000.0), -np.inf), 0.8, "infinite"),
    ],
)
def test_too_few_values_and_ties_are_refused_in_words(values: np.ndarray, quantile: float, said: str):
    for function in (fit, excesses):
        with pytest.raises(ValueError, match=said):
            function(values, quantile)


def test_the_moment_estimate_refuses_thresholds_below_its_zero():
    with pytest.raises(ValueError, match="above the median"):
        moment(np.arange(1000.0), 0.4)
