"""Runs with planted numbers in a store, and what a page says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from ltx.store.files import pack, yaml_text
from ltx.store.folders import RunFolder
from ltx.store.sweeps import Label, Record, SweepFolder, SweepPoint

STEPS = (10, 20, 30, 40)
LAYERS = {"fc1": 0.5, "fc2": 1.0}  # the share of a level's density that each has, of two thirds of the weights each


def write_run(root: Path, key: str, accuracies: Sequence[Sequence[float]]) -> RunFolder:
    """Write a finished run: seed by seed the test accuracies of its levels, each of which keeps half of the one before.

    A level takes 6 s; its validation loss is 1 / step, its validation accuracy the test accuracy.
    """
    folder = RunFolder(root / "runs" / key)
    for number, levels in enumerate(accuracies):
        seed = folder.seed(number)
        seed.path.mkdir(parents=True)
        rows: list[dict[str, Any]] = []
        for level, accuracy in enumerate(levels):
            meta = meta_of(key, number, level, accuracy)
            seed.level_path(level).write_bytes(pack({}, meta))
            rows += [{"seed": number, "level": level, **row, "seconds": 1.0} for row in meta["records"]]
            rows.append({**rows[-1], "split": "test", "seconds": 6.0})
        seed.records_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    method, _, data, width = key.rsplit("-", 1)[0].split("-")
    config = {"method": {"name": method}, "model": {"name": "lenet"}, "data": {"name": data}, "width": float(width[1:])}
    (folder.path / "config.yaml").write_text(yaml_text(config))
    asked = [{"seeds": [*range(len(accuracies))], "last_level": len(accuracies[0]) - 1}]
    commands = [{"command": ["ltx", "run", "of", key], "time": "2026-01-02T03:04:05Z"}]
    made = {"versions": {"torch": "9.8.7"}, "git": {"commit": "c0ffee"}}
    folder.write_manifest({"key": key, "asked": asked, "commands": commands, **made})
    return folder


def meta_of(key: str, seed: int, level: int, accuracy: float) -> dict[str, Any]:
    """Return what a level's file says of itself."""
    density = 0.5**level
    row = {"seed": seed, "level": level, "density": density, "kept": int(64 * density), "prunable": 64, "total": 80}
    row |= {"step": STEPS[-1], "early_stop_step": 20, "early_stop_test_accuracy": accuracy}
    row |= {f"{part}_loss": 0.1 for part in ("train", "val", "test")}
    row |= {f"{part}_accuracy": accuracy for part in ("val", "test")}
    records = [{"step": step, "split": "val", "loss": 1 / step, "accuracy": accuracy} for step in STEPS]
    layers = {name: 1.0 if level == 0 else share * density for name, share in LAYERS.items()}
    return {"format": 2, "key": key, "seed": seed, "level": level, "row": row, "layers": layers, "records": records}


def write_sweep(root: Path, points: Mapping[str, tuple[Label, Sequence[Sequence[float]]]], name: str = "mine") -> Path:
    """Write runs by their keys, and a sweep of them with these labels; return its folder."""
    for key, (_, accuracies) in points.items():
        write_run(root, key, accuracies)
    asked = [SweepPoint(key, label, [*range(len(a))], len(a[0]) - 1) for key, (label, a) in points.items()]
    sweep = SweepFolder(root / "sweeps" / f"{name}-01234567")
    sweep.begin(Record(name, asked, ["ltx", "run", "-m"], "2026-01-02T03:04:05Z", "2026-01-02T04:04:05Z"))
    return sweep.path


def swept(root: Path) -> Path:
    """Write a sweep of two methods at three widths, and return its folder: IMP has levels, edge-popup has one."""
    points: dict[str, tuple[Label, Sequence[Sequence[float]]]] = {}
    for i, width in enumerate((0.5, 1.0, 2.0)):
        dense = 0.9 + 0.02 * i
        imp = [[dense - 0.02, 0.8], [dense, 0.8], [dense + 0.02, 0.8]]
        points[f"imp-lenet-digits-w{width:g}-a000000{i}"] = {"method": "imp", "width": width}, imp
        single = [[0.7 + 0.1 * i], [0.72 + 0.1 * i], [0.74 + 0.1 * i]]
        points[f"edge_popup-lenet-digits-w{width:g}-b000000{i}"] = {"method": "edge_popup", "width": width}, single
    return write_sweep(root, points)


class Seen(HTMLParser):
    """What a page holds: its elements with their attributes, the text in each kind, and the rows of its tables."""

    VOID = ("meta", "img", "input", "br")

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))
        if {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def within(self, tag: str) -> list[str]:
        """Return the texts that stand directly in elements of a kind."""
        return [text for name, text in self.texts if name == tag]

    def table(self, *heads: str) -> list[dict[str, str]]:
        """Return the lines of the table with these headings, by heading."""
        begin = next(i for i, row in enumerate(self.rows) if {*heads} <= {*row})
        names = self.rows[begin]
        lines = []
        for row in self.rows[begin + 1 :]:
            if len(row) != len(names) or row[0] == "run":
                break
            lines.append(dict(zip(names, row, strict=True)))
        return lines
