"""What one sees of runs and sweeps that are there: `ltx status`, `ltx show SWEEP`, `ltx diff`, `ltx.open_sweep`."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Result, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from ltx import BadInput, open_sweep
from ltx.report.grid import LongGrid, grid
from ltx.report.tables import sweep_table
from ltx.runs.manifest import write_config
from ltx.store.files import pack, yaml_text
from ltx.store.folders import RunFolder
from ltx.store.rows import Row
from ltx.store.seeds import FORMAT
from ltx.store.states import standing
from ltx.store.sweeps import Record, SweepFolder, SweepPoint, find_sweep

Ltx = Callable[..., Result]
CONFIG: dict[str, Any] = {
    "data": {"name": "digits", "split_seed": 0},
    "model": {"name": "lenet", "hidden": [300, 100], "bias": True},
    "method": {"name": "imp", "levels": 1, "fraction": 0.2, "rewind": 0, "exclude": ["output"]},
    "optim": {"name": "adam", "lr": 0.0012, "steps": 420},
    "width": 1.0,
    "seeds": [0, 1],
    "trunk": None,
    "root": "outputs",
    "workers": 1,
}


def row(seed: int, level: int, accuracy: float, kept: int | None = None) -> Row:
    """Return a row of a run of 1000 weights, of which 900 are prunable, that prunes a fifth at each level."""
    kept = round(900 * 0.8**level) if kept is None else kept
    return Row(seed, level, kept / 900, kept, 900, 1000, 420, 0.1, 0.2, accuracy - 0.01, 0.2, accuracy, 300, accuracy)


def plant(root: Path, key: str, rows: list[Row], age: float = 0, seeds: int = 2, last: int = 1, **values: Any) -> Path:
    """Write a run's folder with level files that hold rows and no weights; `values` are set in its config."""
    config = copy.deepcopy(CONFIG)
    for name, value in values.items():
        group, _, field = name.partition("__")
        if field:
            config[group][field] = value
        else:
            config[group] = value
    folder = root / "runs" / key
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml_text(config))
    asked = [{"seeds": [*range(seeds)], "last_level": last}]
    manifest = {"seeds": [*range(seeds)], "last_level": last, "asked": asked}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for found in rows:
        meta = {"format": FORMAT, "key": key, "trunk": None, "seed": found.seed, "level": found.level}
        meta |= {"row": found.columns(), "layers": {}, "records": []}
        path = RunFolder(folder).seed(found.seed).level_path(found.level)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pack({"end/weight": torch.zeros(1)}, meta))
    RunFolder(folder).write_summary()
    then = time.time() - age
    for name in ("manifest.json", "summary.csv"):
        os.utime(folder / name, (then, then))
    return folder


def both(accuracy: float, levels: int = 2) -> list[Row]:
    """Return the rows of two seeds."""
    return [row(seed, level, accuracy + seed / 100) for seed in (0, 1) for level in range(levels)]


def plain(text: str) -> str:
    """Return a text with single spaces, so that where a cell was folded does not matter."""
    return " ".join(text.split())


@pytest.fixture
def runs(root: Path) -> Path:
    """Plant four runs: two of imp with other learning rates, an unfinished one, and a failed one of another method."""
    plant(root, "imp-lenet-digits-w1-aaaa1111", both(0.95), 300)
    plant(root, "imp-lenet-digits-w1-bbbb2222", both(0.97), 200, optim__lr=0.003)
    plant(root, "imp-lenet-digits-w4-cccc3333", both(0.96)[:3], 100, width=4.0)
    failed = plant(
        root, "edge_popup-lenet-digits-w1-dddd4444", [], 7200, method={"name": "edge_popup"}, model__bias=False
    )
    (failed / "seed_001").mkdir()
    (failed / "seed_001" / "failed.json").write_text('{"reason": "it diverged"}')
    return root


CELLS = st.text(st.sampled_from("ab 日,.-_=0[]:*"), max_size=30) | st.just("[bold]x") | st.just("two  words ")
LINES = st.fixed_dictionaries(dict.fromkeys(("run", "what", "state", "age"), CELLS))


@settings(deadline=None, max_examples=80)
@given(st.lists(LINES, min_size=1, max_size=8), st.integers(10, 100), st.booleans())
def test_a_table_of_many_lines_is_what_rich_prints(lines, width, terminal):
    def printed(table: Any) -> str:
        console = Console(file=io.StringIO(), width=width, force_terminal=terminal, highlight=False, emoji=False)
        console.print(table)
        return console.file.getvalue()

    words = ("what", "state")
    assert printed(LongGrid(lines, words)) == printed(grid(lines, words))


