"""The symmetries of feed-forward networks: what can be done to their weights without changing what they compute."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ltx.symmetry.gauge import folded, permuted, rescaled
from ltx.symmetry.table import Table, Units, chain, check, order, sizes, table_of

__all__ = ["Table", "Units", "chain", "order", "sizes", "table_of", "verify"]


def verify(module: nn.Module, table: Table, x: Tensor, rng: np.random.Generator) -> None:
    """Raise ValueError where a permutation or a rescaling of some set of units changes what the module makes of x.

    A copy is asked, in eval mode and float64. The norms keep their statistics, so that a network with those of its
    first step tells nothing of norms. Every set is permuted alone in a cycle through all its units, and rescaled alone
    after the norms are folded; outputs agree to 1e-5 of the largest one.
    """
    check(module, table)
    plain, whole = copy.deepcopy(module).eval().double(), folded(module, table, torch.float64)
    x = x.double()
    count = sizes(module, table)
    with torch.no_grad():
        expected = plain(x)

        def changes(network: nn.Module, tensors: dict[str, Tensor]) -> bool:
            apart = (functional_call(network, tensors, (x,)) - expected).abs().max()
            return not apart <= 1e-5 * expected.abs().max()  # true also of NaN

        if changes(whole, whole.state_dict()):
            raise ValueError(
                f"the norms {', '.join(table.norms)} cannot be folded: the outputs change; name for each the layer "
                "whose outputs it normalises, and in `pooled` those that a max-pool separates from it"
            )
        for u, units in enumerate(table.units):
            first = units.writers[0]
            orders = [torch.arange(size) for size in count]
            cycle = rng.permutation(count[u])
            orders[u][torch.from_numpy(cycle)] = torch.from_numpy(np.roll(cycle, 1))
            if changes(plain, permuted(plain.state_dict(), table, orders)):
                raise ValueError(
                    f"the outputs change with the order of the units of '{first}'; name all layers that write them, "
                    "all that read them, and the norms on them"
                )
            scales = [torch.ones(size, dtype=torch.float64) for size in count]
            scales[u] = torch.from_numpy(np.exp(rng.uniform(-1, 1, count[u])))
            if units.rescales and changes(whole, rescaled(whole.state_dict(), table, scales)):
                raise ValueError(
                    f"the outputs change with the scale of the units of '{first}'; say rescales=False where anything "
                    "but a ReLU stands between them and what reads them"
                )
