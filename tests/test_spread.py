"""The spread of losses over seeds: planted powers of the width are found again, and intervals hold them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest

from ltx.analysis import spread
from ltx.analysis.spread import Statistic, exponent, log_error, log_statistic, scatter
from ltx.streams import generator

WIDTHS = (0.5, 1, 2, 4, 8)


def rng(*purpose: str | int) -> np.random.Generator:
    return generator("noise", 0, "test spread", *purpose)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take fewer resamples where many intervals are needed."""
    monkeypatch.setattr(spread, "REPEATS", 400)


def skewed(size: int, draw: np.random.Generator) -> np.ndarray:
    """Draw numbers of mean 0 and sd 1 with a skewness of 2."""
    return draw.standard_exponential(size) - 1


def planted(sd: float, mean: float, draw: np.random.Generator, n: int = 30) -> dict[float, list[float]]:
    """Return skewed losses of n seeds whose sd and mean change as these powers of the width."""
    return {w: (5 * w**mean * (1 + 0.1 * w ** (sd - mean) * skewed(n, draw))).tolist() for w in WIDTHS}


LOSSES = [0.3, 0.7, 0.4, 0.35, 0.31]


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        ("sd", statistics.stdev(LOSSES)),
        ("mean", statistics.mean(LOSSES)),
        ("cv", statistics.stdev(LOSSES) / statistics.mean(LOSSES)),
    ],
)
def test_the_statistics_are_those_of_the_standard_library(statistic: Statistic, expected: float):
    assert scatter(LOSSES, statistic, rng()).value == pytest.approx(expected, rel=1e-12)
    table = np.array([LOSSES, [2 * x for x in LOSSES]])
    assert log_statistic(table, statistic)[0] == pytest.approx(math.log(expected), rel=1e-12)


def test_the_sd_follows_the_unit_of_the_loss_and_sd_over_mean_does_not():
    doubled = [2 * x for x in LOSSES]
    for statistic, factor in (("sd", 2), ("mean", 2), ("cv", 1)):
        one, other = scatter(LOSSES, statistic, rng()), scatter(doubled, statistic, rng())  # type: ignore[arg-type]
        for end in ("value", "low", "high"):
            assert getattr(other, end) == pytest.approx(factor * getattr(one, end), rel=1e-9)


@pytest.mark.parametrize("statistic", ["sd", "mean", "cv"])
def test_the_standard_error_is_that_of_leaving_out_each_seed(statistic: Statistic):
    x = np.exp(0.3 * rng("jackknife").standard_normal(400))
    left_out = np.array([log_statistic(np.delete(x, i), statistic) for i in range(len(x))])
    jackknife = math.sqrt((len(x) - 1) / len(x) * ((left_out - left_out.mean()) ** 2).sum())
    assert log_error(x, statistic) == pytest.approx(jackknife, rel=0.05)


LAWS: dict[str, tuple[Callable[[np.random.Generator], np.ndarray], float, float]] = {  # a draw of 30, its sd, its mean
    "normal": (lambda draw: 8 + draw.standard_normal(30), 1, 8),
    "log-normal": (
        lambda draw: np.exp(0.3 * draw.standard_normal(30)),
        math.sqrt((math.exp(0.09) - 1) * math.exp(0.09)),
        math.exp(0.045),
    ),
    "exponential": (lambda draw: draw.standard_exponential(30), 1, 1),
}


@pytest.mark.parametrize("law", LAWS)
def test_nine_of_ten_intervals_hold_the_true_spread(law: str, fast: None):
    draw, (drawn, sd, mean) = rng("coverage", law), LAWS[law]
    for statistic, truth in (("sd", sd), ("cv", sd / mean)):
        found = [scatter(drawn(draw).tolist(), statistic, draw) for _ in range(300)]  # type: ignore[arg-type]
        held = np.mean([one.low <= truth <= one.high for one in found])
        above, below = (np.mean([getattr(one, end) < truth for one in found]) for end in ("high", "low"))
        assert 0.87 <= held <= 0.98, statistic  # the docstring names .91 to .93
        assert above < 0.11 and below > 0.94 - 0.05, statistic


