"""Random tickets in blocks: extended and continued to the same bytes, and the qualities are those of the analysis."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result, levels, only
from helpers import counts, dying, initial, same, spec, ticket_examples, trained, whole
from looks import assert_readable, texts
from safetensors.torch import save_file
from torch.nn import functional as F

import ltx as package
from ltx.analysis import quality as analysis
from ltx.analysis.quality import Examples, quality, quality_of_block
from ltx.data.splits import Dataset, Memory
from ltx.errors import BadInput
from ltx.methods import ticket_sample
from ltx.report.run_picture import draw
from ltx.runs.levels import LevelLoop
from ltx.store.folders import RunFolder
from ltx.store.rows import Row
from ltx.tensors import Tensors, under

Ltx = Callable[..., Result]
NET = ("method=ticket_sample", "model.hidden=[6]")  # 384 and 60 weights
ROUND = 1e-5  # of qualities, between sums in another order


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw blocks of 300 masks in chunks of 64, a few milliseconds each."""
    monkeypatch.setattr(analysis, "BLOCK", 300)
    monkeypatch.setattr(ticket_sample, "BLOCK", 300)
    monkeypatch.setattr(ticket_sample, "fitting", lambda weights, examples: 64)


def test_blocks_run_at_once_are_those_run_one_by_one_after_an_extension(ltx: Ltx, root: Path, tmp_path: Path) -> None:
    assert ltx("run", *NET, "seeds=2", "method.levels=4", f"root={tmp_path / 'whole'}").code == 0
    assert ltx("run", *NET, "seeds=2", "method.levels=2").code == 0
    whole, found = levels(only(tmp_path / "whole")), levels(only(root))
    assert len(found) == 6 and found == {name: whole[name] for name in found}
    assert ltx("run", *NET, "seeds=2", "method.levels=4").code == 0
    assert levels(only(root)) == whole and len(whole) == 10