def keys(result: Result) -> list[str]:
    """Return the runs that `status --json` lists, by the first letter of their hash."""
    return [entry["key"][-8] for entry in json.loads(result.out)]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_status_fits_a_terminal_and_says_by_what_runs_differ(width, ltx, runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    said = ltx("status").out
    assert max(map(len, said.splitlines())) <= width and "…" not in said
    lines = {line.split()[0]: line for line in said.splitlines() if re.match(r" *[a-d]{4}\d{4} ", line)}
    assert list(lines) == ["dddd4444", "aaaa1111", "bbbb2222", "cccc3333"], "the newest last"
    for text in ("0.9750", "4/4", "3 min", "lr=0.003") if width == 120 else ("0.9750", "4/4"):
        assert text in lines["bbbb2222"]
    for text in ("lr=0.0012", "lr=0.003", "width=4", "1 of 2 failed", "unfinished"):
        assert text in plain(said) or width == 60
    assert "bias" not in said, "what a method's recipe sets is no difference within the method"
    assert "levels=" not in said and "workers" not in said
    assert ("seeds" in said) == (width > 60), "what there is no room for is left out whole"


def test_columns_filters_and_orders_of_status(ltx, runs):
    assert keys(ltx("status", "method=imp", "--json")) == ["a", "b", "c"]
    assert keys(ltx("status", "optim.lr=3e-3", "--json")) == ["b"]
    assert keys(ltx("status", "width=4,7", "--json")) == keys(ltx("status", "unfinished", "--json")) == ["c"]
    assert keys(ltx("status", "failed", "done", "--json")) == ["d", "a", "b"]
    assert keys(ltx("status", "sort=accuracy", "--json")) == ["d", "a", "c", "b"]
    assert keys(ltx("status", "done", "sort=optim.lr", "--json")) == ["a", "b"]
    assert "no runs under" in ltx("status", "width=9").out
    head, _, *lines = [
        line.split() for line in ltx("status", "method=imp", "--columns=width,optim.lr").out.splitlines()[1:6]
    ]
    assert head[:3] == ["run", "width", "optim.lr"] and [line[1:3] for line in lines] == [
        ["1", "0.0012"],
        ["1", "0.003"],
        ["4", "0.0012"],
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "optim.rl=1"], "did you mean 'optim.lr'?"),
        (["status", "--columns=widht"], "did you mean 'width'?"),
        (["status", "--columns"], "needs a value"),
        (["status", "sort=acuracy"], "did you mean 'accuracy'?"),
        (["status", "faild"], "did you mean 'failed'?"),
        (["status", "aaaa1112"], "did you mean 'imp-lenet-digits-w1-aaaa1111'?"),
        (["show", "imp-lenet"], "can mean 3 runs"),
        (["diff", "aaaa1111", "zzzz"], "No run is named zzzz"),
        (["diff", "aaaa1111"], "takes two runs"),
    ],
)
def test_what_nobody_has_is_answered_by_the_nearest_and_not_by_all(words, said, ltx, runs):
    before = tree(runs)
    result = ltx(*words)
    assert result.code == 2 and said in result.err and result.out == ""
    assert len(result.err.splitlines()) == 1 and result.err.count("edge_popup-") == 0
    assert tree(runs) == before


@pytest.mark.parametrize("name", ["bbbb2222", "bbbb", "imp-lenet-digits-w1-b"])
def test_a_part_of_a_key_that_one_run_has_names_it(name, ltx, runs):
    assert f"run:  {runs / 'runs' / 'imp-lenet-digits-w1-bbbb2222'}" in ltx("show", name).out


def test_a_config_that_is_damaged_leaves_its_run_in_the_list(ltx, runs):
    (runs / "runs" / "imp-lenet-digits-w1-bbbb2222" / "config.yaml").write_text("- [")
    assert "imp-lenet-digits-w1" in ltx("status").out and len(keys(ltx("status", "--json"))) == 4


