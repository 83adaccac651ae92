"""The commands that train: `ltx run` and `ltx figure`."""

from __future__ import annotations

import re
import shutil
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from ltx.errors import BadInput, nearest

if TYPE_CHECKING:
    from ltx.config.defaults import Defaults
    from ltx.config.spec import Spec

SWITCHES = ("-m", "--multirun", "--resolve", "--hydra-help")  # of Hydra, which wants them before every key=value
FLAGS = (
    "-m",
    "--multirun",
    "--dry-run",
    "--full",
    "--cfg",
    "--resolve",
    "--config-dir",
    "--info",
    "--help",
)  # what a hint lists
VALUED = {"--cfg": "job", "-c": "job", "--package": "PACKAGE", "-p": "PACKAGE", "--info": "all", "-i": "all"}
VALUED |= {"--config-dir": "DIR", "-cd": "DIR"}
OFFERED = {
    "job": ("job", "hydra", "all"),
    "all": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}


def run(arguments: list[str]) -> int:
    """Run one sweep point or, through Hydra, a sweep; hand --cfg and --info to Hydra."""
    flags, folders, words = divided(arguments)
    dry, full = "--dry-run" in flags, "--full" in flags
    flags = [flag for flag in flags if flag not in ("--dry-run", "--full")]
    if full and not dry:
        raise BadInput("--full shows the configs of a --dry-run, which it goes with.")
    from ltx.config import defaults

    own = defaults.read()
    plot = next((w.removeprefix("plot=") for w in words if w.startswith("plot=")), None)
    words = [word for word in words if not word.startswith("plot=")]
    named = experiments(words)
    in_process = "workers=0" in words or own.values.get("workers") == 0 or elsewhere(words)
    if not (dry or in_process or {"--cfg", "-c", "--info", "-i", "--hydra-help"} & {*flags}):
        from ltx.launch import local as launch

        launch.warm_up()

    points, request = points_of(flags, words, folders, own)
    if not points:
        return 0
    from ltx.runs.command import specs_of

    specs = specs_of(points, folders, own, here=not request)
    if plot is not None:
        from ltx.report.swept import check_chosen
        from ltx.runs import sweep

        check_chosen(plot, sweep.labels(specs, points))
    if dry:
        return show_plan(specs, points, own, full)
    command, name = own.command(["ltx", "run", *arguments]), named[0] if named else None
    if request:
        from ltx.cli.elsewhere import submit

        show = partial(execute, specs, points, command, name, plot, one_is_a_sweep=True)
        return submit(specs, points, command, name, request, show)
    return execute(specs, points, command, name, plot)


