"""One seed's folder: its level files, the checkpoint under way, its records, and why it failed."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx.errors import notice
from ltx.store.claims import remove_turns
from ltx.store.files import TEMPORARY, Damaged, commit, content, header, side_file, tidy, unpack
from ltx.store.files import set_aside as put_aside
from ltx.store.rows import Row

if TYPE_CHECKING:
    from ltx.tensors import Tensors

FORMAT = 2  # of a level file: 2 carries the run's key, the seed, the level and the level's records
LEVEL = re.compile(r"level_([0-9]{2}|[1-9][0-9]{2,})\.safetensors")  # what `level_name` makes of a number
SEED = re.compile(r"seed_([0-9]{3}|[1-9][0-9]{3,})")  # seed_0007 is not the name of 7
CLAIM, FAILURE = "claim", "failed.json"
RECORD = ("step", "split", "loss", "accuracy")  # of a row of the records, beside seed, level and seconds

Meta = dict[str, Any]


def level_name(level: int) -> str:
    """Return the name of a level's file."""
    return f"level_{level:02d}.safetensors"


def seed_name(seed: int) -> str:
    """Return the name of a seed's folder."""
    return f"seed_{seed:03d}"


def belongs(path: Path, meta: Meta, identity: Mapping[str, Any]) -> None:
    """Raise Damaged where a file says that it is another run's, seed's, level's or format's."""
    for name, expected in {"format": FORMAT, **identity}.items():
        if meta.get(name) != expected:
            raise Damaged(f"{path} belongs elsewhere: its {name} is {meta.get(name)}, not {expected}")


