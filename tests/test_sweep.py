"""Sweeps: products and pairs, one pool, trunks first, and what is left when something fails or is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result, call, levels, start

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.report.tables import compared
from ltx.runs.capacity import Capacity
from ltx.runs.sweep import Schedule, expand, labels
from ltx.store.files import commit
from ltx.store.rows import Row

SMALL = ("method.levels=1", "optim.steps=10", "seeds=2")
Ltx = Callable[..., Result]


def results(root: Path) -> dict[str, bytes]:
    """Return every level file and summary of a root."""
    summaries = {str(p.relative_to(root)): p.read_bytes() for p in root.glob("runs/*/summary.csv")}
    return levels(root / "runs") | summaries


def spec(*words: str) -> Spec:
    return Spec.of(compose([*words], []))


def test_a_sweep_is_a_product_with_one_table_and_plot(ltx: Ltx, root: Path) -> None:
    result = ltx("run", "-m", *SMALL, "width=.05,.1", "method.rewind=0,2")
    assert result.code == 0, result.err
    assert len(list((root / "runs").iterdir())) == 4
    (place,) = (root / "sweeps").iterdir()
    assert (place / "sweep.png").read_bytes().startswith(b"\x89PNG") and str(place / "sweep.png") in result.out
    rows = list(csv.DictReader((place / "table.csv").open()))
    assert len(rows) == 4 * 2 * 2
    assert {(r["width"], r["method.rewind"]) for r in rows} == {
        ("0.05", "0"),
        ("0.05", "2"),
        ("0.1", "0"),
        ("0.1", "2"),
    }


def test_keys_in_zip_go_in_step(ltx: Ltx, root: Path) -> None:
    words = ("-m", "method=dense", "optim.steps=2", "seeds=1", "width=.05,.1", "optim.lr=.1,.2", "zip=width,optim.lr")
    assert ltx("run", *words).code == 0
    configs = [json.loads(p.read_text())["commands"] for p in root.glob("runs/*/manifest.json")]
    assert len(configs) == 2
    result = ltx("run", "-m", "method=dense", "width=.05,.1", "optim.lr=.1,.2,.3", "zip=width,optim.lr")
    assert result.code == 2


def test_a_named_sweep_needs_no_flag(ltx: Ltx, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "pair.yaml").write_text(
        "# @package _global_\noptim: {steps: 2}\nseeds: 1\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params: {method: dense, width: '.05,.1', optim.lr: '.1,.2'}\n"
        "    zip: [width, optim.lr]\n"
    )
    result = ltx("run", "--config-dir", str(folder.parent), "experiment=pair")
    assert result.code == 0, result.err
    assert len(list((root / "runs").iterdir())) == 2 and (root / "sweeps" / "pair" / "table.csv").exists()


def test_a_finished_sweep_trains_nothing_and_a_larger_one_only_what_is_new(ltx: Ltx, root: Path) -> None:
    assert ltx("run", "-m", *SMALL, "width=.05,.1").code == 0
    before = {path: path.stat().st_mtime_ns for path in (root / "runs").rglob("level_*")}
    assert ltx("run", "-m", *SMALL, "width=.05,.1,.15").code == 0
    after = {path: path.stat().st_mtime_ns for path in (root / "runs").rglob("level_*")}
    assert before.items() <= after.items() and len(after) == len(before) * 3 // 2


def test_a_trunk_is_run_once_and_before_what_stands_on_it() -> None:
    controls = [
        spec("method=control", f"method.kind={kind}", "trunk={method:imp,method.levels:2}", "seeds=2")
        for kind in ("reinit", "shuffle")
    ]
    trunk = spec("method=imp", "method.levels=1", "seeds=3")
    points = expand([*controls, trunk], [], None)
    assert [p.spec.config["method"]["name"] for p in points.values()] == ["imp", "control", "control"]
    merged = points[trunk.key].spec
    assert merged.seeds == [0, 1, 2] and merged.method.last_level == 2
    assert points[controls[0].key].trunk is points[trunk.key]


def test_a_dependant_waits_for_its_own_seed_of_the_trunk(tmp_path: Path) -> None:
    control = spec("method=control", "trunk={method:imp,method.levels:1}", "seeds=2", f"root={tmp_path}")
    points = expand([control], [], None)
    schedule = Schedule(points, False, Capacity(control.config))
    trunk, dependant = points.values()
    try:
        jobs = [schedule.next_job() for _ in range(3)]
        assert [job and job.arguments[2] for job in jobs] == [0, 1, None]
        for level in range(trunk.spec.method.last_level + 1):
            commit(trunk.folder.seed(1).level_path(level), b"")
        trunk.handle(1, "ended", None)
        job = schedule.next_job()
        assert job is not None and job.arguments[2] == 1 and control.key in job.name
        trunk.fail(0, "diverged")
        assert schedule.next_job() is None and "trunk" in dependant.failures[0]
    finally:
        for point in points.values():
            point.close()


def test_labels_name_what_the_points_differ_in() -> None:
    words = [["method=imp", "width=1", "optim.lr=.1"], ["method=imp", "width=2", "optim.lr=.2"]]
    found = labels([spec(*w) for w in words], words)
    assert found[0] == {"method": "imp", "model": "lenet", "data": "digits", "width": 1.0, "optim.lr": ".1"}


def rows_of(kept: list[int], total: int = 100, excluded: int = 10) -> list[Row]:
    """Return the rows of one seed that keeps so many of all weights at each level; `excluded` are never pruned."""
    prunable = total - excluded
    return [
        Row(0, level, (k - excluded) / prunable, k - excluded, prunable, total, 1, 0, 0, 0, 0, 0, None, 0)
        for level, k in enumerate(kept)
    ]


def test_pruning_is_compared_with_a_search_at_the_level_that_keeps_as_much() -> None:
    search, pruning, dense = rows_of([50]), rows_of([100, 80, 64, 51, 41]), rows_of([100])
    assert [rows[0].kept for rows in compared([search, pruning, dense])] == [40, 41, 90]
    assert [rows[0].kept for rows in compared([pruning, dense, []]) if rows] == [31, 90]
    whole = rows_of([50], excluded=0)  # prunes all its layers
    assert [rows[0].kept for rows in compared([whole, pruning])] == [50, 41], "what is never pruned is kept too"


NET = """
import os, signal, sys
from ltx.models.mlp import Model
def first(marker):
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
class Net(Model):
    def __init__(self, input_shape, classes, width, marker: str, fault: str = "none"):
        super().__init__(input_shape, classes, width, [20], None, True)
        self.marker, self.fault, self.calls = marker, fault, 0
    def forward(self, x):
        self.calls += 1
        if x.device.type != "meta" and self.calls > 30 and self.fault != "none" and first(self.marker):
            if self.fault == "raise": raise RuntimeError("planted")
            if self.fault == "exit": os._exit(7)
            if self.fault == "quit": os._exit(0)
            if self.fault == "sys.exit": sys.exit(0)
            if self.fault == "kill": os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "commit":
                import ltx.store.files
                ltx.store.files.os.link = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)
