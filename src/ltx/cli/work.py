"""`ltx work` and `ltx cancel`: join a sweep that another command began, and end one wherever it is worked on."""

from __future__ import annotations

import sys
from socket import gethostname
from typing import TYPE_CHECKING

from ltx.cli.look import options, output_root, told
from ltx.errors import BadInput, Failed, nearest, printable

if TYPE_CHECKING:
    from pathlib import Path

    from ltx.store.sweeps import SweepFolder


def work(arguments: list[str]) -> int:
    """Train what is missing of a sweep beside all others that do, and leave when they have the rest."""
    import yaml

    from ltx.runs.joining import CHANGES

    words, found = options(arguments, (), ("root", "trust", *CHANGES))
    place = the_sweep("work", words, output_root(found))
    cancelled = place.cancelled()
    if cancelled:
        raise BadInput(f"{place.path.name} was {cancelled}; its own command begins it again.")
    try:
        changes = {key: yaml.safe_load(value) for key, value in found.items() if key in CHANGES}
    except yaml.YAMLError as error:
        raise BadInput(f"{' '.join(arguments)}: a value is not plain ({error}).") from error
    if changes.get("workers") != 0:
        from ltx.launch import local as launch

        launch.warm_up()
    from ltx.cli.training import show_sweep
    from ltx.launch.cancel import interrupted_when
    from ltx.runs import sweep
    from ltx.runs.command import failures
    from ltx.runs.joining import specs_of

    specs = specs_of(place, changes, told(found, "trust"))
    record = place.record()
    labels, title, wait = [point.label for point in record.points], place.path.name, changes.get("wait") is True
    with interrupted_when(place.cancelled):
        outcome = sweep.run(specs, record.command, group=title, title=title, told_apart=labels, leave=not wait)
    written, others = True, sum(point.left and not point.settled for point in outcome.points.values())
    if others and not outcome.exit_code:
        print(f"with others: {others} of {len(outcome.points)} runs, on which nothing is left to do here")
        print(f"watch: ltx status {title} --watch")
    else:
        written = show_sweep(outcome, record, place, among_many=True)
    for paragraph in failures(outcome):
        print(f"ltx: {paragraph}", file=sys.stderr)
    if outcome.interrupted:
        print("ltx: interrupted; finished levels are kept and the same command continues.", file=sys.stderr)
    return outcome.exit_code if written else outcome.exit_code or 3


def cancel(arguments: list[str]) -> int:
    """Have every worker of a sweep end in order, on whichever machine, and those that wait in a queue not begin."""
    import getpass

    from ltx.launch import ray, slurm
    from ltx.report.progress import under_way
    from ltx.runs.manifest import now

    words, found = options(arguments, (), ("root",))
    place = the_sweep("cancel", words, output_root(found))
    runs = {point.run for point in place.record().points}
    busy = [command for command in under_way(place.root / "progress") if runs & {*command["runs"]}]
    try:
        place.cancel(printable(f"{getpass.getuser()} on {gethostname()}"), now())
    except OSError as error:
        raise Failed(f"{place.cancelled_path}, which workers look for, cannot be written ({error}).") from error
    for line in (*slurm.cancel(place), *ray.cancel(place)):
        print(line)
    for command in busy:
        print(f"ends in a moment: {command['title']}, process {command['pid']} on {command['host']}")
    print(f"cancelled: {place.path}; finished levels are kept, and the sweep's own command continues it")
    return 0


def the_sweep(command: str, words: list[str], root: Path) -> SweepFolder:
    """Return the one sweep that a command names. Raises BadInput."""
    from ltx.store.sweeps import find_sweep, sweeps

    if len(words) != 1:
        raise BadInput(f"{command} takes one SWEEP, a name or a directory (ltx status lists them).")
    place = find_sweep(words[0], root)
    if place is None:
        known = [one.name or one.path.name for one in sweeps(root)]
        raise BadInput(f"there is no sweep '{words[0]}' under {root} on {gethostname()}{nearest(words[0], known)}")
    return place
