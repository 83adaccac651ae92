"""Splitting over masks: held against all masks of a network that are few enough to be counted, and direct sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ltx.analysis import swaps
from ltx.analysis.quality import Examples, Quality, inverse_temperature, logits, quality, quality_of_block
from ltx.analysis.repeats import all_masks, combine
from ltx.analysis.splitting import RESOLUTION, Level, Tied, advance, begin, cloned, threshold_for, tuned
from ltx.analysis.swaps import Draws, Moved, Population, Swaps, first, in_a_row, move, quality_elsewhere
from ltx.data.digits import MEAN, SD
from ltx.data.digits import examples as digits
from ltx.streams import Streams, generator
from ltx.tensors import Tensors

Arrays = dict[str, Tensor]
KEPT = {"a": 6, "b": 4}  # of 12 and 9: 924 times 126 masks


@cache
def tiny() -> tuple[Arrays, Examples]:
    """A network of 4 numbers, 3 units and 3 classes, and examples that it can learn something of."""
    rng = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(3, 4, generator=rng), "b": torch.randn(3, 3, generator=rng)}
    x = torch.randn(60, 4, generator=rng)
    y = (x @ torch.randn(4, 3, generator=rng) + 0.7 * torch.randn(60, 3, generator=rng)).argmax(1)
    return weights, Examples(x, y, 20)


@cache
def truth() -> np.ndarray:
    """The qualities of all 116,424 masks."""
    weights, examples = tiny()
    return all_masks(weights, KEPT, examples, 8192).quality


@cache
def small(*hidden: int) -> tuple[Arrays, Examples, dict[str, int]]:
    """A network on 300 digits, and the counts of half of its weights."""
    x, y = digits()
    examples = Examples.halves(torch.tensor((x[:300] - MEAN) / SD).float(), torch.tensor(y[:300]))
    rng, units = torch.Generator().manual_seed(3), (64, *hidden, 10)
    weights = {
        f"layer{i}": torch.randn(after, before, generator=rng) * math.sqrt(2 / before)
        for i, (before, after) in enumerate(pairwise(units))
    }
    return weights, examples, {name: weight.numel() // 2 for name, weight in weights.items()}


def drawing(*name: Any) -> Draws:
    return lambda *purpose: generator("mask", 0, *name, *purpose)


def levels_of(
    repeat: int,
    weights: Arrays,
    kept: Mapping[str, int],
    examples: Examples,
    levels: int,
    masks: int,
    sweeps: int,
    keep: float = 0.5,
) -> list[Level]:
    """The levels of one repeat."""
    state = begin(weights, kept, examples, masks, drawing(repeat, "pilot"), drawing(repeat, "second"))
    found = []
    for level in range(levels):
        one, other = drawing(repeat, "pilot", level), drawing(repeat, "second", level)
        state, row = advance(state, weights, examples, keep, sweeps, level, one, other)
        found.append(row)
    return found


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}


def whole(population: Population, weights: Arrays) -> Tensors:
    return population.unpacked(shapes_of(weights), 0, len(population))


def fresh(population: Population, weights: Arrays, examples: Examples) -> Quality:
    return quality(weights, whole(population, weights), examples)


@pytest.mark.parametrize(
    ("values", "value", "reached"),
    [
        (range(10), 5, 5),
        ([0] * 6 + [1, 2, 3, 4], 1, 4),  # an atom at the bottom that the wanted share falls into
        ([0] * 9 + [1], 1, 1),
        ([0, 0, 0] + [1] * 7, 1, 7),  # the best are tied by more than the share
        ([0, 1, 2] + [3] * 4 + [5, 6, 7], 5, 3),
        ([0, 1, 2, 3, 5 - 1e-8, 5, 6, 7, 8, 9], 6, 4),  # rounding parts no ties
    ],
)
def test_a_threshold_is_the_lowest_value_that_the_wanted_share_reaches_and_parts_no_ties(
    values: Any, value: float, reached: int
) -> None:
    shuffled = generator("mask", 0, "shuffled").permutation(np.array(values, dtype=np.float64))
    threshold = threshold_for(shuffled, 0.5)
    assert threshold == pytest.approx(value - RESOLUTION / 2, abs=1e-12)
    assert (shuffled >= threshold).sum() == reached


def test_a_pilot_whose_masks_are_all_tied_is_refused_in_words() -> None:
    with pytest.raises(Tied, match=r"all 8 masks of the pilot have the quality -2\.302.*widen the network"):
        threshold_for(np.full(8, -math.log(10)) + 1e-9 * np.arange(8), 0.5)
    weights, examples = tiny()
    with pytest.raises(Tied):
        levels_of(0, {name: torch.zeros_like(w) for name, w in weights.items()}, KEPT, examples, 1, 32, 1)


@pytest.mark.parametrize(("survivors", "size"), [(5, 16), (16, 16), (1, 7), (7, 7)])
def test_survivors_are_copied_as_equally_often_as_can_be(survivors: int, size: int) -> None:
    places = np.arange(survivors) * 3
    found = cloned(places, size, generator("mask", 0, "clones"))
    times = np.unique(found, return_counts=True)
    assert len(found) == size and times[0].tolist() == places.tolist() and np.ptp(times[1]) <= 1


def test_who_is_copied_once_more_is_drawn() -> None:
    more = np.zeros(3)
    rng = generator("mask", 0, "more")
    for _ in range(600):
        more += np.bincount(cloned(np.arange(3), 4, rng), minlength=3) - 1
    assert more.sum() == 600 and (abs(more - 200) < 50).all()
    assert len(cloned(np.arange(0), 4, rng)) == 0


@pytest.mark.parametrize("count", [1, 3, 5])
def test_places_in_a_row_are_distinct_and_begin_anywhere(count: int) -> None:
    at = generator("mask", 0, "places").random(2000)
    found = in_a_row(np.zeros((2000, 5)), at, count)
    assert found.shape == (2000, count) and all(len({*row}) == count for row in found.tolist())
    assert (abs(np.bincount(found[:, 0], minlength=5) - 400) < 80).all()


@pytest.mark.parametrize("hidden", [(16,), (7, 9), ()])
@pytest.mark.parametrize("share", [0.01, 0.4])
def test_what_moves_bit_by_bit_has_the_quality_of_the_plain_network(hidden: tuple[int, ...], share: float) -> None:
    """With few weights exchanged at once, whose effects are added, and with many, where all is multiplied."""
    weights, examples, kept = small(*hidden)
    population = first(weights, kept, examples, 50, drawing("moves"))
    threshold = float(np.median(population.quality))
    copies = population.at(cloned(np.flatnonzero(population.quality >= threshold), 50, drawing()("c")))
    counts = {name: math.ceil(share * k) for name, k in kept.items()}
    moved = move(weights, copies, threshold, examples, Swaps(counts, 12), drawing("moved"), 16)
    found = fresh(moved.population, weights, examples)
    assert moved.population.quality == pytest.approx(found.quality, abs=RESOLUTION / 4)
    assert moved.population.inverse_temperature == pytest.approx(found.inverse_temperature, rel=1e-4)
    assert (found.quality >= threshold - RESOLUTION / 2).all()
    before, after = whole(copies, weights), whole(moved.population, weights)
    assert all((m.flatten(1).sum(1) == kept[name]).all() for name, m in after.items())
    assert all(0 < accepted < 1 for accepted in moved.accepted.values()) and moved.accepted.keys() == weights.keys()
    assert all((before[name] != after[name]).any() for name in weights)
    assert moved.best >= moved.population.quality.max()
    alone = quality(weights, {name: mask[None] for name, mask in moved.mask.items()}, examples)
    assert float(alone.quality[0]) == pytest.approx(moved.best, abs=RESOLUTION / 4)


def test_the_size_of_a_chunk_changes_nothing() -> None:
    weights, examples, kept = small(16)
    population = first(weights, kept, examples, 40, drawing("chunks"))
    swaps = Swaps(dict.fromkeys(weights, 5), 4, 1)
    ends = [move(weights, population, -2.31, examples, swaps, drawing("chunks"), at_once) for at_once in (40, 7, None)]
    for end in ends[1:]:
        assert all(np.array_equal(end.population.masks[n], ends[0].population.masks[n]) for n in weights)
        assert (end.accepted, end.mixing) == (ends[0].accepted, pytest.approx(ends[0].mixing))
        assert end.population.quality == pytest.approx(ends[0].population.quality, abs=RESOLUTION / 4)
    assert swaps.layers() == ["layer1", "layer0", "layer1", "layer0"]


def test_a_layer_that_is_kept_whole_or_not_at_all_never_moves() -> None:
    weights, examples, kept = small(16)
    state = begin(weights, kept | {"layer1": 160}, examples, 32, drawing("pilot"), drawing("second"))
    assert state.swapped == {"layer0": 256, "layer1": 0}
    end, level = advance(state, weights, examples, 0.5, 3, 0, drawing("pilot", 0), drawing("second", 0))
    masks = whole(end.second, weights)
    assert masks["layer1"].all() and level.swapped == 256 and not math.isnan(level.mixing)
    with pytest.raises(ValueError, match="there is a single mask"):
        begin(weights, {"layer0": 1024, "layer1": 0}, examples, 8, drawing(), drawing())


def codes(population: Population, weights: Arrays) -> np.ndarray:
    """A number for each mask."""
    flat = np.concatenate([m.flatten(1).numpy() for m in whole(population, weights).values()], axis=1)
    return flat @ (1 << np.arange(flat.shape[1], dtype=np.int64))


@pytest.mark.parametrize("count", [1, 2])
def test_sweeps_leave_the_uniform_law_over_what_reaches_a_threshold(count: int) -> None:
    """From all masks that reach it, each as often as any other; and from a single one, all of them in the end."""
    from scipy.stats import chisquare

    weights, examples = tiny()
    weights = {"b": weights["b"]}
    examples = Examples(examples.x[:, :3], examples.y, 20)
    every = all_masks(weights, {"b": 4}, examples)
    assert len(every.quality) == 126
    masks = first(weights, {"b": 4}, examples, 4000, drawing("every"))
    threshold = float(np.quantile(every.quality, 0.75)) - RESOLUTION / 2
    reach = int((every.quality >= threshold).sum())
    places = np.unique(codes(masks, weights), return_index=True)[1]
    assert len(places) == 126
    population = masks.at(places[masks.quality[places] >= threshold])
    assert len(population) == reach
    for start in (population, population.at(np.zeros(1, dtype=int))):
        copies = start.at(cloned(np.arange(len(start)), 20 * reach, generator("mask", 0, "copies")))
        sweeps = 3 if len(start) > 1 else 150
        moved = move(weights, copies, threshold, examples, Swaps({"b": count}, sweeps), drawing("law", sweeps))
        seen = np.unique(codes(moved.population, weights), return_counts=True)[1]
        assert len(seen) == reach and chisquare(seen).pvalue > 0.001


@pytest.mark.slow
def test_the_count_of_the_second_population_is_unbiased_and_its_interval_holds_the_truth() -> None:
    """Against all masks: 50 repeats, in ten groups of five for the intervals. The pilot by itself says too much."""
    weights, examples = tiny()
    logs, pilots, sds = [], [], []
    for repeat in range(50):
        last = levels_of(repeat, weights, KEPT, examples, 5, 32, 5)[-1]
        true = math.log10((truth() >= last.threshold).mean())
        logs.append(last.log10_p - true)
        pilots.append(last.pilot_log10_p - true)
        sds.append(last.sd)
    ratio, pilot = 10 ** np.array(logs), 10 ** np.array(pilots)
    assert abs(ratio.mean() - 1) < 2.5 * ratio.std(ddof=1) / math.sqrt(50)
    assert pilot.mean() > 1.1
    groups = [combine(logs[i::10], sds[i::10]) for i in range(10)]
    assert sum(group.low <= 0 <= group.high for group in groups) >= 9
    assert np.std(logs, ddof=1) == pytest.approx(np.mean(sds), rel=0.35), "what independent masks would spread by"
    assert combine(logs, sds).low <= 0 <= combine(logs, sds).high


def test_splitting_says_what_direct_sampling_says_down_to_a_thousandth() -> None:
    weights, examples, kept = small(6)
    streams = Streams.of(0, dict.fromkeys(("init", "order", "augment", "mask", "noise")))
    sampled = np.concatenate([quality_of_block(weights, kept, streams, block, examples).quality for block in range(2)])
    off = []
    for repeat in range(4):
        levels = levels_of(repeat, weights, kept, examples, 7, 48, 6)
        off += [(level.log10_p, math.log10((sampled >= level.threshold).mean())) for level in (levels[3], levels[-1])]
    found = np.array(off).reshape(4, 2, 2)
    assert found[:, 1, 1].max() < -2.4
    for place in (0, 1):
        splitting, direct = found[:, place].T
        assert abs((splitting - direct).mean()) < 0.3 / 2 and (abs(splitting - direct) < 0.7).all()


def test_a_population_that_dies_out_counts_as_nothing_from_there_on() -> None:
    weights, examples = tiny()
    state = begin(weights, KEPT, examples, 16, drawing("pilot"), drawing("second"))
    low = replace(state.second, quality=np.full(16, -9.0))
    state = replace(state, second=low)
    for level in range(2):
        state, found = advance(state, weights, examples, 0.5, 2, level, drawing("p", level), drawing("s", level))
        assert found.log10_p == -math.inf and found.sd == math.inf and found.roots == 0
        assert math.isnan(found.acceptance) and math.isnan(found.mixing)
        assert math.isfinite(found.pilot_log10_p) and len(state.pilot) == 16 and len(state.second) == 0
    assert len(quality_elsewhere(weights, state.second, examples.x, examples.y)) == 0


def test_roots_are_those_of_the_first_population() -> None:
    weights, examples = tiny()
    levels = levels_of(1, weights, KEPT, examples, 8, 32, 2)
    roots = [level.roots for level in levels]
    assert roots == sorted(roots, reverse=True) and 1 <= roots[-1] < roots[0] <= 32


@pytest.mark.parametrize(
    ("accepted", "count"),
    [(0.25, 20), (2 * 0.3085375, round(20 * (1.1503494 / 0.5) ** 2)), (0.0, 5), (1.0, 80), (2 * 0.0227501, 7)],
)
def test_the_number_exchanged_at_once_is_tuned_so_that_a_quarter_is_accepted(accepted: float, count: int) -> None:
    """If the acceptance is 2 Phi(-c sqrt(count)), as with c sqrt(count) of 1.15 for a quarter, 0.5 and 2."""
    weights = {"a": torch.zeros(40, 25)}
    packed = swaps.pack(np.arange(1000)[None] < 500)
    moved = Moved(Population({"a": packed}, *[np.zeros(1)] * 3), {"a": accepted}, 0.5, 0.0, {})
    assert tuned({"a": 20}, moved, weights) == {"a": min(count, 80)}
    assert tuned({"a": 240}, replace(moved, accepted={"a": 1.0}), weights) == {"a": 250}, "as independent masks do"
    assert tuned({"a": 1}, replace(moved, accepted={"a": 0.0}), weights) == {"a": 1}


def test_a_temperature_that_is_looked_for_from_nearby_is_the_same() -> None:
    weights, examples, kept = small(16)
    population = first(weights, kept, examples, 60, drawing("warm"))
    z, y = logits(weights, whole(population, weights), examples.x), examples.y
    cold = inverse_temperature(z, y)
    assert 10 < int((cold > 0).sum()) < 60
    for factor in (0.0, 0.3, 0.9, 1.0, 1.1, 4.0, 30.0):
        assert torch.allclose(inverse_temperature(z, y, cold * factor), cold, rtol=3e-6)
    assert torch.allclose(inverse_temperature(z, y, torch.full_like(cold, 0.1)), cold, rtol=3e-6)


def test_the_quality_on_other_examples_is_that_of_the_temperature_at_hand() -> None:
    weights, examples, kept = small(6)
    population = first(weights, kept, examples, 20, drawing("tested"))
    found = quality_elsewhere(weights, population, examples.x[150:], examples.y[150:])
    assert found == pytest.approx(population.quality, abs=1e-6), "on the examples that are scored it is the quality"
    other = quality_elsewhere(weights, population, examples.x[:150], examples.y[:150])
    told = population.inverse_temperature > 0
    assert (other[told] > -math.log(10)).all() and not np.allclose(other, found)


def test_all_masks_are_there_once_and_too_many_are_refused() -> None:
    weights, examples = tiny()
    assert len(truth()) == math.comb(12, 6) * math.comb(9, 4)
    masks = first(weights, KEPT, examples, 3000, drawing("some"))
    exact = np.sort(truth())
    near = np.searchsorted(exact, masks.quality)
    gaps = np.minimum(
        abs(exact[np.minimum(near, len(exact) - 1)] - masks.quality), abs(exact[near - 1] - masks.quality)
    )
    assert gaps.max() < 1e-6, "every mask that is drawn is among them"
    for quantile in (0.5, 0.9, 0.99):
        share = (masks.quality >= np.quantile(exact, quantile)).mean()
        assert share == pytest.approx((exact >= np.quantile(exact, quantile)).mean(), abs=0.03)
    with pytest.raises(ValueError, match=r"masks that keep 6 of 12 in a and 80 of 160 in b, and at most 4,194,304"):
        all_masks({"a": weights["a"], "b": torch.zeros(10, 16)}, {"a": 6, "b": 80}, examples)


def normal(n: int, sd: float, seed: int) -> list[float]:
    """Logarithms to base 10 of n log-normal estimates whose mean is 1e-12."""
    nats = sd * math.log(10)
    logs = generator("mask", seed, "log-normal").normal(-12 * math.log(10) - nats**2 / 2, nats, n)
    return (logs / math.log(10)).tolist()


@pytest.mark.parametrize(("n", "sd"), [(5, 0.1), (5, 0.25), (8, 0.25), (20, 0.4)])
def test_the_interval_of_repeats_holds_the_mean_of_a_log_normal_law(n: int, sd: float) -> None:
    found = [combine(normal(n, sd, seed), [sd] * n) for seed in range(400)]
    held = np.mean([repeats.low <= -12 <= repeats.high for repeats in found])
    assert 0.92 <= held <= 0.99
    assert np.mean([repeats.agree for repeats in found]) == pytest.approx(0.99, abs=0.012)
    assert np.log10(np.mean([10 ** (repeats.log10_p + 12) for repeats in found])) == pytest.approx(0, abs=0.05)


def test_repeats_that_spread_more_than_chance_are_told_in_words() -> None:
    agreeing, other = combine(normal(6, 0.2, 1), [0.2] * 6), combine(normal(6, 0.2, 1), [0.05] * 6)
    assert agreeing.agree and "6 repeats spread by" in agreeing.words and "they agree" in agreeing.words
    assert not other.agree and "they disagree, and more sweeps or more masks are needed" in other.words
    assert agreeing.spread == pytest.approx(np.std(normal(6, 0.2, 1), ddof=1)) and agreeing.expected == 0.2


def test_repeats_that_died_out_count_as_nothing_and_too_few_are_refused() -> None:
    some = combine([-2.0, -2.0, -math.inf, -2.0], [0.1] * 4)
    assert some.log10_p == pytest.approx(math.log10(0.75e-2)) and not some.agree
    assert math.isnan(some.low) and "1 of 4 repeats died out" in some.words
    none = combine([-math.inf] * 3, [math.inf] * 3)
    assert none.log10_p == -math.inf and none.words == "all 3 repeats died out"
    with pytest.raises(ValueError, match="2 repeats cannot say how far they are off: at least 3"):
        combine([-2.0, -2.1], [0.1, 0.1])
