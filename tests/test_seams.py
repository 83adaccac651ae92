"""A method of a user's own, ten lines without gradients: run, resumed, extended, tabled and stood upon as any other."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import levels, only
from helpers import counts

from ltx.store.folders import RunFolder
from ltx.tensors import under

SEARCH = '''
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ltx.masks import keep_top
from ltx.methods import Plan, dense


@dataclass(frozen=True)
class Method(dense.Method):
    """Draw masks that keep half of each layer, and go on with the one that measures best on the training part."""

    extents: ClassVar[frozenset] = frozenset({"levels"})

    levels: int
    draws: int = 2

    @property
    def last_level(self):
        return self.levels

    def plan(self, level, steps, trunk):
        return Plan(level, parent=max(0, level - 1), first=0, last=0, anchor=None if level else 0)

    def advance(self, level, previous, context):
        def drawn(i):
            def score(name, keep):
                return torch.from_numpy(context.streams.generator("mask", level, i, name).random(tuple(keep.shape)))

            return {name: keep_top(score(name, keep), keep.numel() // 2) for name, keep in previous.mask.items()}

        tried = [replace(previous, mask=drawn(i)) for i in range(self.draws)] + ([previous] if level else [])
        losses = [context.measure(state, "train")[0] for state in tried]
        return tried[losses.index(min(losses))], {"worst_drawn": max(losses)}
'''
OWN = ("method=dense", "method.name=random_search:Method", "width=.1", "optim.steps=6", "optim.batch=20")


@pytest.fixture(autouse=True)
def module() -> None:
    Path("random_search.py").write_text(SEARCH)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row.columns() for row in RunFolder(folder).rows()]


def test_levels_and_seeds_of_an_own_method_improve_at_an_exact_count_and_have_its_column(
    ltx: Callable, root: Path
) -> None:
    result = ltx("run", *OWN, "+method.levels=3", "seeds=2")
    assert result.code == 0, result.err
    found = rows(only(root))
    assert [(row["seed"], row["level"]) for row in found] == [(seed, n) for seed in (0, 1) for n in range(4)]
    for seed in (0, 1):
        losses = [row["train_loss"] for row in found if row["seed"] == seed]
        assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0], "the best so far is kept"
        for n in range(4):
            tensors, meta = RunFolder(only(root)).seed(seed).read_level(n)
            mask = under("mask", tensors)
            assert counts(mask) == {name: keep.numel() // 2 for name, keep in mask.items()}
            assert meta["row"]["kept"] == sum(counts(mask).values()) and meta["row"]["step"] == 0
    with (only(root) / "summary.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["worst_drawn"]) for row in table] == [row["worst_drawn"] for row in found]
    assert all(float(row["worst_drawn"]) >= float(row["train_loss"]) for row in table)


def test_an_own_method_resumes_and_extends_with_the_same_bytes(ltx: Callable, root: Path, tmp_path: Path) -> None:
    assert ltx("run", *OWN, "+method.levels=3", f"root={tmp_path / 'whole'}").code == 0
    whole = levels(only(tmp_path / "whole"))
    assert ltx("run", *OWN, "+method.levels=1").code == 0
    assert {name: whole[name] for name in levels(only(root))} == levels(only(root))
    assert ltx("run", *OWN, "+method.levels=3").code == 0
    assert levels(only(root)) == whole, "extended"
    (only(root) / "seed_001" / "level_02.safetensors").unlink()
    again = ltx("run", *OWN, "+method.levels=3")
    assert again.code == 0 and "nothing was left" not in again.out
    assert levels(only(root)) == whole, "resumed"
    assert "nothing was left" in ltx("run", *OWN, "+method.levels=3").out


def test_an_untrained_control_stands_on_every_level_of_an_own_method(ltx: Callable, root: Path) -> None:
    assert ltx("run", *OWN, "+method.levels=2", "seeds=1").code == 0
    below = only(root)
    words = ("method=control", "method.kind=untrained", "seeds=1", f"of={below.name}", "trust=true")
    result = ltx("run", *words)
    assert result.code == 0, result.err
    assert [row["level"] for row in rows(result.folder)] == [0, 1, 2]
    for mine, ticket in zip(rows(result.folder), rows(below), strict=True):
        for name in ("kept", "train_loss", "val_loss", "test_loss", "test_accuracy"):
            assert mine[name] == ticket[name], name


GROWN = """
from dataclasses import dataclass
from ltx.methods import dense


@dataclass(frozen=True)
class Method(dense.Method):
    def columns(self, end, streams, accuracy):
        return {"size": float(sum(w.abs().sum() for w in end.weights.values())), "kept_names": ",".join(end.mask)}
"""


def test_a_trained_method_may_add_columns_about_its_weights(ltx: Callable, root: Path) -> None:
    Path("grown.py").write_text(GROWN)
    Path("conf/method").mkdir(parents=True)
    Path("conf/method/grown.yaml").write_text("name: grown:Method\n")
    words = ("--config-dir", "conf", "method=grown", "width=.05", "optim.steps=20", "seeds=1")
    assert ltx("run", *words).code == 0
    tensors, _ = RunFolder(only(root)).seed(0).read_level(0)
    (row,) = rows(only(root))
    assert row["size"] == pytest.approx(sum(float(w.abs().sum()) for w in under("end", tensors).values()), rel=1e-5)
    assert row["kept_names"] == "fc1.weight,fc2.weight,out.weight"
    with (only(root) / "summary.csv").open() as file:
        assert float(next(csv.DictReader(file))["size"]) == row["size"]
