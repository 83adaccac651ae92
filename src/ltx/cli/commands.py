"""The table of all commands, and those that name things: each takes its words and returns an exit code."""

from __future__ import annotations

from ltx.cli.look import diff, options, output_root, show, status
from ltx.cli.training import figure, run
from ltx.errors import BadInput, nearest

LISTED = {"methods": "method", "models": "model", "data": "data", "optim": "optim"}
LISTED |= {"experiments": "experiment", "figures": "figure"}


def list_names(arguments: list[str]) -> int:
    """Print what can be named."""
    from ltx.config.compose import listing

    words, found = options(arguments, (), ("width", "root", "data"))
    for word in words:
        if word not in LISTED:
            raise BadInput(f"'{word}' cannot be listed{nearest(word, LISTED)}")
    for word in words or LISTED:
        print(f"{word}:")
        print(listing(LISTED[word], found.get("width", "1"), found.get("data", "digits")))
    return 0


def complete(arguments: list[str]) -> int:
    """Print the words that may stand at the end of a line, or the script that makes bash ask for them."""
    from ltx.cli.complete import SCRIPT
    from ltx.cli.complete import complete as words_for

    print("\n".join(words_for(arguments[0], (*COMMANDS,), (*LISTED,), output_root({}))) if arguments else SCRIPT)
    return 0


COMMANDS = {"run": run, "figure": figure, "list": list_names, "status": status, "show": show, "diff": diff}
COMMANDS |= {"complete": complete}
