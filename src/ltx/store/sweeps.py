"""A sweep's folder: which points it has, and the name that means the newest of its name."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ltx.errors import notice, printable
from ltx.store.files import Damaged, canonical, commit, host, read_json, side_file
from ltx.store.folders import MOST, RunFolder
from ltx.store.rows import Row, columns_of
from ltx.store.states import standing

Label = dict[str, Any]  # what distinguishes a point of a sweep


@dataclass(frozen=True)
class SweepPoint:
    """A point as a sweep asks for it: its run, what distinguishes it, its seeds, and the last level of each."""

    run: str
    label: Label
    seeds: list[int]
    last_level: int

    @property
    def asked(self) -> dict[int, int]:
        """The last level that is asked for of each seed."""
        return dict.fromkeys(self.seeds, self.last_level)


@dataclass(frozen=True)
class Record:
    """What a sweep is, as it was last asked for: its points, and the command with the times (UTC) it began and ended.

    `name` is that of a named sweep, `ended` is empty until a command for it has ended.
    """

    name: str | None
    points: list[SweepPoint]
    command: list[str]
    time: str
    ended: str = ""


@dataclass(frozen=True)
class SweepFolder:
    """A sweep's directory, `<root>/sweeps/<name or sweep>-<digest of its points' keys>`."""

    path: Path

    @property
    def root(self) -> Path:
        """The output root that the sweep's runs are under."""
        return self.path.resolve().parent.parent

    @property
    def record_path(self) -> Path:
        """Where it stands which points the sweep has."""
        return self.path / "sweep.json"

    @property
    def configs_path(self) -> Path:
        """Where the configs of the points stand, in their order, for workers that join in."""
        return self.path / "configs.json"

    @property
    def cancelled_path(self) -> Path:
        """What is there as long as the sweep is cancelled; every process that works on it looks."""
        return self.path / "cancelled.json"

    def configs(self) -> tuple[str, list[dict[str, Any]]]:
        """Return the version of ltx that began the sweep, and the configs of its points. Raises Damaged."""
        found = read_json(self.configs_path)
        configs = listed((found or {}).get("configs"))
        if not configs or not all(isinstance(config, dict) for config in configs):
            raise Damaged(f"{self.configs_path} is not there or holds no configs")
        return printable(str((found or {}).get("ltx"))), configs

    def cancel(self, by: str, time: str) -> None:
        """Have every process that works on the sweep end."""
        commit(self.cancelled_path, canonical({"by": by, "time": time}).encode())

    def cancelled(self) -> str | None:
        """Say who cancelled the sweep and when, None where nobody did."""
        if not self.cancelled_path.exists():
            return None
        found = side_file(self.cancelled_path)
        return printable(f"cancelled by {found.get('by', '?')} at {found.get('time', '?')}")

    def is_sweep(self) -> bool:
        """Tell whether this is a sweep's directory."""
        return self.record_path.is_file()

    def run(self, point: SweepPoint) -> RunFolder:
        """Return the folder of a point's run, which may not be there yet."""
        return RunFolder(self.root / "runs" / point.run)

    def rows(self, point: SweepPoint) -> list[Row]:
        """Return the finished levels of a point that the sweep asks for."""
        return [row for row in self.run(point).rows() if row.level <= point.asked.get(row.seed, -1)]

    def states(self, record: Record, commands: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
        """Return how far each point is, in a word; `commands` under way by run."""
        found = [standing(self.run(point).path, (commands or {}).get(point.run)) for point in record.points]
        return [at.state_of(point.asked) for at, point in zip(found, record.points, strict=True)]

    def begin(self, record: Record, configs: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write the record and the configs before anything is trained, and let the sweep's name mean this folder.

        What is begun again is cancelled no more.
        """
        commit(self.configs_path, canonical({"ltx": version("ltx"), "configs": [*configs]}).encode())
        self.write(record)
        self.cancelled_path.unlink(missing_ok=True)
        if record.name is not None:
            point_to(self.path.with_name(record.name), self.path.name)

    def write(self, record: Record) -> None:
        """Write the record."""
        commit(self.record_path, (json.dumps(asdict(record), indent=1) + "\n").encode())

    @property
    def name(self) -> str | None:
        """The name of a named sweep."""
        found = side_file(self.record_path).get("name")
        return found if isinstance(found, str) else None

    def record(self) -> Record:
        """Read the record; what is damaged of it is left out.

        Versions before this one wrote the runs' keys alone: what was asked of them is then what was ever asked.
        """
        found = side_file(self.record_path)
        told = found.get("points")
        points = told if isinstance(told, list) else [{"run": key} for key in listed(found.get("runs"))]
        words = [printable(str(word)) for word in listed(found.get("command"))]
        began, ended = (printable(str(found.get(which) or "")) for which in ("time", "ended"))
        read = [point for point in map(self.point, points) if point is not None]
        return Record(self.name and printable(self.name), read, words, began, ended)

    def point(self, told: object) -> SweepPoint | None:
        """Return a point of the record, None where it is none."""
        key = told.get("run") if isinstance(told, dict) else None
        if not isinstance(told, dict) or not isinstance(key, str) or not is_key(key):
            return None
        label, seeds, last = told.get("label"), told.get("seeds"), told.get("last_level")
        label = {printable(str(name)): plain(value) for name, value in label.items()} if isinstance(label, dict) else {}
        if isinstance(seeds, list) and type(last) is int and 0 <= last < MOST:
            numbers = [seed for seed in seeds if type(seed) is int and 0 <= seed < MOST]
            return SweepPoint(key, label, numbers, last)
        asked = RunFolder(self.root / "runs" / key).manifest()["asked"]
        return SweepPoint(key, label or {"run": key}, sorted(asked), max(asked.values(), default=0))


def listed(value: object) -> list[Any]:
    """Return a value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def plain(value: object) -> Any:
    """Return a plain value of a label, a text without control characters."""
    return value if value is None or isinstance(value, bool | int | float) else printable(str(value))


def is_key(name: str) -> bool:
    """Tell whether a folder's name can be a run's key, so that no other name reaches the terminal."""
    return re.fullmatch(r"[A-Za-z0-9_.-]+", name) is not None


def point_to(link: Path, target: str) -> None:
    """Let a name mean the folder beside it, by a link that is replaced at once; one that cannot be made is said."""
    try:
        if os.path.lexists(link) and not link.is_symlink():
            notice(f"{link} is from an earlier version or not ltx's and stays as it is; this sweep is in {target}.")
        elif not link.is_symlink() or os.readlink(link) != target:
            temporary = link.with_name(f".{link.name}.{host()}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
            os.symlink(target, temporary)
            os.replace(temporary, link)
    except OSError as error:
        notice(f"{link} cannot be a link ({error.strerror}); this sweep is in {target}.")


def sweeps(root: Path) -> list[SweepFolder]:
    """Return the sweeps under an output root, by name."""
    place = root / "sweeps"
    found = [SweepFolder(path) for path in sorted(place.iterdir())] if place.is_dir() else []
    return [sweep for sweep in found if not sweep.path.is_symlink() and is_key(sweep.path.name) and sweep.is_sweep()]


def find_sweep(name: str, root: Path) -> SweepFolder | None:
    """Return the sweep that a name, a folder's name or a directory means: of several of one name the newest."""
    known, link = sweeps(root), root / "sweeps" / name
    if name and link.is_symlink() and SweepFolder(link).is_sweep():
        return SweepFolder(link.resolve())
    named = [sweep for sweep in known if sweep.name == name]
    if named:
        return max(named, key=lambda sweep: sweep.record_path.stat().st_mtime)
    folder = [sweep for sweep in known if sweep.path.name == name]
    given = SweepFolder(Path(name))
    return folder[0] if folder else given if name and given.is_sweep() else None


def table_rows(points: Sequence[SweepPoint], rows: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """Return a sweep's table, a line per point, seed and level: the run, what distinguishes it, and the row."""
    together = zip(points, rows, strict=True)
    return [{"run": point.run, **point.label, **row.columns()} for point, found in together for row in found]


def table_columns(points: Sequence[SweepPoint], rows: Sequence[Sequence[Row]]) -> list[str]:
    """Return the columns of a sweep's table."""
    names = [name for point in points for name in point.label]
    return list(dict.fromkeys(["run", *names, *columns_of([row for found in rows for row in found])]))
