"""A claim: the living are waited for and named, the dead are taken over, one holder at a time."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from ltx.store.claims import Claim, Lost
from ltx.store.files import commit

DEAD = b'{"counter":7,"host":"elsewhere","pid":4242,"token":"of-a-dead-process"}'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some-run" / "claim"


def quick(path, **options):
    """Return a claim that loses patience after 0.4 s."""
    return Claim(path, **{"patience": 0.4, "beat": 0.05, **options})


def test_a_second_holder_waits_for_the_living_one_and_names_it(path, capfd):
    order, held = [], threading.Event()

    def hold():
        with quick(path):
            held.set()
            time.sleep(1.0)  # longer than the waiter's patience: only the heartbeat keeps it
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(5)
    with quick(path):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert f"waiting for process {os.getpid()}" in capfd.readouterr().out


def test_an_attempt_waits_for_nobody_and_names_a_living_holder(path):
    with quick(path) as holder:
        other = quick(path)
        assert not other.attempt() and f"process {os.getpid()} on" in other.holder()
        assert holder.mine()
    assert other.holder() is None and other.attempt()
    other.release()


def test_a_dead_claim_is_taken_over_within_the_patience(path):
    commit(path, DEAD)
    since, took = time.monotonic(), []

    def take() -> None:
        with quick(path) as claim:
            took.append((time.monotonic() - since, claim.mine()))

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(10)
    ((seconds, mine),) = took
    assert 0.4 <= seconds < 5 and mine
    assert not path.exists()


def test_the_default_patience_is_below_five_seconds_and_longer_than_many_beats(path):
    claim = Claim(path)
    assert 5 * claim.beat < claim.patience < 5


def test_of_many_waiters_on_a_dead_claim_one_holds_it_at_a_time(path):
    commit(path, DEAD)
    inside, most, entered = [], [], []

    def take():
        with quick(path) as claim:
            inside.append(claim)
            most.append(len(inside))
            entered.append(claim.mine())
            time.sleep(0.05)
            inside.remove(claim)

    threads = [threading.Thread(target=take, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 6
    assert all(entered)


def test_a_waiter_that_comes_late_to_a_dead_claim_leaves_the_new_holder_its_own(path):
    commit(path, DEAD)
    with quick(path) as holder:
        quick(path).take_over(DEAD)
        assert holder.mine()
    assert [path.name for path in path.parent.iterdir()] == []


def test_a_waiter_that_died_while_taking_over_holds_up_nobody(path, monkeypatch):
    commit(path, DEAD)

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ltx.store.claims.content", killed)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        quick(path).take_over(DEAD)
    claim, since = quick(path), time.monotonic()
    while not (held := claim.attempt()) and time.monotonic() < since + 10:
        time.sleep(0.05)
    assert held
    claim.release()


def test_a_claim_is_released_when_its_block_raises_and_leaves_no_file(path):
    with pytest.raises(RuntimeError), quick(path):
        raise RuntimeError
    assert list(path.parent.iterdir()) == []


def test_a_holder_counts_up_so_that_others_see_it_live(path):
    with quick(path):
        first = json.loads(path.read_bytes())
        time.sleep(0.3)
        second = json.loads(path.read_bytes())
    assert second["counter"] > first["counter"] and second["token"] == first["token"]
    assert first["pid"] == os.getpid()


def test_a_beat_under_way_when_the_claim_is_taken_over_leaves_the_new_holder_its_own(path, monkeypatch):
    other = b'{"counter":0,"host":"elsewhere","pid":4242,"token":"another"}'
    looked = threading.Event()

    def mine(claim):
        if looked.is_set():
            return False
        looked.set()
        commit(path, other)  # just after the holder looked
        return True

    with quick(path) as claim:
        monkeypatch.setattr(Claim, "mine", mine)
        assert looked.wait(5) and claim.lost.wait(5)
    assert path.read_bytes() == other


def test_a_holder_that_stood_still_looks_before_it_goes_on(path, monkeypatch):
    with quick(path, beat=60) as claim:  # as if its thread had been stopped with it
        claim.check()
        commit(path, b'{"counter":0,"host":"elsewhere","pid":4242,"token":"another"}')
        claim.check()
        monkeypatch.setattr(claim, "beaten", time.monotonic() - 3)
        with pytest.raises(Lost):
            claim.check()
