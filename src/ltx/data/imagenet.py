"""Photographs of all sizes, too many to keep decoded: ImageNet (Russakovsky et al. 2015), and any set like it."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Len, Lt

from ltx.data import cache, sources
from ltx.data.decode import cores
from ltx.data.encoded import Encoded, View
from ltx.data.images import divided, held_out
from ltx.data.origin import Opened, Source, files
from ltx.data.splits import Dataset, Facts
from ltx.errors import BadInput
from ltx.store.files import canonical


@dataclass(frozen=True)
class Data:
    """Images with classes that stay encoded where they are, and are decoded whenever they are wanted.

    Training sees a random box of each, resized, and mirrored half of the time; evaluation its centre (see
    `encoded.View`). Both are functions of the image's index, and of stream and step.

    path: a folder with a folder of images for each class, below train/ and val/, say; of parquet files, which are
    written to the cache folder once as `datasets` reads them; or a set that `datasets` has saved. null: the set named
    `hub`, at `revision`. image, label: columns; null: the only one there is.
    side, resize: pixels of what a network sees, and of an image's shorter side before its centre is cut out.
    area: the least share of an image that training sees. flip: mirror half of them.
    classes, train, test: what the Hub has, so that nothing need be fetched to say so.
    val, test_share: shares of the training part that are held out where the source has no such part.
    mean, sd: of each channel in [0, 1]. decoders: processes that decode; null: one a core, 0: none.
    """

    origin: ClassVar[frozenset[str]] = frozenset(
        {"path", "hub", "revision", "image", "label", "train", "test", "decoders"}
    )

    split_seed: Annotated[int, Ge(0)]
    path: Annotated[str, Len(1)] | None
    hub: Annotated[str, Len(1)] | None
    revision: str | None
    image: str | None
    label: str | None
    side: Annotated[int, Ge(8), Le(1024)]
    resize: Annotated[int, Ge(8), Le(1024)]
    classes: Annotated[int, Ge(2)] | None
    train: Annotated[int, Ge(2)] | None
    test: Annotated[int, Ge(1)] | None
    val: Annotated[float, Gt(0), Lt(1)]
    test_share: Annotated[float, Gt(0), Lt(1)]
    mean: Annotated[list[float], Len(3, 3)]
    sd: Annotated[list[Annotated[float, Gt(0)]], Len(3, 3)]
    area: Annotated[float, Gt(0), Le(1)]
    flip: bool
    decoders: Annotated[int, Ge(0), Le(1024)] | None

    def __post_init__(self) -> None:
        if self.path is None and self.hub is None:
            raise BadInput("data.path and data.hub are both null: one of them says where the images are.")
        if self.resize < self.side:
            raise BadInput(f"data.resize={self.resize} is smaller than the centre to cut out, data.side={self.side}.")

    @property
    def source(self) -> Source:
        """Where the images come from."""
        names = ("path", "hub", "revision", "image", "label", "classes")
        return Source(**{name: getattr(self, name) for name in names}, size=None, channels=3)

    @property
    def content(self) -> str:
        """The digest of the names and sizes of the files, the labels, and the names of the classes."""
        return content_of(self.source)

    def facts(self) -> Facts:
        """Return what the set is: as the yaml says of the Hub's, else as the files are, of which none is decoded."""
        shape = (3, self.side, self.side)
        if self.path is None and self.classes and self.train and self.test:
            val = held_out("val", self.val, self.train)
            return Facts(shape, self.classes, self.train - val, val, self.test, bytes=0)
        found = opened(self.source)
        train, val, test = (len(rows) for _, rows in self.parts(found).values())
        return Facts(shape, self.classes or len(found.names), train, val, test, bytes=0)

    def parts(self, found: Opened) -> dict[str, tuple[str, torch.Tensor]]:
        """Return for train, val and test which part of the source has it, and its rows there."""
        counts = {part: len(images) for part, images in found.parts.items()}
        return divided(counts, self.split_seed, self.val, self.test_share)

    def load(self) -> Dataset:
        """Return the three splits, x (N, 3, side, side) normalised."""
        found, content = opened(self.source), self.content
        view = View(self.side, self.resize, self.area, self.flip)
        mean, sd = torch.tensor(self.mean), torch.tensor(self.sd)
        decoders = cores() if self.decoders is None else self.decoders

        def split(part: str, rows: torch.Tensor) -> Encoded:
            images = found.parts[part]
            y = torch.from_numpy(images.labels.astype("int64"))[rows]
            return Encoded(images, view, rows, y, mean, sd, content, decoders)

        train, val, test = (split(part, rows) for part, rows in self.parts(found).values())
        classes = self.classes or len(found.names)
        return Dataset(train, val, test, classes, names=tuple(found.names), notes=tuple(found.notes))


@functools.cache
def opened(source: Source) -> Opened:
    """Read where the images of a source are, once a process. Raises BadInput for a source that cannot be used."""
    return sources.opened(source, cache.folder("datasets"))


@functools.cache
def content_of(source: Source) -> str:
    """Return the digest of a source whose images are not read for it."""
    found = opened(source)
    listed = [] if source.path is None else [(name, size) for name, size, _ in files(source.place)]
    labels = {part: hashlib.sha256(images.labels.tobytes()).hexdigest() for part, images in found.parts.items()}
    return hashlib.sha256(canonical([listed, labels, list(found.names)]).encode()).hexdigest()
