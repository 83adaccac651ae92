"""The scripts that a person runs by hand do what they say, at a small size."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import soon
from test_imports import ROWS, imports
from test_keys import PINNED, key

REPOSITORY = Path(__file__).resolve().parents[1]


def script(name: str) -> dict[str, Any]:
    """Return the names of a script."""
    return runpy.run_path(str(REPOSITORY / "scripts" / f"{name}.py"))


@pytest.mark.parametrize("path", sorted(path.name for path in (REPOSITORY / "scripts").glob("*.py")))
def test_a_script_says_how_it_is_called(path: str) -> None:
    assert f"python scripts/{path}" in script(path.removesuffix(".py"))["__doc__"]


def test_the_keys_to_paste_are_those_that_are_pinned() -> None:
    lines = "\n".join(map(script("keys")["line"], PINNED))
    assert eval("{" + lines + "}") == {overrides: key(overrides) for overrides in PINNED}
    assert lines in (REPOSITORY / "tests" / "test_keys.py").read_text()


def test_the_drawing_has_every_room_and_no_arrow_upwards(tmp_path: Path) -> None:
    names = script("architecture")
    places, arrows, heights = names["PLACES"], names["arrows"](), names["heights"]()
    assert set(places) == {names["GROUND"], *(room for row in ROWS[1:] for room in row)}
    assert all(heights[other] < heights[room] for room, below in arrows.items() for other in below)
    names["main"](tmp_path / "rooms.png")
    assert (tmp_path / "rooms.png").read_bytes().startswith(b"\x89PNG")


def test_an_arrow_that_is_left_out_follows_from_others() -> None:
    names = script("architecture")
    arrows, room = names["arrows"](), names["room"]

    def reached(name: str) -> set[str]:
        return arrows[name].union(*map(reached, arrows[name]))

    imported = {(room(name), room(other)) for name, (ours, _) in imports().items() if name for other in ours}
    assert all(low in reached(up) for up, low in imported if up != low)


def test_what_the_pages_show_is_made_anew(root: Path, tmp_path: Path) -> None:
    names = script("readme")
    names["main"](small=True, to=tmp_path, words=[f"root={root}"])
    number = re.compile(r"[.\d,%()\[\]/ -]+")  # and what stands between numbers
    for page in names["PAGES"]:
        before, after = (REPOSITORY / page).read_text(), (tmp_path / page).read_text()
        assert after != before
        old, new = ([number.sub("", line) for line in text.splitlines()] for text in (before, after))
        assert [line for line in new if "censored" not in line] == [line for line in old if "censored" not in line]
    for picture in ("imp-width4.png", "figure-imp.png", "sweep.png"):
        assert (tmp_path / "docs" / picture).read_bytes().startswith(b"\x89PNG")


def test_only_the_numbers_of_the_methods_are_replaced() -> None:
    text = "| `imp` | trains | all | .972 at 35 % |\n| `at_init` | s | b | .940 at 23 % (SNIP) |\n"
    assert script("readme")["with_accuracies"](text, {"imp": ".980 at 36 %", "at_init": ".950"}) == (
        "| `imp` | trains | all | .980 at 36 % |\n| `at_init` | s | b | .950 (SNIP) |\n"
    )


def test_workers_are_begun_by_ssh_on_every_host(tmp_path: Path) -> None:
    sweep, called = tmp_path / "sweeps" / "a sweep", tmp_path / "called"
    sweep.mkdir(parents=True)
    for name, body in {
        "bin/ssh": f'echo "$1 $2 $3" >> {called}; bash -c "$4"',
        ".venv/bin/ltx": 'echo "joins: $*"',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    command = [str(REPOSITORY / "scripts" / "work_ssh.sh"), "sweeps/a sweep"]
    subprocess.run([*command, "one", "two"], cwd=tmp_path, env=environment, check=True)
    assert called.read_text() == "-o BatchMode=yes one\n-o BatchMode=yes two\n"
    for host in ("one", "two"):
        soon(lambda log=sweep / f"work-{host}.log": log.exists() and log.read_text() == f"joins: work {sweep}\n")
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode == 1


def test_the_batch_file_joins_the_sweep_it_is_given(tmp_path: Path) -> None:
    script = REPOSITORY / "scripts" / "work.sbatch"
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "ltx").write_text('#!/bin/sh\necho "ltx $*"\n')
    (tmp_path / ".venv" / "bin" / "ltx").chmod(0o755)
    said = subprocess.run(
        ["bash", script, "width", "workers=2"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout == "ltx work width workers=2\n" and "#SBATCH --requeue" in script.read_text()
