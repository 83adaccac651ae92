"""The lock of a run: the living are waited for and named, the dead are taken over, one holder at a time."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from ltx.errors import Failed
from ltx.store.claims import Lock
from ltx.store.files import commit
from ltx.store.folders import RunFolder

DEAD = b'{"counter":7,"host":"elsewhere","pid":4242,"token":"of-a-dead-process"}'


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs" / "some-run")


def quick(folder, **options):
    """Return a lock that loses patience after 0.4 s."""
    return Lock(folder, **{"patience": 0.4, "beat": 0.05, **options})


def test_a_second_holder_waits_for_the_living_one_and_names_it(folder, capfd):
    order, held = [], threading.Event()

    def hold():
        with quick(folder):
            held.set()
            time.sleep(1.0)  # longer than the waiter's patience: only the heartbeat keeps it
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(5)
    with quick(folder):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert f"waiting for process {os.getpid()}" in capfd.readouterr().out


def test_without_waiting_a_living_holder_is_named_and_nothing_is_taken(folder):
    with quick(folder) as holder:
        with pytest.raises(Failed, match=f"in use by process {os.getpid()} on .*wait=true"), quick(folder, wait=False):
            pass
        assert holder.mine()
    with quick(folder, wait=False):
        pass


def test_a_dead_lock_is_taken_over_within_the_patience(folder):
    commit(folder.path / "lock", DEAD)
    since, took = time.monotonic(), []

    def take() -> None:
        with quick(folder) as lock:
            took.append((time.monotonic() - since, lock.mine()))

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(10)
    ((seconds, mine),) = took
    assert 0.4 <= seconds < 5 and mine
    assert not (folder.path / "lock").exists()


def test_the_default_patience_is_below_five_seconds_and_longer_than_many_beats(folder):
    lock = Lock(folder)
    assert 5 * lock.beat < lock.patience < 5


def test_of_many_waiters_on_a_dead_lock_one_holds_it_at_a_time(folder):
    commit(folder.path / "lock", DEAD)
    inside, most, entered = [], [], []

    def take():
        with quick(folder) as lock:
            inside.append(lock)
            most.append(len(inside))
            entered.append(lock.mine())
            time.sleep(0.05)
            inside.remove(lock)

    threads = [threading.Thread(target=take, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 6
    assert all(entered)


def test_a_waiter_that_comes_late_to_a_dead_lock_leaves_the_new_holder_its_own(folder):
    commit(folder.path / "lock", DEAD)
    with quick(folder) as holder:
        quick(folder).take_over(DEAD)
        assert holder.mine()
    assert [path.name for path in folder.path.iterdir()] == []


def test_a_waiter_that_died_while_taking_over_holds_up_nobody(folder, monkeypatch):
    commit(folder.path / "lock", DEAD)

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ltx.store.claims.content", killed)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        quick(folder).take_over(DEAD)
    lock, since = quick(folder), time.monotonic()
    while not (held := lock.attempt()) and time.monotonic() < since + 10:
        time.sleep(0.05)
    assert held
    lock.release()


def test_a_lock_is_released_when_its_block_raises_and_leaves_no_file(folder):
    with pytest.raises(RuntimeError), quick(folder):
        raise RuntimeError
    assert list(folder.path.iterdir()) == []


def test_a_holder_counts_up_so_that_others_see_it_live(folder):
    with quick(folder):
        first = json.loads((folder.path / "lock").read_bytes())
        time.sleep(0.3)
        second = json.loads((folder.path / "lock").read_bytes())
    assert second["counter"] > first["counter"] and second["token"] == first["token"]
    assert first["pid"] == os.getpid()


def test_a_beat_under_way_when_the_lock_is_taken_over_leaves_the_new_holder_its_own(folder, monkeypatch):
    other = b'{"counter":0,"host":"elsewhere","pid":4242,"token":"another"}'
    looked = threading.Event()

    def mine(lock):
        if looked.is_set():
            return False
        looked.set()
        commit(folder.path / "lock", other)  # just after the holder looked
        return True

    with quick(folder) as lock:
        monkeypatch.setattr(Lock, "mine", mine)
        assert looked.wait(5) and lock.lost.wait(5)
    assert (folder.path / "lock").read_bytes() == other
