"""The papers' experiments: each composes, has its network at full size, an estimate, and first steps that are taken."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import spec
from standins import write_images

from ltx.config.names import CONF
from ltx.runs.seconds import step_seconds
from ltx.store.files import read_yaml
from ltx.tensors import matrices

PAPERS = sorted(path.stem for path in (CONF / "experiment").glob("paper_*.yaml"))
COUNTED = {  # parameters at width 1, as the papers and their code have them
    "paper_lenet_mnist": 266_610,
    "paper_resnet20_cifar10": 272_474,
    "paper_vgg16_cifar10": 14_728_266,
    "paper_resnet50_imagenet": 25_557_032,
}


def test_there_are_the_experiments_of_the_papers() -> None:
    assert {name.removeprefix("paper_") for name in PAPERS} == {
        "lenet_mnist",
        *(f"conv{n}_cifar10" for n in (2, 4, 6)),
        "resnet20_cifar10",
        "vgg16_cifar10",
        "resnet50_imagenet",
        "edge_popup_conv4",
        "edge_popup_resnet50",
        "biprop_conv4",
        "biprop_resnet18",
        "iterand_conv6",
        "iterand_resnet18",
    }


@pytest.mark.parametrize("name", PAPERS)
def test_an_experiment_is_whole_at_full_size_and_every_value_has_a_source(name: str) -> None:
    found = spec(f"experiment={name}")
    network = found.network(device="meta")
    if name in COUNTED:
        assert sum(p.numel() for p in network.parameters()) == COUNTED[name]
    levels = found.method.last_level + 1
    hours = levels * len(found.seeds) * found.optim.steps * step_seconds(found) / 3600
    assert 1 < hours < 1e6
    assert {p.device for p in network.parameters()} == {torch.device("meta")}
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert re.search(r"^# .*(\d{4}|open_lth).*; a value of another source says so\.$", text, re.MULTILINE)
    kept = found.method.prunable(matrices(network))
    for key in read_yaml(CONF / "experiment" / f"{name}.yaml")["method"]:
        assert key in found.config["method"]
    assert kept


@pytest.mark.parametrize("name", PAPERS)
def test_the_first_steps_of_an_experiment_are_taken(name: str, ltx: Callable, root: Path, tmp_path: Path) -> None:
    config = spec(f"experiment={name}").config
    data = config["data"]["name"]
    place = write_images(tmp_path / "images", data, train=64, test=16)
    words = [f"data.path={place}", "width=.05", "seeds=1", "workers=0", "optim.steps=2", "optim.batch=8"]
    if config["method"]["name"] == "imp":
        words += ["method.levels=1", "method.rewind=1"]
    if config["optim"]["schedule"] == "multistep":
        words.append("optim.milestones=[1]")
    if data == "imagenet":
        words += ["data.side=64", "data.resize=72", "data.val=.2", "data.decoders=0"]
    words += ["optim.warmup=2"] if config["optim"]["warmup"] else []
    result = ltx("run", f"experiment={name}", *words)
    assert result.code == 0, result.err
    levels = list(root.glob("runs/*/seed_000/level_*.safetensors"))
    assert len(levels) == (2 if config["method"]["name"] == "imp" else 1)
