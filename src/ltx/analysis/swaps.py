"""Populations of random masks of one network, moved by swaps among the masks that reach a threshold of quality.

A swap exchanges as many kept as pruned weights of one layer, so that every layer keeps its count. Swaps that are drawn
without a look at the mask lead from any mask to another as likely as back; taking those alone that stay at or above a
threshold leaves the uniform law over all masks that reach it as it is (Metropolis et al. 1953).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ltx.analysis.quality import Examples, fitting, inverse_temperature, logits, quality, score, subsets
from ltx.tensors import Tensors

Draws = Callable[..., np.random.Generator]  # the generator of a purpose, which one or more words name
SPARSE = 12  # where fewer weights than one in so many change, adding their effects beats a product of whole matrices


@dataclass(frozen=True)
class Population:
    """N masks with what is known of each, and the temperatures that the next ones are looked for from.

    masks: by layer, packed into bits, uint8 (N, bytes). quality, inverse_temperature: float64 (N), as in `Quality`.
    roots: the place (N) that a mask's earliest ancestor had in the first population.
    """

    masks: dict[str, np.ndarray]
    quality: np.ndarray
    inverse_temperature: np.ndarray
    roots: np.ndarray

    def __len__(self) -> int:
        return len(self.quality)

    def at(self, places: np.ndarray) -> Population:
        """Return the masks of some places, which may come more than once."""
        masks = {name: packed[places] for name, packed in self.masks.items()}
        return Population(masks, self.quality[places], self.inverse_temperature[places], self.roots[places])

    def unpacked(self, shapes: Mapping[str, torch.Size], first: int, last: int) -> Tensors:
        """Return the masks of places first to last - 1 as bools (masks, *shape) by layer."""
        return {name: unpack(packed[first:last], shapes[name]) for name, packed in self.masks.items()}


@dataclass(frozen=True)
class Swaps:
    """How a population moves: `counts` says of each layer how many weights are exchanged at once.

    The layers that have a count above zero take turns, from the one at `first` on.
    """

    counts: dict[str, int]
    sweeps: int
    first: int = 0

    def layers(self) -> list[str]:
        """Return the layer of every sweep."""
        names = [name for name, count in self.counts.items() if count]
        return [names[(self.first + sweep) % len(names)] for sweep in range(self.sweeps)]


@dataclass(frozen=True)
class Moved:
    """A population after its sweeps.

    accepted: the share of proposed swaps that were taken, by layer. mixing: the share of its kept weights that a mask
    has exchanged, divided by that of two independent masks, of the layer where that is least. best, mask: the highest
    quality of any mask on the way, and that mask by layer; minus infinity and nothing of an empty population.
    """

    population: Population
    accepted: dict[str, float]
    mixing: float
    best: float
    mask: Tensors


def unpack(packed: np.ndarray, shape: torch.Size) -> Tensor:
    """Return packed masks as bools (masks, *shape)."""
    bits = np.unpackbits(packed, axis=1, count=shape.numel()).astype(bool)
    return torch.from_numpy(bits).reshape(len(packed), *shape)


def pack(masks: np.ndarray | Tensor) -> np.ndarray:
    """Return masks (masks, ...) as bits, uint8 (masks, bytes)."""
    return np.packbits(np.asarray(masks).reshape(len(masks), -1), axis=1)


def first(
    weights: Mapping[str, Tensor], kept: Mapping[str, int], examples: Examples, size: int, draws: Draws
) -> Population:
    """Return a population of random masks that keep exactly kept[name] weights in each layer, all equally likely."""
    at_once = fitting(weights, examples)
    rngs = {name: draws("first", name) for name in weights}
    packed: dict[str, list[np.ndarray]] = {name: [] for name in weights}
    parts = []
    for start in range(0, size, at_once):
        count = min(at_once, size - start)
        flat = {name: subsets(count, weight.numel(), kept[name], rngs[name]) for name, weight in weights.items()}
        masks = {name: m.reshape(count, *weights[name].shape) for name, m in flat.items()}
        parts.append(quality(weights, masks, examples, at_once))
        for name, mask in flat.items():
            packed[name].append(pack(mask))
    return Population(
        {name: np.concatenate(pieces) for name, pieces in packed.items()},
        np.concatenate([part.quality for part in parts]),
        np.concatenate([part.inverse_temperature for part in parts]),
        np.arange(size),
    )


@torch.no_grad()
def quality_elsewhere(weights: Mapping[str, Tensor], population: Population, x: Tensor, y: Tensor) -> np.ndarray:
    """Return the quality (N) of each mask on other examples, at the temperature that it has."""
    shapes = {name: weight.shape for name, weight in weights.items()}
    at_once = fitting(weights, Examples(x, y, 1))
    beta = torch.from_numpy(population.inverse_temperature).to(x.device)
    found = []
    for start in range(0, len(population), at_once):
        masks = population.unpacked(shapes, start, start + at_once)
        z = logits(weights, {name: mask.to(x.device) for name, mask in masks.items()}, x)
        found.append(score(z, y, beta[start : start + at_once]).cpu().numpy())
    return np.concatenate(found) if found else np.empty(0)


def move(
    weights: Mapping[str, Tensor],
    population: Population,
    threshold: float,
    examples: Examples,
    swaps: Swaps,
    draws: Draws,
    at_once: int | None = None,
) -> Moved:
    """Propose a swap to every mask in each sweep, and take those whose quality is at least the threshold.

    The kept weights of a mask are shuffled first, and so are the pruned ones. A proposal exchanges some in a row of the
    ones with as many in a row of the others, from places that are drawn: exchanging places of a random order is
    symmetric. at_once: masks of a chunk, as many as memory bounds unless given; what is drawn does not depend on it.
    """
    shapes = {name: weight.shape for name, weight in weights.items()}
    at_once = at_once or fitting(weights, examples)
    layers = swaps.layers()
    rngs = {(name, part): draws(part, name) for name in weights for part in ("kept", "pruned")}
    size = len(population)
    places = draws("places").random((swaps.sweeps, 2, size))
    accepted = dict.fromkeys(layers, 0)
    replaced = dict.fromkeys(accepted, 0.0)
    ends, qualities, betas, best, mask = [], [], [], -math.inf, {}
    for start in range(0, size, at_once):
        masks = population.unpacked(shapes, start, start + at_once)
        own = slice(start, start + at_once)
        chunk = Chunk(weights, masks, population.quality[own], population.inverse_temperature[own], examples, rngs)
        for sweep, name in enumerate(layers):
            taken = chunk.sweep(name, swaps.counts[name], threshold, places[sweep, :, own])
            accepted[name] += int(taken.sum())
            if taken.any() and chunk.quality[taken].max() > best:
                place = int(np.where(taken, chunk.quality, -math.inf).argmax())
                best, mask = float(chunk.quality[place]), chunk.mask(place)
        after = {name: chunk.masks(name) for name in weights}
        for name in replaced:
            replaced[name] += float((masks[name] & ~after[name]).sum())
        ends.append({name: pack(found) for name, found in after.items()})
        qualities.append(chunk.quality)
        betas.append(chunk.beta.cpu().numpy())
    if not size:
        return Moved(population, dict.fromkeys(accepted, math.nan), math.nan, best, mask)
    end = replace(
        population,
        masks={name: np.concatenate([part[name] for part in ends]) for name in weights},
        quality=np.concatenate(qualities),
        inverse_temperature=np.concatenate(betas),
    )
    kept = {name: int(masks[name][0].sum()) for name in replaced}
    apart = {name: k * (1 - k / shapes[name].numel()) for name, k in kept.items()}
    mixing = min(replaced[name] / size / apart[name] for name in replaced)
    return Moved(end, {name: n / size / layers.count(name) for name, n in accepted.items()}, mixing, best, mask)


class Chunk:
    """Some masks while they move, with what goes into each layer and comes out of it, and where their weights are.

    inputs, outputs: of each layer, (masks, units, N), the inputs after the ReLU and the outputs before it; into the
    first layer go the examples (units, N), the same for all masks. order: of each layer, the kept and the pruned
    weights (masks, n) in random order.
    """

    @torch.no_grad()
    def __init__(
        self,
        weights: Mapping[str, Tensor],
        masks: Tensors,
        quality: np.ndarray,
        beta: np.ndarray,
        examples: Examples,
        rngs: Mapping[tuple[str, str], np.random.Generator],
    ):
        self.names, self.shapes = [*weights], {name: weight.shape for name, weight in weights.items()}
        self.examples, self.device = examples, examples.x.device
        self.quality, self.beta = quality.copy(), torch.from_numpy(beta).to(self.device)
        self.order: dict[tuple[str, str], np.ndarray] = {}
        self.scaled: Tensors = {}
        self.effective: Tensors = {}
        for name, weight in weights.items():
            flat = masks[name].flatten(1).numpy()
            count = int(flat[0].sum())
            for part, chosen in (("kept", flat), ("pruned", ~flat)):
                found = np.nonzero(chosen)[1].reshape(len(flat), -1)
                self.order[name, part] = rngs[name, part].permuted(found, axis=1)
            self.scaled[name] = weight.float() * math.sqrt(weight.numel() / max(count, 1))
            self.effective[name] = masks[name].to(self.device) * self.scaled[name]
        first = self.names[0]
        self.inputs = {first: examples.x.T.contiguous()}
        self.outputs = {first: self.product(first, self.effective[first])}
        inputs, outputs = self.after(first, self.outputs[first])
        self.inputs |= inputs
        self.outputs |= outputs

    def product(self, name: str, effective: Tensor) -> Tensor:
        """Return what comes out of a layer with these weights (masks, out, in)."""
        x = self.inputs[name]
        if x.ndim == 2:  # all masks see the same examples, so that the first layer is one product
            return (effective.flatten(0, 1) @ x).unflatten(0, effective.shape[:2])
        return torch.bmm(effective, x)

    def after(self, name: str, output: Tensor) -> tuple[Tensors, Tensors]:
        """Return what goes into the layers after one, and what comes out of them, once `output` comes out of that."""
        inputs, outputs = {}, {}
        for later in self.names[self.names.index(name) + 1 :]:
            inputs[later] = output.relu()
            outputs[later] = output = torch.bmm(self.effective[later], inputs[later])
        return inputs, outputs

    @torch.no_grad()
    def sweep(self, name: str, count: int, threshold: float, places: np.ndarray) -> np.ndarray:
        """Propose to each mask to exchange `count` weights of a layer, and return which (masks) took it.

        places (2, masks): where the kept and the pruned ones begin, as shares of how many there are.
        """
        parts = ("kept", "pruned")
        runs = [in_a_row(self.order[name, part], at, count) for part, at in zip(parts, places, strict=True)]
        out, into = (np.take_along_axis(self.order[name, p], run, 1) for p, run in zip(parts, runs, strict=True))
        taken_out, put_in = (torch.from_numpy(weights).to(self.device) for weights in (out, into))
        values = self.scaled[name].flatten()
        effective = self.effective[name].flatten(1).scatter(1, taken_out, 0.0)
        effective = effective.scatter_(1, put_in, values[put_in]).view_as(self.effective[name])
        if 2 * count * SPARSE < values.numel():
            by = torch.cat([-values[taken_out], values[put_in]], 1)
            output = self.changed(name, torch.cat([taken_out, put_in], 1), by)
        else:
            output = self.product(name, effective)
        inputs, outputs = self.after(name, output)
        outputs[name] = output
        found, beta = self.judged(outputs[self.names[-1]])
        taken = found >= threshold
        chosen = torch.from_numpy(taken).to(self.device)
        self.quality = np.where(taken, found, self.quality)
        self.beta = torch.where(chosen, beta, self.beta)
        for present, new in ((self.inputs, inputs), (self.outputs, outputs), (self.effective, {name: effective})):
            for layer, tensor in new.items():
                present[layer][chosen] = tensor[chosen]
        for part, run, other in zip(parts, runs, (into, out), strict=True):
            order = self.order[name, part][taken]
            np.put_along_axis(order, run[taken], other[taken], 1)
            self.order[name, part][taken] = order
        return taken

    def changed(self, name: str, where: Tensor, by: Tensor) -> Tensor:
        """Return what comes out of a layer once the weights at `where` (masks, n), counted through it, change `by`."""
        x, (units, width) = self.inputs[name], self.shapes[name]
        masks = torch.arange(len(where), device=self.device)[:, None]
        rows, columns = where // width + units * masks, where % width
        if x.ndim == 3:  # each mask has inputs of its own, which stand below one another
            columns, x = columns + width * masks, x.flatten(0, 1)
        index, shape = torch.stack([rows.flatten(), columns.flatten()]), (units * len(where), len(x))
        change = torch.sparse_coo_tensor(index, by.flatten(), shape, check_invariants=False)
        return torch.sparse.addmm(self.outputs[name].flatten(0, 1), change, x).view_as(self.outputs[name])

    def judged(self, z: Tensor) -> tuple[np.ndarray, Tensor]:
        """Return the qualities of logits (masks, classes, N), and the temperatures, found from the present ones."""
        cut, y = self.examples.fitted, self.examples.y
        beta = inverse_temperature(z[..., :cut], y[:cut], self.beta)
        return score(z[..., cut:], y[cut:], beta).cpu().numpy(), beta

    def masks(self, name: str) -> Tensor:
        """Return the present masks of a layer, bool (masks, *shape)."""
        kept, shape = self.order[name, "kept"], self.shapes[name]
        flat = np.zeros((len(kept), shape.numel()), dtype=bool)
        np.put_along_axis(flat, kept, True, 1)
        return torch.from_numpy(flat).reshape(len(kept), *shape)

    def mask(self, place: int) -> Tensors:
        """Return one present mask by layer."""
        return {name: self.masks(name)[place] for name in self.names}


def in_a_row(order: np.ndarray, at: np.ndarray, count: int) -> np.ndarray:
    """Return `count` places in a row (masks, count) of each of the orders (masks, n), from a share of it on.

    What runs over the end goes on at the beginning.
    """
    n = order.shape[1]
    return ((at * n).astype(np.int64)[:, None] + np.arange(count)) % n
