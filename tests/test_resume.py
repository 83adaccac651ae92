"""What is done stays done: re-running, extending, and kills with SIGKILL; every end is bit-identical."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import LONG, TINY, call, levels, only, results, soon, start, tree, under_way

import ltx.runs.levels as ltx_levels
import ltx.runs.worker as ltx_worker
from ltx.store.files import unpack


def times(folder: Path) -> dict[str, int]:
    """Return when each file of the seeds was written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.glob("seed_*/*")}


def test_running_a_finished_run_again_trains_nothing_and_changes_no_byte(ltx, finished, monkeypatch):
    def train(*_: object) -> None:
        raise AssertionError("something was trained")

    assert ltx("run", *TINY).code == 0
    before, written = tree(finished), times(finished)
    monkeypatch.setattr(ltx_levels, "train", train)
    result = ltx("run", *TINY)
    assert result.code == 0 and "nothing was left to train" in result.out
    assert tree(finished) == before and times(finished) == written


@pytest.mark.parametrize("more", [["seeds=3"], ["seeds=[0,1,5]"], ["method.levels=3"], ["seeds=3", "method.levels=2"]])
def test_more_seeds_or_levels_leave_the_old_files_alone_and_end_as_if_asked_at_once(more, ltx, finished, tmp_path):
    before, written, records = levels(finished), times(finished), finished / "seed_000" / "records.jsonl"
    old = records.read_text()
    result = ltx("run", *TINY, *more)
    assert result.code == 0 and result.folder == finished, "it is the same run"
    after = levels(finished)
    assert {name: after[name] for name in before} == before
    assert all(times(finished)[name] == when for name, when in written.items() if name.endswith("safetensors"))
    new = records.read_text().removeprefix(old).splitlines()
    assert all(json.loads(line)["level"] > 1 for line in new), "what was finished was trained again"
    assert call("run", *TINY, *more, root=tmp_path / "at once") == 0
    assert results(finished) == results(only(tmp_path / "at once"))
    summary = (finished / "summary.csv").read_bytes()
    assert summary == (only(tmp_path / "at once") / "summary.csv").read_bytes()
    assert ltx("run", *TINY).code == 0
    assert (finished / "summary.csv").read_bytes() == summary, "asking for less forgets nothing"


def test_a_run_killed_inside_a_level_ends_its_workers_and_continues_to_the_same_bytes(ltx, root, undisturbed):
    process = start("run", *LONG, "workers=2", f"root={root}")
    soon(lambda: under_way(root))
    family = descendants(process.pid)
    process.kill()
    process.communicate()
    assert len(family) >= 2, "the fork server and at least a worker"
    soon(lambda: not any(map(alive, family)))
    folder = only(root)
    partial = [str(path.relative_to(folder)) for path in folder.glob("*/partial.safetensors")]
    done = {name: content for name, content in levels(folder).items() if name not in partial}
    assert partial and done and len(done) < 6 and list(folder.glob("seed_*/claim"))
    assert done.items() <= levels(undisturbed).items()
    result = ltx("run", *LONG)
    assert result.code == 0, result.err
    assert results(folder) == results(undisturbed)
    assert not list(folder.rglob("claim")) and not list(folder.rglob("*lock"))


def descendants(pid: int) -> list[int]:
    """Return a process's children and theirs."""
    children = [child for child in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent(child) == pid]
    return [*children, *(below for child in children for below in descendants(child))]


def stat(pid: int) -> list[str]:
    """Return state, parent and so on of a process, nothing for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def parent(pid: int) -> int:
    return int(stat(pid)[1]) if stat(pid) else 0


def alive(pid: int) -> bool:
    return bool(stat(pid)) and stat(pid)[0] != "Z"


def test_a_level_goes_on_from_its_checkpoint_and_not_from_its_start(ltx, root, undisturbed, monkeypatch):
    original, at = ltx_levels.commit, []

    def commit(path, content, **options):
        made = original(path, content, **options)
        if path.name.startswith("partial") and under_way(root):
            at.append(unpack(path)[1]["step"])
            raise OSError(errno.EIO, "pulled plug")
        return made

    with monkeypatch.context() as patch:
        patch.setattr(ltx_levels, "commit", commit)
        assert ltx("run", *LONG, "seeds=1").code == 3
    (step,) = at
    assert 0 < step < 250
    records = only(root) / "seed_000" / "records.jsonl"
    before = records.read_bytes()
    assert ltx("run", *LONG, "seeds=1").code == 0
    new = records.read_bytes().removeprefix(before).decode()
    assert f'"step": {step - step % 10}, ' not in new and '"step": 250, ' in new
    assert results(only(root)) == results(undisturbed, 0)


def test_a_killed_worker_leaves_the_others_going_and_the_same_command_completes(ltx, root, undisturbed):
    killed = []

    def kill() -> None:
        soon(lambda: list(root.glob("runs/*/seed_001/partial.safetensors")))
        worker = next(p for p in multiprocessing.active_children() if "seed 1" in p.name)
        os.kill(worker.pid, signal.SIGKILL)
        killed.append(worker.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    result = ltx("run", *LONG, "workers=2")
    thread.join()
    assert killed and result.code == 3
    assert "1 of 3 failed" in result.err and "killed" in result.err
    folder = only(root)
    assert len(list(folder.glob("seed_000/level*"))) == len(list(folder.glob("seed_002/level*"))) == 2
    assert not (folder / "seed_001" / "failed.json").exists()
    assert ltx("run", *LONG, "workers=1").code == 0
    assert results(folder) == results(undisturbed)


WAITING = """
import pathlib, time
from ltx.training.fit import Fit
save = Fit.save
def waiting(*given):
    save(*given)
    while not pathlib.Path("go").exists(): time.sleep(0.01)
Fit.save = waiting
"""


def test_two_processes_share_the_seeds_of_one_run_and_name_each_other(ltx, root, undisturbed, monkeypatch):
    """The first one waits inside its first level until the second has begun a seed."""
    process = start("run", *LONG, "workers=0", f"root={root}", patch=WAITING)
    soon(lambda: list(root.glob("runs/*/seed_*/partial.safetensors")))
    trained, run_seed = [], ltx_worker.run_seed

    def going(*given: Any) -> None:
        trained.append(given[2])
        Path("go").touch()
        run_seed(*given)

    monkeypatch.setattr(ltx_worker, "run_seed", going)
    refused = ltx("run", *LONG, "seeds=1", "wait=false")
    assert refused.code == 3 and f"in use by process {process.pid} on " in refused.err and "wait=true" in refused.err
    second = ltx("run", *LONG)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "mean [95 % interval] over 3 seeds" in said, said
    assert second.code == 0 and "mean [95 % interval] over 3 seeds" in second.out, second.out + second.err
    assert set(trained) < {0, 1, 2} and trained, "the second process took a share, and not all"
    assert results(only(root)) == results(undisturbed)
    assert not list(root.rglob("claim")) and not list(root.rglob("*lock"))


def test_the_workers_find_a_class_of_the_users_own(ltx, root):
    """They are forked from a server that stands elsewhere."""
    Path("own_of_a_worker.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self, units: int = 3):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, units), nn.ReLU(), nn.Linear(units, 10))\n"
    )
    result = ltx(
        "run", *TINY, "model=own", "model.name=own_of_a_worker:Net", "model.init=glorot_normal", "workers=2", "width=1"
    )
    assert result.code == 0, result.out + result.err
    assert len(levels(only(root))) == 4
