"""A table of numbers in a CSV or parquet file, one row an example and one column its label."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt

from ltx.data.arrays import assemble, columns_of, holds_numbers
from ltx.data.splits import Dataset, Memory, Split
from ltx.errors import BadInput, closest, described, nearest

KINDS = (".csv", ".csv.gz", ".tsv", ".parquet")
MANY = 5  # rows of a class, on average, below which its labels are probably numbers to predict


@dataclass(frozen=True)
class Data:
    """Load a table: every column but the label, and those to drop, is a number of the example.

    path: of the file, .csv, .csv.gz, .tsv or .parquet, the first with the names of the columns in their first line.
    label: the column to predict: classes, as whole numbers or texts, or numbers with task=regression.
    drop: columns to leave out, such as names and dates.
    standardise: give each column mean 0 and variance 1 over the rows that train; one that is constant there becomes 0.
    val, test: shares of the rows that are held out, chosen by split_seed.
    """

    origin: ClassVar[frozenset[str]] = frozenset({"path"})

    split_seed: Annotated[int, Ge(0)]
    path: str | None
    label: str | None
    drop: list[str]
    task: Literal["classification", "regression"]
    standardise: bool
    val: Annotated[float, Gt(0), Lt(1)]
    test: Annotated[float, Gt(0), Lt(1)]

    @property
    def content(self) -> str:
        """The digest of the file, which may lie anywhere."""
        return hashlib.sha256(self.file().read_bytes()).hexdigest()

    def file(self) -> Path:
        """Return the path of the file. Raises BadInput where it is none that can be read."""
        if self.path is None:
            raise BadInput("data.path is missing: the CSV or parquet file of the table.")
        path = Path(self.path).expanduser()
        if not path.exists():
            there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            meant = closest(path.name, there)
            hint = f"; did you mean {path.with_name(meant[0])}?" if meant else "."
            raise BadInput(f"data.path={self.path} does not exist{hint}")
        if not path.is_file() or not path.name.lower().endswith(KINDS):
            raise BadInput(
                f"data.path={self.path} is no table: it should be a file that ends in {', '.join(KINDS)}. "
                "Folders of images are for data=images."
            )
        return path

    def load(self) -> Dataset:
        """Return the three parts, x (N, columns)."""
        frame = read(self.file())
        names = [name for name, _ in columns_of(frame)]
        if self.label is None:
            raise BadInput(f"data.label is missing: the column of {self.path} to predict, one of {', '.join(names)}.")
        for field, asked in (("label", [self.label]), ("drop", self.drop)):
            for name in asked:
                if name not in names:
                    raise BadInput(f"data.{field}={name} is no column of {self.path}{nearest(name, names)}")
        if self.label in self.drop:
            raise BadInput(f"data.drop=[{','.join(self.drop)}] leaves out the label; leave it in.")
        x = frame.drop(columns=[self.label, *self.drop])
        if not len(x.columns):
            raise BadInput(f"{self.path} has no column beside the label: there is nothing to predict from.")
        words = [name for name, column in columns_of(x) if not holds_numbers(column)]
        if words:
            raise BadInput(
                f"{self.path} has columns that are no numbers: {', '.join(words)}. Write them as numbers, or leave "
                f"them out: data.drop=[{','.join([*self.drop, *words])}]."
            )
        found = assemble((x, frame[self.label]), self.split_seed, self.val, self.test, task=self.task)
        if self.task == "classification" and found.classes > len(frame) / MANY:
            note = (
                f"{self.label} has {found.classes} classes in {len(frame)} rows; data.task=regression predicts numbers"
            )
            found = replace(found, notes=(*found.notes, note))
        return standardised(found) if self.standardise else found


def read(path: Path) -> Any:
    """Return a table as a data frame. Raises BadInput naming a file that cannot be read."""
    import pandas as pd

    try:
        if path.name.lower().endswith(".parquet"):
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, sep="\t" if path.name.lower().endswith(".tsv") else ",")
    except (ValueError, OSError, EOFError) as error:  # what pandas and pyarrow raise for a damaged file are of these
        raise BadInput(f"{path} cannot be read: {described(error)}.") from error
    if not len(frame):
        raise BadInput(f"{path} has no rows.")
    twice = frame.columns[frame.columns.duplicated()].tolist()
    if twice:
        raise BadInput(f"{path} has the column {twice[0]} twice.")
    return frame


def standardised(data: Dataset) -> Dataset:
    """Give every column mean 0 and variance 1 over the examples that train."""
    x = data.train.x.double()
    mean, sd = x.mean(0), x.std(0, correction=0)
    sd[sd <= 1e-9 * mean.abs()] = np.inf  # a constant column, whose deviations are rounding

    def scaled(split: Split) -> Memory:
        return Memory(((split.x.double() - mean) / sd).float(), split.y)

    train, val, test = map(scaled, (data.train, data.val, data.test))
    note = "every column was given mean 0 and variance 1 over the rows that train"
    return replace(data, train=train, val=val, test=test, notes=(*data.notes, note))
