"""Images that cannot be used: each is refused in one paragraph that names the file, and what would do."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from standins import data, drawn, encoded, names, table, write_images
from test_images import SMALL

from ltx.data import decode

Ltx = Callable[..., Result]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("LTX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def broken(name: str) -> Callable[[Path], Path]:
    """Return what makes a set of images, in a folder, and spoils it in one way."""

    def write(place: Path) -> Path:
        folder = write_images(place / "set", "images", 20, 8, "folder")
        first, second = (folder / "train" / name for name in names("images")[:2])
        if name == "empty class":
            shutil.rmtree(first)
            first.mkdir()
        elif name == "truncated":
            (first / "0004.png").write_bytes((first / "0004.png").read_bytes()[:-60])
        elif name == "not an image":
            (first / "0004.png").write_text("a text")
        elif name == "size":
            Image.new("RGB", (16, 12)).save(first / "0004.png")
        elif name == "grey":
            Image.new("L", (16, 16)).save(first / "0004.png")
        elif name == "palette":
            Image.new("P", (16, 16)).save(first / "0000.png")
        elif name == "sixteen bits":
            Image.new("I;16", (16, 16)).save(first / "0004.png")
        elif name == "bomb":
            Image.new("1", (12_000, 12_000)).save(first / "0004.png")
        elif name == "one class":
            for path in [*(folder / "train").iterdir(), *(folder / "test").iterdir()]:
                if path.name != first.name:
                    shutil.rmtree(path)
        elif name == "unseen class":
            shutil.rmtree(second)
        elif name == "loose image":
            shutil.copy(first / "0004.png", folder / "train")
        elif name == "postscript":
            (first / "0004.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n")
        elif name == "few":
            shutil.rmtree(folder)
            write_images(folder, "images", 4, 4, "folder")
        elif name == "empty":
            shutil.rmtree(folder)
            folder.mkdir()
        return folder

    return write


def spoilt(name: str) -> Callable[[Path], Path]:
    """Return what writes one parquet file of images that is wrong in one way."""

    def write(place: Path) -> Path:
        import pyarrow
        import pyarrow.parquet as parquet

        pixels, labels = drawn("images", 20)
        good = table("images", [encoded(x) for x in pixels], labels)
        path = place / "images.parquet"
        if name == "no images":
            good = good.select(["label"])
        elif name == "two columns":
            good = good.append_column("more", good["image"]).replace_schema_metadata()
        elif name == "no labels":
            good = good.select(["image"]).replace_schema_metadata()
        elif name == "range":
            good = table("images", [encoded(x) for x in pixels], np.where(labels == 3, 7, labels))
        elif name == "hidden":
            good = table("images", [encoded(x) for x in pixels], np.where(labels == 3, -1, labels))
        elif name == "missing label":
            numbers = pyarrow.array([None, *labels[1:]], pyarrow.int64())
            good = good.set_column(1, "label", numbers).replace_schema_metadata()
        elif name == "fractions":
            good = good.set_column(1, "label", pyarrow.array(labels / 2)).replace_schema_metadata()
        elif name == "missing image":
            kind = good["image"].type
            good = good.set_column(0, "image", pyarrow.array([*good["image"].to_pylist()[:-1], None], kind))
            good = good.replace_schema_metadata()
        elif name == "faulty image":
            good = table("images", [*(encoded(x) for x in pixels[:-1]), b"no image"], labels)
        parquet.write_table(good, path)
        if name == "cut off":
            path.write_bytes(path.read_bytes()[:-100])
        return path

    return write


FIRST = "(channels x height x width), and the first image 3x16x16"
WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an empty folder": (broken("empty"), "/set is an empty folder"),
    "an empty class": (broken("empty class"), "/set/train/c000 is the folder of a class and holds no images"),
    "a truncated image": (broken("truncated"), "c000/0004.png cannot be decoded: "),
    "no image": (broken("not an image"), "c000/0004.png cannot be decoded: it is no image of a known format"),
    "a program": (broken("postscript"), "c000/0004.png cannot be decoded: it is no image of a known format"),
    "another size": (
        broken("size"),
        f"0004.png is 3x12x16 {FIRST}; data.size=16",
    ),
    "another mode": (
        broken("grey"),
        f"0004.png is 1x16x16 {FIRST}; data.channels=3",
    ),
    "a palette": (
        broken("palette"),
        "0000.png cannot be decoded: it is neither grey nor RGB (Pillow's mode P); data.channels=3",
    ),
    "no bytes": (broken("sixteen bits"), "0004.png cannot be decoded: its pixels are no bytes"),
    "a bomb": (broken("bomb"), "0004.png cannot be decoded: DecompressionBomb"),
    "one class": (broken("one class"), "are of the class c000: with one class there is nothing to tell apart"),
    "a class only tested": (broken("unseen class"), "the part test of"),
    "an image in no class": (broken("loose image"), "0004.png is in no folder of a class"),
    "few": (broken("few"), "4 images are too few: a val part of 0 leaves nothing"),
    "parquet cut off": (spoilt("cut off"), "images.parquet is no parquet file, or not a whole one"),
    "parquet without images": (spoilt("no images"), "has no column of images; its columns are label"),
    "parquet of two images": (
        spoilt("two columns"),
        "several columns of images, image, more; name one: data.image=image",
    ),
    "parquet without labels": (spoilt("no labels"), "has no column of labels beside its images; its columns are image"),
    "labels out of range": (spoilt("range"), "has the label 7; labels should be from 0 to 3"),
    "labels kept secret": (spoilt("hidden"), "has the label -1; labels should be from 0 to 3"),
    "a missing label": (spoilt("missing label"), "the label of row 0 of the part train"),
    "labels that are fractions": (spoilt("fractions"), "should be whole numbers or texts, not double"),
    "a missing image": (spoilt("missing image"), "images.parquet, row 19, holds no image"),
    "a faulty image": (spoilt("faulty image"), "images.parquet, row 19, cannot be decoded"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_images_that_cannot_be_used_are_refused_in_one_paragraph(wrong, ltx, tmp_path, root, kept):
    write, said = WRONG[wrong]
    result = ltx("run", *SMALL, "data=images", f"data.path={write(tmp_path)}")
    assert result.code == 2 and said in result.err, result.err
    assert len(result.err.splitlines()) == 1 and not root.exists()
    assert not [*kept.glob("index/*")] or wrong == "few", "what is faulty is not kept"
    assert not [*kept.glob(".*")]


def test_a_column_or_a_place_that_is_not_there_is_named_with_the_nearest(ltx: Ltx, tmp_path):
    path = write_images(tmp_path / "cifar", "cifar100", 200, 100)
    run = ("run", *SMALL, "data=cifar100")
    assert "did you mean 'fine_label'?" in ltx(*run, f"data.path={path}", "data.label=fine_lable").err
    assert "did you mean 'img'?" in ltx(*run, f"data.path={path}", "data.image=imgs").err
    assert "cifr does not exist; did you mean 'cifar'?" in ltx(*run, f"data.path={tmp_path / 'cifr'}").err


def test_a_named_set_refuses_images_of_another_shape_or_with_more_classes(ltx: Ltx, tmp_path):
    run = ("run", *SMALL, "data=cifar10")
    other = ltx(*run, f"data.path={write_images(tmp_path / 'digits', 'mnist', 20, 10)}", "data.image=image")
    assert "has images 3x32x32 (channels x height x width), those of" in other.err
    assert "are 1x28x28; data=images takes any" in other.err
    more = write_images(tmp_path / "more", "cifar100", 200, 100, "folder")
    assert "has 100 classes, and this data set 10; data=images takes" in ltx(*run, f"data.path={more}").err
    few = write_images(tmp_path / "few", "images", 40, 8, "folder")
    facts = data(few, shape=[3, 16, 16]).facts()
    assert facts.classes == 10, "fewer classes than it has are fine"


def test_sizes_and_modes_that_differ_are_made_alike_where_that_is_asked(tmp_path):
    for write in ("size", "grey", "palette"):
        folder = broken(write)(tmp_path / write)
        found = data(folder, "images", size=16, channels=3).prepared
        assert found.shape == (3, 16, 16)
    wide = Image.fromarray(np.arange(12 * 40, dtype="uint8").reshape(12, 40))
    cut = decode.array(decode.centre(decode.shorter(wide, 12), 12))
    assert np.array_equal(cut[0], np.asarray(wide)[:, 14:26]), "the centre, where nothing is resized"
    halved = decode.array(decode.centre(decode.shorter(wide.convert("RGB"), 6), 6))
    assert halved.shape == (3, 6, 6)
    assert np.array_equal(halved[0], np.asarray(wide.resize((20, 6), Image.Resampling.BILINEAR))[:, 7:13])


def limited(size: int) -> None:
    """Let this process write no file of more than so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("format", ["parquet", "folder"])
def test_a_disk_that_takes_no_more_ends_with_3_whoever_writes(format, ltx: Ltx, tmp_path, kept, root):
    path = write_images(tmp_path / "set", "images", 20, 8, format)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    limited(4_000)
    try:
        result = ltx("run", *SMALL, "data=images", f"data.path={path}")
    finally:
        limited(before)
    assert result.code == 3 and f"could not be written to {kept}: File too large" in result.err, result.err
    assert not root.exists() and not [*kept.glob(".*")]


def test_a_full_disk_ends_with_3_and_a_cache_that_is_no_folder_with_2(ltx: Ltx, tmp_path, kept, monkeypatch):
    path = write_images(tmp_path / "set", "images", 20, 8, "folder")
    run = ("run", *SMALL, "data=images", f"data.path={path}")

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decode, "write", full)
    result = ltx(*run)
    assert result.code == 3 and f"{kept}: No space left on the device for the decoded images" in result.err
    assert not [*kept.glob(".*")] and len(result.err.splitlines()) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LTX_CACHE", str(tmp_path / "file" / "below"))
    result = ltx(*run)
    assert result.code == 2 and "file/below cannot be used for decoded images" in result.err
    assert "set LTX_CACHE" in result.err
