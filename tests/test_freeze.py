"""Searches on networks that have more than matrices: what stays as it was drawn, what is trained beside the scores."""

from __future__ import annotations

import copy
import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import spec, trained
from torch import Tensor, nn

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.errors import BadInput
from ltx.store.seeds import SeedFolder
from ltx.tensors import Tensors, matrices, norms, under

SEARCHES = ("edge_popup", "biprop", "supermask", "gem_miner")
OFTEN = {"gem_miner": ("method.freeze_every=3",)}
FREEZE, TRAIN = "method.freeze=true", "method.train_norms=true"
SHORT = ("optim.steps=12", "optim.batch=50", "optim.lr=.1", "optim.weight_decay=.01", "seeds=1", "trainer.chunk=5")


class OwnNorm(nn.LayerNorm):
    """A norm of the user's own that is one of torch's."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) * self.weight + self.bias


class Net(nn.Module):
    """A user's network with biases that are drawn, norms of both kinds, and a parameter that is neither."""

    def __init__(self, input_shape: tuple[int, ...], classes: int):
        super().__init__()
        self.fc1 = nn.Linear(math.prod(input_shape), 12)
        self.batch, self.slope = nn.BatchNorm1d(12), nn.PReLU()
        self.fc2, self.own = nn.Linear(12, 10), OwnNorm(10)
        self.fc3 = nn.Linear(10, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.batch(self.fc1(x.flatten(1))))
        return self.fc3(self.own(self.fc2(x)).relu())


