"""What can go wrong in a way that a user should read in one paragraph, and the exit code it ends with."""

from __future__ import annotations

import contextlib
import difflib
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence

_noticed: set[str] = set()

OURS = __file__.removesuffix("errors.py")
MANY = 30  # names that a message still lists in full
TORCH_STACK = "\nException raised from"  # after this some errors of torch have kilobytes of C++ frames


class BadInput(Exception):
    """A config, file or value that cannot be used: exit 2, nothing written."""


class Failed(Exception):
    """Something that started and could not finish: exit 3, what is finished is kept."""


def closest(name: object, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the names that one is probably meant to be, whatever its capitals, the nearest first."""
    lower = {word.lower(): word for word in known}
    return [lower[word] for word in difflib.get_close_matches(str(name).lower(), lower, most, 0.5)]


def nearest(name: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'? Known: a, b.` for an unknown name; of very many known ones the nearest alone."""
    known = sorted(set(known))
    close = closest(name, known, 5)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    if len(known) <= MANY:
        return f"{hint} Known: {', '.join(known)}." if known else hint
    return f"{hint} Of {len(known)} the nearest are: {', '.join(close)}." if close else hint


@contextlib.contextmanager
def of_the_users(what: str) -> Iterator[None]:
    """Turn whatever a user's own code raises within into one paragraph with their file and line."""
    try:
        yield
    except (BadInput, Failed):
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"{what}: {described(error)}.") from error


def described(error: BaseException) -> str:
    """Return an error's type and text and, in front, the user's file and line that raised it or cannot be read.

    A ValueError of ltx's own is a sentence already, and needs no type.
    """
    frames = traceback.extract_tb(error.__traceback__)
    text = " ".join(str(error).partition(TORCH_STACK)[0].split()).rstrip(".")
    users = [(frame.filename, frame.lineno) for frame in frames if is_the_users(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename:
        users, text = [(error.filename, error.lineno)], error.msg
    if isinstance(error, ValueError) and text and not users and frames and frames[-1].filename.startswith(OURS):
        return text
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{short(users[-1][0])}, line {users[-1][1]}: {said}" if users else said


def short(filename: str) -> str:
    """Return a file's path from the folder that Python searches first, where it lies below: the one one stands in."""
    return filename.removeprefix(f"{sys.path[0].rstrip('/')}/") if sys.path[0] else filename


def is_the_users(filename: str) -> bool:
    """Tell whether a file is neither ltx's own, nor Python's, nor a library's, also where it was compiled."""
    libraries = (OURS, sysconfig.get_path("stdlib"), "<")
    compiled = filename.endswith((".pyx", ".pxi"))
    return not filename.startswith(libraries) and "-packages" not in filename and not compiled


def printable(text: str) -> str:
    """Replace control characters, which could drive the terminal, in a text that came from a file."""
    if text.isprintable():
        return text
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


def stretches(numbers: Sequence[int]) -> str:
    """Write ascending numbers with those that follow on one another as one: 0-3, 7."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in found)
