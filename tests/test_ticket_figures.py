"""What figures of tickets along training and of one initialisation decide, on tables whose answer is planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import same, spec, trained

from ltx.figures import read, reinforcement, same_ticket
from ltx.figures.claims import Claim
from ltx.tensors import under

WIDTHS, SEEDS = (0.25, 0.5, 1.0, 2.0), range(100, 106)


def changed(gain: float, counterpart: float, rest: float, loss: float) -> pd.DataFrame:
    """Return tickets before and after training, which changes accuracies and losses by these."""
    noise = np.random.default_rng(0)
    rows = []
    for width in WIDTHS:
        for search in ("edge-popup", "IMP"):
            for kind, gained in (("found", gain), ("random", counterpart)):
                for seed in SEEDS:
                    for step in (0, 420):
                        done = (step > 0) * (1 + 0.01 * noise.standard_normal())
                        row = {"width": width, "search": search, "ticket": kind, "seed": seed, "step": step}
                        row |= {"accuracy": 0.5 + gained * done, "rest_accuracy": 0.3 + rest * done}
                        row |= {"loss": 1 + loss * done, "update": 0.1 + gained * done, "worth": 0.2 + gained * done}
                        rows.append(row)
    return pd.DataFrame(rows)


def decided(table: pd.DataFrame) -> dict[str, Claim]:
    return reinforcement.claims(table, read("reinforcement"))


def test_a_ticket_that_training_favours_is_said_to_be_reinforced() -> None:
    found = decided(changed(gain=0.1, counterpart=0.02, rest=-0.2, loss=-0.3))
    assert {claim.verdict for name, claim in found.items() if name not in ("edge-popup width", "random accuracy")} == {
        "passed"
    }
    assert found["random accuracy"].verdict == "failed" and found["edge-popup width"].verdict == "undecided"
    assert found["edge-popup counterparts"].effect == pytest.approx(0.08, abs=0.01)
    assert found["rest accuracy 0.25"].effect == pytest.approx(0.2, abs=0.01)


def test_a_ticket_that_training_spoils_is_said_to_be_dampened() -> None:
    found = decided(changed(gain=-0.1, counterpart=0.02, rest=0.2, loss=0.3))
    names = ("edge-popup accuracy 1", "edge-popup counterparts", "edge-popup loss", "IMP accuracy", "rest accuracy 2")
    assert {found[name].verdict for name in names} == {"failed"}


def shared(excess: float) -> pd.DataFrame:
    """Return pairs of masks of all seeds and widths, of which the first two searches share an excess over chance."""
    noise = np.random.default_rng(0)
    rows = []
    for one, other in (*same_ticket.SAME, *same_ticket.OTHERS, *same_ticket.APART):
        for width in WIDTHS:
            for seed in SEEDS:
                more = excess / width if (one, other) == ("IMP", "edge-popup") else 0.0
                row = {
                    "one": one,
                    "other": other,
                    "width": width,
                    "seed": seed,
                    "layer_mean": 0.06,
                    "degree_mean": 0.06,
                }
                row |= {"iou": 0.06 + more + 0.001 * noise.standard_normal(), "matched_iou": 0.15 + more}
                rows.append(row | {"size_corrected": more + 0.001 * noise.standard_normal()})
    return pd.DataFrame(rows)


def test_what_tickets_share_is_decided_against_chance_and_against_a_search_run_twice() -> None:
    fixed = read("same-ticket")
    found = same_ticket.claims(shared(0.05), fixed)
    assert [found[f"size {width:g}"].verdict for width in WIDTHS] == ["passed"] * 4
    assert found["width"].effect == pytest.approx(0.2 - 0.025, abs=0.005)
    passed = {name for name, claim in found.items() if claim.verdict == "passed"}
    assert {"width", "degree", "ceiling", "matched chance", "matched"} <= passed
    assert {name for name, claim in found.items() if claim.verdict == "failed"} == {"IMP twice", "edge-popup twice"}
    nothing = same_ticket.claims(shared(0.0), fixed)
    assert nothing["degree"].verdict == "undecided" and nothing["biprop"].verdict == "undecided"


def test_a_shorter_run_at_a_constant_rate_is_the_beginning_of_a_longer_one(tmp_path: Path) -> None:
    network = ("model.hidden=[8,6]", "model.bias=false", "seeds=1")
    [(shorter, _)] = trained(spec("method=dense", "optim.steps=4", *network), tmp_path / "shorter")
    longer = spec("method=imp", "method.levels=0", "method.rewind=4", "optim.steps=9", *network)
    [(level, _)] = trained(longer, tmp_path / "longer")
    assert same(under("end", shorter), under("anchor", level)) and not same(under("end", level), under("end", shorter))
