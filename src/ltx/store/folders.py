"""A run's directory: its seeds' folders, and what is derived from them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx.errors import notice
from ltx.store.claims import remove_turns
from ltx.store.files import commit, side_file, tidy
from ltx.store.rows import Row, columns_of
from ltx.store.seeds import SEED, SeedFolder, level_name, numbered, seed_name

MOST = 10**6  # seeds and levels that a manifest may tell of


@dataclass(frozen=True)
class RunFolder:
    """A run's directory."""

    path: Path

    def seed(self, seed: int) -> SeedFolder:
        """Return one seed's folder."""
        return SeedFolder(self.path / seed_name(seed))

    def seeds(self) -> list[SeedFolder]:
        """Return the folders of the seeds begun, by seed."""
        return [self.seed(n) for n in numbered(self.path, SEED, folders=True)[0]]

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

        What is on disk goes by the files' names or, `verified`, by what the level files say of themselves. `levels`
        are those on disk of each seed, and `asked` the last one that was ever asked for of each seed, which may differ.
        A manifest that is `old` does not say it; all levels of all seeds are then taken for asked. `beside` names what
        else stands in each seed's folder.
        """
        found = side_file(self.path / "manifest.json")
        seeds, last, commands = (found.get(name) for name in ("seeds", "last_level", "commands"))
        told = [seed for seed in seeds if type(seed) is int and 0 <= seed < MOST] if isinstance(seeds, list) else []
        folders = self.seeds()
        listed = {folder.seed: folder.listing() for folder in folders}
        levels = {f.seed: [*f.metas()] if verified else listed[f.seed][0] for f in folders}
        own = [seed for seed, reached in levels.items() if reached or not listed[seed][0]]
        reached = {seed: max(found_levels) for seed, found_levels in levels.items() if found_levels}
        recorded = asked_of(found.get("asked"))
        every = sorted({*told, *own, *recorded})
        last = max([last if type(last) is int and 0 <= last < MOST else 0, *reached.values()])
        asked = {seed: max(recorded.get(seed, 0), reached.get(seed, 0)) for seed in every}
        return {
            **found,
            "seeds": every,
            "last_level": last,
            "levels": levels,
            "beside": {seed: others for seed, (_, others) in listed.items()},
            "asked": asked if recorded else dict.fromkeys(every, last),
            "old": not recorded,
            "commands": [line for line in commands if isinstance(line, dict)] if isinstance(commands, list) else [],
        }

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest."""
        commit(self.path / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())

    @property
    def claim_path(self) -> Path:
        """Whoever writes what is derived of this run claims this file."""
        return self.path / "lock"

    @property
    def claim_paths(self) -> list[Path]:
        """All that processes claim who work on this run, on its seeds or on its mirror."""
        return [self.claim_path, self.path / "wandb.lock", *(folder.claim_path for folder in self.seeds())]

    def worked_on(self, begun: Iterable[SeedFolder], age: float = 5.0) -> dict[str, Any] | None:
        """Return who works on the run or on one of its seeds, by the age of the claims' files; for display only."""
        for path in (self.claim_path, *(folder.claim_path for folder in begun)):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime < age and (found := side_file(path)):
                    return found
        return None


def asked_of(told: object) -> dict[int, int]:
    """Return the last level of each seed from what a manifest lists: `{"seeds": [0, 1], "last_level": 14}, ...`."""
    found: dict[int, int] = {}
    for line in told if isinstance(told, list) else []:
        seeds, last = (line.get("seeds"), line.get("last_level")) if isinstance(line, dict) else (None, None)
        if isinstance(seeds, list) and type(last) is int and 0 <= last < MOST:
            numbers = [seed for seed in seeds if type(seed) is int and 0 <= seed < MOST]
            found |= {seed: max(last, found.get(seed, 0)) for seed in numbers}
    return found


def asked_lines(asked: Mapping[int, int]) -> list[dict[str, Any]]:
    """Return the last level of each seed as a manifest lists it, the seeds of one last level together."""
    lasts = sorted(set(asked.values()))
    return [{"seeds": sorted(n for n, own in asked.items() if own == last), "last_level": last} for last in lasts]
