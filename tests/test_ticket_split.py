"""Splitting as a run: extended and continued to the same bytes, and its rows say what its masks are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, levels, only
from helpers import counts, dying, initial, same, spec, ticket_examples, trained, whole
from safetensors.torch import save_file
from torch.nn import functional as F

import ltx as package
from ltx.analysis import quality as analysis
from ltx.analysis import splitting
from ltx.analysis.quality import Examples, quality
from ltx.analysis.swaps import unpack
from ltx.config.spec import Spec
from ltx.errors import BadInput
from ltx.store.folders import RunFolder
from ltx.streams import generator
from ltx.tensors import Tensors, under

Ltx = Callable[..., Result]
NET = ("method=ticket_split", "model.hidden=[6]", "method.masks=16", "method.sweeps=2")  # 384 and 60 weights


def masks_of(tensors: Tensors, population: str, weights: Tensors) -> Tensors:
    packed = under(f"sample/{population}/masks", tensors)
    return {name: unpack(packed[name].numpy(), weight.shape) for name, weight in weights.items()}


def level_of(folder: Path, seed: int, level: int) -> tuple[Tensors, dict[str, Any]]:
    found = RunFolder(folder).seed(seed).read_level(level)
    assert found is not None
    return found


def test_levels_run_at_once_are_those_run_one_by_one_after_an_extension(ltx: Ltx, root: Path, tmp_path: Path) -> None:
    """With eleven layers, whose names a file has in another order than the network."""
    net = (*NET, "seeds=2", "model=mlp", "model.hidden=[16,16,16,16,16,16,16,16,16,16]", "method.density=.9")
    assert ltx("run", *net, "method.levels=3", f"root={tmp_path / 'whole'}").code == 0
    for last in range(4):
        assert ltx("run", *net, f"method.levels={last}").code == 0
    whole = levels(only(tmp_path / "whole"))
    assert levels(only(root)) == whole and len(whole) == 8


def test_a_run_that_is_killed_within_a_level_continues_with_it(
    ltx: Ltx, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ltx("run", *NET, "seeds=1", "method.levels=2", f"root={tmp_path / 'whole'}").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(splitting, "move", dying(splitting.move, 4))  # each level moves two populations
        assert ltx("run", *NET, "seeds=1", "method.levels=2").code == 3
    assert [*levels(only(root))] == ["seed_000/level_00.safetensors"]
    assert ltx("run", *NET, "seeds=1", "method.levels=2").code == 0
    assert levels(only(root)) == levels(only(tmp_path / "whole"))


@pytest.mark.parametrize("words", [(), ("method.density=.2", "method.exclude=[output]")], ids=["half", "one layer"])
def test_a_level_says_what_its_masks_are(words: tuple[str, ...], tmp_path: Path) -> None:
    found = spec(*NET, *words, "method.levels=3")
    weights, examples, density = initial(found), ticket_examples(found), found.method.density
    kept = {name: round(density * weight.numel()) for name, weight in weights.items()}
    if words:
        kept["out.weight"] = 60
    best, log10_p, thresholds = -math.inf, 0.0, []
    for level, (tensors, meta) in enumerate(trained(found, tmp_path)):
        row = meta["row"]
        for population in ("pilot", "second"):
            masks = masks_of(tensors, population, weights)
            assert all((mask.flatten(1).sum(1) == kept[name]).all() for name, mask in masks.items())
            fresh = quality(weights, masks, examples)
            own = tensors[f"sample/{population}/quality"].numpy()
            assert len(own) == 16 and own == pytest.approx(fresh.quality, abs=5e-7)
            assert own.min() >= row["threshold"]
            best = max(best, float(own.max()))
        assert row["best"] >= best
        best = row["best"]
        thresholds.append(row["threshold"])
        share = 10 ** (row["log10_p"] - log10_p)
        assert 16 * share == pytest.approx(round(16 * share)), "a share of sixteen masks"
        log10_p = row["log10_p"]
        assert row["roots"] == len(tensors["sample/second/roots"].unique()) <= 16
        assert row["note"] is None and 0 <= row["acceptance"] <= 1 and row["log10_p_sd"] > 0 and row["mixing"] >= 0
        mask = under("mask", tensors)
        assert mask.keys() == (weights.keys() - {"out.weight"} if words else weights.keys())
        assert counts(mask) == {name: kept[name] for name in mask}
        alone = quality(weights, {name: m[None] for name, m in (whole(weights) | mask).items()}, examples)
        assert float(alone.quality[0]) == pytest.approx(best, abs=5e-7)
        for name, end in under("end", tensors).items():
            share = density if name in mask else 1
            assert torch.allclose(end, weights[name] * (whole(weights) | mask)[name] / math.sqrt(share))
        assert row["test_quality"] == pytest.approx(on_test(found, tensors, weights, kept), abs=1e-6)
        assert level > 0 or row["swapped"] == sum(math.ceil(k * (1 - k / weights[n].numel())) for n, k in kept.items())
    assert thresholds == sorted({*thresholds})


def on_test(found: Spec, tensors: Tensors, weights: Tensors, kept: dict[str, int]) -> float:
    """The mean quality of the second population on the test part, mask by mask through plain products."""
    masks, total = masks_of(tensors, "second", weights), 0.0
    x, y = found.data.test.x.flatten(1), found.data.test.y
    for i, beta in enumerate(tensors["sample/second/inverse_temperature"].tolist()):
        hidden = weights["fc1.weight"] * masks["fc1.weight"][i] * math.sqrt(384 / kept["fc1.weight"])
        out = weights["out.weight"] * masks["out.weight"][i] * math.sqrt(60 / kept["out.weight"])
        total -= float(F.cross_entropy(beta * (F.relu(x @ hidden.T) @ out.T).double(), y)) / 16
    return total


def test_seeds_on_one_initialisation_are_repeats_that_draw_other_masks(ltx: Ltx, root: Path) -> None:
    assert ltx("run", *NET, "seeds=2", "method.levels=0", "streams.init=7").code == 0
    (one, _), (other, _) = (level_of(only(root), seed, 0) for seed in (0, 1))
    assert same(under("begin", one), under("begin", other))
    for population in ("pilot", "second"):
        name = f"sample/{population}/quality"
        assert not torch.equal(one[name], other[name])
    assert not torch.equal(one["sample/pilot/quality"], one["sample/second/quality"])


def test_the_first_share_is_that_of_random_masks(ltx: Ltx, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against 4,000 masks of ticket_sample on the same initialisation, for eight repeats of 64 masks."""
    monkeypatch.setattr(analysis, "BLOCK", 4_000)
    words = ("model.hidden=[6]", "method.levels=0", "streams.init=0")
    assert ltx("run", "method=ticket_split", "method.sweeps=1", "method.masks=64", *words, "seeds=8").code == 0
    split = package.open_run(only(root)).summary
    assert ltx("run", "method=ticket_sample", *words, "seeds=1", f"root={root / 'sampled'}").code == 0
    sampled = package.open_run(only(root / "sampled")).samples().quality.to_numpy()
    ratio = [10**row.log10_p / (sampled >= row.threshold).mean() for row in split.itertuples()]
    assert np.mean(ratio) == pytest.approx(1, abs=3 * np.std(ratio, ddof=1) / math.sqrt(8))


