"""How a number changes with the width: slopes with intervals that hold, and the second test on the spread of seeds."""

from __future__ import annotations

import numpy as np
import pytest

from ltx.analysis import spread
from ltx.analysis.spread import exponent
from ltx.analysis.trends import per_doubling, seed_test, slope
from ltx.streams import generator


def test_a_slope_is_least_squares_and_its_interval_covers_the_truth() -> None:
    x = [0.0, 1.0, 2.0, 3.5]
    exact = slope(x, [[a + 2 * v, b + 2 * v] for v in x for a, b in [(0.0, 1.0)]])
    assert exact.mean == pytest.approx(2) and exact.low < 2 < exact.high
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(500):
        groups = [list(0.3 * v + (1 + v) * rng.standard_normal(5)) for v in x]
        found = slope(x, groups)
        assert found.mean == pytest.approx(np.polyfit(x, [np.mean(g) for g in groups], 1)[0])
        inside += found.low <= 0.3 <= found.high
    assert 0.92 <= inside / 500 <= 0.985
    with pytest.raises(ValueError, match="two places"):
        slope([1.0, 1.0], [[1.0, 2.0], [1.0, 2.0]])
    assert per_doubling({1: [0.0, 1.0], 4: [4.0, 5.0]}).mean == pytest.approx(2)


def test_the_second_test_is_the_exponents_of_the_spread_and_the_change_of_the_mean() -> None:
    draw = np.random.default_rng(1)
    losses = {w: list(10 * w**-0.2 + w**-0.5 * draw.standard_normal(round(40 + w))) for w in (0.5, 1.0, 2.0, 4.0, 8.0)}
    test, rng = seed_test(losses, generator("noise", 0, "seeds")), generator("noise", 0, "seeds")
    assert (test.sd, test.relative) == (exponent(losses, "sd", rng), exponent(losses, "cv", rng))
    assert test.mean == per_doubling(losses) and test.n == 40
    assert test.sd.value == pytest.approx(-0.5, abs=0.2) and test.shrinks and test.falls


def test_losses_that_stay_alike_neither_shrink_nor_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "REPEATS", 400)
    rng = np.random.default_rng(1)
    found = [seed_test({w: list(5 + rng.standard_normal(30)) for w in (1, 2, 4)}, rng) for _ in range(100)]
    assert sum(test.shrinks for test in found) <= 7 and sum(test.falls for test in found) <= 7


def test_a_spread_that_falls_with_the_mean_alone_is_no_smaller_relative_to_it() -> None:
    rng = np.random.default_rng(2)
    test = seed_test({w: list(w**-0.5 * (3 + rng.standard_normal(60) / 4)) for w in (1, 2, 4, 8)}, rng)
    assert test.shrinks and test.falls and test.relative.low < 0 < test.relative.high


@pytest.mark.parametrize("losses", [{1: [1.0] * 30, 2: [1.0] * 30}, {1: [1.0] * 29, 2: [1.0] * 30, 4: [1.0] * 30}])
def test_too_few_widths_or_seeds_are_no_second_test(losses: dict[float, list[float]]) -> None:
    with pytest.raises(ValueError, match="at least 3 widths with 30 seeds"):
        seed_test(losses, np.random.default_rng(0))
