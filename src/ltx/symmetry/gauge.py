"""What a network's symmetries leave free, and how it is fixed: folded norms, scales, permutations, dead units.

Tensors are the weights of a folded network by parameter name, with its `sign` buffers where it has some.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ltx.symmetry.table import Table, Units
from ltx.tensors import Tensors

SWEEPS, CLOSE = 20_000, 1e-13  # of `balanced`: the most sweeps, and the largest relative step of the last one


class Signs(nn.Module):
    """Multiply every channel by its sign, +1 or -1: what is left of a norm behind a max-pool."""

    sign: Tensor

    def __init__(self, sign: Tensor):
        super().__init__()
        self.register_buffer("sign", sign)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sign.view(-1, *[1] * (x.ndim - 2))


def folded(module: nn.Module, table: Table, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy in eval mode whose layers do what their norms did, each with a bias; the norms are identities.

    max(-z) is not -max(z), so that behind a max-pool a negative factor stays where it was: see `Signs`.
    """
    memo: dict[int, nn.Module] = {}  # deepcopy puts these in the place of the old ones wherever the module holds them
    for name, layer in table.norms.items():
        before, norm = module.get_submodule(layer), module.get_submodule(name)
        memo[id(before)], memo[id(norm)] = fold(before, norm, name in table.pooled, dtype)
    made = copy.deepcopy(module, memo).eval()
    return made if dtype is None else made.to(dtype)


def fold(layer: nn.Module, norm: nn.Module, pooled: bool, dtype: torch.dtype | None) -> tuple[nn.Module, nn.Module]:
    """Return a layer that includes its norm, computed in float64, and what stands in the norm's place."""
    own = {name: tensor.detach().double() for name, tensor in norm.state_dict().items()}
    factor = own.get("weight", 1.0) / (own["running_var"] + norm.eps).sqrt()
    made = copy.deepcopy(layer)
    weight, bias = layer.weight.detach(), layer.bias  # type: ignore[union-attr,operator]
    shift = own.get("bias", 0.0) - factor * own["running_mean"]
    shift = shift if bias is None else shift + factor * bias.detach().double()  # type: ignore[operator]
    sign = torch.where(factor < 0, -1.0, 1.0).double() if pooled else torch.ones_like(factor)
    kind = dtype or weight.dtype
    made.weight = nn.Parameter((weight.double() * across(factor * sign, weight, 0)).to(kind))
    made.bias = nn.Parameter((shift * sign).to(kind))
    return made, Signs(sign.to(kind)) if (sign < 0).any() else nn.Identity()


