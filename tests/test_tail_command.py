"""`ltx tail`: what it says of planted runs of random tickets, and of real ones."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, tree
from helpers import spec

import ltx as package
from ltx.analysis import laws, tail
from ltx.analysis import quality as analysis
from ltx.analysis.returns import log2_choose
from ltx.report.tail_points import Init, Repeat, Settings
from ltx.report.tail_runs import base_of
from ltx.store.files import pack, yaml_text
from ltx.store.folders import RunFolder
from ltx.store.rows import Row
from ltx.store.seeds import FORMAT

Ltx = Callable[..., Result]
CONFIG = spec("method=ticket_sample", "model=mlp", "model.hidden=[16]").config
NOTHING = -math.log(10)
LEVELS = np.arange(1, 42) * math.log(0.5)
HIDDEN = 16


def masks_of(width: float, density: float) -> dict[str, torch.Tensor]:
    """Return masks of the 64-16w-10 network with the right counts."""
    units = round(HIDDEN * width)
    found = {}
    for name, shape in (("mask/fc1.weight", (units, 64)), ("mask/out.weight", (10, units))):
        n = math.prod(shape)
        found[name] = (torch.arange(n) < round(density * n)).reshape(shape)
    return found


def plant(
    root: Path,
    method: str,
    width: float,
    levels: dict[int, list[tuple[dict[str, torch.Tensor], dict[str, Any]]]],
    density: float = 0.5,
    asked: int | None = None,
    **changed: Any,
) -> str:
    """Write a run: for each seed its levels, each with further tensors and further columns of its row."""
    config = copy.deepcopy(CONFIG) | {"width": width, "seeds": [*levels]}
    config["method"] = {"name": method, "density": density, "exclude": []}
    if method == "ticket_split":
        config["method"] |= {"masks": 128, "keep": 0.5, "sweeps": 10}
    for key_of, value in changed.items():
        group, _, name = key_of.partition("__")
        config[group] = {**config[group], name: value} if name else value
    key = f"{method}-mlp-digits-w{width:g}-{len([*(root / 'runs').glob('*')]):08x}"
    folder = root / "runs" / key
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml_text(config))
    last = (asked or max(map(len, levels.values()))) - 1
    manifest = {"seeds": [*levels], "last_level": last, "asked": [{"seeds": [*levels], "last_level": last}]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    masks = masks_of(width, density)
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    for seed, found in levels.items():
        for level, (tensors, columns) in enumerate(found):
            loss = columns.get("test_loss", 2.3)
            extra = {name: value for name, value in columns.items() if name != "test_loss"}
            row = Row(seed, level, kept / total, kept, total, total, 0, 2.3, 2.3, 0.1, loss, 0.1, None, 0.1, extra)
            meta = {"format": FORMAT, "key": key, "trunk": None, "seed": seed, "level": level}
            meta |= {"row": row.columns(), "layers": {}, "records": []}
            path = RunFolder(folder).seed(seed).level_path(level)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(pack({**masks, **tensors} if level == 0 else tensors, meta))
    RunFolder(folder).write_summary()
    return key


def gained(law: laws.Law, log_p: np.ndarray, atom: float) -> np.ndarray:
    """Return the quality at each ln P: at the atom for the lowest share, and a law's value above it from there on."""
    zero = float(law(np.asarray(math.log1p(-atom)))) if atom else 0.0
    return NOTHING + np.where(log_p <= math.log1p(-atom), np.maximum(law(log_p) - zero, 0), 0) / 1_000


def qualities(law: laws.Law, rng: np.random.Generator, n: int, atom: float) -> np.ndarray:
    return gained(law, np.log1p(-rng.random(n)), atom)


def plant_sample(root: Path, width: float, law: laws.Law, n: int = 4_000, atom: float = 0.3, **changed: Any) -> str:
    """Write two blocks of sampled masks of five inits, of which the first hundred masks of each are dead."""
    levels = {}
    for seed in range(5):
        rng = np.random.default_rng([1, seed, round(8 * width)])
        blocks: list[Any] = []
        for _ in range(2):
            dead = torch.arange(n) < 100
            quality = qualities(law, rng, n, atom)
            quality[:100] = NOTHING
            blocks.append(({"sample/quality": torch.from_numpy(quality), "sample/dead": dead}, {}))
        levels[seed] = blocks
    return plant(root, "ticket_sample", width, levels, **changed)


