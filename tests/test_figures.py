"""Figures: claims are decided by intervals, printed as they fall, and redrawn from the store."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Result
from looks import assert_readable
from matplotlib.figure import Figure

from ltx.analysis.intervals import interval, longest_run, mean_interval
from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.figures import arms, edge_popup, imp, module, names, read, sanity
from ltx.figures.arms import Finished, Store, plan
from ltx.figures.claims import Stated, decide, decide_consecutive, levels_within, nearest_level, stated
from ltx.report.plots import save_plot
from ltx.store.rows import Row

SMALL = {
    "imp": ("method.levels=8", "optim.steps=10", "seeds=2", "width=.05"),
    "signs": ("method.levels=2", "optim.steps=10", "seeds=2", "width=.05"),
    "edge-popup": ("optim.steps=4", "seeds=1"),
    "multi-prize": ("optim.steps=4", "seeds=1"),
    "sanity": ("optim.steps=42", "seeds=1"),
    "canvas": ("optim.steps=4", "seeds=1", "data.examples=200"),
    "tail-validation": ("seeds=1",),
    "tail": ("method.examples=100",),
    "bits": (),
    "seed-variance": ("optim.steps=4", "seeds=2"),
    "reinforcement": ("model.hidden=[12,8]", "seeds=2"),
    "same-ticket": ("model.hidden=[12,8]", "seeds=2", "optim.steps=10"),
    "mask-transport": ("model.hidden=[40,20]", "optim.steps=4", "seeds=1"),
    "rewinding": ("method.levels=1", "optim.steps=210", "seeds=1", "width=.05", "optim.batch=2"),
    "connectivity": ("optim.steps=4", "seeds=1"),
}
# What takes more than ten seconds even when it is small; test-slow makes these.
LONG = ("sanity", "bits", "canvas", "rewinding", "same-ticket", "connectivity")

SANITY = {"imp": "method:imp,method.levels:18", "edge-popup": "method:edge_popup,method.anneal:true"}
SANITY |= {name: f"method:at_init,method.criterion:{name}" for name in ("snip", "synflow")}
SAMPLE = ["method=ticket_sample", "method.levels=0", "seeds=2"]
RANDOM: dict[str, Any] = {"inits": 2, "widths": [0.5, 1], "sample": SAMPLE}
SPLIT = ["method=ticket_split", "method.masks=32", "method.keep=.2", "method.sweeps=2", "method.levels=12", "seeds=1"]
POPULAR = {"edge-popup": "edge_popup", "biprop": "biprop"}
FEWER: dict[str, dict[str, Any]] = {  # arms of the grids, those among them that the claims are about
    "sanity": {"trunks": SANITY, "kinds": ["ticket", "shuffle"]},
    "rewinding": {"rewind": {"unstable": [0, 100], "stable": [0]}},
    "seed-variance": {"widths": [0.5, 2]},
    "reinforcement": {
        "widths": [0.25],
        "steps": [2, 4],
        "searches": {
            "edge-popup": ["method=edge_popup", "optim.steps=10"],
            "IMP": ["method=imp", "method.levels=1", "method.fraction=.5", "optim.steps=10"],
        },
    },
    "same-ticket": {
        "widths": [0.25],
        "searches": {
            "IMP": ["method=imp", "method.levels=1", "method.fraction=.5", "method.exclude=[]"],
            **{name: [f"method={word}", "model.init=kaiming_normal"] for name, word in POPULAR.items()},
        },
    },
    "connectivity": {
        "values": {"levels": 1, "fraction": 0.5},
        "settings": {"unstable": ["model=mlp", "width=.05", "optim=sgd"], "stable": ["width=.05"]},
        "rewind": {"unstable": [0, 2], "stable": [0]},
        "late": 2,
        "widths": [0.05, 0.1],
    },
    "mask-transport": {"widths": [0.25, 2]},
    "multi-prize": {"densities": [0.1, 0.5], "widths": [0.1, 0.25]},
    "canvas": {
        "ticket": ["method=imp", "method.levels=8", "width=0.5"],
        "kept": {"count": 30463, "of": {0.25: 60925, 1: 266200}, "words": ["method=edge_popup"]},
    },
    "tail": {**RANDOM, "split": SPLIT},
    "bits": {
        **RANDOM,
        "sample": [*RANDOM["sample"], "method.examples=100"],
        "split": [*SPLIT, "method.examples=100"],
        "deep": {1: 20},
        "found": {
            name: ["method=dense" if name == "dense" else "method=edge_popup", "optim.steps=4", "seeds=2"]
            for name in ("edge-popup", "biprop", "IMP", "dense")
        },
    },
    "tail-validation": {
        "networks": {
            "exhaustive": {
                "words": ["model.hidden=[2]", "method.exclude=[input]", "method.density=.2"],
                "split": ["method.masks=16", "method.levels=2", "method.sweeps=2", "seeds=10"],
            },
            **{
                name: {
                    "words": [*words, "model.hidden=[4]"],
                    "split": [
                        "method.masks=16",
                        "method.levels=6",
                        "method.sweeps=2",
                        "seeds=4",
                    ],
                    "direct": ["method.levels=0", "seeds=4"],
                }
                for name, words in (("digits", []), ("mnist1d", ["data=mnist1d", "data.examples=500"]))
            },
        }
    },
    "edge-popup": {"densities": [0.02, 0.2, 0.5, 0.98], "widths": [0.05, 0.25, 2], "kept_widths": [0.25, 1]},
}


FROM_LEVELS = {
    "reinforcement",
    "same-ticket",
    "connectivity",
    "tail",
    "tail-mnist1d",
    "bits",
    "bits-mnist1d",
}  # their rows are made of the files of levels


def fewer(name: str) -> dict[str, Any]:
    """Return what a figure's yaml has instead in the test that makes it small."""
    found: dict[str, Any] = FEWER.get(name, {})
    return found


