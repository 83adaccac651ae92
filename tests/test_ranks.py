"""A seed on several devices: two processes on the CPU are one within rounding, and none is left when one is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import levels, only, soon
from helpers import dying, same_run, spec, trained
from test_resume import alive, descendants

import ltx.runs.levels as ltx_levels
from ltx.config.spec import Spec
from ltx.errors import BadInput
from ltx.launch import local as launch
from ltx.runs.checks import check_gpus
from ltx.runs.worker import run_seed
from ltx.store.files import unpack
from ltx.training.ranks import Ranks

TWO = ("trainer.devices=2", "trainer.strategy=ddp")
SMALL = ("model=mlp", "model.hidden=[20,16]", "optim.steps=30", "optim.batch=51", "seeds=1", "method.levels=1")
SGD = ("optim=sgd", "optim.lr=.05", "optim.momentum=.9", "optim.clip=1", "optim.weight_decay=1e-4")
CONV = ("model=conv2", "width=.1", "optim.steps=12", "optim.batch=31", "seeds=1")
SEARCH = ("model=mlp", "model.hidden=[20,16]", "model.bias=false", "optim.steps=30", "optim.batch=51", "seeds=1")
CASES = {
    "sgd": (*SMALL, *SGD, "model.norm=null", "optim.label_smoothing=.1"),
    "adam": (*SMALL, "model.norm=null"),
    "batch norm": (*SMALL, *SGD, "model.bias=false"),
    "convolutions": (*CONV, "method.levels=1"),
    "convolutions with batch norm": ("model=convnet", "width=.2", *CONV[2:], *SGD, "method.levels=1"),
    "kept values alone": (*SMALL, "model.norm=null", "model.hidden=[520]", "method.fraction=.9", "optim.steps=10"),
    "edge_popup": (*SEARCH, "method=edge_popup", "optim.lr=.1", "model.norm=null"),
    "supermask": (*SEARCH, "method=supermask", "model.norm=null"),
    "gem_miner": (*SEARCH, "method=gem_miner", "model.norm=null"),
}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Let the fork server import everything once."""
    launch.warm_up()


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_does(name, tmp_path):
    one, two = spec(*CASES[name]), spec(*CASES[name], *TWO)
    assert one.key == two.key
    expected = trained(one, tmp_path / "one")
    same_run(expected, trained(two, tmp_path / "two"))
    assert bool(expected[-1][1].get("compressed")) == (name == "kept values alone")
    assert not multiprocessing.active_children() and not torch.distributed.is_initialized()


@pytest.mark.parametrize("before", [(), TWO], ids=["one", "two"])
def test_a_level_begun_with_some_devices_goes_on_with_others(before, tmp_path, monkeypatch):
    after = () if before else TWO
    words = (*SMALL, *SGD, "model.norm=null", "trainer.checkpoint_seconds=0")
    found = spec(*words, *before)
    with monkeypatch.context() as patch:
        patch.setattr(ltx_levels, "commit", dying(ltx_levels.commit, 30 + 12))  # 29 checkpoints and level 0 are first
        with pytest.raises(OSError, match="killed"):
            run_seed(found.config, str(tmp_path / "run"), 0, lambda kind, value: None)
    assert unpack(tmp_path / "run" / "seed_000" / "partial.safetensors")[1]["step"] == 11
    same_run(trained(spec(*words), tmp_path / "whole"), trained(spec(*words, *after), tmp_path / "run"))


def peer() -> Any:
    """Return the one process that trains together with this one."""
    (process,) = multiprocessing.active_children()
    return process


def test_a_lost_peer_fails_the_seed_with_its_reason_and_the_same_command_continues(tmp_path):
    found, lost = spec(*SMALL, *TWO, "optim.steps=60"), []

    def report(kind: str, value: Any) -> None:
        if kind == "progress" and not lost:
            lost.append(peer())
            lost[0].kill()

    with pytest.raises(OSError, match=r"the process of rank 1 was killed \(exit -9\)"):
        run_seed(found.config, str(tmp_path), 0, report)
    assert lost and not multiprocessing.active_children() and not torch.distributed.is_initialized()
    assert not (tmp_path / "seed_000" / "failed.json").exists()
    assert len(trained(found, tmp_path)) == 2


def test_what_a_peer_raises_is_the_reason(tmp_path):
    Path("shy.py").write_text(
        "import multiprocessing\n\nfrom torch import nn\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self, input_shape):\n        if multiprocessing.parent_process():\n"
        "            raise ValueError('not in a peer')\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    found = spec("model=own", "model.name=shy:Net", "method=dense", "optim.steps=5", *TWO)
    with pytest.raises(RuntimeError, match=r"rank 1: .*not in a peer"):
        run_seed(found.config, str(tmp_path), 0, lambda kind, value: None)
    assert "not in a peer" in (tmp_path / "seed_000" / "failed.json").read_text()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_peers_end_with_their_worker(number, tmp_path):
    found = spec(*SMALL, *TWO, "optim.steps=1000")
    before = set(descendants(os.getpid()))
    pipe, process = launch.start(launch.Job("job", "ltx.runs.worker:run_seed", (found.config, str(tmp_path), 0)))
    while pipe.recv()[0] != "progress":
        pass
    family = set(descendants(os.getpid())) - before
    assert len(family) >= 2 and process.pid in family
    os.kill(process.pid, number)
    process.join(4)
    assert process.exitcode == (-9 if number == signal.SIGKILL else 143)
    soon(lambda: not any(map(alive, family)), 30)


def test_a_run_on_two_devices_is_the_run_that_one_trains(ltx, root, tmp_path):
    words = ("method.levels=1", "optim.steps=20", "width=.05", "seeds=1")
    assert ltx("run", *words, *TWO, "device=cpu").code == 0
    folder = only(root)
    assert '"devices": 2' in (folder / "manifest.json").read_text()
    there = levels(folder)
    assert len(there) == 2 and "nothing was left to train" in ltx("run", *words, "device=cpu").out
    assert levels(folder) == there


@pytest.mark.parametrize(("size", "count"), [(7, 2), (60, 3), (5, 5)])
def test_the_parts_of_a_batch_are_the_batch(size, count):
    examples = [*range(size)]
    parts = [examples[Ranks(rank, count).part(size)] for rank in range(count)]
    assert [example for part in parts for example in part] == examples
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_gpus_that_are_not_there_or_are_named_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for device in ("auto", "cuda", "cpu"):
        check_gpus(device, 2)
    check_gpus("cpu", 3)
    check_gpus("cuda:1", 1)
    with pytest.raises(BadInput, match="the number of CUDA devices is 2"):
        check_gpus("auto", 3)
    with pytest.raises(BadInput, match="use device=cuda"):
        check_gpus("cuda:1", 2)


def test_a_trunk_is_trained_on_the_devices_of_the_run_that_was_asked_for(tmp_path):
    from ltx.runs.sweep import expand

    found = spec("method=control", "trunk={method:imp,method.levels:1}", *TWO, f"root={tmp_path}")
    one_trunk = {**found.config["trunk"]["trainer"], "devices": 1, "strategy": "auto"}
    found = Spec.of({**found.config, "trunk": {**found.config["trunk"], "trainer": one_trunk}})
    assert [point.spec.config["trainer"]["devices"] for point in expand([found], [], None).values()] == [2, 2]
