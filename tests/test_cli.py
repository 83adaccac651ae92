"""The commands: what they print, what they exit with, and what they write."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from conftest import TINY, levels, tree
from rich.console import Console

from ltx import open_run
from ltx.errors import BadInput
from ltx.report.progress import Progress
from ltx.report.tables import of_scores, table
from ltx.store.rows import Row


def test_a_run_ends_with_a_table_a_plot_and_the_run_directory(ltx, root, pictures):
    result = ltx("run", *TINY)
    assert result.code == 0 and result.err == ""
    (folder,) = (root / "runs").iterdir()
    assert result.folder == folder
    lines = result.out.splitlines()
    head = next(line for line in lines if "density" in line)
    for column in ("level", "kept", "total", "val accuracy", "test accuracy", "early stop"):
        assert column in head
    assert any("100.00 %" in line and "1,035" in line and "[0." in line for line in lines)
    assert any("80.00 %" in line and "828" in line for line in lines)
    (plot,) = (Path(line.removeprefix("plot:").strip()) for line in lines if line.startswith("plot:"))
    assert plot.parent == folder / "plots" and plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "manifest.json", "summary.csv", "plots", "seed_000", "seed_001")
    }
    assert {path.name for path in (folder / "seed_000").iterdir()} == {
        *("records.jsonl", "level_00.safetensors", "level_01.safetensors")
    }
    assert list(Path.cwd().iterdir()) == [], "nothing is written but under the output root"


LARGE = {"level": 1, "density": 0.8, "kept": 1_448_640, "prunable": 1_810_800, "total": 1_810_900, "step": 4200}


def large_rows(stops=(None, 1211, 1222), accuracies=(0.9, 0.93, 0.99)):
    losses = {"train_loss": 0.1, "val_loss": 0.1, "test_loss": 0.1}
    return [
        Row(
            seed,
            **LARGE,
            **losses,
            val_accuracy=0.9 + seed / 1000,
            test_accuracy=accuracy,
            early_stop_step=stop,
            early_stop_test_accuracy=0.9,
        )
        for seed, (stop, accuracy) in enumerate(zip(stops, accuracies, strict=True))
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_table_of_a_run_fits_a_terminal_with_whole_numbers(width, capsys):
    Console(width=width).print(table(large_rows(), "run", width))
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= width and "…" not in said
    (line,) = (line for line in said.splitlines() if "80.00 %" in line)
    accuracy = "0.940 [0.826, 1.000]" if width < 200 else "0.9400 [0.8262, 1.0000]"
    for text in (
        "1,448,640" if width > 60 else "",
        accuracy,
        "1216 (1/3)" if width == 60 else "1216 [1147, 1286] (1/3)",
    ):
        assert text in line
    assert ("val accuracy" in said) == (width >= 100)
    caption = " ".join(said.rpartition("─")[2].split())
    assert ("1,810,900" in line) != ("of 1,810,900 matrix weights in all" in caption)
    for text in ("over 3 seeds: Student's t", "cut at 0 and 1", "(k/n) censored", "kept / 1,810,800 prunable"):
        assert text in caption


def test_the_table_of_a_run_cuts_no_number_where_a_terminal_is_narrow(capsys):
    Console(width=40).print(table(large_rows(), "run", 40))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "80.00 %" in line)
    assert line.split() == ["1", "80.00", "%", "0.940", "[0.826,", "1.000]"]


def test_an_interval_of_accuracies_ends_at_0_and_1_and_one_of_r_squared_only_above():
    assert of_scores([0.97, 1.0, 1.0]).high == 1 and of_scores([0.0, 0.1]).low == 0
    assert of_scores([-0.9, 0.9]).low < -1 and of_scores([-0.9, 0.9]).high == 1


def test_levels_with_unlike_numbers_of_seeds_say_so_in_a_column(capsys):
    more = [replace(row, level=2) for row in large_rows()[:2]]
    Console(width=120).print(table([*large_rows(), *more], "run", 120))
    said = capsys.readouterr().out
    lines = [line.split()[-1] for line in said.splitlines() if "80.00 %" in line]
    assert lines == ["3", "2"] and "over n seeds" in said


def test_a_run_keeps_its_config_and_what_it_ran_on(finished):
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["method"]["levels"] == 1 and config["seeds"] == [0, 1] and config["width"] == 0.05
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["key"] == finished.name and manifest["versions"]["torch"] == version("torch")
    assert {"git", "device", "threads", "data"} <= set(manifest)
    (command,) = manifest["commands"]
    assert command["command"][:2] == ["ltx", "run"] and command["time"].endswith("Z")


def test_a_dry_run_writes_nothing_and_says_what_is_done(ltx, finished, root):
    before = tree(root)
    result = ltx("run", *TINY, "method.levels=3", "--dry-run")
    assert result.code == 0 and tree(root) == before
    assert "done already: 4 of 8 levels over 2 seeds" in result.out
    assert "to train: 80 steps" in result.out and "MB of disk" in result.out
    assert yaml.safe_load(result.out.partition("\nrun: ")[0])["method"]["fraction"] == 0.2
    assert str(finished) in result.out
    assert "to train: 0 steps" in ltx("run", *TINY, "--dry-run").out


def test_a_dry_run_of_a_new_point_makes_no_folder(ltx, tmp_path):
    before = tree(tmp_path)
    result = ltx("run", *TINY, "--dry-run")
    assert result.code == 0 and "done already: 0 of 4" in result.out
    assert ltx("run", *TINY, "-m", "width=.05,.06", "--dry-run").code == 0
    assert tree(tmp_path) == before


@pytest.mark.parametrize("flags", ["--cfg job --resolve", "--resolve -c job", "--cfg=job --resolve"])
def test_cfg_job_prints_the_resolved_config_and_runs_nothing(flags, ltx, tmp_path, root):
    before = tree(tmp_path)
    result = ltx("run", *TINY, *flags.split())
    assert result.code == 0 and tree(tmp_path) == before
    config = yaml.safe_load(result.out)
    assert config["method"]["levels"] == 1 and config["root"] == str(root) and "hydra" not in config


@pytest.mark.parametrize("place", ["before", "after", "between"])
def test_a_multirun_runs_every_point_wherever_its_flag_stands(place, ltx, root):
    words = [*TINY, "seeds=1", "optim.steps=5", "width=.05,.06"]
    words.insert({"before": 0, "after": len(words), "between": 2}[place], "-m")
    result = ltx("run", *words)
    assert result.code == 0, result.err
    assert [path.name.split("-")[3] for path in sorted((root / "runs").iterdir())] == ["w0.05", "w0.06"]
    for path in (root / "runs").iterdir():
        assert len(levels(path)) == 2
    assert list(Path.cwd().iterdir()) == [], "Hydra leaves no files of its own"


def test_a_finished_run_is_opened_as_tables_and_tickets(finished):
    run = open_run(finished)
    assert run.config["width"] == 0.05 and list(run.summary["level"]) == [0, 1, 0, 1]
    assert set(run.records["split"]) == {"train", "val", "test"} and set(run.records["seed"]) == {0, 1}
    ticket = run.ticket(seed=1, level=1)
    kept = sum(int(mask.sum()) for mask in ticket.mask.values())
    assert kept == run.summary.query("seed == 1 and level == 1")["kept"].item() and not ticket.score
    assert all(not ticket.weights[name][~mask].any() for name, mask in ticket.mask.items())
    with pytest.raises(BadInput, match=r"no finished level 7 of seed 0. There are levels of seed 0: 0-"):
        run.ticket(level=7)
    with pytest.raises(BadInput, match="no run's directory"):
        open_run(finished / "plots")


def test_status_shows_every_run(ltx, finished):
    result = ltx("status")
    assert result.code == 0
    (line,) = (line for line in result.out.splitlines() if finished.name[-8:] in line)
    assert "done" in line and "4/4" in line and "2/2" in line
    (entry,) = json.loads(ltx("status", "--json").out)
    assert (entry["key"], entry["state"], entry["levels_done"], entry["levels"]) == (finished.name, "done", 4, 4)
    assert entry["failed"] == [] and 0 <= entry["test_accuracy"] <= 1 and entry["age_seconds"] >= 0


def test_status_of_nothing_says_so(ltx, root):
    assert f"no runs under {root / 'runs'}" in ltx("status").out
    assert json.loads(ltx("status", "--json").out) == []


def test_status_shows_a_sweep_under_way_and_forgets_a_killed_one(ltx, root, finished):
    later = finished.name[:-8] + "ffffffff"
    killed = subprocess.Popen(["true"])
    killed.wait()
    progress = Progress("sweep-x", 100, {finished.name: 0, later: 3}, root / "progress", console=Console(quiet=True))
    gone = root / "progress" / f"{socket.gethostname()}-{killed.pid}.json"
    with progress:
        progress.event(("a", 0), "started", None, lambda level: (0, 50))
        shown = json.loads(progress.file.read_text())
        gone.write_text(json.dumps({**shown, "pid": killed.pid, "title": "killed"}))
        progress.event(("b", 0), "started", None, lambda level: (0, 50))
        progress.published = 0.0
        progress.event(("a", 0), "progress", (0, 25, 0.5), lambda level: (0, 50))
        said = ltx("status").out
        assert "sweep-x: 25%, 0 of 3 jobs done, 2 running, ETA " in said and "killed" not in said
        entries = {entry["key"]: entry for entry in json.loads(ltx("status", "--json").out)}
        assert entries[finished.name]["state"] == "done" and entries[later]["state"] == "waiting"
        assert entries[later]["command"]["share"] == 0.25 and entries[later]["command"]["eta_seconds"] > 0
    assert [path.name for path in (root / "progress").iterdir()] == [gone.name], "its own is removed"
    with Progress("next", 1, {}, root / "progress", console=Console(quiet=True)):
        assert not gone.exists()
    assert not (root / "progress").exists()


def test_status_of_a_thousand_runs_tells_done_failed_and_unfinished(ltx, root):
    """Level files are not opened for it: these are empty."""
    for i in range(1000):
        seed = root / "runs" / f"imp-lenet-digits-w1-{i:08x}" / "seed_000"
        seed.mkdir(parents=True)
        (seed.parent / "manifest.json").write_text('{"seeds": [0], "last_level": 1}')
        (seed.parent / "summary.csv").write_text(f"seed,level,test_accuracy\n0,0,1\n0,1,0.{i:03d}\n")
        for level in range(2 if i % 3 else 1):
            (seed / f"level_{level:02d}.safetensors").touch()
        if i % 6 == 0:
            (seed / "failed.json").write_text('{"kind": "diverged", "reason": "so it was"}')
    entries = {entry["key"]: entry for entry in json.loads(ltx("status", "--json").out)}
    assert len(entries) == 1000
    states = [entries[f"imp-lenet-digits-w1-{i:08x}"]["state"] for i in range(6)]
    assert states == ["failed", "done", "done", "unfinished", "done", "done"]
    assert entries["imp-lenet-digits-w1-00000007"]["test_accuracy"] == 0.007
    table = ltx("status").out
    assert "000003e7" in table and "1 of 1 failed" in table


@pytest.mark.parametrize("by", ["key", "directory"])
def test_show_prints_config_table_and_plots_of_a_run(by, ltx, finished):
    result = ltx("show", finished.name if by == "key" else str(finished))
    assert result.code == 0
    for text in ("fraction: 0.2", "100.00 %", str(finished / "plots" / "levels.png"), f"run:  {finished}"):
        assert text in result.out


def test_show_of_a_run_that_is_nearly_named_names_it(ltx, finished):
    result = ltx("show", finished.name[:-1] + "x")
    assert result.code == 2 and f"did you mean '{finished.name}'" in result.err


def test_list_models_shows_real_sizes_at_a_width(ltx):
    result = ltx("list", "models", "width=4")
    assert result.code == 0
    at = result.out.index("lenet")
    assert "1200-400-10, 562,410 parameters, 560,800 prunable" in result.out[at:]
    assert "64-128-256-10" in result.out and "own" in result.out


def test_list_names_everything_that_can_be_chosen(ltx):
    out = ltx("list").out
    for name in (
        "methods (",
        "imp",
        "dense",
        "models (",
        "lenet",
        "mlp",
        "convnet",
        "data (",
        "digits",
        "optim (",
        "sgd",
    ):
        assert name in out


def test_version_and_help(ltx):
    assert ltx("--version").out.strip() == f"ltx {version('ltx')}"
    for words in (["--help"], ["-h"], ["help"]):
        result = ltx(*words)
        assert result.code == 0 and result.out.startswith("ltx runs experiments") and "ltx run" in result.out


QUICK = """
import contextlib, io, sys
from ltx.cli import main

said = io.StringIO()
with contextlib.redirect_stdout(said):
    for words in (["--help"], ["run", "--help"], ["list"], ["status", ROOT], ["status", "--json", ROOT]):
        assert main(words) == 0, words
    assert "scipy" not in sys.modules
    for words in (["show", KEY, ROOT], ["diff", KEY, KEY, ROOT]):
        assert main(words) == 0, words
assert "digits" in said.getvalue() and KEY in said.getvalue()
print(sorted({"torch", "lightning", "wandb", "matplotlib", "sklearn", "pandas", "hydra"} & set(sys.modules)))
"""


def test_help_list_status_show_and_diff_import_nothing_slow(finished, root):
    code = QUICK.replace("ROOT", repr(f"root={root}")).replace("KEY", repr(finished.name))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
