"""Seeds trained side by side are what each is alone, within rounding, and one that fails leaves the others going."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import only, results
from helpers import File, same_run, spec, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import RECIPES, STREAMS, Case, begin, blobs, scored, sparse_grid, timeless  # noqa: F401
from torch.nn import functional as F

import ltx.runs.worker as ltx_worker
import ltx.training.replicas
from ltx.config.spec import Spec
from ltx.launch.local import OfSeed, Report
from ltx.models import initialise, mlp
from ltx.runs.worker import run_seeds
from ltx.store.claims import Claim
from ltx.store.files import unpack
from ltx.store.folders import RunFolder
from ltx.tensors import cpu
from ltx.training.fit import Fit
from ltx.training.replicas import Matrices, stackable, train_all
from ltx.training.setup import Resume, Trained
from ltx.training.watch import Diverged

Ltx = Callable[..., Any]
PARTS = ("weights", "buffers", "mask", "best", "anchor")
OPTIONS = {"deterministic": True, "chunk": 100}
DATA = blobs(augment=False)


def network() -> mlp.Model:
    return mlp.Model((1, 4, 4), 3, 1.0, [6, 5], None, True)


def case(seed: int, recipe: str = "sgd", density: float = 0.5, **changed: Any) -> Case:
    """A level of a seed: its own initialisation, mask and order."""
    streams = replace(STREAMS, init=10 + seed, order=20 + seed)
    of_seed = network()
    initialise(of_seed, "kaiming_normal", streams)
    state = begin(of_seed)
    weights = cpu(dict(of_seed.named_parameters()))
    rng = torch.Generator().manual_seed(seed)
    mask = {name: torch.rand(m.shape, generator=rng) < density for name, m in state.mask.items()}
    state = replace(state, weights=weights | {n: weights[n] * m for n, m in mask.items()}, mask=mask)
    made = {"network": network, "data": DATA, "state": state, "streams": streams, **changed}
    return Case(RECIPES[recipe], **made)


def side_by_side(cases: Sequence[Case], resumes: Sequence[Resume | None] | None = None) -> list[Trained | Exception]:
    torch.set_num_threads(1)
    found = train_all([one.setup() for one in cases], "cpu", OPTIONS, resumes or [None] * len(cases))
    assert len(found) == len(cases)
    return found


def far(one: Trained | Exception, other: Trained) -> float:
    """Return the largest difference of any number; the steps of the two must be the same."""
    assert isinstance(one, Trained), one
    assert one.best_step == other.best_step
    pairs = [(getattr(one, part), getattr(other, part)) for part in PARTS]
    assert all(a.keys() == b.keys() for a, b in pairs)
    return max(float((a[n].double() - b[n].double()).abs().max()) for a, b in pairs for n in a)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the stacks that are trained."""
    found, train_stack = [], ltx.training.replicas.train_stack

    def counted(setups: Any, *rest: Any) -> Any:
        found.append(len(setups))
        return train_stack(setups, *rest)

    monkeypatch.setattr(ltx.training.replicas, "train_stack", counted)
    return found


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_seeds_side_by_side_end_where_each_does_alone(recipe: str, stacks: list[int]) -> None:
    cases = [case(seed, recipe, density) for seed, density in enumerate((1.0, 0.5, 0.2))]
    together = side_by_side(cases)
    assert stacks == [3]
    for seed, one in enumerate(cases):
        alone = case(seed, recipe, (1.0, 0.5, 0.2)[seed])
        assert far(together[seed], alone.train()) < 1e-6
        assert len(one.records) == len(alone.records) > 0
        for a, b in zip(timeless(one.records), timeless(alone.records), strict=True):
            assert a == pytest.approx(b, abs=1e-6)
    ends = [end.weights["fc1.weight"] for end in together if isinstance(end, Trained)]
    assert not torch.allclose(ends[0], ends[1], atol=0.1)
    pruned = ~cases[1].state.mask["fc1.weight"]  # type: ignore[union-attr]
    assert pruned.any() and not ends[1][pruned].any()


def test_pruned_weights_that_are_not_zero_stay_unseen_side_by_side_too(stacks: list[int]) -> None:
    def wild(seed: int) -> Case:
        one = case(seed, "momentum")
        assert one.state is not None
        weights = {
            n: torch.where(one.state.mask[n], t, 7.0) if n in one.state.mask else t
            for n, t in one.state.weights.items()
        }
        return replace(one, state=replace(one.state, weights=weights), records=[])

    together = side_by_side([wild(0), case(1, "momentum")])
    assert stacks == [2]
    assert far(together[0], wild(0).train()) < 1e-5  # pruned weights decay from 7
    assert far(together[1], case(1, "momentum").train()) < 1e-6


