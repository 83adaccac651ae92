"""The verdict on tails: the word of planted tails, few false ones under noise, contradictions left undecided."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ltx.analysis import laws, tail
from ltx.analysis.curves import Curve
from ltx.analysis.intervals import Interval, interval
from ltx.analysis.shape import (
    EXPONENTIAL,
    LONG,
    SHORT,
    UNDECIDED,
    Differences,
    Sampled,
    Shape,
    judge,
    of_width,
    references,
    shape,
)
from ltx.analysis.spread import Estimate
from ltx.analysis.tail import Null
from ltx.analysis.trends import SeedTest
from ltx.analysis.verdict import ENSEMBLING, Overall, Spare, overall

LEVELS = -math.log(2) * np.arange(1, 42)  # half survive each level, to 2e-13
TOP, DEEP = math.log(1e-3), math.log(1e-12)
KNOWN = references(TOP, DEEP)
PLANTED: dict[str, laws.Law] = {
    "gaussian": laws.gaussian,
    "exponential": laws.exponential,
    "chi-squared": laws.squared_gaussian(),
    "weibull": lambda log_p: (-log_p) ** (1 / 1.3),
    "stretched": lambda log_p: (-log_p) ** 2,
    "pareto": lambda log_p: np.exp(-log_p / 3),
}
TRUTH = {"gaussian": SHORT, "exponential": EXPONENTIAL, "chi-squared": EXPONENTIAL, "stretched": LONG, "pareto": LONG}


def planted(law: laws.Law, rng: np.random.Generator | None = None, noise: float = 0.0, atom: float = 0.0) -> Curve:
    """Return a law's curve; each level multiplies P by an error of its own, as splitting does, and the scale varies."""
    quality = laws.gaussian(LEVELS) if law is laws.gaussian else law(LEVELS)
    errors = np.cumsum(noise * rng.standard_normal(len(LEVELS))) if rng else np.zeros(len(LEVELS))
    log_p = np.minimum.accumulate(np.minimum(LEVELS + errors, 0))
    scale = math.exp(0.2 * rng.standard_normal()) if rng else 1.0
    first = (
        int(np.argmax(np.diff(quality, prepend=-1e9) > 0)) if atom == 0 else int((math.log1p(-atom) <= LEVELS).sum())
    )
    middle = laws.median(law, atom)
    return Curve.of(scale * quality[first:] - 2, log_p[first:], scale * middle - 2)


def drawn(law: laws.Law, seed: int, inits: int = 5, noise: float = 0.08) -> list[Curve]:
    rng = np.random.default_rng(seed)
    return [planted(law, rng, noise) for _ in range(inits)]


def sample_of(xi: float, low: float, high: float) -> Sampled:
    """Return what sampled masks say, beside nulls of about a thousand excesses."""
    return Sampled(Interval(xi, low, high, 5), Null(-0.12, -0.18, -0.07, 100), Null(0.03, -0.03, 0.1, 100))


def test_known_laws_have_the_shape_exponents_of_their_closed_forms() -> None:
    from scipy import stats

    def slope_of(law: stats.rv_continuous, *shape: float) -> float:
        x = law.isf([1e-3, 1e-12], *shape) - law.median(*shape)
        return math.log(math.log(1e-12) / math.log(1e-3)) / math.log(x[1] / x[0])

    assert KNOWN.gaussian == pytest.approx(slope_of(stats.norm), rel=1e-9) == pytest.approx(1.685, abs=1e-3)
    assert KNOWN.exponential == pytest.approx(slope_of(stats.expon), rel=1e-9) == pytest.approx(0.945, abs=1e-3)
    assert KNOWN.squared == pytest.approx(slope_of(stats.chi2, 1), rel=1e-9) == pytest.approx(0.877, abs=1e-3)
    for atom in (0.0, 0.3, 0.49):
        assert references(TOP, DEEP, atom) == KNOWN


@pytest.mark.parametrize("atom", [0.6, 0.9])
def test_known_laws_are_cut_where_masks_know_nothing(atom: float) -> None:
    """A Gaussian signal of which the lowest share is moved up to one value, its median; and its square."""
    zero = laws.gaussian(np.asarray(math.log(1 - atom)))
    top, deep = laws.gaussian(np.array([TOP, DEEP])) - zero
    known = references(TOP, DEEP, atom)
    assert known.gaussian == pytest.approx(math.log(4) / math.log(deep / top), rel=1e-9)
    assert known.squared == pytest.approx(known.gaussian / 2, rel=1e-9), "squaring doubles every logarithm"
    assert known.squared < KNOWN.squared - 0.05


