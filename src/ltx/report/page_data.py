"""What a page is made of, read from the store: the points of a sweep, of a figure, of some runs or of all."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ltx.config import flat
from ltx.config.names import shown
from ltx.errors import BadInput, notice, printable
from ltx.report.progress import under_way
from ltx.report.tables import compared
from ltx.store.files import Damaged, content, read_json, side_file, size
from ltx.store.find import run_keys
from ltx.store.folders import RunFolder
from ltx.store.rows import Row
from ltx.store.seeds import SeedFolder
from ltx.store.states import standing
from ltx.store.sweeps import Label, SweepFolder, is_key
from ltx.store.tags import tags

MOST_STEPS = 50  # of a learning curve; more of them nobody sees


@dataclass(frozen=True)
class Step:
    """A place of a learning curve: the mean over seeds of loss and accuracy on the validation part."""

    step: int
    loss: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Failure:
    """Why a seed has failed, in the words of its failed.json."""

    seed: int
    reason: str
    traceback: str


@dataclass(frozen=True)
class Point:
    """A point of a page: a run, as far as it was asked for.

    `seconds` are those that training took, by level and seed, where the records have them; `curves` are by level;
    `manifest` is what the run's file holds.
    """

    path: Path
    label: Label
    asked: Mapping[int, int]
    state: str
    rows: Sequence[Row] = ()
    curves: Mapping[int, Sequence[Step]] = field(default_factory=dict)
    seconds: Mapping[int, Sequence[float]] = field(default_factory=dict)
    failures: Sequence[Failure] = ()
    tags: Sequence[str] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    bytes: int = 0

    @property
    def key(self) -> str:
        """The run's key."""
        return self.path.name

    @property
    def minutes(self) -> float:
        """How long all levels of all seeds were trained; nan where that is not known."""
        return math.fsum(s for found in self.seconds.values() for s in found) / 60 if self.seconds else math.nan


@dataclass(frozen=True)
class Content:
    """All that a page shows. `command`, `begun` and `ended` are those of a sweep, the rest of a figure."""

    title: str
    points: Sequence[Point]
    command: str = ""
    begun: str = ""
    ended: str = ""
    source: str = ""
    claims: Sequence[Mapping[str, Any]] = ()
    picture: bytes = b""


def of_sweep(sweep: SweepFolder) -> Content:
    """Read what a sweep has asked for."""
    record, commands = sweep.record(), at_work(sweep.root)
    points = [read(sweep.run(at).path, at.label, commands.get(at.run), at.asked) for at in record.points]
    title, command = f"Sweep {sweep.path.name}", shlex.join(record.command)
    return Content(title, with_curves(points), command, record.time, record.ended)


def of_runs(paths: Sequence[Path], root: Path, title: str) -> Content:
    """Read whole runs; what tells them apart is looked for in their configs."""
    commands, configs = at_work(root), [config_of(path) for path in paths]
    labels = told_apart(configs)
    points = [read(path, label, commands.get(path.name)) for path, label in zip(paths, labels, strict=True)]
    return Content(title, with_curves(points))


def of_all(root: Path) -> Content:
    """Read all runs under an output root. Raises BadInput where there is none."""
    keys = run_keys(root)
    if not keys:
        raise BadInput(
            f"There are no runs under {root / 'runs'} to report on: `ltx run` makes one, and root=DIR or LTX_OUTPUT "
            "name another folder."
        )
    return of_runs([root / "runs" / key for key in keys], root, f"All runs under {root}")


def of_figure(name: str, root: Path) -> Content:
    """Read the runs, the claims and the picture of a figure that has been made. Raises BadInput where it has not."""
    place = root / "figures" / f"{name}.json"
    try:
        told = read_json(place)
    except Damaged as error:
        raise BadInput(f"{error}; `ltx figure {name}` makes it anew.") from error
    if told is None:
        raise BadInput(f"The figure {name} has not been made under {root}: `ltx figure {name}` makes it.")
    runs = told.get("runs")
    arms = (
        {arm: key for arm, key in runs.items() if isinstance(key, str) and is_key(key)}
        if isinstance(runs, dict)
        else {}
    )
    commands = at_work(root)
    points = [read(root / "runs" / key, {"arm": printable(arm)}, commands.get(key)) for arm, key in arms.items()]
    found = told.get("claims")
    claims = [claim for claim in found if isinstance(claim, dict)] if isinstance(found, list) else []
    source = printable(str(told.get("source") or ""))
    return Content(f"Figure {name}", with_curves(points), source=source, claims=claims, picture=picture_of(place))