@pytest.mark.parametrize(("sd", "mean"), [(-0.5, 0.0), (0.0, 0.0), (-1.0, -1.0), (-0.75, -0.25), (0.3, -0.2)])
def test_nine_of_ten_intervals_hold_a_planted_exponent(sd: float, mean: float, fast: None):
    draw = rng("planted", str(sd), str(mean))
    for statistic, truth in (("sd", sd), ("mean", mean), ("cv", sd - mean)):
        found = [exponent(planted(sd, mean, draw), statistic, draw) for _ in range(150)]  # type: ignore[arg-type]
        assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.87
        assert np.mean([one.value for one in found]) == pytest.approx(truth, abs=0.05)
        assert all(one.low < one.value < one.high and one.n == 30 for one in found)


def test_halved_losses_look_like_averaging_to_the_sd_and_not_to_sd_over_mean():
    """Every loss is the narrow network's times 1/width: nothing was averaged, and the sd falls as steeply as it can."""
    losses = {w: [x / w for x in planted(0, 0, rng("scaled"))[1]] for w in WIDTHS}
    assert exponent(losses, "sd", rng()).high < -0.7
    fair = exponent(losses, "cv", rng())
    assert fair.value == pytest.approx(0, abs=1e-9) and fair.low < 0 < fair.high


def test_an_average_of_tickets_is_seen_by_both():
    """A network of width w has the loss of w averaged tickets above a floor: mean and sd are in closed form."""
    draw, losses = rng("averaged"), {}
    for width in (1, 2, 4, 8, 16):
        losses[float(width)] = (0.5 + 0.1 * draw.standard_exponential((60, width)).mean(1)).tolist()
    for statistic in ("sd", "cv"):
        found = exponent(losses, statistic, rng())  # type: ignore[arg-type]
        assert found.low < -0.5 < found.high and found.high < -0.3


def test_the_best_ticket_of_an_exponential_tail_goes_on_scattering():
    """The best of more and more draws of an exponential law gets better and keeps its sd (Gumbel)."""
    draw, losses = rng("best"), {}
    for width in WIDTHS:
        losses[width] = (20 - draw.standard_exponential((60, int(200 * width))).max(1)).tolist()
    found = exponent(losses, "sd", rng())
    assert found.low < 0 < found.high and abs(found.value) < 0.15
    assert exponent(losses, "mean", rng()).high < 0


def test_two_widths_give_the_slope_between_them():
    losses = {1: LOSSES, 4: [x / 3 for x in LOSSES]}
    for statistic in ("sd", "mean"):
        found = exponent(losses, statistic, rng())  # type: ignore[arg-type]
        assert found.value == pytest.approx(-math.log(3) / math.log(4), rel=1e-12)


def test_below_five_seeds_there_is_no_interval():
    few = {w: [w * x for x in LOSSES[:4]] for w in WIDTHS}
    for found in (scatter(LOSSES[:4], "sd", rng()), exponent(few, "sd", rng())):
        assert math.isfinite(found.value) and math.isnan(found.low) and math.isnan(found.high) and found.n == 4


def test_resamples_of_one_seed_alone_are_left_out():
    found = scatter([0.1, 0.1, 0.1, 0.1, 0.2], "sd", rng())  # a third of the resamples has no spread
    assert 0 < found.low <= found.value <= found.high < math.inf
    assert math.isfinite(exponent({1: [0.1, 0.1, 0.1, 0.1, 0.2], 2: LOSSES}, "cv", rng()).low)


def test_the_same_draw_gives_the_same_interval_and_another_nearly_the_same():
    losses = planted(-0.5, 0, rng("again"))
    one, same, other = (exponent(losses, "sd", rng(name)) for name in ("a", "a", "b"))
    assert one == same and one != other and other.low == pytest.approx(one.low, abs=0.05)


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([0.5], "1 losses: a standard deviation is of at least 2 seeds"),
        ([0.5, math.nan], "a loss of nan"),
        ([0.5, -0.1], "a loss of -0.1 is given, and losses are positive"),
        ([0.5, 0.5, 0.5], "all 3 losses are 0.5"),
    ],
)
def test_losses_without_a_spread_are_refused(losses: list[float], said: str):
    with pytest.raises(ValueError, match=said):
        scatter(losses, "sd", rng())
    with pytest.raises(ValueError, match=said):
        exponent({1: LOSSES, 2: losses}, "sd", rng())


def test_too_few_widths_are_refused():
    with pytest.raises(ValueError, match=r"losses at widths \[1\]: an exponent is fitted to at least 2 widths"):
        exponent({1: LOSSES}, "sd", rng())
    with pytest.raises(ValueError, match="all above 0"):
        exponent({0: LOSSES, 1: LOSSES}, "sd", rng())
