"""What a data set is: facts known without loading it, and three parts that give the examples of any indices."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ltx.errors import BadInput, described
from ltx.streams import generator

TaskName = Literal["classification", "next_token", "regression"]
Augment = Callable[[Tensor, np.random.Generator], Tensor]
Example = tuple[Tensor, Tensor]
Rngs = Iterable[np.random.Generator]
# Numbers that are evaluated at once: on a CPU 128 images of 3x32x32, whose layers its caches hold.
ON_CPU, ELSEWHERE = 3 * 2**17, 2**23
MEASURED = 2_000  # training examples that the training loss of a level is measured on, at most
VALIDATED, SEEN = 256, 1000  # see `grid_size`


@dataclass(frozen=True)
class Facts:
    """What a data set is, known without loading it.

    input_shape: of one example. classes: how many outputs a network has: classes, tokens of a vocabulary, or numbers.
    train, val, test: examples in each part.
    bytes: that each number of an example takes in memory: 4, 1 where images stay bytes, 0 where they stay encoded.
    """

    input_shape: tuple[int, ...]
    classes: int
    train: int
    val: int
    test: int
    task: TaskName = "classification"
    bytes: int = field(default=4, compare=False)

    def zeros(self, examples: int, device: str = "cpu") -> Tensor:
        """Return a batch of the right shape and type, to try a network on."""
        kind = torch.int64 if self.task == "next_token" else torch.float32
        return torch.zeros(examples, *self.input_shape, dtype=kind, device=device)


class Split(Protocol):
    """One part of a data set. Whoever asks gets the same numbers for the same indices, wherever they come from."""

    @property
    def y(self) -> Tensor:
        """The targets of all examples."""

    @property
    def x(self) -> Tensor:
        """All examples at once."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor | slice, rng: np.random.Generator | None = None) -> Example:
        """Return examples x (n, *input_shape) and targets y (n, ...).

        With a generator they are as training sees them, of a split that augments while it decodes; others have no use
        for it.
        """

    def ahead(self, batches: Iterable[Tensor], rngs: Rngs | None = None) -> Iterator[Example]:
        """Return what `take` gives for one index tensor after another, each with its generator where there are any.

        It may be made ready before it is asked for.
        """

    def chunks(self, size: int) -> Iterator[Example]:
        """Return all examples in order, `size` at a time, large ones fewer (see `at_once`)."""

    def part(self, indices: Tensor) -> Split:
        """Return the split of some of the examples, in that order."""

    def labelled(self, y: Tensor) -> Split:
        """Return the same examples with other targets."""

    def to(self, device: torch.device | str) -> Split:
        """Return the split whose examples come on a device."""

    def digest(self) -> bytes:
        """Return bytes that change where the examples do; of files names, sizes and targets."""


