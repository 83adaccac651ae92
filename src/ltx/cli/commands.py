"""The table of all commands, and those that name things: each takes its words and returns an exit code."""

from __future__ import annotations

import re
from pathlib import Path

from ltx.cli.clean import clean
from ltx.cli.compare import compare
from ltx.cli.doctor import doctor
from ltx.cli.export import export
from ltx.cli.look import diff, options, output_root, show
from ltx.cli.report import report
from ltx.cli.status import status
from ltx.cli.tag import tag
from ltx.cli.tail import tail
from ltx.cli.training import figure, run
from ltx.cli.where import where
from ltx.cli.work import cancel, work
from ltx.errors import BadInput, nearest


def list_names(arguments: list[str]) -> int:
    """Print what can be named; models with their sizes, for which torch is loaded, where these are asked for."""
    from ltx.cli.listing import LISTED, listing

    folders, rest = [], iter(arguments)
    arguments = []
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(config_dir(value if equals else next(rest, "")))
        else:
            arguments.append(word)
    words, found = options(arguments, (), ("width", "root", "data"))
    for word in words:
        if word not in LISTED:
            raise BadInput(f"'{word}' cannot be listed{nearest(word, LISTED)}")
    width = found.get("width", "1")
    if not re.fullmatch(r"\d*\.?\d+(e-?\d+)?", width):
        raise BadInput(f"width={width}: should be a number above 0.")
    sized = "models" in words or {"width", "data"} & {*found}
    sizes = {"width": width, "data": found.get("data", "digits")} if sized else None
    lists = [line for word in words or LISTED for line in listing(word, sizes, folders, examples=word in words)]
    print("\n".join(lists))
    return 0


def config_dir(name: str) -> str:
    """Return the folder that --config-dir names. Raises BadInput where it is none."""
    if not Path(name).is_dir() or not name:
        raise BadInput(f"--config-dir {name} is not a folder." if name else "--config-dir needs a value: DIR.")
    return name


def complete(arguments: list[str]) -> int:
    """Print the words that may stand at the end of a line, or the script that makes bash ask for them."""
    from ltx.cli.complete import SCRIPT
    from ltx.cli.complete import complete as words_for
    from ltx.cli.listing import LISTED

    print("\n".join(words_for(arguments[0], (*COMMANDS,), (*LISTED,), output_root({}))) if arguments else SCRIPT)
    return 0


COMMANDS = {"run": run, "where": where, "figure": figure, "list": list_names, "status": status, "show": show}
COMMANDS |= {"diff": diff, "compare": compare, "export": export, "tail": tail, "tag": tag, "clean": clean}
COMMANDS |= {"report": report, "work": work, "cancel": cancel, "doctor": doctor, "complete": complete}
