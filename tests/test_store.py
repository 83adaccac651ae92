"""Files that exist whole or not at all, their digest, records, the summary, and what becomes of a damaged file."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY, levels
from safetensors import safe_open

from ltx.store.files import Damaged, canonical, commit, digest, pack, plain_yaml, unpack
from ltx.store.folders import RunFolder
from ltx.store.seeds import Records, SeedFolder

CONTRACT = [
    *("seed", "level", "density", "kept", "prunable", "total", "step", "train_loss", "val_loss", "val_accuracy"),
    *("test_loss", "test_accuracy", "early_stop_step", "early_stop_test_accuracy"),
]


def broken(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


class HalfFile(io.FileIO):
    """A file that takes three bytes and then no more."""

    def write(self, content):
        super().write(content[:3])
        broken()


def break_at(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one of the calls of a commit fail."""
    if place == "write":
        monkeypatch.setattr("ltx.store.files.open", HalfFile, raising=False)
    else:
        function, _, how = place.partition(" ")
        monkeypatch.setattr(os, function, interrupted if how else broken)


def test_seeds_and_levels_are_what_bears_their_name_and_is_of_their_kind(tmp_path):
    for name in ("seed_002", "seed_000", "seed_1234", "seed_0007", "seed_12", "seed_٣٣٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed_003").touch()
    (tmp_path / "seed_004").symlink_to("seed_000")
    (tmp_path / "seed_005").symlink_to("nowhere")
    assert [folder.seed for folder in RunFolder(tmp_path).seeds()] == [0, 2, 4, 1234]
    seed = tmp_path / "seed_000"
    for name in ("level_11", "level_02", "level_100", "level_007", "level_3", "level_00.damaged-1a2b3c"):
        (seed / f"{name}.safetensors").touch()
    (seed / "level_04.safetensors").mkdir()
    (seed / "level_05.safetensors").symlink_to("level_02.safetensors")
    (seed / "level_06.safetensors").symlink_to("nowhere")
    (seed / "level_07.safetensors").symlink_to("level_07.safetensors")
    assert SeedFolder(seed).levels() == [2, 5, 11, 100]
    assert SeedFolder(seed / "level_02.safetensors").levels() == SeedFolder(tmp_path / "seed_009").levels() == []


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 100_000, "{a: &x [], b: *x}", "a: 1\n b: 2"])
def test_a_yaml_of_very_many_levels_or_with_an_alias_is_refused(text):
    with pytest.raises((yaml.YAMLError, RecursionError)):
        plain_yaml(text)


@pytest.mark.parametrize(
    "text", ["lr: 1e-3\nlist:\n- 0.9\n- -1\nnone: null\nempty: []", "a: {b: [1, x]}\nglob: '*?'", ""]
)
def test_both_parsers_of_yaml_read_the_same(text):
    assert plain_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("place", ["write", "fsync", "replace", "fsync interrupted"])
def test_a_commit_that_fails_leaves_the_old_content_and_no_other_file(place, tmp_path, monkeypatch):
    path = tmp_path / "file"
    commit(path, b"old content")
    with monkeypatch.context() as patch:
        break_at(place, patch)
        with pytest.raises((OSError, KeyboardInterrupt)):
            commit(path, b"new content")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["file"]
    assert path.read_bytes() == b"old content"


