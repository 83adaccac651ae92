"""What a user's data set hands over, made splits: arrays, frames and images, and labels of any kind as classes."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltx.data.splits import Augment, Dataset, Files, Memory, Split, TaskName
from ltx.errors import BadInput, nearest
from ltx.streams import generator

PARTS = ("train", "val", "test")
CHANNELS = (1, 3, 4)


def assemble(
    parts: object,
    split_seed: int,
    val: float = 0.1,
    test: float = 0.2,
    augment: Augment | None = None,
    task: TaskName = "classification",
) -> Dataset:
    """Make a Dataset of {"train": (x, y)[, "val": ...][, "test": ...]}, or of a bare (x, y), which is train.

    Examples are arrays, tensors, lists or data frames of numbers, all of one shape; in the place of a pair may stand
    `Files`. Images of bytes (uint8) are scaled to [0, 1], and those with channels last get them first. Labels are whole
    numbers or texts, and become classes in sorted order; for next_token whole numbers shaped as x; for regression
    numbers, which get mean 0 and variance 1 over the training part.
    A missing validation or test part is taken from train: a share (below 1) or a count of examples, chosen by
    `split_seed` alone, so that all seeds of a run share it. Raises BadInput naming what does not fit.
    """
    xs: dict[str, Tensor | Files] = {}
    ys: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for name, pair in named(parts).items():
        xs[name], ys[name], changed = examples_and_labels(name, pair, task)
        notes += changed
    shapes = {name: shape_of(x) for name, x in xs.items()}
    for name, shape in shapes.items():
        if shape != shapes["train"]:
            raise BadInput(
                f"The examples of {name} have shape {shape}, those of train {shapes['train']}; they should be equal."
            )
    targets, outputs, names, changed = TARGETS[task](ys)
    splits: dict[str, Split] = {}
    for name, x in xs.items():
        splits[name] = x.labelled(targets[name]) if isinstance(x, Files) else Memory(x, targets[name])
    train = splits["train"]
    order = torch.from_numpy(generator("split", split_seed).permutation(len(train)))
    for name, share in (("test", test), ("val", val)):
        if name not in splits:
            size = int(share if share >= 1 else round(share * len(train)))
            if not 0 < size < len(order):
                raise BadInput(
                    f"{len(order)} examples are too few: a {name} part of {size} leaves nothing on one side."
                )
            chosen, order = order[:size], order[size:]
            splits[name] = train.part(chosen)
    if len(order) < len(train):
        splits["train"] = train.part(order)
    if task == "regression":
        splits, changed = standardised(splits)
    said = tuple(dict.fromkeys([*notes, *changed]))
    return Dataset(splits["train"], splits["val"], splits["test"], outputs, augment, tuple(names), said, task)


def named(parts: object) -> Mapping[str, Any]:
    """Return the parts by name. Raises BadInput for other names, and where there is no train."""
    if isinstance(parts, tuple | list) and len(parts) == 2 and all(hasattr(part, "__len__") for part in parts):
        parts = {"train": parts}
    if not isinstance(parts, Mapping):
        raise BadInput(f"A data set should be {{'train': (x, y), ...}}, or (x, y) alone, not {kind(parts)}.")
    for name in parts:
        if name not in PARTS:
            raise BadInput(f"A data set has the parts train, val and test; '{name}' is none of them{likely(name)}")
    if "train" not in parts:
        raise BadInput(f"A data set needs a 'train' part, got {sorted(parts)}.")
    return parts


def examples_and_labels(name: str, pair: object, task: TaskName) -> tuple[Tensor | Files, np.ndarray, list[str]]:
    """Return the examples of one part, its labels as they were given, and what was changed of the examples."""
    if isinstance(pair, Files):
        y = array(pair.targets)
        if not len(pair):
            raise BadInput(f"The {name} part has no files; is its folder right?")
        if len(pair) != len(y):
            raise BadInput(f"The {name} part needs one label per file, got {len(pair)} files and {len(y)} labels.")
        return pair, y, []
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise BadInput(f"The {name} part should be a pair (x, y), not {kind(pair)}.")
    found, y = numbers(f"examples of the {name} part", pair[0]), array(pair[1])
    x, changed = tokens(name, found) if task == "next_token" else examples(name, found)
    if not len(x):
        raise BadInput(f"The {name} part has no examples.")
    if len(x) != len(y):
        raise BadInput(f"The {name} part needs one label per example, got {len(x)} examples and {len(y)} labels.")
    if task == "classification" and y.ndim > 1:
        better = "y.argmax(1) makes them of one-hot labels" if len(x) != y.size else "y.ravel() makes them of a column"
        raise BadInput(f"The labels of {name} should be one number each, not {y.shape[1:]}; {better}.")
    if x.ndim < 2:
        raise BadInput(f"The examples of {name} should have a shape of their own: x[:, None] makes them (N, 1).")
    fits = {"classification": y.ndim == 1, "next_token": y.shape == found.shape, "regression": y.ndim in (1, 2)}[task]
    if not fits:
        raise BadInput(f"The {name} part needs one label per example, got x {tuple(x.shape)} and y {y.shape}.")
    if not x.numel():
        raise BadInput(f"The examples of the {name} part have nothing in them: their shape is {tuple(x.shape[1:])}.")
    return x.contiguous(), y, changed


def shape_of(x: Tensor | Files) -> tuple[int, ...]:
    """Return the shape of one example."""
    return tuple(x.example(0).shape if isinstance(x, Files) else x.shape[1:])


def likely(name: object) -> str:
    """Return which part a name probably means."""
    meant = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test", "eval": "val"}
    part = meant.get(str(name).lower())
    return f"; did you mean '{part}'?" if part else nearest(str(name).lower(), PARTS)


def kind(value: object) -> str:
    """Name the type of a value, the length of a sequence with it."""
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{type(value).__name__}{size}"


def array(value: Any) -> np.ndarray:
    """Return an array of what may be a tensor, a data frame, a series, a list or an array."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    columns = columns_of(value)
    if columns and all(holds_numbers(column) for _, column in columns):
        return np.stack([column for _, column in columns], axis=1)  # as a whole, a frame of several types is of objects
    try:
        return plain(np.asarray(value))
    except (ValueError, TypeError) as error:
        raise BadInput(f"A {type(value).__name__} of the data set is no array: {str(error).rstrip('.')}.") from error


