"""Many runs at once: points in order, trunks before what stands on them, all (point, seed) jobs on one pool."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ltx.config.names import shown
from ltx.config.spec import Spec
from ltx.config.trunk import seeds_of
from ltx.errors import notice
from ltx.launch import local as launch
from ltx.launch.signals import writing_begins
from ltx.methods import WithoutGradients
from ltx.report.progress import Progress
from ltx.runs.capacity import Capacity
from ltx.runs.checks import check_data, check_weights
from ltx.runs.manifest import now
from ltx.runs.naming import names
from ltx.runs.point import Point, level_steps, missing_levels
from ltx.runs.seconds import longest_first, rank
from ltx.store.files import commit
from ltx.store.rows import Row, asked
from ltx.store.sweeps import Label, Record, SweepFolder, SweepPoint, table_columns, table_rows

NAMED = ("method", "model", "data", "width")
OF_A_COMMAND = ("root", "device", "threads", "wait", "retry_failed", "wandb", "workers")  # a trunk has them as well


@dataclass
class Outcome:
    """What a sweep ended with: the points asked for, in their order, their rows, and whether it was interrupted."""

    asked: list[Spec]
    points: dict[str, Point]
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """0 done, 3 something failed, 130 interrupted."""
        return 130 if self.interrupted else 3 if any(p.failures for p in self.points.values()) else 0

    def rows(self, spec: Spec) -> list[Row]:
        """Return the summary rows that a spec asks for."""
        return asked(self.points[spec.key].rows, spec.seeds, spec.method.last_level)


def expand(specs: Sequence[Spec], command: list[str], group: str | None, leave: bool = False) -> dict[str, Point]:
    """Return the points to work on by key, trunks first; the same run asked for twice is one with both extents."""
    merged: dict[str, Spec] = {}

    def add(spec: Spec) -> None:
        if spec.trunk is not None:
            seeds = sorted({below for seed in spec.seeds for below in seeds_of(spec, seed)})
            plumbing = {name: spec.config[name] for name in OF_A_COMMAND}
            plumbing["wandb"] = {**plumbing["wandb"], "name": None, "notes": None}  # of the run that was asked for
            shared = {name: spec.config["trainer"][name] for name in ("devices", "strategy", "replicas")}
            plumbing["trainer"] = {**spec.trunk.config["trainer"], **shared}
            add(Spec.of({**spec.trunk.config, **plumbing, "seeds": seeds}))
        known = merged.get(spec.key)
        merged[spec.key] = spec if known is None else union(known, spec)

    for spec in specs:
        add(spec)
    points: dict[str, Point] = {}
    for key, spec in merged.items():
        points[key] = Point(spec, command, group, points[spec.trunk.key] if spec.trunk else None, leave)
    return points


def union(one: Spec, other: Spec) -> Spec:
    """Return the run with the seeds and the levels of both."""
    more = one if one.method.last_level >= other.method.last_level else other
    seeds = sorted({*one.seeds, *other.seeds})
    return more if seeds == more.seeds else Spec.of({**more.config, "seeds": seeds})


class Schedule:
    """Which job is next: points in order, opened as workers come free; seeds that others work on are passed over."""

    def __init__(self, points: dict[str, Point], fail_fast: bool, capacity: Capacity):
        self.points, self.fail_fast, self.capacity = list(points.values()), fail_fast, capacity
        self.jobs: dict[launch.Job, tuple[Point, list[int]]] = {}

    @property
    def stopped(self) -> bool:
        """Whether fail_fast ended the sweep."""
        return self.fail_fast and any(point.failures for point in self.points)

    def next_job(self) -> launch.Job | None:
        """Return the next job, None where none can start now."""
        for point in self.points:
            if self.stopped:
                return None
            point.open()
            given = point.next_job()
            if given is not None:
                job, seeds = given
                if len(self.capacity.places) > 1:
                    job = placed(job, self.capacity.next_device())
                self.jobs[job] = (point, seeds)
                return job
            if point.settled and not point.trained:
                point.close()
        while self.close_one():
            continue
        return None

    def close_one(self) -> bool:
        """Close one point whose seeds have ended, if any: pictures take a while, so workers are given jobs before."""
        point = next((p for p in self.points if p.state == "open" and p.settled), None)
        if point is not None:
            point.close()
        return point is not None

    def finished(self) -> bool:
        """Tell whether nothing is left to give out: what others work on is left to them where a point says so."""
        return self.stopped or all(point.state == "closed" or point.left for point in self.points)


def placed(job: launch.Job, device: str) -> launch.Job:
    """Return a job of a worker on a device."""
    config, *rest = job.arguments
    return replace(job, arguments=({**config, "device": device}, *rest))


def device_of(job: launch.Job) -> str:
    """Return the device that a job of a worker was given."""
    return str(job.arguments[0]["device"])


def run(
    specs: Sequence[Spec],
    command: list[str],
    group: str | None = None,
    title: str = "",
    told_apart: Sequence[Label] = (),
    begin: Callable[[], None] = lambda: None,
    leave: bool = False,
) -> Outcome:
    """Train what is missing of all specs and derive their files; failures stay with their points.

    `told_apart` gives a label for each spec, of which the progress display shows what differs. `begin` is called when
    everything has been checked and files may be written. With `leave` it is over as soon as other processes work on all
    that is left: the last of them derives what follows.
    """
    points = expand(specs, command, group, leave)
    check_points(points.values())
    writing_begins()
    begin()
    plans = {key: planned(point) for key, point in points.items()}
    jobs, total = {key: jobs for key, (jobs, _) in plans.items()}, sum(steps for _, steps in plans.values())
    capacity = Capacity(specs[0].config)
    schedule = Schedule(in_order(points, plans), specs[0].config["fail_fast"], capacity)
    interrupted = False
    try:
        folder = Path(specs[0].config["root"]) / "progress"
        called = names(specs, told_apart or [{}] * len(specs))
        with Progress(title or specs[0].key, total, jobs, folder, called, unit=unit(points.values())) as progress:
            events = launch.run(schedule.next_job, schedule.finished, capacity, progress.show)
            try:
                for job, kind, value in events:
                    point, seeds = schedule.jobs[job]
                    if isinstance(value, launch.OfSeed):
                        seeds, value = [value.seed], value.value
                    capacity.hear(job.name, device_of(job), kind, value)
                    for seed in seeds:
                        said = point.handle(seed, kind, value)
                        progress.elsewhere = sum(point.not_taken("done") for point in points.values())
                        progress.lost = sum(point.not_taken("failed") for point in points.values())
                        progress.event((point.spec.key, seed), kind, value, partial(level_steps, point.spec))
                        if said:
                            progress.say(said)
                    if kind in ("started", "progress"):
                        schedule.close_one()
            finally:
                events.close()
    except KeyboardInterrupt:
        interrupted = True
    for point in points.values():
        try:
            point.close()
        except KeyboardInterrupt:  # while a picture was drawn, say; the next command draws it
            interrupted = True
        if not point.rows:
            point.adopt()
    return Outcome(list(specs), points, interrupted)


def check_points(points: Iterable[Point]) -> None:
    """Raise BadInput where the data or the weights of a point are not what they should be; they are loaded."""
    for point in points:
        check_data(point.spec)
        if planned(point)[0]:
            check_weights(point.spec, values=True)


def unit(points: Iterable[Point]) -> str:
    """Name what the points' levels are made of."""
    scored = {isinstance(point.spec.method, WithoutGradients) for point in points}
    return " and ".join(word for kind, word in ((False, "optimiser steps"), (True, "masks to score")) if kind in scored)


