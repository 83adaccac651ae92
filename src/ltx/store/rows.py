"""A row of the summary: one level of one seed, as it is measured once and read everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ltx.store.files import Damaged

Value = float | int | str | None


@dataclass(frozen=True)
class Row:
    """What a level keeps and how good it is.

    density = kept / prunable; total counts all matrix weights. Losses and accuracies are those of the last step, of the
    validation and test parts whole. early_stop_step is the step of the smallest validation loss, None where that is the
    last one (censored). extra: a method's further columns. layers: the density of each layer, which is no column.
    """

    seed: int
    level: int
    density: float
    kept: int
    prunable: int
    total: int
    step: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    test_loss: float
    test_accuracy: float
    early_stop_step: int | None
    early_stop_test_accuracy: float
    extra: dict[str, Value] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, columns: object, layers: object) -> Row:
        """Return the row that a level file holds. Raises Damaged where it is none."""
        if not isinstance(columns, Mapping) or not isinstance(layers, Mapping):
            raise Damaged("it holds no row of a summary")
        wrong = [name for name in COLUMNS if not fits(name, columns.get(name))]
        extra = {name: value for name, value in columns.items() if name not in COLUMNS}
        wrong += [name for name, value in extra.items() if not isinstance(value, Value)]
        wrong += [name for name, value in layers.items() if not isinstance(value, float | int)]
        if wrong:
            raise Damaged(f"its row has no {', '.join(wrong)}")
        return cls(**{name: columns[name] for name in COLUMNS}, extra=extra, layers=dict(layers))

    def columns(self) -> dict[str, Value]:
        """Return the columns by name, in their order, a method's own last."""
        return {**{name: getattr(self, name) for name in COLUMNS}, **self.extra}

    @property
    def share(self) -> float:
        """How much of all matrix weights is kept, layers that are never pruned included."""
        return (self.kept + self.total - self.prunable) / self.total


COLUMNS = tuple(f.name for f in fields(Row) if f.name not in ("extra", "layers"))
COUNTS = ("seed", "level", "kept", "prunable", "total", "step")


def fits(name: str, value: Any) -> bool:
    """Tell whether a value can stand in a column."""
    if name == "early_stop_step":
        return value is None or type(value) is int
    return type(value) is int if name in COUNTS else isinstance(value, float | int)


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the columns that rows have between them."""
    return list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row.extra)]))


def by_level(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Group rows by level."""
    return {level: [row for row in rows if row.level == level] for level in sorted({row.level for row in rows})}


def asked(rows: Sequence[Row], seeds: Sequence[int], last_level: int) -> list[Row]:
    """Select the rows of some seeds up to a level."""
    return [row for row in rows if row.seed in seeds and row.level <= last_level]
