"""The verdict: are tickets short- or long-tailed as networks widen, and what speaks for it.

Each width has a word of its own (see `ltx.analysis.shape`). They are one verdict where at least two widths are decided,
at least half of all are, and these agree.

The second test asks how the losses of trained seeds spread. In a long tail the luck of a seed stays as the network
widens. With short tails, or with the averaging of many tickets, the standard deviation shrinks. The word is
`ensembling` where a width is decided, none is long, and for dense networks and for every kind of ticket that was
trained both the standard deviation and the mean of the loss fall with the width. It then stands in the place of the
tails' own word, which is told beside it: it says why wider networks win all the same. Long tails whose seeds' spread
shrinks for all contradict themselves, and are undecided.

A change of unit changes s and may change the word, but no P, and therefore neither the bits that a quality needs. Spare
bits, those that the masks of a width have less those that a quality needs, say without a unit whether there are returns
to scale: there are where they grow with the width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ltx.analysis.intervals import Interval
from ltx.analysis.shape import LONG, UNDECIDED, Shape, judge
from ltx.analysis.spread import Estimate
from ltx.analysis.tail import Null
from ltx.analysis.trends import SeedTest, per_doubling

ENSEMBLING = "ensembling"


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
        word = judge(found.differences)[0]
        lines.append(Evidence(f"shape s {at}", found.s.mean, found.s.low, found.s.high, laws, word))
        less = found.differences.squared
        title = f"shape s {at}, less a squared Gaussian's of each init"
        lines.append(Evidence(title, less.mean, less.low, less.high, "0", word))
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

    def line(title: str, value: float, ends: Interval | Estimate, falls: str) -> Evidence:
        reads = falls if ends.high < 0 else "grows" if ends.low > 0 else "stays, or not told"
        return Evidence(title, value, ends.low, ends.high, "0", reads)

    return [
        line(f"sd over seeds of {name} loss, exponent of width", test.sd.value, test.sd, "shrinks"),
        line(f"sd / mean of {name} loss, exponent of width", test.relative.value, test.relative, "shrinks"),
        line(f"mean {name} loss per doubling", test.mean.mean, test.mean, "falls"),
    ]
