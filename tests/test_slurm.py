"""Workers in Slurm: what is submitted and refused, by a stand-in for its commands; tests/slow has the real ones."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result, levels, soon

from ltx.cli import elsewhere
from ltx.launch import elsewhere as launch_elsewhere
from ltx.launch import slurm
from ltx.launch.elsewhere import local_disk
from ltx.store.sweeps import sweeps

SWEEP = ("width=.05,.1", "method=dense", "optim.steps=10", "seeds=2", "wandb.mode=disabled")
Ltx = Callable[..., Result]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often whether the workers are done."""
    monkeypatch.setattr(elsewhere, "LOOK_SECONDS", 0.1)


def test_a_sweep_on_a_cluster_returns_at_once_and_trains_what_a_local_one_would(
    ltx: Ltx, root: Path, cluster: Path, tmp_path: Path, monkeypatch
):
    words = ("run", "-m", *SWEEP, "hydra/launcher=slurm", "launcher.workers=2", "launcher.partition=short")
    submitted = ltx(*words, "launcher.minutes=5", "launcher.memory=1.5", "launcher.setup=[echo ready]")
    assert submitted.code == 0, submitted.err
    (place,) = sweeps(root)
    assert "slurm: job 7, 2 workers for 4 jobs of 2 runs" in submitted.out
    assert f"ltx status {place.path.name} --watch" in submitted.out and f"ltx cancel {place.path.name}" in submitted.out
    script = (cluster / "script").read_text()
    for line in (
        "array=0-1",
        "partition=short",
        "time=5",
        "mem=1.5GB",
        "requeue",
        "signal=B:USR2@60",
        "cpus-per-task=1",
    ):
        assert f"#SBATCH --{line}" in script
    assert "\necho ready\n" in script and "srun " not in script and "trust=true" not in script
    again = ltx(*words)
    assert again.code == 0 and "no more are submitted" in again.out, again.err
    monkeypatch.setattr(elsewhere, "ASK_SECONDS", 0.5)
    stayed = ltx(*words, "launcher.wait=true")
    assert stayed.code == 0 and str(place.path / "table.csv") in stayed.out, stayed.out + stayed.err
    assert ltx("run", "-m", *SWEEP, f"root={tmp_path / 'local'}").code == 0
    assert levels(root / "runs") == levels(tmp_path / "local" / "runs") != {}
    assert (cluster / "calls").read_text().count("sbatch ") == 1
    done = ltx(*words)
    assert done.code == 0 and "submitted" not in done.out and "table.csv" in done.out
    assert not list(root.rglob("*.pkl"))


def test_cancelling_takes_workers_out_of_the_queue(ltx: Ltx, root: Path, cluster: Path):
    words = ("width=.05", "method=dense", "optim.steps=90000", "seeds=1", "wandb.mode=disabled")
    assert ltx("run", *words, "hydra/launcher=slurm").code == 0
    (place,) = sweeps(root)
    assert slurm.submitted(place) == ["7"] and slurm.alive(place) == ["7_0"]
    cancelled = ltx("cancel", place.path.name)
    assert cancelled.code == 0 and "slurm: 1 workers are taken out (7)" in cancelled.out, cancelled.err
    assert "scancel 7_0" in (cluster / "calls").read_text()
    end = time.monotonic() + 20
    while slurm.alive(place) and time.monotonic() < end:
        time.sleep(0.1)
    assert not slurm.alive(place) and "were taken" not in ltx("cancel", place.path.name).out


def test_who_stays_says_so_when_no_worker_is_left(ltx: Ltx, root: Path, cluster: Path, monkeypatch):
    monkeypatch.setattr(elsewhere, "ASK_SECONDS", 0.2)
    (cluster / "bin" / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 8\n")
    left = ltx("run", "-m", *SWEEP, "hydra/launcher=slurm", "launcher.wait=true")
    assert left.code == 3 and "4 jobs are left and no worker is" in left.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("launcher.workers=2",), "it goes with hydra/launcher=slurm or hydra/launcher=ray"),
        (("hydra/launcher=slrum",), "did you mean 'slurm'?"),
        (("hydra/launcher=slurm", "launcher.worker=2"), "did you mean 'workers'?"),
        (("hydra/launcher=slurm", "launcher.workers=two"), "two"),
        (("hydra/launcher=slurm", "launcher.workers=0"), "launcher.workers=0 should be 1 or more"),
        (("hydra/launcher=slurm", "launcher.minutes=1"), "launcher.minutes=1 should be 2 or more"),
        (("hydra/launcher=slurm", "launcher.before_end=3600"), "should be less than the 60 minutes"),
        (("hydra/launcher=slurm", "launcher.partition=shart"), "did you mean 'short'?"),
    ],
)
def test_a_bad_request_is_refused_before_anything_is_written(
    ltx: Ltx, root: Path, cluster: Path, words: tuple[str, ...], said: str
):
    refused = ltx("run", "-m", *SWEEP, *words)
    assert refused.code == 2 and said in refused.err and refused.err.count("\n") == 1, refused.err
    assert not root.exists() or not list(root.iterdir())