def test_the_interval_is_students() -> None:
    mean, half = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5 and half == pytest.approx(3.182446 * 1.290994 / 2, rel=1e-5)
    assert math.isnan(mean_interval([1.0])[1])


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([1, 2, 3], "undecided"), ([2, 2.1, 1.9], "passed"), ([-2, -2.1, -1.9], "failed"), ([], "undecided")],
)
def test_a_claim_is_decided_by_its_whole_interval(values: list[float], verdict: str) -> None:
    claim = decide(Stated("a statement", "a source", 0.0, 3), values)
    assert claim.verdict == verdict


SAID = Stated(
    "Pigs fly higher than three of the tallest trees that were measured, at least twice a day", "nobody", 0, 3
)


@pytest.mark.parametrize(
    ("values", "threshold", "words"),
    [
        ([2, 2.1, 1.9], 0, "yes, +2.0000 [+1.7516, +2.2484] (n = 3)"),
        ([-20, -21, -19], 0, "NO, −20 [−22, −18] (n = 3)"),
        ([-0.01, -0.02], -0.015, "undecided, −0.0150 [−0.0785, +0.0485], asked: above −0.0150 (n = 2 of 3 planned)"),
        ([0.5], 0, "undecided, +0.5000 (n = 1 of 3 planned)"),
        ([], 0, "no data"),
    ],
)
def test_a_claim_reads_as_a_sentence_and_fits_a_terminal(values: list[float], threshold: float, words: str) -> None:
    claim = decide(replace(SAID, threshold=threshold), values)
    assert claim.words().replace("\N{NO-BREAK SPACE}", " ") == f"{SAID.statement}: {words}"
    lines = claim.line().splitlines()
    assert lines[0].startswith(words.partition(",")[0]) and all(len(line) <= 80 for line in lines)
    assert "nan" not in claim.line() and claim.line().isascii()


def planted(gaps: list[float]) -> pd.DataFrame:
    """Return five seeds of two arms whose accuracy differs by gaps[level], with a little noise."""
    rows = []
    for level, gap in enumerate(gaps):
        for seed in range(5):
            base = {"seed": seed, "level": level, "density": 0.5**level}
            rows.append({**base, "arm": "a", "test_accuracy": 0.5 + gap + 0.001 * seed})
            rows.append({**base, "arm": "b", "test_accuracy": 0.5 + 0.0015 * seed})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ([0, 0, 0, 0.1, 0.1, 0.1], "passed"),
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0], "undecided"),  # of the first three none is sparse enough to count
        ([0, 0, 0, 0.1, 0, 0.1], "undecided"),
        ([0, 0, 0, -0.1, -0.1, -0.1], "failed"),
    ],
)
def test_three_consecutive_densities_must_be_won(gaps: list[float], verdict: str) -> None:
    assert decide_consecutive(Stated("s", "s", 0.0, 5), planted(gaps), ("a", "b"), (0, 0.2)).verdict == verdict


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [([0.002, 0.003, 0.004], "passed"), ([0.02, 0.03, 0.04], "failed"), ([-0.01, 0.03, 0.04], "undecided")],
)
def test_a_harmless_loss_is_small_and_a_harmful_one_is_shown(losses: list[float], verdict: str) -> None:
    claim = sanity.decide_harmless(Stated("a statement", "a source", -0.01, 3), losses)
    assert claim.verdict == verdict and claim.effect == pytest.approx(-sum(losses) / 3)


def test_no_density_below_a_fifth_decides_nothing() -> None:
    rows = [
        {"arm": arm, "seed": seed, "level": level, "density": 0.8**level, "stop": 1.0, "test_accuracy": 0.9}
        for arm in ("ticket", "reinit", "random mask", "one-shot")
        for seed in range(3)
        for level in range(3)
    ]
    assert imp.claims(pd.DataFrame(rows), plan("imp", [])[0])["matching"].verdict == "undecided"


