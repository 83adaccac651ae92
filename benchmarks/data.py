"""Measure images: what a batch costs from the cache, and decoding on all cores. `make bench ARGS=data` runs it."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench import Line, composed, medians, timed

STEPS = 20  # of ResNet-20, and as many batches


def batches() -> Iterator[Line]:
    """A batch of 128 images of CIFAR's size from a mapped file, shifted and flipped, against a step of ResNet-20."""
    import torch

    from ltx.data.augment import composed as in_turn
    from ltx.data.augment import flip, shift
    from ltx.data.batches import Batches
    from ltx.data.pixels import Pixels
    from ltx.data.splits import Dataset
    from ltx.streams import Streams
    from ltx.training.heap import memory_kept

    torch.set_num_threads(1)
    rng, n = np.random.default_rng(0), 50_000
    with tempfile.TemporaryDirectory() as folder, memory_kept():
        file = Path(folder) / "train.bin"
        rng.integers(0, 256, (n, 3, 32, 32), dtype="uint8").tofile(file)
        pixels = torch.from_numpy(np.memmap(file, "uint8", "c", shape=(n, 3, 32, 32)))
        labels, ones = torch.from_numpy(rng.integers(0, 10, n)), torch.ones(3)
        train = Pixels(pixels, torch.arange(n), labels, 0.5 * ones, 0.25 * ones, "random")
        data = Dataset(train, train, train, 10, in_turn(shift(4, [-2.0] * 3), flip))
        network = resnet20()
        optimiser = torch.optim.SGD(network.parameters(), 0.1, 0.9)
        given = Batches(data, 128, Streams(0, 0, 0, 0, 0))
        x, y = given.at(0)

        def reading() -> float:
            def epoch() -> None:
                for _ in given.stream(0, STEPS):
                    pass

            return timed(epoch) / STEPS

        def step() -> float:
            def steps() -> None:
                for _ in range(STEPS):
                    optimiser.zero_grad()
                    torch.nn.functional.cross_entropy(network(x), y).backward()
                    optimiser.step()

            return timed(steps) / STEPS

        a, b = medians(reading, step)
    share = 100 * a / b
    yield Line("images: batch / ResNet-20 step", share, 5.0, "%", False, f"{a * 1e3:.1f} / {b * 1e3:.0f} ms")


def resnet20() -> Any:
    """Return ResNet-20 for images of CIFAR's size, as a run has it."""
    from ltx.config.spec import Spec

    return Spec.of(composed("method=dense", "model=resnet20", "data=cifar10")).network().train()


def decoding() -> Iterator[Line]:
    """10,000 PNGs of 32x32 decoded into a file by a process on every core, against one process."""
    from PIL import Image

    from ltx.data import decode
    from ltx.data.origin import Images, Source

    rng, n = np.random.default_rng(0), 10_000
    source = Source("", None, None, None, None, None, None, None)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i in range(n):
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype="uint8"))
            content = io.BytesIO()
            small.resize((32, 32), Image.Resampling.BICUBIC).save(content, "PNG")  # as hard to pack as a photograph
            paths.append(f"{folder}/{i:05d}.png")
            Path(paths[-1]).write_bytes(content.getvalue())
        images = Images(np.zeros(n, "int64"), "", paths)

        def on(cores: set[int]) -> float:
            everywhere = os.sched_getaffinity(0)
            os.sched_setaffinity(0, cores)
            try:
                began = time.perf_counter()
                decode.write(Path(folder) / "out.bin", images, source, (3, 32, 32), decode.Progress(n))
                return time.perf_counter() - began
            finally:
                os.sched_setaffinity(0, everywhere)

        cores = os.sched_getaffinity(0)
        one, many = medians(lambda: on({min(cores)}), lambda: on(cores))
    reach = 0.8 * len(cores)
    yield Line(f"decoding, one / {len(cores)} cores", one / many, reach, "x", True, f"{one:.2f} / {many:.2f} s")


def lines() -> Iterator[Line]:
    """Measure both."""
    yield from batches()
    yield from decoding()
