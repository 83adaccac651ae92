"""VGG-Small, the network of binary networks on CIFAR-10 (Diffenderfer & Kailkhura 2021)."""

from ltx.models.conv import Model

__all__ = ["Model"]
