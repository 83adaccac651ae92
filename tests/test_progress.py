"""The progress display, looked at on a terminal: it fits, it hides nothing, and it leaves nothing behind."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Result, call
from helpers import spec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from terminal import Terminal

from ltx.report.lines import View, Worker, bar_line, fitted, loss_text, shortened, worker_lines
from ltx.report.progress import Progress
from ltx.runs.naming import names
from ltx.runs.point import Point

LOSSES = (0.3456, 1.23e-05, float("nan"), 12.3)
SHOWN = ("0.346", "1.23e-05", "nan", "12.300")
BAR = re.compile(r" *\d+ % [━╸╺]+  \S")
Open = Callable[..., Terminal]
Begin = Callable[..., Progress]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open terminals of any size, and close them at the end."""
    terminals: list[Terminal] = []

    def open_one(columns: int, rows: int = 24) -> Terminal:
        terminals.append(Terminal(columns, rows))
        return terminals[-1]

    yield open_one
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def begun(root: Path) -> Iterator[Begin]:
    """Begin a command of 96 jobs on a terminal, with some workers in the middle of it, half an hour ago."""
    running: list[Progress] = []

    def begin(
        terminal: Terminal, workers: int, name: Callable[[int], str] = lambda i: f"width={2**i} method=imp"
    ) -> Progress:
        console = Console(file=terminal.file, highlight=False)
        called = {str(i): name(i) for i in range(workers)}
        progress = Progress("sweep-ab12cd34", 400 * 96, {"0": 96}, root / "progress", called, console)
        running.append(progress)
        progress.__enter__()
        progress.began -= 1800
        for i in range(workers):
            told(progress, i, "started")
            for level in range(2 * i):
                told(progress, i, "level", SimpleNamespace(level=level, test_loss=1.0))
            told(progress, i, "progress", (2 * i, 830 * i + 40, LOSSES[i % 4]))
        progress.display.refresh()
        return progress

    yield begin
    for progress in running:
        progress.__exit__()


def told(progress: Progress, i: int, kind: str, value: object = None) -> None:
    """Let the worker of seed i tell something; each level has 400 steps."""
    progress.event((str(i), 100 + i), kind, value, lambda level: (400 * level, 400))


def told_of_a_failure(progress: Progress) -> None:
    """Let one more worker begin, fail and end."""
    for kind in ("started", "failed", "ended"):
        told(progress, 50, kind)


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_the_share_the_counts_the_time_left_and_every_worker_fit_on_a_terminal(opened, begun, columns, workers):
    terminal = opened(columns)
    progress = begun(terminal, workers)
    told_of_a_failure(progress)
    progress.display.refresh()
    title, bar, *lines = terminal.text
    assert title == "sweep-ab12cd34: 38400 optimiser steps"
    assert BAR.match(bar) and len(lines) == workers
    assert re.search(rf"  0( of |/)96 (jobs )?done, 1 failed, {workers} running  ETA [\d:]+$", bar)
    for i, line in enumerate(lines):
        assert re.search(rf"^  width={2**i} method=imp +seed {100 + i}  level {2 * i} .*loss {SHOWN[i % 4]}$", line)
        assert columns < 80 or re.search(r" \d+ %  loss", line)
    assert len({line.index("seed") for line in lines}) == 1, "the columns are aligned"
    assert not any(terminal.screen.wrapped), "no line is longer than the terminal is wide"


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_long_names_are_shortened_in_their_middle_and_their_numbers_stay_whole(opened, begun, columns):
    terminal = opened(columns)
    begun(terminal, 2, lambda i: f"method={'edge_popup' * 20} lr={i}.00123e-05 model=mymodule:ResidualNetwork")
    lines = terminal.text[2:]
    for i, line in enumerate(lines):
        assert re.search(rf"^  me.*….*seed {100 + i}  level {2 * i} .*loss {SHOWN[i]}$", line)
        assert f" lr={i}.00123e-05 m" in line
        assert set(numbers(line)) <= {f"{i}.00123e-05", f"{100 + i}", f"{2 * i}", SHOWN[i], "10", "17"}
    assert not any(terminal.screen.wrapped)


