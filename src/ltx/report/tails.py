"""What `ltx tail` finds out: for each data set, network and question the tails of every width, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ltx.analysis import tail
from ltx.analysis.curves import Curve
from ltx.analysis.intervals import Interval, interval
from ltx.analysis.shape import DEEP, SHALLOWEST, TOP, Sampled, Shape, of_width
from ltx.analysis.tail import Null
from ltx.analysis.trends import SeedTest, seed_test
from ltx.analysis.verdict import Overall, Spare, overall
from ltx.report.seed_runs import Losses
from ltx.report.tail_points import Init, Point
from ltx.report.tail_runs import Network
from ltx.streams import generator

QUANTILES = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
ENOUGH = 1_000  # excesses over a quantile, where there are as many
NULLS = 100  # samples of each null, of about 1,000 excesses each: a tenth of a second
SAME = 0.02  # kept counts that differ by less are equal
BOOTSTRAPPED = 5  # inits from which on the interval of xi is that of resampling them


@dataclass(frozen=True)
class Xi:
    """The fits to the excesses of sampled masks over a quantile: means over inits."""

    quantile: float
    excesses: int
    sampled: Sampled
    moment: float
    stability: list[tuple[float, float]]  # quantile, xi


@dataclass(frozen=True)
class Bits:
    """The bits that a quality needs at one width, over the inits, which all reach it, and the bits it has to spare."""

    quality: float
    log10_p: float  # where the quality was chosen
    needed: Interval
    spare: Interval


@dataclass
class Width:
    """What is known of the random tickets of one width."""

    point: Point
    masks: int
    dead: float
    atom: Interval
    repeats: tuple[int, int]  # of splitting, of the init that has fewest and of that with most
    deepest: float  # log10 P that every init reaches
    xi: Xi | None
    shape: Shape
    bits: list[Bits] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)  # what is wrong, in words


@dataclass
class Question:
    """One question to one network: its widths at equal density, or at equal kept count."""

    network: Network
    question: str
    widths: list[Width]
    losses: list[Losses]
    tests: dict[str, SeedTest]
    verdict: Overall
    flags: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What is wrong, in words: of the question, and of its widths, those together that have the same."""
        widths: dict[str, list[str]] = {}
        for width in self.widths:
            for flag in width.flags:
                widths.setdefault(flag, []).append(f"{width.point.width:g}")
        own = [f"width{'s' * (len(at) > 1)} {', '.join(at)}: {flag}" for flag, at in widths.items()]
        return [*self.flags, *own]


def questions(network: Network) -> list[tuple[str, list[Point]]]:
    """Return the points of a network at each density, and those that keep about equally many weights.

    Equal kept counts are a question where several widths have them. A density that one width alone has is left out
    where any question has several widths.
    """
    points = sorted(network.points.values(), key=lambda point: (point.width, point.density))
    densities = sorted({point.density for point in points})
    found = [(f"equal density {d:g}", [point for point in points if point.density == d]) for d in densities]
    counts: list[list[Point]] = []
    for point in sorted(points, key=lambda point: point.kept):
        if counts and point.kept <= counts[-1][0].kept * (1 + SAME):
            counts[-1].append(point)
        else:
            counts.append([point])
    for group in counts:
        if len({point.width for point in group}) > 1:
            by_width = {point.width: point for point in group}
            found.append((f"equal kept count {group[0].kept:,}", [by_width[width] for width in sorted(by_width)]))
    return [question for question in found if len(question[1]) > 1] or found


def answer(
    network: Network, question: str, points: Sequence[Point], losses: Sequence[Losses], asked: float | None
) -> Question:
    """Return what the points of a question say, and the verdict. asked: the quantile of xi that a person wants."""
    widths = [of_point(point, network.classes, asked) for point in points]
    spare = with_bits(widths)
    flags, tests = [], {}
    for one in losses:
        try:
            tests[one.method] = seed_test(one.losses, generator("tail", 0, "seeds", one.method))
        except ValueError as error:
            flags.append(f"the losses of {one.method} are not compared: {error}")
    verdict = overall({width.point.width: width.shape for width in widths}, spare, tests)
    return Question(network, question, widths, [*losses], tests, verdict, flags)


def of_point(point: Point, classes: int, asked: float | None) -> Width:
    """Return what is known of one width, but for the bits at qualities of all widths."""
    inits = {number: point.inits[number] for number in sorted(point.inits)}
    masks = sum(len(init.qualities) for init in inits.values())
    dead = sum(init.dead for init in inits.values()) / masks if masks else math.nan
    split = {number: init.split for number, init in inits.items()}
    curves = {number: curve for number, curve in split.items() if curve is not None}
    atoms = {number: init.atom for number, init in inits.items()}
    xi, flags = fitted([init.qualities for init in inits.values()], [*atoms.values()], asked)
    shape = of_width(
        [*curves.values()], [atoms[number] for number in curves], classes, None if xi is None else xi.sampled
    )
    ends = [deepest(init) for init in inits.values()]
    repeats = [len(init.repeats) for init in inits.values()]
    known = [atom for atom in atoms.values() if not math.isnan(atom)]
    width = Width(point, masks, dead, interval(known, 0, 1), (min(repeats), max(repeats)), max(ends), xi, shape)
    width.flags += flags
    if curves and len(curves) < len(inits):
        width.flags.append(f"{len(inits) - len(curves)} of {len(inits)} inits have no curve")
    more = sum(len(init.split_runs) - len(init.repeats) for init in inits.values())
    if more:
        width.flags.append(f"{more} repeats of splitting do not count: they have fewer levels, or other settings")
    for number, init in inits.items():
        found = init.together()
        if found is not None and not found.agree:
            width.flags.append(f"of init {number} at P = 1e{found.log10_p:.1f}, {found.words}")
    return width


