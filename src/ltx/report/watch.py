"""The live view of `ltx status --watch`: how far all is, what each worker does, and whose claims stand still."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.segment import Segment

from ltx.errors import printable
from ltx.report.lines import View, Worker, percent, shortened, worker_lines
from ltx.report.progress import Display, clock, counted, under_way
from ltx.store.claims import PATIENCE, holder_of, told
from ltx.store.files import Damaged, content
from ltx.store.folders import RunFolder
from ltx.store.seeds import SeedFolder
from ltx.store.states import standing

EVERY, BLOCK = 1.0, 10.0  # seconds between two looks, and between two blocks where there is no terminal
LONGEST = 1000  # characters of a line and lines of a block, where there is no terminal
AT_ONCE = 100  # runs without a worker that a look counts anew; the others have their turn


@dataclass(frozen=True)
class Doing(Worker):
    """Where one worker stands, on which host, and how many seconds its job will still take."""

    host: str = ""
    left: float | None = None

    def cells(self, with_share: bool) -> list[str]:
        """Return the facts beside the name; the loss is left out first."""
        if self.level is None:
            return [f"seed {self.seed}", "starting", "", "", self.host]
        ending = "" if self.left is None else f"ETA {clock(self.left)}"
        loss = super().cells(with_share)[-1:] if with_share else []
        return [f"seed {self.seed}", f"level {self.level}", percent(self.share), ending, self.host, *loss]


@dataclass(frozen=True)
class Seen:
    """What one look found: the commands under way, how many runs are done, the workers, and who stands still."""

    commands: Sequence[dict[str, Any]] = ()
    done: int = 0
    runs: int = 0
    workers: Sequence[Doing] = ()
    stale: Sequence[str] = ()

    @property
    def share(self) -> float:
        """Which part of what the commands were asked for is done, each weighted by its jobs."""
        jobs = sum(command["jobs"] for command in self.commands)
        return sum(command["share"] * command["jobs"] for command in self.commands) / jobs if jobs else 1.0

    @property
    def left(self) -> float | None:
        """How many seconds it takes until the last command ends; None as long as one cannot tell.

        Commands of the same runs, as the workers of a cluster, share what is left.
        """
        together: dict[frozenset[str], list[dict[str, Any]]] = {}
        for command in self.commands:
            together.setdefault(frozenset(command["runs"]), []).append(command)
        return longest([shared_time(commands) for commands in together.values()])

    def counts(self) -> str:
        """Write how many of the runs are done."""
        return f"{self.done} of {self.runs} runs done"


def shared_time(commands: Sequence[dict[str, Any]]) -> float | None:
    """Return the seconds until commands of the same runs are done, each of which takes some part of these a second."""
    rate = sum(command["rate"] for command in commands)
    if len(commands) > 1 and rate > 0:
        return (1 - max(command["share"] for command in commands)) / rate
    return longest([command["eta_seconds"] for command in commands])


def longest(times: Sequence[float | None]) -> float | None:
    """Return the longest time, None where one is not known or there is none."""
    known = [time for time in times if time is not None]
    return max(known, default=None) if len(known) == len(times) else None


def view(seen: Seen, width: int, rows: int) -> list[str]:
    """Return the lines of the view: the whole, the commands, the workers, and the claims that stand still.

    Where one of these has more lines than room, its last line counts the rest.
    """
    if not seen.commands:
        return [shortened("nothing is under way", width)]
    ending = "" if seen.left is None else f"  ETA {clock(seen.left)}"
    alike = Counter(frozenset(command["runs"]) for command in seen.commands)
    head = f"{percent(seen.share)}  {seen.counts()}, {len(seen.workers)} at work{ending}"
    commands = at_most(
        max(1, rows // 4), [command_line(c, alike[frozenset(c["runs"])] > 1 and c["rate"] > 0) for c in seen.commands]
    )
    stale = at_most(max(1, rows // 4), seen.stale)
    workers = worker_lines(seen.workers, width, rows - 1 - len(commands) - len(stale))
    return [shortened(text, width) for text in (head, *commands, *workers, *stale)]


def at_most(rows: int, texts: Sequence[str]) -> Sequence[str]:
    """Return some lines, of more than there is room for the first ones and the count of the rest."""
    return texts if len(texts) <= rows else [*texts[: rows - 1], f"+{len(texts) - rows + 1} more"]


def command_line(command: dict[str, Any], helped: bool) -> str:
    """Write who trains what, how much of it is done, and the time left, which is the whole's where others help."""
    unknown = command["eta_seconds"] is None or helped
    eta = "" if unknown else f", ETA {clock(command['eta_seconds'])}"
    who = f"{command['host']} process {command['pid']}"
    return f"{who}: {command['title']}: {percent(command['share']).strip()}, {counted(command)}{eta}"


