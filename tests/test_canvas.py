"""The digits on a canvas are the same everywhere, no original is in two parts, and every knob does what it says."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import numpy as np
import pytest
import torch
from helpers import never, spec

from ltx.data import canvas, digits
from ltx.data.canvas import MEAN, ORIGINALS, SD, Data, drawn, noise, originals
from ltx.data.splits import Dataset
from ltx.streams import generator

DIGEST = "c4fecb2df6ffcb66a620"  # of every pixel and label of the defaults; other pictures are another data set
Parts = dict[str, tuple[np.ndarray, np.ndarray]]
PLAIN = {"size": 28, "scale": [16, 16], "offset": 0, "rotation": 0, "contrast": [1.0, 1.0], "fragments": 0, "noise": 0}


def data(**knobs) -> Data:
    """Return the data set whose pictures are plain but for some knobs."""
    return Data(**{"split_seed": 0, "shift": 0, "examples": 300} | PLAIN | knobs)


def pictures(digits: np.ndarray | None = None, **knobs) -> np.ndarray:
    """Draw 300 pictures as whole numbers, of white squares or of the digits that are given."""
    white = np.full((20, 8, 8), 16, "uint8")
    return data(**knobs).part("train", white if digits is None else digits, 300)[0].astype(int)


def corners(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last row and column (2, N) that are lit, of every picture."""
    lit = [np.any(found > 127, axis) for axis in (2, 1)]
    return np.array([a.argmax(1) for a in lit]), np.array([a.shape[1] - 1 - a[:, ::-1].argmax(1) for a in lit])


@pytest.fixture(scope="module")
def defaults() -> Parts:
    """Draw the pictures of the defaults, with their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits().images.astype("uint8"), load_digits().target
    config = spec("data=canvas").config["data"]
    made = Data(**{field.name: config[field.name] for field in fields(Data)})
    found = {}
    for part, members in originals(0).items():
        pixels, chosen = made.part(part, images[members], getattr(made.facts(), part))
        found[part] = pixels, labels[members][chosen]
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw fewer pictures to validate and to test."""
    monkeypatch.setattr(canvas, "VAL", 180)
    monkeypatch.setattr(canvas, "TEST", 360)


def test_the_pictures_of_the_defaults_have_the_bytes_that_they_have_on_every_machine(defaults: Parts):
    digest = hashlib.sha256()
    for part in ("train", "val", "test"):
        pixels, labels = defaults[part]
        digest.update(pixels.tobytes() + labels.astype("uint8").tobytes())
    assert digest.hexdigest()[:20] == DIGEST


def test_the_defaults_are_standardised_balanced_and_use_all_levels_of_a_byte(defaults: Parts):
    pixels = defaults["train"][0]
    assert pixels.dtype == np.uint8 and pixels.min() == 0 and pixels.max() == 255
    assert abs(pixels.mean() - MEAN) < 0.1 and abs(pixels[:2000].std() - SD) < 0.5
    for pixels, labels in defaults.values():
        shares = np.bincount(labels) / len(pixels)
        assert len(shares) == 10 and shares.min() > 0.07 and shares.max() < 0.14
        assert 1 / len(pixels) < 0.001  # one picture is less than a tenth of a point


def test_what_the_set_is_is_known_without_drawing_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(canvas, "drawn", never)
    known = spec("data=canvas", "data.examples=301", "data.size=30").facts
    assert known.input_shape == (1, 30, 30) and (known.train, known.val, known.test) == (301, 1260, 2520)


def test_no_original_digit_is_in_two_parts_and_they_are_those_of_digits():
    from sklearn.datasets import load_digits

    images = load_digits().images
    found = originals(3)
    assert sorted(np.concatenate([*found.values()])) == [*range(1797)]
    there = spec("data=digits", "data.split_seed=3").data
    for part, split in {"train": there.train, "val": there.val, "test": there.test}.items():
        theirs = (split.x * digits.SD + digits.MEAN).round().byte().reshape(-1, 8, 8).numpy()
        assert np.array_equal(images[found[part]], theirs) and len(theirs) == ORIGINALS[part]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_part_shows_its_own_originals_alone_as_digits_and_as_fragments(
    part: str, small: None, monkeypatch: pytest.MonkeyPatch
):
    def loaded(blank: np.ndarray) -> Dataset:
        changed = x.copy()
        changed[blank] = 0
        with monkeypatch.context() as patch:
            patch.setattr(digits, "examples", lambda: (changed, y))
            return data(fragments=2).load()

    x, y = digits.examples()
    before, after = loaded(np.array([], int)), loaded(originals(0)[part])
    for name in ("train", "val", "test"):
        same = torch.equal(getattr(before, name).x, getattr(after, name).x)
        assert same == (name != part)


