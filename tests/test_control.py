"""Controls and trunks: each control differs from its ticket in one thing, and stands on the trunk it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from helpers import File, same

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.data import Dataset
from ltx.errors import BadInput
from ltx.runs.worker import run_seed
from ltx.store.folders import RunFolder
from ltx.tensors import under
from ltx.training.evaluate import calibration, reestimate

BASE = ["width=.1", "optim.steps=12", "optim.batch=20", "seeds=2"]
TRUNK = "trunk={method:imp,method.levels:2,method.rewind:4}"
KINDS = ("ticket", "reinit", "reinit_signs", "signed_constant", "shuffle", "random", "data_order", "untrained")


def run(root: Path, *words: str, seed: int = 0) -> tuple[RunFolder, Spec]:
    """Train one seed of a run in this process."""
    spec = Spec.of(compose([*BASE, *words, f"root={root}"], []))
    run_seed(spec.config, str(spec.directory), seed, lambda kind, value: None)
    return RunFolder(spec.directory), spec


def level(folder: RunFolder, number: int, seed: int = 0) -> File:
    found = folder.seed(seed).read_level(number)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """An IMP chain of a BatchNorm network and every control on it."""
    root = tmp_path_factory.mktemp("controls")
    folders = {"imp": run(root, "model=mlp", "method=imp", "method.levels=2", "method.rewind=4")[0]}
    for kind in KINDS:
        folders[kind] = run(root, "model=mlp", "method=control", f"method.kind={kind}", TRUNK)[0]
    return folders


@pytest.mark.parametrize("number", [1, 2])  # level 0 of the trunk went through the anchor with its optimiser
def test_the_ticket_control_is_its_trunk_again(chains: dict[str, RunFolder], number: int) -> None:
    trunk, again = level(chains["imp"], number), level(chains["ticket"], number)
    assert same(under("end", trunk[0]), under("end", again[0]))
    assert same(under("mask", trunk[0]), under("mask", again[0]))
    assert trunk[1]["row"] == again[1]["row"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_keeps_the_counts_and_differs_from_the_ticket_in_one_thing(
    chains: dict[str, RunFolder], kind: str
) -> None:
    ticket, control = level(chains["ticket"], 2)[0], level(chains[kind], 2)[0]
    masks = under("mask", ticket), under("mask", control)
    assert [int(m.sum()) for m in masks[0].values()] == [int(m.sum()) for m in masks[1].values()]
    changed = {part for part in ("begin", "mask", "end") if not same(under(part, ticket), under(part, control))}
    expected: dict[str, set[str]] = {"ticket": set(), "data_order": {"end"}, "untrained": {"end"}}
    expected |= {name: {"begin", "mask", "end"} for name in ("shuffle", "random")}
    assert changed == expected.get(kind, {"begin", "end"})


def test_a_reinitialised_ticket_trains_from_step_0_with_another_draw(chains: dict[str, RunFolder]) -> None:
    fresh, again = level(chains["reinit"], 1)[0], level(chains["reinit"], 2)[0]
    dense = level(chains["imp"], 0)[0]
    for name, mask in under("mask", again).items():
        assert torch.equal(again[f"begin/{name}"] * mask, again[f"begin/{name}"])
        assert torch.equal(fresh[f"begin/{name}"] * mask, again[f"begin/{name}"])
        assert not torch.equal(dense[f"begin/{name}"] * mask, again[f"begin/{name}"])
        ratio = again[f"begin/{name}"][mask].std() / dense[f"begin/{name}"].std()
        assert 0.7 < ratio < 1.4, name
    first = min(r["step"] for r in chains["reinit"].seed(0).records())
    assert first < min(r["step"] for r in chains["ticket"].seed(0).records())


def test_signs_are_the_anchors_and_magnitudes_are_not(chains: dict[str, RunFolder]) -> None:
    anchor, init = under("anchor", level(chains["imp"], 0)[0]), under("begin", level(chains["imp"], 0)[0])
    for kind in ("reinit_signs", "signed_constant"):
        control = level(chains[kind], 2)[0]
        for name, mask in under("mask", control).items():
            begin = control[f"begin/{name}"]
            assert torch.equal(begin.sign(), anchor[name].sign() * mask), kind
            if kind == "signed_constant":
                assert torch.allclose(begin[mask].abs(), init[name].square().mean().sqrt())
            else:
                assert not torch.allclose(begin.abs(), (anchor[name] * mask).abs())


def test_random_masks_are_nested_and_shuffled_ones_independent(chains: dict[str, RunFolder]) -> None:
    nested = [under("mask", level(chains["random"], n)[0]) for n in (1, 2)]
    assert all(bool((nested[1][name] <= nested[0][name]).all()) for name in nested[0])
    shuffled = [under("mask", level(chains["shuffle"], n)[0]) for n in (1, 2)]
    assert not all(bool((shuffled[1][name] <= shuffled[0][name]).all()) for name in shuffled[0])


def test_an_untrained_ticket_keeps_its_weights_and_gets_statistics_of_its_own(chains: dict[str, RunFolder]) -> None:
    tensors, meta = level(chains["untrained"], 2)
    assert meta["row"]["step"] == 4 and meta["row"]["early_stop_step"] is None
    begin, end = under("begin", tensors), under("end", tensors)
    parameters = [name for name in begin if "running" not in name and "batches" not in name]
    assert all(torch.equal(begin[name], end[name]) for name in parameters)
    spec = Spec.of(compose([*BASE, "model=mlp", "method=dense"], []))
    network = spec.network()
    network.load_state_dict(begin)
    reestimate(network, {}, calibration(spec.data, spec.streams(0)))
    assert torch.allclose(network.state_dict()["norm1.running_mean"], end["norm1.running_mean"], atol=1e-6)
    assert not torch.allclose(begin["norm1.running_mean"], end["norm1.running_mean"])


def test_statistics_are_those_of_the_subset() -> None:
    spec = Spec.of(compose([*BASE, "model=mlp", "method=dense"], []))
    network, split = spec.network(streams=spec.streams(0)), spec.data.train
    network.train()
    momenta = network.norm1.momentum
    reestimate(network, {}, split)
    inputs = network.fc1(split.x.flatten(1))
    assert torch.allclose(network.norm1.running_mean, inputs.mean(0), atol=1e-5)
    assert torch.allclose(network.norm1.running_var, inputs.var(0), rtol=1e-4)
    assert network.training and network.norm1.momentum == momenta


def test_pretraining_starts_a_method_from_its_trunks_end(tmp_path: Path) -> None:
    words = ("method=imp", "method.levels=1", "trunk={method:dense,data.random_labels:true}")
    folder, spec = run(tmp_path, *words)
    assert spec.trunk is not None
    trunk = RunFolder(spec.trunk.directory)
    assert same(under("end", level(trunk, 0)[0]), under("begin", level(folder, 0)[0]))
    assert spec.trunk.config["data"]["random_labels"] is True
    assert spec.config["data"]["random_labels"] is None


def test_random_labels_permute_training_and_validation_alone() -> None:
    def data(*words: str) -> Dataset:
        return Spec.of(compose([*BASE, "method=dense", *words], [])).data

    true, random = data(), data("data.random_labels=true")
    assert torch.equal(true.test.y, random.test.y) and torch.equal(true.train.x, random.train.x)
    for a, b in ((true.train, random.train), (true.val, random.val)):
        assert torch.equal(a.y.bincount(), b.y.bincount())
        assert 0.02 < float((a.y == b.y).float().mean()) < 0.25


def test_of_pins_seed_and_level_of_a_finished_run(tmp_path: Path) -> None:
    imp, spec = run(tmp_path, "method=imp", "method.levels=2", seed=1)
    (imp.path / "config.yaml").write_text(yaml.safe_dump(spec.config))
    words = [f"of={imp.path.name}:1:2", f"root={tmp_path}", "method=control", "method.kind=ticket", "seeds=1"]
    control = Spec.of(compose(words, []))
    assert control.config["width"] == 0.1 and control.optim.steps == 12
    assert control.trunk is not None and control.trunk.key == spec.key
    run_seed(control.config, str(control.directory), 0, lambda kind, value: None)
    mine, trunk = level(RunFolder(control.directory), 0)[0], level(imp, 2, seed=1)[0]
    assert same(under("mask", mine), under("mask", trunk))
    with pytest.raises(BadInput, match="did you mean"):
        compose([f"of={imp.path.name}x", f"root={tmp_path}", "method=control"], [])


def test_the_key_covers_the_trunk_but_not_its_levels() -> None:
    def key(trunk: str, *words: str) -> str:
        return Spec.of(compose([*BASE, "method=control", f"trunk={{{trunk}}}", *words], [])).key

    assert key("method:imp,method.levels:2") == key("method:imp,method.levels:5")
    assert key("method:imp,method.levels:2") != key("method:imp,method.levels:2,method.rewind:1")
    assert key("method:imp") != key("method:imp", "streams.order=7")


def test_a_control_takes_the_optimiser_of_its_trunk_unless_given() -> None:
    def lr(*words: str) -> float:
        trunk = "trunk={method:imp,optim:sgd,optim.lr:0.5}"
        return Spec.of(compose([*BASE, "method=control", trunk, *words], [])).optim.lr

    assert lr() == 0.5
    assert lr("optim.lr=0.25") == 0.25


@pytest.mark.parametrize("search", ["edge_popup", "biprop", "supermask"])
def test_over_a_search_a_control_has_an_optimiser_for_weights_and_the_search_its_own(search: str) -> None:
    alone = Spec.of(compose(["method=" + search, *BASE], []))
    for words in ([], ["optim=adam", "optim.lr=0.01"]):
        for trunk in (f"method:{search}", f"method:{search},optim:sgd"):
            found = Spec.of(compose([*BASE, "method=control", f"trunk={{{trunk}}}", *words], []))
            assert found.trunk is not None and found.trunk.config["optim"] == alone.config["optim"]
            assert found.config["optim"]["name"] == "adam"
            assert found.optim.lr == (0.01 if words else 1.2e-3) and found.optim.steps == alone.optim.steps


def test_a_trunk_on_another_group_does_not_take_over_fields_it_lacks() -> None:
    words = ["optim=sgd", "optim.momentum=0.5", "trunk={method:imp,optim:adam}"]
    assert Spec.of(compose([*BASE, "method=control", *words], [])).trunk.config["optim"]["name"] == "adam"


def test_a_named_experiment_may_hold_the_trunk(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ntrunk: {method: imp, method.levels: 2}\n"
    (tmp_path / "experiment" / "standing.yaml").write_text(text)
    found = Spec.of(compose([*BASE, "method=control", "experiment=standing"], [str(tmp_path)]))
    assert found.trunk is not None and found.trunk.method.last_level == 2 and found.trunk.trunk is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=control"], "trunk="),
        (["method=control", "trunk=imp"], "trunk="),
        (["method=control", "trunk={method:imq}"], "did you mean 'imp'"),
        (["method=control", "trunk={method:imp,method.levls:3}"], "did you mean 'levels'"),
        (["method=control", "trunk={method:imp,method.levels:3}", "method.levels=4"], "levels 0 to 3"),
        (["method=control", "method.kind=shufle", "trunk={method:imp}"], "did you mean 'shuffle'"),
        (["method=control", "of=nothing"], "of=nothing: No run is named nothing"),
        (["method=control", "trunk={method:imp,width:.3}"], r"other shapes at fc1\.weight"),
        (["method=imp", "trunk={method:dense,width:.3}"], r"other shapes at fc1\.weight"),
        (["method=control", "model=mlp", "trunk={method:imp,model:lenet}"], "model is named twice"),
        (["method=control", "method.kind=data_order", "trunk={method:imp,method.retrain:lr_rewind}"], "retrain:rewind"),
    ],
)
def test_a_wrong_trunk_is_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Spec.of(compose([*BASE, *words], []))
