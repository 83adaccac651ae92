"""What `ltx status` says of runs and sweeps: which of them, in which order, in which columns."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rich.table import Table

from ltx.config import flat
from ltx.config.names import shown
from ltx.errors import BadInput, nearest, printable
from ltx.report.grid import Line, LongGrid, fitting, grid, needed, without
from ltx.report.tables import varying_names
from ltx.store.files import Damaged
from ltx.store.find import short_keys
from ltx.store.states import SORTS, Standing
from ltx.store.sweeps import Label, Record, SweepFolder
from ltx.store.tags import tags

OWN = ("run", "tags", "state", "levels", "seeds", "test", "age")  # columns that are no key of a config
FOLDED = ("what", "tags", "swept", "sweep", "state")


@dataclass
class Entry:
    """A run in the list of all: how far it is, and its config, empty where that is damaged or not there."""

    standing: Standing
    sweeps: list[str] = field(default_factory=list)  # the folders of those that have it as a point
    differs: flat.Flat = field(default_factory=dict)  # by what it differs from the others that are listed

    @property
    def key(self) -> str:
        """The run's key."""
        return self.standing.path.name

    @cached_property
    def config(self) -> flat.Flat:
        """The run's config as flat keys."""
        try:
            return flat.read(self.standing.path)
        except Damaged:
            return {}

    @cached_property
    def tags(self) -> list[str]:
        """The words that a person gave to the run."""
        return tags(self.standing.path)

    def json(self) -> dict[str, Any]:
        """Return what a program reads of a run; `command` is what the one under way says of itself and of the run."""
        at, command = self.standing, self.standing.command
        if command:
            workers = [worker for worker in command["workers"] if worker["run"] == self.key]
            command = {name: value for name, value in command.items() if name != "runs"} | {"workers": workers}
        return {
            "key": self.key,
            "tags": self.tags,
            "state": at.state,
            "levels_done": sum(at.count(seed, last) for seed, last in at.asked.items()),
            "levels": sum(last + 1 for last in at.asked.values()),
            "seeds_done": len(at.done()),
            "seeds": len(at.asked),
            "failed": at.failed,
            "test_accuracy": at.accuracy,
            "age_seconds": None if at.age is None else round(at.age),
            "command": command,
            "differs": self.differs,
            "sweeps": self.sweeps,
        }


def selected(entries: Sequence[Entry], filters: Mapping[str, str], states: Sequence[str]) -> list[Entry]:
    """Return the runs of some states, with some values, and with one of the tags of `tag=WORD,WORD`.

    Raises BadInput for a key that no run has.
    """
    asked = filters.get("tag")
    filters = {key: value for key, value in filters.items() if key != "tag"}
    if filters:
        from ltx.config.schema import RunConfig

        known = flat.keys_of(entry.config for entry in entries) or [*RunConfig.model_fields]
        for key in filters:
            if (key if entries else key.partition(".")[0]) not in known:
                raise BadInput(f"'{key}' is no key of a run's config{near(key, [*known, 'root', 'sort', 'tag'])}")
    return [
        entry
        for entry in entries
        if (not states or entry.standing.state in states)
        and (asked is None or {*asked.split(",")} & {*entry.tags})
        and all(flat.matches(flat.value_of(entry.config, key), value) for key, value in filters.items())
    ]


def ordered(entries: Sequence[Entry], by: str) -> list[Entry]:
    """Return the runs by age, the newest last, or by accuracy, key, state or a key of their config, in its order."""
    known = flat.keys_of(entry.config for entry in entries)
    if by not in (*SORTS, *known) and entries:
        raise BadInput(
            f"sort={by} is neither a key of a run's config nor {' or '.join(SORTS)}{near(by, [*SORTS, *known])}"
        )

    def value(entry: Entry) -> Any:
        at = entry.standing
        if by in SORTS:
            own = {"age": at.age and -at.age, "accuracy": at.accuracy, "key": entry.key, "state": at.state}
            return own[by]
        return flat.value_of(entry.config, by)

    def place(entry: Entry) -> tuple[int, float, str, str]:
        found = value(entry)
        if found is None:
            return 0, 0.0, "", entry.key
        if isinstance(found, int | float):
            return 1, float(found), "", entry.key
        return 2, 0.0, str(found), entry.key

    return sorted(entries, key=place)


def near(name: str, known: Sequence[str]) -> str:
    """Return `; did you mean 'x'?` for an unknown key, and nothing else of what may be hundreds of keys."""
    return nearest(name, known).partition(" Known:")[0]


def compare(entries: Sequence[Entry]) -> None:
    """Note by what each of some runs differs from the others."""
    for entry, differs in zip(entries, flat.differing([entry.config for entry in entries]), strict=True):
        entry.differs = differs


