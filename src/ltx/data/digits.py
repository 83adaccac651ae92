"""The 1,797 real 8x8 digits that ship with scikit-learn (Alpaydin & Kaynak 1998): no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from ltx.data.arrays import assemble
from ltx.data.batches import shift
from ltx.data.splits import Dataset, Facts

MEAN, SD = 4.884, 6.017  # of all pixels, which run from 0 to 16
VAL, TEST = 180, 360  # of 1,797 examples


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
        from sklearn.datasets import load_digits  # a second to import: only where data is loaded

        x, y = load_digits(return_X_y=True)
        images = ((x - MEAN) / SD).astype("float32").reshape(-1, 1, 8, 8)
        augment = shift(self.shift, fill=-MEAN / SD) if self.shift else None
        return assemble({"train": (images, y)}, self.split_seed, val=VAL, test=TEST, augment=augment)