def test_a_shape_is_that_of_the_planted_law_whatever_shift_and_scale() -> None:
    for name, law in PLANTED.items():
        x = law(np.array([TOP, DEEP])) - laws.median(law)
        curve = planted(law)
        moved = Curve.of(7 + 3 * curve.quality, curve.log_p, 7 + 3 * curve.median)
        expected = math.log(4) / math.log(x[1] / x[0])
        assert shape(curve, TOP, DEEP) == pytest.approx(expected, rel=0.01), name
        assert shape(moved, TOP, DEEP) == pytest.approx(shape(curve, TOP, DEEP), rel=1e-9)


@pytest.mark.parametrize("name", TRUTH)
def test_a_planted_tail_is_given_its_word(name: str) -> None:
    found = [of_width(drawn(PLANTED[name], seed), [0.0] * 5, 10).word for seed in range(100)]
    assert found.count(TRUTH[name]) > 80, found
    assert sum(word not in (TRUTH[name], UNDECIDED) for word in found) <= 5


@pytest.mark.parametrize("noise", [0.09, 0.3])
@pytest.mark.parametrize("inits", [3, 5])
def test_false_words_are_rare(noise: float, inits: int) -> None:
    """The smaller noise is that of a level of 128 independent masks of which half survive."""
    for name, law in PLANTED.items():
        found = [of_width(drawn(law, seed, inits, noise), [0.0] * inits, 10).word for seed in range(100)]
        false = sum(word not in (TRUTH.get(name, UNDECIDED), UNDECIDED) for word in found)
        assert false <= 8, f"{name}: {false} of 100"


def test_a_gaussian_signal_squared_is_not_long_however_many_masks_know_nothing() -> None:
    rng = np.random.default_rng(0)
    for atom in (0.5, 0.7, 0.9):
        curves = [planted(laws.squared_gaussian(atom), rng, 0.05, atom) for _ in range(5)]
        aware, blind = of_width(curves, [atom] * 5, 10), of_width(curves, [0.0] * 5, 10)
        assert aware.word == EXPONENTIAL, atom
        assert blind.s.mean < KNOWN.squared, "a reference that ignores the atom would take it for longer"
    assert blind.word == LONG


def test_inits_of_which_other_shares_know_nothing_are_each_compared_with_their_own_laws() -> None:
    rng, atoms = np.random.default_rng(0), [0.1, 0.5, 0.7, 0.9]
    curves = [planted(laws.squared_gaussian(atom), rng, 0.03, atom) for atom in atoms]
    found = of_width(curves, atoms, 10)
    assert found.s.high - found.s.low > 0.35, "s of the inits differs by far"
    assert found.differences.squared.high - found.differences.squared.low < 0.1 and found.word == EXPONENTIAL
    assert found.references.squared == pytest.approx(np.mean([references(TOP, DEEP, a).squared for a in atoms]))


def test_a_tail_between_exponential_and_gaussian_is_left_undecided() -> None:
    found = of_width(drawn(PLANTED["weibull"], 1), [0.0] * 5, 10)
    assert found.word == UNDECIDED and "between exponential and Gaussian" in found.reason


def test_too_few_inits_or_too_shallow_curves_decide_nothing() -> None:
    curves = drawn(laws.gaussian, 0)
    assert "2 inits are too few" in of_width(curves[:2], [0, 0], 10).reason
    short = [Curve.of(c.quality[:12], c.log_p[:12], c.median) for c in curves]
    assert "not deep enough: a curve ends at P = 1e-3" in of_width(short, [0.0] * 5, 10).reason
    late = [Curve.of(c.quality[15:], c.log_p[15:], c.median) for c in curves]
    assert "begins below" in of_width(late, [0.0] * 5, 10).reason
    assert "know nothing" in of_width(curves, [0.9999] * 5, 10).reason
    assert of_width([], [], 10).word == UNDECIDED


def test_the_shallowest_curve_sets_the_depth_and_the_references_follow() -> None:
    curves = drawn(laws.gaussian, 0)
    curves[2] = Curve.of(curves[2].quality[:31], curves[2].log_p[:31], curves[2].median)
    found = of_width(curves, [0.0] * 5, 10)
    assert found.log10_deep == pytest.approx(curves[2].log_p[-1] / math.log(10))
    assert found.references == references(TOP, curves[2].deepest) != KNOWN and found.word == SHORT


