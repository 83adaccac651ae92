"""Joining a sweep from elsewhere: what is left to others, what is refused, and how it is cancelled everywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result, levels, soon, under_way

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.launch import cancel as launch_cancel
from ltx.launch.cancel import interrupted_when
from ltx.runs import sweep
from ltx.runs.capacity import Capacity
from ltx.runs.point import Point
from ltx.store.claims import Claim
from ltx.store.sweeps import SweepFolder, sweeps

SWEEP = ("width=.05,.1", "method.levels=1", "optim.steps=10", "seeds=2", "wandb.mode=disabled")
Ltx = Callable[..., Result]


@pytest.fixture
def begun(root: Path) -> SweepFolder:
    """Return a sweep of two points that was begun, and of which nothing is trained."""
    points = [[f"width={width}", *SWEEP[1:], f"root={root}"] for width in (0.05, 0.1)]
    specs = [Spec.of(compose(words, [])) for words in points]
    place = sweep.folder(specs, None)
    record = sweep.record(specs, sweep.labels(specs, points), ["ltx", "run", "-m", *SWEEP], None)
    sweep.begin(place, record, specs)
    return place


def edited(place: SweepFolder, change: Callable[[dict], None]) -> None:
    """Change what the file of a sweep's configs says."""
    told = json.loads(place.configs_path.read_text())
    change(told)
    place.configs_path.write_text(json.dumps(told))


def test_who_joins_trains_what_the_sweeps_own_command_would(ltx: Ltx, root: Path, begun: SweepFolder, tmp_path: Path):
    joined = ltx("work", begun.path.name, "workers=0")
    assert joined.code == 0, joined.err
    assert str(begun.path / "table.csv") in joined.out and (begun.path / "table.csv").is_file()
    assert begun.record().ended
    assert ltx("run", "-m", *SWEEP, f"root={tmp_path / 'alone'}").code == 0
    assert levels(root / "runs") == levels(tmp_path / "alone" / "runs") != {}
    commands = [json.loads(p.read_text())["commands"] for p in root.glob("runs/*/manifest.json")]
    assert [[c["command"][:3] for c in of] for of in commands] == [[["ltx", "run", "-m"]]] * 2


def test_a_local_sweep_can_be_joined_and_its_moved_root_is_the_new_one(ltx: Ltx, root: Path, tmp_path: Path):
    assert ltx("run", "-m", *SWEEP).code == 0
    before = levels(root / "runs")
    (place,) = sweeps(root)
    for path in root.glob("runs/*/seed_001/level_01.safetensors"):
        path.unlink()
    os.rename(root, tmp_path / "elsewhere")
    assert ltx("work", place.path.name, "workers=0", f"root={tmp_path / 'elsewhere'}").code == 0
    assert levels(tmp_path / "elsewhere" / "runs") == before and not root.exists()


def test_what_others_work_on_is_left_to_them_and_the_last_one_derives(ltx: Ltx, root: Path, begun: SweepFolder):
    wide = begun.run(begun.record().points[1])
    claim = Claim(wide.seed(1).claim_path, beat=0.05)
    assert claim.attempt()
    try:
        left = ltx("work", begun.path.name, "workers=0")
        assert left.code == 0, left.err
        assert "with others: 1 of 2 runs" in left.out and "ltx status" in left.out
        assert not (begun.path / "table.csv").exists() and not (wide.path / "plots").exists()
        assert {seed.seed for seed in wide.seeds() if seed.levels()} == {0}
        threading.Timer(0.5, claim.release).start()
        stayed = ltx("work", begun.path.name, "workers=0", "wait=true")
        assert stayed.code == 0 and (begun.path / "table.csv").exists(), stayed.err
    finally:
        if not claim.released.is_set():
            claim.release()
    assert (wide.path / "plots" / "levels.png").is_file()
    assert all(len(seed.levels()) == 2 for point in begun.record().points for seed in begun.run(point).seeds())


def test_who_could_train_what_stands_on_a_run_of_others_stays(root: Path):
    words = ["method=control", "trunk={method:imp,method.levels:1}", "width=.05", "seeds=1", f"root={root}"]
    spec = Spec.of(compose(words, []))
    trunk, top = sweep.expand([spec], [], None, leave=True).values()
    assert trunk.spec.key == spec.trunk.key and trunk.leave and top.leave
    (seed,) = trunk.seeds.values()
    seed.state, seed.waits, seed.claim.alive = "missing", True, True
    assert trunk.left and not top.left
    schedule = sweep.Schedule({"trunk": trunk, "top": top}, False, Capacity(spec.config))
    assert not schedule.finished()
    (below,) = top.seeds.values()
    below.state, below.waits, below.claim.alive = "missing", True, True
    assert schedule.finished()
    seed.claim.alive = False  # a claim that was not seen to beat may be a dead one's
    assert not schedule.finished()


def test_a_killed_worker_of_who_joined_is_given_out_once_more(root: Path):
    spec = Spec.of(compose(["width=.05", "seeds=1", f"root={root}"], []))
    for leave, states in ((False, ["failed"]), (True, ["missing", "failed"])):
        point = Point(spec, [], leave=leave)
        for state in states:
            point.seeds[0].state = "running"
            said = point.handle(0, "killed", -9)
            assert "was killed (exit -9)" in said and point.seeds[0].state == state
            point.handle(0, "ended", None)
            assert point.seeds[0].state == state