def at_once(size: int, shape: Sequence[int], device: torch.device | str) -> int:
    """Return how many examples of a shape are given at once on a device where `size` are asked for: 32 at least."""
    most = ON_CPU if torch.device(device).type == "cpu" else ELSEWHERE
    return min(size, max(32, most // math.prod(shape)))


def grid_size(seen: int, val: int) -> int:
    """Return how many of `val` validation examples are looked at while a level trains on `seen` examples.

    All are at the end of the level. The fifty times before then see no more than one example for every twenty that
    are trained on, but 256 each: a forward pass is a third of a step, so that they cost 2 % of the level.
    """
    return min(val, max(VALIDATED, seen // SEEN))


def chosen(tensor: Tensor, indices: Tensor | slice) -> Tensor:
    """Return tensor[indices] of indices (N,), copied a row at a time: three to seven times as fast."""
    return tensor[indices] if isinstance(indices, slice) else tensor.index_select(0, indices)


@dataclass(frozen=True)
class Memory:
    """Examples x (N, *input_shape) and targets y (N, ...) as tensors."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Tensor | slice, rng: np.random.Generator | None = None) -> Example:
        return chosen(self.x, indices), chosen(self.y, indices)

    def ahead(self, batches: Iterable[Tensor], rngs: Rngs | None = None) -> Iterator[Example]:
        return map(self.take, batches)

    def chunks(self, size: int) -> Iterator[Example]:
        size = at_once(size, self.x.shape[1:], self.x.device)
        return zip(self.x.split(size), self.y.split(size), strict=True)

    def part(self, indices: Tensor) -> Memory:
        return Memory(self.x[indices], self.y[indices])

    def labelled(self, y: Tensor) -> Memory:
        return Memory(self.x, y)

    def to(self, device: torch.device | str) -> Memory:
        return Memory(self.x.to(device), self.y.to(device))

    def digest(self) -> bytes:
        return self.x.numpy().tobytes() + self.y.numpy().tobytes()


@dataclass(frozen=True)
class Files:
    """Examples that are decoded from one file each when they are wanted, by worker processes ahead of need.

    targets: a label for each file, of any kind that `assemble` takes; a tensor in a part of a data set.
    decode: a function of a module (workers import it) from a path to an array of the example's shape.
    workers: processes that decode; 0: this one.
    """

    paths: Sequence[str | Path]
    targets: Any
    decode: Callable[[Path], Any]
    workers: int = 2
    device: torch.device | str = "cpu"

    @property
    def y(self) -> Tensor:
        return torch.as_tensor(self.targets, device=self.device)

    @property
    def x(self) -> Tensor:
        return self.take(slice(None))[0]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | BadInput:
        """Decode one example; an error that names the file where it cannot be decoded."""
        path = Path(self.paths[index])
        try:
            return torch.as_tensor(np.asarray(self.decode(path))).float()
        except MemoryError:  # of the machine, not of the file
            raise
        except Exception as error:  # decoders are the user's and raise anything; `whole` raises it with the file's name
            return BadInput(f"{path} cannot be decoded: {described(error)}.")

    def example(self, index: int) -> Tensor:
        """Decode one example. Raises BadInput naming its file where it cannot be decoded."""
        return whole(self[index])

    def take(self, indices: Tensor | slice, rng: np.random.Generator | None = None) -> Example:
        wanted = [*range(len(self))[indices]] if isinstance(indices, slice) else indices.tolist()
        x = whole(stacked([self[index] for index in wanted]))
        return x.to(self.device), self.targets[wanted].to(self.device)

    def ahead(self, batches: Iterable[Tensor], rngs: Rngs | None = None) -> Iterator[Example]:
        if not self.workers:
            yield from map(self.take, batches)
            return
        from torch.utils.data import DataLoader

        asked = Asked(batches)
        loader: DataLoader[Any] = DataLoader(
            self,  # type: ignore[arg-type]  # a loader needs no more than __len__ and __getitem__
            batch_sampler=asked,
            num_workers=self.workers,
            collate_fn=stacked,
            multiprocessing_context="fork" if hasattr(os, "fork") else None,  # others start an interpreter each time
            generator=torch.Generator(),  # otherwise it draws from the global one, and changes what dropout draws
        )
        for found in loader:
            yield whole(found).to(self.device), self.targets[asked.given.pop(0)].to(self.device)

    def chunks(self, size: int) -> Iterator[Example]:
        return self.ahead(torch.arange(len(self)).split(size))

    def part(self, indices: Tensor) -> Files:
        return replace(self, paths=[self.paths[i] for i in indices.tolist()], targets=self.targets[indices])

    def labelled(self, y: Tensor) -> Files:
        return replace(self, targets=y)

    def to(self, device: torch.device | str) -> Files:
        return replace(self, device=device)

    def digest(self) -> bytes:
        names = [f"{Path(path).name}:{Path(path).stat().st_size}" for path in self.paths]
        return "\n".join(names).encode() + self.targets.numpy().tobytes()


def stacked(examples: list[Tensor | BadInput]) -> Tensor | BadInput:
    """Return examples as one tensor, or the first error among them: errors travel between processes as values."""
    for example in examples:
        if isinstance(example, BadInput):
            return example
    return torch.stack([example for example in examples if isinstance(example, Tensor)])


def whole(found: Tensor | BadInput) -> Tensor:
    """Return what was decoded. Raises BadInput naming a file that could not be."""
    if isinstance(found, BadInput):
        raise found
    return found


class Asked:
    """The batches of indices as a loader wants them, and those it has taken, in order, for their targets."""

    def __init__(self, batches: Iterable[Tensor]):
        self.batches = batches
        self.given: list[Tensor] = []

    def __iter__(self) -> Iterator[list[int]]:
        for indices in self.batches:
            self.given.append(indices.cpu())
            yield indices.tolist()


@dataclass(frozen=True)
class Dataset:
    """The three parts as a run sees them; `augment` changes a training batch with draws from a generator.

    names: of the classes, as the labels were given. notes: what was changed of what the user gave, in words.
    """

    train: Split
    val: Split
    test: Split
    classes: int
    augment: Augment | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    task: TaskName = "classification"

    @cached_property
    def facts(self) -> Facts:
        """What `load`ing has shown the data set to be."""
        shape = tuple(self.train.take(slice(0, 1))[0].shape[1:])
        return Facts(shape, self.classes, len(self.train), len(self.val), len(self.test), self.task)

    @cached_property
    def measured(self) -> Split:
        """The training examples that a level's training loss is measured on: all, or a fixed random subset."""
        return some(self.train, MEASURED, "measured")

    def validated(self, seen: int) -> Split:
        """Return the validation examples that are looked at while a level trains: all, or a fixed random subset."""
        return some(self.val, grid_size(seen, len(self.val)), "validated")

    def fingerprint(self) -> str:
        """Return the SHA-256 of every part, the first 16 digits."""
        digest = hashlib.sha256()
        for split in (self.train, self.val, self.test):
            digest.update(split.digest())
        return digest.hexdigest()[:16]


def some(split: Split, most: int, purpose: str) -> Split:
    """Return a split, or a subset of it that is the same for all seeds, of `most` examples."""
    n = len(split)
    return split if n <= most else split.part(torch.from_numpy(generator("split", 0, purpose).permutation(n)[:most]))


def with_random_labels(data: Dataset, seed: int) -> Dataset:
    """Permute the training and validation labels, each among themselves: nothing is left to learn but the marginals."""

    def permuted(name: str, split: Split) -> Split:
        order = generator("split", seed, "labels", name).permutation(len(split))
        return split.labelled(split.y[torch.from_numpy(order)])

    return replace(data, train=permuted("train", data.train), val=permuted("val", data.val))
