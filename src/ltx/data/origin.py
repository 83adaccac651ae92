"""What a source of images is: its files, the format they are in, and folders with a folder for each class."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ltx.errors import BadInput, nearest

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation", "dev"),
}  # of parts, as sources have them
SAVED = ("dataset_dict.json", "state.json")  # one of them is in a folder that `save_to_disk` has written

Layout = Literal["parquet", "images", "saved"]
File = tuple[str, int, int]  # its path below the source, bytes, and the time of its last change


@dataclass(frozen=True)
class Source:
    """Which images are asked for: those of a path or of the Hub, and what makes them arrays and classes.

    image, label: columns, null for the only one there is. size: pixels of a centre crop after the shorter side was made
    as long; channels: what all images are converted to; null: they stay as they are. classes: how many there are, where
    that is known.
    """

    path: str | None
    hub: str | None
    revision: str | None
    image: str | None
    label: str | None
    size: int | None
    channels: int | None
    classes: int | None

    @property
    def place(self) -> Path:
        """The path of what is on this machine, absolute."""
        return Path(os.path.abspath(os.path.expanduser(str(self.path))))

    def identity(self) -> dict[str, Any]:
        """Return what leads to the same arrays while it stays as it is. Raises BadInput where there is no such path."""
        if self.path is None:
            return asdict(self)
        return {**asdict(self), "path": str(self.place), "hub": None, "revision": None, "files": files(self.place)}


@dataclass(frozen=True)
class Images:
    """The images of one part, encoded: bytes, or paths of files. labels: int64 (N,)."""

    labels: np.ndarray[Any, Any]
    where: str
    paths: Sequence[str] = ()
    table: Any = None  # a set of `datasets` with the column `image` alone, which gives Arrow tables
    parquet: Sequence[tuple[str, int]] = ()  # the files that hold the rows in order, with their numbers of rows

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, start: int, stop: int) -> list[bytes | str | None]:
        """Return some of the images, None for one that is missing."""
        if self.table is None:
            return list(self.paths[start:stop])
        rows = self.table[start:stop].column(0).to_pylist()
        return [row if not isinstance(row, dict) else row["bytes"] or row["path"] for row in rows]

    def name(self, index: int) -> str:
        """Name an image, for messages: its file, or the row of a parquet file, which count from 0."""
        if self.table is None:
            return self.paths[index]
        for file, rows in self.parquet:
            if index < rows:
                return f"{file}, row {index},"
            index -= rows
        return f"{self.where}, row {index},"


@dataclass(frozen=True)
class Opened:
    """A source that was read: its part `train`, `val` and `test` where it has them, names of classes, and notes."""

    parts: Mapping[str, Images]
    names: Sequence[str]
    notes: list[str] = field(default_factory=list)


def files(place: Path) -> list[File]:
    """List the files of a source with their sizes and times, those of hidden folders left out; sorted.

    Raises BadInput where there are none.
    """
    if not place.exists():
        beside = [path.name for path in place.parent.iterdir()] if place.parent.is_dir() else []
        hint = nearest(place.name, [name for name in beside if name[0] != "."])
        raise BadInput(f"data.path={place} does not exist{hint}")
    found: list[File] = []
    seen: set[tuple[int, int]] = set()

    def walk(folder: Path, prefix: str) -> None:
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue
            about = entry.stat()
            if stat.S_ISDIR(about.st_mode) and (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))  # a link can lead back to a folder above
                walk(Path(entry.path), f"{prefix}{entry.name}/")
            elif stat.S_ISREG(about.st_mode):
                found.append((f"{prefix}{entry.name}", about.st_size, about.st_mtime_ns))

    try:
        if place.is_dir():
            walk(place, "")
        else:
            about = place.stat()
            found.append((place.name, about.st_size, about.st_mtime_ns))
    except OSError as error:
        raise BadInput(f"data.path={place} cannot be read: {error.filename}: {error.strerror}.") from error
    if not found:
        raise BadInput(f"data.path={place} is an empty folder; it should hold parquet files, or a folder a class.")
    return sorted(found)


def layout(place: Path, names: Sequence[str]) -> Layout:
    """Tell which of the formats a path is in, from the names of its files. Raises BadInput for none of them."""
    if any(name in SAVED for name in names):
        return "saved"
    if any(name.endswith(".parquet") for name in names):
        return "parquet"
    if any(name.lower().endswith(SUFFIXES) for name in names) and place.is_dir():
        return "images"
    raise BadInput(
        f"data.path={place} holds no images in a known format (it has {', '.join(names[:3])}); it should be a folder "
        "of parquet files as the Hub has them, one such file, a folder with a folder of images for each class, or what "
        "save_to_disk of `datasets` has written."
    )


def canonical(parts: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Return the parts as train, val and test, and notes on those left out. Raises BadInput without one to train.

    A part for validation is the test part where there is no other: the Hub has sets whose test labels are secret.
    """
    found = {part: parts[name] for part, names in NAMES.items() for name in names if name in parts}
    if len(parts) == 1:
        found = {"train": next(iter(parts.values()))}
    if "train" not in found:
        raise BadInput(f"{where} has no part to train on, but the parts {', '.join(parts)}; one should be named train.")
    if "val" in found and "test" not in found:
        found["test"] = found.pop("val")
    others = [name for name, part in parts.items() if not any(part is used for used in found.values())]
    notes = [f"the part {name} is left out" for name in others]
    return {part: found[part] for part in NAMES if part in found}, notes