def across(values: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """Return one value per unit in a shape that multiplies along an axis of a tensor."""
    return values.to(tensor.device).view(-1, *[1] * (tensor.ndim - axis - 1))


def written(units: Units, table: Table, tensors: Mapping[str, Tensor]) -> list[str]:
    """Name the tensors there are that have one row per unit: of the writers and of norms on them."""
    norms = [name for name, layer in table.norms.items() if layer in units.writers]
    names = [f"{layer}.{leaf}" for layer in units.writers for leaf in ("weight", "bias")]
    names += [f"{norm}.{leaf}" for norm in norms for leaf in ("weight", "bias", "running_mean", "running_var", "sign")]
    return [name for name in names if name in tensors]


def read(units: Units, tensors: Mapping[str, Tensor]) -> list[str]:
    """Name the weights there are that have columns for the units."""
    return [f"{layer}.weight" for layer in units.readers if f"{layer}.weight" in tensors]


def grouped(weight: Tensor, units: int) -> Tensor:
    """Return a reader's weight as (outputs, units, block, *kernel), one block of inputs per unit."""
    return weight.unflatten(1, (units, -1))


def permuted(tensors: Mapping[str, Tensor], table: Table, orders: Sequence[Tensor]) -> Tensors:
    """Return tensors whose unit i is the old unit orders[u][i], of every set u.

    The tensors may be of a network that is not folded: its norms and their statistics move too. They may be a mask.
    Names of the table that they lack are skipped.
    """
    made = dict(tensors)
    for units, order in zip(table.units, orders, strict=True):
        for name in written(units, table, made):
            made[name] = made[name][order.to(made[name].device)]
        for name in read(units, made):
            made[name] = grouped(made[name], len(order))[:, order.to(made[name].device)].flatten(1, 2)
    return made


def rescaled(tensors: Mapping[str, Tensor], table: Table, scales: Sequence[Tensor]) -> Tensors:
    """Return weights whose units are scales[u] > 0 times the old ones; readers divide by that. Masks stay as they are.

    Sets without `rescales` are left as they are, whatever their scales.
    """
    made = dict(tensors)
    for units, scale in zip(table.units, scales, strict=True):
        if units.rescales:
            made = multiplied(made, units, scale, 1 / scale)
    return made


def multiplied(tensors: Tensors, units: Units, rows: Tensor, columns: Tensor) -> Tensors:
    """Return weights with the rows of writers and the columns of readers times a number per unit."""
    made = dict(tensors)
    for name in [f"{layer}.{leaf}" for layer in units.writers for leaf in ("weight", "bias")]:
        if name in made:
            made[name] = (made[name] * across(rows, made[name], 0)).to(made[name].dtype)
    for name in read(units, made):
        blocks = grouped(made[name], len(columns))
        made[name] = (blocks * across(columns, blocks, 1)).flatten(1, 2).to(made[name].dtype)
    return made


def counts(tensors: Mapping[str, Tensor], table: Table) -> list[int]:
    """Return how many units each set has."""
    return [len(tensors[f"{units.writers[0]}.weight"]) for units in table.units]


def squares(tensors: Mapping[str, Tensor], table: Table) -> tuple[Tensors, Tensors]:
    """Return of every layer its squared weights by output and unit, and its squared biases by output, in float64.

    A layer that reads no set has one column.
    """
    reads, sizes = table.reads, counts(tensors, table)
    weights, biases = {}, {}
    for layer in {**table.writes, **reads}:
        weight = tensors[f"{layer}.weight"].double()
        blocks = grouped(weight, sizes[reads[layer]] if layer in reads else 1)
        weights[layer] = blocks.flatten(2).square().sum(2)
        bias = tensors.get(f"{layer}.bias")
        biases[layer] = weight.new_zeros(len(weight)) if bias is None else bias.double().square()
    return weights, biases


def dead(tensors: Mapping[str, Tensor], table: Table) -> list[Tensor]:
    """Tell of every set which units can never matter: nothing reaches them, or they reach no output.

    Something reaches a unit that has a positive bias, or a weight from an input or from a unit that something reaches.
    A unit of a residual stage is reached through any of its writers and reaches an output through any of its readers.
    Without `rescales` a unit counts as reached, for what an activation makes of 0 may matter.
    """
    links = {layer: weight != 0 for layer, weight in squares(tensors, table)[0].items()}
    reads, writes, sizes = table.reads, table.writes, counts(tensors, table)
    signs = {layer: tensors[f"{norm}.sign"] for norm, layer in table.norms.items() if f"{norm}.sign" in tensors}
    first = next(iter(links.values()))
    reached, reaching = ([first.new_zeros(size) for size in sizes] for _ in range(2))
    for u, units in enumerate(table.units):
        reached[u] |= torch.tensor(not units.rescales, device=first.device)
        for layer in units.writers:
            if (bias := tensors.get(f"{layer}.bias")) is not None:
                reached[u] = reached[u] | (bias * signs.get(layer, 1.0) > 0)
    while True:
        before = sum(int(alive.sum()) for alive in (*reached, *reaching))
        for layer, u in writes.items():
            v = reads.get(layer)
            reached[u] = reached[u] | (links[layer] if v is None else links[layer] & reached[v]).any(1)
        for layer, u in reversed(reads.items()):
            v = writes.get(layer)
            reaching[u] = reaching[u] | (links[layer] if v is None else links[layer] & reaching[v][:, None]).any(0)
        if before == sum(int(alive.sum()) for alive in (*reached, *reaching)):
            return [~(one & other) for one, other in zip(reached, reaching, strict=True)]


def without_dead(tensors: Mapping[str, Tensor], table: Table) -> tuple[Tensors, int]:
    """Return weights with those of dead units set to 0, and how many such units there are."""
    gone = dead(tensors, table)
    return cleared(tensors, table, gone), sum(int(units.sum()) for units in gone)


def cleared(tensors: Mapping[str, Tensor], table: Table, gone: Sequence[Tensor]) -> Tensors:
    """Return weights with all weights and biases of the units that are gone set to 0."""
    made = dict(tensors)
    for units, away in zip(table.units, gone, strict=True):
        made = multiplied(made, units, (~away).double(), (~away).double())
    return made


def unit_norm(tensors: Mapping[str, Tensor], table: Table) -> Tensors:
    """Return the weights in gauge C1: every unit's incoming weights and bias have norm 1; the output takes the scale.

    A unit with several writers is normalised by the first of them alone: that all of them have norm 1 may have no
    solution. Dead units are left, as is a unit whose first writer has nothing for it.
    """
    gone = dead(tensors, table)
    live, made = cleared(tensors, table, gone), dict(tensors)
    for units in table.units:
        if units.rescales:
            first = units.writers[0]
            rows = [live[name] for name in (f"{first}.weight", f"{first}.bias") if name in live]
            norm = torch.cat([part.double().reshape(len(part), -1) for part in rows], 1).norm(dim=1)
            scale = torch.where(norm > 0, 1 / norm, 1.0)
            live, made = multiplied(live, units, scale, 1 / scale), multiplied(made, units, scale, 1 / scale)
    return made


def balanced(tensors: Mapping[str, Tensor], table: Table) -> Tensors:
    """Return the weights in gauge C2: those of the least L2 norm, where every unit has as much coming in as going out.

    The minimum is unique, because the squared norm is strictly convex in the logs of the scales of live units. Dead
    units are left. Raises ValueError where the scales have not settled.
    """
    gone = dead(tensors, table)
    weights, biases = squares(cleared(tensors, table, gone), table)
    reads, writes = table.reads, table.writes
    scales = [torch.ones_like(units, dtype=torch.float64) for units in gone]  # squared
    free = [u for u, units in enumerate(table.units) if units.rescales]
    for sweep in range(SWEEPS):
        farthest = 0.0
        for u in free if sweep % 2 else reversed(free):
            units = table.units[u]
            coming, going = torch.zeros_like(scales[u]), torch.zeros_like(scales[u])
            for layer in units.writers:
                v = reads.get(layer)
                coming += biases[layer] + (weights[layer].sum(1) if v is None else weights[layer] @ (1 / scales[v]))
            for layer in units.readers:
                v = writes.get(layer)
                going += weights[layer].sum(0) if v is None else scales[v] @ weights[layer]
            best = torch.where(gone[u], 1.0, (going / coming).sqrt())
            farthest = max(farthest, float((best / scales[u] - 1).abs().max()))
            scales[u] = best
        if farthest < CLOSE:
            return rescaled(tensors, table, [scale.sqrt() for scale in scales])
    raise ValueError(
        f"the scales still change by {farthest:.0e} after {SWEEPS} sweeps; take weights of less different magnitudes"
    )
