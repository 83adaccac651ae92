"""`ltx doctor`: whether runs are possible on this machine, and what to do where not."""

from __future__ import annotations

from dataclasses import asdict

from ltx.cli.look import options, output_root
from ltx.errors import BadInput, printable


def doctor(arguments: list[str]) -> int:
    """Print a line for each check, ok, note or problem with the remedy; exit 3 where no run is possible."""
    words, found = options(arguments, ("--json",), ("root",))
    if words:
        raise BadInput(f"doctor takes no word but root=DIR, and got '{words[0]}'.")
    from rich.console import Console

    from ltx.report.grid import grid
    from ltx.report.status import to_json
    from ltx.runs.doctor import findings

    found_all = [*findings(output_root(found))]
    possible = all(one.state != "problem" for one in found_all)
    if "--json" in found:
        print(to_json({"runs_possible": possible, "checks": [asdict(one) for one in found_all]}))
    else:
        lines = [
            {
                "check": one.check,
                "state": one.state,
                "found": printable("; ".join(filter(None, (one.said, one.remedy)))),
            }
            for one in found_all
        ]
        Console(highlight=False).print(grid(lines, ("check", "state", "found")))
        if not possible:
            print("no run is possible before the problems are solved")
    return 0 if possible else 3
