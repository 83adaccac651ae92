"""One run: its seeds in parallel workers, then what is derived from their files. The parent trains nothing itself."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ltx import launch
from ltx.errors import BadInput, Failed
from ltx.experiment import Experiment
from ltx.lock import Lock
from ltx.report import Progress
from ltx.store import RunFolder, SeedFolder, commit


@dataclass
class Outcome:
    """What a run ended with: its summary rows for the seeds and levels asked for, failures by seed, interruption."""

    folder: RunFolder
    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    interrupted: bool = False
    trained: bool = False

    @property
    def exit_code(self) -> int:
        """0 done, 3 something failed, 130 interrupted."""
        return 130 if self.interrupted else 3 if self.failures else 0


def check_machine(experiment: Experiment) -> None:
    """Raise BadInput where this machine cannot do what is asked, before anything is written."""
    device = experiment.config["device"]
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdigit()):
        raise BadInput(f"device={device} is unknown. Known: auto, cpu, cuda, cuda:N")
    if kind == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BadInput(f"device={device}, but torch {torch.__version__} sees no CUDA device; use device=auto or cpu.")
        if int(number or 0) >= torch.cuda.device_count():
            raise BadInput(f"device={device}, but there are {torch.cuda.device_count()} CUDA devices, numbered from 0.")
    place = experiment.directory.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise BadInput(f"root={experiment.config['root']} cannot be written: {place} is not a folder one can write to.")


def unfinished(experiment: Experiment, folder: SeedFolder, verify: bool = True) -> list[int]:
    """List the levels of a seed that are missing; with `verify`, a damaged one is set aside and missing too."""
    levels = range(experiment.method.last_level + 1)
    if verify:
        return [level for level in levels if folder.read(folder.level_path(level)) is None]
    return [level for level in levels if not folder.level_path(level).exists()]


def run(experiment: Experiment, command: list[str]) -> Outcome:
    """Train what is missing of a run and derive its summary, plots and wandb mirror. Raises Failed."""
    folder = RunFolder(experiment.directory)
    outcome = Outcome(folder)
    try:
        with Lock(folder, wait=experiment.config["wait"]):
            train_missing(experiment, folder, command, outcome)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise Failed(
            f"No space left on the device while writing {folder.path}. Every finished level is kept; "
            "make room and run the same command again."
        ) from error
    return outcome


def train_missing(experiment: Experiment, folder: RunFolder, command: list[str], outcome: Outcome) -> None:
    """Do the work of `run` under its lock."""
    from ltx.log import Mirror
    from ltx.report import save_plot

    begin(experiment, folder, command)
    missing: dict[int, list[int]] = {}
    for seed in experiment.seeds:
        failure = folder.seed(seed).failure()
        if failure and not experiment.config["retry_failed"]:
            outcome.failures[seed] = failure["reason"]
        elif levels := unfinished(experiment, folder.seed(seed)):
            missing[seed] = levels
    outcome.trained = bool(missing)
    mirror = Mirror(experiment, folder)
    if missing:
        try:
            work(experiment, folder, missing, outcome, mirror)
        except KeyboardInterrupt:
            outcome.interrupted = True
    rows = folder.write_summary()
    asked, last = set(experiment.seeds), experiment.method.last_level
    outcome.rows = [row for row in rows if row["seed"] in asked and row["level"] <= last]
    if outcome.rows and (missing or not (folder.path / "plots" / "levels.png").exists()):
        save_plot(outcome.rows, folder.path / "plots" / "levels.png", experiment.key)
    mirror.finish(outcome.rows)


def work(
    experiment: Experiment, folder: RunFolder, missing: dict[int, list[int]], outcome: Outcome, mirror: Any
) -> None:
    """Run the seeds in workers, following their reports."""
    config, steps = experiment.config, experiment.optim.steps
    jobs = {
        launch.Job(f"seed {seed}", "ltx.levels:run_seed", (config, str(folder.path.absolute()), seed)): seed
        for seed in missing
    }
    first = {level: experiment.method.rewind_step if level else 0 for level in range(experiment.method.last_level + 1)}
    total = sum(steps - first[level] for levels in missing.values() for level in levels)
    done = dict.fromkeys(missing, 0)
    with Progress(f"{experiment.key}", total) as progress:
        for job, kind, value in launch.run(list(jobs), workers(experiment, len(jobs))):
            seed = jobs[job]
            if kind == "progress":
                level, step, loss = value
                progress.update(seed, level, loss, sum(done.values()), step - first[level])
            elif kind == "level":
                done[seed] += steps - first[value["level"]]
                progress.level(seed, sum(done.values()))
                folder.write_summary()
                mirror.level(folder.seed(seed), value)
            elif kind == "diverged":
                outcome.failures[seed] = value["reason"]
            elif kind == "failed":
                reason, trace, system = value
                outcome.failures[seed] = reason
                progress.say(f"seed {seed} failed: {reason}" if system else f"seed {seed} failed:\n{trace}")
            elif kind == "killed":
                outcome.failures[seed] = f"its worker was killed (exit {value})"


def workers(experiment: Experiment, jobs: int) -> int:
    """Return how many worker processes to use: one a core on CPUs, one a device on GPUs, unless the config says."""
    asked = experiment.config["workers"]
    if asked is not None:
        return min(asked, jobs)
    import torch

    gpu = experiment.config["device"] != "cpu" and torch.cuda.is_available()
    return min(jobs, 1 if gpu else max(1, launch.cores() // experiment.config["threads"]))


def begin(experiment: Experiment, folder: RunFolder, command: list[str]) -> None:
    """Write config.yaml and manifest.json; seeds and extents are the union of what was ever asked."""
    manifest = folder.manifest()
    seeds = sorted({*manifest.get("seeds", []), *experiment.seeds})
    last = max(manifest.get("last_level", 0), experiment.method.last_level)
    config = {**experiment.config, "seeds": seeds}
    if "levels" in config["method"]:
        config["method"] = {**config["method"], "levels": last}
    commit(folder.path / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
    facts = {
        "key": experiment.key,
        "seeds": seeds,
        "last_level": last,
        "device": experiment.config["device"],
        "threads": experiment.config["threads"],
        "data": experiment.data.fingerprint(),
        "versions": {name: version(name) for name in ("ltx", "torch", "lightning", "numpy", "hydra-core", "wandb")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "git": git(),
    }
    line = {"command": command, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    if manifest.get("commands", [{}])[-1].get("command") != command or manifest.get("last_level") != last:
        manifest["commands"] = [*manifest.get("commands", []), line]
    folder.write_manifest({**facts, "commands": manifest["commands"]})


def git() -> dict[str, Any] | None:
    """Return the commit and dirtiness of the checkout ltx runs from, None for an installed package."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        commit_id = subprocess.check_output(["git", "-C", str(here), "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL)
        changed = subprocess.check_output(["git", "-C", str(here), "status", "--porcelain"], text=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit_id.strip(), "dirty": bool(changed)}


def say_failures(outcome: Outcome, seeds: Iterable[int]) -> str:
    """Return the paragraph on what failed, what is kept and how to go on, or an empty string."""
    if not outcome.failures:
        return ""
    lines = [f"seed {seed}: {reason}" for seed, reason in sorted(outcome.failures.items())]
    n = len(list(seeds))
    diverged = sum("not a finite number" in reason for reason in outcome.failures.values())
    what = f"{diverged} of {n} diverged" if diverged == len(lines) else f"{len(lines)} of {n} failed"
    return (
        f"{what}. {'; '.join(lines)}. {len(outcome.rows)} finished levels are kept in {outcome.folder.path}. The same "
        "command continues what was interrupted; retry_failed=true tries again what diverged or raised."
    )