"""
FAULTY = ("model=own", "model.name=faulty_net:Net", "method.levels=2", "optim.steps=20", "width=1,.5", "workers=2")


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A user's network with a planted fault, in the folder the command runs in; returns where its marker goes."""
    (tmp_path / "cwd" / "faulty_net.py").write_text(NET)
    yield tmp_path / "marker"
    sys.modules.pop("faulty_net", None)


def undisturbed(ltx: Ltx, root: Path, marker: Path, *words: str) -> dict[str, bytes]:
    """Run the sweep with its fault already behind it, under another root."""
    marker.touch()
    assert ltx("run", "-m", *FAULTY, *words, f"root={root}-undisturbed").code == 0
    marker.unlink()
    return results(Path(f"{root}-undisturbed"))


@pytest.mark.parametrize("fault", ["kill", "commit", "exit", "quit"])
def test_a_worker_that_dies_stops_no_other_and_the_same_command_completes(
    ltx: Ltx, root: Path, faulty: Path, fault: str
) -> None:
    words = (f"model.marker={faulty}", f"model.fault={fault}", "seeds=2", f"root={root}")
    expected = undisturbed(ltx, root, faulty, *words[:-1])
    first = ltx("run", "-m", *FAULTY, *words)
    assert first.code == 3 and ("without finishing" if fault == "quit" else "was killed") in first.err
    assert results(root).items() != expected.items()
    assert sum(name.endswith("level_02.safetensors") for name in results(root)) == 3
    again = ltx("run", "-m", *FAULTY, *words)
    assert again.code == 0, again.err
    assert results(root) == expected


def test_a_point_that_raises_shows_its_traceback_and_is_retried_only_when_asked(
    ltx: Ltx, root: Path, faulty: Path
) -> None:
    words = (f"model.marker={faulty}", "model.fault=raise", "seeds=2", f"root={root}")
    expected = undisturbed(ltx, root, faulty, *words[:-1])
    first = ltx("run", "-m", *FAULTY, *words)
    assert first.code == 3 and "RuntimeError: planted" in first.out and "Traceback" in first.out
    assert "retry_failed=true" in first.err and "1 of 2 failed" in first.err
    assert ltx("run", "-m", *FAULTY, *words).code == 3
    again = ltx("run", "-m", *FAULTY, *words, "retry_failed=true")
    assert again.code == 0 and results(root) == expected


def test_a_point_that_calls_exit_fails_like_one_that_raises(ltx: Ltx, root: Path, faulty: Path) -> None:
    words = (f"model.marker={faulty}", "model.fault=sys.exit", "seeds=1", "workers=0")
    first = ltx("run", "-m", *FAULTY[:-1], *words)
    assert first.code == 3 and "the point called exit(0)" in first.err and "1 of 1 failed" in first.err
    assert sum(name.endswith("level_02.safetensors") for name in results(root)) == 1


def test_what_is_finished_counts_though_a_later_level_failed(ltx: Ltx, root: Path, faulty: Path) -> None:
    late = ("model=own", "model.name=faulty_net:Net", f"model.marker={faulty}", "model.fault=raise", "seeds=1")
    late = (*late, "optim.steps=8", "workers=0", "width=1")
    assert ltx("run", *late, "method.levels=2").code == 3  # fails after level 0
    assert ltx("run", *late, "method.levels=0").code == 0, "what is asked for is there"
    assert ltx("run", *late, "method.levels=1").code == 3


