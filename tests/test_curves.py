"""Curves of log P over quality: read in both directions, averaged in probability, and continued only as told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ltx.analysis.curves import Curve, averaged, continued, reached_by, sampled


def test_a_curve_is_linear_between_its_points_and_tells_nothing_outside() -> None:
    curve = Curve.of([0, 1, 3], [-1, -2, -6], -0.5)
    assert curve.log_p_at(2) == -4 and curve.quality_at(-4) == 2 and curve.deepest == -6
    assert all(math.isnan(x) for x in (curve.log_p_at(-0.1), curve.log_p_at(3.1), curve.quality_at(-0.9)))
    for q, log_p in (
        ([0, 1], [-2, -1]),
        ([1, 1], [-1, -2]),
        ([0], [-1]),
        ([0, 1], [0.1, -1]),
        ([0, math.nan], [-1, -2]),
    ):
        with pytest.raises(ValueError, match="curve"):
            Curve.of(q, log_p, 0)


def test_repeats_are_averaged_in_probability_over_what_they_share() -> None:
    one, two = Curve.of([0, 1, 2], [-1, -2, -3], 0), Curve.of([0.5, 1, 4], [-1, -4, -10], 0)
    found = averaged([one, two])
    assert found.quality.tolist() == [0.5, 1, 2]
    expected = np.log([(math.exp(a) + math.exp(b)) / 2 for a, b in ((-1.5, -1), (-2, -4), (-3, -6))])
    assert found.log_p == pytest.approx(expected)
    assert averaged([one]) is one
    with pytest.raises(ValueError, match="share no qualities"):
        averaged([one, Curve.of([5, 6], [-1, -2], 0)])


def test_the_curve_of_sampled_masks_is_the_share_that_reaches_a_quality_ties_included() -> None:
    values = np.concatenate([np.zeros(600), np.repeat(np.arange(1, 201), 2)]).astype(float)
    curve = sampled(values)
    for q, log_p in zip(curve.quality, curve.log_p, strict=True):
        assert math.exp(log_p) == pytest.approx((values >= q).mean())
    assert curve.median == 0 and math.exp(curve.deepest) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="at least 100"):
        sampled(np.arange(99.0))


@pytest.mark.parametrize("grows", [1.0, 2.0, 0.7])
def test_a_tail_whose_logarithm_is_a_power_is_continued_exactly(grows: float) -> None:
    quality = np.linspace(0.1, 3, 200)
    known = Curve.of(quality + 5, -8 * quality**grows, 5.0)
    assert continued(known, 5 + 2) == pytest.approx(-8 * 2**grows, rel=1e-3)
    assert continued(known, 5 + 9) == pytest.approx(-8 * 9**grows, rel=2e-3)
    assert reached_by(known, -8 * 9**grows) == pytest.approx(5 + 9, rel=2e-3)
    assert reached_by(known, -8 * 2**grows) == pytest.approx(5 + 2, rel=1e-3)


def test_a_curve_that_ends_early_is_not_continued() -> None:
    short = Curve.of([0.1, 0.2], [-1.0, -2.0], 0.0)
    assert math.isnan(continued(short, 0.3)) and math.isnan(reached_by(short, -3.0))
    assert continued(short, 0.15) == -1.5
