"""What can go wrong in a way that a user should read in one paragraph, and the exit code it ends with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
