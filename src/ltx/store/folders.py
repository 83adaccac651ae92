"""A run's directory: level files, records, and what is derived from them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx.errors import notice
from ltx.store.files import TEMPORARY, Damaged, commit, content, header, side_file, tidy, unpack
from ltx.store.files import set_aside as put_aside
from ltx.store.rows import Row, columns_of

if TYPE_CHECKING:
    from ltx.tensors import Tensors

FORMAT = 2  # of a level file: 2 carries the run's key, the seed, the level and the level's records
LEVEL, SEED = re.compile(r"level_(\d{2,})\.safetensors"), re.compile(r"seed_(\d{3,})")
MOST = 10**6  # seeds and levels that a manifest may tell of
TURN = re.compile(r"\.(lock|claim)\.[0-9a-f]{16}")  # see `claims`
TURN_SECONDS = 60  # it is held for milliseconds
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
        return self.path / "claim"

    @property
    def records_path(self) -> Path:
        """Where the records are appended while a level is trained."""
        return self.path / "records.jsonl"

    def levels(self) -> list[int]:
        """Return the levels that have a file; one that only looks like a level's is none."""
        return sorted(n for n, path in numbered(self.path, LEVEL, level_name) if path.is_file())

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

    def written(self) -> dict[tuple[int, int, str], dict[str, Any]]:
        """Return what records.jsonl holds by (level, step, split).

        Of a step recorded again after a resume the last line counts; a line that is no record is dropped.
        """
        try:
            lines = (content(self.records_path) or b"").decode(errors="replace").splitlines()
        except Damaged:
            return {}
        found: dict[tuple[int, int, str], dict[str, Any]] = {}
        for line in lines:
            try:
                row = json.loads(line)
                if type(row["level"]) is not int or type(row["step"]) is not int:
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
        return self.path / "failed.json"

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


@dataclass(frozen=True)
class RunFolder:
    """A run's directory."""

    path: Path

    def seed(self, seed: int) -> SeedFolder:
        """Return one seed's folder."""
        return SeedFolder(self.path / seed_name(seed))

    def seeds(self) -> list[SeedFolder]:
        """Return the folders of the seeds begun, by seed."""
        return [self.seed(n) for n in sorted(n for n, path in numbered(self.path, SEED, seed_name) if path.is_dir())]

    def is_run(self) -> bool:
        """Tell whether this is a run's directory: it has a config, a manifest, or a seed's folder."""
        return any((self.path / name).is_file() for name in ("config.yaml", "manifest.json")) or bool(self.seeds())

    def rows(self) -> list[Row]:
        """Return the summary rows of all finished levels, by seed and level."""
        return [row for folder in self.seeds() for row in folder.rows()]

    def strays(self) -> list[str]:
        """Name what looks like a seed's folder or a level's file and is none."""
        own = {folder.path.name for folder in self.seeds()}
        found = [path.name for path in self.path.glob("seed_*") if path.name not in own]
        for folder in self.seeds():
            levels = {level_name(level) for level in folder.levels()}
            found += [f"{folder.path.name}/{p.name}" for p in folder.path.glob("level_*") if p.name not in levels]
        return sorted(name for name in found if ".damaged-" not in name)

    def mend(self) -> None:
        """Remove what killed writers left beside the seeds, and name strays. Only for whoever has claimed the run."""
        tidy(self.path)
        tidy(self.path / "plots")
        remove_turns(self.path)
        for name in self.strays():
            notice(f"{self.path / name} is no level of this run; it is left out.")

    def write_summary(self) -> list[Row]:
        """Derive summary.csv from the level files and return its rows."""
        rows = self.rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.columns() for row in rows)
        commit(self.path / "summary.csv", text.getvalue().encode())
        return rows

    def manifest(self, verified: bool = False) -> dict[str, Any]:
        """Return the manifest; `seeds`, `last_level` and `commands` also cover what is on disk, whatever it says.

        What is on disk goes by the files' names or, `verified`, by what the level files say of themselves.
        """
        found = side_file(self.path / "manifest.json")
        seeds, last, commands = (found.get(name) for name in ("seeds", "last_level", "commands"))
        told = [seed for seed in seeds if type(seed) is int and 0 <= seed < MOST] if isinstance(seeds, list) else []
        levels = {f.seed: [*f.metas()] if verified else f.levels() for f in self.seeds()}
        own = [seed for seed, reached in levels.items() if reached or not self.seed(seed).levels()]
        reached = [level for found_levels in levels.values() for level in found_levels]
        return {
            **found,
            "seeds": sorted({*told, *own}),
            "last_level": max([last if type(last) is int and 0 <= last < MOST else 0, *reached]),
            "commands": [line for line in commands if isinstance(line, dict)] if isinstance(commands, list) else [],
        }

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest."""
        commit(self.path / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())

    @property
    def claim_path(self) -> Path:
        """Whoever writes what is derived of this run claims this file."""
        return self.path / "lock"

    def running(self, age: float = 5.0) -> dict[str, Any] | None:
        """Return who works on one of the seeds, by the age of the claims' files; for display only."""
        for path in (self.claim_path, *(folder.claim_path for folder in self.seeds())):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime < age and (found := side_file(path)):
                    return found
        return None


def numbered(folder: Path, pattern: re.Pattern[str], name: Callable[[int], str]) -> list[tuple[int, Path]]:
    """Return what stands in a folder under the names of numbers; seed_0007 is not the name of 7."""
    found = [(pattern.fullmatch(path.name), path) for path in folder.glob("*_*")]
    return [(int(match[1]), path) for match, path in found if match and name(int(match[1])) == path.name]


def whole_level(path: Path, meta: Meta) -> None:
    """Raise Damaged where a file's metadata is not that of a finished level, but of a checkpoint, say."""
    try:
        Row.read(meta.get("row"), meta.get("layers"))
    except Damaged as error:
        raise Damaged(f"{path} is no finished level: {error}") from error
    records = meta.get("records")
    if not isinstance(records, list) or not all(isinstance(r, dict) and set(RECORD) <= set(r) for r in records):
        raise Damaged(f"{path} is no finished level: it has no records")


def remove_turns(folder: Path) -> None:
    """Remove what is left of processes that died while they took a dead one's claim over."""
    for turn in folder.glob(".*"):
        with contextlib.suppress(OSError):  # its owner was faster, or it is no file: then nobody is in its way
            if TURN.fullmatch(turn.name) and time.time() - turn.lstat().st_mtime > TURN_SECONDS:
                turn.unlink()
