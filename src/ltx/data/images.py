"""Images of the Hugging Face Hub, or of a folder or file of one's own; the base of the named sets beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Len, Lt

from ltx.data import cache
from ltx.data.augment import composed, cutout, flip, shift
from ltx.data.origin import Source
from ltx.data.pixels import Pixels, moments
from ltx.data.splits import Augment, Dataset, Facts
from ltx.errors import BadInput
from ltx.streams import generator

Part = tuple[str, torch.Tensor]  # a part of the source, and rows of it


@dataclass(frozen=True)
class Data:
    """Images with classes, kept as bytes and normalised when they are taken.

    path: a folder of parquet files or of a folder a class, one parquet file, or a set that `datasets` has saved; null:
    the set named `hub`, at `revision`. image, label: columns; null: the only one there is. size, channels: what all
    images are resized and cropped, and converted, to. shape, classes: what they are then; null: what is found.
    train, test: examples that the Hub has, so that nothing need be fetched to say so.
    val: share of the training part that is held out; test_share: likewise to test, where the source has no such part.
    mean, sd: of each channel in [0, 1]; null: those of the examples that train. shift, flip, cutout: see `augment`.
    """

    # Fields that say where images come from and how they are read. With a path they stay out of a run's key, which has
    # the digest of the images instead: the same images in another place or format are the same run.
    origin: ClassVar[frozenset[str]] = frozenset(
        {"path", "hub", "revision", "image", "label", "size", "channels", "train", "test"}
    )

    split_seed: Annotated[int, Ge(0)]
    path: Annotated[str, Len(1)] | None
    hub: Annotated[str, Len(1)] | None
    revision: str | None
    image: str | None
    label: str | None
    size: Annotated[int, Ge(4), Le(1024)] | None
    channels: Literal[1, 3] | None
    shape: Annotated[list[Annotated[int, Ge(1)]], Len(3, 3)] | None
    classes: Annotated[int, Ge(2)] | None
    train: Annotated[int, Ge(2)] | None
    test: Annotated[int, Ge(1)] | None
    val: Annotated[float, Gt(0), Lt(1)]
    test_share: Annotated[float, Gt(0), Lt(1)]
    mean: Annotated[list[float], Len(1, 3)] | None
    sd: Annotated[list[Annotated[float, Gt(0)]], Len(1, 3)] | None
    shift: Annotated[int, Ge(0), Le(64)]
    flip: bool
    cutout: Annotated[int, Ge(0), Le(512)]

    def __post_init__(self) -> None:
        if self.path is None and self.hub is None:
            raise BadInput(
                "data=images has no images yet: name a folder of them, data.path=FOLDER, or a data set of the Hugging "
                "Face Hub, data.hub=OWNER/NAME."
            )
        if (self.mean is None) != (self.sd is None):
            raise BadInput("data.mean and data.sd go together; give both, or null for both.")
        if self.shape is not None:
            self.check_moments(self.shape[0])

    def check_moments(self, channels: int) -> None:
        """Raise BadInput where there is not a mean and a standard deviation for each channel."""
        for name in ("mean", "sd"):
            values = getattr(self, name)
            if values is not None and len(values) != channels:
                raise BadInput(
                    f"data.{name} should have a value for each of the {channels} channels, not {len(values)}."
                )

    @property
    def source(self) -> Source:
        """Where the images come from."""
        names = ("path", "hub", "revision", "image", "label", "size", "channels", "classes")
        return Source(**{name: getattr(self, name) for name in names})

    @property
    def content(self) -> str:
        """The digest of the decoded images, their labels and the names of the classes; they are decoded to find it."""
        return self.prepared.content

    @cached_property
    def prepared(self) -> cache.Prepared:
        """The images in the cache, as the fields say they should be. Raises BadInput where they are not."""
        found = cache.prepared(self.source)
        if self.shape is not None and found.shape != tuple(self.shape):
            wanted, has = ("x".join(map(str, shape)) for shape in (self.shape, found.shape))
            where = self.path if self.path is not None else self.hub
            raise BadInput(
                f"this data set has images {wanted} (channels x height x width), those of {where} are {has}; "
                "data=images takes any."
            )
        self.check_moments(found.shape[0])
        return found

    def facts(self) -> Facts:
        """Return what the set is: as the yaml says of the Hub's, else as the images are, which are decoded for it."""
        if self.path is None and None not in (self.shape, self.classes, self.train, self.test):
            assert self.shape and self.classes and self.train and self.test
            val = held_out("val", self.val, self.train)
            return Facts(tuple(self.shape), self.classes, self.train - val, val, self.test, bytes=1)
        found = self.prepared
        train, val, test = (len(rows) for _, rows in self.parts().values())
        return Facts(found.shape, self.classes or len(found.names), train, val, test, bytes=1)

    def parts(self) -> dict[str, Part]:
        """Return for train, val and test which part of the source has it, and its rows there."""
        return divided(self.prepared.counts, self.split_seed, self.val, self.test_share)

    def load(self) -> Dataset:
        """Return the three splits, x (N, C, H, W) normalised, with the augmentation that the fields ask for."""
        found = self.prepared
        pixels = {part: torch.from_numpy(found.pixels(part)) for part in found.counts}
        labels = {part: torch.from_numpy(found.labels(part).astype("int64")) for part in found.counts}
        parts = self.parts()
        if self.mean is None or self.sd is None:
            mean, sd = moments(pixels["train"], parts["train"][1])
            sd = sd.clamp_min(1e-3)  # of a channel that is the same everywhere
        else:
            mean, sd = torch.tensor(self.mean), torch.tensor(self.sd)
        train, val, test = (
            Pixels(pixels[of], rows, labels[of][rows], mean, sd, found.content) for of, rows in parts.values()
        )
        classes = self.classes or len(found.names)
        return Dataset(train, val, test, classes, self.augment(mean, sd), found.names, found.notes)

    def augment(self, mean: torch.Tensor, sd: torch.Tensor) -> Augment | None:
        """Return what changes training images: a shift filled with black, a flip, then a square cut out."""
        steps: list[Augment] = []
        if self.shift:
            steps.append(shift(self.shift, fill=(-mean / sd).tolist()))
        if self.flip:
            steps.append(flip)
        if self.cutout:
            steps.append(cutout(self.cutout))
        return composed(*steps)


def held_out(part: str, share: float, count: int) -> int:
    """Return how many of the training examples a share is. Raises BadInput where it leaves nothing on one side."""
    size = round(share * count)
    if not 0 < size < count:
        raise BadInput(f"{count} images are too few: a {part} part of {size} leaves nothing on one side.")
    return size


def divided(counts: Mapping[str, int], split_seed: int, val: float, test: float) -> dict[str, Part]:
    """Return for train, val and test which part of a source has it, and its rows there.

    What the source does not have is held out of its training part by `split_seed` alone, the test part first.
    """
    found: dict[str, Part] = {part: (part, torch.arange(count)) for part, count in counts.items()}
    order = torch.from_numpy(generator("split", split_seed).permutation(counts["train"]))
    for part, share in (("test", test), ("val", val)):
        if part not in found:
            size = held_out(part, share, len(order))
            found[part], order = ("train", order[:size]), order[size:]
    if len(order) < counts["train"]:
        found["train"] = ("train", order)
    return {part: found[part] for part in ("train", "val", "test")}