def columns_of(value: Any) -> list[tuple[str, np.ndarray]]:
    """Return the names and values of a data frame's columns, each by itself; none of what is no data frame."""
    if not hasattr(value, "dtypes") or not hasattr(value, "columns"):
        return []
    at = value.iloc if hasattr(value, "iloc") else value  # by number: two columns may have one name
    return [(str(name), plain(np.asarray(at[:, i]))) for i, name in enumerate(value.columns)]


def plain(found: np.ndarray) -> np.ndarray:
    """Return an array of Python objects as one of numbers where every object is one, as in pandas' Int64 columns."""
    if found.dtype == object and found.size and all(isinstance(v, bool | np.bool_ | Real) for v in found.flat):
        return np.array(found.tolist())
    return found


def holds_numbers(found: np.ndarray) -> bool:
    """Tell whether an array holds true and false, whole numbers or floats."""
    return found.dtype.kind in "biuf"


def missing(found: np.ndarray) -> bool:
    """Tell whether values are missing in an array: NaN, or among objects None and pandas' NA and NaT."""
    if found.dtype.kind == "f":
        return bool(np.isnan(found).any())
    return found.dtype == object and any(is_none(value) for value in found.flat)


def is_none(value: object) -> bool:
    """Tell whether an object stands for a missing value; pandas is not imported for those who use no frames."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def numbers(what: str, value: Any) -> np.ndarray:
    """Return an array of numbers. Raises BadInput for anything else, by column where there are columns."""
    columns = columns_of(value)
    gaps = [name for name, column in columns if missing(column)]
    if gaps:
        raise BadInput(f"The {what} have missing values in the columns {', '.join(gaps)}; fill them, or drop the rows.")
    wrong = [name for name, column in columns if not holds_numbers(column)]
    if wrong:
        raise BadInput(f"The {what} hold columns that are no numbers: {', '.join(wrong)}; encode or drop them.")
    found = array(value)
    if found.dtype == object and missing(found):
        raise BadInput(f"The {what} have missing values; fill them, or drop the rows.")
    if not holds_numbers(found):
        raise BadInput(f"The {what} are no numbers but {found.dtype}.")
    return found


def examples(name: str, x: np.ndarray) -> tuple[Tensor, list[str]]:
    """Return the examples as float32, images of bytes scaled and channels first, and what was changed."""
    changed = []
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        if x.ndim == 4 and x.shape[-1] in CHANNELS and x.shape[1] not in CHANNELS:
            x = np.moveaxis(x, -1, 1)
            changed.append("images came with channels last and now have them first")
        if x.ndim == 3:
            x = x[:, None]
            changed.append("images came without channels and now have one")
        x = x.astype("float32") / 255
        changed.append("images of bytes were divided by 255")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
        found = torch.from_numpy(np.ascontiguousarray(x, dtype="float32"))
    if not torch.isfinite(found).all():
        raise BadInput(f"The {name} part holds values that are not finite, or too large for float32; fill or scale.")
    return found, changed


def tokens(name: str, x: np.ndarray) -> tuple[Tensor, list[str]]:
    """Return sequences of tokens (N, length) as int64."""
    if x.ndim != 2 or x.dtype.kind not in "iu" or (x.size and x.min() < 0):
        raise BadInput(f"The {name} part should hold sequences of tokens, whole numbers from 0 (N, length).")
    return torch.from_numpy(x.astype("int64")), []


Targets = tuple[dict[str, Tensor], int, list[str], list[str]]  # by part, outputs, names of classes, what was changed


def as_classes(labels: Mapping[str, np.ndarray]) -> Targets:
    """Return the labels of every part as classes 0 .. n - 1 in sorted order."""
    clean = {name: whole(name, y) for name, y in labels.items()}
    if len({y.dtype.kind for y in clean.values()}) > 1:
        raise BadInput("Some labels are texts and some are numbers; they should be of one kind.")
    known = np.unique(clean["train"])
    for name, y in clean.items():
        unseen = np.setdiff1d(y, known)
        if len(unseen):
            raise BadInput(f"The {name} part holds labels that train has not: {', '.join(map(str, unseen[:5]))}.")
    if len(known) < 2:
        raise BadInput(f"All labels are {known[0]}: there is nothing to tell apart with one class.")
    names, changed = [str(k) for k in known], []
    if names != [str(i) for i in range(len(names))]:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        changed = [f"the labels {shown} became the classes 0 to {len(names) - 1}, in sorted order"]
    return {n: torch.from_numpy(np.searchsorted(known, y)).long() for n, y in clean.items()}, len(known), names, changed


def as_tokens(labels: Mapping[str, np.ndarray]) -> Targets:
    """Return the next tokens of every part; the vocabulary goes up to the largest."""
    found = {name: tokens(name, y)[0] for name, y in labels.items()}
    return found, 1 + max(int(y.max()) for y in found.values()), [], []


def as_numbers(labels: Mapping[str, np.ndarray]) -> Targets:
    """Return the numbers of every part (N, numbers), float64."""
    found = {}
    for name, y in labels.items():
        values = numbers(f"labels of the {name} part", y).astype("float64")
        if not np.isfinite(values).all():
            raise BadInput(f"The {name} part holds labels that are not finite.")
        found[name] = torch.from_numpy(values.reshape(len(values), -1))
    return found, found["train"].shape[1], [], []


def standardised(splits: Mapping[str, Split]) -> tuple[dict[str, Split], list[str]]:
    """Give the numbers to predict mean 0 and variance 1 over the examples that train; say what they had."""
    train = splits["train"].y
    mean, sd = train.mean(0), train.std(0, correction=0)
    if not sd.all():
        raise BadInput("All labels of train are equal: there is nothing to predict.")
    said = f"the labels were given mean 0 and variance 1 (they had mean {mean.tolist()}, sd {sd.tolist()})"
    return {name: split.labelled(((split.y - mean) / sd).float()) for name, split in splits.items()}, [said]


TARGETS = {"classification": as_classes, "next_token": as_tokens, "regression": as_numbers}


def whole(name: str, y: np.ndarray) -> np.ndarray:
    """Return labels as int64 or text. Raises BadInput for fractions, gaps in the data and negative numbers."""
    if missing(y):
        raise BadInput(
            f"The labels of {name} have missing values, which are not whole numbers; fill them, or drop their examples."
        )
    if y.dtype == object and all(isinstance(label, str) for label in y):
        y = y.astype(str)
    if y.dtype.kind in "US":
        return y.astype(str)
    if y.dtype == object:
        kinds = ", ".join(sorted({type(label).__name__ for label in y}))
        raise BadInput(f"The labels of {name} should be whole numbers or texts, all of one kind, not {kinds}.")
    if not holds_numbers(y):
        raise BadInput(f"The labels of {name} should be whole numbers or texts, not {y.dtype}.")
    if y.dtype.kind == "f" and np.isinf(y).any():
        raise BadInput(f"The labels of {name} are not whole numbers (such as {y[np.isinf(y)][0]}).")
    if y.dtype.kind == "f" and (y != np.round(y)).any():
        raise BadInput(
            f"The labels of {name} are not whole numbers (such as {y[y != np.round(y)][0]}): classes are whole "
            "numbers or texts; to predict numbers give your class the attribute task = 'regression'."
        )
    if y.min() < 0:
        raise BadInput(f"The {name} part holds negative labels (such as {y.min()}): classes count from 0.")
    if int(y.max()) >= 2**63:
        raise BadInput(f"The {name} part holds labels of 2**63 and more (such as {y.max()}); give them as texts.")
    return y.astype("int64")
