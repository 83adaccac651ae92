"""The commands that look at single runs and sweeps, and write nothing: `ltx show` and `ltx diff`."""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from ltx.errors import BadInput, nearest, notice, printable, stretches

if TYPE_CHECKING:
    from ltx.export.build import Export
    from ltx.export.timing import Times
    from ltx.store.folders import RunFolder
    from ltx.store.sweeps import SweepFolder


def options(
    arguments: list[str], flags: tuple[str, ...], keys: tuple[str, ...] | None, valued: tuple[str, ...] = ()
) -> tuple[list[str], dict[str, str]]:
    """Split the words of a command that composes no config into positional words and its flags and key=value.

    `valued` are the flags that take a value, `keys` the names that may stand before an equals sign, None for any.
    """
    words, found = [], {}
    rest = iter(arguments)
    for word in rest:
        key, equals, value = word.partition("=")
        if word.startswith("-"):
            if key not in (*flags, *valued) or (equals and key in flags):
                raise BadInput(f"{word} is not a flag of this command{nearest(word, (*flags, *valued))}")
            found[key] = value or next(rest, "") if key in valued else "true"
            if not found[key]:
                raise BadInput(f"{key} needs a value: {key}=width,optim.lr.")
        elif equals:
            if keys is not None and key not in keys:
                raise BadInput(f"'{key}' is not a key of this command{nearest(key, keys)}")
            found[key] = value
        else:
            words.append(word)
    return words, found


def told(found: dict[str, str], key: str, usual: bool = False) -> bool:
    """Return what key=true or key=false says. Raises BadInput for anything else."""
    said = found.get(key, str(usual).lower())
    if said not in ("true", "false"):
        raise BadInput(f"{key}={said}: should be true or false.")
    return said == "true"


def output_root(found: dict[str, str]) -> Path:
    """Return the output root: the command's, the environment's, that of the person's defaults, or outputs."""
    from ltx.config import defaults

    if found.get("root") == "":
        raise BadInput("root= is empty; name a folder, or leave it out for outputs.")
    root = Path(found.get("root") or os.environ.get("LTX_OUTPUT") or defaults.root() or "outputs")
    if root.exists() and not root.is_dir():
        raise BadInput(f"root={root} is not a folder; name the one that holds runs/, or leave it out for outputs.")
    return root


def reference(word: str, root: Path) -> tuple[Path, int | None, int | None]:
    """Return the run, seed and level that RUN[:seed[:level]] means. Raises BadInput."""
    from ltx.store.find import find_run

    name, *numbers = word.rsplit(":", 2) if word.count(":") < 3 else (word,)
    if not all(re.fullmatch("[0-9]{1,18}", number) for number in numbers):
        raise BadInput(f"{word} should read RUN, RUN:seed or RUN:seed:level.")
    seed, level = (*map(int, numbers), None, None)[:2]
    return find_run(name, root), seed, level


def show(arguments: list[str]) -> int:
    """Print a run's config, table and plots, or a sweep's table, the states of its points, and where its files are."""
    from ltx.store.find import exact_run, find_run
    from ltx.store.sweeps import find_sweep, sweeps

    words, found = options(arguments, ("--time",), ("root", "trust"))
    if len(words) != 1:
        raise BadInput("show takes one RUN or SWEEP: a key, a sweep's name or a directory (ltx status lists them).")
    root = output_root(found)
    if "--time" in found:
        return show_times(*reference(words[0], root), told(found, "trust"))
    path = exact_run(words[0], root)
    sweep = None if path else find_sweep(words[0], root)
    if sweep is not None:
        return show_sweep(sweep)
    known = [name for sweep in sweeps(root) for name in (sweep.path.name, sweep.name) if name]
    return show_run(path or find_run(words[0], root, known))


def show_run(path: Path) -> int:
    """Print a run's config, table and plots."""
    from rich.console import Console

    from ltx.report.tables import table
    from ltx.store.files import Damaged
    from ltx.store.folders import RunFolder
    from ltx.store.tags import tags

    try:
        print(printable(config_text(path)))
    except Damaged as error:
        notice(f"{error}; it is left out.")
    folder = RunFolder(path)
    for name in folder.strays():
        notice(f"{path / name} is no level of this run; it is left out.")
    rows = folder.rows()
    if rows:
        console = Console(highlight=False)
        console.print(table(rows, path.name, console.width))
    for said in (compressed_rows(folder), side_by_side(folder)):
        if said:
            print(said)
    for plot in sorted((path / "plots").glob("*.png")):
        print(f"plot: {plot}")
    if words := tags(path):
        print(f"tags: {' '.join(words)}")
    print(f"run:  {path}")
    return 0


def compressed_rows(folder: RunFolder) -> str:
    """Say which layers were trained as compressed rows, at which levels, and how long a level took; or nothing."""
    names: set[str] = set()
    levels: set[int] = set()
    for seed in folder.seeds():
        for level, meta in seed.metas().items():
            found = meta.get("compressed")
            if isinstance(found, list) and found:
                levels.add(level)
                names |= {printable(str(name)).removesuffix(".weight") for name in found}
    if not levels:
        return ""
    ends = [row for seed in folder.seeds() for row in seed.records() if row["split"] == "test"]
    took = {level: [row["seconds"] for row in ends if row["level"] == level] for level in (0, max(levels))}
    times = [f"level {level} took {mean(seconds):.1f} s a seed" for level, seconds in took.items() if seconds]
    return "; ".join([f"compressed rows: {', '.join(sorted(names))} at levels {stretches(sorted(levels))}", *times])


