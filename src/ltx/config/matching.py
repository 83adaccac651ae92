"""Which tensors of a file a network takes, by their names and shapes: no file is read here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltx.errors import BadInput, closest, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

Shape = tuple[int, ...]
FEW = 3  # names that a message gives of many


@dataclass(frozen=True)
class Held:
    """What a file says of one tensor: its kind of number, whatever the precision, and its shape."""

    kind: str
    shape: Shape


@dataclass(frozen=True)
class Fit:
    """What of a file a network takes.

    taken: the name in the file of every tensor of the network that is read from it.
    head: the names of the output layer's parameters where these are drawn anew, and `why`.
    """

    taken: dict[str, str]
    head: list[str]
    why: str


def kind_of(dtype: torch.dtype) -> str:
    """Return the kind of number of a type of torch's."""
    if dtype.is_floating_point:
        return "floats"
    return {"bool": "booleans", "complex64": "complex numbers"}.get(str(dtype).removeprefix("torch."), "integers")


def renamed(names: Iterable[str], path: Path, rename: Mapping[str, str] | None) -> dict[str, str]:
    """Return {name in the network: name in the file}; with a mapping of those alone that begin with one of its keys.

    The longest key that fits a name is the one that counts. Raises BadInput where a key fits none, or where two names
    become one.
    """
    if rename is None:
        return {name: name for name in names}
    found: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        fitting = [prefix for prefix in rename if name.startswith(prefix)]
        if not fitting:
            continue
        used |= {*fitting}
        prefix = max(fitting, key=len)
        own = rename[prefix] + name.removeprefix(prefix)
        if own in found:
            raise BadInput(f"model.rename makes {own} of two names of {path}, {found[own]} and {name}.")
        found[own] = name
    idle = [prefix for prefix in rename if prefix not in used]
    if idle:
        parts = {part for name in names for part in beginnings(name)}
        raise BadInput(f"model.rename: no name in {path} begins with '{idle[0]}'{nearest(idle[0], parts)}")
    return found


def beginnings(name: str) -> list[str]:
    """Return the parts that a mapping may name of `end/block1.conv.weight`: `end/` and `end/block1.`."""
    return [name[: i + 1] for i, letter in enumerate(name) if letter in "./"][:2]


def head_of(network: nn.Module) -> list[str]:
    """Return the parameters of the output layer: the last matrix, as in `method.exclude: [output]`, and its bias."""
    from ltx.tensors import matrices

    last = matrices(network)[-1]
    owner, _, leaf = last.rpartition(".")
    bias = f"{owner}.{leaf.replace('weight', 'bias')}".lstrip(".")
    return [last, *(name for name, _ in network.named_parameters() if name == bias != last)]


def fitted(network: nn.Module, held: Mapping[str, Held], path: Path, rename: Mapping[str, str] | None) -> Fit:
    """Return what a network takes of what a file holds. Raises BadInput where a name or a shape does not fit."""
    names = renamed(held, path, rename)
    own = {name: Held(kind_of(t.dtype), tuple(t.shape)) for name, t in network.state_dict().items()}
    head = head_of(network)
    fit, complaints = matched(own, held, names, head)
    if not complaints:
        return fit
    body = [name for name in own if name not in head]
    prefix = None if rename else prefix_that_fits(own, held, head, path, body or head)
    if prefix is not None:
        raise BadInput(
            f"model.weights={path} has the network's names behind '{prefix}'; take that off: "
            f"'model.rename={{{prefix}:\"\"}}'."
        )
    much = f"{len(fit.taken)} of the network's {len(own)} tensors fit" if fit.taken else "nothing fits"
    raise BadInput(f"model.weights={path} is not of this network: {much}. {' '.join(complaints)}")


def matched(
    own: Mapping[str, Held], held: Mapping[str, Held], names: Mapping[str, str], head: list[str]
) -> tuple[Fit, list[str]]:
    """Return what fits, and a sentence on each way in which a file does not; none where all but a head's size fits."""
    fits = {name: there for name, there in names.items() if own.get(name) == held[there]}
    unknown = [there for name, there in names.items() if name not in own]
    absent = [name for name in head if name not in names]
    resized = [name for name in head if name in names and held[names[name]].shape != own[name].shape]
    drawn = (absent or resized) and fits.keys() - {*head} and not (absent and unknown)
    skipped = {*head} if drawn else set()
    lacking = [n for n in own if n not in names and n not in skipped and not n.endswith("num_batches_tracked")]
    other = [name for name in own if name in names and name not in fits and name not in skipped]
    complaints = []
    if lacking:
        complaints.append(f"It lacks {few(lacking)}{near(lacking[0], held)}.")
    if unknown:
        complaints.append(f"The network has no {few(unknown)}{near(unknown[0], own)}.")
    if other:
        complaints.append(f"{few([differs(name, own, held, names) for name in other])}.")
    taken = {name: there for name, there in fits.items() if name not in skipped}
    why = " and ".join(differs(name, own, held, names) for name in (*absent, *resized) if drawn)
    return Fit(taken, head if drawn else [], why), complaints


def differs(name: str, own: Mapping[str, Held], held: Mapping[str, Held], names: Mapping[str, str]) -> str:
    """Say of one tensor of a network how the file's is another."""
    if name not in names:
        return f"{name} is not in the file"
    here, there = own[name], held[names[name]]
    if here.shape != there.shape:
        return f"{name} is {size(there.shape)} in the file and {size(here.shape)} in the network"
    return f"{name} holds {there.kind} in the file and {here.kind} in the network"


def size(shape: Shape) -> str:
    """Write a shape."""
    return "x".join(map(str, shape)) or "one number"


def few(words: list[str]) -> str:
    """Write the first of many words, and how many more there are."""
    return ", ".join(words[:FEW]) + (f" and {len(words) - FEW} more" if len(words) > FEW else "")


def near(name: str, known: Iterable[str]) -> str:
    """Return the nearest name of the other side in brackets, if any is near."""
    found = closest(name, known)
    return f" (nearest to {name}: {found[0]})" if found and found[0] != name else ""


def prefix_that_fits(
    own: Mapping[str, Held], held: Mapping[str, Held], head: list[str], path: Path, body: list[str]
) -> str | None:
    """Return the prefix without which a file's names are a network's, if there is one; the end of a level before all.

    A level's file of ltx has `begin/` and `end/`, both of which fit.
    """
    prefixes = {name.removesuffix(body[0]) for name in held if name.endswith(body[0]) and name != body[0]}
    for prefix in sorted(prefixes, key=lambda word: (word != "end/", word)):
        names = renamed(held, path, {prefix: ""})
        if not matched(own, held, names, head)[1]:
            return prefix
    return None