def split_rows(law: laws.Law, rng: np.random.Generator, atom: float, depth: int = 41, noise: float = 0.09) -> Any:
    """Return the levels of one repeat: thresholds above the atom, and log10 P with an error of each level.

    The recorded sd is that of 128 independent masks of which half survive each level.
    """
    log_p = LEVELS[:depth][LEVELS[:depth] < math.log1p(-atom)]
    found = np.minimum(0, log_p + np.cumsum(noise * rng.standard_normal(len(log_p))))
    found = np.minimum.accumulate(found) / math.log(10)
    return [
        ({}, {"threshold": q, "log10_p": p, "log10_p_sd": math.sqrt(level / 128) / math.log(10)})
        for level, (q, p) in enumerate(zip(gained(law, log_p, atom).tolist(), found.tolist(), strict=True), 1)
    ]


def plant_split(
    root: Path, width: float, law: laws.Law, atom: float = 0.3, inits: int = 5, **changed: Any
) -> list[str]:
    """Write a run of three repeats for each init."""
    keys = []
    for init in range(inits):
        levels = {
            seed: split_rows(law, np.random.default_rng([2, init, seed, round(8 * width)]), atom) for seed in range(3)
        }
        keys.append(plant(root, "ticket_split", width, levels, streams={"init": init, "mask": None}, **changed))
    return keys


def answers(ltx: Ltx, *words: str) -> Any:
    result = ltx("tail", "--json", *words)
    assert result.code == 0, result.err
    return json.loads(result.out)


def said(ltx: Ltx, *words: str) -> str:
    result = ltx("tail", *words)
    assert result.code == 0, result.err
    return " ".join(result.out.split())


def test_where_nothing_is_one_paragraph_names_the_command_that_makes_it(ltx: Ltx, root: Path) -> None:
    result = ltx("tail")
    assert result.code == 0 and "`ltx figure tail`" in " ".join(result.out.split()) and "\n\n" not in result.out.strip()
    assert answers(ltx)["questions"] == [] and not root.exists()


@pytest.mark.parametrize(
    ("law", "word"),
    [(laws.gaussian, "short"), (laws.squared_gaussian(), "exponential class"), (lambda p: np.exp(-p / 3) - 1, "long")],
    ids=["gaussian", "squared", "pareto"],
)
def test_a_planted_tail_has_its_word_in_each_width_and_overall(law: laws.Law, word: str, ltx: Ltx, root: Path) -> None:
    atom = 0.5 if law is laws.gaussian else 0.3
    for width in (0.5, 1.0, 2.0):
        plant_sample(root, width, law, atom=atom)
        plant_split(root, width, law, atom=atom)
    before = tree(root)
    [found] = answers(ltx)["questions"]
    assert [one["word"] for one in found["widths"]] == [word] * 3, found["flags"]
    assert found["verdict"] == found["tails"] == word and found["question"] == "equal density 0.5"
    assert f"verdict: {word}: 3 of 3 widths are decided" in said(ltx)
    assert tree(root) == before, "a look writes nothing"