@pytest.mark.parametrize("place", ["write", "fsync", "link"])
def test_a_first_commit_that_fails_leaves_no_file(place, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        break_at(place, patch)
        with pytest.raises(OSError):
            commit(tmp_path / "file", b"content", replace=False)
    assert not [p for p in tmp_path.iterdir() if p.is_file()]


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_that_exists_is_adopted_and_never_replaced(hard_links, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not hard_links:
        monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "file"
    assert commit(path, b"first", replace=False)
    assert not commit(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["file"]


TENSORS = {"end/fc1.weight": torch.arange(3.0), "mask/fc1.weight": torch.tensor([True, False, True])}
META = {"row": {"seed": 0, "level": 3}, "layers": {"fc1": 2 / 3}}


def test_packing_twice_gives_the_same_bytes_whatever_the_order_of_the_names():
    backwards = dict(reversed(TENSORS.items()))
    assert {pack(TENSORS, META) for _ in range(20)} == {pack(backwards, dict(reversed(META.items())))}


def test_unpack_returns_what_was_packed(tmp_path):
    (tmp_path / "file").write_bytes(pack(TENSORS, META))
    tensors, meta = unpack(tmp_path / "file")
    assert meta == META
    assert {name: t.tolist() for name, t in tensors.items()} == {name: t.tolist() for name, t in TENSORS.items()}


def test_the_digest_covers_names_types_shapes_values_and_metadata():
    a = {"a": torch.zeros(4)}
    others = [{"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4, dtype=torch.int32)}]
    others += [{"a": torch.tensor([0.0, 0.0, 0.0, -0.0])}, {"a": torch.zeros(4), "b": torch.zeros(0)}]
    assert len({digest(a, {}), digest(a, {"x": 1}), *(digest(other, {}) for other in others)}) == 7


@pytest.mark.parametrize("flip", [1, 0x80, 0xFF])
def test_a_flipped_byte_anywhere_is_detected(flip, tmp_path):
    content, path = pack(TENSORS, META), tmp_path / "file"
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= flip
        path.write_bytes(changed)
        with pytest.raises(Damaged):
            unpack(path)


def test_a_file_cut_off_anywhere_is_detected(tmp_path):
    content, path = pack(TENSORS, META), tmp_path / "file"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(Damaged):
            unpack(path)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
@pytest.mark.parametrize("level", [0, 1])
def test_a_damaged_level_is_named_set_aside_and_computed_again_with_the_same_bytes(damage, level, ltx, finished):
    before, path = levels(finished), finished / "seed_001" / f"level_{level:02d}.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": bytes(content), "truncated": bytes(content[:1000]), "empty": b""}[damage])
    times = {name: (finished / name).stat().st_mtime_ns for name in before if name != str(path.relative_to(finished))}
    result = ltx("run", *TINY)
    assert result.code == 0, result.err
    assert str(path) in result.err and "set aside" in result.err
    assert [p.name.partition(".damaged-")[0] for p in path.parent.glob("*.damaged-*")] == [path.name]
    assert levels(finished) == before
    assert {name: (finished / name).stat().st_mtime_ns for name in times} == times


def test_a_checkpoint_that_is_damaged_is_set_aside_and_the_level_trained_from_its_start(ltx, finished):
    before, path = levels(finished), finished / "seed_000" / "level_01.safetensors"
    path.unlink()
    (path.parent / "partial.safetensors").write_bytes(b"no tensors")
    result = ltx("run", *TINY)
    assert result.code == 0 and "partial.safetensors" in result.err
    assert levels(finished) == before


def test_a_level_file_has_the_layout_of_the_contract(finished):
    parameters = {f"{layer}.{kind}" for layer in ("fc1", "fc2", "out") for kind in ("weight", "bias")}
    common = {f"{part}/{name}" for part in ("begin", "end") for name in parameters}
    common |= {"mask/fc1.weight", "mask/fc2.weight"}  # the output layer is excluded
    rows = {(row.seed, row.level): row for row in RunFolder(finished).rows()}
    for level in (0, 1):
        with safe_open(finished / "seed_001" / f"level_{level:02d}.safetensors", "pt") as file:
            names, metadata = set(file.keys()), file.metadata()
            assert names == common | ({f"anchor/{name}" for name in parameters} if level == 0 else set())
            types = {name: file.get_tensor(name).dtype for name in names}
            assert types == {n: torch.bool if n.startswith("mask/") else torch.float32 for n in names}
            kept = sum(int(file.get_tensor(name).sum()) for name in names if name.startswith("mask/"))
        assert set(metadata) == {"ltx"}
        meta = json.loads(metadata["ltx"])
        assert metadata["ltx"] == canonical(meta), "the metadata is canonical JSON"
        known = {"format", "key", "trunk", "seed", "level", "row", "layers", "records", "anchor_step"}
        known |= {"digest", "meta_digest"}
        assert set(meta) == known, "nothing that differs between two machines or two moments"
        assert meta["row"] == rows[1, level].columns() and meta["layers"] == rows[1, level].layers
        assert meta["row"]["kept"] == kept and meta["row"]["density"] == kept / meta["row"]["prunable"]


def test_torn_lines_of_records_are_dropped_and_of_a_repeated_step_the_last_counts(tmp_path):
    folder = SeedFolder(tmp_path / "seed_003")
    row = {"seed": 3, "level": 0, "step": 1, "split": "train", "loss": 2.0, "accuracy": 0.1, "seconds": 0.5}
    records = Records(folder)
    records.add([row, {**row, "split": "val"}, {**row, "step": 2}])
    records.close()
    path = folder.path / "records.jsonl"
    path.write_bytes(path.read_bytes() + b'{"seed": 3, "level": 0, "st')
    assert [(r["step"], r["split"]) for r in folder.records()] == [(1, "train"), (1, "val"), (2, "train")]
    again = Records(folder)
    again.add([{**row, "step": 2, "loss": 1.5}, {**row, "level": 1}])
    again.close()
    found = folder.records()
    assert [(r["level"], r["step"], r["split"]) for r in found] == [
        (0, 1, "train"),
        (0, 1, "val"),
        (0, 2, "train"),
        (1, 1, "train"),
    ]
    assert found[2]["loss"] == 1.5
    assert folder.records(level=1) == found[3:] and folder.records(level=0) == found[:3]


def test_records_hold_the_columns_of_the_contract_for_every_split(finished):
    records = RunFolder(finished).seed(0).records()
    assert all(list(r) == ["seed", "level", "step", "split", "loss", "accuracy", "seconds"] for r in records)
    assert {(r["level"], r["split"]) for r in records} == {(lv, s) for lv in (0, 1) for s in ("train", "val", "test")}


def test_the_summary_has_the_columns_of_the_contract_in_order_and_a_row_per_seed_and_level(finished):
    header, *lines = (finished / "summary.csv").read_text().splitlines()
    assert header.split(",")[: len(CONTRACT)] == CONTRACT
    assert [tuple(line.split(",")[:2]) for line in lines] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    first = dict(zip(CONTRACT, lines[1].split(","), strict=False))
    assert float(first["density"]) == int(first["kept"]) / int(first["prunable"])
    assert first["step"] == "20"


@pytest.mark.parametrize("name", ["summary.csv", "plots/levels.png"])
def test_what_is_derived_is_rebuilt_when_it_is_deleted(name, ltx, finished):
    path: Path = finished / name
    before, summary = path.read_bytes(), (finished / "summary.csv").read_bytes()
    path.unlink()
    result = ltx("run", *TINY)
    assert result.code == 0 and "nothing was left to train" in result.out
    assert path.read_bytes()[:8] == before[:8] if name.endswith("png") else path.read_bytes() == before
    assert (finished / "summary.csv").read_bytes() == summary
