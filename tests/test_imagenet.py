"""Images that stay encoded: the same pixels however they are decoded, random boxes, and runs that continue."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from standins import names, table

from ltx.api import load_data
from ltx.data import decode
from ltx.data.batches import Batches
from ltx.data.encoded import DRAWS, TRIES, Encoded, View, box
from ltx.streams import Streams
from ltx.training.evaluate import calibration

STREAMS = Streams(init=0, order=1, augment=2, mask=3, noise=4)
SMALL = {"side": 16, "resize": 20, "classes": None}


def photographs(count: int, seed: int) -> list[bytes]:
    """Draw JPEG files of all sizes."""
    rng = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        width, height = rng.integers(18, 60, 2)
        file = io.BytesIO()
        pixels = rng.integers(0, 255, (height // 3, width // 3, 3), dtype="uint8")
        Image.fromarray(pixels).resize((int(width), int(height))).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    return files


def folder(place: Path, train: int = 40, val: int = 12) -> Path:
    """Write photographs of four classes as ImageNet is unpacked: train/<class>/, val/<class>/."""
    for part, count in (("train", train), ("val", val)):
        for i, image in enumerate(photographs(count, len(part))):
            file = place / part / f"n{i % 4:08d}" / f"{part}_{i:04d}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(image)
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of photographs that tests only read."""
    return folder(tmp_path_factory.mktemp("photographs"))


def split(place: Path, **fields: Any) -> Encoded:
    """Return the training part."""
    found = load_data("imagenet", path=str(place), **{**SMALL, "decoders": 0, **fields}).train
    assert isinstance(found, Encoded)
    return found


def test_an_image_is_evaluated_by_its_centre_as_in_a_reference(place: Path) -> None:
    data = load_data("imagenet", path=str(place), **SMALL, decoders=0)
    assert data.facts.input_shape == (3, 16, 16)
    assert (len(data.train), len(data.val), len(data.test)) == (39, 1, 12)  # .02 of 40 is one
    mean, sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    files = sorted((place / "val").glob("*/*.JPEG"))
    x, y = data.test.take(slice(None))
    assert y.tolist() == [int(path.parent.name[1:]) for path in files]
    for path, found in zip(files, x, strict=True):
        image = Image.open(path).convert("RGB")
        width, height = image.size
        if width < height:
            image = image.resize((20, max(20, round(height * 20 / width))), Image.Resampling.BILINEAR)
        else:
            image = image.resize((max(20, round(width * 20 / height)), 20), Image.Resampling.BILINEAR)
        left, top = (image.width - 16) // 2, (image.height - 16) // 2
        pixels = torch.from_numpy(np.array(image)[top : top + 16, left : left + 16]).permute(2, 0, 1)
        expected = (pixels / 255 - mean[:, None, None]) / sd[:, None, None]
        assert torch.allclose(found, expected, atol=1e-6)


def test_a_trained_image_is_a_box_of_it_resized_and_mirrored_half_of_the_time() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype="uint8")
    picture = Image.fromarray(pixels)
    draws = np.full(DRAWS, 0.5)
    draws[:4] = 1.0 - 1e-9, 0.5, 0.0, 0.0  # the whole area, square: 39 x 39 do not fit into 50 x 30
    draws[4:8] = 0.0, 0.5, 0.999, 0.0  # the least area, square, at the bottom left
    side = round(math.sqrt(0.08 * 30 * 50))
    for mirror in (0.2, 0.8):
        draws[-1] = mirror
        found = View(side, side, 0.08, True)(picture, draws)
        expected = pixels[30 - side :, :side].transpose(2, 0, 1)  # no resizing: the box has the side that is asked for
        assert np.array_equal(found, expected[:, :, ::-1] if mirror < 0.5 else expected)
    assert np.array_equal(View(side, side, 0.08, False)(picture, np.r_[draws[:-1], 0.2]), expected)


def test_boxes_have_uniform_areas_and_ratios_within_bounds_and_lie_inside() -> None:
    rng = np.random.default_rng(0)
    found = [box(500, 400, rng.random((TRIES, 4)), 0.08) for _ in range(4000)]
    for left, top, right, bottom in found:
        assert 0 <= left < right <= 500 and 0 <= top < bottom <= 400
    areas = np.array([(r - a) * (b - t) for a, t, r, b in found]) / 200_000
    ratios = np.array([(r - a) / (b - t) for a, t, r, b in found])
    assert 0.079 < areas.min() < 0.09 and ratios.min() > 0.74 and ratios.max() < 1.35
    # of areas up to one half every box fits, so that they stay uniform there
    below = areas[areas < 0.5]
    assert abs(below.mean() - (0.08 + 0.5) / 2) < 4 * 0.42 / math.sqrt(12 * len(below))
    # an image too narrow for any ratio gives its largest middle part
    assert box(10, 400, rng.random((TRIES, 4)) * [0, 1, 1, 1] + [0.9, 0, 0, 0], 0.08) == (0, 193, 10, 206)


