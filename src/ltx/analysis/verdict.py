"""The verdict: are tickets short- or long-tailed as networks widen, and what speaks for it.

A width. Each init has a curve of P(quality >= q). Its shape exponent s is the slope of ln(-ln P) against
ln(q - median) between P = 1e-3 and 1e-12, or the least deep of the inits' ends. Shifting or stretching the quality does
not change s. It is compared with that of known laws between the same two depths: 1.69 for a Gaussian, .95 for an
exponential law, .88 for a squared Gaussian. The last is there because a quality just above -log(classes), where most
random masks lie, is the square of a signal: a Gaussian signal looks at least exponential in this unit, and only a tail
longer than that is long. Where half of the masks or more lie exactly there, the laws are cut at the same share, for
the cut alone lowers s. With the 95 % interval of the mean s over inits (Student's t, at least three inits):

- short: the interval lies above the exponential law's s, and reaches the Gaussian's within .02, or exceeds it.
- exponential class: it reaches the span from the squared Gaussian's s to the exponential law's and not the
  Gaussian's, and is no wider than half the way from the squared Gaussian's to the Gaussian's: tails that are of neither
  class would often show a wider one.
- long: it lies more than .02 below the squared Gaussian's, and the xi of the sampled masks, where there is one, lies
  above what squared Gaussian samples of the same size show.
- undecided: anything else, with the reason. That is also where xi lies above those samples' band and s says that the
  tail is not long: the evidence contradicts itself.

The .02 is how far s of a curve that is known at the levels of splitting alone can be off, whatever the inits.

All widths. Their common word, where at least two widths are decided, at least half of all are, and these agree. The
second test asks how the losses of trained seeds spread: in a long tail the luck of a seed stays as the network widens,
and with short tails or with the averaging of many tickets the standard deviation shrinks. The word is `ensembling`
where a width is decided, none is long, and for dense networks and for every kind of ticket that was trained both the
standard deviation and the mean of the loss fall with the width. It then stands in the place of the tails' own word,
which is told beside it: it says why wider networks win all the same. Long tails whose seeds' spread shrinks for all
contradict themselves, and are undecided.

Units. Another unit of quality changes s and may change the word; s of sqrt(q + log classes), the signal's own unit, is
told beside it for that reason. No change of unit changes P, and therefore neither the bits that a quality needs. Spare
bits, those that the masks of a width have less those that a quality needs, say without a unit whether there are returns
to scale: there are where they grow with the width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from ltx.analysis.curves import Curve
from ltx.analysis.intervals import Interval, interval
from ltx.analysis.laws import Law, exponential, gaussian, median, squared_gaussian
from ltx.analysis.tail import Null
from ltx.analysis.trends import SeedTest, per_doubling

SHORT, EXPONENTIAL, LONG, UNDECIDED, ENSEMBLING = "short", "exponential class", "long", "undecided", "ensembling"
TOP, DEEP = 1e-3, 1e-12  # the depths between which s is measured
SHALLOWEST = 1e-6  # where the curves end before this, s is not told
LEAST_INITS = 3
OFF = 0.02  # by which s can be off, because P is known at the levels of splitting alone


@dataclass(frozen=True)
class References:
    """The shape exponents of known laws between the same two depths."""

    gaussian: float
    exponential: float
    squared: float  # of a squared Gaussian


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
    """What one width says: its word and why, s over inits, and the same in the signal's unit."""

    word: str
    reason: str
    s: Interval
    references: References
    log10_deep: float  # where s was measured to
    signal: Interval
    signal_word: str
    sampled: Sampled | None = None

    @property
    def units_differ(self) -> bool:
        """Tell whether the two units give different words."""
        return UNDECIDED not in (self.word, self.signal_word) and self.word != self.signal_word


@dataclass(frozen=True)
class Spare:
    """The spare bits at a quality: those of each init at each width."""

    quality: float
    bits: Mapping[float, Sequence[float]]


@dataclass(frozen=True)
class Evidence:
    """One line of what speaks for a verdict."""

    evidence: str
    value: float
    low: float
    high: float
    reference: str
    reads: str