def test_more_workers_than_rows_are_counted(opened, begun):
    terminal = opened(80, 7)
    begun(terminal, 8)
    *_, message, bar, first, second, third, fourth, more = ["", *terminal.text]
    assert message.startswith("sweep") and BAR.match(bar)
    assert ["seed 10" in line for line in (first, second, third, fourth)] == [True] * 4
    assert more == "  +4 more"


def test_a_terminal_of_two_rows_has_the_bar(opened, begun):
    terminal = opened(60, 2)
    begun(terminal, 2)
    assert BAR.match(terminal.text[-1])


def test_what_is_said_and_printed_meanwhile_stands_above_in_order(opened, begun):
    terminal = opened(60)
    progress = begun(terminal, 2)
    progress.say("width=4 seed 3 failed: \nTraceback (most recent call last):\n" + "a long line " * 9)
    print("ltx: waiting for another process")
    print("ltx: set aside", file=sys.stderr)
    screen = terminal.text
    assert screen[1:3] == ["width=4 seed 3 failed:", "Traceback (most recent call last):"]
    assert "".join(screen[3:5]).startswith("a long line a long line")
    assert screen[5:7] == ["ltx: waiting for another process", "ltx: set aside"]
    assert BAR.match(screen[7]) and len(screen) == 10
    assert sum(bool(BAR.match(line)) for line in screen) == 1


@pytest.mark.parametrize("sizes", [(80, 60, 120, 45), (200, 60, 200), (60, 200)])
def test_a_terminal_that_is_resized_keeps_what_was_said_and_one_bar(opened, begun, sizes):
    terminal = opened(sizes[0])
    progress = begun(terminal, 8)
    for columns in sizes[1:]:
        terminal.resize(columns)
        progress.say(f"now {columns} wide")
        progress.display.refresh()
        screen = terminal.text
        assert sum("ETA" in line for line in screen) == 1 and len(screen) == 1 + 8 + sizes.index(columns, 1) + 1
        assert screen[0].startswith("sweep") and not any(terminal.screen.wrapped)
        assert max(map(len, screen)) <= columns


def test_a_terminal_that_becomes_lower_shows_what_fits(opened, begun):
    terminal = opened(80)
    progress = begun(terminal, 8)
    terminal.resize(80, 6)
    progress.display.refresh()
    assert BAR.match(terminal.text[-5]) and terminal.text[-1] == "  +5 more"


def test_the_bar_stays_when_all_is_over(opened, begun):
    terminal = opened(80)
    progress = begun(terminal, 1)
    told(progress, 0, "level", SimpleNamespace(level=0, test_loss=1.0))
    told(progress, 0, "ended")
    told_of_a_failure(progress)
    progress.lost = 400 * 95
    progress.__exit__()
    print("the table follows", file=terminal.file, flush=True)
    _, bar, after = terminal.text
    assert re.fullmatch(r"100 % ━+  1 of 96 jobs done, 1 failed  took 30:0\d", bar)
    assert after == "the table follows"
    assert not progress.file.exists()


def test_an_error_leaves_the_bar_and_its_traceback_below(opened, root):
    terminal = opened(80)
    with (
        pytest.raises(KeyboardInterrupt),
        Progress("run", 100, {"a": 1}, root, console=Console(file=terminal.file)) as progress,
    ):
        progress.event(("a", 0), "started", None, lambda level: (0, 100))
        raise KeyboardInterrupt
    assert re.fullmatch(r"  0 % ━+  0 of 1 jobs done  took 0 s", terminal.text[1]) and len(terminal.text) == 2
    assert sys.stdout is not terminal.file, "printing goes where it went before"


