"""Claims: what a paper says, what was measured here, and the verdict that the interval over seeds gives."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from ltx.analysis.intervals import longest_run, mean_interval

MINUS, NO_BREAK = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"
MINUS, NO_BREAK = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"
Verdict = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Stated:
    """A claim as conf/figure fixes it before its seeds are run: what is said, by whom, above what, on how many seeds.

    A `threshold` of None is one that the data gives, such as a standard deviation.
    """

    statement: str
    source: str
    threshold: float | None
    n: int


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, what we measured, and whether it holds here.

    `effect` with its 95 % `interval` over `n` seeds is compared with `threshold`: passed where the whole interval is
    above it, failed where it is below, undecided otherwise. `planned` is the n that was fixed before.
    """

    statement: str
    source: str
    effect: float
    interval: tuple[float, float]
    n: int
    planned: int
    threshold: float
    verdict: Verdict

    @property
    def answer(self) -> str:
        """Whether the statement holds here, in a word or two."""
        return {"passed": "yes", "failed": "NO"}.get(self.verdict, "undecided" if self.n else "no data")

    def words(self) -> str:
        """Write the claim for a reader of the figure: what is said, whether it holds here, and by how much."""
        if not self.n:
            return f"{self.statement}: {self.answer}"
        asked = f", asked: above {number(self.threshold)}" if self.threshold else ""
        numbers = f"{self.numbers()}{asked}".replace("-", MINUS).replace(" [", f"{NO_BREAK}[", 1)
        numbers = re.sub(r"(\[.*), (.*\])", rf"\1,{NO_BREAK}\2", numbers)
        return f"{self.statement}: {self.answer}, {numbers} ({self.seeds().replace(' ', NO_BREAK)})"

    def line(self) -> str:
        """Write the claim for a terminal of 80 columns: the answer, then what is said, by whom, and the numbers."""
        text = f"{self.statement} ({self.source})"
        if self.n:
            text += f": {self.numbers()}, {self.seeds().replace(' = ', '=')}, threshold {self.threshold:.3g}"
        return textwrap.fill(text, 80, initial_indent=f"{self.answer:11}", subsequent_indent=" " * 11)

    def numbers(self) -> str:
        """Write the effect and, where two seeds or more give one, its interval."""
        low, high = self.interval
        whole = abs(self.effect) >= 10
        effect = number(self.effect, whole)
        return effect if math.isnan(low) else f"{effect} [{number(low, whole)}, {number(high, whole)}]"

    def seeds(self) -> str:
        """Write n, and what was planned where it is another."""
        return f"n = {self.n}" if self.n == self.planned else f"n = {self.n} of {self.planned} planned"


def number(value: float, whole: bool = False) -> str:
    """Write a number with its sign, to four places or as a whole."""
    return f"{value:+.0f}" if whole else f"{value:+.4f}"


def stated(fixed: dict[str, Any]) -> dict[str, Stated]:
    """Return the claims of a figure's yaml by their names; the figure's source is that of a claim that names none."""
    return {
        name: Stated(claim["statement"], claim.get("source", fixed["source"]), claim["threshold"], claim["n"])
        for name, claim in fixed["claims"].items()
    }


def decide(stated: Stated, values: Sequence[float], threshold: float | None = None) -> Claim:
    """Decide whether the mean of `values`, one per seed, is above the stated threshold, or the one the data gives."""
    mean, half = (
        mean_interval(values) if len(values) else (math.nan, math.nan)
    )  # with nothing to compare the claim is undecided
    return judged(stated, mean, (mean - half, mean + half), len(values), threshold)


def judged(
    stated: Stated, effect: float, interval: tuple[float, float], n: int, threshold: float | None = None
) -> Claim:
    """Decide whether an effect is above the stated threshold, or the one the data gives, by its 95 % interval."""
    if stated.threshold is not None:
        threshold = stated.threshold
    assert threshold is not None, stated.statement
    low, high = interval
    verdict: Verdict = "passed" if low > threshold else "failed" if high < threshold else "undecided"
    return Claim(
        statement=stated.statement,
        source=stated.source,
        effect=effect,
        interval=interval,
        n=n,
        planned=stated.n,
        threshold=threshold,
        verdict=verdict,
    )


def decide_consecutive(
    stated: Stated,
    table: pd.DataFrame,
    arms: tuple[str, str],
    densities: tuple[float, float],
    least: int = 3,
) -> Claim:
    """Decide whether arms[0] beats arms[1] at `least` consecutive densities within `densities`, paired by seed.

    The effect shown is the smallest of the longest run of densities that are won; the claim fails where fewer are won
    and the mean difference over all of them is shown to be below 0.
    """
    one, other = arms
    low, high = densities
    levels = levels_within(table, low, high)
    claims = [decide(stated, paired(table, one, other, level)) for level in levels]
    start, length = longest_run([claim.verdict == "passed" for claim in claims])
    if length >= least:
        return min(claims[start : start + length], key=lambda claim: claim.effect)
    claim = decide(stated, mean_over(table, one, other, levels))
    return replace(claim, verdict="failed" if claim.verdict == "failed" else "undecided")


def paired(table: pd.DataFrame, one: str, other: str, level: int) -> list[float]:
    """Return the test accuracy of arm `one` - that of arm `other` at a level, seed by seed."""
    at = table[table["level"] == level].pivot(index="seed", columns="arm", values="test_accuracy")
    return (at[one] - at[other]).dropna().tolist()


def mean_over(table: pd.DataFrame, one: str, other: str, levels: Sequence[int]) -> list[float]:
    """Return the test accuracy of arm `one` - that of arm `other`, seed by seed, averaged over levels."""
    columns = [paired(table, one, other, level) for level in levels]
    return [sum(values) / len(values) for values in zip(*columns, strict=True)]


def levels_within(table: pd.DataFrame, low: float, high: float) -> list[int]:
    """List the levels whose density lies in [low, high], the denser first."""
    density = density_of_level(table)
    return [int(level) for level in density.index[(density >= low) & (density <= high)]]


def nearest_level(table: pd.DataFrame, density: float) -> int:
    """Return the level whose density is nearest to a given one."""
    return int((density_of_level(table) - density).abs().idxmin())


def density_of_level(table: pd.DataFrame) -> pd.Series:
    """Return the density of every level, which all arms and seeds share."""
    return table.groupby("level")["density"].first()
