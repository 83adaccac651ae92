"""What a run's folder says of it: its config, and what it ran on."""

from __future__ import annotations

import platform
import subprocess
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ltx.config.spec import Spec
from ltx.runs.checks import pick_device
from ltx.store.files import commit, yaml_text
from ltx.store.folders import RunFolder, asked_lines


def write_config(spec: Spec, folder: RunFolder, command: list[str]) -> None:
    """Write config.yaml and manifest.json; seeds and extents are the union of what was ever asked.

    The manifest also says which levels were asked for of which seeds. One of an earlier version does not; what is on
    disk of its run is then taken for what was asked.
    """
    manifest = folder.manifest(verified=True)
    seeds = sorted({*manifest["seeds"], *spec.seeds})
    last = max(manifest["last_level"], spec.method.last_level)
    there = {seed: max(levels) for seed, levels in manifest["levels"].items() if levels}
    asked = there if manifest["old"] else manifest["asked"]
    asked = {**asked, **{seed: max(spec.method.last_level, asked.get(seed, 0)) for seed in spec.seeds}}
    config = {**spec.config, "seeds": seeds}
    if "levels" in config["method"] and config["method"].get("trunk_level") is None:
        config["method"] = {**config["method"], "levels": last}
    commit(folder.path / "config.yaml", yaml_text(config).encode())
    facts = {
        "key": spec.key,
        "seeds": seeds,
        "last_level": last,
        "asked": asked_lines(asked),
        "device": pick_device(spec.config["device"]),
        "devices": spec.config["trainer"]["devices"],
        "threads": spec.config["threads"],
        "data": spec.data.fingerprint(),
        "classes": list(spec.data.names),
        "data_notes": list(spec.data.notes),
        **environment(),
    }
    line = {"command": command, "time": now()}
    commands = manifest["commands"]
    if not commands or commands[-1].get("command") != command:
        commands = [*commands, line]
    folder.write_manifest({**facts, "commands": commands})


def now() -> str:
    """Return the time in UTC, as records hold it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


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
