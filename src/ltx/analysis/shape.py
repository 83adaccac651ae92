"""What the random tickets of one width say: the shape of their tail, beside the shapes of known laws.

Each init has a curve of P(quality >= q). Its shape exponent s is the slope of ln(-ln P) against ln(q - median) between
P = 1e-3 and 1e-12, or where the first of the inits' curves ends. Shifting or stretching the quality does not change s.
It is compared with that of known laws between the same two depths: 1.69 for a Gaussian, .95 for an exponential law, .88
for a squared Gaussian. The last is there because a quality just above -log(classes), where most random masks lie, is
the square of a signal: a Gaussian signal looks at least exponential in this unit, and only a tail longer than that is
long. Where half of an init's masks or more lie exactly there, the laws are cut at the same share, for the cut alone
lowers s. Inits differ in that share by far, so that s of each is taken less what the laws show for this init. With the
95 % interval over inits of these differences (Student's t, at least three inits), s

- short: lies above the exponential law's, and reaches the Gaussian's within .02, or exceeds it.
- exponential class: reaches the span from the squared Gaussian's to the exponential law's and not the Gaussian's, and
  its interval is no wider than half the way from the squared Gaussian's to the Gaussian's: tails that are of neither
  class would often show a wider one.
- long: lies more than .02 below the squared Gaussian's, and the xi of the sampled masks, where there is one, lies
  above what squared Gaussian samples of the same size show.
- undecided: anything else, with the reason. That is also where xi lies above those samples' band and s says that the
  tail is not long: the evidence contradicts itself.

The .02 is how far s of a curve that is known at the levels of splitting alone can be off, whatever the inits.

Another unit of quality changes s and may change the word. s of sqrt(q + log classes), the signal's own unit, is told
beside it for that reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltx.analysis.curves import Curve
from ltx.analysis.intervals import Interval, interval
from ltx.analysis.laws import Law, exponential, gaussian, median, squared_gaussian
from ltx.analysis.tail import Null

SHORT, EXPONENTIAL, LONG, UNDECIDED = "short", "exponential class", "long", "undecided"
TOP, DEEP = 1e-3, 1e-12  # the depths between which s is measured
SHALLOWEST = 1e-6  # where the curves end before this, s is not told
LEAST_INITS = 3
LAWS = ("gaussian", "exponential", "squared")
OFF = 0.02  # by which s can be off, because P is known at the levels of splitting alone


@dataclass(frozen=True)
class References:
    """The shape exponents of known laws between the same two depths."""

    gaussian: float
    exponential: float
    squared: float  # of a squared Gaussian


@dataclass(frozen=True)
class Differences:
    """By how much s of the inits differs from that of each law: the means with their intervals."""

    gaussian: Interval
    exponential: Interval
    squared: Interval


@dataclass(frozen=True)
class Sampled:
    """The mean xi over inits of directly sampled masks, and what Gaussian and squared Gaussian samples show."""

    xi: Interval
    gaussian: Null
    squared: Null

    @property
    def long(self) -> bool:
        """Tell whether the tail of sampled masks is longer than that of squared Gaussian samples for certain."""
        return self.xi.low > self.squared.high


@dataclass(frozen=True)
class Shape:
    """What one width says: its word and why, s over inits, and the same in the signal's unit.

    references: of each law the mean over inits.
    """

    word: str
    reason: str
    s: Interval
    references: References
    differences: Differences
    log10_deep: float  # where s was measured to
    signal: Interval
    signal_word: str
    sampled: Sampled | None = None

    @property
    def units_differ(self) -> bool:
        """Tell whether the two units give different words."""
        return UNDECIDED not in (self.word, self.signal_word) and self.word != self.signal_word


def exponent(top: float, deep: float, log_top: float, log_deep: float) -> float:
    """Return the slope of ln(-ln P) against ln x between two points (x, ln P), x counted from the median."""
    return math.log(log_deep / log_top) / math.log(deep / top)


def shape(curve: Curve, log_top: float, log_deep: float) -> float:
    """Return the shape exponent of a curve between two logarithms of P; nan where it does not reach them."""
    top, deep = curve.quality_at(log_top) - curve.median, curve.quality_at(log_deep) - curve.median
    return exponent(top, deep, log_top, log_deep) if 0 < top < deep else math.nan


def references(log_top: float, log_deep: float, atom: float = 0.0) -> References:
    """Return the shape exponents of a Gaussian, an exponential and a squared Gaussian law between two logarithms of P.

    atom: the share of masks that know nothing, less than 1 - P of the first. The laws are cut there, which moves their
    median where it is a half or more.
    """

    def of(law: Law) -> float:
        top, deep = law(np.array([log_top, log_deep])) - median(law, atom)
        return exponent(float(top), float(deep), log_top, log_deep)

    return References(of(gaussian), of(exponential), of(squared_gaussian(atom)))


def compared(own: Sequence[float], laws: Sequence[References]) -> Differences:
    """Return by how much s of each init differs from that of the laws as this init would show them."""
    found = {name: [s - getattr(law, name) for s, law in zip(own, laws, strict=True)] for name in LAWS}
    return Differences(**{name: interval(values) for name, values in found.items()})


def judge(s: Differences) -> tuple[str, str]:
    """Return the word that differences of s mean, and the reason in words; see the head of this file."""
    n, room = s.squared.n, (s.squared.mean - s.gaussian.mean) / 2
    if n < LEAST_INITS or math.isnan(s.squared.low):
        return UNDECIDED, f"{n} inits are too few for an interval: at least {LEAST_INITS}"
    if s.squared.high < -OFF:
        return LONG, "the tail is longer than that of a squared Gaussian"
    if s.exponential.low > 0:
        if s.gaussian.high >= -OFF:
            return SHORT, "the tail is shorter than an exponential one, and no longer than a Gaussian's"
        return UNDECIDED, "the tail lies between exponential and Gaussian, and is neither"
    if s.gaussian.high < -OFF and s.squared.high - s.squared.low <= room:
        return EXPONENTIAL, "the tail is about as long as an exponential one or a squared Gaussian's"
    span = f"{s.squared.low:+.2f} to {s.squared.high:+.2f}"
    return UNDECIDED, f"the inits differ too much to tell: s less a squared Gaussian's from {span}"


def of_width(
    curves: Sequence[Curve], atoms: Sequence[float], classes: int, sampled: Sampled | None = None, deep: float = DEEP
) -> Shape:
    """Return the verdict of one width.

    curves: one for each init. atoms: the share of its masks at exactly -log(classes), at which the known laws are cut
    for it. deep: the depth of P down to which s is measured, or to where the first
    of the curves ends.
    """
    none = interval([])
    log_top, log_deep = math.log(TOP), max([math.log(deep), *(curve.deepest for curve in curves)])
    ends = log_deep / math.log(10) if curves else math.nan
    reason = unfit(curves, atoms, log_top, log_deep)
    if reason:
        known = references(log_top, math.log(deep))
        return Shape(UNDECIDED, reason, none, known, Differences(none, none, none), ends, none, UNDECIDED, sampled)
    each = [references(log_top, log_deep, atom) for atom in atoms]
    known = References(**{name: float(np.mean([getattr(one, name) for one in each])) for name in LAWS})
    own = [shape(curve, log_top, log_deep) for curve in curves]
    signal = [shape(curve.signal(classes), log_top, log_deep) for curve in curves]
    differences = compared(own, each)
    word, reason = judge(differences)
    if sampled is not None:
        xi = f"xi = {sampled.xi.mean:+.2f} of sampled masks"
        if word == LONG and not sampled.long:
            word, reason = UNDECIDED, f"the evidence does not agree: s says long, and {xi} does not"
        elif word in (SHORT, EXPONENTIAL) and sampled.long:
            word, reason = UNDECIDED, f"the evidence contradicts itself: s says {word}, and {xi} says long"
    signal_word, _ = judge(compared(signal, each))
    return Shape(word, reason, interval(own), known, differences, ends, interval(signal), signal_word, sampled)


def unfit(curves: Sequence[Curve], atoms: Sequence[float], log_top: float, log_deep: float) -> str:
    """Return why curves cannot tell a shape between two logarithms of P; nothing where they can."""
    if not curves:
        return "there is no curve of P far below what sampling reaches"
    if log_deep > math.log(SHALLOWEST):
        ends, needs = log_deep / math.log(10), math.log10(SHALLOWEST)
        return f"not deep enough: a curve ends at P = 1e{ends:.1f}, and s needs 1e{needs:.0f}"
    if any(curve.log_p[0] < log_top for curve in curves):
        return f"a curve begins below P = 1e{math.log10(TOP):.0f}, where s is measured from"
    if any(math.isnan(atom) for atom in atoms):
        return "the share of masks that know nothing is not known; sampled masks tell it"
    if any(math.log1p(-atom) <= log_top for atom in atoms):
        return "of an init nearly all masks know nothing"
    return ""
