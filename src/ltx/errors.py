"""What can go wrong in a way that a user should read in one paragraph, and the exit code it ends with."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable

_noticed: set[str] = set()


class BadInput(Exception):
    """A config, file or value that cannot be used: exit 2, nothing written."""


class Failed(Exception):
    """Something that started and could not finish: exit 3, what is finished is kept."""


def nearest(name: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'? Known: a, b.` for an unknown name."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, 1, 0.5)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return f"{hint} Known: {', '.join(known)}." if known else hint


def printable(text: str) -> str:
    """Replace control characters, which could drive the terminal, in a text that came from a file."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def notice(text: str) -> None:
    """Say on stderr, once a command, what was found damaged, set aside or left out."""
    if text not in _noticed:
        _noticed.add(text)
        print(f"ltx: {printable(text)}", file=sys.stderr, flush=True)


def forget_notices() -> None:
    """Begin another command of the same process: what was said before may be said again."""
    _noticed.clear()
