"""Every yaml composes, validates and builds; what is refused and how; a user's own classes and yaml files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from standins import write_images

from ltx.config.compose import CONF, choices, compose
from ltx.config.names import GROUPS, find
from ltx.config.spec import Spec
from ltx.errors import BadInput

OWN = '''
import torch
from torch import nn


class Net(nn.Module):
    """One hidden layer."""

    def __init__(self, input_shape, classes, width: float, units: int = 4):
        super().__init__()
        self.first = nn.Linear(input_shape[0], max(1, round(units * width)))
        self.last = nn.Linear(self.first.out_features, classes)

    def forward(self, x):
        return self.last(self.first(x).relu())


class Data:
    """Points left and right of a line."""

    def __init__(self, examples: int = 120):
        self.examples = examples

    def load(self):
        x = torch.linspace(-1, 1, 3 * self.examples).reshape(-1, 3)
        return {"train": (x, (x[:, 0] > 0).long())}
'''


def spec(*overrides: str) -> Spec:
    return Spec.of(compose([*overrides], []))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a user's module into the folder the test stands in and return its name."""
    name = f"own_{abs(hash(os.getcwd()))}"
    Path(f"{name}.py").write_text(OWN)
    return name


def yamls() -> list[tuple[str, str]]:
    return [(group, name) for group in GROUPS for name in choices(group, [])]


IMAGES = ("ltx.data.images", "ltx.data.imagenet")


@pytest.mark.parametrize(("group", "name"), yamls())
def test_every_yaml_composes_validates_and_builds(group, name, own, tmp_path):
    overrides = [f"{group}={name}", "width=.1"]
    if name == "own":
        overrides.append(f"{group}.name={own}:{'Net' if group == 'model' else 'Data'}")
    if name == "own" and group == "model":
        overrides += ["data=own", f"data.name={own}:Data", "method=dense"]
    if group == "data" and name != "own" and find(group, name).__module__ in IMAGES:
        overrides.append(f"data.path={write_images(tmp_path, name, train=250, test=250)}")
    if name == "table":
        (tmp_path / "table.csv").write_text("x,kind\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
        overrides += [f"data.path={tmp_path / 'table.csv'}", "data.label=kind"]
    if group == "method" and find(group, name).needs_trunk:
        overrides.append("trunk={method:imp}")
    built = spec(*overrides)
    network = built.network(streams=built.streams(3)).eval()
    logits = network(built.data.val.x[:2])
    assert logits.shape == (2, built.data.classes) and torch.isfinite(logits).all()
    optimiser = built.optim.build(list(network.parameters()))
    assert optimiser.param_groups[0]["lr"] == built.config["optim"]["lr"]
    assert built.config[group]["name"].rpartition(":")[0] in ("", own)


def test_the_yaml_of_a_group_is_named_after_what_it_configures():
    for group, name in yamls():
        node = compose([f"{group}={name}"], [])[group]
        assert node["name"] == name or name == "own", f"conf/{group}/{name}.yaml names {node['name']}"


def test_an_own_class_is_its_own_schema(own):
    base = ("model=own", f"model.name={own}:Net", "data=own", f"data.name={own}:Data", "method=dense")
    assert spec(*base, "model.units=7", "width=2").network().first.out_features == 14
    with pytest.raises(BadInput, match=r"model.unit is not a field of .*did you mean 'units'"):
        spec(*base, "model.unit=7")
    with pytest.raises(BadInput, match=r"model.units=many: should be a whole number"):
        spec(*base, "model.units=many")
    with pytest.raises(BadInput, match=r"data.example is not a field of .*did you mean 'examples'"):
        spec(*base, "data.example=7")


@pytest.mark.parametrize("group", ["model", "data"])
def test_the_source_of_an_own_class_is_in_the_key(group, own):
    overrides = ["data=own", f"data.name={own}:Data", "method=dense", "model=mlp"]
    if group == "model":
        overrides[3:] = ["model=own", f"model.name={own}:Net"]
    before = spec(*overrides).key
    assert spec(*overrides).key == before
    Path(f"{own}.py").write_text(OWN + "# changed\n")
    assert spec(*overrides).key != before
    assert "Data" in before and set(before) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def test_a_config_dir_adds_a_yaml(tmp_path):
    folder = tmp_path / "mine" / "method"
    folder.mkdir(parents=True)
    (folder / "gentle.yaml").write_text((CONF / "method" / "imp.yaml").read_text().replace("0.2", "0.1"))
    config = compose(["method=gentle"], [str(tmp_path / "mine")])
    assert config["method"]["fraction"] == 0.1
    assert Spec.of(config).key == spec("method.fraction=0.1").key
    with pytest.raises(BadInput, match="method=gentel is unknown; did you mean 'gentle'"):
        compose(["method=gentel"], [str(tmp_path / "mine")])
    with pytest.raises(BadInput, match="is not a folder"):
        compose([], [str(tmp_path / "nowhere")])


def test_the_output_root_comes_from_the_environment_unless_it_is_given(monkeypatch):
    assert spec().config["root"] == "outputs"
    monkeypatch.setenv("LTX_OUTPUT", "/somewhere/else")
    assert spec().config["root"] == "/somewhere/else"
    assert spec("root=here").config["root"] == "here"
