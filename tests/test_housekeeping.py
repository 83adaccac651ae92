"""What one does around runs: `ltx where`, `ltx doctor`, `ltx clean`, `ltx tag`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY, Result, tree

from ltx.config.compose import CONF
from ltx.store.claims import Claim, living
from ltx.store.files import host
from ltx.store.seeds import SeedFolder
from ltx.store.sweeps import Record, SweepFolder, SweepPoint
from ltx.store.tags import tags

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
    assert found["torch"]["said"].startswith(version("torch")) and found["ltx"]["said"] == version("ltx")
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


def fail(folder: Path) -> SeedFolder:
    """Let a seed have failed with a checkpoint left."""
    seed = SeedFolder(folder)
    folder.mkdir(exist_ok=True)
    seed.failure_path.write_text('{"level": 1, "step": 3, "reason": "it diverged"}')
    seed.partial_path.write_bytes(b"0" * 1000)
    return seed


def dead_pid() -> int:
    """Return the number of a process that has ended."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_clean_removes_what_failed_and_nothing_else(ltx: Ltx, finished: Path, root: Path) -> None:
    before = tree(root)
    failed = fail(finished / "seed_002")
    fail(finished / "seed_001").failure_path.unlink()  # a checkpoint alone is of a level under way
    size = 1000 + failed.failure_path.stat().st_size
    result = ltx("clean", "--failed", "--yes")
    assert result.code == 0 and "failure of seed 2" in result.out and f"{size:,} bytes in all" in result.out
    assert not failed.failure_path.exists() and not failed.partial_path.exists()
    (finished / "seed_001" / "partial.safetensors").unlink()
    (finished / "seed_002").rmdir()
    assert tree(root) == before
    assert "nothing to remove" in ltx("clean", "--failed", "--yes").out


def test_clean_removes_what_is_left_of_levels_under_way(ltx: Ltx, finished: Path, root: Path, tmp_path: Path) -> None:
    before = tree(root)
    ours, theirs = f".{host()}.{dead_pid()}.0a1b2c", f".{host()}.{os.getpid()}.0a1b2c"
    (finished / "seed_000" / "partial.safetensors").write_bytes(b"0" * 1000)
    (finished / "seed_000" / f".level_01.safetensors{ours}").write_bytes(b"0" * 200)
    (finished / f".summary.csv{ours}").write_bytes(b"0" * 30)
    (finished / f".summary.csv{theirs}").write_bytes(b"living")
    (finished / "seed_000" / "level_01.safetensors.damaged-0a1b2c").write_bytes(b"0" * 4)
    (root / "sweeps" / "sweep-0a1b2c3d.damaged-0a1b2c" / "below").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file.damaged-0a1b2c").write_text("of another root")
    (finished / "plots" / "link").symlink_to(tmp_path / "elsewhere")
    result = ltx("clean", "--partial", "--yes")
    assert result.code == 0 and result.out.splitlines()[-1] == "1,234 bytes in all"
    assert (finished / f".summary.csv{theirs}").read_bytes() == b"living"
    (finished / f".summary.csv{theirs}").unlink()
    assert (tmp_path / "elsewhere" / "file.damaged-0a1b2c").exists()
    (finished / "plots" / "link").unlink()
    (root / "sweeps").rmdir()
    assert tree(root) == before


