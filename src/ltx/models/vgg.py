"""VGG-11, -13, -16 and -19 with BatchNorm for small images (Simonyan & Zisserman 2015, as open_lth has them)."""

from ltx.models.conv import Model

__all__ = ["Model"]
