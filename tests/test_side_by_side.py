"""Runs whose seeds a worker trains side by side: the same levels, checkpoints and failures as of seeds alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import only, results
from helpers import File, same_run, spec, trained

import ltx.runs.levels as ltx_levels
import ltx.runs.worker as ltx_worker
import ltx.training.replicas
from ltx.config.spec import Spec
from ltx.launch.local import Report
from ltx.runs.worker import run_seeds
from ltx.store.claims import Claim
from ltx.store.files import unpack
from ltx.store.folders import RunFolder
from ltx.training.watch import Diverged

Ltx = Callable[..., Any]
RUN = ("model=mlp", "model.hidden=[12,8]", "model.norm=null", "optim.steps=20", "optim.batch=50", "method.levels=2")


def silent(kind: str, value: Any) -> None:
    """Hear a worker's reports."""


def together(found: Spec, folder: Path, report: Report = silent) -> list[list[File]]:
    """Train all seeds of a run in one job and read the levels of each."""
    run_seeds(found.config, str(folder), found.seeds, report)
    paths = [sorted(folder.glob(f"seed_{seed:03d}/level_*.safetensors")) for seed in found.seeds]
    return [[unpack(path) for path in of_seed] for of_seed in paths]


@pytest.mark.parametrize(
    "words", [(), ("optim=sgd", "optim.lr=.1", "optim.momentum=.9", "optim.clip=1"), ("method=dense",)]
)
def test_a_run_whose_seeds_train_side_by_side_is_that_of_seeds_alone(
    words: tuple[str, ...], tmp_path: Path, stacks: list[int]
) -> None:
    words = RUN[: -1 if "method=dense" in words else None] + words
    found = spec(*words, "seeds=3", "trainer.replicas=3")
    assert found.key == spec(*words).key
    seeds = together(found, tmp_path / "together")
    assert stacks == [3] * len(seeds[0])
    for seed, files in enumerate(seeds):
        same_run(trained(found, tmp_path / "alone", seed), files)


NOT_STACKED = {
    "scores": ("method=edge_popup", *RUN[:-1], "model.bias=false"),
    "norms": (*RUN, "model.norm=batch"),
    "without gradients": (
        "method=ticket_sample",
        "model=mlp",
        "model.hidden=[4]",
        "method.levels=0",
        "method.examples=40",
    ),
}


@pytest.mark.parametrize("words", NOT_STACKED.values(), ids=NOT_STACKED)
def test_what_is_not_stacked_has_the_same_bits_in_one_job(words: tuple[str, ...], tmp_path: Path) -> None:
    found = spec(*words, "seeds=2")
    together(found, tmp_path / "together")
    for seed in found.seeds:
        trained(found, tmp_path / "alone", seed)
    assert results(tmp_path / "together") == results(tmp_path / "alone")


