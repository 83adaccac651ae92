"""The status of runs, read from their folders alone: no level file is opened."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ltx.report.progress import clock
from ltx.store.files import Damaged, text
from ltx.store.folders import RunFolder


def status(path: Path, command: dict[str, Any] | None = None, verified: bool = False) -> dict[str, Any]:
    """Return what is known of a run without reading any tensor: done levels and seeds, last metric, age, state.

    A run that a `command` under way has still to work on is waiting, and shows how far the command is. Levels are
    counted by the names of their files or, `verified`, by what these say of themselves, which takes longer.
    """
    folder = RunFolder(path)
    manifest = folder.manifest(verified)
    seeds, last = manifest["seeds"], manifest["last_level"]
    folders = [folder.seed(seed) for seed in seeds]
    done = {f.seed: len([n for n in (f.metas() if verified else f.levels()) if n <= last]) for f in folders}
    failed = [seed for seed in seeds if folder.seed(seed).failure()]
    complete = bool(seeds) and all(count > last for count in done.values())
    running = folder.running()
    newest = max([p.stat().st_mtime for p in (path / "summary.csv", path / "manifest.json") if p.exists()], default=0.0)
    states = {"running": running, "done": complete, "failed": failed, "waiting": command, "unfinished": True}
    return {
        "key": path.name,
        "state": next(state for state, holds in states.items() if holds),
        "levels_done": sum(done.values()),
        "levels": len(seeds) * (last + 1),
        "seeds_done": sum(count > last for count in done.values()),
        "seeds": len(seeds),
        "failed": failed,
        "test_accuracy": last_accuracy(path / "summary.csv"),
        "age_seconds": round(time.time() - newest) if newest else None,
        "command": command and {name: value for name, value in command.items() if name != "runs"},
    }


def last_accuracy(summary: Path) -> float | None:
    """Return the test accuracy of a summary's last row, None where there is none."""
    try:
        lines = (text(summary) or "").splitlines()
        return float(dict(zip(lines[0].split(","), lines[-1].split(","), strict=False))["test_accuracy"])
    except (Damaged, ValueError, KeyError, IndexError):
        return None


def status_table(entries: Sequence[dict[str, Any]]) -> Table:
    """Return the status of runs, one line each."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "levels", "seeds", "test", "age"):
        result.add_column(name, justify="left" if name in ("run", "state") else "right", no_wrap=name == "run")
    for e in entries:
        accuracy = "-" if e["test_accuracy"] is None else f"{e['test_accuracy']:.4f}"
        failed = f", seed {', '.join(map(str, e['failed']))} failed" if e["failed"] else ""
        levels, seeds = f"{e['levels_done']}/{e['levels']}", f"{e['seeds_done']}/{e['seeds']}"
        age = "-" if e["age_seconds"] is None else clock(e["age_seconds"])
        result.add_row(e["key"], e["state"] + failed, levels, seeds, accuracy, age)
    return result


def to_json(value: object) -> str:
    """Return JSON for a program to read."""
    return json.dumps(value, indent=1)