def test_runs_of_one_method_are_told_apart_by_a_trunks_values_only_where_these_are_not_their_own(ltx, root):
    control = {"name": "control", "kind": "reinit"}
    for letter, fraction in (("a", 0.2), ("b", 0.5)):
        trunk = copy.deepcopy(CONFIG) | {"method": CONFIG["method"] | {"fraction": fraction}}
        trunk["optim"] = {**trunk["optim"], "lr": fraction}
        values = {"method": control, "trunk": trunk, "optim__lr": fraction}
        plant(root, f"control-lenet-digits-w1-{letter * 8}", [], **values)
    differs = [entry["differs"] for entry in json.loads(ltx("status", "--json").out)]
    assert differs == [{"optim.lr": f, "trunk.method.fraction": f} for f in (0.2, 0.5)]


def asked_of(run: Path, seeds: list[int], last: int, root: Path) -> None:
    """Write config and manifest as a command that asks for some seeds and levels does, and the levels it trains."""
    from helpers import spec

    asked = spec("method=imp", f"method.levels={last}", f"seeds={seeds}".replace(" ", ""), f"root={root}")
    write_config(asked, RunFolder(run), ["ltx", "run"])
    for seed in seeds:
        for level in range(last + 1):
            path = RunFolder(run).seed(seed).level_path(level)
            path.parent.mkdir(exist_ok=True)
            path.touch()


def test_what_was_asked_and_is_complete_is_done_though_other_seeds_have_more_levels(tmp_path):
    run = tmp_path / "runs" / "imp-x"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "manifest", unverified(RunFolder.manifest))
        asked_of(run, [0, 1, 2, 3, 4], 1, tmp_path)
        asked_of(run, [0, 1, 2], 5, tmp_path)
    told = json.loads((run / "manifest.json").read_text())
    assert (told["seeds"], told["last_level"]) == ([0, 1, 2, 3, 4], 5)
    assert told["asked"] == [{"seeds": [3, 4], "last_level": 1}, {"seeds": [0, 1, 2], "last_level": 5}]
    assert standing(run).state == "done" and len(standing(run).done()) == 5
    RunFolder(run).seed(1).level_path(5).unlink()
    assert standing(run).state == "unfinished" and len(standing(run).done()) == 4
    (run / "manifest.json").write_text(json.dumps({**told, "asked": [{"seeds": [10**30, "a"], "last_level": 2}, 7]}))
    assert standing(run).asked == dict.fromkeys(range(5), 5), "a manifest that does not say it asks for all"


