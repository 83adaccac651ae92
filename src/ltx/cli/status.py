"""`ltx status`: how far runs and sweeps are, once or, with --watch, for as long as something is under way."""

from __future__ import annotations

import contextlib
from collections.abc import Container
from pathlib import Path

from ltx.cli.look import options, output_root
from ltx.errors import BadInput


def status(arguments: list[str]) -> int:
    """Print the state of every run and sweep, or of the runs that words name or select."""
    from rich.console import Console

    from ltx.report.progress import clock, counted, under_way
    from ltx.report.status import Entry, compare, ordered, selected, status_table, sweeps_table, to_json
    from ltx.store.find import run_keys
    from ltx.store.states import STATES, standing
    from ltx.store.sweeps import sweeps

    words, found = options(arguments, ("--json", "--watch"), None, ("--columns",))
    if "--watch" in found:
        return watch_runs(words, found)
    filters = {key: value for key, value in found.items() if key not in ("root", "sort") and key[0] != "-"}
    states, names = [w for w in words if w in STATES], [w for w in words if w not in STATES]
    root = output_root(found)
    commands = under_way(root / "progress")
    working = {key: command for command in commands for key in command["runs"]}
    keys = sorted({*run_keys(root), *working})
    if names:
        named = [path for name in names for path in named_runs(name, root, working)]
    else:
        named = [root / "runs" / key for key in keys]
    everything = [Entry(standing(path, working.get(path.name), verified=bool(names))) for path in named]
    entries = ordered(selected(everything, filters, states), found.get("sort", "age"))
    compare(entries)
    listed, records = {entry.key: entry for entry in entries}, []
    for sweep in [] if names else sweeps(root):
        record = sweep.record()
        members = {point.run for point in record.points}
        for key in members & {*listed}:
            listed[key].sweeps.append(sweep.path.name)
        if members & {*listed} or not (filters or states):
            records.append((sweep, record))
    if "--json" in found:
        print(to_json([entry.json() for entry in entries]))
        return 0
    for command in commands:
        eta = "" if command["eta_seconds"] is None else f", ETA {clock(command['eta_seconds'])}"
        print(f"{command['title']}: {command['share']:.0%}, {counted(command)}{eta}")
    console = Console(highlight=False)
    if entries:
        columns = [name for name in found.get("--columns", "").split(",") if name]
        console.print(status_table(entries, keys, console.width, columns))
    else:
        print(f"no runs under {root / 'runs'}" + (f" are {' '.join(arguments)}" if everything else ""))
    if records:
        console.print(sweeps_table(records, {e.key: e.standing for e in everything}, console.width))
    return 0


def named_runs(name: str, root: Path, working: Container[str]) -> list[Path]:
    """Return the directories of the runs that a word means, of a sweep those of its points. Raises BadInput.

    `working` are the keys of commands under way, whose runs need not be there yet.
    """
    from ltx.store.find import exact_run, find_run
    from ltx.store.states import STATES
    from ltx.store.sweeps import find_sweep

    if name in working:
        return [root / "runs" / name]
    sweep = None if exact_run(name, root) else find_sweep(name, root)
    if sweep is None:
        return [find_run(name, root, STATES)]
    return [sweep.run(point).path for point in sweep.record().points]


def watch_runs(words: list[str], found: dict[str, str]) -> int:
    """Show what is under way until it has ended, or until the user has seen enough."""
    from rich.console import Console

    from ltx.report.progress import under_way
    from ltx.report.watch import Watcher, watch
    from ltx.store.states import STATES

    others = [*(key for key in found if key not in ("--watch", "root")), *(word for word in words if word in STATES)]
    if others:
        raise BadInput(
            f"--watch goes with the names of runs and sweeps and with root= alone; leave {others[0]} out, or --watch."
        )
    root = output_root(found)
    working = {key for command in under_way(root / "progress") for key in command["runs"]}
    named = {path.name for word in words for path in named_runs(word, root, working)}
    with contextlib.suppress(KeyboardInterrupt):
        watch(Watcher(root, frozenset(named) if words else None), Console(highlight=False, emoji=False))
    return 0