def test_seeds_that_were_interrupted_side_by_side_go_on_from_their_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, calls = spec(*RUN, "seeds=3", "trainer.checkpoint_seconds=0"), itertools.count(1)
    commit = ltx_levels.commit

    def interrupted(*args: Any, **options: Any) -> Any:
        if next(calls) == 3 * 19 + 3 + 3 * 5 + 1:  # level 0 has 19 checkpoints and its file, level 1 five checkpoints
            raise KeyboardInterrupt
        return commit(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ltx_levels, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            together(found, tmp_path)
    assert not any((tmp_path / f"seed_{seed:03d}" / "claim").exists() for seed in range(3))
    went_on: list[list[int]] = []
    train_stack = ltx.training.replicas.train_stack

    def heard(setups: Any, device: str, options: Any, resumes: Any) -> Any:
        went_on.append([resume[1]["step"] for resume in resumes if resume])
        return train_stack(setups, device, options, resumes)

    monkeypatch.setattr(ltx.training.replicas, "train_stack", heard)
    seeds = together(found, tmp_path)
    assert went_on == [[5, 5, 5], []]  # level 1 goes on, level 2 begins
    for seed, files in enumerate(seeds):
        same_run(trained(found, tmp_path / "alone", seed), files)


@pytest.mark.parametrize(("error", "kind"), [(Diverged(1, 7), "diverged"), (ValueError("planted"), "failed")])
def test_a_seed_of_a_job_that_fails_keeps_why_and_the_others_are_whole(
    error: Exception, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said = spec(*RUN, "seeds=3"), []
    train_all = ltx.training.replicas.train_all

    def failing(setups: Any, *rest: Any) -> Any:
        ends = train_all(setups, *rest)
        return [error if setups[0].plan.level == 1 and i == 1 else end for i, end in enumerate(ends)]

    with monkeypatch.context() as patch:
        patch.setattr(ltx_worker, "train_all", failing)
        seeds = together(found, tmp_path, lambda kind, value: said.append((kind, value.seed)))
    assert [len(files) for files in seeds] == [3, 1, 3]
    assert [(k, seed) for k, seed in said if k in ("failed", "diverged", "held")] == [(kind, 1)]
    assert (tmp_path / "seed_001" / "failed.json").exists()
    assert not (tmp_path / "seed_000" / "failed.json").exists()
    again = together(found, tmp_path)
    assert [len(files) for files in again] == [3, 3, 3]


def test_a_network_that_calls_exit_ends_its_own_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, train = spec(*RUN, "model.norm=batch", "seeds=3"), ltx.training.replicas.train

    def leaving(setup: Any, *rest: Any) -> Any:
        if setup.plan.level == 1 and setup.streams.init == 1:
            raise SystemExit(3)
        return train(setup, *rest)

    monkeypatch.setattr(ltx.training.replicas, "train", leaving)
    seeds = together(found, tmp_path)
    assert [len(files) for files in seeds] == [3, 1, 3]
    assert "called exit(3)" in (tmp_path / "seed_001" / "failed.json").read_text()


def test_a_seed_that_another_process_works_on_is_left_to_it(tmp_path: Path) -> None:
    found, said = spec(*RUN, "seeds=3"), []
    with Claim(RunFolder(tmp_path).seed(1).claim_path):
        seeds = together(found, tmp_path, lambda kind, value: said.append((kind, value.seed)))
    assert [len(files) for files in seeds] == [3, 0, 3] and ("held", 1) in said


def test_a_command_gives_a_worker_as_many_seeds_as_asked_for(ltx: Ltx, root: Path, stacks: list[int]) -> None:
    done = ltx("run", *RUN, "seeds=5", "trainer.replicas=2")
    assert done.code == 0 and len(list(only(root).glob("seed_*/level_02.safetensors"))) == 5
    assert stacks == [2] * 6  # two pairs, three levels; the fifth seed has nobody beside it
    assert "5 seeds" in done.out
    assert ltx("run", *RUN, "seeds=7", "trainer.replicas=4").code == 0 and stacks[6:] == [2] * 3
    assert "side by side: up to 2 seeds" in ltx("show", only(root).name).out


def test_a_worker_that_is_killed_loses_no_level_of_its_seeds(ltx: Ltx, root: Path, tmp_path: Path) -> None:
    (tmp_path / "cwd" / "dies.py").write_text(
        "import os\nfrom pathlib import Path\nfrom ltx.models.mlp import Model\n\n\nclass Net(Model):\n"
        "    def forward(self, x):\n        here = Path.cwd()\n"
        "        if list(here.parent.glob('root/runs/*/seed_001/level_00*')) and not (here / 'died').exists():\n"
        "            (here / 'died').touch()\n            os._exit(9)\n        return super().forward(x)\n"
    )
    words = (*RUN[1:], "model=own", "model.name=dies:Net", "seeds=3", "trainer.replicas=3", "workers=1")
    words = (*words[1:], *(f"+model.{name}" for name in ("hidden=[12,8]", "norm=null", "bias=true")))
    first = ltx("run", *words)
    assert first.code == 3 and "3 of 3 failed" in first.err and "was killed (exit 9)" in first.err
    assert len(list(only(root).glob("seed_*/level_00.safetensors"))) >= 2
    assert ltx("run", *words).code == 0
    assert len(list(only(root).glob("seed_*/level_02.safetensors"))) == 3