def test_a_run_that_is_killed_within_a_block_continues_with_it(
    ltx: Ltx, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ltx("run", *NET, "seeds=1", "method.levels=2", f"root={tmp_path / 'whole'}").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(ticket_sample, "quality", dying(quality, 8))  # a block is 5 chunks
        assert ltx("run", *NET, "seeds=1", "method.levels=2").code == 3
    assert [*levels(only(root))] == ["seed_000/level_00.safetensors"]
    assert ltx("run", *NET, "seeds=1", "method.levels=2").code == 0
    assert levels(only(root)) == levels(only(tmp_path / "whole"))


@pytest.mark.parametrize("words", [(), ("method.density=.2", "method.exclude=[output]")], ids=["half", "one layer"])
def test_a_level_holds_the_qualities_of_its_block_and_the_best_mask_so_far(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    found = spec(*NET, *words, "method.levels=2")
    weights, seen, density = initial(found), ticket_examples(found), found.method.density
    kept = {name: round(density * weight.numel()) for name, weight in weights.items()}
    if words:
        kept["out.weight"] = 60
    best, so_far = -math.inf, []
    for block, (tensors, meta) in enumerate(trained(found, tmp_path)):
        expected = quality_of_block(weights, kept, found.streams(0), block, seen, 64)
        assert np.array_equal(tensors["sample/quality"].numpy(), expected.quality)
        assert np.array_equal(tensors["sample/dead"].numpy(), expected.dead)
        best = max(best, float(expected.quality.max()))
        so_far.append(best)
        mask, row = under("mask", tensors), meta["row"]
        assert counts(mask) == {name: kept[name] for name in mask}
        assert mask.keys() == (weights.keys() - {"out.weight"} if words else weights.keys())
        assert row["best"] == float(tensors["sample/best"]) == best
        assert row["block_mean"] == pytest.approx(expected.quality.mean(), abs=1e-12)
        assert row["block_sd"] == pytest.approx(np.sqrt(expected.quality.var() * 300 / 299), rel=1e-9)
        assert row["dead"] == expected.dead.sum() / 300
        assert row["atom"] == (expected.quality == -math.log(10)).sum() / 300 and 0 < row["atom"] < 1
        alone = quality(weights, {name: m[None] for name, m in (whole(weights) | mask).items()}, seen)
        assert float(alone.quality[0]) == pytest.approx(best, abs=ROUND)
        for name, end in under("end", tensors).items():
            share = density if name in mask else 1
            assert torch.allclose(end, weights[name] * (whole(weights) | mask)[name] / math.sqrt(share))
    assert so_far[0] < so_far[-1], "otherwise a best that is forgotten would not show"


def test_the_quality_of_the_best_mask_is_that_of_the_ticket_as_a_plain_network(ltx: Ltx, root: Path) -> None:
    """With the temperature found by a grid, on the parts of the data as a caller loads them."""
    assert ltx("run", *NET, "seeds=1", "method.levels=1").code == 0
    run, data = package.open_run(only(root)), package.load_data("digits")
    module = run.ticket().module()
    with torch.no_grad():
        fitted, scored = module(data.val.x).double(), module(data.train.x).double()
    betas = np.linspace(0, 3, 3001)
    beta = min(betas, key=lambda b: float(F.cross_entropy(b * fitted, data.val.y)))
    assert 0 < beta < 3
    assert run.summary.best.iloc[-1] == pytest.approx(-float(F.cross_entropy(beta * scored, data.train.y)), abs=1e-4)


def test_samples_are_read_back_to_the_bit_in_their_order(ltx: Ltx, root: Path, finished: Path) -> None:
    assert ltx("run", *NET, "seeds=[3,4]", "method.levels=2", f"root={root / 'own'}").code == 0
    folder = only(root / "own")
    run = package.open_run(folder)
    for seed in (3, 4):
        found = run.samples(seed)
        assert list(found.columns) == ["level", "quality", "dead"]
        assert found.level.tolist() == [0] * 300 + [1] * 300 + [2] * 300
        files = [trained_level(folder, seed, n) for n in range(3)]
        assert np.array_equal(found.quality, torch.cat([tensors["sample/quality"] for tensors in files]).numpy())
        assert found.dead.dtype == bool
        row = run.summary[(run.summary.seed == seed) & (run.summary.level == 2)]
        assert found.quality.max() == float(row.best.iloc[0])
    assert run.samples().equals(run.samples(3)) and not run.samples(3).equals(run.samples(4))
    with pytest.raises(BadInput, match="no samples of seed 5"):
        run.samples(5)
    with pytest.raises(BadInput, match="method=ticket_sample"):
        package.open_run(finished).samples()
    file = folder / "seed_003" / "level_01.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadInput, match="computes it anew"):
        run.samples(3)


def trained_level(folder: Path, seed: int, level: int) -> Tensors:
    found = RunFolder(folder).seed(seed).read_level(level)
    assert found is not None
    return found[0]


def test_seeds_on_one_initialisation_draw_other_masks_of_it(ltx: Ltx, root: Path) -> None:
    assert ltx("run", *NET, "seeds=2", "method.levels=0", "streams.init=7").code == 0
    one, other = (trained_level(only(root), seed, 0) for seed in (0, 1))
    assert same(under("begin", one), under("begin", other))
    assert not torch.equal(one["sample/quality"], other["sample/quality"])
    drawn = initial(spec(*NET, "streams.init=7"), 5)
    assert all(torch.allclose(begin, drawn[name] * 2**0.5) for name, begin in under("begin", one).items())


def test_masks_of_a_start_from_a_file_are_of_its_weights(tmp_path: Path) -> None:
    planted = {name: weight + 0.1 for name, weight in initial(spec(*NET)).items()}
    save_file(planted, tmp_path / "start.safetensors")
    found = spec(*NET, "method.levels=0", f"model.weights={tmp_path / 'start.safetensors'}")
    ((tensors, _),) = trained(found, tmp_path / "run")
    kept = found.method.kept(planted)
    expected = quality_of_block(planted, kept, found.streams(0), 0, ticket_examples(found), 64)
    assert np.array_equal(tensors["sample/quality"].numpy(), expected.quality)


def test_an_untrained_control_on_a_block_is_its_best_ticket(ltx: Ltx, root: Path) -> None:
    assert ltx("run", *NET, "seeds=1", "method.levels=1").code == 0
    below = package.open_run(only(root)).summary
    result = ltx("run", "method=control", "method.kind=untrained", "seeds=1", f"of={only(root).name}")
    assert result.code == 0, result.err
    mine = package.open_run(result.folder).summary
    for name in ("level", "kept", "train_loss", "test_loss", "test_accuracy"):
        assert mine[name].tolist() == below[name].tolist(), name


def test_of_large_parts_the_same_examples_are_taken_for_all_seeds_and_none_of_the_test_part(tmp_path: Path) -> None:
    def part(first: int, count: int) -> Memory:
        return Memory(torch.arange(first, first + count).reshape(count, 1, 1, 1), torch.arange(count) % 10)

    def taken(seed: int) -> Examples:
        folder = RunFolder(tmp_path).seed(seed)
        loop = LevelLoop(spec(*NET), folder, lambda kind, value: None, lambda: None)
        loop.data = Dataset(part(10_000, 5_000), part(1_000, 900), part(0, 100), 10)
        return ticket_sample.examples(loop.context(0))

    found = taken(0)
    val, train = found.x[: found.fitted, 0].tolist(), found.x[found.fitted :, 0].tolist()
    assert len({*val}) == 256 and len({*train}) == 2_000 and found.x.shape == (2_256, 1)
    assert min(val) >= 1_000 and max(val) < 1_900 and min(train) >= 10_000
    assert [v % 10 for v in (*val, *train)] == found.y.tolist()
    assert torch.equal(taken(1).x, found.x)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model=convnet",), "fully connected ReLU networks alone, and this network is another: model=lenet"),
        (("model=mlp", "model.norm=batch"), "has norms: model.norm=null does without"),
        (("model.norm=batch", "model.affine=false"), "has norms: model.norm=null does without"),
        (("model.bias=true",), "has some: model.bias=false does without"),
        (("model=own", "model.name=bare_linear:Net"), "this network is another"),
        (("data=table", "data.path=numbers.csv", "data.label=b", "data.task=regression"), "of regression have none"),
        (("method.density=.001",), "no weight of layer fc1, out.*allow_dead_layers=true"),
        (("method.exclude=['*']",), "leaves nothing to mask"),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_one_paragraph_before_anything_is_written(
    words: tuple[str, ...], said: str, ltx: Ltx, root: Path
) -> None:
    Path("bare_linear.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 10, bias=False))\n"
    )
    Path("numbers.csv").write_text("a,b\n" + "".join(f"{i / 7},{i / 3}\n" for i in range(300)))
    own = [word for word in NET if "hidden" not in word or not any("model=" in other for other in words)]
    result = ltx("run", *own, *words)
    assert result.code == 2 and not root.exists(), result.out
    assert re.search(said, " ".join(result.err.split())), result.err


def test_the_recipe_makes_an_mlp_of_the_zoo_one_that_is_sampled() -> None:
    found = spec("method=ticket_sample", "model=mlp", "model.hidden=[6,5]")
    assert [*initial(found)] == ["fc1.weight", "fc2.weight", "out.weight"]
    assert found.config["model"]["init"] == "kaiming_normal" and found.method.last_level == 9
    assert found.key == spec("method=ticket_sample", "model=mlp", "model.hidden=[6,5]", "method.levels=20").key


def test_the_table_has_the_best_quality_and_no_early_stop(ltx: Ltx, root: Path) -> None:
    said = ltx("run", *NET, "seeds=1", "method.levels=1").out
    best = package.open_run(only(root)).summary.best
    assert "best quality" in said and f"{best.iloc[1]:.4f}" in said
    assert "early stop" not in said and "censored" not in said


def rows(levels: int, density: Callable[[int], float], step: int = 0) -> list[Row]:
    counted = {"kept": 5, "prunable": 10, "total": 10, "step": step}
    losses = {"train_loss": 2.2, "val_loss": 2.2, "val_accuracy": 0.2, "test_loss": 2.2, "test_accuracy": 0.2}
    return [
        Row(seed, n, density(n), **counted, **losses, early_stop_step=None, early_stop_test_accuracy=0.2)  # type: ignore[arg-type]
        for seed in range(3)
        for n in range(levels)
    ]


@pytest.mark.parametrize(
    ("found", "axis", "places"),
    [
        (rows(4, lambda n: 0.5), "level", [0, 1, 2, 3]),
        (rows(1, lambda n: 0.5), "weights kept (% of prunable weights)", [50]),
        (rows(3, lambda n: 0.5**n), "weights kept (% of prunable weights)", [100, 50, 25]),
    ],
    ids=["blocks", "one block", "an untrained control"],
)
def test_the_picture_of_what_is_not_trained_has_one_panel_and_its_levels_apart(
    found: list[Row], axis: str, places: list[float]
) -> None:
    figure = draw(found, "Sampled tickets of LeNet-300-100 on 8×8 digits", "Nothing is trained.", ("test accuracy", 0))
    assert_readable(figure)
    (axes,) = figure.axes
    assert axes.get_xlabel() == axis and list(axes.lines[0].get_xdata()) == places
    said = " ".join(text for text, _, _ in texts(figure))
    assert "not trained" in said and "early stop" not in said and "Censored" not in said


def test_a_block_of_inits_has_the_qualities_of_networks_that_are_drawn_one_by_one(ltx: Ltx, root: Path) -> None:
    words = (*NET, "method.population=inits", "seeds=1", "streams.mask=5", "method.density=.4")
    assert ltx("run", *words, "method.levels=0").code == 0
    assert ltx("run", *words, "method.levels=1").code == 0
    run = package.open_run(only(root))
    values, found, ticket = run.samples()["quality"].to_numpy(), spec(*words), run.ticket()
    assert len(values) == 600 and len(set(values)) > 200
    streams, masks = found.streams(0), {name: mask[None] for name, mask in ticket.mask.items()}
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"fc1.weight": 154, "out.weight": 24}
    for number in (0, 1, 299, 300, 555, int(values.argmax())):
        network = found.network(streams=replace(streams, init=streams.torch_seed("init", "series", number)))
        weights = {name: weight.detach() for name, weight in network.named_parameters()}
        alone = quality(weights, masks, ticket_examples(found)).quality[0]
        assert values[number] == pytest.approx(alone, abs=ROUND), number
    best = {name: weight * masks[name][0] / 0.4**0.5 for name, weight in weights.items()}
    assert all(torch.allclose(ticket.weights[name], weight) for name, weight in best.items()), "of the best init"
    assert run.summary["best"].tolist() == [values[:300].max(), values.max()]


def test_masks_and_inits_are_two_runs_and_null_means_masks() -> None:
    plain = spec(*NET)
    assert plain.key == spec(*NET, "method.population=null").key != spec(*NET, "method.population=inits").key
