"""`ltx compare A B`: what it measures, what it says, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Result, call
from helpers import dying

from ltx import open_run
from ltx.analysis.connectivity import Barrier
from ltx.analysis.identity import IDENTITY, WEIGHTS, Alike, Ceiling, Identity, Line, Side
from ltx.analysis.overlap import Null, Overlap
from ltx.identity.beside import twice, words_for
from ltx.identity.measure import Known
from ltx.report.identity_words import answer, renamed
from ltx.store.files import commit
from ltx.store.find import run_keys

Ltx = Callable[..., Result]
NETWORK = ("device=cpu", "model.hidden=[12,8]", "model.bias=false", "model.init=kaiming_normal", "workers=0")
SHORT = (*NETWORK, "optim.steps=30", "seeds=3")
IMP = ("method=imp", "method.levels=1", "method.fraction=.5", "method.exclude=[]")
POPUP = ("method=edge_popup",)
AGAIN = ("streams.order=1000", "streams.augment=1000", "streams.mask=1000", "streams.noise=1000")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """Train an IMP run, an edge-popup run of the same inits, that one again, and a BatchNorm network, once."""
    root = tmp_path_factory.mktemp("compared")
    words = {
        "imp": (*SHORT, *IMP),
        "popup": (*SHORT, *POPUP),
        "again": (*SHORT, *POPUP, *AGAIN, "seeds=1"),
        "wider": (*SHORT, *IMP, "width=2", "seeds=1"),
        "norms": ("device=cpu", "workers=0", "model=mlp", "model.hidden=[6,6]", *IMP, "optim.steps=30", "seeds=2"),
        "control": (*SHORT, "method=control", "method.kind=shuffle", "seeds=1", f"trunk={{{flat(IMP)}}}"),
    }
    keys: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        for name, own in words.items():
            before = set(run_keys(root))
            assert call("run", *own, root=root) == 0
            [keys[name]] = set(run_keys(root)) - before
    yield root, keys


def flat(words: tuple[str, ...]) -> str:
    """Write words as those of a trunk."""
    return ",".join(word.replace("=", ":", 1) for word in words)


def compared(ltx: Ltx, root: Path, *words: str) -> Result:
    """Run `ltx compare` over the trained runs."""
    return ltx("compare", *words, f"root={root}")


def test_the_raw_overlap_is_that_of_the_two_masks(runs: tuple[Path, dict[str, str]], ltx: Ltx) -> None:
    root, keys = runs
    said = json.loads(compared(ltx, root, f"{keys['imp']}:1", f"{keys['popup']}:1:0", "--json").out)
    one, other = (open_run(root / "runs" / keys[name]).ticket(1).mask for name in ("imp", "popup"))
    both = sum(int((one[name] & other[name]).sum()) for name in one)
    either = sum(int((one[name] | other[name]).sum()) for name in one)
    assert said["iou"] == both / either
    assert said["same_init"] and said["one"]["level"] == 1 and said["other"]["seed"] == 1
    assert len(said["unrelated"]) == 2, "the other seeds of B's run"
    assert set(said["nulls"]) == {"layer", "degree", "size"}


def test_a_ticket_is_the_same_as_itself_and_no_barrier_lies_between(
    runs: tuple[Path, dict[str, str]], ltx: Ltx
) -> None:
    root, keys = runs
    result = compared(ltx, root, keys["norms"], keys["norms"], "--json")
    said = json.loads(result.out)
    assert said["iou"] == 1 and said["answer"].startswith("The same ticket")
    assert said["disagreement"] == 0 and said["alike"][WEIGHTS]["fixed"] == 1
    assert all(line["barrier"] == {"above_mean": 0, "above_chord": 0} for line in said["lines"])
    assert {(line["part"], line["of"], line["restated"]) for line in said["lines"]} == {
        (part, of, restated) for part in ("train", "test") for of in ("loss", "error") for restated in (False, True)
    }


def test_the_answer_is_printed_in_words_and_drawn(runs: tuple[Path, dict[str, str]], ltx: Ltx) -> None:
    root, keys = runs
    result = compared(ltx, root, f"{keys['imp']}:0", keys["popup"])
    assert result.code == 0, result.err
    text = " ".join(result.out.split())
    for words in ("size: counts by layer and |w_0|", "B's search, run twice", "weights matched", "the masks share"):
        assert words in text
    assert "How much A's search shares with itself is not known" in text and "How much B's" not in text
    [picture] = (root / "compare").glob("*.png")
    assert str(picture) in result.out and picture.with_suffix(".pdf").exists()
    assert not result.err, "no bar, and no empty line in its place, where nobody looks"


def test_a_picture_that_cannot_be_written_is_said_after_the_answer(
    runs: tuple[Path, dict[str, str]], ltx: Ltx, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, keys = runs
    monkeypatch.setattr("ltx.report.plots.commit", dying(commit, 1))
    result = compared(ltx, root, f"{keys['imp']}:0", keys["popup"])
    assert result.code == 3 and "the masks share" in " ".join(result.out.split())
    assert result.err.endswith("0.png could not be written: killed.\n") and len(result.err.splitlines()) == 1


def test_a_second_run_of_a_search_is_found_in_the_store_and_gives_the_ceiling(
    runs: tuple[Path, dict[str, str]], ltx: Ltx
) -> None:
    root, keys = runs
    said = json.loads(compared(ltx, root, keys["imp"], keys["popup"], "--json").out)
    one, other = (open_run(root / "runs" / keys[name]).ticket(0).mask for name in ("popup", "again"))
    shared = sum(int((one[n] & other[n]).sum()) for n in one) / sum(int((one[n] | other[n]).sum()) for n in one)
    assert said["ceilings"] == [{"of": "B", "run": keys["again"], "iou": shared}]


def test_a_second_run_of_a_search_has_another_data_order(runs: tuple[Path, dict[str, str]], ltx: Ltx) -> None:
    root, keys = runs
    again = Known.of(open_run(root / "runs" / keys["again"]), 0)
    assert "streams.order=1001" in twice("A", again), "its own is pinned to 1000 already"
    before = set(run_keys(root))
    assert ltx("run", *SHORT, *IMP, "streams.mask=7", "seeds=1", f"root={root}").code == 0
    [key] = set(run_keys(root)) - before
    shutil.move(root / "runs" / keys["again"], root / "away")
    try:
        same_order = json.loads(compared(ltx, root, keys["imp"], key, "--json").out)
        assert same_order["iou"] == 1 and same_order["ceilings"] == [], "the same search in the same order is no second"
    finally:
        shutil.move(root / "away", root / "runs" / keys["again"])
        shutil.rmtree(root / "runs" / key)


def test_the_command_that_is_named_runs_the_same_search_once_more(runs: tuple[Path, dict[str, str]], ltx: Ltx) -> None:
    root, keys = runs
    spec = open_run(root / "runs" / keys["imp"]).spec
    assert ltx("run", *words_for(spec), "device=cpu", f"root={root}", "--dry-run").out.find(keys["imp"]) >= 0
    control = open_run(root / "runs" / keys["control"]).spec
    assert ltx("run", *words_for(control), "device=cpu", f"root={root}", "--dry-run").out.find(keys["control"]) >= 0


def test_a_control_is_held_against_the_weights_that_its_mask_was_chosen_over(
    runs: tuple[Path, dict[str, str]],
) -> None:
    root, keys = runs
    control, trunk = (Known.of(open_run(root / "runs" / keys[name]), 0) for name in ("control", "imp"))
    assert all(torch.equal(tensor, trunk.init[name]) for name, tensor in control.init.items())


def test_what_goes_on_from_a_trunk_is_held_against_the_weights_it_began_with(
    runs: tuple[Path, dict[str, str]], ltx: Ltx
) -> None:
    root, _ = runs
    before = set(run_keys(root))
    assert ltx("run", *SHORT, *IMP, "trunk={method:dense,optim.steps:5}", "seeds=1", f"root={root}").code == 0
    [key] = {key for key in set(run_keys(root)) - before if key.startswith("imp")}
    run = open_run(root / "runs" / key)
    found = Known.of(run, 0)
    level_0 = run.ticket(0, 0)
    assert all(torch.equal(found.init[name], tensor) for name, tensor in level_0.begin.items())
    drawn = run.spec.network(streams=run.spec.streams(0)).get_parameter("fc1.weight")
    assert not torch.equal(found.init["fc1.weight"], drawn)


def test_networks_of_other_shapes_and_faulty_words_are_refused(runs: tuple[Path, dict[str, str]], ltx: Ltx) -> None:
    root, keys = runs
    for words, reason in (
        ((keys["imp"], keys["wider"]), "networks of other shapes (at fc1.weight"),
        ((keys["imp"],), "compare takes two tickets"),
        ((keys["imp"], f"{keys['imp']}:x"), "should read RUN, RUN:seed or RUN:seed:level"),
        ((keys["imp"], f"{keys['imp']}:7"), "no finished level 0 of seed 7"),
        ((keys["imp"], "nothing"), "No run is named nothing"),
        ((keys["imp"], keys["imp"], "--jso"), "--jso is not a flag"),
    ):
        result = compared(ltx, root, *words)
        assert result.code == 2 and reason in " ".join(result.err.split()), (words, result.err)
    assert not (root / "compare" / "nothing").exists()


OWN = """
import math
from torch import nn

