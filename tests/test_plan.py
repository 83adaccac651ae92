"""What a sweep would cost: a line a point, trunks once, and a total; nothing is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY, Result, tree

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.report.progress import clock
from ltx.runs.estimate import cost, sweep_plan
from ltx.runs.memory import FILES, STATES, needed
from ltx.runs.seconds import step_seconds

Ltx = Callable[..., Result]
SMALL = ("method.levels=1", "optim.steps=20", "seeds=2")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def test_a_sweep_has_a_line_a_point_and_a_total(ltx: Ltx, finished: Path, root: Path) -> None:
    before = tree(root)
    result = ltx("run", "-m", *SMALL, "width=.05,1.5", "workers=2", "--dry-run")
    assert result.code == 0 and tree(root) == before
    head, done, new, *total = result.out.splitlines()
    assert head.split() == ["point", "done", "time", "disk"]
    assert done.split() == ["width=0.05", "4/4", "0", "s", "0", "MB"]
    assert re.fullmatch(r"width=1.5 +0/4 +\d+ s +\d MB", new)
    text = " ".join(total)
    assert re.match(r"total: 2 points, 4 of 8 levels to train, about \d+ s with 2 workers, \d MB of disk", text)


def test_the_total_is_the_work_over_the_workers(ltx: Ltx, root: Path) -> None:
    words = (*SMALL, "optim.steps=100000", "workers=2", f"root={root}")
    specs = [Spec.of(compose([*words, f"width={w}"], [])) for w in (1, 2)]
    costs = [cost(spec) for spec in specs]
    assert [c.jobs for c in costs] == [2, 2] and costs[1].seconds > costs[0].seconds > 0
    assert costs[0].size == 2 * 2 * 9 * 50_610
    text = " ".join(sweep_plan(specs, [["width=1"], ["width=2"]], 80))
    assert f"about {clock(sum(c.seconds for c in costs) / 2 + 8)} with 2 workers" in text


def test_a_trunk_is_shown_and_counted_once(ltx: Ltx) -> None:
    words = (
        "method=control",
        "method.kind=reinit,shuffle",
        "trunk={method:imp,method.levels:1}",
        "seeds=2",
        "width=.1",
    )
    lines = ltx("run", "-m", *words, "--dry-run").out.splitlines()
    assert re.match(r"trunk imp-lenet-digits-w0.1-[0-9a-f]{8} +0/4", lines[1])
    assert [line.split()[0] for line in lines[2:4]] == ["method.kind=reinit", "method.kind=shuffle"]
    assert "total: 2 points and 1 trunk, 12 of 12 levels" in " ".join(lines)
    standing = ("-m", "method=imp", "trunk=null,{method:imp,method.levels:1}", *SMALL)
    assert "total: 2 points, 8 of 8 levels" in " ".join(ltx("run", *standing, "--dry-run").out.split())


def test_points_that_are_one_run_are_counted_once(ltx: Ltx) -> None:
    said = " ".join(ltx("run", "-m", "method.levels=1,3", "seeds=1", "--dry-run").out.split())
    assert "method.levels=1 0/2" in said and "method.levels=3 0/4" in said
    assert "total: 2 points in 1 run, 4 of 4 levels" in said


def test_long_points_are_wrapped_and_lose_nothing(ltx: Ltx) -> None:
    swept = ("optim.label_smoothing=0.1,0.2", "optim.weight_decay=0.0001,0.0002", "method.criterion=movement,increase")
    keys = "zip=" + ",".join(word.partition("=")[0] for word in swept)
    lines = ltx("run", "-m", *swept, keys, "--dry-run").out.splitlines()
    assert max(map(len, lines)) <= 80 and [line.count("0/45") for line in lines[1:5]] == [1, 0, 1, 0]
    assert all(word.replace(word.partition("=")[2], word.rpartition(",")[2]) in " ".join(lines) for word in swept)


def test_full_prints_the_configs_too_and_one_point_stays_as_it_was(ltx: Ltx) -> None:
    many = ltx("run", "-m", *SMALL, "width=.05,.1", "--dry-run", "--full").out
    assert many.count("done already: 0 of 4 levels over 2 seeds") == 2 and "total: 2 points" in many
    assert yaml.safe_load(many.partition("\nrun: ")[0])["width"] == 0.05
    one = ltx("run", *TINY, "--dry-run").out
    assert one == ltx("run", *TINY, "--dry-run", "--full").out and "total:" not in one
    result = ltx("run", *TINY, "--full")
    assert result.code == 2 and "--full shows the configs of a --dry-run" in result.err


def test_a_step_of_a_deep_narrow_network_costs_its_layers() -> None:
    seconds = [step_seconds(Spec.of(compose([f"model={name}", "width=.05"], []))) for name in ("resnet20", "resnet56")]
    assert 2 < seconds[1] / seconds[0] < 3, "173 parameter tensors against 65, and hardly an operation"


def test_the_caption_of_one_seed_says_that_no_interval_is_known(ltx: Ltx) -> None:
    assert "one seed, so that no interval is known" in " ".join(ltx("run", *TINY, "seeds=1").out.split())


def memory_of(*words: str) -> float:
    return needed(Spec.of(compose(list(words), [])))


def test_memory_follows_the_data_the_network_and_what_is_evaluated_at_once() -> None:
    """A chunk of 501 pictures of canvas through Conv-4's second layer: 64 channels in and 64 out, of 28x28 pixels."""
    images = 27_780 + 2_000  # all, and those the training loss is measured on
    small, canvas = memory_of("width=.05"), memory_of("width=.05", "data=canvas")
    assert canvas - small == pytest.approx(4 * 28 * 28 * images, rel=0.1)
    conv4 = memory_of("model=conv4", "data=canvas")
    parameters = sum(
        p.numel() for p in Spec.of(compose(["model=conv4", "data=canvas"], [])).network("meta").parameters()
    )
    step, states = (
        4 + 3,
        STATES + 2 * FILES,
    )  # weights, gradients and two moments; gate, effective weights and gradients
    assert conv4 - canvas == pytest.approx(501 * 2 * 64 * 28 * 28 * 4 + 4 * (step + states) * parameters, rel=0.05)
    half = memory_of("model=conv4", "data=canvas", "trainer.precision=bf16-true")
    assert (half - canvas) / (conv4 - canvas) == pytest.approx(0.5, rel=0.2)


