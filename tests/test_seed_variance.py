"""The figure of the spread over seeds: its lines, its claims on planted losses, and what its picture says."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from looks import texts

from ltx.analysis import spread
from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.figures.arms import Finished, Store, plan
from ltx.figures.claims import stated
from ltx.figures.drawing import seeds_of
from ltx.figures.seed_variance import LINES, claims, draw, losses, rows
from ltx.report.letters import SMALL
from ltx.report.style import look
from ltx.store.rows import Row
from ltx.streams import generator

FIXED, ARMS = plan("seed-variance", [])


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take fewer resamples: what they are good for is tested in test_spread.py."""
    monkeypatch.setattr(spread, "REPEATS", 500)


def planted(sd: float, mean: float, seeds: int = 30) -> pd.DataFrame:
    """Return a table whose losses have an sd and a mean that are these powers of the width, in every line alike."""
    found = []
    for data in FIXED["data"]:
        for line in LINES:
            for width in FIXED["widths"]:
                draw = generator("noise", 0, "test seed variance", data, line, str(width))
                for seed, away in enumerate(draw.standard_normal(seeds)):
                    loss = width**mean + 0.02 * width**sd * away
                    found.append({"data": data, "line": line, "width": width, "seed": seed, "test_loss": loss})
    return pd.DataFrame(found)


