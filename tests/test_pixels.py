"""Images as a network sees them: bytes normalised when they are taken, and changed anew at every step."""

from __future__ import annotations

import numpy as np
import torch
from helpers import STREAMS
from standins import data, write_images

from ltx.data.batches import Batches


def test_pixels_are_normalised_by_the_channel_when_they_are_taken(tmp_path):
    path = write_images(tmp_path / "set", "cifar10", 40, 20, "folder")
    found = data(path)
    train, (_, chosen) = found.load().train, found.parts()["train"]
    mean, sd = (np.array(values, "float32").reshape(3, 1, 1) for values in (found.mean, found.sd))
    expected = torch.from_numpy((found.prepared.pixels("train")[chosen.numpy()] / np.float32(255) - mean) / sd)
    torch.testing.assert_close(train.x, expected, rtol=1e-6, atol=1e-6)
    assert train.x.dtype == torch.float32 and train.pixels.dtype == torch.uint8
    some = torch.tensor([5, 0, 5])
    assert torch.equal(train.take(some)[0], train.x[some]) and torch.equal(train.take(some)[1], train.y[some])
    assert torch.equal(torch.cat([x for x, _ in train.chunks(16)]), train.x)
    assert torch.equal(train.part(some).x, train.x[some]) and torch.equal(train.part(some).y, train.y[some])
    assert torch.equal(next(train.ahead([some]))[0], train.x[some])
    moved = train.to("meta")
    assert moved.pixels.device.type == "meta" and moved.pixels.dtype == torch.uint8 and len(moved.pixels) == len(train)
    assert train.to("cpu") is train, "what is mapped stays mapped"
    assert found.load().train.digest() == train.digest() != train.labelled(1 - train.y).digest()


def test_the_moments_are_those_of_the_examples_that_train(tmp_path):
    path = write_images(tmp_path / "set", "images", 60, 20, "folder")
    found = data(path, "images")
    loaded, (_, chosen) = found.load(), found.parts()["train"]
    pixels = found.prepared.pixels("train")[chosen.numpy()] / 255
    np.testing.assert_allclose(loaded.train.mean, pixels.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(loaded.train.sd, pixels.std((0, 2, 3)), rtol=1e-6)
    assert loaded.train.x.mean((0, 2, 3)).abs().max() < 1e-5 and torch.equal(loaded.test.mean, loaded.train.mean)


def test_training_images_are_shifted_into_black_flipped_and_cut_out_in_that_order(tmp_path):
    path = write_images(tmp_path / "set", "images", 60, 20, "folder")
    found = data(path, "images", shift=3, flip=True, cutout=5).load()
    x, side = found.train.x[:30], 16
    got = found.augment(x, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    down, right = rng.integers(0, 7, (2, 30))
    mirrored, (top, left) = rng.integers(0, 2, 30), (rng.integers(0, side, 30), rng.integers(0, side, 30))
    black = (-found.train.mean / found.train.sd).reshape(3, 1, 1)
    for i in range(30):
        padded = black.expand(3, side + 6, side + 6).clone()
        padded[:, 3:-3, 3:-3] = x[i]
        expected = padded[:, down[i] : down[i] + side, right[i] : right[i] + side]
        expected = expected.flip(2) if mirrored[i] else expected
        rows_of, columns = (slice(max(0, at[i] - 2), at[i] + 3) for at in (top, left))
        expected = expected.clone()
        expected[:, rows_of, columns] = 0
        assert torch.equal(got[i], expected), i
    assert torch.equal(found.augment(x, np.random.default_rng(7)), got), "it hangs on the generator alone"
    assert data(path, "images").load().augment is None
    assert 0 < int(mirrored.sum()) < 30


def test_the_batches_from_a_step_on_are_those_of_who_began_at_the_first(tmp_path):
    path = write_images(tmp_path / "set", "images", 40, 20, "folder")
    loaded = data(path, "images", shift=2, flip=True, cutout=4).load()
    whole, resumed = ([*Batches(loaded, 16, STREAMS).stream(first, 9)] for first in (0, 5))
    assert all(torch.equal(a, b) and torch.equal(y, z) for (a, y), (b, z) in zip(whole[5:], resumed, strict=True))
    assert not torch.equal(whole[0][0], loaded.train.take(Batches(loaded, 16, STREAMS).indices(0, 1)[0])[0])
