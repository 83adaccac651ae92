"""One run as the parent sees it: what is missing of its seeds, the jobs for it, and what is derived when they end."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Any

from ltx.config.spec import Spec
from ltx.config.trunk import seeds_of
from ltx.launch import local as launch
from ltx.methods import WithoutGradients
from ltx.report import wording
from ltx.report.mirror import Mirror
from ltx.report.plots import are_pictures, drawn_rows, save_plot
from ltx.runs.manifest import write_config
from ltx.store.claims import Claim
from ltx.store.files import set_aside
from ltx.store.folders import RunFolder
from ltx.store.rows import Row, asked
from ltx.store.seeds import SeedFolder

SPACE = "No space left on the device; make room and run the same command again"


def missing_levels(spec: Spec, folder: SeedFolder, verify: bool = True) -> list[int]:
    """List the levels of a seed that are missing; with `verify`, a damaged one is set aside and missing too."""
    levels = range(spec.method.last_level + 1)
    if not verify:
        there = folder.levels()
        return [level for level in levels if level not in there]
    identity = spec.identity(folder.seed)
    return [n for n in levels if folder.read_level(n, identity) is None]


def level_steps(spec: Spec, level: int) -> tuple[int, int]:
    """Return the first step and the number of optimiser steps of a level, or of the masks that it scores without any.

    For progress and estimates alone.
    """
    plan = spec.plan(level)
    if isinstance(spec.method, WithoutGradients):
        return 0, getattr(spec.method, "work", lambda level: 0)(level)
    return plan.first, plan.last - plan.first


class Seed:
    """One seed of a point as this process sees it; another process may work on it at the same time."""

    def __init__(self, folder: SeedFolder):
        self.folder = folder
        self.state = "unknown"  # then missing, running, done or failed
        self.claim = Claim(folder.claim_path)  # looked at, not taken: its worker takes it
        self.waits = False  # for another process, which was named
        self.steps = 0  # of the levels that were missing and have not come from a worker of ours
        self.killed = 0  # workers of ours that were killed over it

    @property
    def settled(self) -> bool:
        """Whether nothing more will come of it in this process."""
        return self.state in ("done", "failed")

    @property
    def elsewhere(self) -> bool:
        """Whether another process was seen to work on it."""
        return self.state == "missing" and self.waits and self.claim.alive


class Point:
    """A run being worked on: what is missing of its seeds is given out as jobs, and what follows is derived at the end.

    Workers claim seeds, so that any number of processes with the same or overlapping commands share them. Every process
    derives summary, picture and mirror when the seeds it was asked for have ended: the last one finds all of them.

    With `leave` this process does not wait for seeds that others work on, and leaves what follows from them to those.
    """

    def __init__(
        self, spec: Spec, command: list[str], group: str | None = None, trunk: Point | None = None, leave: bool = False
    ):
        self.spec, self.command, self.trunk, self.leave = spec, command, trunk, leave
        self.folder = RunFolder(spec.directory)
        self.mirror = Mirror(spec, self.folder, group)
        self.alone = group is None
        self.state = "waiting"  # then open, then closed
        self.seeds = {seed: Seed(self.folder.seed(seed)) for seed in spec.seeds}
        self.failures: dict[int, str] = {}
        self.rows: list[Row] = []
        self.trained = False
        self.summary_due = 0.0  # on this process's clock

    def guarded(self, action: Callable[[], None]) -> None:
        """Do what writes derived files; a full disk fails this point and leaves the others going."""
        try:
            action()
        except OSError as error:
            reason = SPACE if error.errno == errno.ENOSPC else f"{type(error).__name__}: {error}"
            for number, seed in self.seeds.items():
                if seed.state != "done":
                    self.fail(number, reason)
            if self.state != "closed":
                self.failures.setdefault(self.spec.seeds[0], reason)

    def open(self) -> None:
        """Find what is missing, and put in order what killed processes left."""
        if self.state == "waiting":
            self.state = "open"
            self.guarded(self.begin)

    def begin(self) -> None:
        """Sort the seeds into done, failed before, and missing, and write config and manifest."""
        for number, seed in self.seeds.items():
            if seed.state == "failed":
                continue
            path = seed.folder.path
            if os.path.lexists(path) and not path.is_dir():
                set_aside(path, f"{path} is not a folder")
            levels, failure = missing_levels(self.spec, seed.folder), seed.folder.failure()
            if not levels:
                seed.state = "done"
            elif failure and not self.spec.config["retry_failed"]:
                self.fail(number, failure["reason"])
            else:
                seed.state, self.trained = "missing", True
                seed.steps = sum(level_steps(self.spec, level)[1] for level in levels)
        for folder in self.folder.seeds():
            if self.state_of(folder.seed) != "missing" and folder.broken():  # a worker mends what it trains
                mend(folder)
        with Claim(self.folder.claim_path):
            self.folder.mend()
            write_config(self.spec, self.folder, self.command)

    def state_of(self, number: int) -> str:
        """Return a seed's state; one that was not asked for is taken as done."""
        return self.seeds[number].state if number in self.seeds else "done"

    def fail(self, number: int, reason: str) -> None:
        """Note that a seed failed; what is finished of it stays."""
        self.seeds[number].state, self.failures[number] = "failed", reason

    def next_job(self) -> tuple[launch.Job, list[int]] | None:
        """Give out the next missing seeds that their trunk is there for and that no other process works on.

        There is one a job, or as many as `trainer.replicas` lets a worker train side by side.
        """
        numbers: list[int] = []
        for number, seed in self.seeds.items():
            if seed.state == "missing" and self.trunk_ready(number) and self.free(number, seed):
                seed.state = "running"
                numbers.append(number)
                if len(numbers) == self.spec.config["trainer"]["replicas"]:
                    break
        if not numbers:
            return None
        of_run, (first, *others) = (self.spec.config, str(self.folder.path.absolute())), numbers
        if not others:
            return launch.Job(f"{self.spec.key} seed {first}", "ltx.runs.worker:run_seed", (*of_run, first)), numbers
        name = f"{self.spec.key} seeds {', '.join(map(str, numbers))}"
        return launch.Job(name, "ltx.runs.worker:run_seeds", (*of_run, numbers)), numbers

    def trunk_ready(self, number: int) -> bool:
        """Tell whether the trunk's seeds that a seed stands on are done; one that failed fails this one."""
        if self.trunk is None:
            return True
        states = {self.trunk.state_of(below) for below in seeds_of(self.spec, number)}
        if "failed" in states:
            self.fail(number, f"its trunk {self.trunk.spec.key} failed")
        return states == {"done"}

    def free(self, number: int, seed: Seed) -> bool:
        """Tell whether a seed may be given to a worker: no living process has it, and it is not done meanwhile."""
        holder = seed.claim.holder()
        if holder is None:
            if self.adopted(seed) or (seed.waits and self.failed_elsewhere(number, seed)):
                return False
            seed.waits = False
            return True
        if seed.claim.alive and not (self.spec.config["wait"] or self.leave):
            self.fail(number, f"{seed.folder.path} is in use by {holder}; wait=true waits for it")
        elif seed.claim.alive and not (seed.waits or self.leave):
            print(f"ltx: waiting for {holder}, which works on seed {number} of {self.spec.key}.", flush=True)
        seed.waits = seed.waits or seed.claim.alive
        return False

    def adopted(self, seed: Seed) -> bool:
        """Tell whether another process has finished a seed, and take its levels over."""
        if missing_levels(self.spec, seed.folder, verify=False):
            return False
        seed.state = "done"
        return True

    def failed_elsewhere(self, number: int, seed: Seed) -> bool:
        """Tell whether another process has tried a seed in vain meanwhile, in a way that would happen again."""
        failure = seed.folder.failure()
        if failure is not None:
            self.fail(number, failure["reason"])
        return failure is not None

    def handle(self, number: int, kind: str, value: Any) -> str:
        """Take a worker's report; return what to print above the progress display."""
        seed, said = self.seeds[number], ""
        if kind == "level":
            seed.steps -= level_steps(self.spec, value.level)[1]
            self.guarded(lambda: self.level(number, value))
        elif kind == "held":
            seed.state, seed.waits = "missing", True
        elif kind == "diverged":
            self.fail(number, value["reason"])
            said = f"{self.spec.key} seed {number} diverged: {value['reason']}"
        elif kind == "failed":
            reason, trace, system = value
            self.fail(number, SPACE if f"[Errno {errno.ENOSPC}]" in reason else reason)
            said = f"{self.spec.key} seed {number} failed: " + (reason if system else f"\n{trace}")
        elif kind == "killed" and seed.state == "running" and self.leave and not seed.killed:
            seed.state, seed.killed = "missing", 1
            said = f"{self.spec.key} seed {number}: its worker was killed (exit {value}); it is given out once more"
        elif kind in ("killed", "ended") and seed.state == "running" and not self.adopted(seed):
            how = "ended without finishing" if kind == "ended" else f"was killed (exit {value})"
            self.fail(number, f"its worker {how}; the same command continues it")
            said = f"{self.spec.key} seed {number}: {self.failures[number]}"
        return said

    def not_taken(self, state: str) -> int:
        """Count the steps that nobody takes here any more, of its done seeds (another process did) or failed ones."""
        return sum(seed.steps for seed in self.seeds.values() if seed.state == state)

    def level(self, number: int, row: Row) -> None:
        """Derive the summary again, at most a twentieth of the time for a long run, and mirror the level."""
        if (began := time.monotonic()) >= self.summary_due:
            self.folder.write_summary()
            self.summary_due = began + 20 * (time.monotonic() - began)
        self.mirror.level(self.folder.seed(number), row)

    @property
    def settled(self) -> bool:
        """Whether no seed is missing or running any more."""
        return all(seed.settled for seed in self.seeds.values())

    @property
    def left(self) -> bool:
        """Whether all that is not settled is left to other processes, which were seen to work on it."""
        return self.leave and all(seed.settled or seed.elsewhere for seed in self.seeds.values())

    def close(self) -> None:
        """Derive summary, plot and mirror, and remove the claims of workers that were ended."""
        if self.state != "open":
            return
        if self.left and not self.settled and not self.mirror.claimed:
            self.state = "closed"
            return
        try:
            for seed in self.seeds.values():
                if not seed.settled:
                    seed.claim.holder()
            self.guarded(self.derive)
        finally:
            self.state = "closed"
            self.mirror.release()

    def adopt(self) -> None:
        """Take over what is on disk, where the point was never opened."""
        self.rows = self.asked(self.folder.rows())
        for seed in self.seeds.values():
            if seed.state == "unknown":
                self.adopted(seed)

    def derive(self) -> None:
        """Write what follows from the level files."""
        with Claim(self.folder.claim_path):
            rows = self.folder.write_summary()
            self.rows = self.asked(rows)
            if rows:
                self.draw(rows)
            self.mirror.finish(rows, self.trained)

    def draw(self, rows: list[Row]) -> None:
        """Draw the picture of all rows, unless it is there; those of a sweep have no PDF, which takes as long again."""
        plot, said = self.folder.path / "plots" / "levels.png", (wording.title(self.spec), wording.training(self.spec))
        of = drawn_rows(rows, *said)
        if not are_pictures(plot, of, self.alone):
            from ltx.report.run_picture import draw  # loads matplotlib

            save_plot(draw(rows, *said, wording.score(self.spec)), plot, of, self.alone)

    def asked(self, rows: list[Row]) -> list[Row]:
        """Select the seeds and levels this run asks for."""
        return asked(rows, self.spec.seeds, self.spec.method.last_level)

    def describe(self) -> str:
        """Return the point's state in a word or two."""
        if self.failures:
            return f"{len(self.failures)} of {len(self.seeds)} failed"
        return "done" if self.settled else "with others" if self.left else "interrupted"

    def explain(self) -> str:
        """Return the paragraph on what failed, what is kept and how to go on, or an empty string."""
        if not self.failures:
            return ""
        n, lines = len(self.seeds), [f"seed {number}: {reason}" for number, reason in sorted(self.failures.items())]
        diverged = sum("not a finite number" in reason for reason in self.failures.values())
        what = f"{diverged} of {n} diverged" if diverged == len(lines) else f"{len(lines)} of {n} failed"
        kept = len(self.asked(self.folder.rows()))
        return (
            f"{self.spec.key}: {what}. {'; '.join(lines)}. {kept} finished levels are kept in "
            f"{self.folder.path}. The same command continues what was interrupted; retry_failed=true tries again "
            "what diverged or raised."
        )


def mend(folder: SeedFolder) -> None:
    """Put a finished seed in order, unless a process works on it: that one does."""
    claim = Claim(folder.claim_path)
    if claim.attempt():
        try:
            folder.mend()
        finally:
            claim.release()
