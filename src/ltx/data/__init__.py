"""What data sets share: tensors in memory, the seeded split, and batches that are a pure function of (stream, step)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ltx.data.arrays import arrays
from ltx.errors import BadInput
from ltx.streams import Streams, generator

Augment = Callable[[Tensor, np.random.Generator], Tensor]


@dataclass(frozen=True)
class Split:
    """Examples x (N, *input_shape) float32 and labels y (N,) int64."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device | str) -> Split:
        """Move both tensors to `device`."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Dataset:
    """The three splits as a run sees them; `augment` changes a training batch with draws from a generator.

    names: of the classes, as the labels were given. notes: what was changed of what the user gave, in words.
    """

    train: Split
    val: Split
    test: Split
    classes: int
    augment: Augment | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.train.x.shape[1:])

    def fingerprint(self) -> str:
        """Return the SHA-256 of every split's bytes, the first 16 digits."""
        digest = hashlib.sha256()
        for split in (self.train, self.val, self.test):
            digest.update(split.x.numpy().tobytes() + split.y.numpy().tobytes())
        return digest.hexdigest()[:16]


def assemble(
    parts: object, split_seed: int, val: float = 0.1, test: float = 0.2, augment: Augment | None = None
) -> Dataset:
    """Make a Dataset of {"train": (x, y)[, "val": ...][, "test": ...]}; see `arrays` for what x and y may be.

    A missing validation or test part is taken from train: a share (below 1) or a count of examples, chosen by
    `split_seed` alone, so that all seeds of a run share it. Raises BadInput naming what does not fit.
    """
    found = arrays(parts)
    splits = {name: Split(x.contiguous(), y.contiguous()) for name, (x, y) in found.parts.items()}
    train = splits["train"]
    order = torch.from_numpy(generator("split", split_seed).permutation(len(train.y)))
    for name, share in (("test", test), ("val", val)):
        if name not in splits:
            size = int(share if share >= 1 else round(share * len(train.y)))
            if not 0 < size < len(order):
                raise BadInput(f"A {name} part of {size} leaves nothing of {len(order)} examples to train on.")
            chosen, order = order[:size], order[size:]
            splits[name] = Split(train.x[chosen], train.y[chosen])
    splits["train"] = Split(train.x[order], train.y[order]) if len(order) < len(train.y) else train
    names = tuple(found.names)
    return Dataset(splits["train"], splits["val"], splits["test"], len(names), augment, names, found.notes)


def with_random_labels(data: Dataset, seed: int) -> Dataset:
    """Permute the training and validation labels, each among themselves: nothing is left to learn but the marginals."""

    def permuted(name: str, split: Split) -> Split:
        order = generator("split", seed, "labels", name).permutation(len(split.y))
        return Split(split.x, split.y[torch.from_numpy(order)])

    return replace(data, train=permuted("train", data.train), val=permuted("val", data.val))


class Batches:
    """Give the training batch of any step: epochs are permutations laid end to end, every batch full.

    A batch may straddle two epochs, so none is short and each example is seen once an epoch. Order and augmentation
    are functions of (stream, step) only: asking out of order, or resuming in the middle, changes nothing.
    """

    def __init__(self, data: Dataset, batch: int, streams: Streams, device: torch.device | str = "cpu"):
        self.train, self.augment = data.train.to(device), data.augment
        self.batch, self.streams, self.device = batch, streams, device
        self.epochs: dict[int, np.ndarray] = {}

    def indices(self, start: int, stop: int) -> Tensor:
        """Return the example indices (stop - start, batch) of the steps start .. stop - 1."""
        n = len(self.train.y)
        first, last = start * self.batch // n, (stop * self.batch - 1) // n
        for epoch in range(first, last + 1):
            if epoch not in self.epochs:
                self.epochs[epoch] = self.streams.generator("order", "epoch", epoch).permutation(n)
        for epoch in [e for e in self.epochs if not first <= e <= last]:
            del self.epochs[epoch]
        joined = np.concatenate([self.epochs[epoch] for epoch in range(first, last + 1)])
        part = joined[start * self.batch - first * n : stop * self.batch - first * n]
        return torch.from_numpy(part.reshape(-1, self.batch)).to(self.device)

    def at(self, step: int, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch x (batch, *input_shape), y (batch,) of one step, augmented."""
        x, y = self.train.x[indices], self.train.y[indices]
        if self.augment is not None:
            x = self.augment(x, self.streams.generator("augment", "step", step))
        return x, y


def shift(pixels: int, fill: float) -> Augment:
    """Return the augmentation that moves each image by up to `pixels` in both directions and fills with `fill`."""

    def augment(x: Tensor, rng: np.random.Generator) -> Tensor:
        n, _, height, width = x.shape
        down, right = torch.from_numpy(rng.integers(0, 2 * pixels + 1, (2, n))).to(x.device)
        padded = torch.nn.functional.pad(x, (pixels,) * 4, value=fill)
        rows = down[:, None] + torch.arange(height, device=x.device)
        columns = right[:, None] + torch.arange(width, device=x.device)
        at = torch.arange(n, device=x.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[at, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()

    return augment