class Switched(nn.Sequential):
    """A user's network that can be told to have no bias, and has no other switch."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, bias: bool = True):
        linear = nn.Linear(math.prod(input_shape), classes, bias)
        super().__init__(nn.Flatten(), linear, nn.BatchNorm1d(classes))


OWN = ("model=own", "model.name=test_freeze:Net", "model.init=null", *SHORT)  # null: biases are drawn, not zero
NORMS = {"batch.weight", "batch.bias", "own.weight", "own.bias"}
REST = {"fc1.bias", "fc2.bias", "fc3.bias", "slope.weight"}


def moved(folder: Path, *words: str) -> tuple[set[str], Tensors, dict[str, Any], Spec]:
    """Train one seed; return which parameters ended otherwise than they began, its tensors, its row, and its spec."""
    found = spec(*words)
    [(tensors, meta)] = trained(found, folder)
    begin, end = under("begin", tensors), under("end", tensors)
    names = [name for name, _ in found.network(device="meta").named_parameters()]
    return {n for n in names if not torch.equal(begin[n], end[n])}, tensors, meta["row"], found


@pytest.mark.parametrize("name", SEARCHES)
def test_what_is_frozen_ends_as_it_was_drawn_to_the_bit(name: str, tmp_path: Path) -> None:
    changed, tensors, row, found = moved(tmp_path, f"method={name}", *OFTEN.get(name, ()), *OWN, FREEZE)
    assert not changed and row["trained"] == 0 and 0 <= row["test_accuracy"] <= 1
    drawn = dict(found.network(streams=found.streams(0)).named_parameters())
    for parameter in NORMS | REST:
        assert torch.equal(tensors[f"end/{parameter}"], drawn[parameter]), parameter
    assert all(tensors[f"end/{bias}"].any() for bias in REST), "the constructor drew them, so that zero would show"


@pytest.mark.parametrize("name", SEARCHES)
def test_norms_are_trained_beside_the_scores_where_it_is_said_and_nothing_else_is(name: str, tmp_path: Path) -> None:
    changed, _, row, _ = moved(tmp_path, f"method={name}", *OFTEN.get(name, ()), *OWN, TRAIN)
    assert changed == NORMS and row["trained"] == 2 * (12 + 10)


def test_binary_activations_train_their_norms_and_not_their_biases(tmp_path: Path) -> None:
    binary = ("method=biprop", "model=mlp", "model.hidden=[12,8]", "model.activation=sign", "optim=adam")
    words = (*binary, *SHORT, "model.bias=true", "model.affine=true", TRAIN)
    changed, *_ = moved(tmp_path, *words)
    assert changed == {f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}


def test_the_parameters_of_a_norm_are_known_by_its_class() -> None:
    layers = {
        "batch": nn.BatchNorm2d(4),
        "instance": nn.InstanceNorm1d(4, affine=True),
        "layer": nn.LayerNorm((4, 3)),
        "group": nn.GroupNorm(2, 4),
        "root": nn.RMSNorm(4),
        "heir": OwnNorm(4),
        "plain": nn.BatchNorm1d(4, affine=False),
        "linear": nn.Linear(4, 4),
        "slope": nn.PReLU(),
    }
    network = nn.ModuleDict(layers)
    both = {f"{name}.{part}" for name in ("batch", "instance", "layer", "group", "heir") for part in ("weight", "bias")}
    assert set(norms(network)) == {*both, "root.weight"}
    assert matrices(network) == ["linear.weight"] and norms(nn.LayerNorm(3)) == ["weight", "bias"]


WAYS = {
    "nothing said, nothing to switch": (
        ("model.name=test_freeze:Net",),
        ["biases (fc1.bias, fc2.bias, fc3.bias)", "norms (batch.weight, batch.bias, own.weight, own.bias)"],
        ["slope.weight", FREEZE, TRAIN],
        ["model."],
    ),
    "a switch for one of the two": (
        ("model.name=test_freeze:Switched",),
        ["1.bias", "2.weight, 2.bias", "model.bias=false does without"],
        [FREEZE, TRAIN],
        ["affine=false"],
    ),
    "norms alone": (
        ("model.name=test_freeze:Switched", "model.bias=false"),
        ["2.weight, 2.bias"],
        [FREEZE, TRAIN],
        ["model.", "biases"],
    ),
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("case", WAYS)
def test_a_search_says_what_it_found_and_offers_only_what_is_there(name: str, case: str) -> None:
    words, found, ways, absent = WAYS[case]
    with pytest.raises(BadInput) as refused:
        spec(f"method={name}", "model=own", *words)
    assert all(part in str(refused.value) for part in found + ways), refused.value
    assert not any(part in str(refused.value) for part in absent), refused.value


def test_a_packaged_network_has_trained_norms_where_they_are_asked_for(tmp_path: Path) -> None:
    words = ("method=edge_popup", "model=convnet", "model.channels=[4,4]", *SHORT)
    with pytest.raises(BadInput, match=r"no affine norms: give model\.norm=batch and model\.affine=true"):
        spec(*words, TRAIN)
    with pytest.raises(BadInput, match=r"\(fc1\.bias, fc2\.bias, out\.bias\): method\.freeze=true .*model\.bias=false"):
        spec("method=edge_popup", "model.bias=true")
    with pytest.raises(BadInput) as refused:
        spec("method=edge_popup", "model.bias=true")
    assert TRAIN not in str(refused.value), "there are no norms that it could train"
    with pytest.raises(BadInput, match="give one of the two"):
        spec(*words, "model.affine=true", TRAIN, FREEZE)
    with pytest.raises(BadInput, match=r"method\.freeze=false is unknown\. Known: null, true"):
        spec(*words, "method.freeze=false")
    changed, _, row, _ = moved(tmp_path, *words, "model.affine=true", TRAIN)
    assert changed == {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"} and row["trained"] == 16


def test_a_config_written_before_these_fields_is_the_same_run() -> None:
    for name in SEARCHES:
        config = compose([f"method={name}"], [])
        before = copy.deepcopy(config)
        for field in ("freeze", "train_norms"):
            assert before["method"].pop(field) is None
        assert Spec.of(before).key == Spec.of(config).key


@pytest.mark.parametrize("kind", ["ticket", "untrained", "shuffle", "signed_constant"])
def test_a_control_over_such_a_search_begins_with_its_biases_and_its_trained_norms(kind: str, tmp_path: Path) -> None:
    below = (
        "{method:edge_popup,model:own,model.name:'test_freeze:Net',model.init:null,method.train_norms:true,optim.lr:.1}"
    )
    words = ("method=control", f"method.kind={kind}", f"trunk={below}", *SHORT[:2], "seeds=1", f"root={tmp_path}")
    control = spec(*words)
    [(search, _)] = trained(control.trunk, control.trunk.directory)
    [(tensors, meta)] = trained(control, control.directory)
    end = under("end", search)
    for parameter in NORMS | REST:
        same = torch.equal(tensors[f"begin/{parameter}"], end[parameter])
        drawn = kind == "signed_constant" and parameter != "slope.weight"  # which every draw begins at one value
        assert same != drawn, f"{parameter}: a signed constant draws anew what is no weight"
    assert "trained" not in meta["row"], "a control trains weights"
    assert (kind == "untrained") == torch.equal(tensors["begin/fc1.bias"], tensors["end/fc1.bias"])
    if kind == "ticket":
        binary = spec(*words, "method.binarise=true")
        [(tensors, _)] = trained(binary, binary.directory)
        assert all(torch.equal(tensors[f"begin/{parameter}"], end[parameter]) for parameter in NORMS | REST)


def test_how_many_parameters_were_trained_stands_in_summary_and_table(ltx: Any) -> None:
    result = ltx("run", "method=biprop", *OWN, TRAIN, "width=1")
    assert result.code == 0, result.err
    [row] = csv.DictReader((result.folder / "summary.csv").read_text().splitlines())
    assert row["trained"] == "44" and "trained: parameters of norms" in " ".join(result.out.split())
    assert SeedFolder(result.folder / "seed_000").levels() == [0]
