"""Every control on every method: counts kept, one thing changed, and tickets that stand for themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import SMALL, File, counts, same

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.methods.biprop import binarised
from ltx.runs.worker import run_seed
from ltx.store.files import unpack
from ltx.store.folders import RunFolder
from ltx.tensors import cpu, matrices, under

TRUNKS = {
    "edge_popup": "method:edge_popup,method.density:0.4",
    "iterand": "method:edge_popup,method.density:0.4,method.redraw:0.5,method.redraw_every:3",
    "global": "method:edge_popup,method.density:0.3,method.scope:global,method.exclude:[output]",
    "biprop": "method:biprop,method.density:0.4",
    "gem_miner": "method:gem_miner,method.freeze_every:3,method.density:0.3",
    "supermask": "method:supermask,optim.lr:2.0",
    "snip": "method:at_init,method.criterion:snip,method.exclude:[]",
    "grasp": "method:at_init,method.criterion:grasp,method.exclude:[]",
    "synflow": "method:at_init,method.criterion:synflow,method.exclude:[]",
    "erk": "method:at_init,method.criterion:erk,method.exclude:[]",
}
SEARCHES = ("edge_popup", "iterand", "global", "biprop", "gem_miner", "supermask")
KINDS = ("ticket", "untrained", "shuffle", "random", "invert", "own_init", "reinit")


def control(root: Path, trunk: str, *words: str, seed: int = 0) -> tuple[File, File, Spec]:
    """Train a control, and its trunk where it is not there yet; return both files of that seed (the trunk's seed 0)."""
    typed = [*SMALL, "method=control", f"trunk={{{TRUNKS[trunk]}}}", f"root={root}", *words]
    found = Spec.of(compose(typed, []))
    run_seed(found.config, str(found.directory), seed, lambda kind, value: None)
    assert found.trunk is not None
    files = (RunFolder(found.directory).seed(seed), RunFolder(found.trunk.directory).seed(0))
    mine, below = (unpack(file.level_path(0)) for file in files)
    return mine, below, found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output root, so that controls share their trunks."""
    return tmp_path_factory.mktemp("bridges")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_control_of_any_method_keeps_the_counts_and_trains_nothing_else(trunk: str, kind: str, root: Path) -> None:
    (tensors, meta), (ticket, below), _ = control(root, trunk, f"method.kind={kind}")
    mask, own = under("mask", ticket), under("mask", tensors)
    assert counts(mask) == counts(own) and meta["row"]["kept"] == below["row"]["kept"]
    assert same(mask, own) == (kind not in ("shuffle", "random", "invert"))
    begin, end, anchor = under("begin", tensors), under("end", tensors), under("anchor", ticket)
    for name, m in own.items():
        assert not begin[name][~m].any() and not end[name][~m].any()
        if kind in ("ticket", "untrained", "shuffle", "random", "invert") and trunk != "iterand":
            assert torch.equal(begin[name], anchor[name] * m)
    parameters = [name for name in begin if "running" not in name and "batches" not in name]
    assert all(torch.equal(begin[name], end[name]) for name in parameters) == (kind == "untrained")
    assert not under("score", tensors), "a control trains weights"


@pytest.mark.parametrize("kind", ["shuffle", "random", "invert"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_control_with_another_mask_starts_from_weights_wherever_it_keeps_one(
    trunk: str, kind: str, root: Path
) -> None:
    mine, _, _ = control(root, trunk, f"method.kind={kind}")
    for name, mask in under("mask", mine[0]).items():
        assert bool((mine[0][f"begin/{name}"][mask] != 0).all()), name


@pytest.mark.parametrize("trunk", ["edge_popup", "iterand", "global", "gem_miner", "supermask"])
def test_an_untrained_strong_ticket_has_its_own_accuracy(trunk: str, root: Path) -> None:
    (tensors, meta), (ticket, below), _ = control(root, trunk, "method.kind=untrained")
    for name, mask in under("mask", ticket).items():
        assert torch.equal(tensors[f"begin/{name}"], ticket[f"end/{name}"] * mask), name
    for measure in ("test_accuracy", "test_loss", "val_loss"):
        assert meta["row"][measure] == below["row"][measure]


def test_a_rounded_supermask_is_measured_with_statistics_of_its_own(root: Path) -> None:
    words = ("method.kind=untrained", "model=mlp", "model.norm=batch")
    (_, meta), (_, below), _ = control(root, "supermask", *words)
    assert meta["row"]["test_loss"] == below["row"]["test_loss"]
    assert below["row"]["draws_test_accuracy"] != below["row"]["test_accuracy"]


def test_an_untrained_binarised_biprop_ticket_has_its_own_accuracy(root: Path) -> None:
    words = ("method.kind=untrained", "method.binarise=true")
    (_, meta), (_, below), _ = control(root, "biprop", *words)
    assert meta["row"]["test_accuracy"] == below["row"]["test_accuracy"]
    assert meta["row"]["test_loss"] == pytest.approx(below["row"]["test_loss"], rel=1e-6)
    (_, plain), _, _ = control(root, "biprop", "method.kind=untrained")
    assert plain["row"]["test_loss"] != pytest.approx(below["row"]["test_loss"], rel=1e-3)


@pytest.mark.parametrize("trunk", ["edge_popup", "biprop", "supermask", "snip"])
def test_a_binarised_start_is_the_sign_times_alpha_of_the_tickets_mask(trunk: str, root: Path) -> None:
    words = ("method.kind=untrained", "method.binarise=true")
    (tensors, _), (ticket, _), _ = control(root, trunk, *words)
    for name, mask in under("mask", ticket).items():
        begin, anchor = tensors[f"begin/{name}"], ticket[f"anchor/{name}"]
        alpha = anchor[mask].abs().mean()
        assert torch.equal(begin, binarised(anchor, mask))
        assert torch.allclose(begin[mask], torch.where(anchor >= 0, alpha, -alpha)[mask]) and not begin[~mask].any()
        assert len(begin.unique()) == 3, "-alpha, 0, alpha"


@pytest.mark.parametrize("trunk", ["edge_popup", "global", "biprop"])
def test_an_inverted_mask_keeps_the_lowest_scores(trunk: str, root: Path) -> None:
    (tensors, _), (ticket, _), _ = control(root, trunk, "method.kind=invert")
    for name, mask in under("mask", tensors).items():
        score = ticket[f"score/{name}"].abs()
        assert score[mask].max() <= score[~mask].min()


@pytest.mark.parametrize("trunk", TRUNKS)
def test_an_inverted_mask_shares_no_more_with_the_ticket_than_the_density_forces(trunk: str, root: Path) -> None:
    (tensors, _), (ticket, _), _ = control(root, trunk, "method.kind=invert")
    for name, mask in under("mask", ticket).items():
        inverted, kept = tensors[f"mask/{name}"], int(mask.sum())
        assert int((inverted & mask).sum()) == max(0, 2 * kept - mask.numel()), name


@pytest.mark.parametrize("trunk", ["edge_popup", "biprop", "gem_miner", "supermask", "snip"])
def test_a_mask_moves_to_the_initialisation_of_another_seed(trunk: str, root: Path) -> None:
    words = ("method.kind=own_init", "method.trunk_seed=0")
    (moved, _), (ticket, _), found = control(root, trunk, *words, seed=1)
    own, other = (cpu(dict(found.network(streams=found.streams(n)).named_parameters())) for n in (1, 0))
    assert same(under("mask", moved), under("mask", ticket))
    for name in matrices(found.network()):
        mask, begin = moved[f"mask/{name}"], moved[f"begin/{name}"]
        assert torch.equal(begin.sign(), own[name].sign() * mask)
        ratio = float(begin.norm() / (own[name] * mask).norm())  # a search may stand on its init times a constant
        assert torch.allclose(begin, ratio * own[name] * mask, rtol=1e-5)
        assert not torch.equal(begin.sign(), other[name].sign() * mask)


def test_a_found_strong_ticket_learns_when_its_weights_are_trained(root: Path) -> None:
    words = ("method.kind=ticket", "optim.steps=60", "optim.lr=.1")
    (tensors, meta), (ticket, below), _ = control(root, "edge_popup", *words)
    assert meta["row"]["train_loss"] < below["row"]["train_loss"]
    assert same(under("mask", tensors), under("mask", ticket))
