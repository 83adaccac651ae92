"""Text in a picture: how large it is, how wide, and where its lines break."""

from __future__ import annotations

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

TITLE, TEXT, SMALL = 8, 7, 6  # points: titles, axis names, everything else
LEADING = 1.3  # from line to line, in font sizes


def measured(text: str, size: float, weight: str = "normal") -> float:
    """Return how wide a line of text is, in points."""
    found: tuple[float, float, float] = text_to_path.get_text_width_height_descent(
        text, FontProperties(size=size, weight=weight), ismath=False
    )
    return found[0]


def wrapped(text: str, room: float, size: float, weight: str = "normal", indent: float = 0) -> list[str]:
    """Return text as lines at most `room` points wide, those after the first less wide by an indent.

    A word that is wider than a line is broken.
    """
    lines: list[str] = []
    line = ""
    for word in text.split(" "):  # and not at a space that is to hold a line together
        longer = f"{line} {word}" if line else word
        left = room - (indent if lines else 0)
        if measured(longer, size, weight) <= left:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while measured(line, size, weight) > room - indent:
            cut = next(n for n in range(len(line) - 1, 0, -1) if measured(line[:n], size, weight) <= room - indent)
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line] if line else lines


def balanced(text: str, room: float, size: float) -> list[str]:
    """Return text as the lines that `wrapped` makes of it, but of about the same length."""
    lines = wrapped(text, room, size)
    while len(narrower := wrapped(text, room := 0.97 * room, size)) == len(lines) > 1:
        lines = narrower
    return lines
