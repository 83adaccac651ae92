"""Multi-prize tickets by biprop (Diffenderfer & Kailkhura 2021): masked binary weights, searched by scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ltx.masks import straight_through, top
from ltx.methods.search import Search, absolute
from ltx.tensors import Tensors


@dataclass(frozen=True)
class Method(Search):
    """See sign(w) * alpha * mask in place of w, alpha = mean |w| over the layer's kept weights.

    alpha is a constant in the backward: dL/ds = dL/dw * w * sign(s). sign(0) = +1. With model.activation=sign this is
    MPT-1/1, otherwise MPT-1/32; with model.affine=true and train_norms it is "+BN".
    """

    def effective(
        self, weights: Tensors, scores: Tensors, gate: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        soft = absolute(scores)
        hard = top(soft, self.kept(soft, done))
        return weights | {
            name: straight_through(binarised(weights[name], hard[name]), weights[name].detach() * soft[name])
            for name in soft
        }

    def value_bits(self, kept: int, width: int) -> int:
        """Return one bit, the sign, for each kept value, and 32 for alpha."""
        return kept + 32


def binarised(weight: Tensor, mask: Tensor) -> Tensor:
    """Return sign(w) * alpha * mask: exactly the values -alpha, 0 and alpha; a mask that keeps nothing gives zeros."""
    alpha = (weight.abs() * mask).sum() / mask.sum().clamp(min=1)
    return torch.where(weight >= 0, alpha, -alpha) * mask