def test_the_numbers_are_those_of_the_analysis(ltx: Ltx, root: Path) -> None:
    law = laws.squared_gaussian()
    key = plant_sample(root, 1.0, law)
    split = plant_split(root, 1.0, law)
    plant_split(root, 2.0, law)
    [found] = answers(ltx, "quantile=.95")["questions"]
    one, two = found["widths"]
    assert (one["inits"], one["masks"], one["repeats"], two["masks"]) == (5, 40_000, [3, 3], 0)
    assert one["dead"] == pytest.approx(200 / 8_000)
    values = [package.open_run(root / "runs" / key).samples(seed).quality.to_numpy() for seed in range(5)]
    atoms = [float(np.mean(v == NOTHING)) for v in values]
    assert one["atom"]["mean"] == pytest.approx(np.mean(atoms)) and 0.3 < np.mean(atoms) < 0.35
    xi = one["xi"]
    assert (xi["quantile"], xi["excesses"]) == (0.95, 400)
    assert xi["mean"] == pytest.approx(np.mean([tail.fit(v, 0.95).xi for v in values]))
    assert xi["moment"] == pytest.approx(np.mean([tail.moment(v, 0.95) for v in values]))
    assert xi["gaussian"][1] < xi["mean"] < xi["squared_gaussian"][1] and two["xi"] is None
    assert [q for q, _ in xi["stability"]] == [0.9, 0.95, 0.98]
    for width in (one, two):
        units = 16 * round(width["width"])
        assert width["bits"] == pytest.approx(log2_choose(64 * units, 32 * units) + log2_choose(10 * units, 5 * units))
    rows = [package.open_run(root / "runs" / k).summary for k in split]
    deepest = max(10 ** frame.groupby("seed").log10_p.min() for frame in [rows[0]])
    assert one["log10_p"] > math.log10(min(deepest)) and -13.5 < one["log10_p"] < -11
    at = one["qualities"]
    assert [round(q["log10_p"]) for q in at] == [-3, -6, -12] and at[0]["quality"] < at[1]["quality"] < at[2]["quality"]
    assert at[1]["needed"]["mean"] == pytest.approx(6 / math.log10(2), abs=1)
    assert at[1]["spare"]["mean"] == pytest.approx(one["bits"] - at[1]["needed"]["mean"])
    slope = next(line for line in found["evidence"] if line["evidence"].startswith("spare bits per doubling"))
    expected = two["qualities"][0]["spare"]["mean"] - at[0]["spare"]["mean"]
    assert slope["value"] == pytest.approx(expected) and slope["reads"] == "returns to scale"


def test_the_quality_of_a_bit_is_one_that_every_init_of_every_width_reaches(ltx: Ltx, root: Path) -> None:
    for width in (1.0, 2.0):
        plant_split(root, width, laws.squared_gaussian())
    [found] = answers(ltx)["questions"]
    for place in range(3):
        qualities_of = {width["qualities"][place]["quality"] for width in found["widths"]}
        assert len(qualities_of) == 1
        depth = found["widths"][0]["qualities"][place]["log10_p"]
        for width in found["widths"]:
            assert width["qualities"][place]["needed"]["n"] == 5
            assert width["qualities"][place]["needed"]["mean"] <= -depth / math.log10(2) + 1e-6


def test_equal_density_and_equal_kept_count_are_two_questions(ltx: Ltx, root: Path) -> None:
    plant_sample(root, 1.0, laws.gaussian, density=0.5)
    plant_sample(root, 2.0, laws.gaussian, density=0.25)
    plant_sample(root, 2.0, laws.gaussian, density=0.5)
    plant_sample(root, 2.0, laws.gaussian, density=0.5, data__split_seed=1)
    found = [(q["question"], [w["width"] for w in q["widths"]]) for q in answers(ltx)["questions"]]
    both = [("equal density 0.5", [1, 2]), ("equal kept count 592", [1, 2])]
    assert found == [*both, ("equal density 0.5", [2])], (
        "0.25 of one width alone asks nothing; the other split has no more"
    )
    assert len(answers(ltx, "width=1")["questions"]) == 1
    assert "No random tickets" in said(ltx, "width=7") and "that are width=7" in said(ltx, "width=7")


def test_seeds_of_one_init_are_pooled_and_the_same_masks_count_once(ltx: Ltx, root: Path) -> None:
    plant_sample(root, 1.0, laws.gaussian, streams={"init": 0, "mask": None})
    [found] = answers(ltx)["questions"]
    assert (found["widths"][0]["inits"], found["widths"][0]["masks"]) == (1, 40_000)
    plant_sample(root, 1.0, laws.gaussian)
    [found] = answers(ltx)["questions"]
    assert (found["widths"][0]["inits"], found["widths"][0]["masks"]) == (5, 72_000), "seed 0 is in both"