@dataclass
class Watcher:
    """Look at an output root again and again, or at some of its runs, and remember what was seen.

    Only runs that a command under way was asked for are looked at. `now` is this process's own clock: a claim stands
    still if its file has not changed for PATIENCE seconds of it, whatever the clock of its host says.
    """

    root: Path
    keys: frozenset[str] | None = None
    now: Callable[[], float] = time.monotonic
    done: dict[str, bool] = field(default_factory=dict)  # of every run asked for since the watch began
    turn: deque[str] = field(default_factory=deque)  # the runs that are not done, the next to be counted first
    beats: dict[Path, tuple[bytes, float]] = field(default_factory=dict)  # of claims, and when each changed last

    def look(self) -> Seen:
        """Look once."""
        commands = [command for command in under_way(self.root / "progress") if any(map(self.asked, command["runs"]))]
        working: dict[tuple[str, int], Doing] = {}
        for command in commands:
            for worker in command["workers"]:
                job = worker["run"], worker["seed"]
                if self.asked(worker["run"]) and (job not in working or worker["level"] is not None):
                    self.listen([self.claim(*job)])
                    working[job] = self.doing(worker, command["host"])  # not of one that only waits for the other
        keys = [key for command in commands for key in command["runs"]]
        self.count(keys, {run for run, _ in working} if commands else {*self.turn})  # all of them when all is over
        self.listen(self.beats)
        return Seen(commands, sum(self.done.values()), len(self.done), [*working.values()], self.stale())

    def claim(self, key: str, seed: int) -> Path:
        """Return where the claim of a run's seed is."""
        return RunFolder(self.root / "runs" / key).seed(seed).claim_path

    def asked(self, key: str) -> bool:
        """Tell whether a run is one of those that are watched."""
        return self.keys is None or key in self.keys

    def count(self, keys: Iterable[str], working: set[str]) -> None:
        """Find which runs are done: those with workers at every look, some of the others, and all new ones.

        The claims of a run that is new are heard from now on, also where its worker was lost before the watch began.
        """
        new = [key for key in dict.fromkeys(keys) if key not in self.done and self.asked(key)]
        for key in new:
            self.listen(folder.claim_path for folder in RunFolder(self.root / "runs" / key).seeds())
        self.turn.extend(new)
        others = [self.turn.popleft() for _ in range(min(AT_ONCE, len(self.turn)))]
        for key in {*new, *working, *others}:
            at = standing(self.root / "runs" / key)
            self.done[key] = bool(at.asked) and len(at.done()) == len(at.asked)
        self.turn.extend(key for key in others if not self.done[key])

    def listen(self, claims: Iterable[Path]) -> None:
        """Read claims, and note which have changed."""
        for path in [*claims]:
            try:
                beat = content(path)
            except Damaged:
                beat = None
            if beat is None:
                self.beats.pop(path, None)
            elif path not in self.beats or self.beats[path][0] != beat:
                self.beats[path] = beat, self.now()

    def stale(self) -> list[str]:
        """Name the claims that stand still."""
        found = []
        for path, (beat, since) in sorted(self.beats.items()):
            if (seconds := self.now() - since) > PATIENCE:
                seed = SeedFolder(path.parent)
                key = seed.path.parent.name
                found.append(f"seed {seed.seed} of {key}: {holder_of(beat)} has not moved for {clock(seconds)}")
        return found

    def doing(self, worker: dict[str, Any], host: str) -> Doing:
        """Return where a worker stands; the levels that its job has still to take count as long as this one."""
        run, seed, level, left = (worker[name] for name in ("run", "seed", "level", "level_seconds"))
        beat, _ = self.beats.get(self.claim(run, seed), (b"", 0.0))
        if left is not None and level is not None:
            last = RunFolder(self.root / "runs" / run).manifest()["asked"].get(seed, level)
            left *= 1 - worker["share"] + max(0, last - level)
        loss = math.nan if worker["loss"] is None else worker["loss"]
        where = printable(str(told(beat).get("host", host)))
        return Doing(worker["name"] or run, seed, level, worker["share"], loss, where, left)


class Screen(Display):
    """The view on a terminal."""

    def __init__(self, console: Console):
        super().__init__(console, View(0, (), ""))
        self.seen, self.over = Seen(), False

    def lines(self, width: int, height: int) -> list[list[Segment]]:
        """Return the lines that fit the terminal."""
        return [[Segment(text)] for text in (ended(self.seen) if self.over else view(self.seen, width, height - 1))]


def watch(watcher: Watcher, console: Console, wait: Callable[[float], None] = time.sleep) -> Seen:
    """Show what is under way once a second, until nothing is any more after something was, and return the last look.

    On a terminal lines that renew themselves; elsewhere a block every 10 seconds.
    """
    screen = Screen(console) if console.is_terminal and console.is_interactive else None
    began, over, printed = False, False, -math.inf
    with screen or contextlib.nullcontext():
        while not over:
            seen = watcher.look()
            over, began = began and not seen.commands, began or bool(seen.commands)
            if screen is not None:
                screen.seen, screen.over = seen, over
                screen.refresh()
            elif over or watcher.now() - printed >= BLOCK:
                printed = watcher.now()
                lines = ended(seen) if over else view(seen, LONGEST, LONGEST)
                console.print("\n".join(lines), soft_wrap=True, markup=False)
            if not over:
                wait(EVERY)
    return seen


def ended(seen: Seen) -> list[str]:
    """Return what is said when all is over."""
    return [f"nothing is under way any more: {seen.counts()}", *seen.stale]
