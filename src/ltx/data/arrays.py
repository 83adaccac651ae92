"""What a user's data set hands over, made tensors: arrays, frames and images, and labels of any kind as classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltx.errors import BadInput, nearest

PARTS = ("train", "val", "test")
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Arrays:
    """Examples x float32 and classes y int64 by part, the name of every class, and what was changed, in words."""

    parts: dict[str, tuple[Tensor, Tensor]]
    names: list[str]
    notes: tuple[str, ...]


def arrays(parts: object) -> Arrays:
    """Read {"train": (x, y)[, "val": ...][, "test": ...]}, or a bare (x, y), which is train.

    Examples are arrays, tensors, lists or data frames of numbers, all of one shape. Images of bytes (uint8) are scaled
    to [0, 1], and those with channels last get them first. Labels are whole numbers or texts: classes in sorted order.
    Raises BadInput naming what does not fit.
    """
    if isinstance(parts, tuple | list) and len(parts) == 2 and all(hasattr(part, "__len__") for part in parts):
        parts = {"train": parts}
    if not isinstance(parts, Mapping):
        raise BadInput(f"A data set should be {{'train': (x, y), ...}}, or (x, y) alone, not {kind(parts)}.")
    for name in parts:
        if name not in PARTS:
            raise BadInput(f"A data set has the parts train, val and test; '{name}' is none of them{likely(name)}")
    if "train" not in parts:
        raise BadInput(f"A data set needs a 'train' part, got {sorted(parts)}.")
    xs, ys, notes = {}, {}, []
    for name, pair in parts.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise BadInput(f"The {name} part should be a pair (x, y), not {kind(pair)}.")
        x, changed = examples(name, numbers(f"examples of the {name} part", pair[0]))
        y = array(pair[1])
        if len(x) != len(y) or not len(x) or y.ndim != 1:
            raise BadInput(f"The {name} part needs one label per example, got x {tuple(x.shape)} and y {y.shape}.")
        xs[name], ys[name] = x, y
        notes += changed
    for name, x in xs.items():
        if x.shape[1:] != xs["train"].shape[1:]:
            raise BadInput(
                f"The examples of {name} have shape {tuple(x.shape[1:])}, those of train {tuple(xs['train'].shape[1:])}"
                "; they should be equal."
            )
    classes, names = as_classes(ys)
    if names != [str(i) for i in range(len(names))]:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        notes.append(f"the labels {shown} became the classes 0 to {len(names) - 1}, in sorted order")
    return Arrays({name: (xs[name], classes[name]) for name in xs}, names, tuple(dict.fromkeys(notes)))


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
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise BadInput(f"A {type(value).__name__} of the data set is no array: {error}.") from error


def numbers(what: str, value: Any) -> np.ndarray:
    """Return an array of numbers. Raises BadInput for anything else, by column where there are columns."""
    if hasattr(value, "dtypes") and hasattr(value, "columns"):  # a data frame
        wrong = [str(name) for name in value.columns if not np.issubdtype(np.asarray(value[name]).dtype, np.number)]
        wrong = [name for name in wrong if np.asarray(value[name]).dtype != bool]
        if wrong:
            raise BadInput(f"The {what} hold columns that are no numbers: {', '.join(wrong)}; encode or drop them.")
    found = array(value)
    if (found.dtype != bool and not np.issubdtype(found.dtype, np.number)) or np.iscomplexobj(found):
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
    found = torch.as_tensor(np.ascontiguousarray(x)).float()
    if not torch.isfinite(found).all():
        raise BadInput(f"The {name} part holds values that are not finite.")
    return found, changed


def as_classes(labels: Mapping[str, np.ndarray]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the labels of every part as classes 0 .. n - 1 in sorted order, and the names of the classes."""
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
    return {n: torch.from_numpy(np.searchsorted(known, y)).long() for n, y in clean.items()}, [str(k) for k in known]


def whole(name: str, y: np.ndarray) -> np.ndarray:
    """Return labels as int64 or text. Raises BadInput for fractions, gaps in the data and negative numbers."""
    if y.dtype == object:
        y = y.astype(str) if all(isinstance(label, str) for label in y) else y
    if y.dtype.kind in "US":
        return y.astype(str)
    if y.dtype.kind not in "biuf":
        raise BadInput(f"The labels of {name} should be whole numbers or texts, not {y.dtype}.")
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.round(y)).all()):
        raise BadInput(
            f"The labels of {name} are not whole numbers (such as {y[y != np.round(y)][0]}): ltx classifies, and "
            "takes classes as whole numbers or texts; regression is not offered."
        )
    y = y.astype("int64")
    if y.min() < 0:
        raise BadInput(f"The {name} part holds negative labels (such as {y.min()}): classes count from 0.")
    return y
