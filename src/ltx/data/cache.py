"""Decoded images on disk: made once for all runs, mapped into memory, and named by what is in them.

    images/<content>/header.json   shape, names of classes, and of each part its examples, bytes, SHA-256 and time
    images/<content>/<part>.bin    the pixels of the images, uint8 (N, C, H, W), behind them the labels, int64 (N,)
    index/<source>.json            which content a source has led to, while its files and what was asked stay the same
    places/<source>.json           the same of a path, whatever its files: for when they are not there any more

The images of a part are in the order of their digests, which mixes the classes: a folder of images and a parquet file
have theirs in different orders, and are the same content. Anything here can be deleted; it is made again where it is
wanted.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ltx.data import sources
from ltx.data.origin import Source
from ltx.errors import BadInput, Failed, notice
from ltx.store.files import TEMPORARY, Damaged, canonical, commit, host, process_lives, read_json

FORMAT = 1  # raise it when the same source leads to other arrays, or the files look otherwise
PIECE = 1 << 24  # bytes that are hashed at once
ROWS = 1024  # images that are written at once


@dataclass(frozen=True)
class Prepared:
    """Images that are in the cache. shape: (C, H, W) of each; counts: examples by part; notes: on the source."""

    folder: Path
    content: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    counts: dict[str, int]
    notes: tuple[str, ...]

    def pixels(self, part: str) -> np.ndarray[Any, Any]:
        """Map the images of a part, uint8 (N, C, H, W); what is written to them stays in this process."""
        return np.memmap(self.folder / f"{part}.bin", "uint8", "c", shape=(self.counts[part], *self.shape))

    def labels(self, part: str) -> np.ndarray[Any, Any]:
        """Read the labels of a part, int64 (N,)."""
        count = self.counts[part]
        return np.fromfile(self.folder / f"{part}.bin", "<i8", count, offset=count * math.prod(self.shape))


def home() -> tuple[Path, str]:
    """Return the folder of everything that is kept between runs, and what it was chosen by, for messages."""
    for name, below in (("LTX_CACHE", ""), ("XDG_CACHE_HOME", "ltx")):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser().absolute() / below, f"{name}={os.environ[name]}"
    return Path.home() / ".cache" / "ltx", "the cache folder ~/.cache/ltx"


def prepared(source: Source) -> Prepared:
    """Return the arrays of a source, made now unless the cache has them; the same throughout a process.

    Raises BadInput for a source, or a cache folder, that cannot be used, and Failed where the disk is full.
    """
    return _prepared(source, *home())


@functools.cache
def _prepared(source: Source, place: Path, chosen_by: str) -> Prepared:
    gone = source.path is not None and not source.place.exists()
    index = last_of(source, place) if gone else entry_of(source, place)
    there = indexed(place, index)
    if there is not None and gone:
        note = f"{source.place} is not there any more; what was decoded of it before is used"
        return replace(there, notes=(*there.notes, note))
    if there is not None:
        remember(source, place, index.read_bytes())
        return there
    if gone:
        source.identity()  # raises, and says what there is in its place
    usable(place / "images", place, chosen_by)
    try:
        return made(source, place, index)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full(place) from error
        raise Failed(f"the decoded images could not be written to {place}: {error.strerror or error}.") from error


def folder(name: str) -> Path:
    """Return a folder of the cache, made if it was not there. Raises BadInput and Failed as `prepared` does."""
    place, chosen_by = home()
    usable(place / name, place, chosen_by)
    return place / name


def usable(folder: Path, place: Path, chosen_by: str) -> None:
    """Make a folder of the cache. Raises BadInput where it cannot be written, and Failed where the disk is full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full(place) from error
        raise BadInput(
            f"{chosen_by} cannot be used for decoded images: {place}: {error.strerror}; set LTX_CACHE to a folder that "
            "can be written."
        ) from error


def full(place: Path) -> Failed:
    """Return the error of a full disk."""
    return Failed(
        f"{place}: No space left on the device for the decoded images; make room there, or set LTX_CACHE to a folder "
        "on another disk, and run the same command again."
    )


def is_prepared(source: Source) -> bool:
    """Tell whether the cache has been told what a source leads to; nothing is made, and its files are not looked at."""
    return entry_of(source, home()[0]).is_file()


def last_of(source: Source, place: Path) -> Path:
    """Return where a cache says what a path has led to last."""
    identity = {"format": FORMAT, **asdict(source), "path": str(source.place)}
    return place / "places" / f"{hashlib.sha256(canonical(identity).encode()).hexdigest()}.json"


def remember(source: Source, place: Path, entry: bytes) -> None:
    """Note what a path has led to, unless that stands there already; a cache need not be writable for that."""
    last = last_of(source, place)
    if source.path is not None and not (last.is_file() and last.read_bytes() == entry):
        with contextlib.suppress(OSError):
            commit(last, entry)


