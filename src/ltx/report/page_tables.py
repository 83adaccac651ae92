"""The tables of a page as cells: its points, what they cost, and what they were run with."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ltx.config.flat import short_names, value_text
from ltx.errors import printable
from ltx.report.page_data import Point
from ltx.report.tables import (
    compared,
    early_stop_text,
    interval_text,
    interval_words,
    last_level,
    of_scores,
    size_cells,
    varying_names,
)
from ltx.report.wording import is_number
from ltx.store.find import short_keys
from ltx.store.rows import Row

MANY = 20  # commands of a page
MEASURED = ("level", "density", "kept", "test accuracy", "early stop", "n")


@dataclass(frozen=True)
class Head:
    """The heading of a column: its name, the key of a config behind it, and whether its cells are numbers."""

    name: str
    key: str = ""
    number: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell: its text, the number by which it is sorted where the text is none, a link, a class."""

    text: str
    sort: str = ""
    number: bool = False
    link: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table with what is said of it."""

    caption: str
    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]


def number(text: str, value: float | None = None) -> Cell:
    """Return the cell of a number, which sorts by its value where the text is no plain number."""
    return Cell(text, "" if value is None or math.isnan(value) else repr(value), number=True)


def link(path: Path, start: Path) -> str:
    """Return the link from a folder to a path."""
    return quote(os.path.relpath(path.resolve(), start.resolve()).replace(os.sep, "/"))


def points_table(points: Sequence[Point], start: Path) -> Table:
    """Return a line for each point: what tells it apart, how far it is, and how good it is at the level compared.

    start: the folder from which links lead.
    """
    chosen = compared([point.rows for point in points])
    labels = [point.label for point in points]
    varying = varying_names(labels)
    heads = short_names(varying)
    values = {key: [str(label[key]) for label in labels if label.get(key) is not None] for key in varying}
    numeric = {key for key, found in values.items() if all(map(is_number, found))}
    tagged = any(point.tags for point in points)
    short = short_keys(point.key for point in points)
    columns = [
        Head("run"),
        *(Head(heads[key], key, key in numeric) for key in varying),
        Head("state"),
        *([Head("tags")] if tagged else []),
        *(Head(name, number=True) for name in (*MEASURED, "minutes")),
    ]

    def line(point: Point, rows: Sequence[Row]) -> list[Cell]:
        texts = [(key in numeric, point.label.get(key)) for key in varying]
        return [
            Cell(short[point.key], link=f"{link(point.path, start)}/"),
            *(Cell("-" if value is None else value_text(value), number=right) for right, value in texts),
            Cell(point.state, mark=point.state),
            *([Cell(" ".join(point.tags))] if tagged else []),
            *measured(rows),
            number(f"{point.minutes:.2f}" if point.minutes == point.minutes else "-"),
        ]

    at_last = all(rows == last_level(point.rows) for point, rows in zip(points, chosen, strict=True))
    where = "At the last level" if at_last else "Pruned networks at the level that keeps most like the searches"
    scores = [row.test_accuracy for rows in chosen for row in rows]
    how = interval_words([len(rows) for rows in chosen if rows], scores) if scores else "nothing is finished yet"
    caption = (
        f"{where}; test accuracy: {how}. Density = kept / prunable weights; early stop: the step of the smallest "
        "validation loss, (k/n) of the seeds censored; minutes: the training of all levels and seeds."
    )
    return Table(caption, columns, [line(point, rows) for point, rows in zip(points, chosen, strict=True)])


def measured(rows: Sequence[Row]) -> list[Cell]:
    """Return the cells of a level: level, density, kept, test accuracy, early stop, n; dashes where there is none."""
    if not rows:
        return [*(number("-") for _ in range(5)), number("0")]
    sizes, accuracy = size_cells(rows), of_scores([row.test_accuracy for row in rows])
    stops = [row.early_stop_step for row in rows if row.early_stop_step is not None]
    trained = any(row.step for row in rows)
    return [
        number(str(rows[0].level)),
        number(sizes["density"], rows[0].density),
        number(sizes["kept"], rows[0].kept),
        number(interval_text(accuracy), accuracy.mean),
        number(early_stop_text(rows) if trained else "-", sum(stops) / len(stops) if stops else None),
        number(str(len(rows))),
    ]


def costs(points: Sequence[Point]) -> Table:
    """Return a line for each point: the minutes of its training, the seconds of a level, and its disk."""
    short = short_keys(point.key for point in points)

    def line(point: Point) -> list[Cell]:
        known = point.minutes == point.minutes
        times = [second for found in point.seconds.values() for second in found]
        return [
            Cell(short[point.key]),
            Cell(point.key.rpartition("-")[0]),
            number(f"{point.minutes:.2f}" if known else "-"),
            number(f"{math.fsum(times) / len(times):.2f}" if times else "-"),
            number(str(len(times))),
            number(f"{point.bytes / 1e6:.3f}"),
        ]

    minutes = math.fsum(point.minutes for point in points if point.minutes == point.minutes)
    unique = {point.key: point.bytes for point in points}
    caption = f"{minutes:,.1f} minutes of training and {sum(unique.values()) / 1e6:,.1f} MB of disk in all."
    names = ("minutes", "seconds a level", "levels trained", "MB of disk")
    return Table(
        caption, [Head("run"), Head("what"), *(Head(name, number=True) for name in names)], [*map(line, points)]
    )


def environments(points: Sequence[Point]) -> list[tuple[list[tuple[str, str]], str]]:
    """Return what the runs' manifests say of versions and machines, and of how many runs each is true."""
    found: dict[str, tuple[list[tuple[str, str]], set[str]]] = {}
    for point in points:
        told = point.manifest
        git = told.get("git") if isinstance(told.get("git"), dict) else {}
        named = {
            "versions": pairs(told.get("versions")),
            "python": text(told.get("python")),
            "machine": text(told.get("machine")),
            "device": text(told.get("device")),
            "threads": text(told.get("threads")),
            "git commit": f"{text(git.get('commit'))}{' (changed)' if git.get('dirty') else ''}"
            if isinstance(git, dict)
            else "",
            "data": text(told.get("data")),
        }
        said = [(name, value) for name, value in named.items() if value]
        if said:
            found.setdefault(json.dumps(said), (said, set()))[1].add(point.key)
    count = len({point.key for point in points})
    return [(said, f"{len(keys)} of {count} runs") for said, keys in found.values()]


def pairs(value: object) -> str:
    """Write names and values of a manifest: `ltx 0.1.0, torch 2.13.0`."""
    return ", ".join(f"{text(name)} {text(own)}" for name, own in value.items()) if isinstance(value, dict) else ""


def text(value: object) -> str:
    """Write a value of a manifest, nothing where there is none."""
    return "" if value is None else printable(value if isinstance(value, str) else json.dumps(value))


def commands(points: Sequence[Point]) -> list[tuple[str, str, int]]:
    """Return the newest commands that the manifests tell of: the last time of each, and of how many runs."""
    times: dict[str, str] = {}
    runs: dict[str, set[str]] = {}
    for point in points:
        for told in listed(point.manifest.get("commands")):
            if isinstance(told, dict):
                command = printable(shlex.join(map(str, listed(told.get("command")))))
                times[command] = max(times.get(command, ""), text(told.get("time")))
                runs.setdefault(command, set()).add(point.key)
    newest = sorted(times, key=lambda command: times[command], reverse=True)[:MANY]
    return [(times[command], command, len(runs[command])) for command in newest]


def listed(value: Any) -> list[Any]:
    """Return a value of a manifest where it is a list, else an empty one."""
    return value if isinstance(value, list) else []