def test_what_slurm_itself_refuses_is_said_in_its_words(ltx: Ltx, cluster: Path):
    (cluster / "bin" / "sinfo").write_text("#!/bin/sh\necho broken 1\n")
    refused = ltx("run", "-m", *SWEEP, "hydra/launcher=slurm", "launcher.partition=broken")
    assert refused.code == 2 and "Slurm refuses the workers: " in refused.err
    assert "Invalid account specified." in refused.err


def test_without_slurm_on_the_path_the_launcher_says_where_to_go(ltx: Ltx, root: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = ltx("run", "-m", *SWEEP, "hydra/launcher=slurm")
    assert refused.code == 2 and "needs sbatch on the PATH" in refused.err and "login node" in refused.err
    assert not root.exists()


def test_a_root_that_other_nodes_do_not_see_is_refused(
    ltx: Ltx, root: Path, cluster: Path, monkeypatch, tmp_path: Path
):
    (cluster / "nodes").write_text("4")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\nscratch {tmp_path} xfs rw 0 0\n")
    monkeypatch.setattr(launch_elsewhere, "MOUNTS", mounts)
    refused = ltx("run", "-m", *SWEEP, "hydra/launcher=slurm", "launcher.partition=short")
    assert refused.code == 2 and "is on a local disk of" in refused.err and "(xfs)" in refused.err
    assert "the 4 nodes" in refused.err and not root.exists()


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (["disk / ext4"], "ext4"),
        (["disk / ext4", "server:/home / nfs4"], None),
        (["server:/ / nfs", "tmp {} tmpfs"], "tmpfs"),
        (["disk / ext4", "beegfs {} beegfs"], None),
        (["disk / ext4", "other {}_more lustre"], "ext4"),
        ([], None),
    ],
)
def test_a_folders_file_system_is_that_of_the_deepest_mount(
    tmp_path: Path, monkeypatch, lines: list[str], kind: str | None
):
    mounts = tmp_path / "mounts"
    mounts.write_text("".join(f"{line.format(tmp_path)} rw 0 0\n" for line in lines))
    monkeypatch.setattr(launch_elsewhere, "MOUNTS", mounts)
    assert local_disk(tmp_path / "a" / "b") == kind


@pytest.mark.parametrize(
    ("command", "near_end", "restarts", "requeued", "code"),
    [
        ("true", False, 0, False, 0),
        ("exit 2", False, 0, False, 2),
        ("exit 3", False, 0, False, 3),
        ("exit 130", False, 0, False, 130),
        ("kill -9 $$", False, 0, True, 137),
        ("kill -9 $$", False, 5, False, 137),
        ("exit 1", False, 0, True, 1),
        ("trap 'exit 130' TERM; touch up; while :; do sleep .02; done", True, 0, True, 130),
        ("trap 'exit 0' TERM; touch up; while :; do sleep .02; done", True, 0, False, 0),
    ],
)
def test_a_worker_that_was_killed_or_out_of_time_is_requeued(
    tmp_path: Path, command: str, near_end: bool, restarts: int, requeued: bool, code: int
):
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/requeued\n')
    (tmp_path / "scontrol").chmod(0o755)
    script = slurm.SCRIPT.format(command=f"bash -c {shlex.quote(command)}", restarts=5)
    numbers = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": str(restarts)}
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, **numbers, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    if near_end:
        end = time.monotonic() + 10
        while not (tmp_path / "up").exists() and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(12)
    assert process.wait(10) == code
    told = tmp_path / "requeued"
    assert (told.read_text() == "requeue 7_2\n" if told.exists() else False) == requeued


def test_who_stays_hears_of_a_cancelled_sweep(ltx: Ltx, root: Path, cluster: Path):
    (cluster / "bin" / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 8\n")
    words = ("run", "-m", *SWEEP, "hydra/launcher=slurm", f"root={root}")
    assert ltx(*words).code == 0
    (place,) = sweeps(root)

    def cancel() -> None:
        soon(lambda: list((root / "progress").glob("*.json")))
        place.cancel("ann", "2026-01-01T00:00:00Z")

    threading.Thread(target=cancel).start()
    stayed = ltx(*words, "launcher.wait=true")
    assert stayed.code == 130 and "cancelled by ann" in stayed.err
