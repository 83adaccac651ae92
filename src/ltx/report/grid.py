"""Tables for a terminal of any width: of several ways to write one, the first whose numbers fit is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

Line = Mapping[str, str]  # the cells of one line, by column
GAP = 2  # characters between two columns, and at both ends together
MARKED = box.Box(str(box.SIMPLE_HEAD).replace(" ── ", " ─┼ ", 1))  # its rule shows where the columns meet
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


@dataclass(frozen=True)
class LongGrid:
    """A table that is printed as `grid` prints it, for very many lines: rich takes a millisecond for each.

    How wide a column is depends on its longest text and its longest word. rich lays out the lines that have these; all
    lines are then written at the widths that it found.
    """

    lines: Sequence[Line]
    words: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the head and the lines of the table."""
        table = grid(self.deciding(), self.words)
        table.box = MARKED
        drawn = console.render_lines(table, options, pad=False)
        end = next((i for i, line in enumerate(drawn) if line[0].text.startswith(" ─")), 0)
        rule = drawn[end][0].text
        widths = [len(part) - 1 for part in rule[1:].split("┼")]  # without the blank after a column
        if not rule.endswith("─ ") or min(widths) < 1:  # another box, or a terminal too narrow for all columns
            yield grid(self.lines, self.words)
            return
        for head in drawn[:end]:
            yield from (*head, Segment.line())
        yield Segment(f"{rule.replace('┼', '─')}\n")
        names = columns_of(self.lines)
        for line in self.lines:
            cells = [
                written(line.get(name, ""), width, name in self.words, console)
                for name, width in zip(names, widths, strict=True)
            ]
            for row in zip_longest(*cells):
                texts = [" " * width if text is None else text for text, width in zip(row, widths, strict=True)]
                yield Segment(f" {'  '.join(texts)} \n")
        yield Segment(f"{' ' * len(rule)}\n")

    def deciding(self) -> list[Line]:
        """Return the lines that have the longest text or the longest word of a column."""
        names = columns_of(self.lines)
        full = [{name: line.get(name, "") for name in names} for line in self.lines]
        longest_texts = [max(full, key=lambda line: cell_len(line[name])) for name in names]
        longest_words = [
            max(full, key=lambda line: max(map(cell_len, line[name].split()), default=0)) for name in names
        ]
        return [*longest_texts, *longest_words]


@lru_cache(4096)  # a few states and numbers stand in most lines
def written(text: str, width: int, folds: bool, console: Console) -> tuple[str, ...]:
    """Return the lines of a cell, each `width` cells wide."""
    text = text if folds else text.rstrip()
    if cell_len(text) <= width and text.isprintable():
        blank = " " * (width - cell_len(text))
        return (text + blank if folds else blank + text,)
    lines = Text(text).wrap(console, width, justify="left" if folds else "right", overflow="fold", no_wrap=not folds)
    return tuple(line.plain for line in lines)