def row(seed: int, level: int, loss: float) -> Row:
    counts = {"density": 0.5**level, "kept": 1, "prunable": 2, "total": 2, "step": 9}
    told = {"train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5, "test_accuracy": 0.5}
    return Row(seed, level, **counts, **told, test_loss=loss, early_stop_step=5, early_stop_test_accuracy=0.5)  # type: ignore[arg-type]


def test_level_0_of_imp_is_dense_its_last_level_the_ticket_and_what_lies_between_is_left_out():
    done = []
    for arm in ARMS:
        last = 2 if arm.facts["search"] == "imp" else 0
        made = [row(seed, level, 10 * level + seed + 1) for seed in (100, 101) for level in range(last + 1)]
        done.append(Finished(arm, Spec.of(compose(arm.words, [])), made))
    table = rows(Store(done))
    assert len(table) == 2 * 3 * 5 * 2  # data sets, lines, widths, seeds
    assert losses(table, "digits", "dense") == {w: [101, 102] for w in FIXED["widths"]}
    assert losses(table, "mnist1d", "IMP ticket") == {w: [121, 122] for w in FIXED["widths"]}
    assert losses(table, "digits", "edge-popup ticket") == {w: [101, 102] for w in FIXED["widths"]}


def test_the_networks_are_those_of_the_question():
    specs = {(a.facts["data"], a.facts["search"], a.facts["width"]): Spec.of(compose(a.words, [])) for a in ARMS}
    for (data, search, width), spec in specs.items():
        network = spec.network(device="meta")
        shapes = [tuple(parameter.shape) for parameter in network.parameters()]
        units = round(16 * width)
        assert shapes == [(units, 64 if data == "digits" else 40), (10, units)], "one hidden layer without biases"
        assert len(spec.seeds) >= 30
        if search == "edge-popup":
            assert spec.method.density == 0.5 and not spec.method.anneal


@pytest.mark.parametrize(
    ("sd", "mean", "verdicts"),
    [
        (-0.5, 0.0, {"sd": "passed", "cv": "passed"}),
        (-1.0, -1.0, {"sd": "passed", "cv": "undecided"}),  # smaller in proportion: nothing was averaged
        (0.4, 0.0, {"sd": "failed", "cv": "failed"}),
        (0.0, -0.5, {"sd": "undecided", "cv": "failed"}),
    ],
)
def test_claims_are_decided_by_the_planted_exponents(sd: float, mean: float, verdicts: dict[str, str]):
    found = claims(planted(sd, mean), FIXED)
    assert list(found) == list(stated(FIXED))
    wrong = 0
    for name, claim in found.items():
        statistic = FIXED["claims"][name]["of"]["statistic"]
        assert claim.effect == pytest.approx({"sd": -sd, "cv": mean - sd}[statistic], abs=0.3) and claim.n == 30
        assert claim.interval[0] < claim.effect < claim.interval[1]
        wrong += claim.verdict != verdicts[statistic]
    assert wrong <= 2  # of eighteen intervals, one or two may miss


def test_a_claim_reads_its_own_line_of_its_own_data_set():
    powers = {(data, line): -1 + 0.4 * i for i, (data, line) in enumerate(product(FIXED["data"], LINES))}
    parts = []
    for (data, line), power in powers.items():
        whole = planted(power, 0)
        parts.append(whole[(whole["data"] == data) & (whole["line"] == line)])
    for name, claim in claims(pd.concat(parts), FIXED).items():
        of, statement = FIXED["claims"][name]["of"], FIXED["claims"][name]["statement"]
        assert claim.effect == pytest.approx(-powers[of["data"], of["line"]], abs=0.2)
        data, what = (
            {"digits": "Digits", "mnist1d": "MNIST-1D"}[of["data"]],
            {"sd": "sd", "cv": "sd / mean"}[of["statistic"]],
        )
        assert statement == f"{data}, {of['line']}: {what} of the loss falls from width {of['least']:g} to 8"


def test_a_fall_at_the_narrowest_width_alone_is_none_from_width_1_on():
    table = planted(0, 0)
    narrow = table["width"] == 0.5
    table.loc[narrow, "test_loss"] = 1 + 8 * (table.loc[narrow, "test_loss"] - 1)
    found = claims(table, FIXED)
    assert {found[f"{line} sd digits"].verdict for line in LINES} == {"passed"}
    assert "passed" not in {found[f"{line} sd digits from 1"].verdict for line in LINES}


def test_one_seed_has_no_spread_and_nothing_is_decided():
    table = planted(0, 0, seeds=1)
    assert {claim.answer for claim in claims(table, FIXED).values()} == {"no data"}
    draw(table)


def test_the_picture_names_its_axes_and_every_line_at_its_end():
    figure = draw(planted(-0.5, -0.1))
    said = [text for text, _, _ in texts(figure)]
    for name in (*LINES, "sd of test loss", "sd / mean", "mean test loss"):
        assert name in said
    assert said.count("8×8 digits") == said.count("MNIST-1D") == 1
    top = figure.axes[0]
    assert top.get_xscale() == top.get_yscale() == "log"
    assert [line.get_color() for line in top.lines][:3] == [look(index)["color"] for index in range(3)]
    assert len(top.collections) == 3, "an interval as a band around every line"


def test_the_dashed_line_falls_as_the_sd_of_an_average():
    figure = draw(planted(-0.5, 0))
    x, y = (np.asarray(values) for values in figure.axes[0].lines[3].get_data())
    assert np.polyfit(np.log(x), np.log(y), 1)[0] == pytest.approx(-0.5, abs=1e-12)
    _, dense = figure.axes[0].lines[0].get_data()
    assert np.log(y).mean() == pytest.approx(np.log(np.asarray(dense)).mean(), abs=1e-9)


def test_names_at_the_ends_stand_apart_and_in_the_order_of_the_lines():
    figure = draw(planted(-0.5, -0.1))
    middles = {text: (box.y0 + box.y1) / 2 for text, box, _ in texts(figure) if text in LINES}  # of the lowest panel
    axes = figure.axes[-1]
    ends = {line: float(np.asarray(drawn.get_ydata())[-1]) for line, drawn in zip(LINES, axes.lines, strict=True)}
    places = [middles[line] for line in sorted(LINES, key=ends.__getitem__)]
    assert np.diff(places).min() >= SMALL * figure.dpi / 72


def test_the_caption_says_how_many_seeds_and_which_interval():
    assert seeds_of({"a": 30, "b": 30}, FIXED["shown"]).startswith("Over 30 seeds, with 95 % bootstrap intervals")
    assert seeds_of({"a": 1}) == "Mean over 1 seed with its 95 % Student-t interval, within what is possible."


def test_the_draws_of_an_interval_belong_to_its_line_alone():
    table = planted(-0.5, 0)
    fewer = table[table["line"] != "dense"]
    some = {**FIXED, "claims": {k: v for k, v in FIXED["claims"].items() if v["of"]["line"] != "dense"}}
    whole = claims(table, FIXED)
    assert all(claim == whole[name] for name, claim in claims(fewer, some).items())
