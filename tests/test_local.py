"""Workers on this machine: which process runs which job, and what is heard of one that fails or dies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltx.launch import local

Heard = Callable[[list[str]], list[dict[str, Any]]]
JOBS = """
import os

def short(report):
    report("pid", os.getpid())

def fails(report):
    short(report)
    raise ValueError("no")

def dies(report):
    short(report)
    os._exit(3)
"""


class Two:
    """Room for two workers."""

    def most(self, running: int) -> int:
        return 2


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Let the fork server import everything once."""
    local.warm_up()


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Run jobs of the functions above by name on two workers; return what each was heard to say."""
    (tmp_path / "some_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(names: list[str]) -> list[dict[str, Any]]:
        jobs = [local.Job(name, f"some_jobs:{name}", ()) for name in names]
        left, found = [*jobs], defaultdict[local.Job, dict[str, Any]](dict)
        events = local.run(lambda: left.pop(0) if left else None, lambda: not left, Two())
        for job, kind, value in events:
            found[job][kind] = value
        return [found[job] for job in jobs]

    return run


def test_short_jobs_share_the_processes_of_two_workers(heard: Heard) -> None:
    said = heard(["short"] * 8)
    assert all({"started", "pid", "ended"} == {*one} for one in said)
    assert 1 <= len({one["pid"] for one in said}) <= 2


def test_a_process_whose_job_failed_or_died_is_given_no_other(heard: Heard) -> None:
    said = heard(["fails", "dies", "short", "short", "dies", "fails", "short", "short"])
    bad, good = [said[n] for n in (0, 1, 4, 5)], [said[n] for n in (2, 3, 6, 7)]
    assert len({one["pid"] for one in bad}) == 4
    assert all("failed" in one for one in (bad[0], bad[3])) and all(one["killed"] == 3 for one in bad[1:3])
    assert bad[0]["failed"][0] == "ValueError: no"
    assert all({"started", "pid", "ended"} == {*one} for one in good)
    assert len({one["pid"] for one in said}) > len(bad)


def test_a_worker_that_nobody_listens_to_any_more_ends_in_order() -> None:
    pipe, process = local.start(local.Job("quiet", "operator:not_", ()))
    assert pipe.poll(60)  # it says that its job is over
    pipe.close()
    process.join(60)
    assert process.exitcode == 0
