"""Which units of two networks belong together, by their weights or by what they compute."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ltx.symmetry.gauge import counts, grouped, read
from ltx.symmetry.table import Table

GAIN = 1e-10  # of the product of both norms: the least that a step has to gain


def weight_matching(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], table: Table, rng: np.random.Generator, restarts: int = 3
) -> list[Tensor]:
    """Return orders of `other` under which its weights have a large inner product with those of `one`.

    Coordinate ascent over the sets of units (Ainsworth et al. 2023, algorithm 1) from the identity and from `restarts`
    random orders; the best end is returned, which is never below the identity. Scales count: give both in gauge C2.
    """
    pair = Pair(one, other, table)
    starts = [[np.arange(size) for size in pair.sizes]]
    starts += [[rng.permutation(size) for size in pair.sizes] for _ in range(restarts)]
    ends = [pair.ascended(start, rng) for start in starts]
    best = max(ends, key=pair.objective)  # the first of equals
    return [torch.from_numpy(order) for order in best]


class Pair:
    """Hold two networks as matrices, and the part of every set's inner products that no other set's order changes."""

    def __init__(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor], table: Table):
        self.table, self.reads, self.writes = table, table.reads, table.writes
        self.sizes = counts(one, table)
        self.layers = {name: (self.blocks(one, name), self.blocks(other, name)) for name in self.writes | self.reads}
        self.own = [np.zeros((size, size)) for size in self.sizes]
        for name, u in self.writes.items():
            if f"{name}.bias" in one:
                biases = (tensors[f"{name}.bias"].detach().double().cpu().numpy() for tensors in (one, other))
                self.own[u] += np.outer(*biases)
            if name not in self.reads:
                self.own[u] += rows(*self.layers[name])
        for name, u in self.reads.items():
            if name not in self.writes:
                self.own[u] += columns(*self.layers[name])
        self.coupled = [bool({*units.writers} & {*units.readers}) for units in table.units]
        norms = [np.sqrt(sum(np.square(layer[i]).sum() for layer in self.layers.values())) for i in (0, 1)]
        self.least = GAIN * norms[0] * norms[1]

    def blocks(self, tensors: Mapping[str, Tensor], name: str) -> np.ndarray:
        """Return a layer's weight as (outputs, units that it reads, block and kernel)."""
        units = self.sizes[self.reads[name]] if name in self.reads else 1
        weight = tensors[f"{name}.weight"].detach().double().cpu()
        return grouped(weight, units).flatten(2).contiguous().numpy()

    def products(self, u: int, orders: Sequence[np.ndarray]) -> np.ndarray:
        """Return the inner products of one's unit i and other's unit j of a set, the other sets ordered as given."""
        total = self.own[u].copy()
        for name in self.table.units[u].writers:
            if name in self.reads:
                one, other = self.layers[name]
                total += rows(one, other[:, orders[self.reads[name]]])
        for name in self.table.units[u].readers:
            if name in self.writes:
                one, other = self.layers[name]
                total += columns(one, other[orders[self.writes[name]]])
        return total

    def objective(self, orders: Sequence[np.ndarray]) -> float:
        """Return the inner product of one and the ordered other, over all layers and the biases of hidden units."""
        total = 0.0
        for name, (one, other) in self.layers.items():
            if name in self.reads and name in self.writes:
                other = other[:, orders[self.reads[name]]]
                total += float(np.vdot(one, other[orders[self.writes[name]]]))
        for own, order in zip(self.own, orders, strict=True):
            total += float(own[np.arange(len(order)), order].sum())
        return total

    def ascended(self, start: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Return the orders from which no set's best assignment gains anything."""
        orders, moved = list(start), True
        while moved:
            moved = False
            for u in rng.permutation(len(orders)):
                products = self.products(u, orders)
                units, best = np.arange(len(products)), assigned(products)
                gain = float((products[units, best] - products[units, orders[u]]).sum())
                if self.coupled[u]:  # products hold this set's own order too: the gain is no more than a direction
                    gain = self.objective([*orders[:u], best, *orders[u + 1 :]]) - self.objective(orders)
                if gain > self.least:
                    orders[u], moved = best, True
        return orders


def assigned(gains: np.ndarray) -> np.ndarray:
    """Return which column every row gets so that the sum of gains is largest, each column once."""
    from scipy.optimize import linear_sum_assignment  # takes half a second, which most commands need not wait for

    return linear_sum_assignment(gains, maximize=True)[1]  # type: ignore[no-any-return]


def rows(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the inner products of every row of one with every row of other."""
    return one.reshape(len(one), -1) @ other.reshape(len(other), -1).T


def columns(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the inner products of every unit's columns of one with every unit's columns of other."""
    return rows(np.swapaxes(one, 0, 1), np.swapaxes(other, 0, 1))


def activations(module: nn.Module, table: Table, x: Tensor) -> list[Tensor]:
    """Return what the first reader of every set is given, as (examples x pixels, units).

    A copy is asked, in eval mode, so that the module keeps its statistics and has no hooks.
    """
    asked = copy.deepcopy(module).eval()
    found: dict[int, Tensor] = {}
    for u, units in enumerate(table.units):
        count = len(asked.get_submodule(units.writers[0]).weight)  # type: ignore[arg-type]

        def keep(layer: nn.Module, inputs: tuple[Tensor, ...], u: int = u, count: int = count) -> None:
            given = inputs[0] if isinstance(layer, nn.Linear) else inputs[0].movedim(1, -1)
            found[u] = given.unflatten(-1, (count, -1)).movedim(-2, -1).flatten(0, -2)

        asked.get_submodule(units.readers[0]).register_forward_pre_hook(keep)
    with torch.no_grad():
        asked(x)
    return [found[u] for u in range(len(table.units))]


def activation_matching(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
    """Return orders of other's units under which the activations of both correlate most, summed over a set's units.

    Activations are those of the same examples, as `activations` returns them; a constant unit correlates 0.
    """
    found = []
    for first, second in zip(one, other, strict=True):
        correlations = standard(first).T @ standard(second) / len(first)
        found.append(torch.from_numpy(assigned(correlations.cpu().numpy())))
    return found


def standard(values: Tensor) -> Tensor:
    """Return columns of mean 0 and variance 1 in float64; a constant column becomes 0."""
    values = values.double()
    centred = values - values.mean(0)
    sd = centred.square().mean(0).sqrt()
    return torch.where(sd > 1e-10 * values.abs().amax(0), centred / sd, 0.0)


def cosines(one: Mapping[str, Tensor], other: Mapping[str, Tensor], table: Table) -> list[Tensor]:
    """Return of every unit the cosine between all its weights, incoming, bias and outgoing, in two networks as given.

    It is 0 where a unit has no weights in one of them.
    """
    found = []
    for u in range(len(table.units)):
        first, second = (all_weights(tensors, table, u) for tensors in (one, other))
        norms = first.norm(dim=1) * second.norm(dim=1)
        found.append(torch.where(norms > 0, (first * second).sum(1) / norms, 0.0))
    return found


def all_weights(tensors: Mapping[str, Tensor], table: Table, u: int) -> Tensor:
    """Return (units, weights): what comes into every unit of a set, its biases, and what goes out."""
    units, size = table.units[u], counts(tensors, table)[u]
    names = [f"{layer}.{leaf}" for layer in units.writers for leaf in ("weight", "bias")]
    parts = [tensors[name].reshape(size, -1) for name in names if name in tensors]
    parts += [grouped(tensors[name], size).movedim(1, 0).flatten(1) for name in read(units, tensors)]
    return torch.cat([part.double() for part in parts], 1)


def fixed(orders: Sequence[Tensor]) -> float:
    """Return the share of all units that orders leave in their places."""
    kept = sum(int((order == torch.arange(len(order), device=order.device)).sum()) for order in orders)
    return kept / sum(len(order) for order in orders)
