"""Images of the Hub and of files: read in every format, kept decoded, split, part of a run's key."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, results
from helpers import spec
from PIL import Image
from standins import data, drawn, encoded, names, table, write_images

from ltx.config import flat, loading
from ltx.data import cache, decode, sources
from ltx.errors import BadInput, Failed

Ltx = Callable[..., Result]
FORMATS = ("parquet", "flat", "folder", "saved")
SMALL = ("method=dense", "model=lenet", "width=.05", "optim.steps=8", "optim.batch=10", "seeds=1")


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Begin as another process does: with nothing but what the cache has on disk."""
    forget()


def forget() -> None:
    for function in (cache._prepared, loading.facts, loading.load, loading.content):
        function.cache_clear()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("LTX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def never(*_: Any, **__: Any) -> Any:
    pytest.fail("the source was read again")


def rows(pixels: np.ndarray, labels: np.ndarray) -> list[bytes]:
    """Return images with their labels as texts, sorted, so that sets in different orders can be compared."""
    return sorted(x.tobytes() + bytes([y]) for x, y in zip(pixels, labels, strict=True))


@pytest.mark.parametrize("name", ["cifar10", "mnist", "images"])
def test_the_same_images_are_the_same_content_in_every_format(name, tmp_path):
    found = {form: data(write_images(tmp_path / form, name, 40, 20, form), name) for form in (*FORMATS, "parquet")}
    assert len({one.content for one in found.values()}) == 1
    prepared = found["folder"].prepared
    for part, count in (("train", 40), ("test", 20)):
        expected = drawn(name, count, part=part)
        assert rows(prepared.pixels(part), prepared.labels(part)) == rows(*expected)
    assert list(prepared.names) == names(name)
    loaded = [one.load() for one in found.values()]
    assert len({one.fingerprint() for one in loaded}) == 1


def test_one_file_has_no_part_to_test_and_some_of_its_images_are_held_out(tmp_path):
    found = data(write_images(tmp_path / "one", train=50, test=0, format="file"))
    facts = found.facts()
    assert (facts.train, facts.val, facts.test) == (36, 4, 10) and found.load().facts == facts
    parts = [rows for _, rows in found.parts().values()]
    assert sorted(torch.cat(parts).tolist()) == [*range(50)]


def test_a_folder_of_classes_alone_is_a_part_to_train_whatever_its_names(tmp_path):
    pixels, labels = drawn("images", 40)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        place = tmp_path / "set" / ["bullet_train", "test", "test_tube", "val"][label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"train_{i}.png").write_bytes(encoded(image))
    (tmp_path / "set" / "val" / "notes.txt").write_text("mine")
    found = data(tmp_path / "set", "images").prepared
    assert found.names == ("bullet_train", "test", "test_tube", "val") and found.counts == {"train": 40}
    assert rows(found.pixels("train"), found.labels("train")) == rows(pixels, labels)
    assert found.notes == ("1 of its files are no images and were left out, val/notes.txt for one",)


def test_jpegs_have_the_pixels_that_pillow_gives_them_turned_as_the_camera_was_held(tmp_path):
    folder = write_images(tmp_path / "set", "images", 8, 4, "folder", "JPEG")
    turned = next((folder / "train").rglob("*.jpeg"))
    with Image.open(turned) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by a quarter
        image.save(turned, exif=exif)
    expected = []
    for path in sorted((folder / "train").rglob("*.jpeg")):
        with Image.open(path) as image:
            array = np.asarray(image).transpose(2, 0, 1)
            expected.append(np.rot90(array, -1, (1, 2)) if path == turned else array)
    found = data(folder, "images").prepared
    assert sorted(x.tobytes() for x in found.pixels("train")) == sorted(x.tobytes() for x in expected)


def test_a_part_called_valid_tests_where_no_other_does_and_else_validates(tmp_path):
    folder = write_images(tmp_path / "set", "images", 40, 12, "folder")
    (folder / "test").rename(folder / "valid")
    assert data(folder, "images").prepared.counts == {"train": 40, "test": 12}
    forget()
    write_images(tmp_path / "other", "images", 40, 8, "folder")
    (tmp_path / "other" / "test").rename(folder / "test")
    found = data(folder, "images")
    assert found.prepared.counts == {"train": 40, "val": 12, "test": 8}
    facts = found.facts()
    assert (facts.train, facts.val, facts.test) == (40, 12, 8)


def test_what_is_held_out_is_drawn_by_split_seed_alone(tmp_path):
    folder = write_images(tmp_path / "set", "images", 40, 12, "folder")
    one, same, other = (data(folder, "images", split_seed=seed).parts() for seed in (0, 0, 1))
    assert torch.equal(one["val"][1], same["val"][1]) and not torch.equal(one["val"][1], other["val"][1])
    assert len(one["val"][1]) == 4 and not {*one["val"][1].tolist()} & {*one["train"][1].tolist()}
    loaded = data(folder, "images").load()
    assert [len(split) for split in (loaded.train, loaded.val, loaded.test)] == [36, 4, 12]


@pytest.mark.parametrize("format", ["parquet", "folder"])
def test_what_is_in_the_cache_is_found_without_the_library_and_without_decoding(format, tmp_path, kept, monkeypatch):
    path = write_images(tmp_path / "set", "images", 20, 8, format)
    before = data(path, "images")
    assert not cache.is_prepared(before.source)
    expected = before.load().fingerprint()
    assert cache.is_prepared(before.source) and not [*kept.glob(".*")], "nothing is left of the work"
    forget()
    monkeypatch.setattr(sources, "opened", never)
    monkeypatch.setattr(decode, "write", never)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    assert data(path, "images").load().fingerprint() == expected


def test_a_changed_file_or_another_size_is_another_content(tmp_path, kept):
    path = write_images(tmp_path / "set", "images", 20, 8, "folder")
    first, smaller = data(path, "images"), data(path, "images", size=8)
    grey = data(path, "images", channels=1)
    assert len({first.content, smaller.content, grey.content}) == 3
    assert smaller.facts().input_shape == (3, 8, 8) and grey.facts().input_shape == (1, 16, 16)
    (path / "train" / names("images")[0] / "0000.png").write_bytes(encoded(255 - drawn("images", 1)[0][0]))
    forget()
    assert data(path, "images").content != first.content
    shutil.move(path, tmp_path / "elsewhere")
    assert data(tmp_path / "elsewhere", "images").content not in (first.content, smaller.content)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": lambda folder: flipped(folder / "train.bin"),
    "cut off": lambda folder: (folder / "test.bin").write_bytes((folder / "test.bin").read_bytes()[:-1]),
    "gone": lambda folder: (folder / "test.bin").unlink(),
    "no header": lambda folder: (folder / "header.json").unlink(),
    "header cut off": lambda folder: (folder / "header.json").write_text('{"shape": [3'),
    "another header": lambda folder: (folder / "header.json").write_text(
        (folder / "header.json").read_text().replace("c000", "c999")
    ),
    "a header of something else": lambda folder: (folder / "header.json").write_text('{"parts": [], "names": 3}'),
    "all": shutil.rmtree,
    "the index": lambda folder: next(folder.parents[1].glob("index/*")).write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_noticed_and_made_again(damage, tmp_path, kept, capfd):
    path = write_images(tmp_path / "set", "images", 20, 8, "folder")
    content = data(path, "images").content
    DAMAGE[damage](kept / "images" / content)
    forget()
    found = data(path, "images")
    assert found.content == content
    assert rows(found.prepared.pixels("train"), found.prepared.labels("train")) == rows(*drawn("images", 20))
    assert ("is damaged; the images are decoded again" in capfd.readouterr().err) == (damage != "all")
    assert [one.name for one in kept.iterdir() if one.name.startswith(".")] == []


def test_a_cache_that_was_copied_is_read_through_once_and_used(tmp_path, kept, monkeypatch):
    path = write_images(tmp_path / "set", "images", 20, 8, "folder")
    content = data(path, "images").content
    shutil.copytree(kept, tmp_path / "copy", copy_function=shutil.copyfile)
    monkeypatch.setenv("LTX_CACHE", str(tmp_path / "copy"))
    monkeypatch.setattr(sources, "opened", never)
    forget()
    assert data(path, "images").content == content
    monkeypatch.setattr(cache, "digest", never)
    forget()
    assert data(path, "images").content == content


def test_two_that_decode_the_same_at_once_end_with_one_folder(tmp_path, kept, monkeypatch):
    path = write_images(tmp_path / "set", "images", 20, 8, "folder")
    real, content = cache.settle, []

    def settle(folder: Path, final: Path) -> None:
        monkeypatch.setattr(cache, "settle", real)
        forget()
        content.append(data(path, "images").content)  # another one is faster
        real(folder, final)

    monkeypatch.setattr(cache, "settle", settle)
    found = data(path, "images")
    assert [found.content] == content and len([*(kept / "images").iterdir()]) == 1


def test_the_cache_is_where_the_environment_says(monkeypatch):
    for name, value, expected in (
        ("HOME", "/home/me", "/home/me/.cache/ltx"),
        ("XDG_CACHE_HOME", "/scratch", "/scratch/ltx"),
        ("LTX_CACHE", "/fast", "/fast"),
    ):
        monkeypatch.delenv("LTX_CACHE", raising=False)
        monkeypatch.setenv(name, value)
        assert cache.home()[0] == Path(expected)


DECODED, TEST = decode.decoded, os.getpid()


def killed_in_a_process(*arguments: Any) -> Any:
    """Decode in the test's own process, and end every other one, as the kernel does for want of memory."""
    return DECODED(*arguments) if os.getpid() == TEST else os.kill(os.getpid(), signal.SIGKILL)


def test_processes_decode_what_one_does_and_name_what_is_faulty(tmp_path, kept, monkeypatch):
    path = write_images(tmp_path / "set", "images", 300, 8, "folder")
    monkeypatch.setattr(decode, "ALONE", 1e9)
    content = data(path, "images").content
    shutil.rmtree(kept)
    forget()
    monkeypatch.setattr(decode, "ALONE", 0)
    monkeypatch.setattr(decode, "cores", lambda: 3)
    done, add = [], decode.Progress.add
    monkeypatch.setattr(decode.Progress, "add", lambda self, count: (done.append(count), add(self, count)))
    assert data(path, "images").content == content and sum(done) == 308, "each image is decoded by one process"
    faulty = path / "train" / names("images")[2] / "0298.png"
    faulty.write_bytes(b"no image")
    forget()
    with pytest.raises(BadInput, match=r"0298\.png cannot be decoded: it is no image of a known format"):
        data(path, "images").load()
    faulty.write_bytes(encoded(drawn("images", 1)[0][0]))
    monkeypatch.setattr(decode, "decoded", killed_in_a_process)
    with pytest.raises(Failed, match=r"was killed \(exit -9\)"):
        data(path, "images").load()
    assert not [*kept.glob(".*")]


def test_the_path_of_images_is_not_in_a_runs_key_and_what_they_show_is(tmp_path):
    words = ("data=images", "method=dense", "width=.05")
    one = spec(*words, f"data.path={write_images(tmp_path / 'one', 'images', 40, 20, 'folder')}")
    same = spec(*words, f"data.path={write_images(tmp_path / 'two', 'images', 40, 20, 'parquet')}", "data.label=label")
    other = spec(*words, f"data.path={write_images(tmp_path / 'three', 'images', 40, 20, 'folder', seed=1)}")
    assert one.key == same.key and one.config["data"]["path"] != same.config["data"]["path"]
    assert other.key != one.key
    assert spec(*words, f"data.path={tmp_path / 'one'}", "data.flip=true").key != one.key
    control = ("method=control", "trunk={method:imp,method.levels:1}", "data=images")
    keys = [spec(*control, f"data.path={tmp_path / name}").trunk.key for name in ("one", "two", "three")]
    assert keys[0] == keys[1] != keys[2]


def test_a_path_alone_makes_no_difference_between_configs_but_is_an_argument_of_a_users_class():
    node = {"data": {"name": "cifar10", "path": "/a", "flip": True}}
    assert flat.without_plumbing(flat.flatten({**node, "trunk": node})) == {
        "data.name": "cifar10",
        "data.flip": True,
        "trunk.data.name": "cifar10",
        "trunk.data.flip": True,
    }
    assert "data.path" in flat.without_plumbing(flat.flatten({"data": {"name": "mine:Set", "path": "/a"}}))


def test_the_path_is_written_in_full_so_that_a_trunk_is_found_from_other_folders(tmp_path, monkeypatch):
    write_images(tmp_path / "set", "images", 20, 8, "folder")
    monkeypatch.chdir(tmp_path)
    assert spec("data=images", "data.path=set").config["data"]["path"] == str(tmp_path / "set")


def test_a_run_is_stood_on_after_its_images_have_gone_or_moved(ltx: Ltx, tmp_path, root, kept, monkeypatch):
    path = write_images(tmp_path / "set", "images", 40, 20, "folder")
    imp = ltx("run", *SMALL[1:], "method.levels=1", "data=images", f"data.path={path}")
    assert imp.code == 0, imp.err
    control = ("run", "method=control", "method.levels=1", f"of={imp.folder.name}", "optim.steps=8", "seeds=1")
    path.rename(tmp_path / "moved")
    forget()
    gone = ltx(*control)
    assert gone.code == 0 and "set is not there any more; what was decoded of it before is used." in gone.err
    shutil.rmtree(kept)
    forget()
    refused = ltx(*control)
    assert refused.code == 2 and "set does not exist" in refused.err
    forget()
    moved = ltx(*control, f"data.path={tmp_path / 'moved'}")
    assert moved.code == 0 and moved.folder == gone.folder and "nothing was left to train" in moved.out
    other = write_images(tmp_path / "other", "images", 40, 20, "folder", seed=1)
    assert "is another run's" in ltx(*control, f"data.path={other}").err


def test_a_run_goes_on_with_the_same_images_elsewhere_and_ends_as_if_it_had_never_stopped(ltx: Ltx, tmp_path, root):
    """It is stopped at its second level, and continued from another format of the same images."""
    path = write_images(tmp_path / "set", "images", 40, 20, "folder")
    words = ("run", *SMALL[1:], "data=images", "data.shift=2", "data.flip=true", "data.cutout=4")
    whole = ltx(*words, "method.levels=1", f"data.path={path}", f"root={tmp_path / 'whole'}")
    assert whole.code == 0, whole.err
    assert ltx(*words, "method.levels=0", f"data.path={path}").code == 0
    other = write_images(tmp_path / "other", "images", 40, 20, "parquet")
    again = ltx(*words, "method.levels=1", f"data.path={other}")
    assert again.code == 0 and again.folder.name == whole.folder.name
    assert results(again.folder) == results(whole.folder)
    compared = ltx("diff", again.folder.name, str(whole.folder))
    assert "their configs are the same\n" in compared.out
    third = write_images(tmp_path / "third", "images", 40, 20, "folder", seed=1)
    changed = ltx(*words, "method.levels=1", f"data.path={third}")
    assert "their configs are the same, their data are not" in ltx("diff", again.folder.name, changed.folder.name).out


class Hub:
    """Stands for the Hub: it has CIFAR-10, small, and counts how often it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: bool = True):
        import datasets

        self.asked: list[tuple[str, str | None]] = []
        monkeypatch.setattr(sources, "hub_answers", lambda source: answers)
        monkeypatch.setattr(datasets, "load_dataset", self.load if answers else self.fails)

    def load(self, name: str, revision: str | None = None) -> dict[str, Any]:
        import datasets

        self.asked.append((name, revision))
        pixels = {part: drawn("cifar10", count, part=part) for part, count in (("train", 50), ("test", 20))}
        return {
            part: datasets.Dataset(table("cifar10", [encoded(x) for x in images], y))
            for part, (images, y) in pixels.items()
        }

    def fails(self, *_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach it")


def test_a_set_of_the_hub_is_fetched_once_and_known_before(tmp_path, kept, monkeypatch, capfd):
    hub = Hub(monkeypatch)
    facts = spec("data=cifar10").facts
    assert (facts.train, facts.val, facts.test, facts.input_shape) == (45_000, 5_000, 10_000, (3, 32, 32))
    assert hub.asked == [], "its sizes are known without it"
    sizes = {"train": 50, "test": 20, "revision": "v1"}
    found = data(None, **sizes)
    assert found.load().facts == found.facts() and hub.asked == [("uoft-cs/cifar10", "v1")]
    assert "fetching uoft-cs/cifar10" in capfd.readouterr().err
    forget()
    assert len(data(None, **sizes).load().train) == 45 and len(hub.asked) == 1
    assert data(write_images(tmp_path / "set", train=50, test=20)).content == found.content
    forget()
    assert data(None, **{**sizes, "revision": "v2"}).content == found.content and len(hub.asked) == 2
    with pytest.raises(BadInput, match=r"says that it is .*train=45000.* but what it loads is .*train=45,"):
        loading.load(json.dumps(spec("data=cifar10").config["data"]))


def test_without_a_network_it_says_what_to_fetch_and_how(ltx: Ltx, kept, monkeypatch):
    Hub(monkeypatch, answers=False)
    result = ltx("run", *SMALL, "data=cifar10")
    assert result.code == 2 and len(result.err.splitlines()) == 1
    assert "`hf download uoft-cs/cifar10 --repo-type dataset --local-dir cifar10`" in result.err
    assert ("data.path=cifar10" in result.err and not kept.exists()) or not [*kept.glob("index/*")]


def test_the_list_says_how_many_images_there_are_and_whether_they_are_here(ltx: Ltx, kept, monkeypatch):
    Hub(monkeypatch)
    about = "45,000 to train, 5,000 to validate, 10,000 to test; "
    assert about + "fetched when it is first used" in ltx("list", "data").out
    assert data(None).content
    listed = ltx("list", "data").out
    assert about + "on this machine" in listed and listed.count("on this machine") == 1


def test_what_killed_processes_left_in_the_cache_is_removed(tmp_path, kept):
    left = kept / f".new.{cache.host()}.999999999.abcdef"
    left.mkdir(parents=True)
    (left / "train.bin").write_bytes(b"half")
    data(write_images(tmp_path / "set", "images", 20, 8, "folder"), "images").load()
    assert not left.exists()