def divided(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Split the words of `ltx run` into its flags, the folders of --config-dir, and key=value. Raises BadInput."""
    from ltx.config.words import plain_root

    folders, flags, words = [], [], []
    rest = iter(arguments)
    for word in rest:
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            words.append(plain_root(word))
        elif word in (*SWITCHES, "--dry-run", "--full"):
            flags.append(word)
        elif flag in VALUED:
            value = value if equals else next(rest, "")
            if not value:
                raise BadInput(f"{flag} needs a value: {flag} {VALUED[flag]}.")
            offered = OFFERED.get(VALUED[flag])
            if offered and value not in offered:
                raise BadInput(f"{flag} {value} is unknown{nearest(value, offered)}")
            if VALUED[flag] == "DIR":
                folders.append(value)
            else:
                flags += [flag, value]
        else:
            raise BadInput(f"{word} is not a flag of run{flag_meant(flag, value)}")
    return flags, folders, words


def experiments(words: list[str]) -> list[str]:
    """Return the named sweeps among the words of `ltx run`."""
    return [word.partition("=")[2] for word in words if word.lstrip("+").startswith("experiment=")]


def points_of(
    flags: list[str], words: list[str], folders: list[str], own: Defaults
) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the words of every point that is asked for, none where Hydra was asked to print something instead.

    And what a launcher elsewhere was told, nothing where the points run here. One point for it is a sweep as well.
    """
    from ltx.config.optional import settled

    named = experiments(words)
    words = launched(words)
    if elsewhere(words) and not {"-m", "--multirun", "--cfg", "-c"} & {*flags}:
        flags = [*flags, "-m"]
    if named or {"-m", "--multirun"} & {*flags}:
        points = [words] = [zipped(words)]
    else:
        points = [words] = settled([words], folders, own)
    request: dict[str, Any] = {}
    if flags or named:
        from ltx.config.compose import hydra_main

        if own.values and {"--cfg", "-c"} & {*flags}:
            print(f"# defaults from {own.file}", flush=True)
        points, request = hydra_main(flags, words, folders, own)
    return settled(points, folders, own), request


LAUNCHER = "hydra/launcher="


def elsewhere(words: list[str]) -> bool:
    """Tell whether the words name a launcher whose workers live elsewhere."""
    return any(word.startswith(LAUNCHER) and word != f"{LAUNCHER}local" for word in words)


def launched(words: list[str]) -> list[str]:
    """Return the words with `launcher.KEY=VALUE` as Hydra's launcher of ltx wants it. Raises BadInput."""
    chosen = next((word.removeprefix(LAUNCHER) for word in reversed(words) if word.startswith(LAUNCHER)), "local")
    told = [word for word in words if word.startswith("launcher.")]
    if not (told or elsewhere(words)):
        return words
    from hydra_plugins.ltx_plugins import LAUNCHERS, keys_of

    if chosen not in LAUNCHERS:
        raise BadInput(f"{LAUNCHER}{chosen} is unknown{nearest(chosen, [*LAUNCHERS])}")
    keys = [*keys_of(chosen)]
    for word in told:
        key = word.partition("=")[0].removeprefix("launcher.")
        if not keys:
            raise BadInput(f"{word} is for workers elsewhere: it goes with {LAUNCHER}slurm or {LAUNCHER}ray.")
        if key.partition(".")[0] not in keys:
            raise BadInput(f"launcher.{key} is no key of {LAUNCHER}{chosen}{nearest(key, keys)}")
    return [f"hydra.{word}" if word in told else word for word in words]


def flag_meant(flag: str, value: str) -> str:
    """Return the hint for an unknown flag: a key that needs no dashes, or the nearest flag."""
    from ltx.config.compose import KEYS

    key = flag.lstrip("-")
    if key.partition(".")[0] in KEYS:
        return f"; values are set without dashes: {key}={value or 'VALUE'}."
    return nearest(flag, FLAGS)


def zipped(words: list[str]) -> list[str]:
    """Return a sweep's words, `zip=KEY,KEY` as Hydra's sweeper of ltx wants it. Raises BadInput for other forms."""
    given = [word for word in words if word.startswith("zip=")]
    if not given:
        return words
    keys = given[0].removeprefix("zip=").strip("[]").replace("?", "").split(",")
    wrong = [key for key in keys if not re.fullmatch(r"[\w.@/-]+", key)]
    if len(given) > 1 or wrong:
        raise BadInput(
            f"{' '.join(given)} should name, once and with commas between them, the keys of a sweep that go in step: "
            "-m width=1,2 optim.lr=.1,.2 zip=width,optim.lr."
        )
    return [*(word for word in words if word not in given), f"hydra.sweeper.zip=[{','.join(keys)}]"]


def show_plan(specs: list[Spec], points: list[list[str]], own: Defaults, full: bool) -> int:
    """Print what the points would cost: the config of one, a line for each of several; nothing is written."""
    from ltx.runs.estimate import dry_run, sweep_plan

    if full or len(specs) == 1:
        print("\n".join(map(dry_run, specs)), end="")
    if len(specs) > 1:
        print("\n".join(sweep_plan(specs, points, shutil.get_terminal_size().columns)))
    if own.values:
        print(f"defaults: {own.file}")
    return 0


def execute(
    specs: list[Spec],
    points: list[list[str]],
    command: list[str],
    name: str | None,
    plot: str | None,
    one_is_a_sweep: bool = False,
) -> int:
    """Train what is missing of all points and show what came out; `plot` is the key that a sweep's picture is over."""
    from ltx.launch.cancel import interrupted_when
    from ltx.runs import sweep
    from ltx.runs.command import failures

    written = True
    if len(specs) > 1 or one_is_a_sweep:
        place = sweep.folder(specs, name)
        told = sweep.record(specs, sweep.labels(specs, points), command, name)
        title = place.path.name
        labels = [point.label for point in told.points]
        begin = partial(sweep.begin, place, told, specs)
        with interrupted_when(place.cancelled):
            outcome = sweep.run(specs, command, group=title, title=title, told_apart=labels, begin=begin)
        written = show_sweep(outcome, told, place, plot)
    else:
        outcome = sweep.run(specs, command)
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
        console = Console(highlight=False)
        console.print(table(rows, spec.key, console.width))
        print(f"plot: {point.folder.path / 'plots' / 'levels.png'}")
    print(f"run:  {point.folder.path}" + ("" if point.trained or point.failures else " (nothing was left to train)"))


def show_sweep(outcome: Any, told: Any, place: Any, chosen: str | None = None, among_many: bool = False) -> bool:
    """Print the sweep's table, and write it as CSV, plot, page and wandb parent run; return whether that went well.

    The picture has the chosen key on its horizontal axis, by default one that was swept (see `axes_of`). `among_many`
    workers that end with the same table, the first one draws it.
    """
    from rich.console import Console

    from ltx.report import page, page_data
    from ltx.report.mirror import mirror_sweep
    from ltx.report.plots import save_plot
    from ltx.report.sweep_picture import draw_sweep
    from ltx.report.tables import sweep_table
    from ltx.runs import sweep
    from ltx.store.claims import Claim

    labels, rows = [point.label for point in told.points], [outcome.rows(e) for e in outcome.asked]
    states = [outcome.points[e.key].describe() for e in outcome.asked]
    console = Console(highlight=False)
    console.print(sweep_table(labels, rows, states, console.width))
    plot, file, with_page = place.path / "sweep.png", place.path / "table.csv", outcome.asked[0].config["report"]
    try:
        with Claim(place.path / "lock"):  # another process may end with the same sweep
            before = file.read_bytes() if among_many and plot.exists() and file.is_file() else None
            table = sweep.write(outcome, told, place)
            if before is None or file.read_bytes() != before:
                if table:
                    save_plot(draw_sweep(outcome.asked, labels, rows, chosen), plot)
                    if any(point.trained for point in outcome.points.values()) or not (place.path / "wandb").exists():
                        mirror_sweep(outcome.asked, labels, rows, table, place.path, plot)
                if with_page:
                    page.write(page_data.of_sweep(place), place.path / page.NAME)
    except OSError as error:
        print(f"ltx: the sweep's files could not be written ({error}); the same command writes them.", file=sys.stderr)
        return False
    if table:
        print(f"plot:  {plot}")
    print(f"table: {file}")
    print(f"sweep: {place.path}")
    if with_page:
        print(f"page:  {place.path / page.NAME}")
    return True


def figure(arguments: list[str]) -> int:
    """Make a figure, print its claims and where it is."""
    words = [word for word in arguments if "=" not in word]
    from ltx.figures import names
    from ltx.figures.arms import plan
    from ltx.launch import local as launch

    flags = [word for word in words if word.startswith("-")]
    if flags:
        raise BadInput(f"{flags[0]} is not a flag of figure, which takes one NAME and key=value{nearest('', names())}")
    if len(words) != 1:
        raise BadInput(f"figure takes one NAME{nearest(' '.join(words), names())}")
    from ltx.config import defaults
    from ltx.config.words import plain_root

    own = defaults.read()
    typed = [plain_root(word) for word in arguments if "=" in word]
    overrides = [*own.plumbing(), *typed]
    plan(words[0], overrides)
    if "workers=0" not in overrides:
        launch.warm_up()
    from ltx.figures.make import make

    code, result = make(words[0], overrides, own.command(["ltx", "figure", *arguments]))
    if not code:
        print("\n".join(result["lines"]))
        print(f"figure: {result['path']}")
    return code