def test_sampled_masks_can_contradict_the_shape() -> None:
    heavy, light = sample_of(0.3, 0.2, 0.4), sample_of(0.0, -0.1, 0.1)
    for name in ("gaussian", "exponential"):
        assert of_width(drawn(PLANTED[name], 3), [0.0] * 5, 10, light).word == TRUTH[name]
        found = of_width(drawn(PLANTED[name], 3), [0.0] * 5, 10, heavy)
        assert found.word == UNDECIDED and "contradicts" in found.reason
    assert of_width(drawn(PLANTED["pareto"], 3), [0.0] * 5, 10, heavy).word == LONG
    found = of_width(drawn(PLANTED["pareto"], 3), [0.0] * 5, 10, light)
    assert found.word == UNDECIDED and "does not agree" in found.reason


def test_an_interval_reads_as_the_rule_says() -> None:
    def word(low: float, high: float, n: int = 5) -> str:
        def less(law: float) -> Interval:
            return Interval((low + high) / 2 - law, low - law, high - law, n)

        return judge(Differences(less(KNOWN.gaussian), less(KNOWN.exponential), less(KNOWN.squared)))[0]

    assert word(1.0, 1.7) == SHORT and word(1.8, 1.9) == SHORT and word(1.0, 1.6) == UNDECIDED
    assert word(0.8, 1.1) == word(0.9, 0.91) == word(0.6, 0.87) == EXPONENTIAL
    assert word(0.5, 0.85) == LONG and word(0.9, 1.7) == word(0.3, 0.9) == word(1.0, 1.8, 2) == UNDECIDED


def test_a_gaussian_signal_changes_its_word_with_the_unit_and_keeps_its_bits() -> None:
    """Half of the masks have a signal above zero, and its square is what their quality lies above -log(classes)."""
    base, rng, curves = math.log(10), np.random.default_rng(5), []
    for _ in range(5):
        signal = planted(laws.squared_gaussian(0.5), rng, 0.05, 0.5)
        gained = (signal.quality + 2) / (signal.quality[-1] + 2)
        curves.append(Curve.of(gained - base, signal.log_p, -base))
    found = of_width(curves, [0.5] * 5, 10)
    assert found.word == EXPONENTIAL and found.signal_word == SHORT and found.units_differ
    assert found.signal.mean == pytest.approx(2 * found.s.mean, rel=0.01) == pytest.approx(KNOWN.gaussian, abs=0.1)
    curve = curves[0]
    for q in curve.quality[[3, 20]]:
        assert curve.signal(10).log_p_at(math.sqrt(q + base)) == pytest.approx(curve.log_p_at(q))


# Over all widths


def shapes(*words: str) -> dict[float, Shape]:
    law = {SHORT: "gaussian", EXPONENTIAL: "exponential", LONG: "pareto", UNDECIDED: "weibull"}
    found = {2.0**i: of_width(drawn(PLANTED[law[word]], 3), [0.0] * 5, 10) for i, word in enumerate(words)}
    assert [one.word for one in found.values()] == [*words]
    return found


def seeds(sd: float, mean: float, relative: float = -0.2) -> SeedTest:
    of_sd, of_share = (Estimate(x, x - 0.1, x + 0.1, 30) for x in (sd, relative))
    return SeedTest(of_sd, of_share, Interval(mean, mean - 0.1, mean + 0.1, 5), 30)


@pytest.mark.parametrize(
    ("words", "expected", "reason"),
    [
        ([SHORT, SHORT, UNDECIDED], SHORT, "2 of 3 widths are decided, and all alike"),
        ([EXPONENTIAL] * 3, EXPONENTIAL, "3 of 3"),
        ([LONG, LONG], LONG, "2 of 2"),
        ([SHORT, LONG], UNDECIDED, "differ: short at width 1, long at width 2"),
        ([SHORT], UNDECIDED, "it takes two"),
        ([SHORT, SHORT, UNDECIDED, UNDECIDED, UNDECIDED], UNDECIDED, "half"),
        ([UNDECIDED, UNDECIDED], UNDECIDED, "0 of 2"),
    ],
)
def test_the_widths_have_the_word_that_the_decided_ones_share(words: list[str], expected: str, reason: str) -> None:
    found = overall(shapes(*words))
    assert found.word == found.tails == expected and reason in found.reason


@pytest.mark.parametrize("words", [[SHORT, SHORT], [EXPONENTIAL, UNDECIDED, UNDECIDED]])
def test_spread_and_loss_that_fall_with_the_width_are_ensembling_where_no_tail_is_long(words: list[str]) -> None:
    falls, stays = seeds(-0.5, -0.3), seeds(0.0, -0.3)
    found = overall(shapes(*words), seeds={"dense": falls, "imp": falls})
    assert found.word == ENSEMBLING and "alone would explain" not in found.reason
    assert found.tails == overall(shapes(*words)).word
    for other in (
        {"dense": falls, "imp": stays},
        {"dense": falls},
        {"imp": falls},
        {"dense": seeds(-0.5, 0), "imp": falls},
    ):
        assert overall(shapes(*words), seeds=other).word == found.tails
    same = overall(shapes(*words), seeds={"dense": falls, "imp": seeds(-0.5, -0.3, 0.0)})
    assert same.word == ENSEMBLING and "alone would explain" in same.reason


