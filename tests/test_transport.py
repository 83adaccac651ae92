"""Masks moved to another initialisation in the order of its units, and magnitudes that no scale of units changes."""

from __future__ import annotations

import copy
import itertools
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import pandas as pd
import pytest
import torch
from helpers import STREAMS, File, context, dying, initial, same, spec, trained
from symmetric import apart, draw, drawn, orders_of, scales_of
from torch import Tensor, nn
from torch.func import functional_call

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.figures.arms import plan
from ltx.figures.mask_transport import TICKET, claims
from ltx.methods import State
from ltx.methods.control import transported
from ltx.methods.imp import gauge_magnitude
from ltx.models.mlp import Model as MLP
from ltx.runs.capacity import Capacity
from ltx.runs.levels import LevelLoop
from ltx.runs.sweep import Schedule, expand
from ltx.store.files import commit
from ltx.symmetry import Table, Units, sizes
from ltx.symmetry.gauge import multiplied, permuted, rescaled
from ltx.tensors import Tensors, matrices, parameters, under

BASE = ("width=.1", "optim.steps=6", "optim.batch=20", "method=control")
TRUNK = "trunk={method:imp,method.levels:2,method.fraction:.5}"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def control(root: Path, *words: str) -> Spec:
    return spec(*BASE, TRUNK, f"root={root}", *words)


def levels(root: Path, *words: str, seed: int = 0) -> list[File]:
    """Train one seed of a control, and what it needs of the trunk, and read its levels."""
    found = control(root, *words)
    return trained(found, found.directory, seed)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root that the tests share, so that each seed of the trunk is trained once."""
    return tmp_path_factory.mktemp("store")


def state(module: nn.Module, tensors: Tensors) -> State:
    """Return a network's tensors as a state without a mask."""
    weights = {name: tensors[name] for name, _ in module.named_parameters()}
    return State(weights, {name: tensor for name, tensor in tensors.items() if name not in weights}, {})


@pytest.mark.parametrize("name", ["lenet", "mlp", "conv", "resnet20"])
def test_a_planted_order_of_the_dense_network_is_undone_in_its_mask(name: str) -> None:
    module, table, x = drawn(name)
    module = copy.deepcopy(module)
    own, planted = (
        {key: tensor.clone() for key, tensor in module.state_dict().items()},
        orders_of(sizes(module, table), seed=3),
    )
    other = permuted(own, table, planted)
    if not table.norms:
        other = rescaled(other, table, scales_of(sizes(module, table)))
    masks = {key: draw(i, *own[key].shape) > 0.5 for i, key in enumerate(matrices(module))}
    init = {key: draw(i, *tensor.shape) for i, (key, tensor) in enumerate(parameters(module).items())}
    states = {True: state(module, own), False: state(module, other)}
    trunk = State({}, {}, permuted(masks, table, planted))
    assert not same(trunk.mask, masks)
    given = context(init, network=module, dense=states.__getitem__, batch=lambda number: (x, None))
    moved = transported(trunk, given, 0)
    assert same(moved.mask, masks) and same(moved.weights, init)


def test_a_mask_moved_to_its_own_seed_stays_as_it_is_and_is_the_ticket(store: Path) -> None:
    moved = levels(store, "method.kind=transport", "method.trunk_seed=0")
    ticket = levels(store, "method.kind=ticket")
    assert len(moved) == len(ticket) == 3
    for (one, meta), (other, below) in zip(moved, ticket, strict=True):
        assert same(one, other) and meta["row"] == below["row"]


def test_a_moved_mask_has_the_trunks_counts_in_other_places_and_the_seeds_own_initial_weights(store: Path) -> None:
    words = ("method.kind=transport", "method.trunk_seed=1")
    found, naive = levels(store, *words), levels(store, "method.kind=own_init", "method.trunk_seed=1")
    own = initial(control(store, *words))
    for (moved, _), (plain, _) in list(zip(found, naive, strict=True))[1:]:
        one, other = under("mask", moved), under("mask", plain)
        assert not same(one, other)
        for name, mask in one.items():
            assert int(mask.sum()) == int(other[name].sum())
            assert torch.equal(mask.sum(1).sort().values, other[name].sum(1).sort().values), "units move as a whole"
            assert torch.equal(moved[f"begin/{name}"], own[name] * mask)
    masks = [under("mask", tensors) for tensors, _ in found]
    assert all(not (after[key] & ~before[key]).any() for before, after in itertools.pairwise(masks) for key in after)


def test_a_shift_names_for_every_seed_the_seed_of_the_trunk_that_its_pin_would(store: Path) -> None:
    for kind in ("own_init", "transport"):
        words = (f"method.kind={kind}", "method.trunk_level=1")
        [(shifted, _)] = levels(store, *words, "method.trunk_shift=2", seed=1)
        [(pinned, _)] = levels(store, *words, "method.trunk_seed=3", seed=1)
        assert same(shifted, pinned), kind