def test_words_that_name_no_sweep_or_no_key_are_refused(ltx: Ltx, begun: SweepFolder):
    for words, said in (
        (("work",), "work takes one SWEEP"),
        (("cancel", "a", "b"), "cancel takes one SWEEP"),
        (("work", f"{begun.path.name}x"), f"did you mean '{begun.path.name}'?"),
        (("cancel", "nothing"), "there is no sweep 'nothing'"),
        (("work", begun.path.name, "worker=2"), "did you mean 'workers'?"),
        (("work", begun.path.name, "workers=two"), "workers"),
        (("work", begun.path.name, "workers=[1"), "a value is not plain"),
        (("work", begun.path.name, "device=tpu"), "device=tpu is unknown"),
    ):
        refused = ltx(*words)
        assert refused.code == 2 and said in refused.err, (words, refused.err)
    assert not levels(begun.root / "runs")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told.update(ltx="0.0.9"), "was begun by ltx 0.0.9"),
        (lambda told: told.update(configs=[]), "its own command, run again, begins it anew"),
        (lambda told: told["configs"].pop(), "are not of the same points"),
        (lambda told: told["configs"][0].update(width=0.2), "computes other numbers"),
    ],
)
def test_who_would_compute_other_numbers_is_refused(
    ltx: Ltx, begun: SweepFolder, change: Callable[[dict], None], said: str
):
    edited(begun, change)
    refused = ltx("work", begun.path.name, "workers=0")
    assert refused.code == 2 and said in refused.err and refused.err.count("\n") == 1
    assert not levels(begun.root / "runs")


def test_other_code_of_a_class_of_ones_own_is_refused_by_its_name(ltx: Ltx, root: Path, monkeypatch):
    net = "from torch import nn\n\n\ndef net(input_shape):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, {}))\n"
    Path("joined_net.py").write_text(net.format(10))
    words = ("model=own", "model.name=joined_net:net", "width=1", "optim.steps=2", "seeds=1", "method=dense")
    assert ltx("run", "-m", *words, "optim.lr=.1,.2").code == 0
    (place,) = sweeps(root)
    untrusted = ltx("work", place.path.name, "workers=0")
    assert untrusted.code == 2 and "joined_net:net" in untrusted.err and "trust=true" in untrusted.err
    assert ltx("work", place.path.name, "workers=0", "trust=true").code == 0
    Path("joined_net.py").write_text(net.format("10, bias=False"))
    monkeypatch.delitem(sys.modules, "joined_net")
    refused = ltx("work", place.path.name, "workers=0", "trust=true")
    assert refused.code == 2 and "the code of joined_net:net is not the one" in refused.err


@pytest.mark.parametrize(("hours", "said"), [(3, "3.0 hours ahead of"), (-2, "2.0 hours behind")])
def test_a_clock_that_is_hours_off_is_refused(ltx: Ltx, begun: SweepFolder, monkeypatch, hours: int, said: str):
    true = time.time
    monkeypatch.setattr("ltx.runs.joining.time.time", lambda: true() + hours * 3600)
    refused = ltx("work", begun.path.name, "workers=0")
    assert refused.code == 2 and said in refused.err and "set the clock" in refused.err


def test_a_sweep_of_the_future_was_begun_by_a_machine_with_another_clock(ltx: Ltx, begun: SweepFolder):
    told = json.loads(begun.record_path.read_text())
    begun.record_path.write_text(json.dumps({**told, "time": "2099-01-01T00:00:00Z"}))
    refused = ltx("work", begun.path.name, "workers=0")
    assert refused.code == 2 and "that of the machine that began the sweep" in refused.err


def test_a_cancelled_sweep_is_joined_by_nobody_until_its_own_command_begins_it_again(ltx: Ltx, begun: SweepFolder):
    assert ltx("cancel", begun.path.name).code == 0
    refused = ltx("work", begun.path.name, "workers=0")
    assert refused.code == 2 and "was cancelled by " in refused.err and not levels(begun.root / "runs")
    assert ltx("run", "-m", *SWEEP).code == 0
    assert not begun.cancelled() and len(levels(begun.root / "runs")) == 8


def test_cancelling_interrupts_what_is_under_way_once(monkeypatch, capsys):
    monkeypatch.setattr(launch_cancel, "LOOK_SECONDS", 0.01)
    with pytest.raises(KeyboardInterrupt), interrupted_when(lambda: "cancelled by ann"):
        signal.pause()
    with interrupted_when(lambda: None):
        time.sleep(0.05)
    assert capsys.readouterr().err == "ltx: cancelled by ann; ending.\n"


def test_a_sweep_under_way_is_cancelled_from_another_process_and_continued(ltx: Ltx, root: Path):
    words = ("-m", "width=.05,.06", "method.levels=1", "optim.steps=2000", "seeds=1", "wandb.mode=disabled")
    words += ("trainer.checkpoint_seconds=.1", f"root={root}", "workers=1")
    process = subprocess.Popen(
        [sys.executable, "-m", "ltx.cli", "run", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    soon(lambda: under_way(root))
    (place,) = sweeps(root)
    cancelled = ltx("cancel", place.path.name)
    assert cancelled.code == 0 and f"process {process.pid} on" in cancelled.out
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "cancelled by " in err, out + err
    assert not list(root.rglob("claim"))