@pytest.mark.parametrize(("early", "verdict"), [(300, "passed"), (500, "failed")])
def test_the_early_stop_is_held_against_the_later_of_both_ends(early: int, verdict: str) -> None:
    rows = []
    for seed in range(5):
        for arm in ("ticket", "reinit", "random mask", "one-shot"):
            for level, stop in enumerate([400] * 7 + [early] + [800] * 3):
                row = {"arm": arm, "seed": seed, "level": level, "density": 0.8**level, "stop": stop + seed * level}
                rows.append({**row, "test_accuracy": 0.9})
    claim = imp.claims(pd.DataFrame(rows), plan("imp", [])[0])["early stop"]
    assert claim.verdict == verdict and claim.effect == 400 - early - 14  # 21 % is level 7; 14 = mean of seed * level


def test_the_longest_run_is_found() -> None:
    assert longest_run([True, False, True, True, False]) == (2, 2)
    assert longest_run([]) == (0, 0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
        for name in names()
        if "module" not in read(name)
    ],
)
def test_every_figure_is_made_small_and_redrawn_without_a_run(
    name: str, ltx: Callable[..., Result], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = arms.read
    monkeypatch.setattr(arms, "read", lambda name: {**whole(name), **fewer(name)})
    words = ("figure", name, *SMALL[name], "workers=0")
    monkeypatch.setattr("ltx.runs.point.save_plot", lambda *_, **__: None)  # the runs' own pictures are not looked at
    figures: list[Figure] = []

    def kept(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return save_plot(figure, path)

    monkeypatch.setattr("ltx.figures.make.save_plot", kept)
    result = ltx(*words)
    assert result.code == 0, result.err
    assert_readable(figures[0])
    place = root / "figures" / name
    assert place.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert place.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    said = json.loads(place.with_suffix(".json").read_text())
    fixed = stated(plan(name, [])[0])
    assert [(c["statement"], c["source"], c["planned"]) for c in said["claims"]] == [
        (claim.statement, claim.source, claim.n) for claim in fixed.values()
    ], "what is decided is what the yaml fixed, in its order"
    assert all(
        c["threshold"] == f.threshold for c, f in zip(said["claims"], fixed.values(), strict=True) if f.threshold
    )
    assert said["claims"] and list(said["runs"]) == [arm.name for arm in plan(name, list(SMALL[name]))[1]]
    for claim in said["claims"]:
        assert {"statement", "source", "effect", "interval", "n", "planned", "threshold", "verdict"} == set(claim)
        assert claim["statement"] in " ".join(result.out.split()) and claim["verdict"] in (
            "passed",
            "failed",
            "undecided",
        )
    assert all((root / "runs" / key / "summary.csv").exists() for key in said["runs"].values())
    rows = list(csv.reader(place.with_suffix(".csv").open()))
    assert len(rows) > 2
    before = {path: path.read_bytes() for path in (root / "figures").iterdir() if path.suffix != ".pdf"}
    monkeypatch.setattr("ltx.runs.worker.run_seed", None)
    assert ltx(*words).code == 0
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", names())
def test_claims_are_decided_on_as_many_fresh_seeds_as_the_yaml_fixes(name: str) -> None:
    fixed, arms = plan(name, [])
    seeds = [Spec.of(compose(arm.words, [])).seeds for arm in arms]
    assert all(min(own) == 100 and own == list(range(100, 100 + len(own))) for own in seeds)
    assert max(claim.n for claim in stated(fixed).values()) == max(map(len, seeds))
    assert all(claim.n in map(len, seeds) for claim in stated(fixed).values())


def finished(name: str) -> Store:
    """Return a figure's arms with made-up rows, each arm's accuracy its own."""
    arms = []
    for index, arm in enumerate(plan(name, list(SMALL[name]))[1]):
        counts = {"seed": 100, "level": 0, "density": 0.5, "kept": 50, "prunable": 100, "total": 100, "step": 10}
        losses = {"train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5, "test_loss": 1.0}
        stops = {"early_stop_step": 5, "early_stop_test_accuracy": 0.5}
        row = Row(**counts, **losses, **stops, test_accuracy=index / 100)  # type: ignore[arg-type]
        arms.append(Finished(arm, Spec.of(compose(arm.words, [])), [row]))
    return Store(arms)


@pytest.mark.parametrize("name", sorted({*names()} - FROM_LEVELS))
def test_the_facts_of_an_arm_decide_its_rows_and_its_name_does_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "rewinding":
        monkeypatch.setattr(module(name), "measure", lambda spec, copy, seed, level: int(copy.key[-8:], 16))
    if name == "tail-validation":
        monkeypatch.setattr(module(name), "known", lambda spec, direct: np.arange(20_000.0))
    store = finished(name)
    renamed = [replace(done, arm=replace(done.arm, name=f"arm {i}")) for i, done in enumerate(store.arms)]
    table = module(name).rows(store)
    pd.testing.assert_frame_equal(module(name).rows(Store(renamed)), table)
    shown = [done for done in store.arms if not done.arm.facts.get("copy")]
    assert len(table) == len(shown)
    for done, (_, row) in zip(shown, table.iterrows(), strict=True):
        assert all(row[fact] == value for fact, value in done.arm.facts.items() if fact in table)


@pytest.mark.parametrize("name", names())
def test_no_two_arms_of_a_figure_share_a_name_or_all_facts(name: str) -> None:
    arms = plan(name, [])[1]
    assert len({arm.name for arm in arms}) == len(arms)
    if name != "edge-popup":  # its lines are told apart by the densities and widths of their runs
        assert len({tuple(arm.facts.items()) for arm in arms}) == len(arms)


def test_a_rewound_ticket_is_measured_against_its_own_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = []

    def measure(spec: Spec, copy: Spec, seed: int, level: int) -> float:
        pairs.append((spec, copy))
        return 0.0

    monkeypatch.setattr(module("rewinding"), "measure", measure)
    table = module("rewinding").rows(finished("rewinding"))
    assert len(pairs) == 6 and all(copy.trunk.key == spec.key for spec, copy in pairs)
    assert table["instability"].isna().tolist() == (table["retrain"] == "lr_rewind").tolist()


def test_a_fixed_kept_count_is_that_count_in_every_network() -> None:
    fixed, arms = plan("edge-popup", [])
    for arm in arms:
        if arm.facts["panel"] == "kept":
            spec = Spec.of(compose(arm.words, []))
            kept = spec.method.density * edge_popup.prunable(arm.words)
            assert kept == pytest.approx(fixed["kept"], rel=1e-3), arm.name
    # LeNet at width 0.25 on 8x8 images: 64 -> 75 -> 25 -> 10.
    assert edge_popup.prunable(["method=edge_popup", "width=.25"]) == 64 * 75 + 75 * 25 + 25 * 10
    assert edge_popup.prunable(["method=edge_popup", "width=.25", "model.hidden=[40]"]) == 64 * 10 + 10 * 10


def test_levels_are_found_by_their_density() -> None:
    table = planted([0.0] * 5)  # densities 1, .5, .25, .125, .0625
    assert levels_within(table, 0.1, 0.5) == [1, 2, 3]
    assert [nearest_level(table, density) for density in (0.9, 0.3, 0.0)] == [0, 2, 4]


def test_a_claim_on_other_seeds_than_planned_says_so() -> None:
    claim = decide(Stated("a statement", "a source", 0.0, 8), [1.0, 1.1, 0.9])
    assert (
        "n=3 of 8 planned" in claim.line()
        and "planned" not in decide(Stated("a statement", "a source", 0.0, 3), [1.0, 1.1, 0.9]).line()
    )


def test_a_failed_claim_stands_on_the_figure_and_still_exits_0(
    ltx: Callable[..., Result], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = decide(Stated("Pigs fly", "nobody", 0.0, 3), [-1.0, -1.1, -0.9])
    monkeypatch.setattr(module("signs"), "claims", lambda table, fixed: {"pigs": claim})
    texts: dict[str, str] = {}
    write = Figure.text

    def listening(figure: Figure, x: float, y: float, s: str, **options: Any) -> Any:
        texts[s.replace("\N{NO-BREAK SPACE}", " ")] = options.get("weight", "normal")
        return write(figure, x, y, s, **options)

    monkeypatch.setattr(Figure, "text", listening)
    result = ltx("figure", "signs", *SMALL["signs"], "workers=0")
    assert result.code == 0 and "NO         Pigs fly" in result.out
    assert texts["Pigs fly: NO, −1.0000 [−1.2484, −0.7516] (n = 3)"] == "bold"
    assert list(texts.values()).count("bold") == 1


def test_an_unknown_figure_is_refused_with_the_nearest_name(ltx: Callable[..., Result], root: Path) -> None:
    result = ltx("figure", "rewindin")
    assert result.code == 2 and "did you mean 'rewinding'" in result.err and not root.exists()


def test_an_interval_stays_where_the_quantity_can_be_and_is_open_for_one_seed():
    found = interval([0.9, 1.0, 1.0], least=0, most=1)
    mean, half = mean_interval([0.9, 1.0, 1.0])
    assert (found.mean, found.low, found.high, found.n) == (mean, mean - half, 1, 3) and mean + half > 1
    assert math.isnan(interval([0.5]).low) and interval([0.5]).mean == 0.5
    assert interval([]).n == 0 and math.isnan(interval([]).mean)
