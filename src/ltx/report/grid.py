"""Tables for a terminal of any width: of several ways to write one, the first whose numbers fit is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

Line = Mapping[str, str]  # the cells of one line, by column
GAP = 2  # characters between two columns, and at both ends together
LONG = 20  # characters beyond which a word is folded too


def needed(lines: Sequence[Line], words: Sequence[str] = ()) -> int:
    """Return how wide a table must be at least; `words` are the columns that may be folded between words."""
    columns = columns_of(lines)
    widths = [max(longest(line.get(name, ""), name in words) for line in lines) for name in columns]
    heads = [longest(name, name in words) for name in columns]
    return sum(map(max, widths, heads)) + GAP * len(columns)


def longest(text: str, folds: bool) -> int:
    """Return how much room a text needs, where it folds that of its longest word but at most LONG characters."""
    return min(LONG, max(map(len, text.split()), default=0)) if folds else len(text)


def columns_of(lines: Sequence[Line]) -> list[str]:
    """Return the columns that lines have between them."""
    return list(dict.fromkeys(name for line in lines for name in line))


def fitting(ways: Iterable[Sequence[Line]], room: int, words: Sequence[str] = ()) -> Sequence[Line]:
    """Return the first of several ways to write a table that fits into so many characters, else the last."""
    way: Sequence[Line] = ()
    for way in ways:
        if needed(way, words) <= room:
            break
    return way


def without(lines: Sequence[Line], *names: str) -> list[Line]:
    """Return the lines without some columns."""
    return [{name: cell for name, cell in line.items() if name not in names} for line in lines]


def grid(lines: Sequence[Line], words: Sequence[str] = (), title: str = "", caption: str = "") -> Table:
    """Return the table of some lines: columns of words to the left, and folded where they must be; numbers whole."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    result.title, result.title_justify = escape(title) or None, "left"
    result.caption, result.caption_justify = escape(caption) or None, "left"
    columns = columns_of(lines)
    for name in columns:
        folds = name in words
        result.add_column(name, justify="left" if folds else "right", no_wrap=not folds, overflow="fold")
    for line in lines:
        result.add_row(*(escape(line.get(name, "")) for name in columns))
    return result
