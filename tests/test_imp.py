"""Iterative magnitude pruning: exact counts, nested masks, and every level starts where it should, bit for bit."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
from helpers import STREAMS, File, same, spec, trained, whole
from torch import Tensor, nn

import ltx.training.watch
from ltx.data.splits import Dataset, Memory
from ltx.errors import BadInput
from ltx.masks import keep_top
from ltx.methods import Context, Plan, State
from ltx.streams import Streams
from ltx.tensors import Tensors, under
from ltx.training.fit import train
from ltx.training.setup import Hooks, Setup

SMALL = ("model.hidden=[12,8]", "optim.steps=6", "optim.batch=50", "method.levels=3")
BATCHNORM = ("model=mlp", *SMALL, "optim=sgd", "optim.steps=6", "optim.batch=50", "data.shift=1")


def levels(directory: Path, *overrides: str, seed: int = 0) -> list[File]:
    """Run one seed and read its level files."""
    return trained(spec("method=imp", *SMALL, *overrides), directory, seed)


def method(**changed: Any) -> Any:
    """The method of conf/method/imp.yaml with other values."""
    return helpers.method("imp", **{"exclude": [], **changed})


def context(init: Tensors, end: Tensors, mask: Tensors, streams: Streams = STREAMS) -> Context:
    return helpers.context(init, previous=State(end, {}, mask), streams=streams)


def times(values: Tensors, mask: Tensors) -> Tensors:
    return {name: value * mask[name] if name in mask else value for name, value in values.items()}


def nested(masks: list[Tensors]) -> bool:
    return all(not (after[name] & ~before[name]).any() for before, after in pairwise(masks) for name in after)


@pytest.mark.parametrize("fraction", [0.2, 0.37, 0.5])
def test_every_level_keeps_the_rounded_share_of_all_prunable_weights(fraction: float, tmp_path: Path):
    files = levels(tmp_path, "optim.steps=2", "method.levels=6", f"method.fraction={fraction}")
    n = 64 * 12 + 12 * 8
    masks = [under("mask", tensors) for tensors, _ in files]
    counts = [sum(int(m.sum()) for m in mask.values()) for mask in masks]
    assert counts == [round(n * (1 - fraction) ** level) for level in range(7)] and nested(masks)
    assert [meta["row"]["kept"] for _, meta in files] == counts
    assert all(meta["row"]["density"] == kept / n for (_, meta), kept in zip(files, counts, strict=True))
    assert {meta["row"]["prunable"] for _, meta in files} == {n} and {m["row"]["total"] for _, m in files} == {n + 80}


def test_layer_scope_keeps_the_rounded_share_of_each_layer_at_its_own_rate(tmp_path: Path):
    rates = "method.fraction={fc1:.3,output:.1}"
    files = levels(tmp_path, "optim.steps=2", "method.scope=layer", rates, "method.exclude=[]")
    masks = [under("mask", tensors) for tensors, _ in files]
    for level, mask in enumerate(masks):
        kept = {name: int(m.sum()) for name, m in mask.items()}
        assert kept == {
            "fc1.weight": round(768 * 0.7**level),
            "fc2.weight": 96,  # not named: kept whole
            "out.weight": round(80 * 0.9**level),
        }
    assert nested(masks)


def test_an_excluded_layer_is_in_no_mask_and_pruning_leaves_it_alone(tmp_path: Path):
    files = levels(tmp_path, "optim.steps=2", "method.exclude=[output,fc1]")
    for tensors, meta in files:
        assert list(under("mask", tensors)) == ["fc2.weight"] and meta["row"]["prunable"] == 96
        for name in ("fc1.weight", "out.weight", "fc2.bias"):
            assert torch.equal(tensors[f"begin/{name}"], files[0][0][f"anchor/{name}"])
        assert (tensors["begin/fc1.weight"] != 0).all()


@pytest.mark.parametrize("rewind", [0, 4])
def test_rewound_level_starts_from_the_anchor(rewind: int, tmp_path: Path):
    files = levels(tmp_path, *BATCHNORM, f"method.rewind={rewind}")
    anchor = under("anchor", files[0][0])
    assert same(anchor, under("begin", files[0][0])) == (rewind == 0)
    assert {"norm1.running_mean", "norm1.running_var", "norm1.weight", "norm1.bias", "fc1.bias"} <= set(anchor)
    assert int(anchor["norm1.num_batches_tracked"]) == rewind
    for tensors, _ in files[1:]:
        assert same(under("begin", tensors), times(anchor, under("mask", tensors)))


def test_the_anchor_is_the_whole_state_after_exactly_the_steps_asked_for(tmp_path: Path):
    constant = (*BATCHNORM, "optim.schedule=constant", "method.levels=0")
    anchor = under("anchor", levels(tmp_path / "long", *constant, "method.rewind=4")[0][0])
    assert same(anchor, under("end", levels(tmp_path / "short", *constant, "optim.steps=4")[0][0]))


@pytest.mark.parametrize("retrain", ["lr_rewind", "finetune"])
def test_without_weight_rewinding_a_level_starts_from_the_trained_weights(retrain: str, tmp_path: Path):
    files = levels(tmp_path, *BATCHNORM, "method.rewind=2", f"method.retrain={retrain}")
    for (before, _), (after, _) in pairwise(files):
        assert same(under("begin", after), times(under("end", before), under("mask", after)))


def test_finetuning_stays_at_the_last_rate_and_the_others_follow_the_schedule():
    steps = range(3, 10)
    for retrain, level, expected in (
        ("finetune", 0, list(steps)),
        ("finetune", 1, [9] * 7),
        ("lr_rewind", 1, list(steps)),
        ("rewind", 1, list(steps)),
    ):
        plan = method(retrain=retrain, rewind=3).plan(level, 10, None)
        assert (plan.first, plan.last) == (3 if level else 0, 10)
        assert [step if plan.rate_at is None else plan.rate_at for step in steps] == expected


@pytest.mark.parametrize("one_shot", [True, False])
def test_the_mask_ranks_the_end_of_the_parent_level(one_shot: bool, tmp_path: Path):
    files = levels(tmp_path, f"method.one_shot={str(one_shot).lower()}", "method.scope=layer", "optim.lr=.02")
    assert len(files) == 4
    for level in (1, 2, 3):
        parent, _ = files[0 if one_shot else level - 1]
        for name, mask in under("mask", files[level][0]).items():
            score = torch.where(parent[f"mask/{name}"], parent[f"end/{name}"].abs(), -1.0)
            assert torch.equal(mask, keep_top(score, round(mask.numel() * 0.8**level)))


def test_a_weight_of_an_earlier_level_never_returns_however_it_is_trained(tmp_path: Path):
    for retrain in ("rewind", "lr_rewind", "finetune"):
        files = levels(tmp_path / retrain, *BATCHNORM, f"method.retrain={retrain}", "optim.weight_decay=.01")
        assert nested([under("mask", tensors) for tensors, _ in files])
        for tensors, _ in files:
            assert all(not tensors[f"end/{name}"][~mask].any() for name, mask in under("mask", tensors).items())


INIT = [0.5, -2.0, 1.0, -0.1, 3.0]
END = [1.0, -1.0, -1.5, 0.3, 3.1]
KEPT = {  # of five weights, round(5 * .6) = 3
    "final": [1, 0, 1, 0, 1],  # |end| 1, 1, 1.5, .3, 3.1: the tie at 1 goes to the lower index
    "initial": [0, 1, 1, 0, 1],  # |init| .5, 2, 1, .1, 3
    "increase": [1, 0, 1, 1, 0],  # |end| - |init| .5, -1, .5, .2, .1
    "movement": [1, 1, 1, 0, 0],  # |end - init| .5, 1, 2.5, .4, .1
}


@pytest.mark.parametrize("criterion", list(KEPT))
def test_each_criterion_keeps_what_a_hand_computation_keeps(criterion: str):
    init, end = {"w": torch.tensor([INIT])}, {"w": torch.tensor([END])}
    state = method(criterion=criterion, fraction=0.4).start(1, context(init, end, whole(init)))
    assert state.mask["w"].int().tolist() == [KEPT[criterion]]
    assert torch.equal(state.weights["w"], init["w"] * state.mask["w"])


def test_global_scope_ranks_all_layers_together():
    init = {"a": torch.tensor([[4.0, 3.0]]), "b": torch.tensor([[2.0, 1.0], [0.5, 5.0]])}
    state = method(fraction=0.5).start(1, context(init, init, whole(init)))
    assert {name: m.int().tolist() for name, m in state.mask.items()} == {"a": [[1, 1]], "b": [[0, 0], [0, 1]]}
    state = method(fraction=0.5, scope="layer").start(1, context(init, init, whole(init)))
    assert {name: m.int().tolist() for name, m in state.mask.items()} == {"a": [[1, 0]], "b": [[1, 0], [0, 1]]}


def test_random_pruning_follows_the_mask_stream_only():
    init = {"w": torch.arange(1.0, 101.0).reshape(10, 10)}

    def mask(level: int = 1, **changed: int) -> Tensor:
        streams = replace(STREAMS, **changed)
        return method(criterion="random").start(level, context(init, init, whole(init), streams)).mask["w"]

    assert int(mask().sum()) == 80 and torch.equal(mask(), mask(init=5, order=5, augment=5, noise=5))
    assert not torch.equal(mask(), mask(mask=5)) and not torch.equal(mask(), keep_top(init["w"], 80))


def test_the_output_rate_means_the_last_layer_in_whatever_order_a_file_gave_the_mask():
    init = {name: torch.rand(4, 5) for name in ("fc1.weight", "fc2.weight", "out.weight")}
    chosen = method(scope="layer", fraction={"output": 0.5})
    for order in (list(init), list(init)[::-1], ["out.weight", "fc1.weight", "fc2.weight"]):
        mask = chosen.start(1, context(init, init, whole({name: init[name] for name in order}))).mask
        assert {name: int(m.sum()) for name, m in mask.items()} == {**dict.fromkeys(init, 20), "out.weight": 10}


def test_a_rate_for_an_excluded_layer_is_refused():
    with pytest.raises(BadInput, match="out"):
        spec("method.scope=layer", "method.fraction={output:.1}")


@pytest.mark.parametrize(
    "override, words",
    [
        ("method.rewind=6", "past the end"),
        ("method.levels=60", "at most method.levels="),
        ("method.exclude=['*']", "nothing to prune"),
        ("method.exclude=[fc3]", "no layer is named 'fc3'"),
        ("method.fraction={fc1:.2}", "scope=layer"),
    ],
)
def test_a_method_that_does_not_fit_the_network_is_refused_by_name(override: str, words: str):
    with pytest.raises(BadInput, match=words):
        spec("method=imp", *SMALL, override)


def test_a_level_does_not_depend_on_how_many_come_after_it(tmp_path: Path):
    short, long = levels(tmp_path / "a", "method.levels=1"), levels(tmp_path / "b")
    assert same(short[1][0], long[1][0]) and short[1][1]["row"] == long[1][1]["row"]


def test_seeds_differ_and_a_pinned_init_is_shared(tmp_path: Path):
    def begin(seed: int, *overrides: str) -> Tensors:
        folder = tmp_path / f"{seed}{len(overrides)}"
        return under("begin", levels(folder, "method.levels=0", "optim.steps=1", *overrides, seed=seed)[0][0])

    assert not same(begin(0), begin(1)) and same(begin(0, "streams.init=7"), begin(1, "streams.init=7"))


def test_the_early_stop_is_the_smallest_validation_loss_and_null_at_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for best in (2, 5, 6):
        calls = iter(range(1, 100))
        monkeypatch.setattr(
            ltx.training.watch, "evaluate", lambda *_, calls=calls, best=best: (abs(next(calls) - best), 0.0)
        )
        row = levels(tmp_path / str(best), "method.levels=0")[0][1]["row"]
        assert row["early_stop_step"] == (best if best < 6 else None)


class Linear(nn.Module):
    """y = W x."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)


