"""Every yaml composes, validates and builds; what is refused and how; a user's own classes and yaml files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize(("group", "name"), yamls())
def test_every_yaml_composes_validates_and_builds(group, name, own):
    overrides = [f"{group}={name}", "width=.1"]
    if name == "own":
        overrides.append(f"{group}.name={own}:{'Net' if group == 'model' else 'Data'}")
    if name == "own" and group == "model":
        overrides += ["data=own", f"data.name={own}:Data", "method=dense"]
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


REFUSED = [
    ("method=imq", "did you mean 'imp'"),
    ("model=lenett", "did you mean 'lenet'"),
    ("optim=adamm", "did you mean 'adam'"),
    ("data=digit", "did you mean 'digits'"),
    ("method=", "Known: "),
    ("~method", "method"),
    ("method={levels:2}", "method.FIELD=value"),
    ("method.name=imq", "did you mean 'imp'"),
    ("model.name=lenett", "package.module:Class"),
    ("optim.ga-ma=.1", "optim.ga-ma is not a field of optim=adam; did you mean 'gamma'?"),
    ("method.lvels=2", "did you mean 'levels'"),
    ("method.channels=2", "not a field of method=imp. Known: "),
    ("optim.momentum=.9", "not a field of optim=adam. Known: "),
    ("trainer.chunck=2", "did you mean 'chunk'"),
    ("streams.ordr=2", "did you mean 'order'"),
    ("wandb.projct=2", "did you mean 'project'"),
    ("sedes=2", "did you mean 'seeds'"),
    ("+foo=1", "'foo' is not a key of a run"),
    ("++method.foo=1", "method.foo is not a field"),
    ("foo.bar=1", "'foo' is not a key of a run"),
    ("seeds", "not key=value"),
    ("method=imp,dense", "-m"),
    ("width=1,2", "-m"),
    ("optim.lr=0.1,0.2", "-m"),
    ("width=abc", "valid number"),
    ("width=null", "valid number"),
    ("width=0", "greater than 0"),
    ("width=nan", "width=nan"),
    ("width=1e9", "cannot be built"),
    ("seeds=-1", "greater than or equal to 1"),
    ("seeds=[]", "at least 1"),
    ("seeds=[1,1]", "names a seed twice"),
    ("seeds=[-1]", "greater than or equal to 0"),
    ("seeds=1.5", "seeds=1.5"),
    ("threads=0", "greater than or equal to 1"),
    ("method.levels=true", "method.levels=True"),
    ("method.levels='2'", "method.levels=2"),
    ("method.fraction=1.5", "less than 1"),
    ("method.fraction=0", "greater than 0"),
    ("method.fraction={fc1:.2}", "method.scope=layer"),
    ("method.scope=layers", "did you mean 'layer'"),
    ("method.exclude=[fc9]", "did you mean 'fc"),
    ("method.exclude=['*']", "nothing to prune"),
    ("method.rewind=420", "past the end"),
    ("method.levels=60", "at most method.levels="),
    ("optim.lr=-1", "greater than 0"),
    ("optim.betas=[.9]", "two numbers"),
    ("optim.warmup=421", "longer than the run"),
    ("data.shift=9", "less than or equal to 4"),
    ("model.hidden=[300,0]", "greater than or equal to 1"),
    ("wandb.mode=of", "Known: disabled, offline, online"),
    ("trainer.precision=8", "Known: "),
    ("optim.lr=${nothing}", "nothing"),
    ("model=own", "model.name is missing"),
]


@pytest.mark.parametrize(("override", "said"), REFUSED)
def test_bad_values_are_refused_with_the_name_and_the_nearest_valid_one(override, said):
    with pytest.raises(BadInput) as refusal:
        spec(override)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["nomodule:Net", "MODULE:Nett", ":Net", "MODULE:"])
def test_an_own_class_that_is_not_there_is_named(name, own):
    name = name.replace("MODULE", own)
    with pytest.raises(BadInput, match=f"model.name={name}.*(package.module:Class|did you mean 'Net')"):
        spec("model=own", f"model.name={name}")


def test_an_own_class_is_its_own_schema(own):
    base = ("model=own", f"model.name={own}:Net", "data=own", f"data.name={own}:Data", "method=dense")
    assert spec(*base, "model.units=7", "width=2").network().first.out_features == 14
    with pytest.raises(BadInput, match=r"model.unit is not a field of .*did you mean 'units'"):
        spec(*base, "model.unit=7")
    with pytest.raises(BadInput, match=r"model.units=many: input should be a valid integer"):
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
