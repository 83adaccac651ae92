"""Two tickets compared beside what the store has: other inits of the second, and the same searches run again."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ltx.analysis.identity import Ceiling, Identity
from ltx.analysis.overlap import overlap
from ltx.api import Run, open_run
from ltx.config.compose import compose
from ltx.config.flat import NOT_SAID, Flat, flatten, read, without_plumbing
from ltx.config.names import GROUPS
from ltx.config.spec import Spec
from ltx.config.words import text
from ltx.identity import measure
from ltx.identity.measure import Known, comparable, same
from ltx.store.files import Damaged
from ltx.store.find import run_keys
from ltx.store.folders import RunFolder

STRANGERS = 4  # unrelated networks that are matched likewise, at most
STEPS = 6  # that `comparison` tells of
SEARCHED = ("order", "augment", "mask", "noise")  # the streams that a search draws from, beside the initialisation's
AGAIN = 1000  # a number that these streams can be pinned to, which no usual seed has


def comparison(
    one: tuple[Run, int | None, int | None],
    other: tuple[Run, int | None, int | None],
    root: Path,
    step: Callable[[str], None] = lambda _: None,
) -> tuple[Identity, Known, Known]:
    """Compare the tickets of two runs, each given with its seed and level, beside what the store can add.

    That is how much each search shares with itself, and tickets of other inits of the second run. Raises BadInput.
    """
    step("reading")
    first, second = Known.of(*one), Known.of(*other)
    comparable(first, second)
    found = measure.compare(first, second, strangers(first, second, other[0]), step)
    step("the same search run twice")
    sides = {"A": (first, one[0])} | ({} if first.run == second.run else {"B": (second, other[0])})
    ceilings, missing = [], []
    for name, (side, run) in sides.items():
        twin = again(side, root, run.trust)
        if twin is None:
            missing.append(twice(name, side))
        else:
            ceilings.append(Ceiling(name, twin.run, overlap(side.ticket.mask, twin.ticket.mask).iou))
    return replace(found, ceilings=ceilings, missing=missing), first, second


def strangers(one: Known, other: Known, run: Run) -> list[Known]:
    """Return tickets like the second of other seeds of its run, whose inits have nothing to do with the first's."""
    found: list[Known] = []
    for folder in RunFolder(other.path).seeds():
        if folder.seed not in (one.seed, other.seed) and other.level in folder.levels() and len(found) < STRANGERS:
            stranger = Known.of(run, folder.seed, other.level)
            if not same(one.init, stranger.init) and not same(other.init, stranger.init):
                found.append(stranger)
    return found


def again(known: Known, root: Path, trust: bool) -> Known | None:
    """Return a ticket of the same search and init in another data order, if the store has one."""
    own = searched(known.path)
    for key in run_keys(root):
        path = root / "runs" / key
        if key == known.run or key.split("-")[:1] != known.run.split("-")[:1] or searched(path) != own:
            continue
        if known.level in RunFolder(path).seed(known.seed).levels():
            found = Known.of(open_run(path, trust), known.seed, known.level)
            if order_of(found) != order_of(known):
                return found
    return None


def searched(path: Path) -> Flat:
    """Return what a run searches, and where: its config without seeds, levels and what a search draws from."""
    try:
        flat = read(path)
    except Damaged:
        return {"damaged": str(path)}
    drawn = {f"{trunk}streams.{name}" for name in SEARCHED for trunk in ("", "trunk.")}
    return {key: value for key, value in flat.items() if key not in drawn and key not in NOT_SAID}


def order_of(known: Known) -> int:
    """Return the seed of the data order that a ticket was found in."""
    spec, seed = known.origin
    return spec.streams(seed).order


def twice(name: str, known: Known) -> str:
    """Say which command runs a search a second time, for how much it shares with itself."""
    other = AGAIN if order_of(known) != AGAIN else AGAIN + 1
    pins = [f"streams.{stream}={other}" for stream in SEARCHED]
    command = shlex.join(["ltx", "run", *words_for(known.spec), f"seeds=[{known.seed}]", *pins])
    return f"How much {name}'s search shares with itself is not known; it is once this has run: `{command}`."


def words_for(spec: Spec) -> list[str]:
    """Return words that make a run's config, its seeds and what changes no result aside."""
    streams = {**spec.config["streams"], **dict.fromkeys(SEARCHED)}
    own = without_plumbing(flatten({**spec.config, "trunk": None, "streams": streams}))
    groups = [f"{group}={spec.config[group]['name']}" for group in GROUPS if ":" not in spec.config[group]["name"]]
    usual = without_plumbing(flatten(compose(groups, [])))
    changed = {key: own.get(key) for key in {**usual, **own} if own.get(key) != usual.get(key) and key != "seeds"}
    words = [*groups, *(f"{key}={text(value)}" for key, value in changed.items() if not key.endswith("_digest"))]
    if spec.trunk is None:
        return words
    # The trunk takes over everything but the method.
    below = [word for word in words_for(spec.trunk) if word.startswith("method") or word not in words]
    return [*words, f"trunk={text(dict(word.split('=', 1) for word in below))}"]
