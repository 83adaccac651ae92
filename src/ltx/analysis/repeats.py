"""What independent repeats of a rare probability say together, and the truth where all masks can be counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ltx.analysis.quality import Examples, Quality, fitting, joined, quality

MOST = 2**22  # masks that are enumerated at most
LEAST = 3  # repeats
AGREED = 0.99  # of repeats that spread only by chance, the share that is said to agree


@dataclass(frozen=True)
class Repeats:
    """What n repeats say together: log10 of the mean of P, which is unbiased, with a 95 % interval.

    spread: the standard deviation of log10 P over repeats. expected: what it would be if all masks were independent.
    agree: whether the spread is no larger than chance allows. words: says so in a sentence.
    """

    log10_p: float
    low: float
    high: float
    n: int
    spread: float
    expected: float
    agree: bool
    words: str


def combine(log10_p: Sequence[float], sd: Sequence[float]) -> Repeats:
    """Return what independent repeats say of one threshold together.

    log10_p: of each repeat, minus infinity where its second population died out. sd: of each, if all its masks were
    independent (`Level.sd`). A product of many shares is nearly log-normal, and its mean over few repeats hangs on the
    largest of them, so the interval is that of the mean of a log-normal law with Student's t (Olsson 2005, "modified
    Cox"). Three repeats are the least, and from five on the interval is a useful one. A repeat that died out counts as
    P = 0 in the mean; then no interval is known, and the repeats do not agree.

    The repeats disagree where their spread is too large for `sd` by a chi-squared test at 1 %: then masks of one
    repeat are too much alike, and more sweeps or more masks are needed. Raises ValueError for fewer than three.
    """
    from scipy.special import chdtri, stdtrit  # scipy.stats would take a second to import

    n = len(log10_p)
    if n < LEAST:
        raise ValueError(f"{n} repeats cannot say how far they are off: at least {LEAST}, and better five or more")
    logs = np.asarray(log10_p, dtype=np.float64) * math.log(10)
    largest = float(logs.max())
    if math.isinf(largest):
        return Repeats(largest, math.nan, math.nan, n, math.nan, math.nan, False, f"all {n} repeats died out")
    total = (largest + math.log(np.exp(logs - largest).mean())) / math.log(10)
    dead = int(np.isinf(logs).sum())
    if dead:
        words = f"{dead} of {n} repeats died out and count as P = 0, so that no interval is known: take more masks"
        return Repeats(total, math.nan, math.nan, n, math.nan, math.nan, False, words)
    variance = float(logs.var(ddof=1))
    centre = float(logs.mean()) + variance / 2
    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n + variance**2 / (2 * (n - 1)))
    expected = float(np.mean(np.square(np.asarray(sd) * math.log(10))))
    agree = (n - 1) * variance <= chdtri(n - 1, 1 - AGREED) * expected
    spread, chance = (math.sqrt(found) / math.log(10) for found in (variance, expected))
    words = f"{n} repeats spread by {spread:.2g} in log10 P, where independent masks would by {chance:.2g}: "
    words += "they agree" if agree else "they disagree, and more sweeps or more masks are needed"
    low, high = ((centre + sign * half) / math.log(10) for sign in (-1, 1))
    return Repeats(total, low, high, n, spread, chance, bool(agree), words)


def all_masks(
    weights: Mapping[str, Tensor], kept: Mapping[str, int], examples: Examples, at_once: int | None = None
) -> Quality:
    """Return the quality of every mask with exactly kept[name] weights kept in each layer.

    Raises ValueError for more than 4 million masks.
    """
    counts = [math.comb(weight.numel(), kept[name]) for name, weight in weights.items()]
    number = math.prod(counts)
    if number > MOST:
        counted = " and ".join(f"{kept[name]} of {weight.numel()} in {name}" for name, weight in weights.items())
        raise ValueError(
            f"there are {number:.3g} masks that keep {counted}, and at most {MOST:,} are enumerated; take a smaller "
            "network, or mask one layer alone"
        )
    choices = {}
    for (name, weight), count in zip(weights.items(), counts, strict=True):
        places = np.array([*itertools.combinations(range(weight.numel()), kept[name])], dtype=np.int64)
        flat = np.zeros((count, weight.numel()), dtype=bool)
        np.put_along_axis(flat, places.reshape(count, kept[name]), True, 1)
        choices[name] = torch.from_numpy(flat).reshape(count, *weight.shape)
    at_once = at_once or fitting(weights, examples)
    parts = []
    for start in range(0, number, at_once):
        which = np.unravel_index(np.arange(start, min(start + at_once, number)), counts)
        masks = {name: found[torch.from_numpy(at)] for (name, found), at in zip(choices.items(), which, strict=True)}
        parts.append(quality(weights, masks, examples, at_once))
    return joined(parts)