def test_without_colours_the_bar_is_there(opened, begun, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = opened(80)
    progress = begun(terminal, 2)
    told(progress, 0, "level", SimpleNamespace(level=0, test_loss=1.0))
    progress.finished = 400 * 48
    progress.display.view = progress.view()
    progress.display.refresh()
    assert re.match(r" 5\d % ━+╸? +0 of 96 jobs done, 2 running  ETA", terminal.text[1])
    assert len(terminal.text[1]) == 80, "what is left of the bar is blank, not missing"


def test_a_dumb_terminal_and_a_file_get_a_line_now_and_then(opened, root, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal, file = opened(60), (root.parent / "log").open("w+")
    for out in (terminal.file, file):
        with Progress("sweep-x", 100, {"a": 2}, root, {"a": "width=4"}, Console(file=out)) as progress:
            progress.event(("a", 7), "started", None, lambda level: (0, 50))
            progress.printed -= 11
            progress.event(("a", 7), "progress", (0, 25, 1.23e-05), lambda level: (0, 50))
            progress.event(("a", 7), "progress", (0, 30, 1.23e-05), lambda level: (0, 50))
    file.seek(0)
    said = file.read().splitlines()
    assert said[0] == "sweep-x: 100 optimiser steps" and len(said) == 2
    assert said[1] == " 25% ETA 0 s; 0 of 2 jobs done, 1 running: width=4 seed 7 level 0 loss 1.23e-05"
    assert "".join(terminal.screen.lines) == "".join(said), "the same, wrapped by the terminal itself"


def test_a_line_of_a_log_leaves_out_what_there_is_not(root):
    progress = Progress("x", 100, {"0": 1}, root, console=Console(quiet=True))
    assert progress.plain() == "  0%; 0 of 1 jobs done, 0 running"
    told(progress, 0, "started")
    assert progress.plain() == "  0%; 0 of 1 jobs done, 1 running: seed 100 starting"


def test_jobs_are_counted_once_by_how_they_ended(root):
    progress = Progress("x", 400, {"0": 4}, root, console=Console(quiet=True))
    for i, kinds in enumerate((["level"], ["diverged"], ["failed", "killed"], ["held"])):
        for kind in ("started", *kinds, "ended"):
            told(progress, i, kind, SimpleNamespace(level=0, test_loss=1.0))
    assert progress.counts == {"done": 1, "jobs": 4, "running": 0, "failed": 2}


def test_the_steps_of_a_failed_seed_are_not_waited_for(root):
    progress = Progress("x", 800, {"0": 2}, root, console=Console(quiet=True))
    progress.began -= 60
    told(progress, 0, "started")
    told(progress, 0, "progress", (0, 200, 0.5))
    assert progress.share == 0.25 and 180 <= progress.left < 190
    progress.lost = 400
    assert progress.share == 0.5 and 60 <= progress.left < 70


def test_a_point_counts_the_steps_that_its_failed_seeds_leave(root, monkeypatch):
    monkeypatch.setattr(Point, "level", lambda *_: None)
    point = Point(spec("method.levels=2", "optim.steps=10", "seeds=3", "width=.05", f"root={root}"), [])
    point.open()
    assert point.not_taken("failed") == 0
    point.handle(0, "level", SimpleNamespace(level=0, test_loss=1.0))
    point.handle(0, "failed", ("an error", "its traceback", False))
    point.handle(1, "diverged", {"reason": "no number"})
    assert point.not_taken("failed") == 20 + 30 and point.not_taken("done") == 0
    point.close()


def test_a_sweep_on_a_terminal_names_its_points(opened, root, monkeypatch):
    terminal = opened(60)
    screens: list[list[str]] = []
    shown = Progress.event

    def event(progress: Progress, *told: object) -> None:
        shown(progress, *told)
        progress.display.refresh()
        screens.append(terminal.text)

    monkeypatch.setattr(Progress, "event", event)
    monkeypatch.setattr(sys, "stdout", terminal.file)
    words = ("method=dense", "optim.steps=20", "seeds=2", "model.hidden=[8]")
    assert call("run", "-m", *words, "width=.5,1", root=root) == 0
    terminal.file.flush()
    seen = dict.fromkeys(line.partition(" starting")[0] for screen in screens for line in screen[2:])
    assert {" ".join(line.split()[:3]) for line in seen} == {
        f"width={w} seed {s}" for w in ("0.5", "1") for s in (0, 1)
    }
    everything = terminal.screen.history + terminal.screen.lines
    assert any(re.fullmatch(r"100 % ━+  4 of 4 jobs done  took \d+ s", line) for line in everything)
    assert not any("ETA" in line for line in everything)


def test_a_point_is_named_by_what_differs_and_a_single_run_by_its_seeds_alone():
    one, two = spec("width=.05", "optim.lr=.1"), spec("width=.1", "optim.lr=.1")
    labels = [
        {"method": "imp", "width": 0.05, "optim.lr": ".1", "seeds": "1"},
        {"method": "imp", "width": 4.0, "optim.lr": ".1", "seeds": "2", "method.rewind": "3"},
    ]
    assert names([one, two], labels) == {one.key: "width=0.05", two.key: "width=4 rewind=3"}
    assert names([one], labels[:1]) == {one.key: ""}
    assert names([one, two], [{"arm": "wide ticket"}, {"arm": "ticket"}]) == {one.key: "wide ticket", two.key: "ticket"}


def test_trunks_that_would_be_called_alike_are_told_apart():
    def control(width: float, kind: str) -> object:
        return spec("method=control", "method.levels=1", f"method.kind={kind}", "trunk={method:imp}", f"width={width}")

    arms = [control(0.05, "reinit"), control(0.05, "shuffle"), control(0.1, "reinit")]
    found = names(arms, [{"arm": name} for name in ("a", "b", "c")])
    assert [found[arm.trunk.key] for arm in arms] == ["trunk imp of a", "trunk imp of a", "trunk imp of c"]
    assert names(arms[:1], [{}]) == {arms[0].key: "control", arms[0].trunk.key: "trunk imp"}


def test_what_each_worker_does_is_told_to_other_processes_once_a_second(root, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("ltx.report.progress.time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0]))
    progress = Progress("x", 1200, {"0": 3}, root, {"0": "width=4"}, Console(quiet=True))
    told(progress, 0, "started")
    states = []
    for step, loss in ((400, 0.5), (440, 0.5), (500, float("nan")), (800, 0.25)):
        now[0] += 10
        told(progress, 0, "progress", (step // 400, step, loss))
        states += json.loads(progress.file.read_text())["workers"]
    job = {"run": "0", "name": "width=4", "seed": 100, "began": 1000.0}
    seconds = 20 / 0.25  # for a quarter of the level, after it was first heard of
    assert states == [
        {**job, "level": 1, "share": 0.0, "loss": 0.5, "level_seconds": None},
        {**job, "level": 1, "share": 0.1, "loss": 0.5, "level_seconds": pytest.approx(100)},
        {**job, "level": 1, "share": 0.25, "loss": None, "level_seconds": seconds},
        {**job, "level": 2, "share": 0.0, "loss": 0.25, "level_seconds": seconds},
    ]
    now[0] += 10
    told(progress, 0, "ended")
    assert json.loads(progress.file.read_text())["workers"] == []


@pytest.mark.parametrize(
    ("loss", "text"),
    [(0.3456, "0.346"), (0.0, "0.000"), (1.23e-5, "1.23e-05"), (123456.0, "1.23e+05"), (float("inf"), "inf")],
)
def test_a_loss_shows_three_digits_of_any_size(loss, text):
    assert loss_text(loss) == text


def test_the_bar_becomes_shorter_before_words_do_and_goes_last():
    view = View(0.371, ("12 of 60 jobs done, 8 running", "12/60 done, 8 running", "12/60"), "ETA 1:02:03")
    lines = {width: bar_line(view, width) for width in (200, 60, 55, 54, 47, 46, 31, 30)}
    assert [bar for _, bar, _ in lines.values()] == [60, 10, 5, 12, 5, 20, 5, 0]
    said = [after.removesuffix("  ETA 1:02:03").strip() for _, _, after in lines.values()]
    assert said == [view.counts[i] for i in (0, 0, 0, 1, 1, 2, 2)] + [""]
    assert lines[30] == ("37 % 12/60 ETA 1:02:03", 0, "")


def test_characters_that_are_two_cells_wide_count_as_two():
    assert shortened("data=日本語", 11) == "data=日本語"
    assert shortened("data=日本語", 9) == "data…本語"


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=30)
NUMBERS = st.one_of(st.integers(-(10**9), 10**9).map(str), st.floats(-1e6, 1e6).map(repr))
NAMES = st.lists(st.tuples(WORDS, NUMBERS).map("=".join) | WORDS, max_size=5).map(" ".join)


def numbers(text: str) -> list[str]:
    """Return the numbers of a text as they stand there, each with what touches it."""
    return re.findall(r"(?:(?<![\w.])[-+])?\.?\d[\w.]*(?:(?<=[eE])[-+]\d+)?(?::\d\d)*", text)


@settings(deadline=None, max_examples=60)
@given(NAMES, st.integers(0, 200))
@example("\U0001f3fb", 0)  # a character that takes no cell
def test_a_shortened_name_fits_and_its_numbers_are_those_of_the_name(name, room):
    for found in (shortened(name, room), fitted(name, room)):
        assert cell_len(found) <= room
        assert found == name or cell_len(name) > room
        whole = numbers(name)
        for number in numbers(found):
            assert number in whole
            whole.remove(number)


WORKERS = st.builds(
    Worker,
    NAMES,
    st.integers(0, 10**6),
    st.none() | st.integers(0, 99),
    st.floats(0, 1),
    st.floats(width=32) | st.just(1.23e-05),  # a loss is a float32, of at most nine characters
)


@settings(deadline=None, max_examples=60)
@given(st.lists(WORKERS, min_size=1, max_size=9), st.integers(40, 200), st.integers(0, 9))
def test_the_lines_of_workers_fit_and_hide_no_number(workers, width, rows):
    lines = worker_lines(workers, width, rows)
    assert len(lines) == min(rows, len(workers)) and all(cell_len(line) <= width for line in lines)
    hidden = len(workers) - len(lines) + 1
    if rows and hidden > 1:
        assert lines.pop() == f"  +{hidden} more"
    for worker, line in zip(workers, lines, strict=False):
        *_, last = worker.cells(with_share=False)
        assert f"seed {worker.seed} " in line and line.endswith(last)
        assert worker.level is None or f"level {worker.level} " in line


@settings(deadline=None, max_examples=60)
@given(
    st.floats(0, 1),
    st.integers(0, 999),
    st.integers(0, 999),
    st.integers(0, 64),
    st.integers(0, 10**6),
    st.integers(40, 200),
)
def test_the_bar_line_fits_and_has_the_share_the_counts_and_the_time_left(share, jobs, failed, running, left, width):
    said = (f"0 of {jobs} jobs done, {failed} failed, {running} running", f"0/{jobs}, {failed} failed")
    before, bar, after = bar_line(View(share, said, f"ETA {left}:00:00"), width)
    line = before + "━" * bar + after
    assert cell_len(line) <= width and line.strip().startswith(f"{int(100 * share)} %")
    assert (said[0] in line or said[1] in line) and line.endswith(f"ETA {left}:00:00")
    assert bar >= 5 or width < 50


def test_masks_that_are_scored_count_as_steps_and_are_called_so(ltx: Callable[..., Result]) -> None:
    words = ["model=mlp", "model.hidden=[2]", "method.examples=20", "seeds=1", "workers=0"]
    drawn = ltx("run", "method=ticket_sample", "method.levels=1", *words)
    assert drawn.code == 0 and "20000 masks to score" in drawn.out
    split = ["method=ticket_split", "method.levels=2", "method.masks=16", "method.sweeps=3"]
    assert "to score: 288 masks, about" in ltx("run", *split, *words, "--dry-run").out  # 3 levels of 2 x 16 x 3
