"""Encoded images as arrays of bytes, decoded on all cores."""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ltx.data.origin import Images, Source
from ltx.errors import BadInput, Failed, described

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # Pillow has others, one of which starts Ghostscript
MODES = {1: "L", 3: "RGB"}  # by the number of channels
CHUNK = 64  # images that are decoded and written at once
ALONE = 0.2  # seconds that are not worth starting processes for
ORIENTATION = 0x0112  # of a photograph's EXIF data

Pixels = np.ndarray[Any, Any]
Done = tuple[int, bytes]  # the number of a first image, and digests of it and of those behind it
Share = Callable[[int, Callable[[Done], None]], None]


def image(encoded: bytes | str, channels: int | None) -> Image.Image:
    """Return an image as it stands upright, of `channels` if that is given, else grey or RGB as it is.

    Raises what Pillow raises, and ValueError for pixels that are no bytes.
    """
    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=FORMATS) as opened:
        found: Image.Image = opened
        if "exif" in found.info and found.getexif().get(ORIENTATION, 1) != 1:
            found = ImageOps.exif_transpose(found)
        if found.mode.startswith(("I", "F")):
            raise ValueError(f"its pixels are no bytes (Pillow's mode {found.mode})")
        if channels is None and found.mode not in (*MODES.values(), "1"):
            raise ValueError(
                f"it is neither grey nor RGB (Pillow's mode {found.mode}); data.channels=3 converts all images to RGB, "
                "data.channels=1 to grey"
            )
        wanted = "L" if found.mode == "1" and channels is None else MODES.get(channels or 0, found.mode)
        if found.mode != wanted:
            found = found.convert(wanted)
        found.load()
        return found


def array(image: Image.Image) -> Pixels:
    """Return an image as uint8 (C, H, W)."""
    found = np.asarray(image)
    return found[None] if found.ndim == 2 else np.ascontiguousarray(found.transpose(2, 0, 1))


def shorter(image: Image.Image, size: int) -> Image.Image:
    """Return an image whose shorter side was made `size` pixels, bilinearly."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def centre(image: Image.Image, side: int) -> Image.Image:
    """Return the square in the middle of an image."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def loaded(images: Images, start: int, stop: int, channels: int | None) -> list[Image.Image]:
    """Return some images, of `channels` if that is given. Raises BadInput naming the first that cannot be decoded."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for index, encoded in enumerate(images.encoded(start, stop), start):
            if encoded is None:
                raise BadInput(f"{images.name(index)} holds no image.")
            try:
                found.append(image(encoded, channels))
            except MemoryError:
                raise
            except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and its own
                raise BadInput(f"{images.name(index)} cannot be decoded: {reason(error)}.") from error
    return found


def decoded(images: Images, start: int, stop: int, source: Source, shape: tuple[int, ...] | None) -> Pixels:
    """Return some images, uint8 (n, C, H, W), of `source.size` cut to a square around their centre.

    Raises BadInput naming the first that is faulty or of another shape.
    """
    found, size = [], source.size
    for index, one in enumerate(loaded(images, start, stop, source.channels), start):
        found.append(array(one if size is None else centre(shorter(one, size), size)))
        if shape is not None and found[-1].shape != shape:
            raise BadInput(f"{images.name(index)} {unlike(found[-1].shape, shape, source)}")
    return np.stack(found)


def reason(error: Exception) -> str:
    """Say why an image cannot be decoded; Pillow names the object it read from where it recognises nothing."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is no image of a known format ({', '.join(FORMATS)})"
    return described(error)


def unlike(found: tuple[int, ...], shape: tuple[int, ...], source: Source) -> str:
    """Say in what an image differs from the first one, and what makes all of them alike."""
    was, first = ("x".join(map(str, one)) for one in (found, shape))
    remedies = []
    if found[1:] != shape[1:]:
        remedies.append(f"data.size={min(shape[1:])} resizes and crops all to {min(shape[1:])}x{min(shape[1:])}")
    if found[0] != shape[0]:
        remedies.append("data.channels=3 makes all RGB, data.channels=1 grey")
    return f"is {was} (channels x height x width), and the first image {first}; {', and '.join(remedies)}."


def cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write(file: Path, images: Images, source: Source, shape: tuple[int, ...], progress: Progress) -> Pixels:
    """Decode all images of a part into a file, one after another; return a digest of each, uint64 (N, 2).

    Raises BadInput, Failed, and OSError.

    Processes share the work, threads would not: of a small image Python's own part takes most of the time, and it
    takes that of one core. The processes are forked, so that they have the source open.
    """
    file.write_bytes(b"")
    starts = range(0, len(images), CHUNK)
    first = decoded(images, 0, 1, source, shape)  # Pillow loads its formats with the first image
    began = time.perf_counter()
    decoded(images, 0, 1, source, shape)
    seconds = (time.perf_counter() - began) * len(images)
    assert first.shape[1:] == shape
    workers = min(cores(), len(starts)) if hasattr(os, "fork") and seconds > ALONE else 1

    digests = np.zeros((len(images), 2), "uint64")

    def share(number: int, done: Callable[[Done], None]) -> None:
        """Decode the chunks of one process: every `workers`-th, from the one of its number on."""
        with open(file, "r+b") as out:
            for start in starts[number::workers]:
                some = decoded(images, start, min(start + CHUNK, len(images)), source, shape)
                out.seek(start * first.nbytes)
                out.write(some.tobytes())
                done((start, b"".join(hashlib.sha256(one).digest()[:16] for one in some)))

    def done(some: Done) -> None:
        """Take the digests of the images from a first one on."""
        start, found = some
        count = len(found) // 16
        digests[start : start + count] = np.frombuffer(found, ">u8").reshape(count, 2)
        progress.add(count)

    if workers == 1:
        share(0, done)
    else:
        together(share, workers, done)
    return digests


def together(share: Share, workers: int, done: Callable[[Done], None]) -> None:
    """Call share(number, done) in processes, one for each number, and `done` here for what they report."""
    fork = multiprocessing.get_context("fork")
    alive: dict[Connection, Any] = {}
    try:
        for number in range(workers):
            ours, theirs = fork.Pipe(duplex=False)
            process = fork.Process(target=work, args=(share, number, theirs, ours), daemon=True)
            process.start()
            theirs.close()
            alive[ours] = process
        while alive:
            for ready in wait([*alive]):
                assert isinstance(ready, Connection)
                try:
                    said = ready.recv()
                except EOFError:
                    process = alive.pop(ready)
                    process.join()
                    if process.exitcode:
                        raise Failed(
                            f"a process that decodes images was killed (exit {process.exitcode}), for want of memory "
                            "perhaps; the same command tries again."
                        ) from None
                    continue
                if isinstance(said, Exception):
                    raise said
                done(said)
    finally:
        for process in alive.values():
            process.kill()
            process.join()


def work(share: Share, number: int, pipe: Connection, other: Connection) -> None:
    """Do one share in a process of its own: report counts, or the error that ended it; Ctrl-C is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    other.close()  # so that a report finds nobody when the parent is gone, which ends this process
    try:
        share(number, pipe.send)
    except BrokenPipeError:
        os._exit(1)
    except (BadInput, OSError, MemoryError) as error:
        with contextlib.suppress(BrokenPipeError):
            pipe.send(error)


class Progress:
    """A line on stderr while images are decoded: renewed on a terminal, every 10 seconds elsewhere; none at first."""

    def __init__(self, total: int):
        self.total, self.done = total, 0
        self.began = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.due = self.began + 2
        self.shown = False

    def add(self, count: int) -> None:
        """Count images that were decoded."""
        self.done += count
        now = time.monotonic()
        if now < self.due:
            return
        left = (now - self.began) / self.done * (self.total - self.done)
        text = f"ltx: decoded {self.done:,} of {self.total:,} images once for all, {left:.0f} s left"
        print(
            f"\r{text}\x1b[K" if self.terminal else text, end="" if self.terminal else "\n", file=sys.stderr, flush=True
        )
        self.due, self.shown = now + (0.25 if self.terminal else 10), True

    def end(self) -> None:
        """Take the line away."""
        if self.shown and self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Progress]:
    """Show progress while so many images are decoded."""
    shown = Progress(total)
    try:
        yield shown
    finally:
        shown.end()