@pytest.mark.parametrize("decoders", [1, 2])
def test_processes_give_the_batches_that_one_gives_in_any_order_and_from_any_step(place: Path, decoders: int) -> None:
    plain = Batches(load_data("imagenet", path=str(place), **SMALL, decoders=0), 35, STREAMS)  # more than a piece
    ahead = Batches(load_data("imagenet", path=str(place), **SMALL, decoders=decoders), 35, STREAMS)
    steps = [plain.at(step) for step in (2, 3, 4, 1)]
    stream = ahead.stream(1, 5)
    for x, y in (steps[3], *steps[:3]):
        other_x, other_y = next(stream)
        assert torch.equal(x, other_x) and torch.equal(y, other_y)
    stream.close()
    x, _ = ahead.at(3)
    assert torch.equal(x, steps[1][0])
    again, _ = Batches(ahead_data(place), 35, Streams(init=0, order=1, augment=9, mask=3, noise=4)).at(3)
    assert not torch.equal(x, again)  # another augment stream sees other boxes of the same images


def ahead_data(place: Path) -> Any:
    return load_data("imagenet", path=str(place), **SMALL, decoders=0)


def test_statistics_are_estimated_on_images_as_training_sees_them(place: Path) -> None:
    data = ahead_data(place)
    seen, centres = calibration(data, STREAMS).x, data.train.x
    assert seen.shape == centres.shape and not torch.equal(seen, centres)
    assert torch.equal(seen, calibration(data, STREAMS).x)


def test_parquet_files_hold_the_same_images_and_labels_that_are_secret_are_no_part(tmp_path: Path) -> None:
    import pyarrow.parquet

    count = 60
    files = photographs(count, 5)
    labels = np.arange(count) % 4
    for part, of in (("train", labels), ("validation", labels), ("test", np.full(count, -1))):
        pyarrow.parquet.write_table(table("imagenet", files, of), tmp_path / f"{part}-00000-of-00001.parquet")
    data = load_data("imagenet", path=str(tmp_path), side=16, resize=20, decoders=0)
    assert data.classes == len(names("imagenet")) == 1000
    assert (len(data.train) + len(data.val), len(data.test)) == (count, count)
    assert data.test.y.tolist() == labels.tolist()
    assert any("test" in note and "secret" in note for note in data.notes)
    view = View(16, 20, 0.08, True)
    assert isinstance(data.test, Encoded)
    assert np.array_equal(data.test.images.encoded(0, 1)[0], files[0])
    assert torch.equal(data.test[(3, None)], torch.from_numpy(view(decode.image(files[3], 3), None)))


def test_a_file_that_cannot_be_decoded_is_named_and_ends_the_run(ltx: Callable, root: Path, tmp_path: Path) -> None:
    place = folder(tmp_path / "photographs", 12, 4)
    bad = sorted((place / "train").glob("*/*.JPEG"))[5]
    bad.write_bytes(bad.read_bytes()[:60])
    words = ("method=dense", "model=lenet", "model.hidden=[4]", f"data.path={place}", "data.side=8", "data.resize=8")
    found = ltx(
        "run", *words, "data=imagenet", "data.classes=null", "data.val=.2", "optim.steps=2", "seeds=1", "workers=0"
    )
    assert found.code == 3
    assert f"{bad} cannot be decoded" in " ".join((found.out + found.err).split())


def test_a_run_that_was_interrupted_ends_with_the_same_bytes_and_moved_images_continue_it(
    ltx: Callable, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltx.training import fit

    place = folder(tmp_path / "photographs", 24, 8)
    words = ("run", "method=imp", "method.levels=1", "model=convnet", "width=.2", "data=imagenet", "data.classes=null")
    words = (*words, "data.side=16", "data.resize=16", "data.val=.25", "optim.steps=6", "optim.batch=8", "seeds=1")
    words = (*words, "workers=0", "trainer.chunk=2", "trainer.checkpoint_seconds=0")
    assert ltx(*words, f"data.path={place}", "data.decoders=0", f"root={tmp_path / 'whole'}").code == 0

    step = fit.Fit.take_step

    def stop(self: fit.Fit, number: int, optimiser: Any) -> None:
        if number == 4 and self.plan.level == 1:
            raise KeyboardInterrupt
        step(self, number, optimiser)

    moved = tmp_path / "elsewhere"
    with monkeypatch.context() as patch:
        patch.setattr(fit.Fit, "take_step", stop)
        assert ltx(*words, f"data.path={place}", "data.decoders=2", f"root={tmp_path / 'cut'}").code == 130
    place.rename(moved)
    assert ltx(*words, f"data.path={moved}", "data.decoders=1", f"root={tmp_path / 'cut'}").code == 0
    whole, cut = (sorted((tmp_path / name).glob("runs/*/seed_000/level_*")) for name in ("whole", "cut"))
    assert [path.relative_to(tmp_path / "whole") for path in whole] == [
        path.relative_to(tmp_path / "cut") for path in cut
    ]
    assert len(whole) == 2
    for one, other in zip(whole, cut, strict=True):
        assert one.read_bytes() == other.read_bytes()
