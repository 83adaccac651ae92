"""A sweep on a real Slurm of one node and on a real Ray cluster of two, while workers and nodes are killed: slow.

`make test-slow` installs Ray. Slurm's daemons are packages of the system that only its owner can install: where they
are missing these tests are skipped with that reason, and `test_slurm` still runs on a stand-in for its commands.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Result, levels

from ltx.launch import slurm
from ltx.store.sweeps import SweepFolder, sweeps

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).parents[1] / "scripts"
SWEEP = ("-m", "method=imp,edge_popup,dense", "width=.05,.06,.07,.08,.09,.1,.11,.12", "?method.levels=1", "seeds=1")
SWEEP += ("optim.steps=400", "wandb.mode=disabled", "trainer.checkpoint_seconds=.5", "threads=1")
POINTS, WORKERS = 24, 4
SECONDS = 600  # that such a sweep may take at most
Ltx = Callable[..., Result]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of a real Slurm of this machine."""
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))):
        pytest.skip("no Slurm on this machine: apt-get install slurm-wlm munge")
    place = tmp_path / "slurm"
    script = str(SCRIPTS / "slurm_node.sh")
    subprocess.run([script, "start", str(place)], check=True, timeout=120)
    monkeypatch.setenv("SLURM_CONF", str(place / "slurm.conf"))
    try:
        yield place
    finally:
        subprocess.run(["scancel", "--me"], timeout=60)
        subprocess.run([script, "stop", str(place)], check=True, timeout=60)


