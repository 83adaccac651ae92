"""ltx: experiments on the Lottery Ticket Hypothesis."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ltx.errors import BadInput, Failed

if TYPE_CHECKING:
    from ltx.api import load_data as load_data
    from ltx.api import open_run as open_run
    from ltx.api import open_sweep as open_sweep
    from ltx.api import run as run
    from ltx.export.restore import load_ticket as load_ticket

OFFERED = {"load_data": "api", "load_ticket": "export.restore", "open_run": "api", "open_sweep": "api", "run": "api"}
__all__ = ["BadInput", "Failed", "load_data", "load_ticket", "open_run", "open_sweep", "run"]


def __getattr__(name: str) -> Any:
    """Load what the package offers when it is asked for: the command line does without torch as long as it can."""
    if name in OFFERED:
        return getattr(importlib.import_module(f"ltx.{OFFERED[name]}"), name)
    raise AttributeError(f"module 'ltx' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List also what is loaded when asked for, so that a notebook can complete it."""
    return sorted({*globals(), *OFFERED})