def losses(mean: float, sd: float, seed: int) -> dict[int, list[tuple[dict[str, torch.Tensor], dict[str, Any]]]]:
    rng = np.random.default_rng(seed)
    return {n: [({}, {"test_loss": float(mean + sd * rng.standard_normal())})] for n in range(30)}


def plant_seeds(root: Path, power: float) -> None:
    for width in (0.5, 1.0, 2.0):
        for number, method in enumerate(("dense", "edge_popup")):
            found = losses(width**-0.3, 0.1 * width**power, 10 * number + round(4 * width))
            plant(root, method, width, found, model__bias=method == "dense", model__init="glorot_normal")


@pytest.mark.parametrize(("power", "word"), [(-1.0, "ensembling"), (0.0, "exponential class")])
def test_losses_whose_spread_shrinks_make_it_ensembling(power: float, word: str, ltx: Ltx, root: Path) -> None:
    for width in (0.5, 1.0, 2.0):
        plant_split(root, width, laws.squared_gaussian())
    plant_seeds(root, power)
    [found] = answers(ltx)["questions"]
    assert found["verdict"] == word and found["tails"] == "exponential class"
    assert found["seeds"] == {name: {"0.5": 30, "1": 30, "2": 30} for name in ("dense", "edge_popup")}
    lines = {line["evidence"]: line for line in found["evidence"]}
    sd = lines["sd over seeds of dense loss, exponent of width"]
    assert sd["low"] < power < sd["high"] and lines["mean dense loss per doubling"]["reads"] == "falls"
    assert f"verdict: {word}" in said(ltx) and "ensembling is not judged" not in said(ltx)
    assert ("by the tails alone: exponential class" in said(ltx)) == (word == "ensembling")


def test_the_first_level_of_imp_stands_for_dense_and_networks_of_other_layers_do_not_count(
    ltx: Ltx, root: Path
) -> None:
    plant_split(root, 1.0, laws.gaussian)
    for width in (0.5, 1.0, 2.0):
        two = {n: [*losses(2, 0.2, 1)[n], *losses(1, 0.1, 2)[n]] for n in range(30)}
        plant(root, "imp", width, two)
        plant(root, "edge_popup", width, losses(1, 0.1, 3), model__hidden=[32])
    [found] = answers(ltx)["questions"]
    assert [*found["seeds"]] == ["dense", "imp"]
    lines = {line["evidence"] for line in found["evidence"]}
    assert {"mean dense loss per doubling", "mean imp loss per doubling"} <= lines


# What is wrong is said


def test_repeats_that_disagree_are_named(ltx: Ltx, root: Path) -> None:
    law = laws.squared_gaussian()
    rng = np.random.default_rng(0)
    good = {seed: split_rows(law, rng, 0.3) for seed in range(3)}
    stuck: list[Any] = [({}, {**columns, "log10_p": 1.4 * columns["log10_p"]}) for _, columns in good[0]]
    plant(root, "ticket_split", 1.0, good, streams={"init": 0, "mask": None})
    plant(root, "ticket_split", 1.0, {**good, 3: stuck}, streams={"init": 1, "mask": None})
    flags = [flag for flag in answers(ltx)["questions"][0]["flags"] if "repeats spread by" in flag]
    assert len(flags) == 1 and flags[0].startswith("width 1: of init 1 at P = 1e-12.") and "4 repeats" in flags[0]
    expected = "of init 1 at P = 1e-12.2, 4 repeats spread by 2.7 in log10 P, where independent masks would by 0.25: "
    assert f"note: width 1: {expected}they disagree, and more sweeps" in said(ltx)