class Net(nn.Sequential):
    def __init__(self, input_shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(input_shape), 6), nn.{activation}(), nn.Linear(6, classes))
"""
TABLE = """
    def symmetry(self):
        from ltx.symmetry import Units
        return [Units(("1",), ("3",))]
"""


@pytest.mark.parametrize(
    ("activation", "table", "note"),
    [
        ("ReLU", TABLE, ""),
        ("ReLU", "", "does not say what its hidden units are"),
        ("GELU", TABLE, "say rescales=False"),
    ],
)
def test_a_users_network_is_compared_by_the_symmetries_that_it_states_where_they_hold(
    activation: str, table: str, note: str, ltx: Ltx, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("ownnet.py").write_text(OWN.format(activation=activation) + table)
    monkeypatch.delitem(sys.modules, "ownnet", raising=False)
    words = ("model=own", "model.name=ownnet:Net", "model.init=kaiming_normal", *IMP[:3], "optim.steps=5", "seeds=2")
    assert ltx("run", *words, "workers=0").code == 0
    [key] = run_keys(root)
    assert ltx("compare", key, f"{key}:1").code == 2, "its module is imported only where that is asked for"
    result = ltx("compare", key, f"{key}:1", "--json", "trust=true")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    assert (set(said["alike"]) == set()) == bool(note) and note in " ".join(said["notes"])
    assert said["lines"] and not said["same_init"]


def made(shared: int, size_mean: float, z: float, ceiling: float | None = None) -> Identity:
    """Return a comparison of two masks that keep 100 of 1000 weights each."""
    whole = Overlap(shared, 100, 100, 1000)
    nulls = {"layer": Null(0.05, 0.01, 10 * z, 0, 0.2), "size": Null(size_mean, 0.01, z, 0, 0.1)}
    one, other = (Side(name, 0, 0, "imp", 0.1, 0.9, 0) for name in "ab")
    ceilings = [] if ceiling is None else [Ceiling("A", "c", ceiling)]
    return Identity(one, other, True, whole, {}, nulls, 0.0, ceilings=ceilings)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (made(100, 0.1, 9), "The same ticket: both masks keep exactly the same weights"),
        (
            made(15, 0.08, 0.5),
            "Not the same ticket: the masks share 8.1 % of what either keeps, no more than by chance",
        ),
        (made(30, 0.10, 5), "Related, but not the same ticket: the masks share 17.6 %"),
        (made(80, 0.10, 5, 0.68), "The same ticket, as far as a search finds one twice"),
        (made(30, 0.10, 5, 0.18), "Related, but not the same ticket"),
        (made(30, 0.10, 5, 0.60), "Related, but not the same ticket"),
    ],
)
def test_the_answer_names_what_chance_and_the_search_itself_share(found: Identity, words: str) -> None:
    assert answer(found).startswith(words)


def test_a_search_that_does_not_find_its_own_ticket_again_is_said_to_find_others() -> None:
    assert answer(made(30, 0.10, 5, 0.18)).endswith("A's search finds another ticket each time.")
    assert "each time" not in answer(made(30, 0.10, 5, 0.60))


def test_matching_is_said_beside_what_it_makes_of_unrelated_networks() -> None:
    def likeness(iou: float) -> Alike:
        return Alike(iou, 0.5, 0.5, 0.1)

    alike = {IDENTITY: likeness(0.1), WEIGHTS: likeness(0.2)}
    line = Line(IDENTITY, "test", "error", False, [0.1, 0.2, 0.1], Barrier(0.1, 0.1))
    found = replace(made(30, 0.1, 5), alike=alike, unrelated=[likeness(0.25), likeness(0.22)], lines=[line])
    assert "no more than unrelated networks" in renamed(found) and "(n=2)" in renamed(found)
    assert "; more than unrelated networks" in renamed(replace(found, unrelated=[likeness(0.15), likeness(0.19)]))
    assert "has no other seed" in renamed(replace(found, unrelated=[]))
