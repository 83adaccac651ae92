"""A terminal for tests: a pseudo-terminal, and what a person would see on it."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import termios
from typing import TextIO

from rich.cells import cell_len

TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|.", re.DOTALL)


class Screen:
    """What a terminal shows of the control codes that Rich and ltx use; it fails on any other.

    `history` has the rows that left at the top. A row that was wrapped goes on in the next one, also when the terminal
    becomes wider or narrower, as most of today's terminals do it.
    """

    def __init__(self, columns: int, rows: int):
        self.columns, self.rows = columns, rows
        self.history: list[str] = []
        self.lines, self.wrapped = [""], [False]
        self.row, self.column = 0, 0

    def feed(self, text: str) -> None:
        """Take what a process has written."""
        for token in TOKEN.finditer(text):
            number, code = token.groups()
            if code is None:
                self.put(token[0])
            elif code == "A":
                self.row = max(0, self.row - int(number or 1))
                self.column = min(self.column, self.columns - 1)
            elif code == "J" and number in ("", "0"):
                self.lines[self.row] = self.lines[self.row][: self.column]
                self.wrapped[self.row] = False
                del self.lines[self.row + 1 :], self.wrapped[self.row + 1 :]
            elif not (code == "m" or (code in "hl" and number == "?25")):
                raise AssertionError(f"the terminal does not know {token[0]!r}")

    def put(self, character: str) -> None:
        """Write one character, or move."""
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.down()
        else:
            assert character.isprintable() and cell_len(character) == 1, repr(character)
            if self.column == self.columns:  # it waits at the right edge until something follows
                self.wrapped[self.row] = True
                self.down()
                self.column = 0
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

    def down(self) -> None:
        """Go one row down; at the bottom all rows move up."""
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")
            self.wrapped.append(False)
        self.scroll()

    def scroll(self) -> None:
        """Let rows that are too many leave at the top."""
        while len(self.lines) > self.rows:
            self.history.append(self.lines.pop(0))
            del self.wrapped[0]
            self.row -= 1

    def resize(self, columns: int, rows: int) -> None:
        """Wrap all rows anew; the cursor stays at its character."""
        texts, place = [""], (0, 0)
        for index, (line, wrapped) in enumerate(zip(self.lines, self.wrapped, strict=True)):
            if index == self.row:
                place = (len(texts) - 1, len(texts[-1]) + self.column)
            texts[-1] += line
            if not wrapped:
                texts.append("")
        self.columns, self.rows = columns, rows
        self.lines, self.wrapped = [], []
        for index, text in enumerate(texts[:-1]):
            if index == place[0]:
                self.row, self.column = len(self.lines) + place[1] // columns, place[1] % columns
            parts = [text[i : i + columns] for i in range(0, len(text), columns)] or [""]
            self.lines += parts
            self.wrapped += [True] * (len(parts) - 1) + [False]
        below = max(rows, self.row + 1)  # rows under the cursor go before those at the top
        del self.lines[below:], self.wrapped[below:]
        self.scroll()


class Terminal:
    """A pseudo-terminal of a size: `file` is the end that a command writes to, `screen` what then stands there."""

    def __init__(self, columns: int, rows: int = 24):
        self.ours, theirs = os.openpty()
        self.file: TextIO = os.fdopen(theirs, "w", encoding="utf-8")
        self._screen = Screen(columns, rows)
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int = 24) -> None:
        """Become wider, narrower, higher or lower."""
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(columns, rows)

    @property
    def screen(self) -> Screen:
        """The screen with everything that was written until now."""
        while select.select([self.ours], [], [], 0)[0]:
            self._screen.feed(os.read(self.ours, 1 << 16).decode())
        return self._screen

    @property
    def text(self) -> list[str]:
        """The rows that stand on the screen, without empty ones at its end."""
        return "\n".join(line.rstrip() for line in self.screen.lines).rstrip().split("\n")

    def close(self) -> None:
        """Hang up."""
        self.file.close()
        os.close(self.ours)
