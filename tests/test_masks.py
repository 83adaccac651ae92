"""Masks keep exactly the number asked for, the same weights whatever the memory layout, and never bring one back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ltx.masks import count, keep_top, kth_largest, prune

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FEW = st.sampled_from([-1.5, 0.0, 0.25, 0.5, 1.0])  # few values: ties everywhere


def by_sorting(score: Tensor, k: int) -> Tensor:
    """The k largest by a stable sort, so that of equal scores the lower index comes first."""
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[torch.sort(score.reshape(-1), descending=True, stable=True).indices[:k]] = True
    return mask.reshape(score.shape)


def by_ranking(scores: dict[str, Tensor], mask: dict[str, Tensor], kept: int) -> dict[str, Tensor]:
    """Rank (score, layer, index) of the survivors in plain Python and keep the first."""
    ranks = sorted(
        (-float(score.reshape(-1)[i]), place, i, name)
        for place, (name, score) in enumerate(scores.items())
        for i in range(score.numel())
        if mask[name].reshape(-1)[i]
    )
    result = {name: torch.zeros(score.numel(), dtype=torch.bool) for name, score in scores.items()}
    for _, _, i, name in ranks[:kept]:
        result[name][i] = True
    return {name: flat.reshape(scores[name].shape) for name, flat in result.items()}


@settings(max_examples=200, deadline=None)
@given(st.data(), st.lists(FEW, max_size=30))
def test_keep_top_equals_a_stable_sort_for_any_scores_and_k(data: st.DataObject, values: list[float]):
    k = data.draw(st.integers(0, len(values)))
    score = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(keep_top(score, k), by_sorting(score, k))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["distinct", "tied", "all equal"])
def test_keep_top_keeps_exactly_k_for_every_n_and_k(kind: str, device: str):
    rng = torch.Generator().manual_seed(0)
    for n in range(13):
        distinct = torch.randperm(n, generator=rng).float()
        score = {"distinct": distinct, "tied": distinct // 3, "all equal": torch.ones(n)}[kind]
        for k in range(n + 1):
            mask = keep_top(score.to(device), k).cpu()
            assert mask.dtype == torch.bool and int(mask.sum()) == k
            assert torch.equal(mask, by_sorting(score, k))


SHAPES = {  # a sample of every 47th tells much, nothing, or the wrong thing
    "normal": lambda n: np.random.default_rng(0).standard_normal(n),
    "rising": lambda n: np.arange(n),
    "all equal": lambda n: np.zeros(n),
    "mostly pruned": lambda n: np.where(np.arange(n) % 10, -np.inf, np.arange(n)),
    "misleading": lambda n: np.arange(n) + n * (np.arange(n) % 47 == 0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_kth_largest_of_many_is_that_of_a_sort(shape: str):
    n = 100_000
    values = SHAPES[shape](n).astype(np.float32)
    for k in (1, 2, n // 50, n // 10, n // 2, n - 2, n):
        assert kth_largest(values, k) == np.sort(values)[n - k]


def test_ties_go_to_the_lower_index():
    assert keep_top(torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0]), 3).tolist() == [True, True, True, False, False]
    assert keep_top(torch.zeros(4), 2).tolist() == [True, True, False, False]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_narrowest_matrices_keep_exactly_k(width: int):
    score = torch.full((width, width), -1.0)
    for k in range(width * width + 1):
        assert int(keep_top(score, k).sum()) == k


def test_negative_and_infinite_scores_are_ranked_like_any_other():
    score = torch.tensor([-torch.inf, -3.0, torch.inf, -2.0, -0.0, 0.0])
    for k in range(7):
        assert torch.equal(keep_top(score, k), by_sorting(score, k))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [1.0, 4.0])
def test_memory_layout_does_not_move_the_mask(step: float, device: str):
    plain = (torch.randperm(2 * 3 * 5 * 4, generator=torch.Generator().manual_seed(1)) // step).reshape(2, 3, 5, 4)
    plain = plain.to(device)
    last = plain.contiguous(memory_format=torch.channels_last)
    turned = plain.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    strided = torch.stack([plain, -plain], -1)[..., 0]
    for k in (1, 17, 60, 119):
        expected = keep_top(plain, k)
        for other in (last, turned, strided):
            assert not other.is_contiguous() and torch.equal(keep_top(other, k), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_keep_top_takes_other_number_types(dtype: torch.dtype):
    score = torch.tensor([[3, 1, 2], [3, 0, 7]]).to(dtype)
    assert keep_top(score, 3).tolist() == [[True, False, False], [True, False, True]]
    assert keep_top(score, 2).tolist() == [[True, False, False], [False, False, True]]


def test_keep_top_takes_a_score_that_still_has_a_graph():
    assert keep_top(torch.tensor([1.0, 2.0], requires_grad=True).abs(), 1).tolist() == [False, True]


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_a_score_that_is_not_a_number_is_refused(k: int):
    with pytest.raises(ValueError, match="not a number"):
        keep_top(torch.tensor([1.0, torch.nan, 2.0]), k)


@pytest.mark.parametrize("k", [-1, 4])
def test_an_impossible_count_is_refused_by_name(k: int):
    with pytest.raises(ValueError, match=f"cannot keep {k} of 3"):
        keep_top(torch.ones(3), k)


@st.composite
def layers(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    shapes = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3))
    scores, mask = {}, {}
    for i, (rows, columns) in enumerate(shapes):
        n = rows * columns
        name = f"z{9 - i}"  # not in alphabetical order
        scores[name] = torch.tensor(draw(st.lists(FEW, min_size=n, max_size=n))).reshape(rows, columns)
        mask[name] = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n))).reshape(rows, columns)
    return scores, mask


@settings(max_examples=150, deadline=None)
@given(st.data(), layers())
def test_global_pruning_is_exact_nested_and_equals_a_ranking(data: st.DataObject, drawn):
    scores, mask = drawn
    kept = data.draw(st.integers(0, count(mask)))
    pruned = prune(scores, mask, kept)
    assert count(pruned) == kept and list(pruned) == list(scores)
    assert all(not (pruned[name] & ~mask[name]).any() for name in mask)
    assert all(torch.equal(pruned[name], expected) for name, expected in by_ranking(scores, mask, kept).items())


@settings(max_examples=100, deadline=None)
@given(st.data(), layers())
def test_pruning_by_layer_is_exact_and_nested_in_each_layer(data: st.DataObject, drawn):
    scores, mask = drawn
    kept = {name: data.draw(st.integers(0, int(m.sum()))) for name, m in mask.items()}
    pruned = prune(scores, mask, kept)
    for name in mask:
        expected = by_ranking({name: scores[name]}, {name: mask[name]}, kept[name])[name]
        assert int(pruned[name].sum()) == kept[name] and torch.equal(pruned[name], expected)


def test_ties_across_layers_go_to_the_earlier_layer():
    scores = {"second": torch.ones(2, 2), "first": torch.ones(3)}
    pruned = prune(scores, {name: torch.ones_like(s, dtype=torch.bool) for name, s in scores.items()}, 5)
    assert pruned["second"].all() and pruned["first"].tolist() == [True, False, False]


def test_a_pruned_weight_stays_pruned_however_high_its_score():
    scores = {"a": torch.tensor([9.0, 1.0]), "b": torch.tensor([torch.inf, 0.0])}
    mask = {"a": torch.tensor([False, True]), "b": torch.tensor([False, True])}
    assert {name: m.tolist() for name, m in prune(scores, mask, 1).items()} == {"a": [False, True], "b": [False, False]}
    assert {name: m.tolist() for name, m in prune(scores, mask, 2).items()} == {"a": [False, True], "b": [False, True]}


def test_pruning_leaves_its_arguments_alone():
    scores, mask = {"a": torch.tensor([3.0, 1.0, 2.0])}, {"a": torch.tensor([True, True, False])}
    prune(scores, mask, 1)
    assert scores["a"].tolist() == [3.0, 1.0, 2.0] and mask["a"].tolist() == [True, True, False]