def test_long_tails_whose_spread_shrinks_contradict_themselves() -> None:
    falls = seeds(-0.5, -0.3)
    found = overall(shapes(LONG, LONG), seeds={"dense": falls, "imp": falls})
    assert found.word == UNDECIDED and "contradicts" in found.reason and found.tails == LONG
    assert overall(shapes(LONG, UNDECIDED, UNDECIDED), seeds={"dense": falls, "imp": falls}).word == UNDECIDED
    assert overall(shapes(LONG, LONG), seeds={"dense": seeds(0, -0.3), "imp": falls}).word == LONG
    assert overall(shapes(UNDECIDED, UNDECIDED), seeds={"dense": falls, "imp": falls}).word == UNDECIDED


def lines_of(found: Overall, begin: str) -> list[tuple[str, str]]:
    return [(line.evidence, line.reads) for line in found.evidence if line.evidence.startswith(begin)]


def test_spare_bits_that_grow_are_returns_to_scale() -> None:
    grows = Spare(-2.0, {1: [10.0, 11], 2: [20.0, 21.5], 4: [30.0, 31]})
    turns = Spare(-1.5, {1: [10.0, 11], 2: [40.0, 41], 4: [20.0, 22], 8: [5.0]})
    found = overall(shapes(SHORT, SHORT), [grows, turns, Spare(-1, {1: [3.0, 4.0]})])
    assert lines_of(found, "spare bits per doubling at quality -2.000") == [
        ("spare bits per doubling at quality -2.000", "returns to scale"),
        ("spare bits per doubling at quality -2.000, width 2 to 4", "returns to scale"),
    ]
    assert [reads for _, reads in lines_of(found, "spare bits per doubling at quality -1.500")] == [
        "returns to scale",
        "no returns to scale",
    ]
    assert not lines_of(found, "spare bits per doubling at quality -1.000")


def test_the_evidence_has_a_line_for_all_that_was_looked_at() -> None:
    heavy = of_width(drawn(PLANTED["pareto"], 3), [0.0] * 5, 10, sample_of(0.3, 0.2, 0.4))
    light = of_width(drawn(PLANTED["gaussian"], 3), [0.0] * 5, 10, sample_of(-0.2, -0.3, -0.1))
    found = overall({1: heavy, 2: light}, seeds={"dense": seeds(-0.5, -0.3)})
    assert lines_of(found, "shape s at") == [
        ("shape s at width 1", LONG),
        ("shape s at width 1, less a squared Gaussian's of each init", LONG),
        ("shape s at width 2", SHORT),
        ("shape s at width 2, less a squared Gaussian's of each init", SHORT),
    ]
    assert [reads for _, reads in lines_of(found, "xi")] == [LONG, "shorter than a squared Gaussian"]
    assert [reads for _, reads in lines_of(found, "sd over") + lines_of(found, "mean dense")] == ["shrinks", "falls"]
    assert all(line.low <= line.value <= line.high and line.reference for line in found.evidence)
    assert interval([heavy.s.mean]).mean == found.evidence[0].value


# The null of xi


def test_the_squared_null_is_what_squared_gaussian_samples_show() -> None:
    rng = np.random.default_rng(0)
    for atom in (0.0, 0.8):
        null = tail.squared_gaussian_null(4000, 0.95, rng, 300, atom)
        found = []
        for _ in range(150):
            z = rng.standard_normal(4000)
            values = z**2 if atom < 0.5 else np.maximum(0, z - laws.gaussian(np.asarray(math.log(1 - atom)))) ** 2
            found.append(tail.maximum_likelihood(tail.excesses(values, 0.95)[1])[0])
        assert null.xi == pytest.approx(np.mean(found), abs=0.03)
        assert null.low < np.quantile(found, 0.2) and null.high > np.quantile(found, 0.8)
    plain = tail.gaussian_null(20_000, 0.95, rng, 200)
    assert plain.xi < plain.high < tail.squared_gaussian_null(20_000, 0.95, rng, 200).xi < null.xi
    with pytest.raises(ValueError, match="atom"):
        laws.squared_gaussian(1.0)
