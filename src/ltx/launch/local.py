"""Where jobs run: in processes forked from a server that has imported everything once, one job at a time in each."""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from ltx.launch.signals import interrupted
from ltx.store.files import process_lives

CONTEXT = multiprocessing.get_context("forkserver")
FOLDER = "ltx-fork-server-"
HIDING = threading.Lock()
PRELOAD = ["ltx.runs.preload"]
# A worker whose job took no more seconds is given another one. Of longer jobs each has a process of its own, which
# costs a fifth of a second and gives back all of its memory.
SHORT = 5.0


@dataclass(frozen=True, eq=False)
class Job:
    """A call of `module:function`(*arguments, report); plain values only, so that a worker needs nothing else."""

    name: str
    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class OfSeed:
    """The value of a report that is about one of the several seeds of a job."""

    seed: int
    value: Any


Report = Callable[[str, Any], None]
Event = tuple[Job, str, Any]


def warm_up() -> None:
    """Start the fork server now: it imports for seconds, on another core, while this process still composes."""
    from multiprocessing import forkserver

    CONTEXT.set_forkserver_preload(PRELOAD)
    own_folder()
    with main_hidden():
        if threading.current_thread() is not threading.main_thread():
            forkserver.ensure_running()
            return
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C would end it, with a traceback, while it imports
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def main_hidden() -> Iterator[None]:
    """Hide the user's script from multiprocessing while a process is started.

    Every new process is told the file of the module `__main__` and executes that file, in case something it is sent was
    defined there. Our jobs never need it, and a script that calls `ltx.run` outside of `if __name__ == "__main__":`
    would begin again in every worker. An empty `__main__` has no file, so the process executes nothing.
    """
    with HIDING:  # of two threads, the second would take the empty module for the script and put that back
        script = sys.modules["__main__"]
        try:
            sys.modules["__main__"] = types.ModuleType("__main__")
            yield
        finally:
            sys.modules["__main__"] = script


def own_folder() -> None:
    """Let multiprocessing keep its sockets in a folder that says whose it is, and remove those of dead processes.

    What multiprocessing itself would make (pymp-*) tells nobody whether its process lives, and is left by a kill -9.
    """
    from multiprocessing import process, util

    config = process.current_process()._config  # type: ignore[attr-defined]  # where multiprocessing.util looks first
    if "tempdir" in config:
        return
    for path in Path(tempfile.gettempdir()).glob(f"{FOLDER}*-*"):
        pid = path.name.removeprefix(FOLDER).partition("-")[0]
        if pid.isdigit() and not process_lives(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-")
    config["tempdir"] = folder
    util.Finalize(None, shutil.rmtree, args=[folder], kwargs={"ignore_errors": True}, exitpriority=-100)


def cool_down() -> None:
    """End the fork server, which may still be importing, and its workers. Call when the process is about to end."""
    from multiprocessing import forkserver

    for child in multiprocessing.active_children():
        child.kill()
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def call(job: Job, report: Report) -> None:
    """Call a job's function here."""
    module, _, name = job.function.partition(":")
    getattr(importlib.import_module(module), name)(*job.arguments, report)


def work(job: Job, pipe: Connection, folder: str, environment: dict[str, str]) -> None:
    """Run a job in a worker: report through the pipe, leave Ctrl-C to the parent, end when the parent is gone.

    After a short job that did not fail it says ("over", None) and runs the job that comes through the pipe, if any.
    """
    gc.freeze()  # what was imported stays: each search for garbage in all of it takes a tenth of a second or more
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))  # levels are whole at any moment; Lightning would say so
    os.environ.update(environment)
    os.chdir(folder)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def orphaned() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=orphaned, daemon=True).start()
    while True:
        began = time.monotonic()
        try:
            call(job, lambda kind, value: pipe.send((kind, value)))
        except BaseException as error:  # the report carries the whole error to the parent
            pipe.send(("failed", failure(error)))
            return
        if time.monotonic() - began > SHORT:
            return
        try:
            pipe.send(("over", None))
            job = pipe.recv()
        except (EOFError, ConnectionError):  # closed: the latter where it was said to nobody
            return