def test_a_quantile_that_too_few_masks_reach_is_named_with_how_many_it_takes(ltx: Ltx, root: Path) -> None:
    plant_sample(root, 1.0, laws.gaussian)
    [usual] = answers(ltx)["questions"]
    assert usual["widths"][0]["xi"]["quantile"] == 0.9 and "only 800 masks" in usual["flags"][0]
    assert "masks of an init" not in said(ltx, "quantile=.8")
    assert "only 400 masks of an init lie over quantile 0.95, and 1,000 are wanted: 20,000" in said(ltx, "quantile=.95")
    text = said(ltx, "quantile=.999")
    assert (
        "xi is not fitted: only 8 of 8,000 masks of an init lie over quantile 0.999, and 100 are the least: 100,000"
        in text
    )
    [found] = answers(ltx, "quantile=.6")["questions"]
    assert found["widths"][0]["xi"] is not None
    plant_sample(root, 2.0, laws.gaussian, n=4_000, atom=0.85)
    assert "values share; take a higher quantile" in said(ltx, "width=2", "quantile=.8")


def test_runs_that_are_unfinished_or_died_out_or_are_damaged_are_named(ltx: Ltx, root: Path) -> None:
    rows = {seed: split_rows(laws.gaussian, np.random.default_rng(seed), 0.3) for seed in range(3)}
    rows[2][30:] = [({}, {**columns, "log10_p": None}) for _, columns in rows[2][30:]]
    plant(root, "ticket_split", 1.0, rows, asked=60, streams={"init": 0, "mask": None})
    key = plant_sample(root, 1.0, laws.gaussian)
    whole = answers(ltx)["questions"][0]["widths"][0]
    assert whole["masks"] == 40_000 and whole["log10_p"] > -10, "the shortest repeat ends the curve"
    path = root / "runs" / key / "seed_001" / "level_01.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    before = tree(root)
    result = ltx("tail")
    assert "seed 2: no mask that is counted reached the threshold of level 30" in result.err
    assert f"{path}" in result.err and "left out" in result.err
    assert "is unfinished: 123 of 180 levels" in " ".join(result.out.split())
    assert answers(ltx)["questions"][0]["widths"][0]["masks"] == 36_000 and tree(root) == before


def test_repeats_of_other_settings_or_with_fewer_levels_do_not_cut_the_others_off(ltx: Ltx, root: Path) -> None:
    law, init = laws.gaussian, {"init": 0, "mask": None}
    rows = {seed: split_rows(law, np.random.default_rng(seed), 0.3) for seed in range(3)}
    plant(root, "ticket_split", 1.0, rows, streams=init)
    [alone] = answers(ltx)["questions"]
    few = {7: split_rows(law, np.random.default_rng(7), 0.3, depth=5)}
    plant(root, "ticket_split", 1.0, few, streams=init)
    plant(root, "ticket_split", 1.0, few, streams=init, method__masks=64)
    [found] = answers(ltx)["questions"]
    assert found["widths"][0]["repeats"] == [3, 3] and found["widths"][0]["log10_p"] == alone["widths"][0]["log10_p"]
    assert "width 1: 2 repeats of splitting do not count" in " ".join(found["flags"]) and not alone["flags"]


def test_what_names_code_outside_ltx_is_left_out(ltx: Ltx, root: Path) -> None:
    plant_sample(root, 1.0, laws.gaussian, data__name="mymodule:Data")
    result = ltx("tail")
    assert result.code == 0 and "names code outside ltx" in result.err and "No random tickets" in result.out


