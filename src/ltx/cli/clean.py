"""`ltx clean`: remove what failed, what is left of levels under way, or whole runs, once it has said what."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ltx.cli.look import options, output_root
from ltx.errors import BadInput, Failed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ltx.runs.cleaning import Leftover


def clean(arguments: list[str]) -> int:
    """Print what there is to remove and how much it is, ask, and remove it."""
    words, found = options(arguments, ("--failed", "--partial", "--yes"), ("root",))
    flags = {"--failed", "--partial"} & {*found}
    if bool(words) == bool(flags):
        raise BadInput(
            "clean takes either RUNs, which it removes whole, or --failed or --partial or both, for all runs "
            "(ltx status lists them)."
        )
    root = output_root(found)
    chosen = removable(words, flags, root)
    if not chosen:
        print(f"there is nothing to remove under {root}")
        return 0
    show(chosen, root)
    if "--yes" not in found:
        if not sys.stdin.isatty():
            raise BadInput("nothing was removed, for there is no terminal to ask on; with --yes it is not asked.")
        if not agreed():
            print("nothing was removed")
            return 0
        if removable(words, flags, root) != chosen:
            raise Failed("nothing was removed, for it has changed meanwhile; the same command shows what is there now.")
    from ltx.runs.cleaning import remove

    stays: dict[str, str] = {}
    for one in chosen:  # a run that stands on another comes before it: where the first stays, the second must too
        why = "after one that stays" if words and stays else remove(one)
        if why:
            stays[f"{one.run}: {one.what}"] = why
    if stays:
        raise Failed(f"not all was removed: {'; '.join(f'{name} ({why})' for name, why in stays.items())}.")
    return 0


def removable(words: Sequence[str], flags: set[str], root: Path) -> list[Leftover]:
    """Return what is asked for and may be removed; a file that both flags mean is in the first of them."""
    from ltx.runs.cleaning import failed_seeds, under_way_left, whole_runs, without_claimed

    if words:
        return whole_runs(words, root)
    failed = failed_seeds(root) if "--failed" in flags else []
    taken = {path for one in failed for path in one.paths}
    left = under_way_left(root) if "--partial" in flags else []
    return without_claimed([*failed, *(one for one in left if not taken & {*one.paths})])


def show(chosen: Sequence[Leftover], root: Path) -> None:
    """Print a line for each thing with its bytes, and the sweeps that list its run."""
    from rich.console import Console

    from ltx.report.grid import Line, grid, without
    from ltx.runs.cleaning import listed_in

    sweeps = listed_in(root)
    lines: list[Line] = [
        {"run": one.run, "what": one.what, "sweeps": ", ".join(sweeps.get(one.run, [])), "bytes": f"{one.bytes:,}"}
        for one in chosen
    ]
    if not any(line["sweeps"] for line in lines):
        lines = without(lines, "sweeps")
    Console(highlight=False).print(grid(lines, ("run", "what", "sweeps")))
    print(f"{sum(one.bytes for one in chosen):,} bytes in all")


def agreed() -> bool:
    """Ask on the terminal, and tell whether the answer is yes."""
    try:
        return input("remove it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
