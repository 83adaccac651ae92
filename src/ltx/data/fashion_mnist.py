"""Fashion-MNIST, 70,000 pictures of clothes (Xiao et al. 2017)."""

from ltx.data.images import Data

__all__ = ["Data"]
