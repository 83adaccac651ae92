"""The commands of README.md and of the pages in docs/ work, at a small size; a new one is tested by being there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import Result
from standins import write_images

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TEXT = "\n".join(path.read_text() for path in PAGES)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
LINES = [line.partition(" #")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
INLINE = re.findall(r"`((?:ltx|make) [^`<]+)`", TEXT)
COMMANDS = dict.fromkeys(line for line in [*LINES, *INLINE] if line.startswith(("ltx ", "make ")))
NAMED = re.compile(r"\A(?:# @package.*\n)?# ([\w/-]+\.(?:py|yaml))")  # a block that is a file says so at its top
SMALL = {"optim.steps": "4", "seeds": "1", "workers": "0"}


def has(method: str, field: str) -> bool:
    """Tell whether a method of ltx has a field to set."""
    path = REPOSITORY / "conf" / "method" / f"{method}.yaml"
    return path.exists() and field in yaml.safe_load(path.read_text())


def settable(field: str, words: list[str]) -> bool:
    """Tell whether a method of a command takes a field; the default method is IMP, and a control has its trunk's."""
    named = [name for word in words if word.startswith("method=") for name in word.split("=")[1].split(",")]
    trunks = [name for word in words for name in re.findall(r"[{,]method:(\w+)", word)]
    below = trunks if "control" in named else []
    return any(has(name, field) for name in named or ["imp"]) and all(has(name, field) for name in below)


def small(words: list[str]) -> list[str]:
    """Shrink the words of `ltx run`: few steps and examples, one seed, level 1 and a twentieth of each width."""
    fields = {"levels": "1", "examples": "40"}
    sizes = SMALL | {f"?method.{field}": size for field, size in fields.items() if settable(field, words)}
    sparse = any("gem_miner" in word for word in words)  # freezes every 20 steps, and a tenth of each layer stays
    if sparse:
        sizes["optim.steps"] = "42"
    result = []
    for word in words:
        key, equals, value = word.partition("=")
        if key == "width" and not sparse:
            value = ",".join(f"{float(part) / 20:g}" for part in value.split(","))
        if key == "method.rewind":
            value = "2"
        if key not in (*sizes, "method.levels"):
            result.append(re.sub(r"method\.levels:\d+", "method.levels:1", key + equals + value))
    if "data=canvas" in words:
        sizes["data.examples"] = "200"
    widths = [] if any(word.startswith("width=") for word in words) else ["width=.05"]
    return [*result, *widths, *(f"{key}={value}" for key, value in sizes.items())]


def write_data(name: str) -> None:
    """Write a stand-in for what a page names as data.path."""
    if name.startswith("flowers"):
        table = pd.DataFrame({"petal_width": [i / 7 for i in range(60)], "petal_length": [i % 9 for i in range(60)]})
        table["species"] = [["iris", "rose"][i % 2] for i in range(60)]
        table.to_csv(name, index=False) if name.endswith("csv") else table.to_parquet(name)
    elif name == "photographs":
        write_images(Path(name), "images", 40, 10, "folder")
    else:
        write_images(Path(name), name, 60, 20)


def swept(ltx: Callable[..., Result], root: Path) -> str:
    """Run a small sweep and return its folder's name."""
    assert ltx("run", "-m", "width=.05,.1", "method=dense", "optim.steps=2", "seeds=1").code == 0
    (folder,) = (root / "sweeps").iterdir()
    return folder.name


class NoCluster:
    """Takes workers and starts none; test_slurm submits to a stand-in, and test_clusters to real clusters."""

    @staticmethod
    def check(request: dict[str, Any], root: Path) -> None:
        assert request["workers"] > 0

    @staticmethod
    def submit(request: dict[str, Any], place: Any, count: int, cores: int) -> str:
        return "7"

    @staticmethod
    def alive(place: Any) -> list[str]:
        return []

    @staticmethod
    def ends_with_this_process() -> bool:
        return False


def test_the_pages_have_commands() -> None:
    assert sum(line.startswith("ltx run") for line in COMMANDS) >= 5
    assert sum(line.startswith("make") for line in COMMANDS) >= 3


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("ltx ")])
def test_a_command_of_the_pages_works(
    line: str, ltx: Callable[..., Result], finished: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, text in BLOCKS:
        name = NAMED.search(text)
        if kind in ("python", "yaml") and name:
            Path(name[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(name[1]).write_text(text)
            sys.modules.pop(Path(name[1]).stem, None)  # another test may have a module of the same name
    command, *words = shlex.split(line)[1:]
    for word in words:
        if word.startswith("data.path="):
            write_data(word.removeprefix("data.path="))
    words = [finished.name if word == "RUN" else swept(ltx, root) if word == "SWEEP" else word for word in words]
    words = [word.replace("outputs/runs/RUN", str(finished)) for word in words]  # a file of a run's
    run = words if "--dry-run" in words else small(words)
    sizes = {"run": run, "figure": [*words, "optim.steps=4", "seeds=2", "method.levels=2", "width=.05", "workers=0"]}
    if "--watch" in words:  # it goes on until somebody has seen enough
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    if any(word.startswith("hydra/launcher=") for word in words):
        monkeypatch.setattr("ltx.cli.elsewhere.engine_of", lambda kind: NoCluster)
    result = ltx(command, *sizes.get(command, words))
    assert result.code == 0, result.out + result.err


def test_the_python_of_the_pages_works(ltx: Callable[..., Result], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, of_sweeps = [text for kind, text in BLOCKS if kind == "python" and not NAMED.search(text)]
    call = re.search(r"ltx\.run\((.*?)\)", code)
    assert call
    words = small(re.findall(r'"([^"]*)"', call[1]))
    names: dict[str, Any] = {}
    exec(code.replace(call[0], f"ltx.run(*{words})").replace("level=7", "level=1"), names)
    row = names["run"].summary.query("seed == 0 and level == 1")
    assert names["accuracy"] == pytest.approx(row["test_accuracy"].item(), abs=1e-6)
    monkeypatch.setenv("LTX_OUTPUT", str(root))
    exec(of_sweeps.replace("width", swept(ltx, root)), names)
    assert set(names["sweep"].table["width"]) == {0.05, 0.1} and len(names["sweep"].runs) == 2


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_a_target_of_the_pages_exists(line: str) -> None:
    subprocess.run([*shlex.split(line), "--dry-run"], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_pictures_and_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link
