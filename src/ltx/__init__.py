"""ltx: experiments on the Lottery Ticket Hypothesis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltx.api import open_run as open_run

__all__ = ["open_run"]


def __getattr__(name: str) -> Any:
    """Load what the package offers when it is asked for: the command line does without torch as long as it can."""
    if name == "open_run":
        from ltx.api import open_run

        return open_run
    raise AttributeError(f"module 'ltx' has no attribute {name!r}")
