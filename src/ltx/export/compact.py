"""Units of a masked network that cannot matter: which of them go, and the biases that take over what they gave."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ltx.export import plain
from ltx.symmetry.gauge import grouped
from ltx.symmetry.table import Table, Units, sizes
from ltx.tensors import Tensors

CLOSE = 1e-9  # how far outputs may move in float64, beside the largest of them
SAME = 1e-12  # how far apart two values of one constant may lie, beside it


def compacted(module: nn.Module, table: Table, x: Tensor) -> tuple[Tensors, int]:
    """Return what `plain.shrink` needs to remove the units that cannot matter, and how many these are.

    x: examples, on which it is seen what units give. Raises ValueError where the network, tried on them without these
    units, computes something else: it does with its units what its table does not say.
    """
    whole, x = copy.deepcopy(module).eval().double(), x.double()
    gone, biases = without_use(whole, table, x)
    tensors = {f"folded/{name}": bias for name, bias in biases.items()}
    norms = {layer: norm for norm, layer in table.norms.items()}
    for units, away in zip(table.units, gone, strict=True):
        if not away.any():
            continue
        for name in units.writers:
            tensors |= {f"rows/{part}": packed(~away) for part in (name, norms.get(name)) if part}
        for name in units.readers:
            inputs = whole.get_parameter(f"{name}.weight").shape[1]
            tensors[f"columns/{name}"] = packed(~away.repeat_interleave(inputs // len(away)))
    small = copy.deepcopy(whole)
    plain.shrink(small, tensors)
    with torch.no_grad():
        expected = whole(x)
        try:
            apart = (small(x) - expected).abs().max()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"its forward does not take fewer units ({error})") from error
    if not apart <= CLOSE * expected.abs().max():
        raise ValueError("its outputs change when units that nothing reads are removed")
    return tensors, sum(int(away.sum()) for away in gone)


def packed(mask: Tensor) -> Tensor:
    """Return booleans eight to a byte, the first in the highest bit, as `plain.bits` reads them."""
    flat = torch.zeros(-(-mask.numel() // 8) * 8, dtype=torch.uint8)
    flat[: mask.numel()] = mask.reshape(-1)
    return (flat.view(-1, 8) << torch.arange(7, -1, -1, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


@torch.no_grad()
def without_use(module: nn.Module, table: Table, x: Tensor) -> tuple[list[Tensor], Tensors]:
    """Tell of every set of units which can go, and return the biases that take over what these gave.

    A unit that no layer reads can go. One that reads nothing gives the same for every input: where that is 0, or where
    all layers that read it can take it into their biases, these need not read it. Both are repeated until nothing
    changes. The first unit of a set stays where all could go.
    """
    network, count = copy.deepcopy(module), sizes(module, table)
    values = constants(network, table, x)
    weights: Tensors = {name: network.get_parameter(f"{name}.weight") for name in {**table.writes, **table.reads}}
    taken = {name: torch.zeros(len(weights[name]), count[u], dtype=x.dtype) for name, u in table.reads.items()}
    gone = [torch.zeros(size, dtype=torch.bool) for size in count]
    changed = True
    while changed:
        changed = False
        for u, units in enumerate(table.units):
            unread = ~read(units, weights, count[u]) & ~gone[u]
            for name in units.writers:
                weights[name][unread] = 0
            gone[u] |= unread
            idle = read(units, weights, count[u]) & ~reading(units, weights)
            for name in units.readers:
                known = values[name].isfinite() if takes_over(network.get_submodule(name)) else values[name] == 0
                idle &= known
            for name in units.readers:
                blocks = grouped(weights[name], count[u])
                taken[name] += blocks.flatten(2).sum(2) * torch.where(idle, values[name], 0)
                blocks[:, idle] = 0
            changed = changed or bool((unread | idle).any())
    for away in gone:
        away[0] &= not away.all()
    biases, state = {}, network.state_dict()
    for name, u in table.reads.items():
        more = taken[name][:, gone[u]].sum(1)
        if more.any():
            biases[f"{name}.bias"] = more + state.get(f"{name}.bias", 0)
    return gone, biases


def read(units: Units, weights: Tensors, count: int) -> Tensor:
    """Tell which units of a set are read."""
    nonzero = [grouped(weights[name] != 0, count).transpose(0, 1) for name in units.readers]
    return torch.stack([links.flatten(1).any(1) for links in nonzero]).any(0)


def reading(units: Units, weights: Tensors) -> Tensor:
    """Tell which units of a set read anything themselves."""
    return torch.stack([(weights[name] != 0).flatten(1).any(1) for name in units.writers]).any(0)


def takes_over(layer: nn.Module) -> bool:
    """Tell whether a layer makes one number of a constant: a convolution that pads images with zeros does not."""
    return not isinstance(layer, nn.modules.conv._ConvNd) or layer.padding == "valid" or not any(layer.padding)


def constants(network: nn.Module, table: Table, x: Tensor) -> Tensors:
    """Return of every layer that reads units what each of them is in all examples, nan where it varies or is unknown.

    The layers see it before they weigh it, whatever stands between. That a unit is the same in all of these examples
    does not make it one that reads nothing.
    """
    count = sizes(network, table)
    found = {name: torch.full((count[u],), torch.nan, dtype=x.dtype) for name, u in table.reads.items()}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def seen(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            axis = -1 if isinstance(layer, nn.Linear) else 1
            units = inputs[0].movedim(axis, 0).unflatten(0, (len(found[name]), -1)).flatten(1)
            low, high = units.amin(1), units.amax(1)
            found[name] = torch.where(high - low <= SAME * units.abs().max(), low, torch.nan)

        return seen

    hooks = [network.get_submodule(name).register_forward_pre_hook(note(name)) for name in table.reads]
    network(x)
    for hook in hooks:
        hook.remove()
    return found
