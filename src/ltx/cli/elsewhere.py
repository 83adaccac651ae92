"""`ltx run` with workers elsewhere: submit them, say how to watch them, and, where asked, stay until they are done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltx.config.spec import Spec
    from ltx.runs.point import Point
    from ltx.store.sweeps import SweepFolder

LOOK_SECONDS, ASK_SECONDS = 1.0, 15.0  # between two looks at the store, and two questions to the cluster


def submit(
    specs: list[Spec],
    points: list[list[str]],
    command: list[str],
    name: str | None,
    request: Mapping[str, Any],
    show: Callable[[], int],
) -> int:
    """Submit workers for what is missing of a sweep and return at once, or stay with wait=true.

    Where nothing is missing, and after having stayed, `show` says in this process what there is. Raises BadInput before
    anything is written.
    """
    from ltx.config.names import own_names
    from ltx.runs import sweep

    engine = engine_of(request["kind"])
    request = {**request, "trust": any(own_names(spec.config) for spec in specs)}
    expanded = sweep.expand(specs, command, None)
    sweep.check_points(expanded.values())
    jobs = sum(sweep.planned(point)[0] for point in expanded.values())
    if not jobs:
        return show()
    place = sweep.folder(specs, name)
    engine.check(request, place.root if place.path.exists() else place.path.parent.parent)
    told = sweep.record(specs, sweep.labels(specs, points), command, name)
    sweep.begin(place, told, specs)
    waiting = engine.alive(place)
    count = min(request["workers"], -(-jobs // request["per_task"])) - len(waiting)
    title = place.path.name
    if count > 0:
        cores = max(spec.config["threads"] * spec.config["trainer"]["devices"] for spec in specs)
        job = engine.submit(request, place, count, cores)
        print(f"{request['kind']}: job {job}, {count} workers for {jobs} jobs of {len(expanded)} runs")
    else:
        print(f"{request['kind']}: {len(waiting)} workers are there for {jobs} jobs, and no more are submitted")
    print(f"watch:  ltx status {title} --watch")
    print(f"cancel: ltx cancel {title}")
    print(f"logs:   {place.path / request['kind']}")
    print(f"sweep:  {place.path}")
    if engine.ends_with_this_process():
        print(f"{request['kind']}: there is no cluster, so that a local one was started; it ends with this command")
    elif not request["wait"]:
        return 0
    left, cancelled = watched([*expanded.values()], engine, place, title), place.cancelled()
    if cancelled:
        print(f"ltx: {cancelled}; finished levels are kept and the same command continues.", file=sys.stderr)
        return 130
    if left:
        print(f"ltx: {left} jobs are left and no worker is; the same command submits more.", file=sys.stderr)
        return 3
    return show()


def engine_of(kind: str) -> ModuleType:
    """Return the module that submits workers of a kind."""
    if kind == "slurm":
        from ltx.launch import slurm

        return slurm
    from ltx.launch import ray

    return ray


def watched(points: list[Point], engine: ModuleType, place: SweepFolder, title: str) -> int:
    """Show how far the workers elsewhere are until nothing is missing, or none is left; return what is missing then."""
    from ltx.report.progress import Progress
    from ltx.runs import sweep

    plans = {point.spec.key: sweep.planned(point) for point in points}
    total = sum(steps for _, steps in plans.values())
    jobs: Mapping[str, int] = {key: count for key, (count, _) in plans.items()}
    asked = time.monotonic()
    with Progress(title, total, jobs, place.root / "progress", unit=sweep.unit(points)) as progress:
        while True:
            now = [sweep.planned(point) for point in points]
            left, steps = sum(count for count, _ in now), sum(steps for _, steps in now)
            progress.elsewhere, progress.done = total - steps, sum(jobs.values()) - left
            progress.show()
            if not left or place.cancelled():
                return left
            if time.monotonic() - asked > ASK_SECONDS:
                asked = time.monotonic()
                if not engine.alive(place):
                    return sum(sweep.planned(point)[0] for point in points)
            time.sleep(LOOK_SECONDS)