class Room(Protocol):
    """What knows how many workers there is room for."""

    def most(self, running: int) -> int:
        """Return how many may run at once, of which some do; 0: none, and jobs are called in this process."""


def run(
    next_job: Callable[[], Job | None],
    finished: Callable[[], bool],
    room: Room,
    idle: Callable[[], None] = lambda: None,
) -> Generator[Event, None, None]:
    """Run jobs on as many processes at once as there is room for and yield (job, kind, value) as they report.

    `next_job` gives the next one or None where none can start yet; the end is when `finished` says so and none runs.
    Beside a job's own reports: ("started", None) first and ("ended", None) last, before that ("failed", (reason,
    traceback, is_os_error)) if it raised, or ("killed", exit code) if it died: the others go on. Where there is room
    for 0, the jobs are called here, one after another. `idle` is called a few times a second, as long as nothing is
    reported too. Closing the iterator ends the workers.
    """
    CONTEXT.set_forkserver_preload(PRELOAD)
    own_folder()
    alive: dict[Connection, tuple[Any, Job]] = {}
    waiting: list[tuple[Connection, Any]] = []  # workers whose short jobs are over
    ending: list[Any] = []  # processes that are given nothing more
    try:
        while not finished() or alive:
            idle()
            while True:
                most = room.most(len(alive))
                if len(alive) >= max(1, most) or finished() or (job := next_job()) is None:
                    break
                yield job, "started", None
                if most == 0:
                    yield from run_here(job)
                else:
                    pipe, process = given(job, waiting.pop()) if waiting else start(job)
                    alive[pipe] = (process, job)
            for pipe, process in waiting:
                pipe.close()
                ending.append(process)
            waiting.clear()
            if not alive:
                if not finished():
                    time.sleep(0.05)  # every seed that is left waits for another process
                continue
            for ready in wait(list(alive), timeout=0.2):
                assert isinstance(ready, Connection)
                process, job = alive[ready]
                try:
                    kind, value = ready.recv()
                    if kind == "over":
                        del alive[ready]
                        waiting.append((ready, process))
                        yield job, "ended", None
                    else:
                        yield job, kind, value
                except (EOFError, ConnectionResetError):
                    process.join()
                    del alive[ready]
                    if process.exitcode:
                        yield job, "killed", process.exitcode
                    yield job, "ended", None
    finally:
        ending += [*(process for process, _ in alive.values()), *(process for _, process in waiting)]
        for process in ending:
            process.terminate()
        for process in ending:
            process.join(5)
            process.kill()


def given(job: Job, worker: tuple[Connection, Any]) -> tuple[Connection, Any]:
    """Give another job to a worker whose last one is over; where it died meanwhile, start another."""
    pipe, _ = worker
    try:
        pipe.send(job)
    except OSError:
        pipe.close()
        return start(job)
    return worker


def start(job: Job) -> tuple[Connection, Any]:
    """Start a worker and return the pipe it reports through, and gets further jobs through."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=work, args=(job, theirs, os.getcwd(), dict(os.environ)), name=job.name)
    with main_hidden():
        process.start()
    theirs.close()
    return ours, process


def run_here(job: Job) -> Iterator[Event]:
    """Call a job in this process; its reports come when it is over."""
    reports: list[tuple[str, Any]] = []
    try:
        call(job, lambda kind, value: reports.append((kind, value)))
    except Exception as error:  # whatever the job raised fails it alone, and is reported with its traceback
        if interrupted():  # a library put its own error in the place of the interrupt
            raise KeyboardInterrupt from error
        reports.append(("failed", failure(error)))
    for kind, value in [*reports, ("ended", None)]:
        yield job, kind, value


def failure(error: BaseException) -> tuple[str, str, bool]:
    """Return the reason, the traceback, and whether the machine rather than the job is to blame."""
    return f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)), isinstance(error, OSError)
