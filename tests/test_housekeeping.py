"""What one does around runs: `ltx where`, `ltx doctor`."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY, Result

from ltx.config.compose import CONF

Ltx = Callable[..., Result]


def test_where_prints_the_directory_of_the_run_and_nothing_else(ltx: Ltx, finished: Path) -> None:
    assert ltx("where", *TINY) == Result(0, f"{finished}\n", "")
    assert ltx("where", *TINY, "seeds=7", "workers=2").out == f"{finished}\n", "more seeds extend the same run"


def test_where_writes_nothing_and_asks_for_no_device(
    ltx: Ltx, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "locked").mkdir(mode=0o500)
    here = ltx("where", "method=dense", "device=cuda", f"root={tmp_path / 'locked' / 'new'}")
    there = ltx("where", "method=dense")
    assert here.code == there.code == 0
    assert Path(here.out).name == Path(there.out).name and there.out.startswith(f"{root}/runs/dense-lenet-digits-w1-")
    assert not root.exists() and not [*Path().iterdir()]


def test_where_prints_a_line_for_each_point_of_a_sweep(ltx: Ltx, root: Path) -> None:
    words = ("method=dense,imp", "width=.05,.1")
    lines = ltx("where", "-m", *words).out.splitlines()
    single = [ltx("where", f"method={m}", f"width={w}").out.strip() for m in ("dense", "imp") for w in (".05", ".1")]
    assert lines == single and len(set(lines)) == 4
    zipped = ltx("where", "-m", *words, "zip=method,width", "plot=width").out.splitlines()
    assert zipped == [single[0], single[3]]


def test_where_takes_defaults_and_yamls_of_ones_own(ltx: Ltx, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine/method").mkdir(parents=True)
    Path("mine/method/few.yaml").write_text((CONF / "method" / "imp.yaml").read_text())
    Path("run.yaml").write_text("optim: {steps: 30}\n")
    plain, other = (ltx("where", "method=imp", *words).out for words in (["optim.steps=30"], []))
    monkeypatch.setenv("LTX_DEFAULTS", "run.yaml")
    assert ltx("where", "--config-dir", "mine", "method=few").out == plain != other


def checks(result: Result) -> dict[str, dict[str, str]]:
    """Return what `ltx doctor --json` found, by check."""
    return {one.pop("check"): one for one in json.loads(result.out)["checks"]}


def test_doctor_tells_of_every_check_and_leaves_nothing_behind(ltx: Ltx, root: Path, tmp_path: Path) -> None:
    result = ltx("doctor", "--json")
    found = checks(result)
    assert result.code == 0 and json.loads(result.out)["runs_possible"] is True
    assert found["torch"]["said"] == version("torch") and found["ltx"]["said"] == version("ltx")
    for name in (
        "machine",
        "output",
        "disk of outputs",
        "disk of images",
        "wandb mode",
        "command sbatch",
        "package ray",
    ):
        assert found[name]["said"] and found[name]["state"] in ("ok", "note")
    assert str(root) in found["output"]["said"] and not root.exists()
    assert not [*tmp_path.glob(".ltx-*")]
    table = ltx("doctor").out
    assert all(name in table for name in found)
    assert all(bool(one["remedy"]) == (one["state"] != "ok") for one in found.values())


def test_doctor_knows_whether_there_is_a_key_and_does_not_print_it(ltx: Ltx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", "/nowhere")
    assert checks(ltx("doctor", "--json"))["wandb mode"]["said"] == "offline; no key was found"
    monkeypatch.setenv("WANDB_API_KEY", "5ec7e7")
    result = ltx("doctor", "--json")
    assert checks(result)["wandb mode"]["said"] == "online; a key was found" and "5ec7e7" not in result.out
    monkeypatch.setenv("WANDB_MODE", "onlien")
    assert checks(ltx("doctor", "--json"))["wandb mode"]["state"] == "problem"


def test_doctor_compares_versions_with_those_asked_for_and_tested(
    ltx: Ltx, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own, asked = version("numpy"), ["numpy>=99", "torch>=2", "wandb", "nothing-of-this-name>=1", "absent; extra == 'x'"]
    (tmp_path / "constraints.txt").write_text(f"# tested\nnumpy=={own}\ntorch==1.0.0\n")
    monkeypatch.setattr("ltx.runs.doctor.CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setattr("ltx.runs.doctor.requires", lambda name: asked)
    result = ltx("doctor", "--json")
    found = checks(result)
    assert result.code == 3 and "output" not in found, "without a library the checks that need it are left out"
    assert found["nothing-of-this-name"] == {
        "state": "problem",
        "said": "not installed",
        "remedy": "pip install 'nothing-of-this-name>=1'",
    }
    assert found["numpy"]["state"] == found["torch"]["state"] == "note" and found["wandb"]["state"] == "ok"
    assert ">=99" in found["numpy"]["said"] and found["torch"]["remedy"] == "pip install torch==1.0.0"
    assert "absent" not in found
    assert "no run is possible" in ltx("doctor").out


def test_doctor_calls_a_root_that_cannot_be_used_a_problem(
    ltx: Ltx, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = ltx("doctor", "--json", "root=/proc/none")
    assert result.code == 3 and checks(result)["output"]["state"] == "problem"
    with monkeypatch.context() as patch:
        patch.setattr("ltx.store.claims.Claim.attempt", lambda claim: True)
        patch.setattr("ltx.store.claims.Claim.release", lambda claim: None)
        assert "two processes" in checks(ltx("doctor", "--json"))["output"]["said"]
    for free, state in ((5e8, "note"), (5e5, "problem")):
        monkeypatch.setattr("shutil.disk_usage", lambda place, free=free: SimpleNamespace(free=free))
        found = checks(ltx("doctor", "--json"))
        assert found["disk of outputs"]["state"] == state and found["disk of images"]["state"] == "note"


def test_doctor_names_the_gpus_or_why_torch_sees_none(ltx: Ltx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    found = checks(ltx("doctor", "--json"))
    assert found["device"]["state"] == "note" and "nvidia-smi" in found["device"]["said"]
    assert found["command squeue"] == {"state": "ok", "said": "/bin/squeue", "remedy": ""}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    card = SimpleNamespace(name="Card", total_memory=24e9)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: card)
    found = checks(ltx("doctor", "--json"))
    assert "device" not in found and found["cuda:1"]["said"].startswith("Card, 24.0 GB; torch is built")
