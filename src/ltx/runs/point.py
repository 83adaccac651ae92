"""One run as the parent sees it: its lock, what is missing of it, its jobs, and what is derived when they end."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ltx.config.spec import Spec
from ltx.errors import BadInput, Failed, notice
from ltx.launch import local as launch
from ltx.report.mirror import Mirror
from ltx.report.plots import draw, drawn_rows, is_picture, save_plot
from ltx.store.claims import Lock
from ltx.store.files import commit, set_aside, yaml_text
from ltx.store.folders import RunFolder, SeedFolder

SPACE = "No space left on the device; make room and run the same command again"


def check_machine(spec: Spec) -> None:
    """Raise BadInput where this machine cannot do what is asked, before anything is written."""
    device = spec.config["device"]
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdigit()):
        raise BadInput(f"device={device} is unknown. Known: auto, cpu, cuda, cuda:N")
    if kind == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BadInput(
                f"device={device}, but torch {torch.__version__} sees no CUDA device; use device=auto or cpu."
            )
        if int(number or 0) >= torch.cuda.device_count():
            raise BadInput(f"device={device}, but there are {torch.cuda.device_count()} CUDA devices, numbered from 0.")
    check_root(spec.directory.absolute(), spec.config["root"])


def check_root(place: Path, root: str) -> None:
    """Raise BadInput where a run's folder could not be made: it is tried, since permissions do not say it of /proc."""
    try:
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise BadInput(f"root={root} cannot be written: {place} is not a folder.")
        with tempfile.TemporaryDirectory(prefix=".ltx-", dir=place):
            return
    except OSError as error:
        raise BadInput(f"root={root} cannot be used: {place}: {error.strerror or error}.") from error


def missing_levels(spec: Spec, folder: SeedFolder, verify: bool = True) -> list[int]:
    """List the levels of a seed that are missing; with `verify`, a damaged one is set aside and missing too."""
    levels = range(spec.method.last_level + 1)
    if not verify:
        there = folder.levels()
        return [level for level in levels if level not in there]
    identity = spec.identity(folder.seed)
    return [n for n in levels if folder.read_level(n, identity) is None]


def level_steps(spec: Spec, level: int) -> tuple[int, int]:
    """Return the first step and the number of optimiser steps of a level, for progress and estimates."""
    first = spec.method.anchor_step if level else 0
    return first, max(0, spec.method.steps(level, spec.optim.steps) - first)