@dataclass(frozen=True)
class Overall:
    """The verdict over all widths; `tails` is what the shapes alone say."""

    word: str
    reason: str
    tails: str
    evidence: list[Evidence] = field(default_factory=list)


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


def judge(s: Interval, known: References) -> tuple[str, str]:
    """Return the word that an interval of s means, and the reason in words; see the head of this file."""
    room = (known.gaussian - known.squared) / 2
    if s.n < LEAST_INITS or math.isnan(s.low):
        return UNDECIDED, f"{s.n} inits are too few for an interval: at least {LEAST_INITS}"
    if s.high < known.squared - OFF:
        return LONG, "the tail is longer than that of a squared Gaussian"
    if s.low > known.exponential:
        if s.high >= known.gaussian - OFF:
            return SHORT, "the tail is shorter than an exponential one, and no longer than a Gaussian's"
        return UNDECIDED, "the tail lies between exponential and Gaussian, and is neither"
    if s.high < known.gaussian - OFF and s.high - s.low <= room:
        return EXPONENTIAL, "the tail is about as long as an exponential one or a squared Gaussian's"
    return UNDECIDED, f"the inits differ too much: s from {s.low:.2f} to {s.high:.2f}"


def of_width(
    curves: Sequence[Curve], atoms: Sequence[float], classes: int, sampled: Sampled | None = None, deep: float = DEEP
) -> Shape:
    """Return the verdict of one width.

    curves: one for each init. atoms: the share of its masks at exactly -log(classes); inits differ in it by far, and
    the known laws are cut at each and averaged. deep: the depth of P down to which s is measured, or to where the first
    of the curves ends.
    """
    none = interval([])
    log_top, log_deep = math.log(TOP), max([math.log(deep), *(curve.deepest for curve in curves)])
    ends = log_deep / math.log(10) if curves else math.nan
    reason = unfit(curves, atoms, log_top, log_deep)
    if reason:
        known = references(log_top, math.log(deep))
        return Shape(UNDECIDED, reason, none, known, ends, none, UNDECIDED, sampled)
    each = [references(log_top, log_deep, atom) for atom in atoms]
    means = (np.mean([getattr(one, law.name) for one in each]) for law in fields(References))
    known = References(*map(float, means))
    s = interval([shape(curve, log_top, log_deep) for curve in curves])
    signal = interval([shape(curve.signal(classes), log_top, log_deep) for curve in curves])
    word, reason = judge(s, known)
    if sampled is not None:
        xi = f"xi = {sampled.xi.mean:+.2f} of sampled masks"
        if word == LONG and not sampled.long:
            word, reason = UNDECIDED, f"the evidence does not agree: s says long, and {xi} does not"
        elif word in (SHORT, EXPONENTIAL) and sampled.long:
            word, reason = UNDECIDED, f"the evidence contradicts itself: s says {word}, and {xi} says long"
    return Shape(word, reason, s, known, ends, signal, judge(signal, known)[0], sampled)


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


def overall(
    shapes: Mapping[float, Shape], spare: Sequence[Spare] = (), seeds: Mapping[str, SeedTest] | None = None
) -> Overall:
    """Return the verdict over widths, with all that speaks for it; see the head of this file.

    seeds: the second test, of `dense` networks and of every kind of ticket, by name.
    """
    seeds = seeds or {}
    evidence = [line for width in sorted(shapes) for line in of_shape(width, shapes[width])]
    evidence += [line for one in spare for line in of_spare(one)]
    evidence += [line for name, test in seeds.items() for line in of_seeds(name, test)]
    tails, reason = common(shapes)
    word = tails
    decided = [one.word for one in shapes.values() if one.word != UNDECIDED]
    both = "dense" in seeds and len(seeds) > 1
    shrinks = both and all(test.shrinks for test in seeds.values())
    falls = both and all(test.falls for test in seeds.values())
    if shrinks and tails == LONG:
        word = UNDECIDED
        reason = "the evidence contradicts itself: the tails are long, and the losses' spread over seeds shrinks"
    elif shrinks and falls and decided and LONG not in decided:
        word = ENSEMBLING
        own = f"the tails are {tails}" if tails != UNDECIDED else "no tail is long"
        reason = f"{own}, and with the width both the losses of trained networks and their spread over seeds fall"
        if not all(test.relative.high < 0 for test in seeds.values()):
            reason += "; the spread does not fall faster than the loss in all of them, which alone would explain it"
    return Overall(word, reason, tails, evidence)


