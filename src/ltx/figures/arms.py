"""The arms of a figure: planned from its yaml, and read back once their runs are finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import Template
from typing import Any

import pandas as pd

from ltx.config.spec import Spec
from ltx.errors import BadInput, nearest
from ltx.figures import module, names, read
from ltx.store.rows import Row


@dataclass(frozen=True)
class Arm:
    """One run of a figure: its name, the overrides that make it, and the facts by which a table knows it."""

    name: str
    words: list[str]
    facts: dict[str, str | float]


@dataclass(frozen=True)
class Finished:
    """An arm whose run is done: the run's spec and its summary rows."""

    arm: Arm
    spec: Spec
    rows: list[Row]


@dataclass(frozen=True)
class Store:
    """The finished arms of a figure, in the order in which they were planned."""

    arms: list[Finished]

    def table(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return a row per arm, seed and level: the arm's facts, then the named columns of the summary, or all."""

        def chosen(row: Row) -> dict[str, Any]:
            found = row.columns()
            return {name: found[name] for name in columns or found}

        table = pd.DataFrame([{**done.arm.facts, **chosen(row)} for done in self.arms for row in done.rows])
        # A censored early stop is missing; pandas would then hold the whole column as Python objects.
        return table.astype({"early_stop_step": "Float64"}) if "early_stop_step" in table else table


def plan(name: str, overrides: list[str]) -> tuple[dict[str, Any], list[Arm]]:
    """Return the content of a figure's yaml and its arms, each with all its overrides: the yaml's, then the given.

    A value of `values` in the yaml stands as $NAME in its overrides; who overrides it replaces it wherever it stands.
    Raises BadInput for an unknown name.
    """
    if name not in names():
        raise BadInput(f"No figure is named {name}{nearest(name, names())}")
    fixed = read(name)
    arms = listed(fixed) if "arms" in fixed else module(name).arms(fixed)
    given = {word.partition("=")[0].rpartition(".")[2]: word.partition("=")[2] for word in overrides}
    values = {key: given.get(key, value) for key, value in fixed.get("values", {}).items()}

    def filled(words: list[str]) -> list[str]:
        return [fresh_seeds(Template(word).substitute(values), fixed["first_seed"]) for word in words]

    common = filled(fixed["common"])
    return fixed, [replace(arm, words=[*common, *filled(arm.words), *overrides]) for arm in arms]


def listed(fixed: dict[str, Any]) -> list[Arm]:
    """Return the arms that a yaml lists by name; the one fact of each is the column `arm`."""
    return [Arm(name, words, {"arm": name}) for name, words in fixed["arms"].items()]


def fresh_seeds(word: str, first: int) -> str:
    """Return `seeds=N` of a figure's yaml as the N seeds from `first` on: claims are not decided on explored seeds."""
    key, _, n = word.partition("=")
    return f"seeds=[{','.join(str(first + i) for i in range(int(n)))}]" if key == "seeds" else word