def test_one_step_of_a_masked_layer_and_the_next_mask_done_by_hand():
    # W m x = [1 + .5 * 2, 2] = [2, 2], so p = [.5, .5]; with label 0 the loss is ln 2 and dL/dz = [-.5, .5].
    # dL/dW = (dL/dz x^T) m = [[-.5, -1], [.5, 0]]; the stray 9 under the mask is neither seen nor moved. lr = .5.
    weights = {"out.weight": torch.tensor([[1.0, 0.5], [2.0, 9.0]])}
    mask = {"out.weight": torch.tensor([[True, True], [True, False]])}
    one = Memory(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    recipe = spec("optim=sgd", "optim.schedule=constant", "optim.lr=.5", "optim.batch=1").optim
    rows: list[dict[str, Any]] = []
    setup = Setup(
        *(Linear(), method(), State(weights, {}, mask), Plan(0, 0, 0, 1), replace(recipe, steps=1, momentum=0.0)),
        *(Dataset(one, one, one, 2), STREAMS, Hooks(rows.extend, lambda *_: None, lambda *_: None, 1e9)),
    )
    end = train(setup, "cpu", {"deterministic": True, "chunk": 10}, None)
    assert end.weights["out.weight"].tolist() == [[1.25, 1.0], [1.75, 9.0]]
    after = math.log(1 + math.exp(1.75 - 3.25))  # W m x = [1.25 + 2, 1.75]
    assert [row["loss"] for row in rows] == pytest.approx([math.log(2), after])
    # Of 4 weights round(4 * .5) = 2 survive: 1.75 and 1.25; the stray 9 was pruned before. They restart at 2 and 1.
    state = method(fraction=0.5).start(1, context(weights, end.weights, mask))
    assert state.weights["out.weight"].tolist() == [[1.0, 0.0], [2.0, 0.0]]
