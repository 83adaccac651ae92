"""A paper's figure is one module here and one yaml in conf/figure, which fixes its arms and claims before they are run.

`NAME.py` has `rows(store) -> table`, `draw(table) -> Figure`, `claims(table, fixed)`, which decides every claim of the
yaml by its name, and `arms(fixed)` where the yaml does not list the arms itself. `fixed` is the content of the yaml;
its `caption`, if there is one, explains the marks below the picture. Most figures draw and decide means over seeds
with Student's interval. One that does not has `shown`, a sentence with $n in place of "30 seeds" that says what is
drawn, and `effect`, which says what is decided.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from ltx.config.compose import CONF


def names() -> list[str]:
    """Name the figures there are."""
    return sorted(path.stem.replace("_", "-") for path in (CONF / "figure").glob("*.yaml"))


def module(name: str) -> ModuleType:
    """Return the module of a figure."""
    return importlib.import_module(f"ltx.figures.{name.replace('-', '_')}")
