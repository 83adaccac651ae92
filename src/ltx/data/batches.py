"""Training batches as a pure function of (stream, step)."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
import torch
from torch import Tensor

from ltx.data.splits import Dataset, Example
from ltx.streams import Streams

SPAN = 100  # steps whose indices are made at once


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
        n = len(self.train)
        first, last = start * self.batch // n, (stop * self.batch - 1) // n
        for epoch in range(first, last + 1):
            if epoch not in self.epochs:
                self.epochs[epoch] = self.streams.generator("order", "epoch", epoch).permutation(n)
        for epoch in [e for e in self.epochs if not first <= e <= last]:
            del self.epochs[epoch]
        joined = np.concatenate([self.epochs[epoch] for epoch in range(first, last + 1)])
        part = joined[start * self.batch - first * n : stop * self.batch - first * n]
        return torch.from_numpy(part.reshape(-1, self.batch)).to(self.device)

    def stream(self, first: int, last: int) -> Generator[Example, None, None]:
        """Return the batches of the steps first .. last - 1, x (batch, *input_shape) augmented, and y (batch, ...).

        Close it when no more is wanted: worker processes may stand behind it.
        """

        def wanted() -> Iterator[Tensor]:
            for start in range(first, last, SPAN):
                yield from self.indices(start, min(start + SPAN, last))

        ahead = self.train.ahead(wanted(), map(self.draws, range(first, last)))
        try:
            step = first
            for x, y in ahead:
                x = self.augmented(step, x)
                yield x, y
                del x, y  # so that the next batch is written where this one still lies in the processor's cache
                step += 1
        finally:
            if isinstance(ahead, Generator):
                ahead.close()  # closing the generator around it does not, in Python 3.12

    def at(self, step: int) -> Example:
        """Return the batch of one step."""
        x, y = self.train.take(self.indices(step, step + 1)[0], self.draws(step))
        return self.augmented(step, x), y

    def draws(self, step: int) -> np.random.Generator:
        """Return the generator of a step's augmentation."""
        return self.streams.generator("augment", "step", step)

    def augmented(self, step: int, x: Tensor) -> Tensor:
        """Return the examples of a step as training sees them."""
        return x if self.augment is None else self.augment(x, self.draws(step))
