"""Tiny ImageNet, 110,000 photographs of 200 classes at 64x64 (Le & Yang 2015)."""

from ltx.data.images import Data

__all__ = ["Data"]