def deepest(init: Init) -> float:
    """Return the smallest log10 P that an init's curves reach, 0 where it has none."""
    curves: list[Curve] = [curve for curve in (init.split, init.sampled) if curve is not None]
    return min([curve.deepest for curve in curves], default=0.0) / math.log(10)


def fitted(samples: Sequence[np.ndarray], atoms: Sequence[float], asked: float | None) -> tuple[Xi | None, list[str]]:
    """Return xi of sampled masks over a quantile, with what is wrong with it in words.

    The quantile is the one that is asked for, else the highest with 1,000 excesses in every init, else .9. Inits
    without samples do not count.
    """
    pairs = [(sample, atom) for sample, atom in zip(samples, atoms, strict=True) if len(sample)]
    if not pairs:
        return None, []
    n = min(len(sample) for sample, _ in pairs)

    def over(quantile: float) -> int:
        return round((1 - quantile) * n)

    quantile = asked or max((one for one in QUANTILES if over(one) >= ENOUGH), default=QUANTILES[0])
    if over(quantile) < tail.LEAST:
        least = needed(tail.LEAST, quantile)
        return None, [
            f"xi is not fitted: only {over(quantile)} of {n:,} masks of an init lie over quantile "
            f"{quantile:g}, and {tail.LEAST} are the least: {least:,} masks of each init, or a lower quantile"
        ]
    flags = []
    if over(quantile) < ENOUGH:
        flags.append(
            f"only {over(quantile)} masks of an init lie over quantile {quantile:g}, and {ENOUGH:,} "
            f"are wanted: {needed(ENOUGH, quantile):,} masks of each init, or a lower quantile"
        )
    try:
        xis = [tail.fit(sample, quantile).xi for sample, _ in pairs]
        moment = float(np.mean([tail.moment(sample, quantile) for sample, _ in pairs]))
    except ValueError as error:
        return None, [f"xi is not fitted: {error}"]
    shares = [min(0.95, math.ceil(20 * atom) / 20) for _, atom in pairs]
    nulls = [null(n, quantile, share) for share in shares]
    xi, low, high = (float(np.mean([getattr(one, at) for one in nulls])) for at in ("xi", "low", "high"))
    sampled = Sampled(over_inits(xis), null(n, quantile, None), Null(xi, low, high, NULLS))
    each = {one: mean_xi([sample for sample, _ in pairs], one) for one in QUANTILES if over(one) >= tail.LEAST}
    stable = [(one, found) for one, found in each.items() if found is not None]
    return Xi(quantile, over(quantile), sampled, moment, stable), flags


def needed(excesses: int, quantile: float) -> int:
    """Return how many masks leave so many over a quantile."""
    return math.ceil(round(excesses / (1 - quantile), 3))


def mean_xi(samples: Sequence[np.ndarray], quantile: float) -> float | None:
    """Return the mean xi of some samples over a quantile, None where ties let none be fitted."""
    try:
        return float(np.mean([tail.maximum_likelihood(tail.excesses(sample, quantile)[1])[0] for sample in samples]))
    except ValueError:
        return None


def over_inits(xis: Sequence[float]) -> Interval:
    """Return the mean xi over inits with its interval: by resampling inits or, of fewer than five, Student's t."""
    if len(xis) < BOOTSTRAPPED:
        return interval(xis)
    low, high = tail.cluster_bootstrap(xis, generator("tail", 0, "inits"))
    return Interval(float(np.mean(xis)), low, high, len(xis))


@lru_cache(maxsize=1_000)
def null(n: int, quantile: float, atom: float | None) -> Null:
    """Return the null of a Gaussian, or with a share at the atom of a squared Gaussian, always the same draws."""
    rng = generator("tail", 0, "null", n, str(quantile), str(atom))
    if atom is None:
        return tail.gaussian_null(n, quantile, rng, NULLS)
    return tail.squared_gaussian_null(n, quantile, rng, NULLS, atom)


def with_bits(widths: Sequence[Width]) -> list[Spare]:
    """Give each width the bits that common qualities need, and return the spare bits of the inits by width.

    A quality is the highest that every init of these widths still reaches at some P: 1e-3, 1e-6, and as deep as all
    curves by splitting go. A width counts at a depth where all its inits have a curve down to there.
    """
    ends = [width.deepest for width in widths if width.deepest <= math.log10(SHALLOWEST)]
    depths = [math.log10(TOP), math.log10(SHALLOWEST), *([max([math.log10(DEEP), *ends])] if ends else [])]
    found = []
    for depth in sorted({*depths}, reverse=True):
        reached = [width for width in widths if width.deepest <= depth]
        inits = [init for width in reached for init in width.point.inits.values()]
        quality = min((init.quality_at(depth * math.log(10)) for init in inits), default=math.nan)
        if math.isnan(quality):
            continue
        spare: dict[float, list[float]] = {}
        for width in reached:
            logs = [init.log_p_at(quality) for init in width.point.inits.values()]
            if any(math.isnan(log_p) for log_p in logs):
                continue
            bits = [-log_p / math.log(2) for log_p in logs]
            spare[width.point.width] = [width.point.bits - own for own in bits]
            width.bits.append(Bits(quality, depth, interval(bits, 0), interval(spare[width.point.width])))
        found.append(Spare(quality, spare))
    return found
