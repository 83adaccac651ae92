"""How rare masks of a quality are: multilevel splitting over masks, far below what can be sampled directly.

P(quality >= q) is a product of shares: of all masks that reach a first threshold, of those that reach the next one, and
so on. Two populations of masks go through the same thresholds. The pilot chooses each threshold, and the strengths of
the moves, by its own qualities; its product of shares is too large by chance that it chose by itself (by 14-35 % in
small examples). The second population only counts how many of it reach the pilot's thresholds, which makes its product
an unbiased estimate of P (Cerou & Guyader 2007; Au & Beck 2001; Kahn & Harris 1951).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ltx.analysis.quality import Examples
from ltx.analysis.swaps import Draws, Moved, Population, Swaps, first, move
from ltx.tensors import Tensors

RESOLUTION = 1e-6  # qualities that are nearer are tied: sums of float32 numbers differ that little with their order
ACCEPTED = 0.25  # the share of swaps that should be taken


@dataclass(frozen=True)
class Splitting:
    """Both populations after a level, and what the next one needs beside them.

    log10_p, pilot_log10_p: of the thresholds so far together; minus infinity once the second population has died out.
    variance: of log P, if all masks were independent (see `Level`). swapped: weights that are exchanged at once by
    layer, zero for a layer of which all or nothing is kept.
    """

    pilot: Population
    second: Population
    log10_p: float
    pilot_log10_p: float
    variance: float
    swapped: dict[str, int]


@dataclass(frozen=True)
class Level:
    """What a level found out: `log10_p` estimates log10 P(quality >= threshold) for a random mask.

    sd: the standard deviation of log10_p if all masks were independent, which is the least it can be. acceptance,
    mixing: of the second population, see `swaps.Moved`; nan where it died out. roots: how many masks of its first
    population have descendants. best, mask: the best mask that either population had on this level.
    """

    threshold: float
    log10_p: float
    pilot_log10_p: float
    sd: float
    acceptance: float
    swapped: int
    mixing: float
    roots: int
    best: float
    mask: Tensors


def begin(
    weights: Mapping[str, Tensor],
    kept: Mapping[str, int],
    examples: Examples,
    size: int,
    pilot: Draws,
    second: Draws,
) -> Splitting:
    """Return two first populations of random masks with exactly kept[name] weights kept in each layer.

    Raises ValueError where there is only one such mask.
    """
    apart = {name: kept[name] * (1 - kept[name] / weight.numel()) for name, weight in weights.items()}
    if not any(apart.values()):
        raise ValueError("every layer keeps all of its weights or none, so that there is a single mask and no tail")
    ahead, counted = (first(weights, kept, examples, size, draws) for draws in (pilot, second))
    return Splitting(ahead, counted, 0.0, 0.0, 0.0, {name: math.ceil(count) for name, count in apart.items()})


def advance(
    state: Splitting,
    weights: Mapping[str, Tensor],
    examples: Examples,
    keep: float,
    sweeps: int,
    level: int,
    pilot: Draws,
    second: Draws,
) -> tuple[Splitting, Level]:
    """Take both populations over the next threshold, and return them with what was found out.

    keep: the share of the pilot that is to reach the threshold. sweeps: swaps that are proposed to each mask
    afterwards. pilot, second: generators for each purpose on this level. Raises `Tied` where no threshold splits.
    """
    threshold = threshold_for(state.pilot.quality, keep)
    size, best, mask = len(state.pilot), -math.inf, {}
    # A file has the layers sorted by name: their turns are those of the network's order.
    swaps = Swaps({name: state.swapped[name] for name in weights}, sweeps, level * sweeps)
    shares, moved = [], []
    for population, draws in ((state.pilot, pilot), (state.second, second)):
        survivors = np.flatnonzero(population.quality >= threshold)
        shares.append(len(survivors) / len(population) if len(population) else 0.0)
        copies = population.at(cloned(survivors, size, draws("clones")))
        found = move(weights, copies, threshold, examples, swaps, draws)
        moved.append(found)
        place = int(copies.quality.argmax()) if len(copies) else 0
        if len(copies) and copies.quality[place] > best:
            best, mask = float(copies.quality[place]), one(copies, weights, place)
        if found.best > best:
            best, mask = found.best, found.mask
    ahead, counted = moved
    share = shares[1]
    end = Splitting(
        pilot=ahead.population,
        second=counted.population,
        log10_p=state.log10_p + (math.log10(share) if share else -math.inf),
        pilot_log10_p=state.pilot_log10_p + math.log10(shares[0]),
        variance=state.variance + ((1 - share) / (share * size) if share else math.inf),
        swapped=tuned(state.swapped, ahead, weights),
    )
    return end, Level(
        threshold=threshold,
        log10_p=end.log10_p,
        pilot_log10_p=end.pilot_log10_p,
        sd=math.sqrt(end.variance) / math.log(10),
        acceptance=float(np.mean(list(counted.accepted.values()))),
        swapped=sum(state.swapped.values()),
        mixing=counted.mixing,
        roots=len(np.unique(counted.population.roots)),
        best=best,
        mask=mask,
    )


def one(population: Population, weights: Mapping[str, Tensor], place: int) -> Tensors:
    """Return the mask at a place by layer."""
    shapes = {name: weight.shape for name, weight in weights.items()}
    return {name: masks[0] for name, masks in population.unpacked(shapes, place, place + 1).items()}


class Tied(ValueError):
    """All masks of the pilot have the same quality, so that no threshold splits them."""


def threshold_for(values: np.ndarray, keep: float) -> float:
    """Return the threshold that splits a population: at most the share `keep` of the values reach it, or the best do.

    Ties stay together, on one side of it. Where the values at the wanted share are tied, the threshold lies above
    them, at the next higher value; where the best value of all is tied by more than the share, all of these reach it.
    The threshold lies half a RESOLUTION below the value, so that rounding parts no ties. Raises Tied where all are.
    """
    ordered = np.sort(values)
    wanted = max(1, math.floor(keep * len(ordered)))
    value, below = ordered[-wanted], ordered[-wanted - 1]
    if value - below <= RESOLUTION:
        higher = ordered[ordered > value + RESOLUTION]
        value = higher[0] if len(higher) else ordered[-1]
    if value - ordered[0] <= RESOLUTION:
        raise Tied(
            f"all {len(ordered)} masks of the pilot have the quality {value:.6g}, so that no threshold parts better "
            "from worse ones. Where this is minus the logarithm of the number of classes, none of them tells the "
            "classes apart: keep more weights, widen the network, or take more masks. Elsewhere they are copies of one "
            "mask: more sweeps move them apart"
        )
    return float(value - RESOLUTION / 2)


def cloned(survivors: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return `size` places, each survivor's as often as any other's or once more, which are drawn; none of none."""
    if not len(survivors):
        return survivors
    times, more = divmod(size, len(survivors))
    extra = rng.permutation(len(survivors))[:more]
    return np.sort(np.concatenate([np.repeat(survivors, times), survivors[extra]]))


def tuned(swapped: Mapping[str, int], pilot: Moved, weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how many weights to exchange at once on the next level, so that a quarter of the swaps are taken.

    The acceptance of random walks in many dimensions is 2 Phi(-c sqrt(count)) (Roberts, Gelman & Gilks 1997), which
    gives c and with it the count that is wanted, at most four times as many or as few as before. More than two
    independent masks differ by are never exchanged.
    """
    from scipy.special import ndtri

    counts = dict(swapped)
    for name, share in pilot.accepted.items():
        n, k = weights[name].numel(), int(np.unpackbits(pilot.population.masks[name][0]).sum())
        most = math.ceil(k * (1 - k / n))
        reach = ndtri(ACCEPTED / 2) / min(ndtri(max(share, 1e-9) / 2), -1e-9)
        counts[name] = min(most, max(1, round(swapped[name] * min(4.0, max(0.25, reach**2)))))
    return counts
