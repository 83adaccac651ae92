"""The folder of an export: what it replaces, what is left where an export ends in the middle, and what it refuses."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result, start, tree
from helpers import dying

import ltx.export.folder as folders
from ltx import load_ticket
from ltx.errors import BadInput
from ltx.export.build import Export
from ltx.export.restore import TICKET
from ltx.store.files import host, pack, unpack

Ltx = Callable[..., Result]


@pytest.fixture
def exported(ltx: Ltx, finished: Path) -> Path:
    """The export of a run's first level, which others are to take the place of."""
    assert ltx("export", f"{finished.name}:0:0", "ticket").code == 0
    return Path("ticket")


def test_an_export_replaces_another_only_where_it_is_told(ltx: Ltx, exported: Path, finished: Path) -> None:
    before = tree(exported)
    result = ltx("export", finished.name, str(exported))
    assert result.code == 2 and "overwrite=true replaces it" in result.err and tree(exported) == before
    assert ltx("export", finished.name, str(exported), "overwrite=true").code == 0
    assert load_ticket(exported).level == 1
    assert set(tree(exported)) == {TICKET, "load.py", "README.md"} and os.listdir() == [str(exported)]
    (exported / "notes.txt").write_text("mine")
    result = ltx("export", finished.name, str(exported), "overwrite=true")
    assert result.code == 2 and "notes.txt" in result.err and (exported / "notes.txt").exists()


def test_an_empty_folder_and_a_link_to_a_folder_are_taken(ltx: Ltx, finished: Path) -> None:
    Path("real").mkdir()
    Path("link").symlink_to("real")
    assert ltx("export", finished.name, "link").code == 0
    assert Path("link").is_symlink() and load_ticket("real").key == finished.name


@pytest.mark.parametrize("at", [1, 3])
def test_what_ends_in_the_middle_leaves_the_old_export_and_nothing_else(
    at: int, ltx: Ltx, exported: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(exported)
    monkeypatch.setattr(folders, "commit", dying(folders.commit, at))
    one = ltx("export", finished.name, str(exported), "overwrite=true")
    monkeypatch.setattr(folders, "commit", dying(folders.commit, 1))
    other = ltx("export", finished.name, "other")
    for result in (one, other):
        assert result.code == 3 and re.search("could not be written: killed", result.err), result.err
    assert tree(exported) == before and os.listdir() == [str(exported)]


@pytest.mark.parametrize("at", [1, 3, 4, 6])
def test_an_export_that_cannot_take_its_place_leaves_the_old_one_there(
    at: int, ltx: Ltx, exported: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, replace, moved = tree(exported), os.replace, []

    def stopped(one: Path, other: Path) -> None:
        if {exported.resolve()} & {Path(one).parent, Path(other).parent}:
            moved.append(other)
            if len(moved) == at:
                raise OSError("killed")
        replace(one, other)

    monkeypatch.setattr(os, "replace", stopped)
    assert ltx("export", finished.name, str(exported), "overwrite=true").code == 3
    assert len(moved) == at + at - 1 and tree(exported) == before and os.listdir() == [str(exported)]


def test_an_export_that_is_killed_leaves_nothing_that_looks_finished_and_the_next_one_removes_it(
    exported: Path, finished: Path, ltx: Ltx
) -> None:
    patch = f"""
import os
replace, moves = os.replace, []
def killed(one, other):
    if {str(exported.resolve())!r} in (str(one.parent), str(other.parent)):
        moves.append(other)
        if len(moves) == 4:
            os.kill(os.getpid(), 9)
    replace(one, other)
os.replace = killed
"""
    process = start("export", str(finished), str(exported), "overwrite=true", patch=patch)
    process.communicate()
    assert process.returncode == -9 and any(name.startswith(".") for name in os.listdir(exported))
    with pytest.raises(BadInput, match="is not there"):
        load_ticket(exported)
    result = ltx("export", str(finished), str(exported), "overwrite=true")
    assert result.code == 0, result.err
    assert load_ticket(exported).key == finished.name and set(tree(exported)) == {TICKET, "load.py", "README.md"}


def test_what_a_killed_export_left_beside_a_folder_that_was_not_there_goes_with_the_next_one(
    ltx: Ltx, finished: Path
) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    left, other = (Path(f".ltx-export.{host()}.{pid}.{'0' * 6}") for pid in (process.pid, os.getpid()))
    for folder in (left, other):
        folder.mkdir()
        (folder / TICKET).touch()
    assert ltx("export", finished.name, "ticket").code == 0
    assert not left.exists() and other.exists(), "the other one's process is alive"


def test_a_folder_that_is_there_stays_the_same_one(ltx: Ltx, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("here").mkdir(mode=0o700)
    monkeypatch.chdir("here")
    before = Path.cwd().stat()
    for words in ((), ("overwrite=true",)):
        assert ltx("export", str(finished), ".", *words).code == 0
        assert (os.stat(".").st_ino, os.stat(".").st_mode) == (before.st_ino, before.st_mode)
        assert set(os.listdir()) == {TICKET, "load.py", "README.md"}


@pytest.mark.parametrize("folder", ["file/x", "file/x/y", "n" * 256, "/proc/x"])
def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_measured(
    folder: str, ltx: Ltx, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    monkeypatch.setattr(Export, "of", lambda *given: pytest.fail("it is refused before"))
    result = ltx("export", finished.name, folder)
    assert result.code == 2 and len(result.err.splitlines()) == 1 and os.listdir() == ["file"], result.err


def test_a_long_name_is_taken(ltx: Ltx, finished: Path) -> None:
    assert ltx("export", finished.name, "n" * 255).code == 0


def test_what_would_not_give_the_tickets_logits_is_not_left_behind(
    ltx: Ltx, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = folders.commit

    def other(path: Path, content: bytes) -> object:
        if path.name == TICKET:
            (path.parent.parent / "given").write_bytes(content)
            tensors, meta = unpack(path.parent.parent / "given")
            content = pack({name: t * 2 if name == "whole/out.bias" else t for name, t in tensors.items()}, meta)
        return commit(path, content)

    monkeypatch.setattr(folders, "commit", other)
    result = ltx("export", finished.name, "ticket")
    assert result.code == 3 and "other logits than the ticket" in result.err
    assert os.listdir() == ["given"]
