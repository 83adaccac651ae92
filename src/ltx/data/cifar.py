"""CIFAR-10 and CIFAR-100, 60,000 small colour photographs each (Krizhevsky 2009)."""

from ltx.data.images import Data

__all__ = ["Data"]
