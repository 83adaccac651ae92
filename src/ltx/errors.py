"""What can go wrong in a way that a user should read in one paragraph, and the exit code it ends with."""

from __future__ import annotations

import contextlib
import difflib
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator

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


@contextlib.contextmanager
def of_the_users(what: str) -> Iterator[None]:
    """Turn whatever a user's own code raises within into one paragraph with their file and line."""
    try:
        yield
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"{what}: {described(error)}.") from error


def described(error: BaseException) -> str:
    """Return an error's type, its text and, where a user's code raised it, their file and line."""
    text = " ".join(str(error).split()).rstrip(".")
    name = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError):
        return name  # its text names file and line already
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_the_users(frame.filename)]
    return f"{name} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else name


def is_the_users(filename: str) -> bool:
    """Tell whether a file is neither ltx's own, nor Python's, nor an installed library's."""
    libraries = (__file__.removesuffix("errors.py"), sysconfig.get_path("stdlib"), "<")
    return not filename.startswith(libraries) and "-packages" not in filename


def printable(text: str) -> str:
    """Replace control characters, which could drive the terminal, in a text that came from a file."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def notice(text: str) -> None:
    """Say on stderr, once a command, what was found damaged, set aside or left out."""
    if text not in _noticed:
        _noticed.add(text)
        print(f"ltx: {printable(text)}", file=sys.stderr, flush=True)


def noticed(text: str) -> bool:
    """Tell whether this command has said a text."""
    return text in _noticed


def forget_notices() -> None:
    """Begin another command of the same process: what was said before may be said again."""
    _noticed.clear()