def workers_of(place: SweepFolder) -> list[int]:
    """Return the processes of this machine that are `ltx work` on a sweep, their own workers left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"work" in words and str(place.path.absolute()).encode() in words and b"ltx.cli" in words:
            found.append(int(path.name))
    return sorted(found)


def by_task(place: SweepFolder) -> dict[str, int]:
    """Return the workers of a sweep by their number in the array."""
    found: dict[str, int] = {}
    for pid in workers_of(place):
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {word.partition(b"=")[2].decode(): pid for word in words if word.startswith(b"SLURM_ARRAY_TASK_ID=")}
    return found


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return what a condition gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what} did not come within {seconds:g} s")


def finished(root: Path) -> int:
    """Count the level files of a root."""
    return len(list(root.glob("runs/*/seed_*/level_*.safetensors")))


def equal_to_a_local_sweep(ltx: Ltx, root: Path, elsewhere: Path) -> None:
    """Check that a root has the bytes that a sweep of this machine alone writes."""
    assert ltx("run", *SWEEP, f"root={elsewhere}", "workers=2").code == 0
    found = levels(root / "runs")
    assert len({name.partition("/")[0] for name in found}) == POINTS
    assert found == levels(elsewhere / "runs")


def test_a_sweep_on_slurm_survives_killed_requeued_and_restarted_workers(
    ltx: Ltx, root: Path, node: Path, tmp_path: Path
) -> None:
    words = (*SWEEP, "hydra/launcher=slurm", f"launcher.workers={WORKERS}", "launcher.partition=short")
    submitted = ltx("run", *words)  # the submitting process is gone when this returns
    assert submitted.code == 0, submitted.err
    (place,) = sweeps(root)
    job = slurm.submitted(place)[0]
    wait_for(lambda: finished(root) >= 4, 240, "the first levels")
    tasks = wait_for(lambda: len(workers_of(place)) == WORKERS and by_task(place), 120, "all workers")
    os.kill(tasks["0"], signal.SIGKILL)
    os.kill(tasks["1"], signal.SIGKILL)
    alive = slurm.alive(place)
    assert alive and all(task.startswith(f"{job}_") for task in alive)
    subprocess.run(["scontrol", "requeue", f"{job}_{WORKERS - 1}"], check=True)
    os.kill(int((node / "slurmd.pid").read_text()), signal.SIGTERM)
    time.sleep(2)
    subprocess.run(["slurmd"], check=True)
    wait_for(lambda: (place.path / "table.csv").exists() and place.record().ended, SECONDS, "the end of the sweep")
    wait_for(lambda: not slurm.alive(place), 120, "the end of the workers")
    logs = "".join(path.read_text() for path in (place.path / "slurm").glob("*.log"))
    assert logs.count("it is requeued") == 2
    equal_to_a_local_sweep(ltx, root, tmp_path / "local")
    assert (place.path / "sweep.png").is_file()
    again = ltx("run", *words)
    assert again.code == 0 and "table.csv" in again.out and slurm.submitted(place) == [job]


def test_a_worker_of_slurm_ends_before_its_time_is_over_and_goes_on(ltx: Ltx, root: Path, node: Path) -> None:
    words = ("width=.2", "method=dense", "optim.steps=600000", "seeds=2", "trainer.checkpoint_seconds=1")
    words += ("wandb.mode=disabled", "hydra/launcher=slurm", "launcher.workers=1", "launcher.minutes=2")
    assert ltx("run", *words, "launcher.before_end=60").code == 0
    (place,) = sweeps(root)
    log = place.path / "slurm" / f"{slurm.submitted(place)[0]}_0.log"
    said = wait_for(lambda: log.exists() and "it is requeued" in log.read_text() and log.read_text(), 240, "the end")
    assert "interrupted; finished levels are kept" in said
    partial = [*root.glob("runs/*/seed_*/partial.safetensors"), *root.glob("runs/*/seed_*/level_*")]
    assert partial and not list(root.glob("runs/*/seed_*/claim"))
    wait_for(lambda: len(workers_of(place)) == 1, 120, "the requeued worker")
    assert ltx("cancel", place.path.name).code == 0
    wait_for(lambda: not workers_of(place), 60, "the end of the cancelled worker")


def test_a_preempted_worker_of_slurm_goes_on(ltx: Ltx, root: Path, node: Path) -> None:
    words = (
        "width=.1",
        "method=dense",
        "optim.steps=20000",
        "seeds=1",
        "trainer.checkpoint_seconds=1",
        "wandb.mode=disabled",
    )
    words += ("hydra/launcher=slurm", "launcher.partition=preemptible", "launcher.cpus=8")
    assert ltx("run", *words).code == 0
    (place,) = sweeps(root)
    wait_for(lambda: list(root.glob("runs/*/seed_*/partial.safetensors")), 120, "the first checkpoint")
    subprocess.run(
        ["sbatch", "--partition=short", "--cpus-per-task=8", "--wrap=sleep 3", "-o", "/dev/null"], check=True
    )
    state = ["squeue", "--noheader", "--format=%T", "--jobs", slurm.submitted(place)[0]]
    asked = lambda: subprocess.run(state, capture_output=True, text=True).stdout.split()  # noqa: E731
    wait_for(lambda: asked() == ["PENDING"], 60, "the preemption")
    wait_for(lambda: finished(root) == 1 and not slurm.alive(place), SECONDS, "the end of the run")


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    """Return a real Ray cluster of two nodes, as processes of this machine."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("no Ray in this environment: pip install 'ltx[ray]'")
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_sweep_on_ray_survives_a_killed_worker_and_a_killed_node(
    ltx: Ltx, root: Path, two_nodes: Any, tmp_path: Path
) -> None:
    import ray

    words = (*SWEEP, "hydra/launcher=ray", f"launcher.workers={WORKERS}", f"launcher.address={two_nodes.address}")
    submitted = ltx("run", *words)
    assert submitted.code == 0 and "4 workers for 24 jobs" in submitted.out, submitted.err
    ray.shutdown()  # the submitting process is gone
    (place,) = sweeps(root)
    wait_for(lambda: finished(root) >= 4, 240, "the first levels")
    os.kill(workers_of(place)[0], signal.SIGKILL)
    node = next(iter(two_nodes.worker_nodes))
    two_nodes.remove_node(node, allow_graceful=False)
    two_nodes.add_node(num_cpus=2)
    wait_for(lambda: (place.path / "table.csv").exists() and place.record().ended, SECONDS, "the end of the sweep")
    wait_for(lambda: not workers_of(place), 120, "the end of the workers")
    equal_to_a_local_sweep(ltx, root, tmp_path / "local")
    again = ltx("run", *words)
    assert again.code == 0 and "table.csv" in again.out


def test_a_sweep_on_ray_is_cancelled(ltx: Ltx, root: Path, two_nodes: Any) -> None:
    words = ("width=.2", "method=dense", "optim.steps=90000", "seeds=2", "wandb.mode=disabled", "hydra/launcher=ray")
    assert ltx("run", *words, f"launcher.address={two_nodes.address}").code == 0
    (place,) = sweeps(root)
    wait_for(lambda: list(root.glob("runs/*/seed_*/claim")), 120, "the first seed")
    cancelled = ltx("cancel", place.path.name)
    assert cancelled.code == 0, cancelled.err
    wait_for(lambda: not workers_of(place), 60, "the end of the workers")


def test_an_address_without_a_cluster_and_a_wish_that_no_node_can_fulfil_are_refused(
    ltx: Ltx, root: Path, two_nodes: Any
) -> None:
    words = ("width=.1", "method=dense", "seeds=1", "hydra/launcher=ray")
    for more, said in (
        (f"launcher.address={two_nodes.address} launcher.gpus=1", "a worker wants 1 GPU, and no node has them"),
        (f"launcher.address={two_nodes.address} launcher.workers=0", "launcher.workers=0 should be 1 or more"),
    ):
        refused = ltx("run", *words, *more.split())
        assert refused.code == 2 and said in refused.err, refused.err
    assert not root.exists() or not list(root.iterdir())
