"""The best of n and the bits that a quality needs, against brute force and closed forms."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from ltx.analysis.returns import bits_needed, expected_best, log2_choose, random_energy_best
from ltx.streams import generator


def rng(*purpose: str | int) -> np.random.Generator:
    return generator("mask", 0, "test returns", *purpose)


def test_the_expected_best_is_the_mean_over_all_subsets():
    values = rng("subsets").standard_normal(30)
    for n in (1, 2, 3):
        every = [max(chosen) for chosen in combinations(values, n)]
        assert expected_best(values, [n])[0] == pytest.approx(math.fsum(every) / len(every), rel=1e-12)


def test_the_expected_best_of_uniform_values_is_n_by_n_plus_one():
    """Evenly spaced values i / (N + 1) have it exactly: their best of n is n / (n + 1) for every n and N."""
    total = 200_000
    draws = [1, 2, 10, 1000, total // 10]
    best = expected_best(np.arange(1, total + 1) / (total + 1), draws)
    assert best == pytest.approx([n / (n + 1) for n in draws], rel=1e-12)


def test_the_expected_best_is_unbiased():
    draw = rng("unbiased")
    found = np.array([expected_best(draw.random(50), [5]) for _ in range(2000)])
    assert found.mean() == pytest.approx(5 / 6, abs=4 * found.std() / math.sqrt(2000))


@pytest.mark.parametrize("n", [0, 11])
def test_a_best_of_more_than_a_tenth_is_refused(n: int):
    with pytest.raises(ValueError, match=f"the best of {n} cannot be told from 100 values"):
        expected_best(np.arange(100.0), [1, n])


def test_the_bits_of_a_known_law_lie_in_their_interval():
    """An exponential law needs q / ln 2 bits for quality q."""
    draw, qualities = rng("bits"), [0.5, 2.0, 5.0]
    inside = np.zeros(3)
    for _ in range(300):
        found = bits_needed(draw.standard_exponential(1000), qualities)
        inside += [one.low <= quality / math.log(2) <= one.high for one, quality in zip(found, qualities, strict=True)]
    assert np.all(inside >= 0.95 * 300 - 8)  # exact intervals cover at least 95 %; 8 is two of its standard deviations
    assert np.all(inside[:2] <= 294)


def test_bits_and_intervals_are_those_of_a_binomial():
    from scipy.stats import binom

    one, all_of_them, none = bits_needed(np.arange(8.0), [6, 0, 7.5])
    assert (one.bits, one.hits, one.n) == (2.0, 2, 8)
    assert binom.sf(1, 8, 2**-one.high) == pytest.approx(0.025)
    assert binom.cdf(2, 8, 2**-one.low) == pytest.approx(0.025)
    assert (all_of_them.bits, all_of_them.low, all_of_them.hits) == (0, 0, 8)
    assert 2**-all_of_them.high == pytest.approx(0.025 ** (1 / 8))
    assert (none.bits, none.high, none.hits) == (math.inf, math.inf, 0)
    assert 2**-none.low == pytest.approx(1 - 0.025 ** (1 / 8))


def test_values_that_tie_with_a_quality_are_as_good_as_it():
    assert bits_needed([1, 1, 1, 1, 2, 2, 0, 0], [1])[0].hits == 6


@pytest.mark.parametrize("values, said", [([], "no values"), ([1.0, math.nan], "not a number")])
def test_values_that_say_nothing_are_refused(values: list[float], said: str):
    with pytest.raises(ValueError, match=said):
        bits_needed(values, [0])


def test_the_bits_of_a_layer_count_its_masks():
    for n in range(13):
        for k in range(n + 1):
            assert log2_choose(n, k) == pytest.approx(math.log2(math.comb(n, k)), abs=1e-12)
    assert log2_choose(1024, 512) == pytest.approx(math.log2(math.comb(1024, 512)), rel=1e-12)
    assert log2_choose(10**6, 1000) == pytest.approx(math.log2(math.comb(10**6, 1000)), rel=1e-9)
    with pytest.raises(ValueError, match="cannot keep 4 of 3"):
        log2_choose(3, 4)


def test_random_energies_are_at_best_what_many_gaussians_reach():
    assert random_energy_best(3, 2, 0) == 3
    best = rng("energies").standard_normal((20, 2**16)).max(axis=1).mean()
    prediction = random_energy_best(0, 1, 16)
    assert prediction == pytest.approx(math.sqrt(2 * math.log(2**16)))
    assert best < prediction < 1.15 * best  # it is the limit of many bits, from above
