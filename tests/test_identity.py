"""A level file knows whose it is and carries its records; what killed writers left is removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Result, call, levels, only, results

import ltx.runs.levels as levels_module
from ltx import open_run
from ltx.store.files import Damaged, commit, content, host, pack, tidy, unpack
from ltx.store.folders import RunFolder

Ltx = Callable[..., Result]


def misplace(kind: str, run: Path, other: Path) -> Path:
    """Put a whole level file where another belongs, and return that place."""
    place = run / "seed_000" / "level_01.safetensors"
    source = {
        "another level": run / "seed_000" / "level_00.safetensors",
        "another seed": run / "seed_001" / "level_01.safetensors",
        "another run": other / "seed_000" / "level_01.safetensors",
    }[kind]
    shutil.copyfile(source, place)
    return place


@pytest.mark.parametrize("kind", ["another level", "another seed", "another run"])
def test_a_level_file_in_anothers_place_is_no_row_and_is_set_aside(
    kind: str, ltx: Ltx, finished: Path, tmp_path: Path
) -> None:
    expected, summary = results(finished), (finished / "summary.csv").read_bytes()
    assert call("run", *TINY, "optim.lr=1e-3", root=tmp_path / "other") == 0
    place = misplace(kind, finished, only(tmp_path / "other"))
    assert [(row.seed, row.level) for row in RunFolder(finished).rows()] == [(0, 0), (1, 0), (1, 1)]
    shown = ltx("show", finished.name)
    assert shown.code == 0 and f"{place} belongs elsewhere" in shown.err
    again = ltx("run", *TINY)
    assert again.code == 0 and "belongs elsewhere" in again.err and "set aside" in again.err
    found = {name: value for name, value in results(finished).items() if ".damaged-" not in name}
    assert found == expected and (finished / "summary.csv").read_bytes() == summary


@pytest.mark.parametrize("changed", [{"key": "imp-other"}, {"seed": 1}, {"trunk": "imp-x"}, {"format": 1}])
def test_a_checkpoint_of_another_run_or_seed_is_set_aside(changed: dict, ltx: Ltx, finished: Path) -> None:
    before = levels(finished)
    place = finished / "seed_000" / "level_01.safetensors"
    tensors, meta = unpack(place)
    place.unlink()
    (place.parent / "partial.safetensors").write_bytes(pack(tensors, {**meta, **changed}))
    result = ltx("run", *TINY)
    assert result.code == 0 and "partial.safetensors belongs elsewhere" in result.err
    assert {name: value for name, value in levels(finished).items() if "partial" not in name} == before


def test_strays_are_no_rows_and_are_named(ltx: Ltx, finished: Path) -> None:
    rows = RunFolder(finished).rows()
    shutil.copyfile(finished / "seed_000/level_00.safetensors", finished / "seed_000/level_copy.safetensors")
    shutil.copytree(finished / "seed_000", finished / "seed_000.bak")
    shutil.copytree(finished / "seed_000", finished / "seed_7")
    assert RunFolder(finished).rows() == rows
    result = ltx("run", *TINY)
    for name in ("seed_000/level_copy.safetensors", "seed_000.bak", "seed_7"):
        assert f"{finished / name} is no level of this run" in result.err
    assert result.code == 0 and RunFolder(finished).rows() == rows


@pytest.mark.parametrize("damage", ["torn", "emptied", "lost", "of another seed"])
def test_the_records_of_finished_levels_are_rebuilt_from_their_files(damage: str, ltx: Ltx, finished: Path) -> None:
    path = finished / "seed_000" / "records.jsonl"
    expected = results(finished)
    lines = path.read_bytes()
    if damage == "lost":
        path.unlink()
    elif damage == "of another seed":
        shutil.copyfile(finished / "seed_001" / "records.jsonl", path)
    else:
        path.write_bytes(lines[: len(lines) // 2] if damage == "torn" else b"")
    assert RunFolder(finished).seed(0).records()[0]["loss"] == json.loads(lines.splitlines()[0])["loss"]
    result = ltx("run", *TINY)
    assert result.code == 0 and "records of finished levels; rebuilt" in result.err
    written = [{**json.loads(line), "seconds": None} for line in path.read_text().splitlines()]
    assert written == expected["seed_000"] == results(finished)["seed_000"]


def test_a_damaged_manifest_makes_a_run_forget_neither_seeds_nor_levels(ltx: Ltx, finished: Path) -> None:
    (finished / "manifest.json").write_text("[]")
    assert ltx("run", *TINY, "seeds=1", "method.levels=0").code == 0
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["seeds"] == [0, 1] and manifest["last_level"] == 1
    (entry,) = json.loads(ltx("status", "--json").out)
    assert entry["levels"] == entry["levels_done"] == 4


@pytest.mark.parametrize("damage", ["torn", "not ours"])
def test_a_picture_that_is_damaged_or_not_ours_is_drawn_again_and_a_whole_one_is_left(damage, ltx, finished):
    path = finished / "plots" / "levels.png"
    whole = path.read_bytes()
    foreign = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(whole[:-20] if damage == "torn" else foreign)
    assert ltx("run", *TINY).code == 0
    assert path.read_bytes() == whole
    written = path.stat().st_mtime_ns
    assert ltx("run", *TINY).code == 0 and path.stat().st_mtime_ns == written


def test_temporary_files_of_dead_writers_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    dead, stay = f".level.{host()}.4194303.abcdef", {f".level.{host()}.{os.getpid()}.abcdef", ".level.x.1.abcdef", ".a"}
    for name in (dead, *stay):
        (folder / name).write_bytes(b"")
    tidy(folder)
    assert {path.name for path in folder.iterdir()} == stay


def test_the_claim_of_one_that_died_taking_a_lock_over_is_removed_by_the_next_command(ltx: Ltx, finished: Path) -> None:
    old, new = finished / ".lock.0123456789abcdef", finished / ".lock.fedcba9876543210"
    for claim in (old, new):
        claim.write_bytes(b"")
    os.utime(old, (0, 0))
    assert ltx("run", *TINY).code == 0
    assert not old.exists() and new.exists()


def test_a_pipe_in_a_files_place_is_no_file_and_nobody_waits_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Damaged, match="not a regular file"):
        content(tmp_path / "pipe")
    assert content(tmp_path / "nothing") is None


def test_a_folder_in_a_files_place_is_set_aside_with_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").write_text("kept")
    assert commit(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert next(tmp_path.glob("file.damaged-*/inside")).read_text() == "kept"


@pytest.mark.parametrize("name", ["seed_0000", "seed_000/level_001.safetensors"])
def test_a_name_that_is_not_quite_a_seeds_or_a_levels_counts_nothing(name: str, ltx: Ltx, finished: Path) -> None:
    before, summary = RunFolder(finished).rows(), (finished / "summary.csv").read_bytes()
    if name.endswith("safetensors"):
        shutil.copyfile(finished / "seed_000" / "level_01.safetensors", finished / name)
    else:
        (finished / name).mkdir()
    assert RunFolder(finished).rows() == before
    result = ltx("run", *TINY)
    assert result.code == 0 and f"{name} is no level" in result.err
    assert (finished / "summary.csv").read_bytes() == summary
    (entry,) = json.loads(ltx("status", "--json").out)
    assert (entry["levels_done"], entry["levels"], entry["seeds"]) == (4, 4, 2)


def test_a_checkpoint_and_a_level_file_in_each_others_place_are_set_aside(
    ltx: Ltx, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*TINY, "seeds=1", "trainer.checkpoint_seconds=0", "trainer.chunk=3")
    kept: list[bytes] = []
    original = levels_module.commit

    def keeping(path: Path, content: bytes, **options: bool) -> bool:
        if path.name == "partial.safetensors":
            kept.append(content)
        return original(path, content, **options)

    monkeypatch.setattr(levels_module, "commit", keeping)
    assert ltx("run", *words).code == 0
    folder, expected = only(root), results(only(root))
    (folder / "seed_000" / "level_01.safetensors").rename(folder / "seed_000" / "partial.safetensors")
    (folder / "seed_000" / "level_00.safetensors").write_bytes(kept[0])
    assert ltx("show", folder.name).code == 0
    again = ltx("run", *words)
    assert again.code == 0, again.err
    assert "is no finished level" in again.err and "its layout is None" in again.err
    assert {k: v for k, v in results(folder).items() if ".damaged-" not in k} == expected


def test_a_record_of_an_endless_level_is_no_record(ltx: Ltx, finished: Path) -> None:
    before = results(finished)
    with open(finished / "seed_000" / "records.jsonl", "a") as file:
        file.write('{"level": Infinity, "step": 1, "split": "val", "loss": 0, "accuracy": 0, "seconds": 0}\n')
        file.write('{"level": 0, "step": 1e999, "split": "val", "loss": 0, "accuracy": 0, "seconds": 0}\n')
    assert ltx("run", *TINY).code == 0
    assert results(finished) == before


def test_what_a_copied_file_or_a_damaged_manifest_says_of_seeds_is_not_believed(ltx: Ltx, finished: Path) -> None:
    shutil.copyfile(finished / "seed_000" / "level_01.safetensors", finished / "seed_000" / "level_99.safetensors")
    shutil.copytree(finished / "seed_000", finished / "seed_007")
    manifest = json.loads((finished / "manifest.json").read_text())
    (finished / "manifest.json").write_text(json.dumps({**manifest, "last_level": 10**9, "seeds": [0, 1, 10**30]}))
    assert ltx("run", *TINY).code == 0
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["seeds"] == [0, 1] and manifest["last_level"] == 1
    (entry,) = json.loads(ltx("status", finished.name, "--json").out)
    assert (entry["levels_done"], entry["levels"], entry["seeds_done"]) == (4, 4, 2)


def test_the_status_of_a_named_run_looks_into_its_level_files(ltx: Ltx, finished: Path) -> None:
    (finished / "seed_000" / "level_01.safetensors").write_bytes(b"")
    (entry,) = json.loads(ltx("status", finished.name, "--json").out)
    assert entry["levels_done"] == 3 and entry["state"] == "unfinished"


def test_a_run_without_a_config_is_opened_and_that_of_another_run_is_not_shown(ltx: Ltx, finished: Path) -> None:
    config = finished / "config.yaml"
    config.write_text(config.read_text().replace("name: lenet", "name: mlp"))
    result = ltx("show", finished.name)
    assert result.code == 0 and "is that of another run" in result.err and "name: mlp" not in result.out
    config.unlink()
    assert len(open_run(finished).summary) == 4
    shutil.rmtree(finished / "seed_000")
    shutil.rmtree(finished / "seed_001")
    assert list(open_run(finished).summary.columns[:2]) == ["seed", "level"]


@pytest.mark.parametrize("kind", ["loop", "folder", "nothing"])
def test_what_stands_in_the_place_of_a_turn_ends_no_command(kind: str, ltx: Ltx, finished: Path) -> None:
    turn = finished / ".lock.0123456789abcdef"
    if kind == "folder":
        turn.mkdir()
    else:
        turn.symlink_to(turn if kind == "loop" else finished / "nowhere")
    assert ltx("run", *TINY).code == 0