def unverified(manifest: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Let a manifest go by the names of files, which are empty here."""
    return lambda folder, verified=False: manifest(folder)


@pytest.fixture
def sweep(runs: Path) -> SweepFolder:
    """Write the record of an unfinished sweep over the learning rate, one point of it not begun."""
    points = [
        SweepPoint("imp-lenet-digits-w1-aaaa1111", {"method": "imp", "width": 1.0, "optim.lr": "1.2e-3"}, [0, 1], 1),
        SweepPoint("imp-lenet-digits-w1-bbbb2222", {"method": "imp", "width": 1.0, "optim.lr": "3e-3"}, [0], 0),
        SweepPoint("imp-lenet-digits-w1-eeee5555", {"method": "imp", "width": 1.0, "optim.lr": "5e-3"}, [0], 0),
    ]
    folder = SweepFolder(runs / "sweeps" / "rates-01234567")
    folder.begin(Record("rates", points, ["ltx", "run", "experiment=rates"], "2026-01-01T00:00:00Z"))
    return folder


@pytest.mark.parametrize("by", ["name", "folder", "path"])
def test_show_of_an_unfinished_sweep_prints_its_table_from_its_runs(by, ltx, sweep):
    (sweep.path / "table.csv").write_text("stale")
    words = {"name": "rates", "folder": "rates-01234567", "path": str(sweep.path)}
    result = ltx("show", words[by])
    assert result.code == 0, result.err
    lines = {line.split()[2]: line.split()[3:] for line in result.out.splitlines() if line.strip().startswith("imp")}
    assert lines["1.2e-3"] == ["1", "80.00", "%", "720", "1,000", "0.9550", "[0.8915,", "1.0000]", "2", "done"]
    assert lines["3e-3"] == ["0", "100.00", "%", "900", "1,000", "0.9700", "1", "done"], "as much as the sweep asks"
    assert lines["5e-3"] == ["-", "-", "-", "-", "-", "0", "unfinished"]
    assert "2 of 3 points done" in result.out and "ltx run experiment=rates" in result.out
    assert f"table: {sweep.path.resolve() / 'table.csv'}" in result.out


def test_status_lists_sweeps_beneath_the_runs(ltx, sweep):
    said = plain(ltx("status").out)
    assert "rates-01234567 optim.lr=1.2e-3, 3e-3, 5e-3 2/3" in said
    assert "rates" not in ltx("status", "failed").out
    listed = {entry["key"][-8:]: entry["sweeps"] for entry in json.loads(ltx("status", "--json").out)}
    assert listed["aaaa1111"] == ["rates-01234567"] and listed["cccc3333"] == []


def test_a_sweep_is_opened_as_tables_and_runs(sweep, monkeypatch):
    monkeypatch.setenv("LTX_OUTPUT", str(sweep.root))
    for found in (open_sweep("rates"), open_sweep("rates-01234567", root=sweep.root), open_sweep(sweep.path)):
        assert list(found.table.columns[:6]) == ["run", "method", "width", "optim.lr", "seed", "level"]
        assert [*zip(found.table["optim.lr"], found.table["seed"], found.table["level"], strict=True)] == [
            *(("1.2e-3", seed, level) for seed in (0, 1) for level in (0, 1)),
            ("3e-3", 0, 0),
        ]
        assert list(found.points["state"]) == ["done", "done", "unfinished"]
        assert [run.path.name[-8:] for run in found.runs] == ["aaaa1111", "bbbb2222"]
    with pytest.raises(BadInput, match="did you mean 'rates'"):
        open_sweep("ratse")


def test_the_name_of_a_sweep_means_the_newest_and_the_older_one_stays(sweep, capsys):
    newer = SweepFolder(sweep.path.with_name("rates-89abcdef"))
    newer.begin(sweep.record())
    link = sweep.path.with_name("rates")
    assert os.readlink(link) == "rates-89abcdef" and sweep.record().points
    found = find_sweep("rates", sweep.root)
    assert found is not None and found.path.name == "rates-89abcdef"
    link.unlink()
    link.mkdir()
    (link / "table.csv").write_text("of an earlier version")
    sweep.begin(sweep.record())
    assert (link / "table.csv").read_text() == "of an earlier version"
    assert "stays as it is; this sweep is in rates-01234567" in capsys.readouterr().err
    found = find_sweep("rates", sweep.root)
    assert found is not None and found.path == sweep.path


def test_a_file_system_without_links_gets_a_notice(sweep, monkeypatch, capsys):
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    sweep.path.with_name("rates").unlink()
    monkeypatch.setattr(os, "symlink", refused)
    sweep.begin(sweep.record())
    assert "cannot be a link (Operation not permitted)" in capsys.readouterr().err
    assert find_sweep("rates", sweep.root) == sweep


@pytest.mark.parametrize("content", ["[]", "{", '{"points": [3, {"run": "../x"}, {"run": "a", "seeds": "b"}]}', "\x1b"])
def test_a_damaged_record_of_a_sweep_ends_no_command(content, ltx, sweep):
    sweep.record_path.write_text(content)
    assert ltx("status").code == ltx("show", "rates-01234567").code == 0


def test_a_record_of_an_earlier_version_names_its_runs_alone(ltx, sweep):
    sweep.record_path.write_text('{"runs": ["imp-lenet-digits-w1-aaaa1111"]}')
    assert "1 of 1 points done" in ltx("show", "rates-01234567").out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_of_a_sweep_fits_a_terminal_with_whole_numbers(width, capsys):
    from rich.console import Console

    labels = [
        {"method": "edge_popup", "width": 0.25, "trunk": "{method:imp,method.levels:14,method.fraction:.5}"},
        {"method": "imp", "width": 16.0, "trunk": None},
    ]
    big = {"kept": 1_448_640, "prunable": 1_810_800, "total": 1_810_900, "density": 0.8}
    rows = [[Row(**{**vars(row(seed, level, 0.9)), **big}) for seed in (0, 1)] for level in (3, 4)]
    Console(width=width).print(sweep_table(labels, rows, ["done", "1 of 2 failed"], width))
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= width and "…" not in said
    for text in ("0.900 [0.900, 0.900]" if width < 120 else "0.9000 [0.9000, 0.9000]", "80.00 %", "0.25"):
        assert text in said
    text = plain(said)
    assert "density = kept / prunable" in text and "over 2 seeds: Student's t" in text and "1,810,900" in text


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_the_same_on_every_line_stands_below_where_there_is_no_room(width, capsys):
    from rich.console import Console

    labels = [{"method": "imp", "width": 0.25, "optim.lr": lr, "method.rewind": 10} for lr in (0.0012, 0.003)]
    Console(width=width).print(sweep_table(labels, [both(0.9), both(0.95)], ["done", "done"], width))
    said = plain(capsys.readouterr().out)
    assert ("state done; at the last level" in said) == (width == 80)
    assert " total " in said and "1,000 0.905 [" in said.replace("0.9050", "0.905")


def test_diff_shows_the_keys_that_differ_and_the_levels_that_keep_as_much(ltx, runs):
    a, b = "imp-lenet-digits-w1-aaaa1111", "imp-lenet-digits-w1-bbbb2222"
    said = ltx("diff", "aaaa1111", "bbbb2222").out
    assert [line.split() for line in said.splitlines() if "optim" in line] == [["optim.lr", "0.0012", "0.003"]]
    assert "bias" not in said and "root" not in said
    found = json.loads(ltx("diff", a, b, "--json").out)
    assert (found["a"], found["b"], found["config"]) == (a, b, {"optim.lr": [0.0012, 0.003]})
    assert [level["a"]["level"] for level in found["levels"]] == [0, 1]
    first = found["levels"][0]
    assert first["a"]["kept"] == 900 and first["a"]["test_accuracy"]["mean"] == pytest.approx(0.955)
    assert first["difference"] == pytest.approx({"mean": -0.02, "low": -0.02, "high": -0.02, "n": 2})
    lines = [plain(line) for line in said.splitlines() if line.strip().startswith("A - B")]
    assert lines == ["A - B -0.0200 [-0.0200, -0.0200] 2"] * 2


def test_diff_pairs_by_seed_and_a_search_with_the_level_of_its_size(ltx, runs):
    """The search keeps 576 of 900 prunable weights, as level 2 of pruning does; one seed is in both."""
    plant(runs, "imp-lenet-digits-w1-eeee5555", both(0.9, levels=4))
    plant(runs, "edge_popup-lenet-digits-w1-ffff6666", [row(1, 0, 0.8, 576), row(2, 0, 0.1, 576)])
    (level,) = json.loads(ltx("diff", "eeee", "ffff", "--json").out)["levels"]
    assert (level["a"]["level"], level["b"]["level"]) == (2, 0)
    assert level["difference"] == {"mean": pytest.approx(0.11), "low": None, "high": None, "n": 1}
    plant(runs, "edge_popup-lenet-digits-w1-abcd0000", [row(0, 0, 0.8, 90)])
    assert "no level of A keeps about as many weights" in ltx("diff", "eeee", "abcd").out


def test_diff_of_a_run_with_itself_says_so_and_imports_no_code_that_configs_name(ltx, runs, monkeypatch):
    assert "the same run" in ltx("diff", "aaaa", "aaaa").out
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("evil_method.py").write_text("raise SystemExit('executed')")
    plant(runs, "M-lenet-digits-w1-99999999", [], method={"name": "evil_method:M"})
    said = ltx("diff", "aaaa", "9999")
    assert said.code == 0 and "evil_method:M" in said.out


def test_a_sweep_is_recorded_before_it_trains_and_other_values_are_another_sweep(ltx, root, tmp_path, monkeypatch):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    text = yaml_text({"optim": {"steps": 2}, "seeds": 1, "hydra": {"mode": "MULTIRUN"}})
    (folder / "pair.yaml").write_text("# @package _global_\n" + text + "  sweeper: {params: {method: dense}}\n")
    seen: list[Record] = []

    def interrupted(*_: object) -> None:
        seen.append(SweepFolder(root / "sweeps" / "pair").record())
        raise KeyboardInterrupt

    words = ("run", f"--config-dir={folder.parent}", "experiment=pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltx.launch.local.run", interrupted)
        assert ltx(*words, "width=.05,.06").code == 130
    (record,) = seen
    assert [point.label["width"] for point in record.points] == [0.05, 0.06] and record.ended == ""
    assert record.points[0].asked == {0: 0} and record.command[:2] == ["ltx", "run"]
    assert yaml.safe_load(record.time) is not None
    first = os.readlink(root / "sweeps" / "pair")
    assert ltx(*words, "width=.05,.06", "seeds=2").code == 0
    assert os.readlink(root / "sweeps" / "pair") == first, "more seeds extend a sweep"
    table = (root / "sweeps" / first / "table.csv").read_bytes()
    assert SweepFolder(root / "sweeps" / first).record().ended != ""
    assert ltx(*words, "width=.05,.07").code == 0
    assert os.readlink(root / "sweeps" / "pair") != first
    assert (root / "sweeps" / first / "table.csv").read_bytes() == table
