"""Overlaps of masks and their nulls, against enumeration, drawn truth and planted masks."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ltx.analysis import nulls
from ltx.analysis.nulls import binned, degree_matched, drawn, hypergeometric, layer_matched, normal, size_matched, trade
from ltx.analysis.overlap import Law, Overlap, against, by_layer, overlap, together
from ltx.masks import count, keep_top, shuffle
from ltx.streams import generator
from ltx.tensors import Tensors

SHAPES = {"a": (30, 20), "b": (10, 8, 3, 3)}


def rng(*purpose: str | int) -> np.random.Generator:
    return generator("noise", 0, "test overlap", *purpose)


def bools(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def sizes(draw: np.random.Generator) -> Tensors:
    return {name: torch.from_numpy(np.abs(draw.normal(size=shape))) for name, shape in SHAPES.items()}


def by_size(values: Tensors, noise: float, density: float, draw: np.random.Generator) -> Tensors:
    """Return a mask of the largest sizes, seen through noise of its own."""
    seen = {name: value + noise * torch.from_numpy(draw.normal(size=value.shape)) for name, value in values.items()}
    return {name: keep_top(score, round(density * score.numel())) for name, score in seen.items()}


def by_degree(draw: np.random.Generator) -> Tensors:
    """Return a mask whose units differ much in how many weights they keep."""
    found = {}
    for name, shape in SHAPES.items():
        rows = draw.random((shape[0], *(1 for _ in shape[1:])))
        found[name] = torch.from_numpy(draw.random(shape) < rows**2)
    return found


def test_counts_are_of_both_of_either_and_of_all() -> None:
    one, other = {"a": bools([1, 1, 0], [0, 0, 1])}, {"a": bools([0, 1, 1], [0, 0, 1])}
    assert overlap(one, other) == Overlap(shared=2, one=3, other=3, total=6)
    assert overlap(one, other).iou == 2 / 4
    assert math.isnan(Overlap(0, 0, 0, 6).iou)


def test_layers_of_one_mask_alone_do_not_count() -> None:
    one, other = {"a": bools([1, 1]), "b": bools([1, 0])}, {"b": bools([1, 1]), "c": bools([1, 1])}
    assert by_layer(one, other) == {"b": Overlap(1, 1, 2, 2)}
    assert overlap(one, other) == Overlap(1, 1, 2, 2)


def test_masks_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="no layer is common"):
        overlap({"a": bools([1])}, {"b": bools([1])})
    with pytest.raises(ValueError, match=r"\(1, 1\).*\(1, 2\)"):
        overlap({"a": bools([1])}, {"a": bools([1, 0])})
    with pytest.raises(ValueError, match="float32"):
        overlap({"a": bools([1])}, {"a": torch.ones(1, 1)})


@pytest.mark.parametrize(("one", "other"), [(3, 4), (0, 3), (7, 7), (6, 5)])
def test_the_law_of_a_layer_is_that_of_all_its_masks(one: int, other: int) -> None:
    counts = [len(set(range(one)) & set(chosen)) for chosen in itertools.combinations(range(7), other)]
    law = hypergeometric(7, one, other)
    assert (law.mean, law.variance) == pytest.approx((np.mean(counts), np.var(counts)))
    for least in range(8):
        assert law.at_least(least) == pytest.approx(np.mean(np.array(counts) >= least))


def test_the_law_of_several_layers_is_that_of_all_pairs_of_their_masks() -> None:
    layers = [(5, 2, 3), (4, 2, 2)]
    counts = [
        sum(len(set(range(one)) & set(mask)) for (_, one, _), mask in zip(layers, masks, strict=True))
        for masks in itertools.product(*(itertools.combinations(range(n), other) for n, _, other in layers))
    ]
    law = together(hypergeometric(*layer) for layer in layers)
    assert (law.mean, law.variance) == pytest.approx((np.mean(counts), np.var(counts)))
    assert [law.at_least(k) for k in range(6)] == pytest.approx([np.mean(np.array(counts) >= k) for k in range(6)])
    ious = [count / (4 + 5 - count) for count in counts]
    null = against(Overlap(shared=4, one=4, other=5, total=9), law)
    assert (null.mean, null.sd) == pytest.approx((np.mean(ious), np.std(ious)))
    assert null.z == pytest.approx((4 - np.mean(counts)) / np.std(counts))
    assert null.corrected == 1


def test_small_chances_keep_their_digits() -> None:
    law = hypergeometric(100_000, 10_000, 10_000)
    assert law.variance**0.5 == pytest.approx(28.46, abs=0.01)
    exact = stats.hypergeom(100_000, 10_000, 10_000)
    for shared in (1_200, 1_500):
        assert math.log(law.at_least(shared)) == pytest.approx(exact.logsf(shared - 1), rel=1e-6)
    assert law.at_least(5_000) == 0 and law.at_least(0) == pytest.approx(1)


def test_the_law_of_drawn_counts_is_normal_far_into_its_tail() -> None:
    counts = np.array([90, 110] * 50)
    law, sd = normal(counts, most=1000), counts.std(ddof=1)
    for shared in (100, 150, 300):
        expected = stats.norm(100, sd).logsf(shared - 0.5)
        assert math.log(law.at_least(shared)) == pytest.approx(expected, rel=1e-6)


def test_a_null_that_leaves_no_room_says_nan() -> None:
    mask = {"a": bools([1, 1], [1, 1])}
    null = against(overlap(mask, mask), layer_matched(mask, mask)["a"])
    assert (null.mean, null.sd, null.p) == (1, 0, 1)
    assert math.isnan(null.z) and math.isnan(null.corrected)


def chance(found: Overlap, law: Law, draw: np.random.Generator) -> float:
    """Return p with ties broken at random, which of a count is uniform where its law is true."""
    more = law.at_least(found.shared + 1)
    return more + draw.random() * (law.at_least(found.shared) - more)


@pytest.mark.parametrize("kind", ["layer", "size", "degree"])
def test_p_is_uniform_where_the_null_is_true(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nulls, "ROUNDS", 8)
    found = []
    for i in range(200):
        draw = rng("p", kind, i)
        values = sizes(draw)
        one, other = by_size(values, 0.5, 0.3, draw), by_size(values, 0.5, 0.2, draw)
        if kind == "layer":
            one = shuffle(one, lambda name: draw)  # noqa: B023
            laws = layer_matched(one, other)
        elif kind == "size":
            one = drawn(one, values, draw)
            laws = size_matched(one, other, values)
        else:
            one, other = {"a": by_degree(draw)["a"]}, by_degree(draw)
            laws = degree_matched(one, other, draw, draws=30)
        found.append(chance(overlap({name: one[name] for name in laws}, other), together(laws.values()), draw))
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_planted_pairs_are_far_from_every_null() -> None:
    draw = rng("planted")
    values = sizes(draw)
    one = by_size(values, 0.5, 0.3, draw)
    other = {name: m & torch.from_numpy(draw.random(m.shape) < 0.5) for name, m in one.items()}
    laws = (layer_matched(one, other), size_matched(one, other, values), degree_matched(one, other, draw, draws=60))
    for law in laws:
        null = against(overlap(one, other), together(law.values()))
        assert null.p < 1e-12 and null.z > 7 and null.corrected == 1


def test_masks_that_hang_on_the_sizes_alone_are_explained_by_them() -> None:
    draw = rng("explained")
    values = {"w": torch.from_numpy(np.abs(draw.normal(size=(200, 200))))}
    for noise in (0.1, 1):
        z = []
        for _ in range(6):
            one, other = by_size(values, noise, 0.107, draw), by_size(values, noise, 0.15, draw)
            found = overlap(one, other)
            null = against(found, size_matched(one, other, values)["w"])
            assert null.mean == pytest.approx(found.iou, rel=0.05)
            assert against(found, layer_matched(one, other)["w"]).z > 10
            z.append(null.z)
        assert abs(np.mean(z)) < 1
    exact, wider = by_size(values, 0, 0.107, draw), by_size(values, 0, 0.15, draw)
    assert against(overlap(exact, wider), size_matched(exact, wider, values)["w"]).mean == overlap(exact, wider).iou
    assert against(overlap(exact, exact), size_matched(exact, exact, values)["w"]).mean > 0.97


def test_layers_of_one_size_have_the_null_of_their_counts() -> None:
    draw = rng("constant")
    one, other = by_degree(draw), by_degree(draw)
    constant = {name: torch.full(shape, 0.1) for name, shape in SHAPES.items()}
    for name, law in size_matched(one, other, constant).items():
        plain = layer_matched(one, other)[name]
        assert (law.mean, law.variance, law.lowest) == (plain.mean, plain.variance, plain.lowest)


def test_bins_are_equal_parts_of_the_ranks_with_twenty_weights_at_least() -> None:
    values = torch.from_numpy(rng("bins").permutation(1000).astype(float))
    assert Counter(binned(values, 10).tolist()) == dict.fromkeys(range(10), 100)
    assert (binned(values, 10) == values.numpy() // 100).all()
    assert len(set(binned(values, 1000).tolist())) == 50
    assert binned(torch.tensor([2.0, 1.0]), 10).tolist() == [0, 0]


def test_a_drawn_mask_keeps_the_counts_of_every_bin_and_nothing_else() -> None:
    draw = rng("drawn")
    values = sizes(draw)
    mask = by_size(values, 0.5, 0.3, draw)
    fresh = [drawn(mask, values, draw, bins=5) for _ in range(300)]
    for name, kept in mask.items():
        places = binned(values[name], 5).reshape(kept.shape)
        shares = np.mean([one[name].numpy() for one in fresh], axis=0)
        for place in range(5):
            held = kept.numpy()[places == place]
            assert all(one[name].numpy()[places == place].sum() == held.sum() for one in fresh)
            p = held.mean()
            assert abs(shares[places == place] - p).max() < 5 * math.sqrt(p * (1 - p) / 300) + 1e-12
    assert count(fresh[0]) == count(mask)


def test_trades_reach_every_matrix_with_these_sums_equally_often() -> None:
    start = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=bool)
    rows, columns = start.sum(1).tolist(), start.sum(0).tolist()
    truth = set()
    for bits in itertools.product((False, True), repeat=start.size):
        matrix = np.array(bits).reshape(start.shape)
        if matrix.sum(1).tolist() == rows and matrix.sum(0).tolist() == columns:
            truth.add(matrix.tobytes())
    assert len(truth) > 20
    draw, state, seen = rng("trades"), start.copy(), Counter[bytes]()
    for _ in range(3_000):
        for _ in range(8):
            trade(state, draw)
        seen[state.tobytes()] += 1
    assert set(seen) == truth
    assert stats.chisquare(list(seen.values())).pvalue > 0.01


def test_trades_keep_row_and_column_sums() -> None:
    draw = rng("sums")
    state = draw.random((31, 17)) < draw.random((31, 1))
    before = state.copy()
    for _ in range(20):
        trade(state, draw)
    assert (state.sum(0) == before.sum(0)).all() and (state.sum(1) == before.sum(1)).all()
    assert (state != before).mean() > 0.1


def test_draws_with_the_same_degrees_hardly_depend_on_one_another() -> None:
    draw = rng("mixing")
    mask = by_degree(draw)["a"]
    counts = nulls.shared_counts(mask, mask, draw, 600).astype(float)
    assert abs(np.corrcoef(counts[:-1], counts[1:])[0, 1]) < 3 / math.sqrt(600)


def test_the_degree_null_explains_masks_that_share_degrees_alone() -> None:
    draw = rng("degrees")
    rows, columns = draw.random((40, 1)) ** 3, draw.random((1, 30)) ** 2
    one, other = ({"a": torch.from_numpy(draw.random((40, 30)) < 2 * rows * columns)} for _ in range(2))
    found = overlap(one, other)
    assert against(found, layer_matched(one, other)["a"]).z > 5
    assert abs(against(found, degree_matched(one, other, draw)["a"]).z) < 2


def test_a_layer_that_its_degrees_fix_cannot_vary() -> None:
    one = {"a": bools([1, 1, 0], [0, 0, 0]), "row": bools([1, 0])}
    laws = degree_matched(one, one, rng("fixed"), draws=5)
    for name, law in laws.items():
        kept = int(one[name].sum())
        assert (law.mean, law.variance, law.lowest, law.chances.tolist()) == (kept, 0, kept, [1])
    assert isinstance(together(laws.values()), Law)
