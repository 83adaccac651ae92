"""LeNet-300-100 (Frankle & Carbin 2019): the fully connected network under the name its literature uses."""

from ltx.models.mlp import Model

__all__ = ["Model"]