def entry_of(source: Source, place: Path) -> Path:
    """Return where the index of a cache says what a source leads to. Raises BadInput where there is no such path."""
    identity = {"format": FORMAT, **source.identity()}
    return place / "index" / f"{hashlib.sha256(canonical(identity).encode()).hexdigest()}.json"


def indexed(place: Path, index: Path) -> Prepared | None:
    """Return what an entry of the index leads to; None without one, or where the files are damaged, which is said."""
    try:
        entry = read_json(index)
        if entry is None:
            return None
        folder = place / "images" / str(entry["content"])
        if not folder.is_dir():
            return None
        return read(folder, tuple(entry["notes"]))
    except (Damaged, KeyError, TypeError) as error:
        notice(f"{error if isinstance(error, Damaged) else index} is damaged; the images are decoded again.")
        return None


def read(folder: Path, notes: tuple[str, ...]) -> Prepared:
    """Return what a folder holds. Raises Damaged where that is not what it was named for.

    Its files are read through only where their times are not those they were written at: a copy of the cache is.
    """
    header = read_json(folder / "header.json")
    try:
        if header is None or content_of(header) != folder.name:
            raise Damaged(str(folder))
        parts, moved = header["parts"], False
        for part, about in parts.items():
            found = (folder / f"{part}.bin").stat()
            if found.st_size != about["bytes"]:
                raise Damaged(str(folder / f"{part}.bin"))
            if found.st_mtime_ns != about["time"]:
                if digest(folder / f"{part}.bin") != about["sha256"]:
                    raise Damaged(str(folder / f"{part}.bin"))
                about["time"], moved = found.st_mtime_ns, True
        if moved:
            with contextlib.suppress(OSError):  # then it is read through the next time as well
                commit(folder / "header.json", canonical(header).encode())
        counts = {part: int(about["count"]) for part, about in parts.items()}
        return Prepared(folder, folder.name, tuple(header["shape"]), tuple(header["names"]), counts, notes)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(str(folder)) from error


def content_of(header: dict[str, Any]) -> str:
    """Return the digest of what is in the images, labels and names: not of where and when they were written."""
    parts = {part: [about["count"], about["sha256"]] for part, about in header["parts"].items()}
    return hashlib.sha256(canonical([header["shape"], header["names"], parts]).encode()).hexdigest()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            sha.update(piece)
    return sha.hexdigest()


def made(source: Source, place: Path, index: Path) -> Prepared:
    """Decode a source into the cache. Another process that does the same at the same time makes the same folder."""
    from ltx.data import decode

    with scratch(place) as temporary:
        opened = sources.opened(source, temporary / "datasets")
        folder = temporary / "content"
        folder.mkdir()
        train = opened.parts["train"]
        shape = decode.decoded(train, 0, 1, source, None).shape[1:]
        parts = {}
        with decode.progress(sum(map(len, opened.parts.values()))) as progress:
            for part, images in opened.parts.items():
                file, raw = folder / f"{part}.bin", temporary / "raw"
                digests = decode.write(raw, images, source, shape, progress)
                order = np.lexsort((images.labels, digests[:, 1], digests[:, 0]))
                with open(file, "wb") as out:
                    pixels = np.memmap(raw, "uint8", "r", shape=(len(images), *shape))
                    for start in range(0, len(images), ROWS):
                        out.write(pixels[order[start : start + ROWS]].tobytes())
                    out.write(images.labels[order].astype("<i8").tobytes())
                    out.flush()
                    os.fsync(out.fileno())
                about = file.stat()
                sizes = {"count": len(images), "bytes": about.st_size, "time": about.st_mtime_ns}
                parts[part] = {**sizes, "sha256": digest(file)}
        header = {"shape": list(shape), "names": list(opened.names), "parts": parts}
        content = content_of(header)
        commit(folder / "header.json", canonical(header).encode())
        settle(folder, place / "images" / content)
    entry = json.dumps({"content": content, "notes": opened.notes}).encode()
    commit(index, entry)
    remember(source, place, entry)
    return read(place / "images" / content, tuple(opened.notes))


def settle(folder: Path, final: Path) -> None:
    """Put a folder in its place, unless the same is there already; what is damaged there goes away."""
    while True:
        try:
            os.rename(folder, final)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        try:
            read(final, ())
            return
        except Damaged:
            aside = folder.with_name("damaged")
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.rename(final, aside)


@contextlib.contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """Give a folder in the cache that is removed afterwards, and remove those of processes that were killed."""
    for path in place.glob(".*"):
        found = TEMPORARY.fullmatch(path.name)
        if found and found["host"] == host() and not process_lives(int(found["pid"])):
            shutil.rmtree(path, ignore_errors=True)
    folder = place / f".new.{host()}.{os.getpid()}.{uuid.uuid4().hex[:6]}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