def status_table(entries: Sequence[Entry], keys: Sequence[str], room: int, columns: Sequence[str] = ()) -> LongGrid:
    """Return the status of runs, one line each: what they are and by what they differ, or the columns asked for.

    `keys` are those of all runs there are, among which a short one must still mean one. Raises BadInput for a column
    that is no key of any config.
    """
    known = flat.keys_of(entry.config for entry in entries)
    for column in columns:
        if column not in (*known, *OWN):
            raise BadInput(f"'{column}' is no column{near(column, [*known, *OWN])}")
    short = short_keys(keys)
    names = flat.short_names(name for entry in entries for name in entry.differs)
    several = [
        group for group in ("model", "data") if len({entry.config.get(f"{group}.name") for entry in entries}) > 1
    ]

    def line(entry: Entry) -> dict[str, str]:
        own = own_cells(entry, short.get(entry.key, entry.key))
        asked = {name: cell(flat.value_of(entry.config, name)) for name in columns if name not in OWN}
        said = {} if columns else {"what": what(entry, several, names)}
        return {"run": own["run"], **said, **asked, **{name: own[name] for name in OWN[1:]}}

    lines: list[Line] = [line(entry) for entry in entries]
    if "tags" not in columns and not any(entry.tags for entry in entries):
        lines = without(lines, "tags")
    extra = [name for name in ("seeds", "age", "levels") if name not in columns]
    if needed(lines) <= room:
        return LongGrid(lines, FOLDED)
    ways = [without(lines, *extra[:count]) for count in range(1, len(extra) + 1)]
    return LongGrid(fitting(ways, room, FOLDED), FOLDED)


def own_cells(entry: Entry, short: str) -> dict[str, str]:
    """Return the cells that are no values of a config."""
    told = entry.json()
    failed = f"{len(told['failed'])} of {told['seeds']} failed" if told["failed"] else ""
    state = failed if told["state"] == "failed" else f"{told['state']}, {failed}" if failed else told["state"]
    return {
        "run": short,
        "tags": " ".join(told["tags"]),
        "state": state,
        "levels": f"{told['levels_done']}/{told['levels']}",
        "seeds": f"{told['seeds_done']}/{told['seeds']}",
        "test": "-" if told["test_accuracy"] is None else f"{told['test_accuracy']:.4f}",
        "age": "-" if told["age_seconds"] is None else age_text(told["age_seconds"]),
    }


def what(entry: Entry, groups: Sequence[str], names: Mapping[str, str]) -> str:
    """Say what a run is: its method, model and data where there are several, width, and by what it differs."""
    if not entry.config:
        return entry.key.rpartition("-")[0] or entry.key
    named = [cell(shown(entry.config.get(f"{group}.name", "-"))) for group in ("method", *groups)]
    values = [f"{names[key]}={cell(value)}" for key, value in entry.differs.items()]
    return " ".join([*named, f"width={cell(entry.config.get('width'))}", *values])


def cell(value: Any) -> str:
    """Write a value of a config, - where there is none."""
    return "-" if value is None else printable(flat.value_text(value))


def age_text(seconds: float) -> str:
    """Write how long ago something was in one number: `45 s`, `12 min`, `3 h`, `5 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(0, seconds))} s"


def sweeps_table(sweeps: Sequence[tuple[SweepFolder, Record]], standings: Mapping[str, Standing], room: int) -> Table:
    """Return the sweeps, one line each: what was swept, how many points are done of all, and its age."""
    lines: list[Line] = []
    for sweep, record in sweeps:
        known = [(point, standings[point.run]) for point in record.points if point.run in standings]
        done = sum(at.state_of(point.asked) == "done" for point, at in known)
        age = age_text(time.time() - sweep.record_path.stat().st_mtime)
        swept = swept_text([point.label for point in record.points])
        lines.append({"sweep": sweep.path.name, "swept": swept, "points": f"{done}/{len(record.points)}", "age": age})
    return grid(fitting([lines, without(lines, "age")], room, FOLDED), FOLDED)


def swept_text(labels: Sequence[Label]) -> str:
    """Write what the points of a sweep differ in: `width=0.5, 1, 2 method=imp, dense`."""
    names = [name for name in varying_names(labels) if name != "run"]
    values = {name: [*dict.fromkeys(cell(label.get(name)) for label in labels)] for name in names}
    return " ".join(f"{name}={', '.join(found)}" for name, found in values.items() if len(found) > 1)


def to_json(value: object) -> str:
    """Return JSON for a program to read."""
    return json.dumps(value, indent=1)
