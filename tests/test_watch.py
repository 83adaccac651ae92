"""`ltx status --watch`: how far all is, what each worker does, and whose claims stand still."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Result
from rich.console import Console
from terminal import Terminal

from ltx.report import watch as watching
from ltx.report.progress import under_way
from ltx.report.watch import Doing, Seen, Watcher, view, watch
from ltx.store.claims import PATIENCE
from ltx.store.states import standing

KEY, OTHER = "imp-lenet-digits-w1-aaaa1111", "imp-lenet-digits-w2-bbbb2222"
COMMAND = {
    "host": "hal",
    "pid": 77,
    "title": "sweep-ab12cd34",
    "runs": [KEY, OTHER],
    "done": 1,
    "jobs": 4,
    "running": 1,
    "failed": 0,
    "share": 0.25,
    "eta_seconds": 90.0,
    "rate": 0.0,
}
WORKER = {"run": KEY, "name": "width=1", "seed": 3, "level": 1, "share": 0.5, "loss": 0.25, "level_seconds": 10.0}
WORKER |= {"began": 1.7e9}


def tell(root: Path, name: str = "hal-77", **changed: Any) -> Path:
    """Write what a command of another host says of itself."""
    path = root / "progress" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**COMMAND, **changed}))
    return path


def plant(root: Path, key: str, levels: int, seed: int = 3, last: int = 2) -> Path:
    """Write a run's folder with the first levels of one seed, of which the last was asked for; return the seed's."""
    run = root / "runs" / key
    folder = run / f"seed_{seed:03d}"
    folder.mkdir(parents=True, exist_ok=True)
    asked = [{"seeds": [seed], "last_level": last}]
    (run / "manifest.json").write_text(json.dumps({"seeds": [seed], "last_level": last, "asked": asked}))
    for level in range(levels):
        (folder / f"level_{level:02d}.safetensors").touch()
    return folder


def plant_sweep(root: Path) -> None:
    """Write a sweep that has the second run as its point."""
    sweep = root / "sweeps" / "rates-01234567"
    sweep.mkdir(parents=True)
    points = [{"run": OTHER, "label": {}, "seeds": [3], "last_level": 2}]
    (sweep / "sweep.json").write_text(json.dumps({"name": "rates", "points": points}))


def beat(folder: Path, counter: int, host: str = "elsewhere") -> None:
    """Write a claim as its holder does at a beat."""
    (folder / "claim").write_text(json.dumps({"host": host, "pid": 9, "command": 123, "counter": counter}))


def test_the_view_has_the_whole_the_commands_the_workers_and_who_stands_still():
    commands = [COMMAND, {**COMMAND, "host": "eve", "jobs": 12, "share": 0.75, "eta_seconds": 3700.0, "failed": 1}]
    workers = [Doing("width=1", 3, 4, 0.178, 0.25, "hal", 12.0), Doing("width=0.5", 11, host="eve")]
    lines = view(Seen(commands, 12, 60, workers, ["seed 3 of KEY: it has not moved for 40 s"]), 100, 20)
    assert lines == [
        " 62 %  12 of 60 runs done, 2 at work  ETA 1:01:40",
        "hal process 77: sweep-ab12cd34: 25 %, 1 of 4 jobs done, 1 running, ETA 1:30",
        "eve process 77: sweep-ab12cd34: 75 %, 1 of 12 jobs done, 1 failed, 1 running, ETA 1:01:40",
        "  width=1    seed 3   level 4    17 %  ETA 12 s  hal  loss 0.250",
        "  width=0.5  seed 11  starting                   eve",
        "seed 3 of KEY: it has not moved for 40 s",
    ]


@pytest.mark.parametrize(("width", "rows"), [(40, 10), (60, 8), (100, 24)])
def test_the_view_fits_and_counts_what_it_leaves_out(width, rows):
    commands = [{**COMMAND, "pid": pid} for pid in range(30)]
    workers = [Doing(f"width={i} method=imp", i, 2, 0.5, 0.1, f"machine-{i}", 1.0) for i in range(30)]
    lines = view(Seen(commands, 0, 1, workers, [f"seed {i} stands still" for i in range(30)]), width, rows)
    assert len(lines) <= rows and max(map(len, lines)) <= width
    shown = [sum(text in line for line in lines) for text in ("process", "level", "stands still")]
    left_out = [int(line.strip(" +more")) for line in lines if line.endswith(" more")]
    assert [n + hidden for n, hidden in zip(shown, left_out, strict=True)] == [30, 30, 30]


def test_commands_that_share_a_sweep_share_the_time_that_is_left():
    three = [{**COMMAND, "pid": pid, "share": share, "rate": 0.01} for pid, share in ((1, 0.1), (2, 0.4), (3, 0.3))]
    assert Seen(three).left == pytest.approx(0.6 / 0.03)
    other = {**COMMAND, "runs": [KEY], "rate": 0.01}
    assert Seen([*three, other]).left == 90.0
    lines = view(Seen([*three, other], 0, 2), 100, 20)
    assert ["ETA" in line for line in lines] == [True, False, False, False, True] and "ETA 1:30" in lines[0]


def test_the_time_left_is_unknown_as_long_as_one_command_knows_none():
    assert Seen([COMMAND, {**COMMAND, "eta_seconds": None}]).left is None
    assert Seen([COMMAND, {**COMMAND, "eta_seconds": 7.0}]).left == 90 and Seen().left is None


def test_what_was_not_told_or_told_wrongly_is_left_out(root):
    tell(root)
    assert [command["workers"] for command in under_way(root / "progress")] == [[]], "an older version's file"
    tell(root, "eve-1", workers=[{"run": "x"}])
    assert len(under_way(root / "progress")) == 1
    tell(root, "eve-1", workers=[WORKER])
    assert under_way(root / "progress")[0]["workers"] == [WORKER]


def test_a_worker_is_shown_with_its_host_and_the_time_of_the_levels_that_its_job_has_left(root):
    beat(plant(root, KEY, 1), 0)
    tell(root, workers=[WORKER])
    seen = Watcher(root).look()
    assert seen.workers == [Doing("width=1", 3, 1, 0.5, 0.25, "elsewhere", 15.0)], "half of level 1, and level 2"
    tell(root, workers=[{**WORKER, "name": "", "level_seconds": None, "loss": None}])
    (found,) = Watcher(root).look().workers
    assert (found.name, found.left) == (KEY, None) and found.loss != found.loss


def test_of_two_commands_that_have_a_job_the_one_that_trains_it_is_shown(root):
    plant(root, KEY, 1)
    for trains, waits in (("hal", "eve"), ("eve", "hal")):
        tell(root, f"{trains}-1", host=trains, workers=[WORKER])
        tell(root, f"{waits}-1", host=waits, workers=[{**WORKER, "level": None}])
        assert [(worker.host, worker.level) for worker in Watcher(root).look().workers] == [(trains, 1)]


def test_runs_are_counted_while_they_end_and_also_after_their_command_has(root, monkeypatch):
    monkeypatch.setattr(watching, "AT_ONCE", 0)
    plant(root, KEY, 3)
    plant(root, OTHER, 2)
    file = tell(root)
    watcher = Watcher(root)
    seen = watcher.look()
    assert (seen.done, seen.runs) == (1, 2)
    plant(root, OTHER, 3)
    assert watcher.look().done == 1, "nobody is known to work on it"
    tell(root, workers=[{**WORKER, "run": OTHER}])
    assert watcher.look().done == 2
    (root / "runs" / OTHER / "seed_003" / "level_02.safetensors").unlink()
    watcher = Watcher(root)
    watcher.look()
    plant(root, OTHER, 3)
    file.unlink()
    seen = watcher.look()
    assert (seen.commands, seen.done, seen.runs) == ([], 2, 2)


def test_runs_without_workers_are_counted_in_turn(root, monkeypatch):
    monkeypatch.setattr(watching, "AT_ONCE", 1)
    keys = [f"imp-lenet-digits-w1-{i:08x}" for i in range(3)]
    tell(root, runs=keys)
    watcher = Watcher(root)
    assert watcher.look().done == 0
    for key in keys:
        plant(root, key, 3)
    assert [watcher.look().done for _ in range(4)] == [1, 2, 3, 3]


def test_a_claim_whose_counter_stands_still_is_named_until_it_moves_or_is_gone(root):
    now = 100.0
    folder = plant(root, KEY, 1)
    tell(root)
    watcher = Watcher(root, now=lambda: now)
    beat(folder, 5)
    assert watcher.look().stale == []
    now += PATIENCE
    assert watcher.look().stale == []
    now += 36
    said = f"seed 3 of {KEY}: process 123 on elsewhere has not moved for 40 s"
    assert watcher.look().stale == [said], "it was there before the watch began, and no command tells of it"
    beat(folder, 6)
    assert watcher.look().stale == []
    now += PATIENCE + 1
    assert len(watcher.look().stale) == 1
    (folder / "claim").unlink()
    assert watcher.look().stale == []


def test_only_the_runs_asked_for_are_watched(root):
    for key in (KEY, OTHER):
        beat(plant(root, key, 3), 0)
    tell(root, workers=[WORKER, {**WORKER, "run": OTHER}])
    tell(root, "eve-1", runs=[OTHER], pid=5)
    now = 0.0
    watcher = Watcher(root, frozenset([KEY]), now=lambda: now)
    watcher.look()
    now += 60
    seen = watcher.look()
    assert [command["pid"] for command in seen.commands] == [77] and seen.runs == len(seen.workers) == 1
    assert [KEY in text for text in seen.stale] == [True]


def steps(*acts: Callable[[], object]) -> Callable[[float], None]:
    """Return a wait that does one thing after another instead."""
    left = iter(acts)

    def wait(_: float) -> None:
        next(left)()

    return wait


def test_the_watch_begins_with_the_first_command_and_ends_after_the_last(root):
    out, now = io.StringIO(), [0.0]
    plant(root, KEY, 3)

    def later() -> None:
        now[0] += 6

    def begin() -> None:
        tell(root, runs=[KEY], workers=[WORKER])
        later()

    wait = steps(later, begin, later, lambda: (root / "progress" / "hal-77.json").unlink())
    seen = watch(Watcher(root, now=lambda: now[0]), Console(file=out, width=80), wait)
    assert (seen.done, seen.runs) == (1, 1)
    first, *block, last = out.getvalue().splitlines()
    assert first == "nothing is under way" and last == "nothing is under way any more: 1 of 1 runs done"
    assert [line.split()[0] for line in block] == ["25", "hal", "width=1"], "one at 12 s, and none at 6 s or 18 s"


def test_on_a_terminal_lines_renew_themselves_and_the_last_word_stays(root):
    plant(root, KEY, 3)
    tell(root, runs=[KEY], workers=[WORKER])
    terminal, screens = Terminal(60, 12), []

    def look() -> None:
        screens.append(terminal.text)
        tell(root, runs=[KEY], share=0.5, workers=[WORKER])

    def end() -> None:
        screens.append(terminal.text)
        (root / "progress" / "hal-77.json").unlink()

    watch(Watcher(root), Console(file=terminal.file, highlight=False), steps(look, end))
    assert [len(screen) for screen in screens] == [3, 3]
    assert [screen[0].split("%")[0] for screen in screens] == [" 25 ", " 50 "]
    assert terminal.text == ["nothing is under way any more: 1 of 1 runs done"]
    terminal.close()


def test_the_command_watches_what_is_named_and_ends_with_ctrl_c(ltx: Callable[..., Result], root, monkeypatch):
    plant(root, KEY, 3)
    host, pid = socket.gethostname(), os.getpid()
    file = tell(root, host=host, pid=pid, workers=[WORKER])
    monkeypatch.setattr(watching, "watch", partial(watch, wait=lambda _: file.unlink()))
    ended = ltx("status", "--watch", "aaaa1111")
    assert ended.code == 0 and ended.out.endswith("nothing is under way any more: 1 of 1 runs done\n")
    plant_sweep(root)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    tell(root, host=host, pid=pid, workers=[WORKER])
    monkeypatch.setattr(watching, "watch", partial(watch, wait=interrupted))
    stopped = ltx("status", "--watch", "rates-01234567")
    assert stopped.code == 0 and "0 of 1 runs done, 0 at work" in stopped.out


@pytest.mark.parametrize("word", ["--json", "--columns=width", "method=imp", "sort=age", "failed"])
def test_a_watch_is_of_runs_and_sweeps_alone(word, ltx: Callable[..., Result]):
    refused = ltx("status", "--watch", word)
    assert refused.code == 2 and word.partition("=")[0] in refused.err and "--watch" in refused.err


def test_a_sweep_stands_for_its_runs_in_the_list_too(ltx: Callable[..., Result], root):
    plant(root, KEY, 3)
    plant(root, OTHER, 3)
    plant_sweep(root)
    assert [entry["key"] for entry in json.loads(ltx("status", "rates-01234567", "--json").out)] == [OTHER]


def test_a_look_at_very_many_runs_reads_few_of_them(root, monkeypatch):
    keys = [f"imp-lenet-digits-w1-{i:08x}" for i in range(500)]
    tell(root, runs=keys)
    watcher, read = Watcher(root), []
    watcher.look()
    monkeypatch.setattr(watching, "standing", lambda path: read.append(path) or standing(path))
    watcher.look()
    assert len(read) == watching.AT_ONCE