def test_labels_are_those_of_the_digits_that_are_shown_and_each_original_is_shown_equally_often(small: None):
    from sklearn.datasets import load_digits

    images, labels = load_digits().images.astype("uint8"), load_digits().target
    found = data(size=12, scale=[8, 8]).load()
    for name, members in originals(0).items():
        split = getattr(found, name)
        shown = (split.x * SD + MEAN).round()[:, 0, 2:10, 2:10].int()  # at its own size a digit is shown as it is
        table = torch.from_numpy((images[members].astype(int) * 255 + 8) // 16).reshape(len(members), -1)
        which = (shown.reshape(len(split), 1, -1) == table).all(2).int().argmax(1)
        assert torch.equal(shown.reshape(len(split), -1), table[which].int())
        assert torch.equal(split.y, torch.from_numpy(labels[members])[which])
        counts = which.bincount(minlength=len(members))
        assert counts.max() - counts.min() <= 1


def test_fewer_examples_are_the_first_ones_and_the_other_parts_stay(small: None):
    more, fewer = (data(examples=n, noise=10, fragments=1).load() for n in (600, 300))
    assert torch.equal(more.train.x[:300], fewer.train.x) and torch.equal(more.train.y[:300], fewer.train.y)
    assert torch.equal(more.test.x, fewer.test.x) and torch.equal(more.val.x, fewer.val.x)


def test_another_split_seed_shows_other_digits(small: None):
    assert not torch.equal(data().load().test.y, data(split_seed=1).load().test.y)


def test_an_image_at_its_own_size_is_drawn_as_it_is_and_turned_by_quarters_as_numpy_turns_it():
    images = generator("noise", 0).integers(0, 17, (5, 8, 8), "uint8")
    centre, side, level = np.full((5, 2), 16 * 6), np.full(5, 16 * 8), np.full(5, 255)
    for quarters in range(4):
        found = drawn(12, images, centre, side, np.full(5, 90 * quarters), level)
        turned = (np.rot90(images, -quarters, (1, 2)).astype(int) * 255 + 8) // 16
        assert np.array_equal(found, np.pad(turned, ((0, 0), (2, 2), (2, 2))))


def test_between_the_middles_of_cells_values_are_interpolated():
    images = np.zeros((1, 8, 8), "uint8")
    images[0, 3:5, 3:5] = [[0, 16], [8, 0]]
    found = drawn(16, images, np.array([[128, 128]]), np.array([256]), np.array([0]), np.array([255]))
    a, b, c, d = 0.0, 255.0, 127.5, 0.0  # each cell is two pixels wide: their middles lie at 1/4 and 3/4 of the way
    expected = [
        [(9 * a + 3 * b + 3 * c + d) / 16, (3 * a + 9 * b + c + 3 * d) / 16],
        [(3 * a + b + 9 * c + 3 * d) / 16, (a + 3 * b + 3 * c + 9 * d) / 16],
    ]
    assert np.abs(found[0, 7:9, 7:9] - expected).max() <= 0.5


@pytest.mark.parametrize("size", [12, 17, 40])
def test_size_is_that_of_the_canvas_and_the_digit_stands_in_its_middle(size: int):
    found = pictures(size=size, scale=[8, 8])
    first, last = corners(found)
    assert found.shape == (300, size, size) and np.abs(first + last - (size - 1)).max() <= 1


def test_scale_is_the_range_of_the_sides():
    first, last = corners(pictures(scale=[12, 20], offset=8))
    assert {*(last - first + 1)[0]} >= {*range(13, 20)} and (last - first + 1).min() >= 12
    assert (last - first + 1).max() <= 21


@pytest.mark.parametrize("offset", [0, 3, 6, 64])
def test_offset_is_how_far_digits_lie_from_the_centre_within_what_fits(offset: int):
    first, last = corners(pictures(offset=offset))
    most = min(offset, 6)  # half of the 12 pixels that a digit of 16 leaves
    assert {*((first + last - 27) // 2).ravel()} >= {*range(-most + 1, most)}
    assert np.abs(first + last - 27).max() <= 2 * most + 1


def test_rotation_is_the_largest_angle():
    digits = np.zeros((20, 8, 8), "uint8")
    digits[:, :, 3:5] = 16  # an upright stroke
    at = np.arange(28) - 13.5
    found = pictures(digits, rotation=30)
    weights = found / found.sum((1, 2), keepdims=True)
    yy, xx, xy = ((weights * product).sum((1, 2)) for product in (at[:, None] ** 2, at**2, at[:, None] * at))
    angles = np.degrees(np.arctan2(2 * xy, yy - xx) / 2)
    assert 28 < angles.max() < 31 and -31 < angles.min() < -28
    assert np.array_equal(pictures(digits)[0], pictures(digits)[299])


def test_contrast_is_the_range_of_the_brightest_strokes():
    brightest = pictures(contrast=[0.4, 0.8]).max((1, 2))
    assert 102 <= brightest.min() < 106 and 200 < brightest.max() <= 204


def test_fragments_are_added_to_a_picture_and_come_from_other_digits_than_its_own():
    digits = np.zeros((2, 8, 8), "uint8")
    digits[0] = 16
    bare, (found, chosen) = pictures(digits), data(fragments=2).part("train", digits, 300)
    added = found.astype(int) - bare
    assert added.min() >= 0 and not added[chosen == 0].any()
    assert (added[chosen == 1].reshape(150, -1).max(1) > 200).mean() > 0.95
    assert (pictures(fragments=3) >= pictures(fragments=2)).all() and pictures(fragments=3).sum() > found.sum()


def test_noise_has_its_standard_deviation_and_is_cut_off_at_black_and_white():
    drawn_noise = noise(generator("noise", 0), 20, 28)
    assert abs(drawn_noise.std() - 20) < 0.2 and abs(drawn_noise.mean()) < 0.2
    grey, noisy = (pictures(scale=[28, 28], contrast=[0.5, 0.5], noise=sd)[:, 4:-4, 4:-4] for sd in (0, 20))
    assert abs((noisy - grey).std() - 20) < 0.2 and grey.std() == 0
    white = pictures(scale=[28, 28], noise=20)[:, 4:-4, 4:-4]
    assert white.min() > 128 and white.max() == 255 and (white == 255).mean() > 0.45


def test_shift_moves_training_pictures_into_the_background(small: None):
    found = data(shift=2).load()
    assert data().load().augment is None and found.augment is not None
    moved = found.augment(found.train.x, np.random.default_rng(0)) * SD + MEAN
    assert not torch.equal(moved, found.train.x) and float(moved[:, :, 0, 0].abs().max()) < 1e-3