def test_clean_asks_on_a_terminal_and_without_one_removes_nothing(
    ltx: Ltx, finished: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(root)
    refused = ltx("clean", finished.name)
    assert refused.code == 2 and "--yes" in refused.err and finished.name in refused.out and tree(root) == before
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    for answer in ("", "n", "no"):
        monkeypatch.setattr("builtins.input", lambda prompt, answer=answer: answer)
        assert ltx("clean", finished.name).code == 0 and tree(root) == before

    def grown(prompt: str) -> str:
        (finished / "seed_000" / "more").write_text("more")
        return "y"

    monkeypatch.setattr("builtins.input", grown)
    assert "changed meanwhile" in ltx("clean", finished.name).err and finished.exists()
    assert ltx("clean", finished.name).code == 0 and not [*(root / "runs").iterdir()]


def test_clean_names_the_sweeps_that_list_a_run(ltx: Ltx, finished: Path, root: Path) -> None:
    sweep = SweepFolder(root / "sweeps" / "widths-01234567")
    sweep.begin(Record(None, [SweepPoint(finished.name, {}, [0], 1)], [], ""))
    result = ltx("clean", finished.name[-8:], "--yes")
    assert result.code == 0 and "widths-01234567" in result.out and not finished.exists() and sweep.is_sweep()
    assert ltx("show", "widths-01234567").code == 0


def test_clean_leaves_what_a_living_process_works_on(ltx: Ltx, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltx.store.claims.PATIENCE", 0.3)
    failed = fail(finished / "seed_001")
    claim = Claim(failed.claim_path)
    assert claim.attempt()
    try:
        kept = ltx("clean", "--failed", "--partial", "--yes")
        assert kept.code == 0 and "works on it" in kept.err and "nothing to remove" in kept.out
        refused = ltx("clean", finished.name, "--yes")
        assert refused.code == 2 and f"process {os.getpid()}" in refused.err and failed.failure_path.exists()
    finally:
        claim.release()
    failed.claim_path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "counter": 3}))
    assert ltx("clean", "--failed", "--yes").code == 0, "a claim that does not move is a dead one's"
    assert not failed.failure_path.exists() and not failed.claim_path.exists()


def test_clean_leaves_a_run_that_a_command_under_way_has_still_to_work_on(ltx: Ltx, finished: Path, root: Path) -> None:
    state = {"pid": os.getpid(), "host": socket.gethostname(), "title": "widths", "share": 0.5, "eta_seconds": None}
    state |= {"done": 0, "jobs": 1, "running": 0, "failed": 0}
    (root / "progress").mkdir(exist_ok=True)
    for key, said in ((finished.name, "works on"), ("dense-lenet-digits-w1-01234567", "has still to begin")):
        (root / "progress" / "1.json").write_text(json.dumps({**state, "runs": [key]}))
        result = ltx("clean", finished.name, "--yes")
        assert result.code == 2 and said in result.err and "widths" in result.err and finished.exists()


def test_a_living_claim_is_one_that_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltx.store.claims.PATIENCE", 0.5)
    beating, still = tmp_path / "beating", tmp_path / "still"
    for path in (beating, still):
        path.write_text(json.dumps({"host": "elsewhere", "command": 7, "counter": 0}))
    stop = threading.Event()

    def beat() -> None:
        counter = 0
        while not stop.wait(0.02):
            counter += 1
            beating.write_text(json.dumps({"host": "elsewhere", "command": 7, "counter": counter}))

    thread = threading.Thread(target=beat)
    thread.start()
    found = living([beating, still, tmp_path / "none"])
    stop.set()
    thread.join()
    assert found == {beating: "process 7 on elsewhere"} and still.exists()


