"""The commands that train: `ltx run` and `ltx figure`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ltx.errors import BadInput, nearest

SWITCHES = ("-m", "--multirun", "--resolve", "--hydra-help")  # of Hydra, which wants them before every key=value
VALUED = {"--cfg": "job", "-c": "job", "--package": "PACKAGE", "-p": "PACKAGE", "--info": "all", "-i": "all"}
VALUED |= {"--config-dir": "DIR", "-cd": "DIR"}


def run(arguments: list[str]) -> int:
    """Run one sweep point or, through Hydra, a sweep; hand --cfg and --info to Hydra."""
    dry, folders, flags, words = False, [], [], []
    rest = iter(arguments)
    for word in rest:
        flag, _, value = word.partition("=")
        if not word.startswith("-"):
            words.append(word)
        elif word == "--dry-run":
            dry = True
        elif word in SWITCHES:
            flags.append(word)
        elif flag in VALUED:
            value = value or next(rest, "")
            if not value:
                raise BadInput(f"{flag} needs a value: {flag} {VALUED[flag]}.")
            if VALUED[flag] == "DIR":
                folders.append(value)
            else:
                flags += [flag, value]
        else:
            raise BadInput(f"{word} is not a flag of run{nearest(flag, ['--dry-run', *SWITCHES, *VALUED])}")
    from ltx.config.words import plain_root

    words = [plain_root(word) for word in words]
    words = [f"hydra.sweeper.zip=[{w.removeprefix('zip=')}]" if w.startswith("zip=") else w for w in words]
    plot = next((w.removeprefix("plot=") for w in words if w.startswith("plot=")), None)
    words = [word for word in words if not word.startswith("plot=")]
    named = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("experiment=")]
    if not (dry or {"workers=0", "--cfg", "-c", "--info", "-i", "--hydra-help"} & {*words, *flags}):
        from ltx.launch import local as launch

        launch.warm_up()

    points, code = [words], 0
    if flags or named:
        from ltx.config.compose import hydra_main

        points, code = hydra_main([*flags, *words], folders)
    name = named[0] if named else None
    return execute(points, folders, ["ltx", "run", *arguments], dry, name, plot) if points else code


def execute(
    points: list[list[str]], folders: list[str], command: list[str], dry: bool, name: str | None, plot: str | None
) -> int:
    """Compose and check all points, train what is missing and show what came out; `plot` is a sweep's key to plot."""
    from ltx.report.swept import check_chosen
    from ltx.runs import sweep
    from ltx.runs.command import failures, specs_of

    specs = specs_of(points, folders)
    if plot is not None:
        check_chosen(plot, sweep.labels(specs, points))
    if dry:
        from ltx.runs.estimate import dry_run

        print("\n".join(map(dry_run, specs)), end="")
        return 0
    several = len(specs) > 1
    place = sweep.folder(specs, name)
    group = place.name if several else None
    outcome = sweep.run(specs, command, group=group, title=group or "")
    written = True
    if several:
        written = show_sweep(outcome, points, place, plot)
    else:
        show_point(outcome)
    for paragraph in failures(outcome):
        print(f"ltx: {paragraph}", file=sys.stderr)
    if outcome.interrupted:
        print("ltx: interrupted; finished levels are kept and the same command continues.", file=sys.stderr)
    return outcome.exit_code if written else outcome.exit_code or 3


def show_point(outcome: Any) -> None:
    """Print the table per level, the plot and the run directory."""
    from rich.console import Console

    from ltx.report.tables import table

    spec = outcome.asked[0]
    point, rows = outcome.points[spec.key], outcome.rows(spec)
    if rows:
        Console(highlight=False).print(table(rows, spec.key))
        print(f"plot: {point.folder.path / 'plots' / 'levels.png'}")
    print(f"run:  {point.folder.path}" + ("" if point.trained or point.failures else " (nothing was left to train)"))


def show_sweep(outcome: Any, overrides: list[list[str]], place: Path, chosen: str | None = None) -> bool:
    """Print the sweep's table, and write it as CSV, plot and wandb parent run; return whether that went well.

    The picture has the chosen key on its horizontal axis, by default one that was swept (see `axes_of`).
    """
    from rich.console import Console

    from ltx.report.mirror import mirror_sweep
    from ltx.report.plots import save_plot
    from ltx.report.sweep_picture import draw_sweep
    from ltx.report.tables import sweep_table
    from ltx.runs import sweep
    from ltx.store.claims import Claim

    labels, rows = sweep.labels(outcome.asked, overrides), [outcome.rows(e) for e in outcome.asked]
    states = [outcome.points[e.key].describe() for e in outcome.asked]
    Console(highlight=False).print(sweep_table(labels, rows, states))
    try:
        with Claim(place / "lock"):  # another process may end with the same sweep
            table = sweep.write(outcome, labels, place)
            if table:
                plot = save_plot(draw_sweep(outcome.asked, labels, rows, chosen), place / "sweep.png")
                if any(point.trained for point in outcome.points.values()) or not (place / "wandb").exists():
                    mirror_sweep(outcome.asked[0], place, table, plot)
    except OSError as error:
        print(f"ltx: the sweep's files could not be written ({error}); the same command writes them.", file=sys.stderr)
        return False
    if table:
        print(f"plot:  {plot}")
    print(f"table: {place / 'table.csv'}")
    return True


def figure(arguments: list[str]) -> int:
    """Make a figure, print its claims and where it is."""
    words = [word for word in arguments if "=" not in word]
    from ltx.figures import names
    from ltx.figures.arms import plan
    from ltx.launch import local as launch

    if len(words) != 1 or words[0].startswith("-"):
        raise BadInput(f"figure takes one NAME{nearest(' '.join(words), names())}")
    from ltx.config.words import plain_root

    overrides = [plain_root(word) for word in arguments if "=" in word]
    plan(words[0], overrides)
    if "workers=0" not in overrides:
        launch.warm_up()
    from ltx.figures.make import make

    code, result = make(words[0], overrides, ["ltx", "figure", *arguments])
    if not code:
        print("\n".join(result["lines"]))
        print(f"figure: {result['path']}")
    return code
