"""The 1,797 real 8x8 digits that ship with scikit-learn (Alpaydin & Kaynak 1998): no download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from ltx.data.arrays import assemble
from ltx.data.augment import shift
from ltx.data.splits import Dataset, Facts

MEAN, SD = 4.884, 6.017  # of all pixels, which run from 0 to 16
VAL, TEST = 180, 360  # of 1,797 examples


@cache
def examples() -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (1797, 64), from 0 to 16, and the labels as scikit-learn gives them; not to be written to.

    They are read from the file in scikit-learn's own folder where it is there: importing scikit-learn would take a
    second, of the command and of its workers.
    """
    package = find_spec("sklearn")
    file = Path(str(package.origin if package else "")).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        from sklearn.datasets import load_digits

        return load_digits(return_X_y=True)
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)


@dataclass(frozen=True)
class Data:
    """Load the digits, standardised: 1257 to train, 180 to validate, 360 to test; `shift` moves them by pixels."""

    split_seed: Annotated[int, Ge(0)]
    shift: Annotated[int, Ge(0), Le(4)]

    def facts(self) -> Facts:
        """Return what the set is, without loading it."""
        return Facts((1, 8, 8), classes=10, train=1257, val=VAL, test=TEST)

    def load(self) -> Dataset:
        """Return the three splits, x (N, 1, 8, 8)."""
        x, y = examples()
        images = ((x - MEAN) / SD).astype("float32").reshape(-1, 1, 8, 8)
        augment = shift(self.shift, fill=-MEAN / SD) if self.shift else None
        return assemble({"train": (images, y)}, self.split_seed, val=VAL, test=TEST, augment=augment)