def test_a_moved_mask_is_the_same_after_a_kill(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("method.kind=transport", "method.trunk_seed=1")
    undisturbed, found = levels(store, *words), control(tmp_path, *words)
    assert found.trunk is not None
    shutil.copytree(store / "runs" / found.trunk.key, found.trunk.directory)
    with monkeypatch.context() as patch:
        patch.setattr(LevelLoop, "commit", dying(LevelLoop.commit, 2))
        with pytest.raises(OSError, match="killed"):
            trained(found, found.directory)
    assert len(list(found.directory.glob("*/level_*.safetensors"))) == 1
    resumed = trained(found, found.directory)
    assert all(same(one, other) for (one, _), (other, _) in zip(resumed, undisturbed, strict=True))


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("method.kind=transport", "method.trunk_shift=5"), [0, 1, 5, 6]),
        (("method.kind=transport", "method.trunk_shift=1"), [0, 1, 2]),
        (("method.kind=transport", "method.trunk_seed=3"), [0, 1, 3]),
        (("method.kind=own_init", "method.trunk_shift=5"), [5, 6]),
        (("method.kind=own_init", "method.trunk_seed=3"), [3]),
        (("method.kind=own_init",), [0, 1]),
    ],
)
def test_the_trunk_is_asked_for_the_seeds_that_are_needed(words: tuple[str, ...], needed: list[int]) -> None:
    trunk, _ = expand([spec(*BASE, TRUNK, "seeds=2", *words)], [], None).values()
    assert trunk.spec.seeds == needed


def test_a_seed_waits_for_both_dense_networks(tmp_path: Path) -> None:
    found = control(tmp_path, "method.kind=transport", "method.trunk_shift=5", "seeds=1")
    points = expand([found], [], None)
    schedule, (trunk, _) = Schedule(points, False, Capacity(found.config)), points.values()
    try:
        jobs = [schedule.next_job() for _ in range(3)]
        assert [job and job.arguments[2] for job in jobs] == [0, 5, None]
        for seed in (5, 0):
            assert schedule.next_job() is None
            for level in range(3):
                commit(trunk.folder.seed(seed).level_path(level), b"")
            trunk.handle(seed, "ended", None)
        job = schedule.next_job()
        assert job is not None and found.key in job.name
    finally:
        for point in points.values():
            point.close()


def pruned(module: nn.Module, x: Tensor, end: State, level: int, criterion: str) -> Tensors:
    """Return the mask of a level that an IMP of 40 % a level takes from the end of its parent."""
    chosen = helpers.method("imp", criterion=criterion, fraction=0.4, exclude=[])
    batches = {"batch": lambda number: (x, None)}
    given = context(parameters(module), prunable=list(end.mask), network=module, previous=end, **batches)
    return chosen.start(level, given).mask


def louder(tensors: Tensors, table: Table) -> Tensors:
    """Return a network whose units, or the norms on them, are times powers of 2, which round nothing."""
    norms = {layer: norm for norm, layer in table.norms.items()}
    for u, units in enumerate(table.units):
        writers = tuple(norms.get(layer, layer) for layer in units.writers)
        powers = STREAMS.generator("noise", "louder", u).integers(-3, 4, len(tensors[f"{writers[0]}.weight"]))
        scale = 2.0 ** torch.from_numpy(powers)
        tensors = multiplied(tensors, Units(writers, units.readers), scale, 1 / scale)
    return tensors


@pytest.mark.parametrize("name", ["lenet", "mlp"])
def test_a_rescaling_of_units_changes_the_mask_of_magnitudes_and_not_that_of_balanced_ones(name: str) -> None:
    module, table, x = drawn(name)
    module = copy.deepcopy(module)
    n = sum(module.get_parameter(key).numel() for key in matrices(module))
    plain = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    mask = helpers.whole({key: plain[key] for key in matrices(module)})
    for level in (1, 2):
        plain |= {key: plain[key] * keep for key, keep in mask.items()}
        loud = louder(plain, table)
        assert apart(functional_call(module, loud, (x,)), functional_call(module, plain, (x,))) < 1e-5
        ends = [replace(state(module, tensors), mask=mask) for tensors in (plain, loud)]
        one, other = (pruned(module, x, end, level, "final") for end in ends)
        assert not same(one, other)
        one, other = (pruned(module, x, end, level, "gauge_magnitude") for end in ends)
        assert same(one, other) and not same(one, pruned(module, x, ends[0], level, "final"))
        assert sum(int(keep.sum()) for keep in one.values()) == round(n * 0.6**level)
        mask = one