@pytest.mark.parametrize("recipe", ["momentum", "adam"])
def test_a_level_that_was_begun_alone_goes_on_side_by_side_and_the_other_way_round(
    recipe: str, stacks: list[int]
) -> None:
    whole = [case(seed, recipe, every=0) for seed in range(3)]
    ends = [one.train() for one in whole]
    at_8 = [one.saved(8) for one in whole]
    assert max(map(far, side_by_side([case(s, recipe) for s in range(3)], at_8), ends)) < 1e-6
    mixed = side_by_side([case(s, recipe) for s in range(3)], [None, *at_8[1:]])
    assert stacks == [3, 2] and max(map(far, mixed, ends)) < 1e-6
    together = [case(seed, recipe, every=0) for seed in range(3)]
    side_by_side(together)
    for seed, one in enumerate(together):
        assert far(case(seed, recipe).train(one.saved(8)), ends[seed]) < 1e-6


def test_a_seed_that_diverges_or_cannot_write_leaves_the_others_going() -> None:
    def full(rows: Any) -> None:
        raise OSError("full")

    cases = [case(seed, "adam") for seed in range(4)]
    state = cases[1].state
    assert state is not None
    cases[1].state = replace(state, weights=state.weights | {"fc1.bias": torch.full((6,), torch.nan)})
    setups = [one.setup() for one in cases]
    setups[2] = replace(setups[2], hooks=replace(setups[2].hooks, record=full))
    found = train_all(setups, "cpu", OPTIONS, [None] * 4)
    assert isinstance(found[1], Diverged) and found[1].step == 0
    assert isinstance(found[2], OSError)
    assert max(far(found[i], case(i, "adam").train()) for i in (0, 3)) < 1e-6


def test_when_every_seed_fails_the_level_stops_and_each_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(Fit, "take_step", lambda self, step, optimiser: steps.append(step))

    def lost() -> None:
        raise OSError("lost")

    found = side_by_side([case(seed, check=lost) for seed in range(2)])
    assert [str(error) for error in found] == ["lost", "lost"] and not steps


def test_what_cannot_be_stacked_is_trained_one_after_another(stacks: list[int]) -> None:
    def with_norm(seed: int) -> Case:
        return case(seed, state=None, network=lambda: mlp.Model((1, 4, 4), 3, 1.0, [6, 5], "batch", True))

    found = side_by_side([with_norm(seed) for seed in range(2)])
    assert not stacks and max(far(found[s], with_norm(s).train()) for s in range(2)) == 0.0
    assert stackable(case(0).setup())
    assert not stackable(case(0, data=blobs()).setup())  # augmented
    assert not stackable(case(0, compressed=("fc1.weight",)).setup())
    assert not stackable(case(0, first=16).setup())  # nothing to train
    assert not stackable(replace(case(0).setup(), plain=False))
    assert not stackable(scored(data=DATA).setup())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_stacked_matrices_give_each_replica_its_own_product(
    n: int, batch: int, into: int, out: int, bias: bool
) -> None:
    rng = torch.Generator().manual_seed(n + 10 * batch + 100 * into)
    weight = torch.randn(n, out, into, generator=rng, requires_grad=True)
    shift = torch.randn(n, out, generator=rng, requires_grad=True) if bias else None
    x = torch.randn(n * batch, into, generator=rng)
    got = F.linear(x, Matrices.of(weight), shift)
    one_by_one = [F.linear(part, weight[i], None if shift is None else shift[i]) for i, part in enumerate(x.chunk(n))]
    assert torch.allclose(got, torch.cat(one_by_one), atol=1e-5)
    assert torch.allclose(
        torch.autograd.grad(got.square().sum(), weight)[0],
        torch.autograd.grad(torch.cat(one_by_one).square().sum(), weight)[0],
        atol=1e-4,
    )


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


def test_seeds_that_were_interrupted_side_by_side_go_on_from_their_checkpoints(tmp_path: Path) -> None:
    found = spec(*RUN, "seeds=3", "trainer.checkpoint_seconds=0")

    def interrupted(kind: str, value: Any) -> None:
        if kind == "progress" and isinstance(value, OfSeed) and value.seed == 2 and value.value[0] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together(found, tmp_path, interrupted)
    folders = [tmp_path / f"seed_{seed:03d}" for seed in range(3)]
    assert all((folder / "partial.safetensors").exists() for folder in folders)
    assert not any((folder / "claim").exists() for folder in folders)
    steps: list[int] = []
    seeds = together(found, tmp_path, lambda kind, value: steps.append(value.value[1]) if kind == "progress" else None)
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
