"""The table of all commands, and those that look at what is there: each takes its words and returns an exit code."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ltx.cli.training import figure, run
from ltx.errors import BadInput, nearest, notice, printable

LISTED = {"methods": "method", "models": "model", "data": "data", "optim": "optim"}
LISTED |= {"experiments": "experiment", "figures": "figure"}


def options(arguments: list[str], flags: tuple[str, ...], keys: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Split the words of a command that composes no config into positional words and its flags and key=value."""
    words, found = [], {}
    for word in arguments:
        key, equals, value = word.partition("=")
        if word.startswith("-"):
            if word not in flags:
                raise BadInput(f"{word} is not a flag of this command{nearest(word, flags)}")
            found[word] = "true"
        elif equals:
            if key not in keys:
                raise BadInput(f"'{key}' is not a key of this command{nearest(key, keys)}")
            found[key] = value
        else:
            words.append(word)
    return words, found


def list_names(arguments: list[str]) -> int:
    """Print what can be named."""
    from ltx.config.compose import listing

    words, found = options(arguments, (), ("width", "root", "data"))
    for word in words:
        if word not in LISTED:
            raise BadInput(f"'{word}' cannot be listed{nearest(word, LISTED)}")
    width, data = found.get("width", "1"), found.get("data", "digits")
    if not re.fullmatch(r"\d*\.?\d+(e-?\d+)?", width):
        raise BadInput(f"width={width}: should be a number above 0.")
    lists = [f"{word}:\n{listing(LISTED[word], width, data)}" for word in words or LISTED]
    print("\n".join(lists))
    return 0


def status(arguments: list[str]) -> int:
    """Print the state of every run, or of those named."""
    from rich.console import Console

    from ltx.report.progress import clock, counted, under_way
    from ltx.report.status import status as status_of
    from ltx.report.status import status_table, to_json

    words, found = options(arguments, ("--json",), ("root",))
    runs = output_root(found) / "runs"
    commands = under_way(runs.parent / "progress")
    working = {key: command for command in commands for key in command["runs"]}
    keys = {path.name for path in runs.iterdir() if is_key(path.name) and path.is_dir()} if runs.is_dir() else set()
    if words:
        paths = [runs / word if word in working else find_run(word, found) for word in words]
    else:
        paths = [runs / key for key in sorted(keys | {*working})]
    entries = [status_of(path, working.get(path.name), verified=bool(words)) for path in paths]
    if "--json" in found:
        print(to_json(entries))
        return 0
    for command in commands:
        eta = "" if command["eta_seconds"] is None else f", ETA {clock(command['eta_seconds'])}"
        print(f"{command['title']}: {command['share']:.0%}, {counted(command)}{eta}")
    if entries:
        Console(highlight=False).print(status_table(entries))
    else:
        print(f"no runs under {runs}")
    return 0


def show(arguments: list[str]) -> int:
    """Print a run's config, table and plots."""
    from rich.console import Console

    from ltx.report.tables import table
    from ltx.store.files import Damaged
    from ltx.store.folders import RunFolder

    words, found = options(arguments, (), ("root",))
    if len(words) != 1:
        raise BadInput("show takes one RUN: a key or a directory (ltx status lists them).")
    path = find_run(words[0], found)
    try:
        print(printable(config_text(path)))
    except Damaged as error:
        notice(f"{error}; it is left out.")
    folder = RunFolder(path)
    for name in folder.strays():
        notice(f"{path / name} is no level of this run; it is left out.")
    rows = folder.rows()
    if rows:
        Console(highlight=False).print(table(rows, path.name))
    for plot in sorted((path / "plots").glob("*.png")):
        print(f"plot: {plot}")
    print(f"run:  {path}")
    return 0


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


def complete(arguments: list[str]) -> int:
    """Print the words that may stand at the end of a line, or the script that makes bash ask for them."""
    from ltx.cli.complete import SCRIPT
    from ltx.cli.complete import complete as words_for

    print("\n".join(words_for(arguments[0], (*COMMANDS,), (*LISTED,), output_root({}))) if arguments else SCRIPT)
    return 0


def output_root(found: dict[str, str]) -> Path:
    """Return the output root."""
    if found.get("root") == "":
        raise BadInput("root= is empty; name a folder, or leave it out for outputs.")
    root = Path(found.get("root") or os.environ.get("LTX_OUTPUT") or "outputs")
    if root.exists() and not root.is_dir():
        raise BadInput(f"root={root} is not a folder; name the one that holds runs/, or leave it out for outputs.")
    return root


def is_key(name: str) -> bool:
    """Tell whether a folder's name can be a run's key, so that no other name reaches the terminal."""
    return re.fullmatch(r"[A-Za-z0-9_.-]+", name) is not None


def find_run(name: str, found: dict[str, str]) -> Path:
    """Return the directory a key or path means. Raises BadInput naming the nearest run."""
    from ltx.store.folders import RunFolder

    runs = output_root(found) / "runs"
    for path in (runs / name, Path(name)):
        if RunFolder(path).is_run():
            return path
    known = [path.name for path in runs.iterdir() if is_key(path.name)] if runs.is_dir() else []
    raise BadInput(f"No run is named {name} under {runs}{nearest(name, known)}")


COMMANDS = {"run": run, "figure": figure, "list": list_names, "status": status, "show": show, "complete": complete}
