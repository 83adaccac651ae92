"""WideResNet-50-2, a ResNet-50 whose 3x3 convolutions have twice the channels (Zagoruyko & Komodakis 2016)."""

from ltx.models.resnet import Model

__all__ = ["Model"]
