"""Tables in files: CSV and parquet give the same run, standardised on the rows that train; what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import spec

from ltx.api import load_data
from ltx.config.compose import compose
from ltx.config.loading import content, facts, load
from ltx.runs.worker import run_seed

WORDS = ("run", "method=dense", "data=own", "optim.steps=3", "optim.batch=10", "seeds=1", "model.hidden=[4]")


def table(rows: int = 100) -> pd.DataFrame:
    """Return columns on very different scales, one of them constant, and a label that depends on the first."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=rows)
    kind = np.where(x > 0, "large", "small")
    return pd.DataFrame({"length": 1e6 + 1e3 * x, "count": rng.integers(0, 9, rows), "unit": 0.1, "kind": kind})


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Return the same table in every format."""
    found = {kind: tmp_path / f"things.{kind}" for kind in ("csv", "csv.gz", "tsv", "parquet")}
    for kind, path in found.items():
        if kind == "parquet":
            table().to_parquet(path)
        else:
            table().to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return found


def test_every_format_gives_the_same_examples_split_and_standardised_on_the_rows_that_train(files: dict) -> None:
    found = [load_data("own", path=str(path), label="kind", val=0.1, test=0.2) for path in files.values()]
    first = found[0]
    for data in found:
        for part, size in (("train", 70), ("val", 10), ("test", 20)):
            assert len(getattr(data, part)) == size
            assert torch.equal(getattr(data, part).x, getattr(first, part).x)
            assert torch.equal(getattr(data, part).y, getattr(first, part).y)
    x = first.train.x.double()
    assert x.mean(0).abs().max() < 1e-6
    assert torch.allclose(x.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    assert first.names == ("large", "small")
    # classes in sorted order: large is 0, and the first column tells it in every part
    for part in (first.train, first.val, first.test):
        raw = part.x[:, 0] * 1  # standardised, so that 1e6 is near 0: the sign differs only close to it
        assert ((raw > 0.3) <= (part.y == 0)).all()
        assert ((raw < -0.3) <= (part.y == 1)).all()


def test_values_are_left_as_they_are_where_that_is_asked_and_columns_left_out(files: dict) -> None:
    data = load_data("table", path=str(files["csv"]), label="kind", standardise=False, drop=["unit", "count"])
    assert data.train.x.shape == (70, 1)
    every = torch.cat([data.train.x, data.val.x, data.test.x]).squeeze().double().sort().values
    assert torch.equal(every, torch.tensor(table()["length"].to_numpy()).float().double().sort().values)


def test_numbers_are_predicted_where_that_is_asked_and_many_classes_are_pointed_out(files: dict) -> None:
    data = load_data("table", path=str(files["csv"]), label="length", drop=["kind"], task="regression")
    assert data.task == "regression"
    assert abs(float(data.train.y.mean())) < 1e-5
    whole = table().assign(length=lambda t: t["length"].round())
    whole.to_csv(files["csv"], index=False)
    said = load_data("table", path=str(files["csv"]), label="length", drop=["kind"]).notes
    assert any("data.task=regression" in note for note in said)


def test_a_file_without_a_class_is_a_table_and_its_place_is_not_part_of_the_run(
    ltx: Callable, root: Path, files: dict, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere.csv"
    moved.write_bytes(files["csv"].read_bytes())
    for path in (files["csv"], moved):
        assert ltx(*WORDS, f"data.path={path}", "data.label=kind").code == 0
    runs = [path.name for path in (root / "runs").iterdir()]
    assert len(runs) == 1 and runs[0].startswith("dense-lenet-table-w1-")
    moved.write_text(moved.read_text().replace("large", "huge"))
    for cached in (facts, load, content):  # as another process would
        cached.cache_clear()
    assert ltx(*WORDS, f"data.path={moved}", "data.label=kind").code == 0
    assert len([*(root / "runs").iterdir()]) == 2


def test_every_field_of_a_table_is_in_the_key(files: dict) -> None:
    words = ("data=table", f"data.path={files['csv']}", "data.label=kind", "method=dense")
    more = ("drop=[unit]", "task=regression", "standardise=false", "val=.2", "test=.1", "split_seed=1", "label=count")
    keys = {spec(*words).key, *(spec(*words, f"data.{word}", "data.drop=[kind]").key for word in more[-1:])}
    for word in more[:-1]:
        extra = ("data.label=length", "data.drop=[kind]") if "task" in word else ()
        keys.add(spec(*words, *extra, f"data.{word}").key)
    assert len(keys) == 1 + len(more)


def test_only_a_file_without_a_class_makes_a_table() -> None:
    assert compose(["data=own", "data.path=a.csv"], [])["data"]["name"] == "table"
    own = compose(["data=own", "data.name=mine:Set", "data.path=a.csv"], [])["data"]
    assert own == {"name": "mine:Set", "split_seed": 0, "path": "a.csv"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.label=kind"], "missing.csv does not exist"),
        (["data.path=thing.csv", "data.label=kind"], "things.csv?"),
        (["data.path=things.csv"], "things.csv to predict, one of length"),
        (
            ["data.path=things.csv", "data.label=kinds"],
            "things.csv; did you mean 'kind'",
        ),
        (["data.path=things.csv", "data.label=kind", "data.drop=[units]"], "data.drop=units is no column"),
        (["data.path=things.csv", "data.label=kind", "data.drop=[kind]"], "leaves out the label"),
        (["data.path=things.csv", "data.label=count"], "columns that are no numbers: kind. Write them as numbers"),
        (["data.path=things.csv", "data.label=unit", "data.drop=[kind]"], "classes are whole numbers or texts"),
        (["data.path=.", "data.label=kind"], "is no table: it should be a file"),
        (["data.path=things.csv", "data.label=kind", "data.drop=[length,count,unit]"], "no column beside the label"),
        (["data.path=gap.csv", "data.label=b"], "missing values in the columns a"),
        (["data.path=empty.csv", "data.label=b"], "empty.csv cannot be read: EmptyDataError"),
        (["data.path=head.csv", "data.label=b"], "head.csv has no rows"),
        (["data.path=rough.csv", "data.label=b"], "rough.csv cannot be read: ParserError"),
        (["data.path=cut.parquet", "data.label=b"], "cut.parquet cannot be read: ArrowInvalid"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(
    ltx: Callable, root: Path, files: dict, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    folder = files["csv"].parent
    (folder / "gap.csv").write_text("a,b\n1,x\n,y\n3,x\n")
    (folder / "empty.csv").write_text("")
    (folder / "head.csv").write_text("a,b\n")
    (folder / "rough.csv").write_text("a,b\n1,x\n1,x,3,4\n")
    (folder / "cut.parquet").write_bytes(files["parquet"].read_bytes()[:200])
    monkeypatch.chdir(folder)
    found = ltx(*WORDS, "data.path=missing.csv", *words)
    assert found.code == 2
    assert said in " ".join(found.err.split())
    assert not (root / "runs").exists()


def test_a_file_that_was_changed_since_a_run_was_begun_is_not_trained_under_its_key(
    files: dict, tmp_path: Path
) -> None:
    words = ("method=dense", "data=table", f"data.path={files['csv']}", "data.label=kind", "optim.steps=2", "seeds=1")
    found = spec(*words, "model.hidden=[4]", f"root={tmp_path / 'root'}")
    directory = found.directory
    files["csv"].write_text(files["csv"].read_text().replace("large", "huge"))
    for cached in (facts, load, content):  # as a worker would, a process of its own
        cached.cache_clear()
    with pytest.raises(OSError, match="has changed since"):
        run_seed(found.config, str(directory), 0, lambda kind, value: None)
    assert not list(tmp_path.glob("root/**/*.safetensors"))
