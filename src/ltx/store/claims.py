"""Claim a folder against other processes, on any file system, and take over from the dead."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ltx.errors import notice, printable
from ltx.store.files import Damaged, canonical, commit, content, process_lives, read_json, set_aside

TURN = re.compile(r"\.(lock|claim)\.[0-9a-f]{16}")  # the files of `take_over`
TURN_SECONDS = 60  # one is there for milliseconds
BEAT, PATIENCE = 0.5, 4.0  # seconds between two beats, and without one until a holder is taken for dead
ONE_BEAT_MISSED = 2.0  # seconds after which a holder looks for itself whether the claim is still its own


class Lost(Exception):
    """Another process took a claim over while its holder stood still."""


class Claim:
    """A file with a heartbeat counter that others judge by their own clock.

    A holder that has not beaten for `patience` seconds of another's time is dead and its claim may be taken over.
    Level files are safe without claims (they are never replaced); claims guard against double work, and what is
    derived. `with Claim(path):` waits for the holder; `attempt` and `holder` do not.
    """

    def __init__(self, path: Path, patience: float | None = None, beat: float = BEAT):
        self.path, self.beat = path, beat
        self.patience = PATIENCE if patience is None else patience
        self.token = uuid.uuid4().hex
        self.released, self.lost = threading.Event(), threading.Event()
        self.seen, self.since = b"", time.monotonic()  # another's claim, and when it was last seen to change
        self.alive = False  # whether another's claim was seen to beat

    def beat_text(self, counter: int) -> bytes:
        """Return the file's content at a beat."""
        who = {"pid": os.getpid(), "started": started(os.getpid()), "command": command(), "token": self.token}
        return canonical({**here(), **who, "counter": counter}).encode()

    def attempt(self) -> bool:
        """Take the claim if it is free, and tell whether it was."""
        while not commit(self.path, self.beat_text(0), replace=False):
            if self.holder() is not None:
                return False
        self.file = os.open(self.path, os.O_WRONLY)
        self.beaten = time.monotonic()
        self.thread = threading.Thread(target=self.beats, daemon=True)
        self.thread.start()
        return True

    def holder(self) -> str | None:
        """Name the process that holds the claim, or return None where it is free; a dead one's is removed.

        A process of this machine is seen to be dead at once, another's after `patience` seconds of asking.
        """
        try:
            now = content(self.path)
        except Damaged as error:
            set_aside(self.path, error)
            return None
        if now is None:
            return None
        name = holder_of(now)
        if gone(now):
            return None if self.take_over(now) else name
        if now != self.seen:
            self.alive, self.seen, self.since = bool(self.seen), now, time.monotonic()
        elif time.monotonic() - self.since > self.patience:
            notice(f"{name} has not moved for {self.patience:g} s; {self.path.parent.name} is taken over.")
            return None if self.take_over(now) else name
        return name

    def __enter__(self) -> Claim:
        told = False
        while not self.attempt():
            if self.alive and not told:
                print(f"ltx: waiting for {holder_of(self.seen)}, which works on {self.path.parent.name}.", flush=True)
                told = True
            time.sleep(0.05)
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def check(self) -> None:
        """Raise Lost where another process has the claim by now. A holder that stood still looks before it goes on."""
        if self.lost.is_set() or (time.monotonic() - self.beaten > ONE_BEAT_MISSED and not self.mine()):
            raise Lost(self.path)

    def take_over(self, seen: bytes) -> bool:
        """Remove a dead holder's claim, if it is still the one seen, and tell whether it is gone.

        Of many who see it one at a time may.
        """
        turn = self.path.with_name(f".{self.path.name}.{hashlib.sha256(seen).hexdigest()[:16]}")
        if not commit(turn, b"", replace=False):
            if time.monotonic() - self.since > 2 * self.patience:  # whoever had the turn died over it
                turn.unlink(missing_ok=True)
            return False
        try:
            if content(self.path) == seen:
                self.path.unlink()
            return True
        except (FileNotFoundError, Damaged):
            return False
        finally:
            turn.unlink(missing_ok=True)

    def mine(self) -> bool:
        """Tell whether the file is still this holder's."""
        try:
            return (read_json(self.path) or {}).get("token") == self.token
        except Damaged:
            return False

    def beats(self) -> None:
        """Count up until released, in the file as it was made: one that another process put in its place is left alone.

        The text never gets shorter, so that writing it over the one before leaves nothing of that.
        """
        counter = 0
        while not self.released.wait(self.beat):
            counter += 1
            try:
                if not self.mine():
                    self.lost.set()
                    return
                os.pwrite(self.file, self.beat_text(counter), 0)
                os.fsync(self.file)  # so that other machines see it
                self.beaten = time.monotonic()
            except OSError:
                continue  # a failing disk must not end the run: the claim ages and at worst is taken over

    def release(self) -> None:
        """Stop beating and remove the file."""
        self.released.set()
        self.thread.join()
        os.close(self.file)
        if self.mine():
            self.path.unlink()


def here() -> dict[str, str]:
    """Return what must be equal for two processes to see each other's numbers: the host, and on Linux the namespace."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return {"host": socket.gethostname(), "namespace": namespace}


def command() -> int:
    """Return the number of the process that a person started: a worker's parent, or this one."""
    parent = multiprocessing.parent_process()
    return os.getpid() if parent is None or parent.pid is None else parent.pid


def started(pid: int) -> str:
    """Return when a process was started, in the system's ticks, so that a number used again is not taken for it."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def gone(beat: bytes) -> bool:
    """Tell whether a claim's holder was a process of this machine that is no more."""
    holder = told(beat)
    return is_here(holder) and (not process_lives(holder["pid"]) or started(holder["pid"]) != holder.get("started"))


def is_here(holder: Mapping[str, Any]) -> bool:
    """Tell whether a holder is or was a process of this machine, whose numbers this process sees."""
    return all(holder.get(name) == value for name, value in here().items()) and type(holder.get("pid")) is int


def living(paths: Iterable[Path]) -> dict[Path, str]:
    """Name the holders of the claims that living processes have; looks at the files, and leaves also dead ones' alone.

    A process of this machine is judged at once, others by whether they beat within PATIENCE seconds.
    """

    def beat(path: Path) -> bytes | None:
        with contextlib.suppress(Damaged):
            return content(path)
        return None

    first = {path: found for path in paths if (found := beat(path)) is not None and not gone(found)}
    alive = {path for path, found in first.items() if is_here(told(found))}
    end = time.monotonic() + PATIENCE
    while first.keys() - alive and time.monotonic() < end:
        time.sleep(BEAT / 5)
        alive |= {path for path in first.keys() - alive if beat(path) not in (None, first[path])}
    return {path: holder_of(first[path]) for path in first if path in alive}


def told(beat: bytes) -> dict[str, Any]:
    """Return what a claim's file says of its holder, nothing where it is not readable."""
    try:
        holder = json.loads(beat)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def holder_of(beat: bytes) -> str:
    """Name the holder of a claim."""
    holder = told(beat)
    return printable(f"process {holder.get('command', holder.get('pid', '?'))} on {holder.get('host', '?')}")


def remove_turns(folder: Path) -> None:
    """Remove what is left of processes that died while they took a dead one's claim over."""
    for turn in folder.glob(".*"):
        with contextlib.suppress(OSError):  # its owner was faster, or it is no file: then nobody is in its way
            if TURN.fullmatch(turn.name) and time.time() - turn.lstat().st_mtime > TURN_SECONDS:
                turn.unlink()
