"""The files of pictures: written whole, as PNG and PDF, and saying what they show, so that it is drawn once."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltx.store.files import Damaged, canonical, commit, content
from ltx.store.rows import Row

DPI = 300
FONTS = 42  # TrueType in a PDF, which journals ask for; choosing its letters is most of the time that a PDF takes
SUFFIXES = (".png", ".pdf")


def save_plot(figure: Any, path: Path, of: str | None = None, paper: bool = True) -> Path:
    """Save a figure as PNG and as PDF beside it, each whole or not at all; both say what they are `of`.

    Without `paper` there is no PDF, and one that is there is removed, since it shows something older. Returns the path
    of the PNG, whatever suffix was given.
    """
    from matplotlib import rc_context

    path = path.with_suffix(".png")
    image, sheet = io.BytesIO(), io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI, metadata={"Software": None, **({"ltx": of} if of else {})})
    if paper:
        with rc_context({"pdf.fonttype": FONTS}):
            figure.savefig(sheet, format="pdf", metadata={"CreationDate": None})
        commit(path.with_suffix(".pdf"), marked(sheet.getvalue(), of) if of else sheet.getvalue())
    else:
        path.with_suffix(".pdf").unlink(missing_ok=True)
    commit(path, image.getvalue())
    return path


def drawn_rows(rows: Sequence[Row], *words: str) -> str:
    """Return the digest of the rows and the words that a picture shows."""
    shown = [*words, *({**row.columns(), "layers": row.layers} for row in rows)]
    return hashlib.sha256(canonical(shown).encode()).hexdigest()


def are_pictures(path: Path, of: str, paper: bool = True) -> bool:
    """Tell whether the PNG of this path, and with `paper` the PDF beside it, are whole and `of` this."""
    return all(is_picture(path.with_suffix(suffix), of) for suffix in (SUFFIXES if paper else SUFFIXES[:1]))


def is_picture(path: Path, of: str) -> bool:
    """Tell whether a PNG or a PDF is whole and says that it is `of` this (see `save_plot`)."""
    try:
        found = content(path) or b""
    except Damaged:
        return False
    return is_png(found, of) if path.suffix == ".png" else is_pdf(found, of)


def is_png(left: bytes, of: str) -> bool:
    """Tell whether these are the bytes of a PNG, every chunk with its checksum, that is `of` this."""
    if left[:8] != b"\x89PNG\r\n\x1a\n":
        return False
    left, last, ours = left[8:], b"", False
    while left:
        size, name = int.from_bytes(left[:4], "big"), left[4:8]
        data, check = left[8 : 8 + size], left[8 + size : 12 + size]
        if zlib.crc32(name + data).to_bytes(4, "big") != check:
            return False
        ours = ours or (name == b"tEXt" and data == b"ltx\0" + of.encode())
        last, left = name, left[12 + size :]
    return ours and last == b"IEND"


def marked(pdf: bytes, of: str) -> bytes:
    """Return a PDF that says what it is `of`, in a comment with a digest of all else: a PDF has no checksum itself."""
    end = pdf.rindex(b"startxref")  # after the table of objects, so that no place in it moves
    return pdf[:end] + f"%ltx {of} {hashlib.sha256(pdf).hexdigest()}\n".encode() + pdf[end:]


def is_pdf(found: bytes, of: str) -> bool:
    """Tell whether these are the bytes of a whole PDF that is `of` this."""
    begin = found.rfind(b"%ltx ")
    end = found.find(b"startxref", begin)
    return 0 < begin < end and found == marked(found[:begin] + found[end:], of)