def test_clean_keeps_a_trunk_unless_what_stands_on_it_goes_too(
    ltx: Ltx, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("width=.05", "optim.steps=5", "seeds=1", "method=control", "method.kind=ticket")
    assert ltx("run", *words, "trunk={method:imp,method.levels:1}").code == 0
    trunk, above = (next((root / "runs").glob(f"{method}-*")) for method in ("imp", "control"))
    lookalike = root / "runs" / f"{trunk.name[:-8]}01234567"
    shutil.copytree(trunk, lookalike)
    refused = ltx("clean", trunk.name, "--yes")
    assert refused.code == 2 and above.name in refused.err and trunk.exists()
    assert ltx("clean", lookalike.name, "--yes").code == 0 and not lookalike.exists()
    for path in above.glob("seed_*/level_*"):
        path.unlink()
    assert ltx("clean", trunk.name, "--yes").code == 2, "before it has a level, its config names the trunk"
    with monkeypatch.context() as patch:
        patch.setattr("ltx.runs.cleaning.erase", lambda path: os.stat(path / "nothing") if path == above else None)
        result = ltx("clean", trunk.name, above.name, "--yes")
    assert result.code == 3 and f"{trunk.name}: run, 2 level files (after one that stays)" in result.err
    result = ltx("clean", trunk.name, above.name, "--yes")
    assert result.code == 0 and result.out.index(above.name) < result.out.index(trunk.name)
    assert not [*(root / "runs").iterdir()]


def test_clean_removes_a_link_and_not_what_it_leads_to(ltx: Ltx, finished: Path, root: Path, tmp_path: Path) -> None:
    away = tmp_path / "away" / "runs" / finished.name
    shutil.copytree(finished, away)
    shutil.rmtree(finished)
    finished.symlink_to(away)
    fail(away / "seed_001")
    before = tree(away)
    assert "nothing to remove" in ltx("clean", "--failed", "--partial", "--yes").out
    assert "does not lie in" in ltx("clean", str(away), "--yes").err
    assert ltx("clean", finished.name, "--yes").code == 0
    assert not os.path.lexists(finished) and tree(away) == before


def test_clean_says_what_could_not_be_removed(ltx: Ltx, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", refuse)
        result = ltx("clean", finished.name, "--yes")
    assert result.code == 3 and "Operation not permitted" in result.err
    assert "no runs" in ltx("status").out, "what is removed by half is no run any more"
    result = ltx("clean", "--partial", "--yes")
    assert result.code == 0 and "half removed" in result.out and not [*finished.parent.iterdir()]


def test_tags_are_kept_beside_a_run_and_shown(ltx: Ltx, finished: Path, root: Path) -> None:
    before = tree(root)
    assert "tags" not in ltx("status").out
    assert ltx("tag", finished.name, "good", "for_Fig.1", "good").out == f"{finished.name}: good for_Fig.1\n"
    assert ltx("tag", finished.name[-8:], "later").code == 0
    assert {name: content for name, content in tree(root).items() if name in before} == before
    assert tree(root).keys() - before.keys() == {f"runs/{finished.name}/tags.json"}
    assert "tags: good for_Fig.1 later" in ltx("show", finished.name).out.splitlines()
    head, _, line = ltx("status").out.splitlines()[1:4]
    assert "tags" in head.split() and "good for_Fig.1 later" in line
    assert json.loads(ltx("status", "--json").out)[0]["tags"] == ["good", "for_Fig.1", "later"]
    assert ltx("tag", finished.name, "--remove", "good", "later").out == f"{finished.name}: for_Fig.1\n"
    assert ltx("tag", finished.name, "--remove", "for_Fig.1").out == f"{finished.name}: no tags\n"
    assert "tags" not in ltx("status").out and tags(finished) == []


def test_status_lists_the_runs_that_have_a_tag(ltx: Ltx, finished: Path) -> None:
    other = finished.with_name(f"{finished.name[:-8]}01234567")
    shutil.copytree(finished, other)
    for path, word in ((finished, "good"), (other, "bad")):
        ltx("tag", path.name, word)

    def listed(*words: str) -> set[str]:
        return {entry["key"] for entry in json.loads(ltx("status", "--json", *words).out)}

    assert listed("tag=good") == listed("tag=good", "method=imp") == {finished.name}
    assert listed("tag=good,bad") == {finished.name, other.name} and not listed("tag=goo")
    assert not listed("tag=good", "method=dense")


def test_what_is_no_tag_in_the_file_is_left_out(ltx: Ltx, finished: Path) -> None:
    (finished / "tags.json").write_text(json.dumps({"tags": ["good", "a b", "\033[31m", 3, "x" * 65]}))
    assert tags(finished) == ["good"]
    (finished / "tags.json").write_text("not json")
    result = ltx("show", finished.name)
    assert result.code == 0 and "tags.json is not JSON" in result.err


def test_the_mirror_has_the_tags_after_those_of_the_config(
    ltx: Ltx, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr("ltx.report.mirror.begin", lambda *_, tags, **__: given.append(tags))
    ltx("tag", finished.name, "good", "mine")
    assert ltx("run", *TINY, "wandb.mode=offline", "wandb.tags=[mine,trial]").code == 0
    assert given == [["lenet", "digits", "mine", "trial", "good"]]
