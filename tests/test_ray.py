"""What is said of Ray clusters that do not answer; `test_clusters` has real ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ltx.errors import BadInput
from ltx.launch import ray

TOKEN = "Token authentication is enabled but no authentication token was found."
NOBODY = "Could not find any running Ray instance. Please specify the one to connect to."


class RayError(Exception):
    """Takes the place of what Ray raises of itself, for a token that is missing as an example."""


class Standin(ModuleType):
    """Takes the place of the library: clusters of this machine alone can be started, every other one refuses."""

    local: Exception | None = None  # what is raised in place of starting one of this machine

    def __init__(self, why: str):
        super().__init__("ray")
        self.why, self.asked = why, list[str]()
        self.exceptions = SimpleNamespace(RayError=RayError)

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str, **_: Any) -> None:
        self.asked.append(address)
        if self.why == TOKEN or (address == "local" and self.local):
            raise self.local or RayError(self.why)
        if address != "local":
            cause = RuntimeError("a traceback\nof many lines\nAuthenticationError: the token is missing")
            raise ConnectionError(self.why) from (None if self.why == NOBODY else cause)


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Standin]:
    """Return what puts a stand-in in the place of Ray."""
    monkeypatch.setattr(ray, "own", [])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def put(why: str) -> Standin:
        monkeypatch.setitem(sys.modules, "ray", Standin(why))
        return sys.modules["ray"]  # type: ignore[return-value]

    return put


def test_a_local_cluster_is_started_where_none_runs(standin: Callable[[str], Standin]) -> None:
    library = standin(NOBODY)
    ray.connect(None)
    assert library.asked == ["auto", "local"] and ray.own == [os.getpid()] and ray.ends_with_this_process()


@pytest.mark.parametrize(
    ("address", "variable", "said"),
    [
        (None, None, "there is no Ray cluster that answers"),
        (None, "head:6379", "RAY_ADDRESS=head:6379 is no Ray cluster that answers"),
        ("other:6379", "head:6379", "launcher.address=other:6379 is no Ray cluster that answers"),
    ],
)
def test_a_cluster_that_refuses_is_named_with_its_reason_and_no_other_is_started(
    address: str | None, variable: str | None, said: str, standin: Callable[[str], Standin], monkeypatch: Any
) -> None:
    library = standin("Failed to connect to Ray cluster at 10.0.0.1:6379")
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(BadInput, match=said) as refused:
        ray.connect(address)
    assert "(AuthenticationError: the token is missing)" in str(refused.value) and "\n" not in str(refused.value)
    assert library.asked == [address or variable or "auto"] and not ray.own


def test_a_token_that_is_missing_is_asked_for(standin: Callable[[str], Standin]) -> None:
    library = standin(TOKEN)
    with pytest.raises(BadInput, match="no authentication token was found"):
        ray.connect(None)
    assert library.asked == ["auto"]


def test_a_local_cluster_that_does_not_start_is_refused_with_its_reason(standin: Callable[[str], Standin]) -> None:
    library = standin(NOBODY)
    library.local = RayError("no port is free")
    with pytest.raises(BadInput, match="no port is free"):
        ray.connect(None)
    assert library.asked == ["auto", "local"] and not ray.own


def test_the_command_ends_with_2_and_writes_nothing(
    standin: Callable[[str], Standin], ltx: Callable[..., Any], root: Path
) -> None:
    standin("Failed to connect to Ray cluster at 10.0.0.1:6379")
    refused = ltx("run", "width=.1", "method=dense", "seeds=1", "hydra/launcher=ray")
    assert refused.code == 2 and refused.err.startswith("ltx: there is no Ray cluster that answers")
    assert not root.exists() or not list(root.iterdir())
