"""What fails is said, what is finished is kept, and the same command goes on: divergence, full disks, interrupts."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable

import pytest
from conftest import LONG, TINY, call, levels, only, results, soon, under_way

import ltx.runs.levels as ltx_levels
import ltx.store.seeds as ltx_seeds
from ltx.training.fit import Diverged


def test_when_every_seed_diverges_the_run_says_so_and_keeps_why(ltx, root):
    result = ltx("run", *TINY, "seeds=3", "optim=sgd", "optim.lr=1e30", "optim.weight_decay=1")
    assert result.code == 3 and "3 of 3 diverged" in result.err and "level 0, step" in result.err
    assert "Traceback" not in result.out + result.err
    for seed in range(3):
        failure = json.loads((only(root) / f"seed_{seed:03d}" / "failed.json").read_text())
        assert failure["kind"] == "diverged" and 0 <= failure["step"] < 20


def failing(seed: int, error: Callable[[int], Exception]) -> Callable[..., object]:
    """Return a `train` that fails in level 1 of one seed."""
    original = ltx_levels.train

    def train(setup, *rest):
        if setup.streams.init == seed and setup.plan.level == 1:
            raise error(setup.plan.level)
        return original(setup, *rest)

    return train


FAILURES = {
    "diverged": (lambda level: Diverged(level, 7), "1 of 3 diverged", "a finite number at level 1, step 7"),
    "raised": (lambda level: ValueError("a bug"), "1 of 3 failed", "ValueError: a bug"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_seed_that_fails_leaves_the_others_and_is_tried_again_only_when_asked(kind, ltx, root, tmp_path, monkeypatch):
    error, count, reason = FAILURES[kind]
    words = (*TINY, "seeds=3")
    with monkeypatch.context() as patch:
        patch.setattr(ltx_levels, "train", failing(1, error))
        first = ltx("run", *words)
    assert first.code == 3 and count in first.err and reason in first.err
    folder = only(root)
    assert len(levels(folder)) == 5 and json.loads((folder / "seed_001" / "failed.json").read_text())["kind"] == kind
    (entry,) = json.loads(ltx("status", "--json").out)
    assert entry["state"] == "failed" and entry["failed"] == [1]
    again = ltx("run", *words)
    assert again.code == 3 and len(levels(folder)) == 5 and "retry_failed=true" in again.err
    assert ltx("run", *words, "retry_failed=true").code == 0
    assert not list(folder.glob("*/failed.json"))
    assert call("run", *words, root=tmp_path / "undisturbed") == 0
    assert results(folder) == results(only(tmp_path / "undisturbed"))


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_full_disk_keeps_what_is_finished_and_the_same_command_continues(after, ltx, tiny, root, monkeypatch):
    link, fsync, made = os.link, os.fsync, []

    def full() -> None:
        if len(made) > after:
            raise OSError(errno.ENOSPC, "No space left on device")

    def counting(source, target, **options):
        made.extend([target] if "level_" in str(target) else [])
        full()
        link(source, target, **options)

    def sync(file):
        full()
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", counting)
        patch.setattr(os, "fsync", sync)
        result = ltx("run", *TINY)
    folder, reference = only(root), levels(only(tiny))
    assert result.code == 3 and "No space left" in result.err and str(folder) in result.err
    assert "Traceback" not in result.out + result.err and f"{after} finished levels are kept" in result.err
    kept = levels(folder)
    assert len(kept) == after and kept == {name: reference[name] for name in kept}
    assert ltx("run", *TINY).code == 0
    assert results(folder) == results(only(tiny))


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_stops_its_workers_and_exits_130_and_continues(how, ltx, root, undisturbed):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        soon(lambda: under_way(root))
        os.kill(os.getpid(), how)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        result = ltx("run", *LONG, "workers=2")
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert result.code == 130 and "the same command continues" in result.err
    assert not [p for p in multiprocessing.active_children() if "seed" in p.name]
    folder = only(root)
    assert not list(folder.rglob("claim")) and (folder / "summary.csv").exists()
    assert ltx("run", *LONG).code == 0
    assert results(folder) == results(undisturbed)


def test_an_interrupt_of_training_in_this_process_exits_130_too(ltx, root, tiny, monkeypatch):
    original = ltx_seeds.Records.add

    def add(self, rows):
        rows = list(rows)
        if any(row["level"] == 1 and row["step"] > 10 for row in rows):
            raise KeyboardInterrupt
        original(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(ltx_seeds.Records, "add", add)
        result = ltx("run", *TINY)
    assert result.code == 130 and "the same command continues" in result.err
    assert list(levels(only(root))) == ["seed_000/level_00.safetensors"] and not list(only(root).rglob("claim"))
    assert ltx("run", *TINY).code == 0
    assert results(only(root)) == results(only(tiny))


def test_a_seed_that_another_process_tried_in_vain_meanwhile_fails_here_too_and_is_not_tried_again(
    ltx, root, monkeypatch
):
    words = (*TINY, "seeds=1")
    assert ltx("run", *words, "method.levels=0").code == 0
    folder = only(root) / "seed_000"
    asked = iter(["process 4242 on elsewhere", None])

    def holder(claim):
        found = next(asked, None) if claim.path.name == "claim" else None
        claim.alive = found is not None
        if found is None and claim.path.name == "claim":
            (folder / "failed.json").write_text('{"kind": "diverged", "reason": "it was no number there"}')
        return found

    monkeypatch.setattr("ltx.store.claims.Claim.holder", holder)
    monkeypatch.setattr("ltx.runs.worker.run_seed", None)
    result = ltx("run", *words)
    assert result.code == 3 and "it was no number there" in result.err
    assert "waiting for process 4242 on elsewhere" in result.out
