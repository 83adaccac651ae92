"""The lines of the progress display, fitted to the width of a terminal: one with the bar, and one for each worker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rich.cells import cell_len

SHORTEST_BAR, LONGEST_BAR = 5, 60
SHORTEST_WORD = 4  # a name whose words would be shorter is shortened as a whole
INDENT, GAP = "  ", "  "
# A number or a duration with sign, fraction, exponent, and the letters that follow it at once; else one character.
PIECE = re.compile(r"(?:(?<![\w.])[-+])?\.?\d[\w.]*(?:(?<=[eE])[-+]\d+)?(?::\d\d)*|.", re.DOTALL)


@dataclass(frozen=True)
class Worker:
    """Where one worker stands: `share` of its level's steps are taken. There is no level before its first report."""

    name: str
    seed: int
    level: int | None = None
    share: float = 0
    loss: float = float("nan")

    def cells(self, with_share: bool) -> list[str]:
        """Return the facts beside the name, in the order in which they are shown."""
        if self.level is None:
            return [f"seed {self.seed}", "starting"]
        share = [percent(self.share)] if with_share else []
        return [f"seed {self.seed}", f"level {self.level}", *share, f"loss {loss_text(self.loss)}"]


@dataclass(frozen=True)
class View:
    """What the display shows: `counts` says the same in fewer and fewer words, `ending` is the time left or taken."""

    share: float
    counts: Sequence[str]
    ending: str
    workers: Sequence[Worker] = ()


def percent(share: float) -> str:
    """Write a share in whole percent, rounded down so that 100 % means the end."""
    return f"{int(100 * min(1.0, max(0.0, share))):3d} %"


def loss_text(loss: float) -> str:
    """Write a loss with three decimals, or with an exponent where these would show little of it."""
    return f"{loss:.3f}" if loss == 0 or 0.001 <= abs(loss) < 1000 else f"{loss:.2e}"


def shortened(text: str, room: int) -> str:
    """Return a text that takes at most `room` cells: an ellipsis stands for its middle, and no number is cut."""
    if cell_len(text) <= room:
        return text
    if room < 1:
        return ""
    pieces = PIECE.findall(text)

    def without_middle(head: int, tail: int) -> str:
        return "".join([*pieces[:head], "…", *pieces[len(pieces) - tail :]])

    kept, growing = [0, 0], [0, 1]  # pieces at the beginning and at the end
    while growing:
        for side in [*growing]:
            kept[side] += 1
            if sum(kept) == len(pieces) or cell_len(without_middle(*kept)) > room:
                kept[side] -= 1
                growing.remove(side)
    return without_middle(*kept)


@lru_cache(1024)  # the same names are drawn again four times a second
def fitted(name: str, room: int) -> str:
    """Return a name of several words that takes at most `room` cells.

    Its longest words are shortened first, and those with numbers in them after all others.
    """
    if cell_len(name) <= room:
        return name
    words = name.split(" ")
    for with_numbers in (False, True):
        for longest in range(room, SHORTEST_WORD - 1, -1):
            cut = [shortened(w, longest) if with_numbers or not re.search(r"\d", w) else w for w in words]
            if cell_len(" ".join(cut)) <= room:
                return " ".join(cut)
    return shortened(name, room)


def bar_line(view: View, width: int) -> tuple[str, int, str]:
    """Return what stands before the bar, how many cells the bar has, and what stands after it.

    The bar becomes shorter first; then the words; then the bar goes.
    """
    before = f"{percent(view.share)} "
    for words in view.counts:
        after = GAP + GAP.join(filter(None, [words, view.ending]))
        bar = width - cell_len(before) - cell_len(after)
        if bar >= SHORTEST_BAR:
            return before, min(bar, LONGEST_BAR), after
    return shortened(" ".join(filter(None, [percent(view.share), view.counts[-1], view.ending])).strip(), width), 0, ""


def worker_lines(workers: Sequence[Worker], width: int, rows: int) -> list[str]:
    """Return a line for each worker in aligned columns; where they are more than `rows`, the last line counts the rest.

    A level's share is left out where a name would have to be shortened for it.
    """
    if rows < 1 or not workers:
        return []
    shown = workers if len(workers) <= rows else workers[: rows - 1]
    widest = max((cell_len(worker.name) for worker in shown), default=0)
    for with_share in (True, False):
        facts = aligned([worker.cells(with_share) for worker in shown])
        room = width - cell_len(INDENT) - max(map(cell_len, facts), default=0)
        if widest + cell_len(GAP) <= room:
            break
    room = min(widest, room - cell_len(GAP))
    names = [padded(fitted(worker.name, room), room) + GAP if room > 0 else "" for worker in shown]
    lines = [shortened((INDENT + name + text).rstrip(), width) for name, text in zip(names, facts, strict=True)]
    if len(shown) < len(workers):
        lines.append(shortened(f"{INDENT}+{len(workers) - len(shown)} more", width))
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Join the cells of every row so that those of a column begin at the same place."""
    columns = max(map(len, rows), default=0)
    widths = [max(cell_len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    return [GAP.join(padded(cell, width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def padded(text: str, width: int) -> str:
    """Return a text with spaces up to a width."""
    return text + " " * (width - cell_len(text))
