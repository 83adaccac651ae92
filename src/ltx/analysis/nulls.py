"""What two masks would share by chance: nulls that keep a layer's count, its sizes at the start, or its degrees.

Each null answers with the law of the shared count in every layer; `overlap.together` makes one of them, since layers
are drawn independently, and `overlap.against` holds an overlap against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.special import gammaln, ndtr
from torch import Tensor

from ltx.analysis.overlap import Law, by_layer, together, trimmed
from ltx.tensors import Tensors

# Bins of |w_0| in a layer. Twenty explain too little of two masks that depend on nothing but |w_0|: their z was 3 to 15
# in a layer of 235,200 weights, and within chance of 0 with two hundred.
BINS = 200
FEWEST = 20  # weights in a bin: of what masks share beyond |w_0|, a bin of n weights hides one part in n
ROUNDS = 16  # of trades between two draws, whose shared counts then hardly correlate (.66 after one, .05 after ten)


def layer_matched(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Law]:
    """Return the exact law of the shared count of each common layer where masks keep nothing but its count."""
    return {name: hypergeometric(o.total, o.one, o.other) for name, o in by_layer(one, other).items()}


def size_matched(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], sizes: Mapping[str, Tensor], bins: int = BINS
) -> dict[str, Law]:
    """Return the exact law of the shared count of each common layer where masks keep their counts in every size bin.

    sizes: |w_0|, the magnitudes of the weights at initialisation, by name; see `binned`. Where two masks cut the sizes
    at the same sharp threshold, the bin that it falls into is left unexplained: z is large, and the mean near the IoU.
    """
    found = {}
    for name in by_layer(one, other):
        places = binned(sizes[name], bins)
        a, b = flat(one[name]), flat(other[name])
        totals = np.bincount(places)
        counts = np.stack([totals, np.bincount(places, a).astype(int), np.bincount(places, b).astype(int)], 1)
        found[name] = together(hypergeometric(*row) for row in counts[totals > 0].tolist())
    return found


def degree_matched(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], rng: np.random.Generator, draws: int = 200
) -> dict[str, Law]:
    """Return the law of the shared count of each common layer where `one` keeps its degrees, from random draws.

    A layer is a matrix (outputs, inputs times taps), and `one` is drawn uniformly among all masks with its row and
    column sums. The law is the normal one, rounded to counts, with mean and variance of the draws.
    """
    return {
        name: normal(shared_counts(one[name], other[name], rng, draws), min(o.one, o.other))
        for name, o in by_layer(one, other).items()
    }


def drawn(
    mask: Mapping[str, Tensor], sizes: Mapping[str, Tensor], rng: np.random.Generator, bins: int = BINS
) -> Tensors:
    """Return a random mask with the counts of `mask` in every layer and bin of |w_0|; see `binned`."""
    found = {}
    for name, kept in mask.items():
        places = binned(sizes[name], bins)
        # Both orders go through the bins one after another: the first from index to index, the second at random.
        order, shuffled = np.argsort(places, kind="stable"), np.argsort(places + rng.random(len(places)))
        fresh = np.empty(len(places), dtype=bool)
        fresh[shuffled] = flat(kept)[order]
        found[name] = torch.from_numpy(fresh).reshape(kept.shape)
    return found


def binned(sizes: Tensor, bins: int) -> np.ndarray:
    """Return the bin (n) of each weight: its rank among the sizes of its layer, cut into `bins` equal parts.

    There are fewer bins where they would have fewer than 20 weights. Equal sizes lie in one bin, so that a layer of a
    signed constant is one bin, and the null the layer-matched one.
    """
    values = flat(sizes)
    ranks = np.searchsorted(np.sort(values), values)
    return ranks * min(bins, max(1, len(values) // FEWEST)) // max(len(values), 1)


def flat(tensor: Tensor) -> np.ndarray:
    """Return the numbers of a tensor in the order of its shape."""
    return tensor.detach().cpu().reshape(-1).numpy()


def hypergeometric(total: int, one: int, other: int) -> Law:
    """Return the law of how many of `one` marked among `total` are met by `other` drawn without replacement."""
    mean = one * other / total
    variance = mean * (total - one) * (total - other) / (total * max(total - 1, 1))
    reach = 27 * math.sqrt(variance) + 100  # beyond lies nothing above 1e-150
    counts = np.arange(
        max(0, one + other - total, math.floor(mean - reach)), min(one, other, math.ceil(mean + reach)) + 1
    )
    logs = choices(one, counts) + choices(total - one, other - counts)
    chances = np.exp(logs - logs.max())
    return Law(mean, variance, *trimmed(int(counts[0]), chances / chances.sum()))


def choices(n: int, k: np.ndarray) -> np.ndarray:
    """Return the log of n choose k."""
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def normal(counts: np.ndarray, most: int) -> Law:
    """Return the normal law with mean and variance of drawn counts, rounded to counts from 0 to `most`."""
    mean, variance = float(counts.mean()), float(counts.var(ddof=1))
    if variance == 0:
        return Law(mean, 0.0, int(counts[0]), np.ones(1))
    sd = math.sqrt(variance)
    values = np.arange(max(0, math.floor(mean - 27 * sd)), min(most, math.ceil(mean + 27 * sd)) + 1)
    low, high = (values - 0.5 - mean) / sd, (values + 0.5 - mean) / sd
    # From the nearer tail, so that the difference of two small numbers keeps its digits.
    chances = np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    return Law(mean, variance, *trimmed(int(values[0]), chances / chances.sum()))


def shared_counts(one: Tensor, other: Tensor, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Return what `draws` random masks with the row and column sums of `one` share with `other`, int (draws)."""
    state = flat(one).reshape(len(one), -1).copy()
    target = flat(other).reshape(state.shape)
    counts = np.empty(draws, dtype=int)
    for draw in range(draws):
        for _ in range(ROUNDS):
            trade(state, rng)
        counts[draw] = np.count_nonzero(state & target)
    return counts


def trade(state: np.ndarray, rng: np.random.Generator) -> None:
    """Let the rows of a bool matrix trade in random pairs, in place; row and column sums stay.

    The columns where exactly one row of a pair has a weight are dealt out anew, and each row keeps its number. The
    uniform law over all matrices with these sums is the chain's only stationary one (Carstens, Berger & Strona 2018).
    """
    order, half = rng.permutation(len(state)), len(state) // 2
    first, second = order[:half], order[half : 2 * half]
    mine, theirs = state[first], state[second]
    pairs, columns = np.nonzero(mine ^ theirs)
    dealt = mine[pairs, columns][np.argsort(pairs + rng.random(len(pairs)))]
    mine[pairs, columns], theirs[pairs, columns] = dealt, ~dealt
    state[first], state[second] = mine, theirs