def test_a_sweep_that_stops_early_shows_what_was_finished_before(ltx: Ltx, root: Path) -> None:
    words = ("method=dense", "optim=sgd", "optim.steps=20", "width=.05", "seeds=1", "workers=0")
    assert ltx("run", *words, "optim.lr=0.05").code == 0
    stopped = ltx("run", "-m", *words, "optim.lr=1e30,0.05", "fail_fast=true")
    assert stopped.code == 3 and "done" in stopped.out and "interrupted" not in stopped.out
    (table,) = (root / "sweeps").glob("*/table.csv")
    assert len(table.read_text().splitlines()) == 2


def test_a_table_that_cannot_be_written_is_said_and_exits_3(ltx: Ltx, root: Path) -> None:
    root.mkdir()
    (root / "sweeps").write_text("a file in the way")
    result = ltx("run", "-m", "method=dense", "width=.05,.06", "optim.steps=4", "seeds=1", "workers=0")
    assert result.code == 3 and "sweep's files could not be written" in result.err and "done" in result.out


def test_fail_fast_gives_out_nothing_more(ltx: Ltx, root: Path, faulty: Path) -> None:
    words = (f"model.marker={faulty}", "model.fault=raise", "seeds=1", "workers=0", "fail_fast=true")
    result = ltx("run", "-m", *FAULTY[:-1], *words)
    assert result.code == 3
    assert not any(name.endswith("level_02.safetensors") for name in results(root))


def test_a_diverged_seed_fails_its_dependants_and_no_other(ltx: Ltx, root: Path) -> None:
    wild = "trunk={method:imp,optim:sgd,optim.lr:1e9,method.levels:1}"
    words = ("seeds=1", "optim.steps=10", "width=.05")
    result = ltx(
        "run", "-m", "method=control", *words, f"trunk={wild.removeprefix('trunk=')},{{method:imp,method.levels:1}}"
    )
    assert result.code == 3 and "its trunk" in result.err and "diverged" in result.out
    done = [p.parent.parent.name for p in root.glob("runs/*/seed_000/level_01.safetensors")]
    assert sorted(name.split("-")[0] for name in done) == ["control", "imp"]


def test_a_damaged_trunk_is_computed_again_for_its_dependants(ltx: Ltx, root: Path) -> None:
    words = (
        "method=control",
        "method.kind=shuffle",
        "trunk={method:imp,method.levels:1}",
        "optim.steps=10",
        "width=.05",
    )
    assert ltx("run", *words, "seeds=1").code == 0
    expected = results(root)
    (trunk,) = root.glob("runs/imp-*/seed_000/level_01.safetensors")
    trunk.write_bytes(trunk.read_bytes()[:-9])
    for path in root.glob("runs/control-*/seed_000/level_01.safetensors"):
        path.unlink()
    result = ltx("run", *words, "seeds=1")
    assert result.code == 0 and "set aside" in result.err
    found = {name: content for name, content in results(root).items() if "damaged" not in name}
    assert found == expected


SWEEP = (
    "run",
    "-m",
    "method.levels=3",
    "optim.lr=1e-3,2e-3",
    "width=.05,.1",
    "optim.steps=60",
    "seeds=2",
    "workers=2",
    "wandb.mode=disabled",
)


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the sweep undisturbed, once."""
    root = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert call(*SWEEP, "workers=0", root=root) == 0
    return root


def test_two_sweeps_at_once_share_the_work_and_agree(ltx: Ltx, root: Path, alone: Path) -> None:
    other = start(*SWEEP, "workers=0", f"root={root}")
    result = ltx(*SWEEP)
    out, _ = other.communicate(timeout=120)
    assert (result.code, other.returncode) == (0, 0), result.err + out
    assert results(root) == results(alone)


def test_a_killed_parent_takes_its_workers_along_and_loses_nothing(ltx: Ltx, root: Path, alone: Path) -> None:
    patch = """
import os, signal, ltx.store.files
replace, calls = os.replace, []
def killing(a, b):
    calls.append(str(b).endswith("summary.csv"))
    if sum(calls) == 4: os.kill(os.getpid(), signal.SIGKILL)
    replace(a, b)
ltx.store.files.os.replace = killing
"""
    parent = start(*SWEEP, f"root={root}", patch=patch)
    parent.communicate(timeout=120)
    assert parent.returncode == -signal.SIGKILL
    kept = levels(root / "runs")
    assert kept
    deadline = time.monotonic() + 20
    while children_of(root) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not children_of(root)
    assert ltx(*SWEEP).code == 0
    assert kept.items() <= levels(root / "runs").items()
    assert results(root) == results(alone)


def children_of(root: Path) -> list[int]:
    """List the processes that hold a file below a root open: workers write their records there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        if int(process.name) != os.getpid() and any(link.startswith(str(root)) for link in links):
            found.append(int(process.name))
    return found
