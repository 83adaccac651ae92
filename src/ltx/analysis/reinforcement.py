"""Whether training reinforces a ticket or dampens it: what ticket and complement contribute, and where updates go."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ltx.tensors import Tensors


def shapley(everything: float, ticket: float, complement: float, nothing: float) -> tuple[float, float]:
    """Return the Shapley values of ticket and complement, two players of any score (Shapley 1953).

    The arguments are the scores with both, with one of them alone, and with neither. Each value is the mean of what a
    player adds to nothing and to the other player; the two sum to everything - nothing.
    """
    return (ticket - nothing + everything - complement) / 2, (complement - nothing + everything - ticket) / 2


def update_share(mask: Mapping[str, Tensor], begin: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> float:
    """Return the share of the squared norm of end - begin that lies within the mask, over the mask's parameters.

    It is nan where nothing has moved. A random mask has its density as the expected share.
    """
    squares = {name: (end[name].double() - begin[name].double()).square() for name in mask}
    everything = math.fsum(float(square.sum()) for square in squares.values())
    inside = math.fsum(float(square[mask[name]].sum()) for name, square in squares.items())
    return inside / everything if everything else math.nan


def gated(weights: Mapping[str, Tensor], mask: Mapping[str, Tensor], beta: float) -> Tensors:
    """Return the weights with those outside of the mask times beta; parameters without a mask stay as they are.

    At beta 1 it is the whole network, at 0 the ticket alone.
    """
    return {
        name: torch.where(mask[name], tensor, beta * tensor) if name in mask else tensor
        for name, tensor in weights.items()
    }