def test_fewer_examples_are_scored_where_that_is_asked(tmp_path: Path) -> None:
    found = spec(*NET, "method.levels=0", "method.examples=200")
    ((tensors, _),) = trained(found, tmp_path)
    weights = initial(found)
    own = tensors["sample/pilot/quality"].numpy()
    masks = masks_of(tensors, "pilot", weights)
    chosen = torch.from_numpy(generator("split", 0, "examples").permutation(1257)[:200])
    train, val = found.data.train, found.data.val
    x, y = torch.cat([val.x, train.x[chosen]]), torch.cat([val.y, train.y[chosen]])
    assert own == pytest.approx(quality(weights, masks, Examples(x.flatten(1), y, 180)).quality, abs=5e-7)
    assert own != pytest.approx(quality(weights, masks, ticket_examples(found)).quality, abs=1e-4)


def test_a_repeat_whose_counted_masks_die_out_says_so_in_words_and_gives_no_number(ltx: Ltx, root: Path) -> None:
    words = ("method.masks=8", "method.keep=.125", "method.sweeps=6", "seeds=3")
    for last in (1, 4):
        assert ltx("run", *NET[:2], *words, f"method.levels={last}").code == 0
    summary = package.open_run(only(root)).summary
    gone = summary.log10_p.isna()
    assert 0 < gone.sum() < 15 and gone.groupby(summary.seed).apply(lambda found: found.is_monotonic_increasing).all()
    assert summary.note[gone].str.contains("none of the 8 masks that are counted reached").all()
    assert summary.note[~gone].isna().all() and (summary.roots[gone] == 0).all()
    assert summary[["log10_p_sd", "acceptance", "mixing", "test_quality"]][gone].isna().all(axis=None)
    assert summary.pilot_log10_p.notna().all()


def test_a_network_all_of_whose_masks_are_alike_is_refused_in_words(ltx: Ltx, root: Path) -> None:
    found = spec(*NET)
    save_file({name: torch.zeros_like(w) for name, w in initial(found).items()}, root.parent / "zeros.safetensors")
    result = ltx("run", *NET, "seeds=1", f"model.weights={root.parent / 'zeros.safetensors'}")
    assert result.code == 3
    assert "all 16 masks of the pilot have the quality -2.30" in " ".join((result.out + result.err).split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model=convnet",), "fully connected ReLU networks alone, and this network is another: model=lenet"),
        (("model=mlp", "model.norm=batch"), "has norms: model.norm=null does without"),
        (("method.density=.001",), "no weight of layer fc1, out.*allow_dead_layers=true"),
        (("method.exclude=['*']",), "leaves nothing to mask"),
        (("method.density=1",), "method.density=1.* there is a single mask; 0.5 leaves the most"),
        (("method.keep=.05",), r"method.keep=0.05 of method.masks=16 lets no mask survive a level; 0.0625 lets one"),
        (("method.keep=1",), "keep.*less than 1"),
        (("method.masks=4",), "masks.*greater than or equal to 8"),
        (("method.sweeps=0",), "sweeps.*greater than or equal to 1"),
        (("method.examples=0",), "examples.*greater than or equal to 1"),
    ],
)
def test_what_cannot_be_split_is_refused_in_one_paragraph_before_anything_is_written(
    words: tuple[str, ...], said: str, ltx: Ltx, root: Path
) -> None:
    own = [word for word in NET if "hidden" not in word or not any("model=" in other for other in words)]
    result = ltx("run", *own, *words)
    assert result.code == 2 and not root.exists(), result.out
    assert re.search(said, " ".join(result.err.split())), result.err


def test_a_split_run_is_continued_deeper_under_the_same_key_and_has_no_samples_of_masks(ltx: Ltx, root: Path) -> None:
    assert spec(*NET).key == spec(*NET, "method.levels=90").key
    assert spec(*NET).method.last_level == 40
    said = ltx("run", *NET, "seeds=1", "method.levels=1").out
    assert "best quality" in said and "early stop" not in said
    with pytest.raises(BadInput, match="has no samples"):
        package.open_run(only(root)).samples()