def common(shapes: Mapping[float, Shape]) -> tuple[str, str]:
    """Return the word that the widths have in common, and the reason."""
    words = {width: shapes[width].word for width in sorted(shapes) if shapes[width].word != UNDECIDED}
    if len({*words.values()}) > 1:
        each = ", ".join(f"{word} at width {width:g}" for width, word in words.items())
        return UNDECIDED, f"the widths differ: {each}"
    if len(words) < 2 or 2 * len(words) < len(shapes):
        return UNDECIDED, f"{len(words)} of {len(shapes)} widths are decided; it takes two, and half of them"
    return next(iter(words.values())), f"{len(words)} of {len(shapes)} widths are decided, and all alike"


def of_shape(width: float, found: Shape) -> list[Evidence]:
    """Return the evidence of one width: s in both units, and xi."""
    known, at = found.references, f"at width {width:g}"
    laws = f"Gaussian {known.gaussian:.2f}, exponential {known.exponential:.2f}, squared Gaussian {known.squared:.2f}"
    lines = []
    if found.s.n:
        word = judge(found.s, known)[0]
        lines.append(Evidence(f"shape s {at}", found.s.mean, found.s.low, found.s.high, laws, word))
        own = found.signal
        lines.append(Evidence(f"shape s of the signal {at}", own.mean, own.low, own.high, laws, found.signal_word))
    if found.sampled is not None:
        xi, null, squared = found.sampled.xi, found.sampled.gaussian, found.sampled.squared
        bands = f"Gaussian {band(null)}, squared Gaussian {band(squared)}"
        if found.sampled.long:
            reads = LONG
        elif xi.high < squared.low:
            reads = "shorter than a squared Gaussian"
        else:
            reads = "as a squared Gaussian"
        lines.append(Evidence(f"xi of sampled masks {at}", xi.mean, xi.low, xi.high, bands, reads))
    return lines


def band(null: Null) -> str:
    """Write the middle 95 % of a null."""
    return f"{null.low:+.2f} to {null.high:+.2f}"


def of_spare(spare: Spare) -> list[Evidence]:
    """Return how spare bits change when the width doubles, over all widths, and between the two widest of several.

    Only widths with two inits at least that reach the quality count. Without two of them there is nothing to tell.
    """
    bits = {width: spare.bits[width] for width in sorted(spare.bits) if len(spare.bits[width]) > 1}
    if len(bits) < 2:
        return []
    lines = []
    widest = [*bits][-2:]
    for name, widths in (("", [*bits]), (f", width {widest[0]:g} to {widest[1]:g}", widest)):
        if name and len(bits) == 2:
            continue
        found = per_doubling({width: bits[width] for width in widths})
        reads = (
            "returns to scale"
            if found.low > 0
            else "no returns to scale"
            if found.high < 0
            else "no change for certain"
        )
        title = f"spare bits per doubling at quality {spare.quality:.3f}{name}"
        lines.append(Evidence(title, found.mean, found.low, found.high, "0", reads))
    return lines


def of_seeds(name: str, test: SeedTest) -> list[Evidence]:
    """Return how the losses of trained seeds change with the width."""

    def line(title: str, found: Interval, falls: str) -> Evidence:
        reads = falls if found.high < 0 else "grows" if found.low > 0 else "stays, or not told"
        return Evidence(title, found.mean, found.low, found.high, "0", reads)

    return [
        line(f"sd over seeds of {name} loss, exponent of width", test.sd, "shrinks"),
        line(f"sd / mean of {name} loss, exponent of width", test.relative, "shrinks"),
        line(f"mean {name} loss per doubling", test.mean, "falls"),
    ]
