"""Which hidden units a network has, which layers write and read them, and which norms stand on them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import nn

from ltx.errors import nearest

EXAMPLE = 'def symmetry(self): return [Units(("fc1",), ("fc2",)), Units(("fc2",), ("out",))]'


@dataclass(frozen=True)
class Units:
    """Name the layers around one set of hidden units; permuting the units leaves what the network computes.

    writers: the layers whose outputs the units are, along axis 0 of the weight and the bias. Where layers add up, as
        in a residual stage, all of them write the same units.
    readers: the layers that read them, along axis 1 of the weight. Where an image was flattened before a linear layer,
        each unit has a block of consecutive inputs.
    rescales: a ReLU stands between, so that a factor c > 0 can move from the writers to the readers.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    rescales: bool = True


@dataclass(frozen=True)
class Table:
    """Name all sets of hidden units of a network, each after the set that its first writer reads.

    norms: of each BatchNorm the layer whose outputs it normalises.
    pooled: the norms that a max-pool separates from their layer.
    """

    units: tuple[Units, ...]
    norms: dict[str, str] = field(default_factory=dict)
    pooled: tuple[str, ...] = ()

    @property
    def writes(self) -> dict[str, int]:
        """Return of each writer the number of the set that it writes."""
        return {name: u for u, units in enumerate(self.units) for name in units.writers}

    @property
    def reads(self) -> dict[str, int]:
        """Return of each reader the number of the set that it reads."""
        return {name: u for u, units in enumerate(self.units) for name in units.readers}


def chain(layers: Sequence[str], norms: dict[str, str], pooled: Iterable[str] = (), rescales: bool = True) -> Table:
    """Return the table of layers that follow on one another, the last of them the output."""
    pairs = itertools.pairwise(layers)
    return Table(tuple(Units((one,), (after,), rescales) for one, after in pairs), norms, tuple(pooled))


def table_of(module: nn.Module) -> Table:
    """Return what `module.symmetry()` says, a table or a list of units where there are no norms, after a check.

    Raises ValueError where the module has no such method, or where what it says does not fit its layers.
    """
    said = getattr(module, "symmetry", None)
    if said is None:
        raise ValueError(
            f"{type(module).__name__} does not say what its hidden units are; name the layers that write and read "
            f"them in a method, with Units of ltx.symmetry: {EXAMPLE}"
        )
    found = said()
    table = found if isinstance(found, Table) else Table(tuple(found))
    check(module, table)
    return table


def check(module: nn.Module, table: Table) -> None:
    """Raise ValueError where a table names layers that the module lacks, or whose sizes do not fit together."""
    for part, sets in (("writes", [u.writers for u in table.units]), ("reads", [u.readers for u in table.units])):
        names = [name for one in sets for name in one]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"layer '{twice[0]}' {part} two sets of units; make one set of what it {part}")
    for units in table.units:
        if not units.writers or not units.readers:
            raise ValueError(f"{units} has no layers on one side; name at least one writer and one reader")
        counts = {name: sides(module, name)[0] for name in units.writers}
        first, count = units.writers[0], counts[units.writers[0]]
        for name, own in counts.items():
            if own != count:
                raise ValueError(
                    f"'{first}' and '{name}' write {count} and {own} units, but one set has one number of them; "
                    "make a set of each"
                )
        for name in units.readers:
            if (inputs := sides(module, name)[1]) % count:
                raise ValueError(
                    f"'{name}' has {inputs} inputs, no multiple of the {count} units of '{first}'; name as readers "
                    "the layers that read these"
                )
    layers = list(table.norms.values())
    for name, layer in table.norms.items():
        norm, count = named(module, name), sides(module, layer)[0]
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_var is None:
            raise ValueError(f"'{name}' is no BatchNorm with running statistics; leave it out of the table's norms")
        if norm.num_features != count or layers.count(layer) > 1:
            raise ValueError(
                f"'{name}' normalises {norm.num_features} units and '{layer}' has {count}; name the one layer of each "
                "norm"
            )
    if unknown := sorted(set(table.pooled) - set(table.norms)):
        raise ValueError(f"'{unknown[0]}' is pooled but no norm of the table{nearest(unknown[0], table.norms)}")


def named(module: nn.Module, name: str) -> nn.Module:
    """Return a submodule by its name, or raise ValueError."""
    layers = dict(module.named_modules())
    if name not in layers or not name:
        known = [known for known, layer in layers.items() if known and not list(layer.children())]
        raise ValueError(f"{type(module).__name__} has no layer '{name}'{nearest(name, known)}")
    return layers[name]


def sides(module: nn.Module, name: str) -> tuple[int, int]:
    """Return how many outputs and inputs a layer has, or raise ValueError where it is of no kind that is known."""
    layer = named(module, name)
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == 1:
        return layer.out_channels, layer.in_channels
    raise ValueError(
        f"'{name}' is a {type(layer).__name__} and not a Linear or a convolution with one group; leave the units on "
        "both sides of it out of the table"
    )


def sizes(module: nn.Module, table: Table) -> list[int]:
    """Return how many units each set has."""
    return [sides(module, units.writers[0])[0] for units in table.units]


def order(sizes: Iterable[int]) -> int:
    """Return how many permutations there are of sets of such sizes: the product of their factorials."""
    return math.prod(math.factorial(size) for size in sizes)
