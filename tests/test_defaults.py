"""A person's own defaults file: it stands in the place of run.yaml's values, and everything else wins over it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY, Result, only, tree

import ltx as package
from ltx.cli import main
from ltx.config import defaults
from ltx.config.compose import compose
from ltx.config.spec import Spec

Ltx = Callable[..., Result]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that LTX_DEFAULTS names."""
    monkeypatch.setenv("LTX_DEFAULTS", str(tmp_path / "mine.yaml"))
    return tmp_path / "mine.yaml"


def composed(*words: str, folders: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the config of some words under the file."""
    return Spec.of(compose([*words], [*folders], defaults.read())).config


def test_its_values_are_those_of_a_run_unless_the_command_line_says_otherwise(file: Path) -> None:
    file.write_text("workers: 2\nseeds: 5\nwandb: {project: my own, mode: offline}\noptim: sgd\noptim.lr: 5e-2\n")
    config = composed("seeds=2", "width=2")
    assert (config["workers"], config["seeds"], config["width"]) == (2, 2, 2)
    assert config["wandb"] == {**compose([], [])["wandb"], "project": "my own", "mode": "offline"}
    assert (config["optim"]["name"], config["optim"]["lr"], config["optim"]["momentum"]) == ("sgd", 0.05, 0.9)
    assert composed("optim=adam", "optim.lr=.5")["optim"]["lr"] == 0.5


def test_a_key_has_what_the_file_sets_and_nothing_of_the_file(file: Path) -> None:
    file.write_text("workers: 1\noptim: {lr: 2e-3}\n")
    words = [compose(["width=2"], [], defaults.read()), compose(["width=2", "optim.lr=2e-3"], [])]
    assert Spec.of(words[0]).key == Spec.of(words[1]).key


def test_the_file_is_where_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ltx: Ltx, root: Path
) -> None:
    for place in (tmp_path / "home" / ".config", tmp_path / "xdg"):
        (place / "ltx").mkdir(parents=True)
        (place / "ltx" / "run.yaml").write_text(f"seeds: {len(place.name)}\n")
    (tmp_path / "named.yaml").write_text("seeds: 6\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("LTX_DEFAULTS")
    assert defaults.read().values == {"seeds": 7}
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert defaults.read().values == {"seeds": 3}
    monkeypatch.setenv("LTX_DEFAULTS", str(tmp_path / "named.yaml"))
    assert defaults.read().values == {"seeds": 6}
    monkeypatch.setenv("LTX_DEFAULTS", "")
    assert defaults.read() == defaults.NONE
    monkeypatch.setenv("LTX_DEFAULTS", "nowhere.yaml")
    result = ltx("run", *TINY)
    assert result.code == 2 and "LTX_DEFAULTS=nowhere.yaml is not a file" in result.err and not root.exists()


BAD = [
    ("sedes: 3", "'sedes' is not a key of a run; did you mean 'seeds'?"),
    ("workers: two", "workers=two: should be a whole number"),
    ("width: -1", "width=-1: should be greater than 0"),
    ("wandb: {projct: x}", "wandb.projct is not a field of wandb; did you mean 'project'?"),
    ("wandb: mine", "wandb=mine should be fields with their values: mode, project"),
    ("wandb.mode: of", "wandb.mode=of is unknown"),
    ("optim: sdg", "optim=sdg is unknown; did you mean 'sgd'?"),
    ("optim: [sgd]", "optim=[sgd] should be a name"),
    ("optim: {lrr: 1}", "optim.lrr is a field of no optim; did you mean 'lr'?"),
    ("optim: {lr: fast}", "optim.lr=fast: should be a number. optim.lr: from FILE."),
    ("device: cuda:99", "device: from FILE."),
    ("trunk: {method: imp}", "trunk belongs to a command"),
    ("of: some", "of belongs to a command"),
    ("hydra: {mode: MULTIRUN}", "'hydra' is not a key of a run"),
    ("seeds: 2020-01-01", "seeds=2020-01-01 is neither a number nor a text"),
    ("seeds: [1\nwidth: 2", "FILE, line 2 is not yaml"),
    ("- seeds", "FILE should hold lines like `workers: 2`, not a list"),
]


@pytest.mark.parametrize(("text", "said"), BAD, ids=[text for text, _ in BAD])
def test_a_bad_file_is_one_paragraph_that_names_it_and_the_key(
    text: str, said: str, file: Path, ltx: Ltx, tmp_path: Path
) -> None:
    file.write_text(text)
    before = tree(tmp_path)
    result = ltx("run", *TINY)
    assert result.code == 2 and str(file) in result.err and said.replace("FILE", str(file)) in result.err
    assert result.err.count(str(file)) == 1 and len(result.err.strip().splitlines()) == 1
    assert result.out == "" and tree(tmp_path) == before


def test_bytes_that_are_no_text_are_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    for command in ("status", "run"):
        assert main([command]) == 2
        assert f"{file} cannot be read as yaml" in capsys.readouterr().err


def test_a_value_that_the_command_line_replaces_is_not_blamed_on_the_file(file: Path, ltx: Ltx) -> None:
    file.write_text("optim.lr: .1\n")
    result = ltx("run", *TINY, "optim.lr=fast")
    assert result.code == 2 and str(file) not in result.err


def test_a_field_counts_for_the_classes_that_have_it(file: Path) -> None:
    file.write_text("method: {levels: 3, density: .3}\noptim.momentum: .8\nmodel: mlp\nmodel.hidden: [9, 9, 9]\n")
    assert composed()["method"]["levels"] == 3 and "density" not in composed()["method"]
    assert composed("method=dense")["method"] == {"name": "dense"}
    search = composed("method=edge_popup")
    assert search["method"]["density"] == 0.3 and search["optim"]["momentum"] == 0.8
    assert composed("model=convnet")["model"]["channels"] == [16, 32, 64]
    assert composed()["model"]["hidden"] == [9, 9, 9]


def test_what_a_method_needs_and_an_experiment_fixes_win_over_it(file: Path, tmp_path: Path) -> None:
    file.write_text("optim: adamw\noptim.lr: .5\nmodel.bias: true\nseeds: 9\n")
    plain = compose(["method=biprop"], [])
    assert composed("method=biprop")["optim"] == Spec.of(plain).config["optim"]
    assert composed("method=biprop")["model"]["bias"] is False
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\noptim: {lr: 0.25}\nseeds: 2\n"
    (tmp_path / "conf" / "experiment" / "fixed.yaml").write_text(text)
    config = composed("experiment=fixed", folders=(str(tmp_path / "conf"),))
    assert (config["optim"]["name"], config["optim"]["lr"], config["seeds"]) == ("adamw", 0.25, 2)


def test_a_named_sweep_wins_over_it(file: Path, ltx: Ltx) -> None:
    file.write_text("width: 9\nmethod: dense\nseeds: 1\n")
    said = ltx("run", "experiment=width", "--dry-run").out
    assert [line.split()[0] for line in said.splitlines()[1:6]] == [
        f"width={w}" for w in ("0.25", "0.5", "1", "2", "4")
    ]
    assert [line.split()[1] for line in said.splitlines()[1:6]] == ["0/1"] * 5 and said.endswith(f"defaults: {file}\n")


def test_a_trunk_is_what_the_command_line_fixes_and_its_control_follows_it(file: Path) -> None:
    file.write_text("method: {levels: 7, trunk_seed: 3}\nmodel: mlp\nmodel.hidden: [9, 9]\noptim: {steps: 99}\n")
    config = composed("method=control", "trunk={method:imp,method.levels:2,model:lenet,optim.steps:30}")
    assert (config["trunk"]["method"]["levels"], config["trunk"]["optim"]["steps"]) == (2, 30)
    assert config["method"]["levels"] == 2 and config["method"]["trunk_seed"] is None
    assert config["model"] == config["trunk"]["model"] and config["model"]["name"] == "lenet"
    assert config["optim"] == config["trunk"]["optim"]


def test_a_finished_run_keeps_its_config_as_a_trunk(file: Path, finished: Path, root: Path) -> None:
    words = ("method=control", f"of={finished.name}", f"root={root}")
    file.write_text("")
    before = composed(*words)
    file.write_text(
        "width: 2\nmodel: mlp\nmodel.hidden: [9, 9]\noptim: sgd\noptim.lr: .5\ndata.shift: 1\n"
        "streams: {init: 4}\nmethod: {levels: 7}\nseeds: 4\n"
    )
    assert composed(*words) == {**before, "seeds": 4}
    assert composed(*words, "optim.lr=.25")["optim"]["lr"] == 0.25


def test_cfg_and_dry_run_show_its_values_and_where_they_are_from(file: Path, ltx: Ltx) -> None:
    file.write_text("threads: 3\noptim.momentum: .8\n")
    said = ltx("run", *TINY, "--cfg", "job", "--resolve").out
    config = yaml.safe_load(said)
    assert said.startswith(f"# defaults from {file}\n") and config["threads"] == 3 and "momentum" not in config["optim"]
    dry = ltx("run", *TINY, "--dry-run").out
    assert "threads: 3" in dry and dry.endswith(f"defaults: {file}\n")
    file.write_text("")
    assert "defaults" not in ltx("run", *TINY, "--dry-run").out + ltx("run", *TINY, "--cfg", "job").out


def test_its_root_is_that_of_every_command_and_the_environment_and_the_command_line_win(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        assert main([*words]) == 0
        return capsys.readouterr().out

    monkeypatch.setenv("HOME", str(tmp_path))
    file.write_text("root: ~/mine\n")
    assert f"{tmp_path}/mine/runs" in said("status") and f"run: {tmp_path}/mine/runs" in said("run", "--dry-run")
    monkeypatch.setenv("LTX_OUTPUT", "environment")
    assert "under environment/runs" in said("status") and "run: environment/runs" in said("run", "--dry-run")
    assert "under typed/runs" in said("status", "root=typed")
    assert "run: typed/runs" in said("run", "root=typed", "--dry-run")


def test_a_figure_takes_its_plumbing_alone(file: Path, monkeypatch: pytest.MonkeyPatch, ltx: Ltx) -> None:
    file.write_text("workers: 0\nseeds: 2\nwidth: 3\noptim.lr: 1\nwandb: {project: it's mine}\n")
    asked: list[list[str]] = []

    def make(name: str, words: list[str], command: list[str]) -> tuple[int, dict[str, Any]]:
        asked.append(words)
        return 0, {"lines": [], "path": ""}

    monkeypatch.setattr("ltx.figures.make.make", make)
    assert ltx("figure", "imp", "seeds=4").code == 0
    ((*mine, root, seeds),) = asked
    assert mine == ["workers=0", r"wandb.project='it\'s mine'"] and root[:5] == "root=" and seeds == "seeds=4"
    assert compose(mine, [])["wandb"]["project"] == "it's mine"


def test_python_takes_it_and_the_manifest_says_so(file: Path, root: Path) -> None:
    file.write_text(f"workers: 0\nseeds: 1\nroot: {root}\noptim: {{steps: 2}}\ndata: {{split_seed: 3}}\n")
    run = package.run("method=dense", "width=.05")
    assert run.path == only(root) and list(run.summary["seed"]) == [0] and run.config["optim"]["steps"] == 2
    (command,) = json.loads((run.path / "manifest.json").read_text())["commands"]
    assert command["command"][:3] == [f"LTX_DEFAULTS={file}", "ltx", "run"]
    assert package.load_data().fingerprint() == package.load_data(split_seed=3).fingerprint()
