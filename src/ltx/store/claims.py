"""Hold a run's directory against other processes, on any file system, and take over from the dead."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
import uuid
from typing import Any

from ltx.errors import Failed, notice, printable
from ltx.store.files import Damaged, canonical, commit, content, process_lives, read_json, set_aside
from ltx.store.folders import RunFolder


class Lock:
    """A file with a heartbeat counter that others judge by their own clock.

    A holder that has not beaten for `patience` seconds of the waiter's time is dead and its lock is taken over.
    Level files are safe without it (they are never replaced); it guards what is derived, and against double work.
    Raises Failed, naming the holder, where wait=False and the holder is alive.
    """

    def __init__(self, folder: RunFolder, wait: bool = True, patience: float = 4.0, beat: float = 0.5):
        self.path, self.wait, self.patience, self.beat = folder.path / "lock", wait, patience, beat
        self.token = uuid.uuid4().hex
        self.released, self.lost = threading.Event(), threading.Event()
        self.seen, self.since, self.told = b"", time.monotonic(), False

    def beat_text(self, counter: int) -> bytes:
        """Return the lock file's content at a beat."""
        return canonical(
            {**here(), "pid": os.getpid(), "started": started(os.getpid()), "token": self.token} | {"counter": counter}
        ).encode()

    def attempt(self) -> bool:
        """Try once to take the lock, without waiting; a holder is dead after `patience` seconds of attempts."""
        if commit(self.path, self.beat_text(0), replace=False):
            self.file = os.open(self.path, os.O_WRONLY)
            self.thread = threading.Thread(target=self.beats, daemon=True)
            self.thread.start()
            return True
        try:
            now = content(self.path)
        except Damaged as error:
            set_aside(self.path, error)
            return False
        if now is None:
            return False
        if gone(now):
            self.take_over(now)
            return False
        if now != self.seen:
            beating, self.seen, self.since = bool(self.seen), now, time.monotonic()
            if beating and not self.told:
                self.tell(now)
                self.told = True
        elif time.monotonic() - self.since > self.patience:
            notice(f"{holder_of(now)} has not moved for {self.patience:g} s; {self.path.parent.name} is taken over.")
            self.take_over(self.seen)
        return False

    def __enter__(self) -> Lock:
        while not self.attempt():
            time.sleep(0.05)
        return self

    def tell(self, beat: bytes) -> None:
        """Name the living holder, and wait for it or not."""
        name = holder_of(beat)
        if not self.wait:
            raise Failed(f"{self.path.parent} is in use by {name}; wait=true waits for it.")
        print(f"ltx: waiting for {name}, which works on {self.path.parent.name}.", flush=True)

    def take_over(self, seen: bytes) -> None:
        """Remove a dead holder's lock, if it is still the one seen; of many waiters one at a time may."""
        claim = self.path.with_name(f".lock.{hashlib.sha256(seen).hexdigest()[:16]}")
        if not commit(claim, b"", replace=False):
            if time.monotonic() - self.since > 2 * self.patience:  # whoever claimed it died over it
                claim.unlink(missing_ok=True)
            return
        try:
            if content(self.path) == seen:
                self.path.unlink()
        except (FileNotFoundError, Damaged):
            return
        finally:
            claim.unlink(missing_ok=True)

    def mine(self) -> bool:
        """Tell whether the lock file is still this holder's."""
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
            except OSError:
                continue  # a failing disk must not end the run: the lock ages and at worst is taken over

    def release(self) -> None:
        """Stop beating and remove the lock file."""
        self.released.set()
        self.thread.join()
        os.close(self.file)
        if self.mine():
            self.path.unlink()

    def __exit__(self, *exception: object) -> None:
        self.release()


def here() -> dict[str, str]:
    """Return what must be equal for two processes to see each other's numbers: the host, and on Linux the namespace."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return {"host": socket.gethostname(), "namespace": namespace}


def started(pid: int) -> str:
    """Return when a process was started, in the system's ticks, so that a number used again is not taken for it."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def gone(beat: bytes) -> bool:
    """Tell whether a lock's holder was a process of this machine that is no more."""
    holder = told(beat)
    if any(holder.get(name) != value for name, value in here().items()) or type(holder.get("pid")) is not int:
        return False
    return not process_lives(holder["pid"]) or started(holder["pid"]) != holder.get("started")


def told(beat: bytes) -> dict[str, Any]:
    """Return what a lock file says of its holder, nothing where it is not readable."""
    try:
        holder = json.loads(beat)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def holder_of(beat: bytes) -> str:
    """Name the holder of a lock."""
    holder = told(beat)
    return printable(f"process {holder.get('pid', '?')} on {holder.get('host', '?')}")
