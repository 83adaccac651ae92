"""What of a run and of a sweep goes into wandb, as plain values: the mirror sends them and knows nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltx.analysis.intervals import interval
from ltx.config.spec import Spec
from ltx.report.tables import Label, compared, swept
from ltx.report.wording import is_number
from ltx.store.rows import Row

METRICS = ("train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "early_stop_test_accuracy")
AXES = dict.fromkeys(("density", "kept", "n", "layer_density/*", *(f"{name}/*" for name in METRICS)), "level")
AXES |= {"by_density/*": "density"}  # wandb gives a metric one axis: to have two, the levels are logged under two names


def config_of(spec: Spec, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's mirror has as config: the run's own, the device that `auto` stood for, versions and commit.

    What a damaged manifest has lost is None.
    """
    own = {name: value for name, value in spec.config.items() if name not in ("root", "wandb")}
    known, git = manifest.get("versions") or {}, manifest.get("git") or {}
    versions = {"python": manifest.get("python"), "torch": known.get("torch"), "ltx": known.get("ltx")}
    commit = {"commit": git.get("commit"), "dirty": git.get("dirty")}
    device = manifest.get("device", own["device"])
    return {**own, "device": device, "versions": versions, "git": commit}


def averaged(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return the mean over seeds and, of two or more, its 95 % interval, cut off at what the quantity can be."""
    found = interval(values, 0, 1 if name.endswith("accuracy") else math.inf)
    mean = {f"{name}/mean": found.mean}
    return mean if found.n < 2 else mean | {f"{name}/low": found.low, f"{name}/high": found.high}


def level_values(group: Sequence[Row]) -> dict[str, Any]:
    """Return what is logged of one level: n seeds, each metric per seed and averaged, on both axes, and the layers."""
    metrics: dict[str, float] = {}
    for name in METRICS:
        metrics |= {f"{name}/seed_{row.seed}": getattr(row, name) for row in group}
        metrics |= averaged(name, [getattr(row, name) for row in group])
    first = group[0]
    values: dict[str, Any] = {"level": first.level, "density": first.density, "kept": first.kept, "n": len(group)}
    values |= metrics | {f"by_density/{name}": value for name, value in metrics.items()}
    for name in dict.fromkeys(name for row in group for name in row.layers):
        values[f"layer_density/{name}"] = interval([row.layers[name] for row in group]).mean
    return values


def chunk_values(row: Row, steps: int, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what is logged of one level of one seed: the records of each step, `steps` optimiser steps a level."""
    at: dict[int, dict[str, Any]] = {}
    for record in records:
        values = at.setdefault(record["step"], {})
        values[f"{record['split']}_loss"] = record["loss"]
        values[f"{record['split']}_accuracy"] = record["accuracy"]
    axes = {step: {"step": row.level * steps + step, "level": row.level, "level_step": step} for step in at}
    prefix = f"seed_{row.seed}"
    return [{f"{prefix}/{name}": v for name, v in (axes[step] | at[step]).items()} for step in sorted(at)]


def shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what several configs have in common, down to single fields."""
    first, *others = configs
    found: dict[str, Any] = {}
    for name, value in first.items():
        if not all(name in other for other in others):
            continue
        values = [value, *(other[name] for other in others)]
        if all(isinstance(each, Mapping) for each in values):
            if inner := shared(values):
                found[name] = inner
        elif all(each == value for each in values):
            found[name] = value
    return found


@dataclass(frozen=True)
class Chart:
    """A chart of test accuracies over the points: a line per entry of `lines`, [(x, y), ...], or bars where x is None.

    `key` names it in wandb, which takes a dot in a name for a nested field.
    """

    key: str
    title: str
    x: str | None
    lines: dict[str, list[tuple[Any, float]]]


def charts(labels: Sequence[Label], rows: Sequence[Sequence[Row]]) -> list[Chart]:
    """Return the charts of a sweep: per numeric key that was swept its lines, and bars where another key was swept.

    A line is what the points have in common beside the key, so that methods become lines. There is a bar for every
    point, at the level at which the sweep's table compares it.
    """
    keys = swept(labels)
    numeric = [name for name in keys if all(is_number(str(label.get(name))) for label in labels)]
    measured = [(label, mean_accuracy(group)) for label, group in zip(labels, compared(rows), strict=True) if group]
    found = []
    for name in numeric:
        others = [other for other in keys if other != name]
        lines: dict[str, list[tuple[Any, float]]] = {}
        for label, accuracy in measured:
            lines.setdefault(described(label, others), []).append((float(label[name]), accuracy))
        ordered = {line: sorted(points) for line, points in lines.items()}
        found.append(Chart(f"test_accuracy_by_{plain(name)}", f"Test accuracy against {worded(name)}", name, ordered))
    if len(numeric) < len(keys):
        bars = [(described(label, keys), accuracy) for label, accuracy in measured]
        title = "Test accuracy by " + ", ".join(map(worded, keys))
        found.append(Chart("test_accuracy_by_point", title, None, {"": bars}))
    return [chart for chart in found if measured]


def described(label: Label, names: Sequence[str]) -> str:
    """Name a point by some of its keys: `imp, width 2`."""
    words = [
        str(label[name]) if name in ("method", "model", "data") else f"{worded(name)} {label[name]}"
        for name in names
        if label.get(name) is not None
    ]
    return ", ".join(words) or "test accuracy"


def worded(name: str) -> str:
    """Return a key as words: the last part of its path."""
    return name.rpartition(".")[2].replace("_", " ")


def plain(name: str) -> str:
    """Return a key as a word that wandb takes for one."""
    return name.replace(".", "_")


def mean_accuracy(group: Sequence[Row]) -> float:
    """Return the mean test accuracy over seeds."""
    return interval([row.test_accuracy for row in group], 0, 1).mean


def point_rows(specs: Sequence[Spec], labels: Sequence[Label], rows: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """Return a line per point: what it is, the level at which it is compared, its accuracy with interval, its run."""
    found = []
    for spec, label, group in zip(specs, labels, compared(rows), strict=True):
        line = {**label, "run": spec.key}
        if group:
            first, accuracy = group[0], interval([row.test_accuracy for row in group], 0, 1)
            line |= {name: getattr(first, name) for name in ("level", "density", "kept", "total")}
            line |= {"test_accuracy": accuracy.mean, "n": accuracy.n}
            if accuracy.n > 1:
                line |= {"low": accuracy.low, "high": accuracy.high}
        found.append(line)
    return found