class Point:
    """A run being worked on: opened under its lock, its missing seeds given out as jobs, closed when they ended."""

    def __init__(self, spec: Spec, command: list[str], group: str | None = None, trunk: Point | None = None):
        self.spec, self.command, self.trunk = spec, command, trunk
        self.folder = RunFolder(spec.directory)
        self.mirror = Mirror(spec, self.folder, group)
        self.lock = Lock(self.folder, wait=spec.config["wait"])
        self.state = "waiting"  # then open, then done, failed or interrupted
        self.seeds = dict.fromkeys(spec.seeds, "unknown")  # then done, failed, missing, running
        self.missing: dict[int, list[int]] = {}
        self.failures: dict[int, str] = {}
        self.rows: list[dict[str, Any]] = []
        self.trained = False
        self.summary_due = 0.0  # on this process's clock

    def guarded(self, action: Callable[[], None]) -> None:
        """Do what writes derived files; a full disk fails this point and leaves the others going."""
        try:
            action()
        except OSError as error:
            reason = SPACE if error.errno == errno.ENOSPC else f"{type(error).__name__}: {error}"
            for seed, state in self.seeds.items():
                if state != "done":
                    self.fail(seed, reason)
            if self.state != "closed":
                self.failures.setdefault(self.spec.seeds[0], reason)

    def open(self) -> bool:
        """Take the lock if it is free and find what is missing; return whether the point is open now."""
        if self.state == "waiting":
            try:
                if not self.lock.attempt():
                    return False
            except (OSError, Failed) as error:
                reason = SPACE if getattr(error, "errno", None) == errno.ENOSPC else str(error)
                for seed in self.seeds:
                    self.fail(seed, reason)
                self.state = "closed"
                return False
            self.state = "open"
            self.guarded(self.begin)
        return self.state == "open"

    def begin(self) -> None:
        """Write config and manifest and sort the seeds into done, failed before, and missing."""
        for note in self.spec.data.notes:
            notice(f"{self.spec.config['data']['name']}: {note}.")
        for seed, state in self.seeds.items():
            if state == "failed":
                continue
            path = self.folder.seed(seed).path
            if os.path.lexists(path) and not path.is_dir():
                set_aside(path, f"{path} is not a folder")
            levels, failure = missing_levels(self.spec, self.folder.seed(seed)), self.folder.seed(seed).failure()
            if not levels:
                self.seeds[seed] = "done"
            elif failure and not self.spec.config["retry_failed"]:
                self.fail(seed, failure["reason"])
            else:
                self.missing[seed], self.seeds[seed], self.trained = levels, "missing", True
        self.folder.mend()
        write_config(self.spec, self.folder, self.command)

    def fail(self, seed: int, reason: str) -> None:
        """Note that a seed failed; what is finished of it stays."""
        self.seeds[seed], self.failures[seed] = "failed", reason

    def next_job(self) -> launch.Job | None:
        """Give out the next missing seed whose trunk is there."""
        for seed, state in self.seeds.items():
            if state != "missing":
                continue
            if self.trunk is not None:
                pinned = self.spec.config["method"].get("trunk_seed")
                ready = self.trunk.seeds.get(seed if pinned is None else pinned, "done")
                if ready == "failed":
                    self.fail(seed, f"its trunk {self.trunk.spec.key} failed")
                if ready != "done":
                    continue
            self.seeds[seed] = "running"
            arguments = (self.spec.config, str(self.folder.path.absolute()), seed)
            return launch.Job(f"{self.spec.key} seed {seed}", "ltx.runs.levels:run_seed", arguments)
        return None

    def handle(self, seed: int, kind: str, value: Any) -> str:
        """Take a worker's report; return what to print above the progress display."""
        said = ""
        if kind == "level":
            self.guarded(lambda: self.level(seed, value))
        elif kind == "diverged":
            self.fail(seed, value["reason"])
            said = f"{self.spec.key} seed {seed} diverged: {value['reason']}"
        elif kind == "failed":
            reason, trace, system = value
            self.fail(seed, SPACE if f"[Errno {errno.ENOSPC}]" in reason else reason)
            said = f"{self.spec.key} seed {seed} failed: " + (reason if system else f"\n{trace}")
        elif kind in ("killed", "ended") and self.seeds[seed] == "running":
            if not missing_levels(self.spec, self.folder.seed(seed), verify=False):
                self.seeds[seed] = "done"
            else:
                how = "ended without finishing" if kind == "ended" else f"was killed (exit {value})"
                self.fail(seed, f"its worker {how}; the same command continues it")
                said = f"{self.spec.key} seed {seed}: {self.failures[seed]}"
        return said

    def level(self, seed: int, row: dict[str, Any]) -> None:
        """Derive the summary again, at most a twentieth of the time for a long run, and mirror the level."""
        if (began := time.monotonic()) >= self.summary_due:
            self.folder.write_summary()
            self.summary_due = began + 20 * (time.monotonic() - began)
        self.mirror.level(self.folder.seed(seed), row)

    @property
    def settled(self) -> bool:
        """Whether no seed is missing or running any more."""
        return all(state in ("done", "failed") for state in self.seeds.values())

    def close(self) -> None:
        """Derive summary, plot and mirror, and release the lock."""
        if self.state != "open":
            return
        if self.lock.lost.is_set():
            self.state = "closed"
            for seed, state in self.seeds.items():
                if state not in ("done", "failed"):
                    self.fail(seed, "another process took over its lock while this one stood still")
            self.failures.setdefault(self.spec.seeds[0], "another process took over its lock")
            return
        try:
            self.guarded(self.derive)
        finally:
            self.state = "closed"
            self.lock.release()

    def adopt(self) -> None:
        """Take over what is on disk, where the point was never opened."""
        self.rows = self.asked(self.folder.rows())
        for seed, state in self.seeds.items():
            if state == "unknown" and not missing_levels(self.spec, self.folder.seed(seed), verify=False):
                self.seeds[seed] = "done"

    def derive(self) -> None:
        """Write what follows from the level files."""
        rows = self.folder.write_summary()
        self.rows = self.asked(rows)
        plot = self.folder.path / "plots" / "levels.png"
        if rows and not is_picture(plot, drawn_rows(rows)):
            save_plot(draw(rows, self.spec.key), plot, drawn_rows(rows))
        self.mirror.finish(rows)

    def asked(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Select the seeds and levels this run asks for."""
        seeds, last = set(self.spec.seeds), self.spec.method.last_level
        return [row for row in rows if row["seed"] in seeds and row["level"] <= last]

    @property
    def lost(self) -> bool:
        """Whether another process took over while this one stood still: nothing may be written any more."""
        return self.state == "open" and self.lock.lost.is_set()

    def describe(self) -> str:
        """Return the point's state in a word or two."""
        if self.failures:
            return f"{len(self.failures)} of {len(self.seeds)} failed"
        return "done" if self.settled else "interrupted"

    def explain(self) -> str:
        """Return the paragraph on what failed, what is kept and how to go on, or an empty string."""
        if not self.failures:
            return ""
        n, lines = len(self.seeds), [f"seed {seed}: {reason}" for seed, reason in sorted(self.failures.items())]
        diverged = sum("not a finite number" in reason for reason in self.failures.values())
        what = f"{diverged} of {n} diverged" if diverged == len(lines) else f"{len(lines)} of {n} failed"
        kept = len(self.asked(self.folder.rows()))
        return (
            f"{self.spec.key}: {what}. {'; '.join(lines)}. {kept} finished levels are kept in "
            f"{self.folder.path}. The same command continues what was interrupted; retry_failed=true tries again "
            "what diverged or raised."
        )


def write_config(spec: Spec, folder: RunFolder, command: list[str]) -> None:
    """Write config.yaml and manifest.json; seeds and extents are the union of what was ever asked."""
    manifest = folder.manifest()
    seeds = sorted({*manifest["seeds"], *spec.seeds})
    last = max(manifest["last_level"], spec.method.last_level)
    config = {**spec.config, "seeds": seeds}
    if "levels" in config["method"] and config["method"].get("trunk_level") is None:
        config["method"] = {**config["method"], "levels": last}
    commit(folder.path / "config.yaml", yaml_text(config).encode())
    facts = {
        "key": spec.key,
        "seeds": seeds,
        "last_level": last,
        "device": spec.config["device"],
        "threads": spec.config["threads"],
        "data": spec.data.fingerprint(),
        "classes": list(spec.data.names),
        "data_notes": list(spec.data.notes),
        **environment(),
    }
    line = {"command": command, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    commands = manifest["commands"]
    if not commands or commands[-1].get("command") != command:
        commands = [*commands, line]
    folder.write_manifest({**facts, "commands": commands})


@cache
def environment() -> dict[str, Any]:
    """Return versions, machine and the commit of the checkout ltx runs from (None for an installed package)."""
    names = ("ltx", "torch", "lightning", "numpy", "hydra-core", "wandb")
    here, git = Path(__file__).resolve().parents[3], None
    if (here / ".git").exists():
        try:
            options: Any = {"text": True, "stderr": subprocess.DEVNULL, "cwd": here}
            commit_id = subprocess.check_output(["git", "rev-parse", "HEAD"], **options).strip()
            git = {
                "commit": commit_id,
                "dirty": bool(subprocess.check_output(["git", "status", "--porcelain"], **options)),
            }
        except (OSError, subprocess.CalledProcessError):
            git = None
    versions = {name: version(name) for name in names}
    return {"versions": versions, "python": platform.python_version(), "machine": platform.machine(), "git": git}
