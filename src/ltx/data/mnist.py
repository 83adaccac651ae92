"""MNIST, 70,000 handwritten digits (LeCun et al. 1998)."""

from ltx.data.images import Data

__all__ = ["Data"]
