"""Barriers of planted values, and lines between networks against a plain loop over `evaluate`."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from helpers import spec
from torch import nn

from ltx.analysis.connectivity import Barrier, barriers, between, instability
from ltx.config.spec import Spec
from ltx.data.splits import Memory, Split
from ltx.streams import Streams
from ltx.tensors import Tensors, buffers
from ltx.training import line
from ltx.training.evaluate import evaluate, reestimate
from ltx.training.line import along, stackable
from ltx.training.task import TASKS

CLASSIFICATION = TASKS["classification"]
FULLY_CONNECTED = (
    ("model=lenet", "width=.1"),
    ("model=mlp", "width=.1"),
    ("model=mlp", "width=.1", "model.affine=false", "model.bias=false"),
    ("model=mlp", "width=.1", "model.activation=sign"),
)
LOOPED = (
    ("model=convnet", "width=.25"),
    ("model=convnet", "width=.25", "model.channels_last=true"),
    ("model=resnet20", "width=.25", "model.blocks=[1,1]", "model.channels=[16,32]", "model.channels_last=null"),
    ("model=lenet", "width=.1", "trainer.precision=bf16-mixed"),
    ("model=lenet", "width=.1", "trainer.precision=bf16-true"),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def end(run: Spec, seed: int) -> Tensors:
    """Return a state of a run's network as drawn, with buffers that are not those of a new network."""
    network = run.network(streams=Streams(seed, 0, 0, 0, 0))
    state = {name: tensor.detach() for name, tensor in network.named_parameters()} | buffers(network)
    return {n: t + (seed + 1) / 10 if n.endswith(("running_mean", "running_var")) else t for n, t in state.items()}


def parts(run: Spec) -> tuple[Split, Split]:
    """Return 70 test examples and 50 training examples for statistics."""
    x, y = run.data.train.take(slice(0, 50))
    return run.data.test.part(torch.arange(70)), Memory(x, y)


def looped(run: Spec, points: int, restate: Split | None) -> list[tuple[float, float]]:
    """Return losses and errors on the line between two states from one `evaluate` after another."""
    network, one, other, found = run.network(), end(run, 0), end(run, 1), []
    for i in range(points):
        state = between(one, other, i / (points - 1))
        for name, buffer in network.named_buffers():
            buffer.copy_(state[name])
        weights = {name: state[name] for name, _ in network.named_parameters()}
        if restate is not None:
            reestimate(network, weights, restate, run.form)
        loss, score = evaluate(network, weights, parts(run)[0], CLASSIFICATION, run.form)
        found.append((loss, 1 - score))
    return found


def test_instability_is_the_bump_on_the_line() -> None:
    assert instability([0, 0.5, 1, 0.5, 0]) == 1
    assert instability([0.1, 0.1, 0.3]) == pytest.approx(0.1)


def test_a_slope_is_no_barrier_above_its_chord() -> None:
    assert barriers([0.0, 0.25, 0.5, 0.75, 1.0]) == Barrier(above_mean=0.5, above_chord=0.0)


def test_barriers_are_above_the_mean_of_the_ends_and_above_the_chord() -> None:
    assert barriers([0.0, 0.75, 1.0, 0.75, 1.0]) == Barrier(above_mean=0.5, above_chord=0.5)


def test_a_valley_is_no_barrier() -> None:
    assert barriers([0.3, 0.1, 0.3]) == Barrier(0, 0)


def test_a_line_of_equal_values_has_barriers_of_exactly_zero() -> None:
    for value in (0.1, 1 / 3, 2.3025850929940455):
        assert barriers([value] * 30) == Barrier(0, 0)


def test_a_line_needs_both_ends() -> None:
    with pytest.raises(ValueError, match="both ends"):
        barriers([0.1])
    run = spec(*FULLY_CONNECTED[0])
    with pytest.raises(ValueError, match="points=1"):
        along(run.network(), end(run, 0), end(run, 1), [run.data.test], CLASSIFICATION, points=1)


def test_integers_on_the_line_are_those_of_the_first_end() -> None:
    one, other = {"w": torch.zeros(2), "n": torch.tensor(3)}, {"w": torch.ones(2), "n": torch.tensor(9)}
    middle = between(one, other, 0.25)
    assert middle["w"].tolist() == [0.25, 0.25] and int(middle["n"]) == 3


@pytest.mark.parametrize("words", [*FULLY_CONNECTED, *LOOPED], ids=" ".join)
@pytest.mark.parametrize("restated", [False, True])
def test_a_line_is_a_plain_loop_over_its_points(
    words: tuple[str, ...], restated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "POINTS", 3)  # a whole chunk and one that is not
    run = spec(*words)
    assert stackable(run.network(), run.form) == (words in FULLY_CONNECTED)
    test, calibration = parts(run)
    restate = calibration if restated else None
    with run.form.context("cpu"):
        val = run.data.val
        (losses, errors), of_val = along(
            run.network(), end(run, 0), end(run, 1), [test, val], CLASSIFICATION, run.form, points=5, restate=restate
        )
        [alone] = along(
            run.network(), end(run, 0), end(run, 1), [val], CLASSIFICATION, run.form, points=5, restate=restate
        )
        expected = looped(run, 5, restate)
    assert losses == pytest.approx([loss for loss, _ in expected], abs=1e-6, rel=1e-6)
    assert errors == pytest.approx([error for _, error in expected], abs=1e-6)
    assert len(set(losses)) == 5 and of_val == alone


@pytest.mark.parametrize("words", [FULLY_CONNECTED[1], LOOPED[0]], ids=" ".join)
def test_the_network_is_left_as_it_was(words: tuple[str, ...]) -> None:
    run = spec(*words)
    test, calibration = parts(run)
    network = run.network(streams=Streams(7, 0, 0, 0, 0)).train()
    before = copy.deepcopy(network.state_dict())
    along(network, end(run, 0), end(run, 1), [test], CLASSIFICATION, points=3, restate=calibration)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("words", [*FULLY_CONNECTED, LOOPED[0]], ids=" ".join)
def test_a_network_has_no_barrier_to_itself(words: tuple[str, ...]) -> None:
    run = spec(*words)
    test, calibration = parts(run)
    state = end(run, 0)
    for restate in (None, calibration):
        [ways] = along(run.network(), state, dict(state), [test], CLASSIFICATION, restate=restate)
        for values in ways:
            assert len(values) == 30 and barriers(values) == Barrier(0, 0)


def test_a_state_of_another_network_is_refused() -> None:
    run = spec(*FULLY_CONNECTED[0])
    one, other = end(run, 0), end(run, 1)
    del one["out.bias"], other["out.bias"]
    with pytest.raises(RuntimeError, match=r"out\.bias"):
        along(run.network(), one, other, [run.data.test], CLASSIFICATION, points=3)


def test_large_networks_and_others_than_fully_connected_ones_take_turns() -> None:
    form = spec().form
    assert stackable(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), form)
    assert not stackable(nn.Linear(512, 512), form)
    assert not stackable(nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8)), form)
