"""A paper's figure is one module here and one yaml in conf/figure, which fixes its arms and claims before they are run.

`NAME.py` has `rows(store) -> table`, `draw(table) -> Figure`, `claims(table, fixed)`, which decides every claim of the
yaml by its name, and `arms(fixed)` where the yaml does not list the arms itself. `fixed` is the content of the yaml;
its `caption`, if there is one, explains the marks below the picture. Most figures draw and decide means over seeds
with Student's interval. One that does not has `shown`, a sentence with $n in place of "30 seeds" that says what is
drawn, and `effect`, which says what is decided. A yaml that asks the same of other data names the module it shares
under `module`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import yaml

from ltx.config.compose import CONF


def names() -> list[str]:
    """Name the figures there are."""
    return sorted(path.stem.replace("_", "-") for path in (CONF / "figure").glob("*.yaml"))


def read(name: str) -> dict[str, Any]:
    """Return the content of a figure's yaml."""
    return yaml.safe_load((CONF / "figure" / f"{name.replace('-', '_')}.yaml").read_text("utf-8"))


def module(name: str) -> ModuleType:
    """Return the module of a figure."""
    return importlib.import_module(f"ltx.figures.{read(name).get('module', name).replace('-', '_')}")