def in_order(points: dict[str, Point], plans: Mapping[str, tuple[int, int]]) -> dict[str, Point]:
    """Return the points with the longest jobs first, trunks before what stands on them; see `longest_first`."""
    if sum(jobs for jobs, _ in plans.values()) < 2 or len(points) < 2:
        return points
    seconds = {key: steps / jobs * rank(points[key].spec) if jobs else 0.0 for key, (jobs, steps) in plans.items()}
    trunks = {key: point.trunk.spec.key if point.trunk else None for key, point in points.items()}
    return {key: points[key] for key in longest_first(seconds, trunks)}


def planned(point: Point) -> tuple[int, int]:
    """Count the jobs and the optimiser steps of the levels whose files are not there and are not known to fail."""
    retry, folder = point.spec.config["retry_failed"], point.folder
    seeds = [seed for seed in point.spec.seeds if retry or not folder.seed(seed).failure()]
    left = [missing_levels(point.spec, folder.seed(seed), verify=False) for seed in seeds]
    return sum(map(bool, left)), sum(level_steps(point.spec, level)[1] for levels in left for level in levels)


def labels(specs: Sequence[Spec], overrides: Sequence[Sequence[str]]) -> list[Label]:
    """Return per point its method, model, data and width, and every other override in which the points differ."""
    given = [dict(word.lstrip("+").split("=", 1) for word in words if "=" in word) for words in overrides]
    keys = dict.fromkeys(key for values in given for key in values)
    differing = [k for k in keys if k not in NAMED and len({values.get(k) for values in given}) > 1]
    return [
        {group: shown(e.config[group]["name"]) for group in NAMED[:3]}
        | {"width": e.config["width"]}
        | {key: values.get(key) for key in differing}
        for e, values in zip(specs, given, strict=True)
    ]


def folder(specs: Sequence[Spec], name: str | None) -> SweepFolder:
    """Return the sweep's folder, named by a digest of its points' keys: other values are another sweep."""
    digest = hashlib.sha256(" ".join(sorted(e.key for e in specs)).encode()).hexdigest()[:8]
    return SweepFolder(Path(specs[0].config["root"]) / "sweeps" / f"{name or 'sweep'}-{digest}")


def record(specs: Sequence[Spec], points: Sequence[Label], command: list[str], name: str | None) -> Record:
    """Return what a sweep's folder says of it, from its beginning on."""
    asked = [SweepPoint(e.key, label, e.seeds, e.method.last_level) for e, label in zip(specs, points, strict=True)]
    return Record(name, asked, command, now())


def begin(place: SweepFolder, told: Record, specs: Sequence[Spec]) -> None:
    """Write down which sweep begins, so that it can be listed, shown and joined though it should be interrupted."""
    try:
        place.begin(told, [spec.config for spec in specs])
    except OSError as error:
        notice(f"{place.record_path} could not be written ({error}); the sweep goes on.")


def write(outcome: Outcome, told: Record, place: SweepFolder) -> list[dict[str, Any]]:
    """Write the sweep's table as CSV, a line per point, seed and level, and return its lines."""
    rows = [outcome.rows(spec) for spec in outcome.asked]
    found = table_rows(told.points, rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, table_columns(told.points, rows), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(found)
    commit(place.path / "table.csv", text.getvalue().encode())
    place.write(replace(told, ended=now()))
    return found