def test_a_large_batch_is_what_a_step_keeps_for_backward() -> None:
    """Of an example of LeNet at width 1 that are the pixels, and the outputs of two ReLUs."""
    few, many = (memory_of(f"optim.batch={n}", "data=canvas") for n in (10_000, 20_000))
    assert many - few == pytest.approx(10_000 * 4 * (784 + 300 + 100), rel=0.1)


def test_a_dry_run_says_what_a_worker_needs_and_warns_where_the_machine_has_less(ltx: Ltx, monkeypatch: Any) -> None:
    words = (*SMALL, "width=.05", "workers=2", "--dry-run")
    said = ltx("run", *words).out
    assert re.search(r"^memory: about 4\d\d MB a worker$", said, re.MULTILINE) and "may need" not in said
    assert re.search(r"\d MB of disk, 9\d\d MB of memory$", said, re.MULTILINE)
    monkeypatch.setattr("ltx.runs.estimate.machine_memory", lambda: 8e8)
    for more in ((), ("-m", "optim.lr=.1,.2")):
        found = ltx("run", *more, *words)
        assert found.code == 0
        assert "2 workers may need about 9" in found.out and "but this machine has 800 MB" in " ".join(
            found.out.split()
        )


def test_a_step_in_bfloat16_is_estimated_shorter() -> None:
    usual, half = (
        step_seconds(Spec.of(compose(["model=conv4", "data=canvas", f"trainer.precision={p}"], [])))
        for p in ("32-true", "bf16-mixed")
    )
    assert 0.4 < half / usual < 0.7
