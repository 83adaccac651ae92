"""What a worker does with seeds: claim their folders, compute the levels that are missing, and keep what failed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ltx.config.spec import Spec
from ltx.launch.local import OfSeed, failure
from ltx.launch.signals import interrupted
from ltx.runs.capacity import memory_of_this_process
from ltx.runs.checks import pick_device
from ltx.runs.levels import Begun, LevelLoop, Report
from ltx.runs.peers import Peers
from ltx.store.claims import Claim, Lost
from ltx.store.files import commit
from ltx.store.folders import RunFolder
from ltx.store.seeds import SeedFolder
from ltx.training.replicas import train_all
from ltx.training.setup import Trained
from ltx.training.watch import Diverged

Say = Callable[[int, str, Any], None]  # of a seed the kind and the value of a report


def run_seed(config: dict[str, Any], directory: str, seed: int, report: Report) -> None:
    """Claim a seed's folder and compute the levels that are not there yet, in order, each committed when it ends.

    Reports ("progress", (level, step, loss)) and ("level", row), after which ("memory", Memory) where it takes more
    than before; ("diverged", failure); and ("held", None) where another process has the claim or took it over. A
    failure that would happen again is kept in the seed's folder; an OSError (disk full, say) is not, nor one that a
    library put in the place of an interrupt.
    """

    def say(_: int, kind: str, value: Any) -> None:
        if kind != "failed":  # which whoever called this says, since it is raised
            report(kind, value)

    for error in work(config, directory, [seed], say):
        raise error


def run_seeds(config: dict[str, Any], directory: str, seeds: list[int], report: Report) -> None:
    """Do the same for several seeds of a run, level by level, each level side by side where that can be.

    What is reported are OfSeed. A seed that raises leaves the others going; ("failed", failure) says so.
    """
    work(config, directory, seeds, lambda seed, kind, value: report(kind, OfSeed(seed, value)))


def work(config: dict[str, Any], directory: str, seeds: Sequence[int], say: Say) -> list[Exception]:
    """Compute what is missing of the seeds that nobody else works on; return what some of them raised."""
    torch.set_num_threads(config["threads"])
    say = with_memory(say, pick_device(config["device"]))
    claimed: list[Claimed] = []
    try:
        for seed in seeds:
            one = Claimed(RunFolder(Path(directory)).seed(seed), partial(say, seed))
            if one.claim.attempt():
                claimed.append(one)
            else:
                say(seed, "held", None)
        if len(claimed) == 1:
            alone(config, claimed[0])
        elif claimed:
            side_by_side(config, claimed)
    finally:
        for one in claimed:
            one.claim.release()
    return [one.error for one in claimed if one.error is not None]


def with_memory(say: Say, device: str) -> Say:
    """Return a `say` that also says what this process takes of its device: first, and where it became a tenth more."""
    most = 0.0

    def both(seed: int, kind: str, value: Any) -> None:
        nonlocal most
        say(seed, kind, value)
        if kind in ("progress", "level"):
            memory = memory_of_this_process(device)
            if memory is not None and memory.taken > 1.1 * most:
                most = memory.taken
                say(seed, "memory", memory)

    return both


class Claimed:
    """A seed that this process has claimed."""

    def __init__(self, folder: SeedFolder, report: Report):
        self.folder, self.report, self.claim = folder, report, Claim(folder.claim_path)
        self.over = False
        self.error: Exception | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Do something for the seed; what fails it ends there, is reported, and kept where it would happen again."""
        try:
            yield
            return
        except Lost:
            self.report("held", None)
        except Diverged as error:
            found = {"kind": "diverged", "level": error.level, "step": error.step, "reason": str(error)}
            commit(self.folder.failure_path, json.dumps(found).encode())
            self.report("diverged", found)
        except SystemExit as stopped:
            called = RuntimeError(f"the point called exit({stopped.code})")
            self.failed(called.with_traceback(stopped.__traceback__))
        except Exception as error:  # whatever it is, it is reported as the seed's failure
            self.failed(error)
        self.over = True

    def failed(self, error: Exception) -> None:
        """Keep an error beside the seed's files, unless the machine is to blame. Raises it in place of an interrupt."""
        if interrupted():
            raise error
        reason, trace, system = failure(error)
        if not system:
            kept = {"kind": "raised", "reason": reason, "traceback": trace}
            commit(self.folder.failure_path, json.dumps(kept).encode())
        self.error = error
        self.report("failed", (reason, trace, system))

    def loop(self, spec: Spec, peers: Peers | None = None) -> LevelLoop:
        """Put the folder in order and return the seed's levels."""
        self.folder.mend()
        self.folder.forget_failure()
        run = self.folder.path.parent
        if run.parent.name == "runs" and run.name != spec.key:
            raise OSError(f"what {run.name} reads of data.path has changed since it was begun: that makes another run")
        return LevelLoop(spec, self.folder, self.report, self.claim.check, peers)


def alone(config: dict[str, Any], one: Claimed) -> None:
    """Compute the missing levels of one seed, with other processes where it has several devices."""
    several = config["trainer"]["devices"] > 1
    with one.kept(), Peers(config) if several else contextlib.nullcontext() as peers:
        loop = one.loop(Spec.of(config), peers)
        for level in range(loop.method.last_level + 1):
            if loop.tensors(level) is None:
                loop.compute(level)


def side_by_side(config: dict[str, Any], claimed: Sequence[Claimed]) -> None:
    """Compute the missing levels of several seeds: of each level all that is missing, before the next one."""
    spec = Spec.of(config)
    loops: dict[Claimed, LevelLoop] = {}
    for one in claimed:
        with one.kept():
            loops[one] = one.loop(spec)
    for level in range(spec.method.last_level + 1):
        begun: dict[Claimed, Begun] = {}
        for one, loop in loops.items():
            if not one.over:
                with one.kept():
                    if loop.tensors(level) is None:
                        begun[one] = loop.begin(level)
        trained = trained_side_by_side(config, begun)
        for one, at in begun.items():
            if not one.over:
                with one.kept():
                    loops[one].finish(at, trained.get(one))


def trained_side_by_side(config: dict[str, Any], begun: Mapping[Claimed, Begun]) -> dict[Claimed, Trained]:
    """Train what seeds have begun, and return what each left that did not fail."""
    setups = {one: at.setup for one, at in begun.items() if at.setup is not None}
    resumes = [begun[one].resume for one in setups]
    device, options = pick_device(config["device"]), config["trainer"]
    found = {}
    for one, end in zip(setups, train_all([*setups.values()], device, options, resumes), strict=True):
        with one.kept():
            if isinstance(end, BaseException):
                raise end
            found[one] = end
    return found