def test_the_magnitude_free_of_scale_ranks_by_hand_and_a_dead_units_weights_last() -> None:
    # Unit 0: in 3 and 4 (norm 5), out .2: balanced when both have norm 1, so .6, .8 and 1. Unit 1: in 2, out 2.
    # Unit 2 has nothing coming in, and its 9 going out ranks last.
    module = MLP((2,), 1, 1.0, [3], norm=None, bias=False)
    module.fc1.weight.data = torch.tensor([[3.0, 4.0], [2.0, 0.0], [0.0, 0.0]])
    module.out.weight.data = torch.tensor([[0.2, 2.0, 9.0]])
    weights = parameters(module)
    end = State(weights, {}, helpers.whole(weights))
    x = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    ranks = gauge_magnitude(context(weights, network=module, previous=end, batch=lambda number: (x, None)))
    assert torch.allclose(ranks["fc1.weight"], torch.tensor([[0.6, 0.8], [2, 0], [0, 0]]).double())
    assert torch.allclose(ranks["out.weight"], torch.tensor([[1.0, 2.0, 0.0]]).double())


@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_levels_of_balanced_magnitudes_are_nested_and_their_counts_exact(model: str, tmp_path: Path) -> None:
    words = (f"model={model}", "width=.1", "optim.steps=2", "optim.batch=20", "method.levels=3", "method.fraction=.4")
    files = trained(spec("method=imp", "method.criterion=gauge_magnitude", *words), tmp_path)
    masks = [under("mask", tensors) for tensors, _ in files]
    n = sum(mask.numel() for mask in masks[0].values())
    assert [sum(int(keep.sum()) for keep in mask.values()) for mask in masks] == [round(n * 0.6**i) for i in range(4)]
    assert all(not (after[key] & ~before[key]).any() for before, after in itertools.pairwise(masks) for key in after)


FIXED, ARMS = plan("mask-transport", [])


def planted(losses: dict[str, dict[float, float]]) -> pd.DataFrame:
    """Return a table of four seeds in which a line has these losses by width at level 6, and ten times that at 4."""
    found = []
    for line, by_width in losses.items():
        for (width, loss), seed, level in itertools.product(by_width.items(), range(4), (0, 4, 6)):
            noise = 1 + 0.001 * float(STREAMS.generator("noise", line, str(width), seed, level).standard_normal())
            row = {"line": line, "width": width, "seed": seed, "level": level, "density": 0.5**level}
            found.append({**row, "test_loss": loss * noise * (10 if level == 4 else 1), "test_accuracy": 0.5})
    return pd.DataFrame(found)


def asked(line: str, below: str, level: int, at: str | float) -> dict[str, Any]:
    """Return a yaml's content with one claim."""
    of = {"line": line, "below": below, "level": level, "at": at}
    return {**FIXED, "claims": {"one": {"statement": "s", "threshold": 0, "n": 4, "of": of}}}


@pytest.mark.parametrize(
    ("line", "below", "level", "at", "ratio"),
    [
        ("a", "b", 6, 0.25, 5),
        ("a", "b", 6, 2, 1.5),
        ("b", "a", 6, 0.25, 1 / 5),
        ("a", "b", 4, "mean", math.sqrt(5 * 1.5)),
        ("a", "b", 6, "narrow - wide", 5 / 1.5),
        ("b", "a", 4, "narrow - wide", 1.5 / 5),
    ],
)
def test_a_claim_is_of_the_log_of_a_ratio_of_losses(line: str, below: str, level: int, at: Any, ratio: float) -> None:
    table = planted({"a": {0.25: 0.1, 2: 0.2}, "b": {0.25: 0.5, 2: 0.3}})
    claim = claims(table, asked(line, below, level, at))["one"]
    assert claim.effect == pytest.approx(math.log(ratio), abs=0.004) and claim.n == 4
    assert claim.verdict == ("passed" if ratio > 1 else "failed")


def test_a_seed_without_all_its_runs_is_left_out_of_a_claim() -> None:
    table = planted({"a": {0.25: 0.1, 2: 0.2}, "b": {0.25: 0.5, 2: 0.3}})
    table = table[~((table["line"] == "b") & (table["width"] == 2) & (table["seed"] == 3))]
    for at, n in (("mean", 3), (2, 3), (0.25, 4), ("narrow - wide", 3)):
        assert claims(table, asked("a", "b", 6, at))["one"].n == n


def test_controls_of_the_figure_stand_on_its_own_tickets_and_its_claims_on_its_arms() -> None:
    specs = {arm.name: Spec.of(compose(arm.words, [])) for arm in ARMS}
    for arm in ARMS:
        trunk = specs[arm.name].trunk
        assert ("stands_on" in arm.facts) == (trunk is not None)
        if trunk is not None:
            assert trunk.key == specs[f"{TICKET} {arm.facts['width']:g}"].key, "nothing is searched twice"
    lines = {arm.facts["line"] for arm in ARMS}
    for claim in FIXED["claims"].values():
        assert {claim["of"]["line"], claim["of"]["below"]} <= lines and claim["of"]["level"] in FIXED["levels"]
        assert claim["of"]["at"] in (*FIXED["widths"], "mean", "narrow - wide")