def side_by_side(folder: RunFolder) -> str:
    """Say how many seeds were trained side by side; or nothing."""
    found = [meta.get("replicas") for seed in folder.seeds() for meta in seed.metas().values()]
    most = max((count for count in found if type(count) is int), default=1)
    return f"side by side: up to {most} seeds (trainer.replicas)" if most > 1 else ""


def show_times(path: Path, seed: int | None, level: int | None, trust: bool) -> int:
    """Measure and print how long a ticket takes to compute, and its bytes, as `ltx export` does; writes nothing."""
    from ltx.api import open_run
    from ltx.export.build import Export
    from ltx.identity.measure import Known

    made = Export.of(Known.of(open_run(path, trust), seed, level))
    print_times(made, made.times())
    print(f"run:  {path}")
    return 0


def print_times(made: Export, times: list[Times]) -> None:
    """Print which ticket an export is of, and its milliseconds and bytes beside those of the dense network."""
    from rich.console import Console

    from ltx.export.card import lines, measured_on, units
    from ltx.report.grid import grid

    console, row = Console(highlight=False), made.row
    print(f"{made.known.run}, seed {row.seed}, level {row.level}: {row.kept:,} of {row.prunable:,} weights kept")
    console.print(grid(lines(made, times), ("",), caption=measured_on(made, times)))
    print(textwrap.fill(units(made), console.width, subsequent_indent="  "))


def show_sweep(sweep: SweepFolder) -> int:
    """Print a sweep's table, the states of its points, and where its plot and table are."""
    from rich.console import Console

    from ltx.report.progress import under_way
    from ltx.report.tables import sweep_table

    record = sweep.record()
    working = {key: command for command in under_way(sweep.root / "progress") for key in command["runs"]}
    states = sweep.states(record, working)
    console = Console(highlight=False)
    if record.points:
        rows = [sweep.rows(point) for point in record.points]
        console.print(sweep_table([point.label for point in record.points], rows, states, console.width))
    print(f"{states.count('done')} of {len(states)} points done" + (f", begun {record.time}" if record.time else ""))
    if record.command:
        print(f"command: {shlex.join(record.command)}")
    for plot in sorted(sweep.path.glob("*.png")):
        print(f"plot:  {plot}")
    if (sweep.path / "table.csv").is_file():
        print(f"table: {sweep.path / 'table.csv'}")
    print(f"sweep: {sweep.path}")
    return 0


def diff(arguments: list[str]) -> int:
    """Print in what the configs of two runs differ, and their accuracies at the levels that can be compared."""
    from rich.console import Console

    from ltx.report.diff import compared_levels, config_table, differences, levels_table, to_plain
    from ltx.report.status import to_json
    from ltx.store.find import find_run
    from ltx.store.folders import RunFolder

    words, found = options(arguments, ("--json",), ("root",))
    if len(words) != 2:
        raise BadInput("diff takes two runs, A and B: keys, hashes or directories (ltx status lists them).")
    paths = [find_run(word, output_root(found)) for word in words]
    values = differences(*map(config_of, paths))
    levels = compared_levels(*(RunFolder(path).rows() for path in paths))
    if "--json" in found:
        print(to_json({"a": paths[0].name, "b": paths[1].name, **to_plain(values, levels)}))
        return 0
    console = Console(highlight=False)
    print(f"A: {paths[0].name}\nB: {paths[1].name}")
    if values:
        console.print(config_table(values))
    elif paths[0] == paths[1]:
        print("A and B are the same run")
    else:
        one, other = (RunFolder(path).manifest().get("data") for path in paths)  # where it lies is not compared
        print("their configs are the same" if one == other else "their configs are the same, their data are not")
    if levels:
        console.print(levels_table(levels, console.width))
    else:
        print("no level of A keeps about as many weights as one of B")
    return 0


def config_of(path: Path) -> dict[str, Any]:
    """Return a run's config as flat keys, empty where it is damaged, which is said."""
    from ltx.config.flat import read
    from ltx.store.files import Damaged

    try:
        return read(path)
    except Damaged as error:
        notice(f"{error}; it is left out.")
        return {}


def config_text(path: Path) -> str:
    """Return the text of a run's config. Raises Damaged where it is not one, or not that of a run of this name."""
    from ltx.config.names import readable
    from ltx.store.files import Damaged, read_yaml, text

    config = read_yaml(path / "config.yaml")
    try:
        name = readable(config)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{path / 'config.yaml'} is no config of a run ({type(error).__name__}: {error})") from error
    if path.parent.name == "runs" and path.name.rpartition("-")[0] != name:
        raise Damaged(f"{path / 'config.yaml'} is that of another run ({name})")
    return text(path / "config.yaml") or ""