def picture_of(place: Path) -> bytes:
    """Return the PNG beside the JSON of a figure, nothing where there is none; what is none is named."""
    path = place.with_suffix(".png")
    try:
        found = content(path) or b""
        if found and not found.startswith(b"\x89PNG\r\n\x1a\n"):
            raise Damaged(f"{path} is no PNG")
    except Damaged as error:
        notice(f"{error}; it is left out.")
        return b""
    return found


def at_work(root: Path) -> dict[str, Mapping[str, Any]]:
    """Return the commands under way by the runs that they have still to work on."""
    return {key: command for command in under_way(root / "progress") for key in command["runs"]}


def config_of(path: Path) -> flat.Flat:
    """Return a run's config as flat keys, empty where it is damaged, which is said."""
    try:
        return flat.read(path)
    except Damaged as error:
        notice(f"{error}; it is left out.")
        return {}


def told_apart(configs: Sequence[flat.Flat]) -> list[Label]:
    """Return, for every config, its method, model, data and width, and the values by which it differs from others."""
    return [
        {group: printable(shown(config.get(f"{group}.name", "-"))) for group in ("method", "model", "data")}
        | {"width": config.get("width")}
        | {printable(key): plain(value) for key, value in differs.items()}
        for config, differs in zip(configs, flat.differing(configs), strict=True)
    ]


def plain(value: Any) -> Any:
    """Return a number as it is and anything else as a text without control characters."""
    return value if isinstance(value, int | float) else printable(flat.value_text(value))


def read(path: Path, label: Label, command: Mapping[str, Any] | None, asked: Mapping[int, int] | None = None) -> Point:
    """Read a run, of which these seeds are asked for up to these levels, by default all."""
    at, folder = standing(path, command), RunFolder(path)
    asked = at.asked if asked is None else asked
    seeds = [seed for seed in folder.seeds() if seed.seed in asked]
    rows = [row for seed in seeds for row in seed.rows() if row.level <= asked[seed.seed]]
    there = {(row.seed, row.level) for row in rows}
    seconds: dict[int, list[float]] = {}
    for seed in seeds:
        for level, took in seconds_of(seed).items():
            if (seed.seed, level) in there:
                seconds.setdefault(level, []).append(took)
    return Point(
        path,
        label,
        asked,
        at.state_of(asked) if asked else at.state,
        rows,
        {},
        seconds,
        [failure for failure in map(failure_of, seeds) if failure],
        tags(path),
        side_file(path / "manifest.json"),
        size(path) if path.is_dir() else 0,
    )


def with_curves(points: Sequence[Point]) -> list[Point]:
    """Return points with the learning curves that a page shows: of the level compared, of one point all levels."""
    found = []
    for point, rows in zip(points, compared([point.rows for point in points]), strict=True):
        levels = {row.level for row in (point.rows if len(points) == 1 else rows)}
        found.append(replace(point, curves={level: curve(point, level) for level in sorted(levels)}))
    return found


def seconds_of(folder: SeedFolder) -> dict[int, float]:
    """Return how long each level of a seed took: its last record, that of the test part, says it."""
    found = {at[0]: row["seconds"] for at, row in folder.written("test").items()}
    return {level: float(took) for level, took in found.items() if is_number(took)}


def failure_of(folder: SeedFolder) -> Failure | None:
    """Return why a seed has failed, or None."""
    found = folder.failure()
    if found is None:
        return None
    return Failure(folder.seed, printable(found["reason"]), printable(str(found.get("traceback") or "")))


def curve(point: Point, level: int) -> list[Step]:
    """Return the mean validation curve of a level at the steps that all its seeds have, thinned."""
    seeds = [RunFolder(point.path).seed(row.seed) for row in point.rows if row.level == level]
    found: dict[int, list[tuple[float, float]]] = {}
    for records in ((seed.meta(level) or {}).get("records", []) for seed in seeds):
        for row in records:
            if (
                row["split"] == "val"
                and type(row["step"]) is int
                and is_number(row["loss"])
                and is_number(row["accuracy"])
            ):
                found.setdefault(row["step"], []).append((row["loss"], row["accuracy"]))
    count = len(seeds)
    whole = thinned([step for step in sorted(found) if len(found[step]) == count])
    losses = {step: math.fsum(loss for loss, _ in found[step]) / count for step in whole}
    scores = {step: math.fsum(score for _, score in found[step]) / count for step in whole}
    return [Step(step, losses[step], scores[step], count) for step in whole]


def thinned(steps: Sequence[int]) -> list[int]:
    """Return at most MOST_STEPS of some steps, about evenly, the first and the last among them."""
    last, most = len(steps) - 1, MOST_STEPS - 1
    return [*steps] if last <= most else [steps[round(i * last / most)] for i in range(MOST_STEPS)]


def is_number(value: object) -> bool:
    """Tell whether a value from a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