def folders(place: Path, listed: Sequence[str], classes: int | None) -> Opened:
    """Read a folder of images: <class>/x.png, or train/<class>/x.png with folders for other parts beside it."""
    images = [name for name in listed if name.lower().endswith(SUFFIXES)]
    tops = {name.partition("/")[0] for name in images if "/" in name}
    split = tops <= {name for names in NAMES.values() for name in names} and bool(tops & {*NAMES["train"]})
    parts: dict[str, list[tuple[str, str]]] = {}
    for name in images:
        part, _, rest = name.partition("/") if split else ("train", "", name)
        label, slash, _ = rest.partition("/")
        if not slash:
            raise BadInput(f"{place / name} is in no folder of a class; images belong in one, as <class>/x.png.")
        parts.setdefault(part, []).append((name, label))
    for top in [place / part for part in parts] if split else [place]:
        for folder in sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith(".")):
            below = f"{folder.relative_to(place).as_posix()}/"
            if not any(name.startswith(below) for name in images):
                raise BadInput(f"{folder} is the folder of a class and holds no images; fill it, or remove it.")
    found, notes = canonical(parts, str(place))
    names = sorted({label for members in found.values() for _, label in members})
    numbers = {name: number for number, name in enumerate(names)}
    opened_parts = {
        part: Images(
            np.array([numbers[label] for _, label in members], "int64"), part, [str(place / n) for n, _ in members]
        )
        for part, members in found.items()
    }
    other = [name for name in listed if name not in {*images}]
    if other:
        notes.append(f"{len(other)} of its files are no images and were left out, {other[0]} for one")
    check_labels({part: images.labels for part, images in opened_parts.items()}, names, classes, str(place))
    return Opened(opened_parts, names, notes)


def check_labels(
    labels: Mapping[str, np.ndarray[Any, Any]], names: Sequence[str], classes: int | None, where: str
) -> None:
    """Raise BadInput for labels that are no class, for a class that is never trained, and where there is but one."""
    if classes is not None and len(names) > classes:
        raise BadInput(
            f"{where} has {len(names)} classes, and this data set {classes}; data=images takes any number of them."
        )
    for part, values in labels.items():
        wrong = np.flatnonzero((values < 0) | (values >= len(names)))
        if len(wrong):
            raise BadInput(
                f"row {wrong[0]} of the part {part} of {where} has the label {values[wrong[0]]}; labels should be from "
                f"0 to {len(names) - 1}."
            )
        if not len(values):
            raise BadInput(f"the part {part} of {where} has no examples.")
    trained = {*np.unique(labels["train"]).tolist()}
    if len(trained) < 2:
        only = names[next(iter(trained))]
        raise BadInput(f"all images of {where} are of the class {only}: with one class there is nothing to tell apart.")
    for part, values in labels.items():
        unseen = sorted({*np.unique(values).tolist()} - trained)
        if unseen:
            raise BadInput(f"the part {part} of {where} has the class {names[unseen[0]]}, which train has not.")