def test_inits_under_one_mask_are_not_taken_for_masks_of_one_init(ltx: Ltx, root: Path) -> None:
    plant_sample(root, 1.0, laws.gaussian)
    plant_sample(root, 1.0, laws.gaussian, streams={"init": 0, "mask": None}, method__population="inits")
    assert [question["widths"][0]["masks"] for question in answers(ltx)["questions"]] == [40_000, 40_000]
    assert "on data=digits, inits under one mask, equal density 0.5" in said(ltx)


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal_and_show_every_width(
    width: int, ltx: Ltx, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for one in (0.5, 1.0, 2.0):
        plant_sample(root, one, laws.squared_gaussian())
        plant_split(root, one, laws.squared_gaussian())
    plant_seeds(root, -0.5)
    out = ltx("tail").out
    assert max(map(len, out.splitlines())) <= width and "…" not in out
    for text in ("Gaussian", "moment", "log10 P", "needed", "sd over seeds of dense loss", "verdict:"):
        assert text in " ".join(out.split())
    assert out.count("\n   0.5  ") + out.count("\n 0.5  ") >= 3


# Parts


def an_init(rows: Sequence[tuple[float, float]], keep: float = 0.5) -> Init:
    from ltx.analysis.curves import Curve

    q, p = zip(*rows, strict=True)
    return Init(NOTHING, split_runs=[Repeat(0, Settings(128, keep, 10), 2, Curve.of(q, p, q[0]), [0.1, 0.2])])


def test_without_sampled_masks_the_atom_is_what_the_first_threshold_leaves_below() -> None:
    above = an_init([(NOTHING + 0.01, math.log(0.2)), (NOTHING + 0.02, math.log(0.1))])
    assert above.atom == pytest.approx(0.8) and above.split is not None and above.split.median == NOTHING
    half = an_init([(NOTHING + 0.01, math.log(0.47)), (NOTHING + 0.02, math.log(0.2))])
    assert half.atom == 0 and half.split is not None and half.split.median == NOTHING + 0.01
    assert math.isnan(an_init([(NOTHING + 0.01, math.log(0.1)), (NOTHING + 0.02, -4)], keep=0.1).atom)


def test_repeats_that_share_no_quality_have_no_curve() -> None:
    from ltx.analysis.curves import Curve

    settings = Settings(128, 0.5, 10)
    curves = [Curve.of([q, q + 1], [-1, -2], q) for q in (0, 1)]
    found = Init(NOTHING, split_runs=[Repeat(n, settings, 2, curve, [0.1, 0.2]) for n, curve in enumerate(curves)])
    assert found.split is None and math.isnan(found.atom) and math.isnan(found.log_p_at(0.5))


def test_repeats_are_compared_at_the_deepest_quality_that_all_of_them_reach() -> None:
    """Each repeat knows one law at thresholds of its own, at which alone its numbers look far apart."""
    from ltx.analysis.curves import Curve

    def an_init(ends: Sequence[float]) -> Init:
        runs = []
        for stream, end in enumerate(ends):
            quality = np.array([0.0, 1.0, end])
            curve = Curve.of(quality, -math.log(10) * (1 + quality), 0.0)
            runs.append(Repeat(stream, Settings(128, 0.5, 10), 3, curve, [0.1, 0.2, 0.2 * end]))
        return Init(NOTHING, split_runs=runs)

    found = an_init([3.0, 2.0, 6.0]).together()
    assert found is not None and found.agree and found.log10_p == pytest.approx(-3)
    assert found.spread == pytest.approx(0, abs=1e-9) and found.expected == pytest.approx(0.4)
    assert an_init([3.0, 2.0]).together() is None, "two repeats cannot tell whether they agree"
    assert an_init([]).together() is None


def test_the_command_reads_real_runs_and_takes_filters(ltx: Ltx, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "BLOCK", 1_200)
    net = ("method=ticket_sample", "model=mlp", "model.hidden=[4]", "seeds=3", "method.levels=0")
    assert ltx("run", "-m", *net, "width=1,2", "workers=0").code == 0
    found = answers(ltx, "data=digits")
    [question] = found["questions"]
    assert [(one["width"], one["masks"]) for one in question["widths"]] == [(1, 3_600), (2, 3_600)]
    assert question["verdict"] == "undecided" and found["unfinished"] == [] and len(question["runs"]) == 2
    for one, units in zip(question["widths"], (4, 8), strict=True):
        run = package.open_run(root / "runs" / next(k for k in question["runs"] if f"-w{one['width']:g}-" in k))
        values = [run.samples(seed).quality.to_numpy() for seed in range(3)]
        assert one["xi"]["mean"] == pytest.approx(np.mean([tail.fit(v, 0.9).xi for v in values]))
        assert one["bits"] == pytest.approx(log2_choose(64 * units, 32 * units) + log2_choose(10 * units, 5 * units))


def test_lenet_is_an_mlp_by_another_name() -> None:
    lenet, mlp = ({"model.name": name, "model.hidden": [16]} for name in ("lenet", "mlp"))
    assert base_of(lenet) == base_of(mlp) != base_of({"model.name": "convnet", "model.hidden": [16]})
