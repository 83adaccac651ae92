"""How far a run is, read from its folder alone: no level file is opened unless that is asked for."""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from ltx.store.files import Damaged, text
from ltx.store.folders import RunFolder
from ltx.store.seeds import CLAIM, FAILURE

STATES = ("running", "done", "failed", "waiting", "unfinished")
SORTS = ("age", "accuracy", "key", "state")  # orders of runs that are no key of a config


@dataclass(frozen=True)
class Standing:
    """How far a run is: which levels of which seeds are there and were asked for, which seeds failed, who works on it.

    `reached` holds the levels on disk by seed, `asked` the last level that was ever asked for of each seed.
    """

    path: Path
    reached: Mapping[int, frozenset[int]]
    asked: Mapping[int, int]
    failed: list[int]
    running: bool
    command: Mapping[str, Any] | None  # a command under way that has still to work on the run

    def done(self, asked: Mapping[int, int] | None = None) -> list[int]:
        """Return the seeds all of whose levels are there: those ever asked for, or those asked for here."""
        asked = self.asked if asked is None else asked
        return [seed for seed, last in asked.items() if self.count(seed, last) > last]

    def count(self, seed: int, last: int) -> int:
        """Count the levels of a seed that are there, up to a last one."""
        reached = self.reached.get(seed, frozenset())
        return len(reached) if max(reached, default=0) <= last else sum(level <= last for level in reached)

    @property
    def state(self) -> str:
        """One word for the whole run."""
        complete = bool(self.asked) and len(self.done()) == len(self.asked)
        return "running" if self.running else "done" if complete else self.open_state(self.failed)

    def state_of(self, asked: Mapping[int, int]) -> str:
        """One word for some of its seeds, each up to a level: what a point of a sweep asks for."""
        if len(self.done(asked)) == len(asked):
            return "done"
        return "running" if self.running else self.open_state([seed for seed in self.failed if seed in asked])

    def open_state(self, failed: list[int]) -> str:
        """One word for what is not complete."""
        return "failed" if failed else "waiting" if self.command else "unfinished"

    @cached_property
    def age(self) -> float | None:
        """Seconds since the run was last worked on, None where that cannot be told."""
        times = []
        for name in ("summary.csv", "manifest.json"):
            with contextlib.suppress(OSError):  # it is not there
                times.append((self.path / name).stat().st_mtime)
        return time.time() - max(times) if times else None

    @cached_property
    def accuracy(self) -> float | None:
        """The mean test accuracy over the seeds that have the last level of the summary, None where there is none."""
        try:
            names, *rows = csv.reader((text(self.path / "summary.csv") or "").splitlines())
            level, accuracy = names.index("level"), names.index("test_accuracy")
            found = [(int(row[level]), row[accuracy]) for row in rows if row]
            last, _ = max(found)
            return fmean(float(value) for at, value in found if at == last)
        except (Damaged, ValueError, IndexError):
            return None


def standing(path: Path, command: Mapping[str, Any] | None = None, verified: bool = False) -> Standing:
    """Return how far a run is.

    Levels are counted by the names of their files or, `verified`, by what these say of themselves, which takes longer.
    """
    folder = RunFolder(path)
    manifest = folder.manifest(verified)
    reached = {seed: frozenset(levels) for seed, levels in manifest["levels"].items()}
    beside = manifest["beside"].items()
    failed = [seed for seed, names in beside if FAILURE in names and folder.seed(seed).failure()]
    running = folder.worked_on(folder.seed(seed) for seed, names in beside if CLAIM in names) is not None
    return Standing(path, reached, manifest["asked"], failed, running, command)