@dataclass(frozen=True)
class SeedFolder:
    """One seed's files; only its worker writes here."""

    path: Path

    @property
    def seed(self) -> int:
        """The seed of the folder's name."""
        return int(self.path.name.removeprefix("seed_"))

    @property
    def identity(self) -> dict[str, Any]:
        """What every file here must say of itself; a run's folder under `runs` is named by its key."""
        run = self.path.parent
        return {"seed": self.seed} | ({"key": run.name} if run.parent.name == "runs" else {})

    def level_path(self, level: int) -> Path:
        """Return where a level's file is, finished or not."""
        return self.path / level_name(level)

    @property
    def partial_path(self) -> Path:
        """Where the level under way is checkpointed."""
        return self.path / "partial.safetensors"

    @property
    def claim_path(self) -> Path:
        """Whoever works on this seed claims this file."""
        return self.path / CLAIM

    @property
    def records_path(self) -> Path:
        """Where the records are appended while a level is trained."""
        return self.path / "records.jsonl"

    def levels(self) -> list[int]:
        """Return the levels that have a file; one that only looks like a level's is none."""
        return self.listing()[0]

    def listing(self) -> tuple[list[int], set[str]]:
        """Return the levels that have a file, and the names of all else in the folder."""
        return numbered(self.path, LEVEL)

    def read_level(self, level: int, identity: Mapping[str, Any] | None = None) -> tuple[Tensors, Meta] | None:
        """Read a finished level, or return None where there is none; see `read`."""
        path = self.level_path(level)
        found = self.read(path, {**(identity or {}), "level": level})
        try:
            if found is not None:
                whole_level(path, found[1])
        except Damaged as error:
            put_aside(path, error)
            return None
        return found

    def read(self, path: Path, identity: Mapping[str, Any]) -> tuple[Tensors, Meta] | None:
        """Read a level or checkpoint that must say `identity` of itself, or return None where there is none.

        What is damaged or belongs elsewhere is named and set aside.
        """
        if not os.path.lexists(path):
            return None
        try:
            tensors, meta = unpack(path)
            belongs(path, meta, {**self.identity, **identity})
        except Damaged as error:
            put_aside(path, error)
            return None
        return tensors, meta

    def meta(self, level: int) -> Meta | None:
        """Return what a finished level says of itself; a damaged or foreign file is named and left out."""
        path = self.level_path(level)
        try:
            meta, _ = header(path)
            belongs(path, meta, {**self.identity, "level": level})
            whole_level(path, meta)
        except Damaged as error:
            notice(f"{error}; it is left out.")
            return None
        return meta

    def metas(self) -> dict[int, Meta]:
        """Return what the finished levels say of themselves, in order."""
        found = {level: self.meta(level) for level in self.levels()}
        return {level: meta for level, meta in found.items() if meta is not None}

    def rows(self) -> list[Row]:
        """Return the summary rows of the finished levels, from the files' headers."""
        return [Row.read(meta["row"], meta["layers"]) for meta in self.metas().values()]

    def written(self, split: str = "") -> dict[tuple[int, int, str], dict[str, Any]]:
        """Return what records.jsonl holds by (level, step, split), of one split or all.

        Of a step recorded again after a resume the last line counts; a line that is no record is dropped.
        """
        try:
            lines = (content(self.records_path) or b"").decode(errors="replace").splitlines()
        except Damaged:
            return {}
        found: dict[tuple[int, int, str], dict[str, Any]] = {}
        for line in lines:
            if split not in line:  # a line is found faster than it is read
                continue
            try:
                row = json.loads(line)
                if type(row["level"]) is not int or type(row["step"]) is not int or split not in ("", row["split"]):
                    continue
                found[row["level"], row["step"], str(row["split"])] = {
                    "seed": self.seed,
                    "level": row["level"],
                    **{name: row[name] for name in RECORD},
                    "seconds": row["seconds"],
                }
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        return found

    def records(self, level: int | None = None) -> list[dict[str, Any]]:
        """Return the records, of one level or all, by level, step and split.

        Those of a finished level are what its file carries; records.jsonl adds their seconds (None where it has lost
        them) and the level under way.
        """
        written = self.written()
        if level is None:
            metas = self.metas()
        else:
            meta = self.meta(level) if level in self.levels() else None
            metas = {} if meta is None else {level: meta}
        found = {at: row for at, row in written.items() if at[0] not in metas and level in (None, at[0])}
        for n, meta in metas.items():
            for row in meta["records"]:
                at = (n, row["step"], row["split"])
                seconds = written.get(at, {}).get("seconds")
                found[at] = {"seed": self.seed, "level": n, **{name: row[name] for name in RECORD}, "seconds": seconds}
        return [found[at] for at in sorted(found)]

    def broken(self) -> bool:
        """Tell whether `mend` has something to do here; reads only."""
        if os.path.lexists(self.partial_path) or any(TEMPORARY.fullmatch(path.name) for path in self.path.glob(".*")):
            return True
        return self.lost_records(self.records())

    def lost_records(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether records.jsonl does not hold all these rows."""
        written = self.written()
        return any(written.get((row["level"], row["step"], row["split"])) != row for row in rows)

    def mend(self) -> None:
        """Put in order what a killed or damaged seed left. Only for whoever has claimed the seed.

        Temporary files and the checkpoint of a finished level are removed; records.jsonl is written anew where it does
        not hold what the level files carry.
        """
        tidy(self.path)
        remove_turns(self.path)
        partial = self.read(self.partial_path, self.identity)
        if partial is not None and partial[1].get("level") in self.levels():
            self.partial_path.unlink()
        rows = self.records()
        if self.lost_records(rows):
            commit(self.records_path, "".join(json.dumps(row) + "\n" for row in rows).encode())
            notice(f"{self.records_path} had lost records of finished levels; rebuilt from their files.")

    @property
    def failure_path(self) -> Path:
        """Where a failure that would happen again is kept."""
        return self.path / FAILURE

    def failure(self) -> dict[str, Any] | None:
        """Return what failed here: level, step, reason, or None."""
        found = side_file(self.failure_path)
        return found if isinstance(found.get("reason"), str) else None

    def forget_failure(self) -> None:
        """Remove the failure, or what stands in its place."""
        if self.failure_path.is_dir() and not self.failure_path.is_symlink():
            put_aside(self.failure_path, f"{self.failure_path} is a folder")
        self.failure_path.unlink(missing_ok=True)


class Records:
    """Append rows to a seed's records; every line is out of the process when `add` returns, so a kill loses none."""

    def __init__(self, folder: SeedFolder):
        folder.path.mkdir(parents=True, exist_ok=True)
        path = folder.records_path
        torn = False
        try:
            torn = not (content(path) or b"\n").endswith(b"\n")
        except Damaged as error:
            put_aside(path, error)
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by `close`
        if torn:
            self.file.write(b"\n")

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, one JSON line each."""
        self.file.write("".join(json.dumps(row) + "\n" for row in rows).encode())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def numbered(folder: Path, pattern: re.Pattern[str], folders: bool = False) -> tuple[list[int], set[str]]:
    """Return the numbers of the files, or of the folders, that stand in a folder under the names of numbers.

    And the names of all else there. An entry knows its own type, so that only links are asked for it: runs have very
    many levels.
    """
    is_own, is_linked = (os.DirEntry.is_dir, os.path.isdir) if folders else (os.DirEntry.is_file, os.path.isfile)
    numbers, others = [], set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                number = number_of(entry.name, pattern)
                if number is not None and (is_own(entry, follow_symlinks=False) or is_linked(entry.path)):
                    numbers.append(number)
                else:
                    others.add(entry.name)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return [], set()
    return sorted(numbers), others


@functools.lru_cache(10_000)  # the same few names stand in every folder
def number_of(name: str, pattern: re.Pattern[str]) -> int | None:
    """Return the number in a name, None where it is no number's."""
    match = pattern.fullmatch(name)
    return int(match[1]) if match else None


def whole_level(path: Path, meta: Meta) -> None:
    """Raise Damaged where a file's metadata is not that of a finished level, but of a checkpoint, say."""
    try:
        Row.read(meta.get("row"), meta.get("layers"))
    except Damaged as error:
        raise Damaged(f"{path} is no finished level: {error}") from error
    records = meta.get("records")
    if not isinstance(records, list) or not all(isinstance(r, dict) and set(RECORD) <= set(r) for r in records):
        raise Damaged(f"{path} is no finished level: it has no records")


class Log:
    """The records of one level: appended to the seed's file as they come, and kept for the level's own file."""

    def __init__(self, folder: SeedFolder, before: list[dict[str, Any]]):
        self.seed, self.file = folder.seed, Records(folder)
        self.rows = before  # without seconds: level files hold no times

    def add(self, new: list[dict[str, Any]]) -> None:
        """Take rows of the records."""
        self.file.add({"seed": self.seed, **row} for row in new)
        self.rows.extend({name: row[name] for name in RECORD} for row in new)
