"""A ticket that comes back: an export's folder read as data, none of its code executed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ltx.config.compose import compose
from ltx.config.names import PLUMBING, check_trusted
from ltx.config.spec import Spec
from ltx.config.weights import is_pickle
from ltx.errors import BadInput
from ltx.export import plain
from ltx.store.files import Damaged, digest, unpack
from ltx.store.rows import Row
from ltx.tensors import Tensors, under

if TYPE_CHECKING:
    from torch import nn

TICKET, SCORES = "ticket.safetensors", "scores.safetensors"
KINDS = ("whole", "mask", "values", "signs", "alpha", "buffer", "constant", "rows", "columns", "folded")
PARAMETERS = ("whole", "values", "alpha")
SAID = {"key": str, "seed": int, "level": int, "config": dict, "masked": list, "shapes": dict}  # of an export


@dataclass(frozen=True)
class Exported:
    """A ticket that was exported, all on the CPU, by parameter name.

    key, seed, level: of the run that found it. row: its row of that run's summary. config: of the run, without what
    is a matter of its machine. weights: what the network sees, masked and binarised. mask: bool, of the prunable
    parameters. score: empty where the method has none or they were left out. buffers: running statistics.
    """

    path: Path
    key: str
    seed: int
    level: int
    row: Row
    config: dict[str, Any]
    weights: Tensors
    mask: Tensors
    buffers: Tensors
    score: Tensors
    trust: bool = False

    @property
    def density(self) -> float:
        """kept / prunable."""
        return self.row.density

    @cached_property
    def spec(self) -> Spec:
        """The run's config checked, which builds network, data and method. Raises BadInput, also for code outside ltx.

        The data must be there as they were for the run.
        """
        check_trusted(self.config, self.trust, (), self.path, f"ltx.load_ticket({str(self.path)!r}, trust=True)")
        return Spec.of(whole(self.config, compose([], [])))

    def module(self) -> nn.Module:
        """Return the network with the ticket's weights and statistics, in eval mode. Raises BadInput, see `spec`."""
        network = self.spec.network()
        try:
            network.load_state_dict(self.weights | self.buffers)
        except RuntimeError as error:
            said = " ".join(str(error).split())
            raise BadInput(f"{self.path} does not fit the network of its config: {said}.") from error
        return network.eval()


def load_ticket(folder: str | Path, trust: bool = False) -> Exported:
    """Read what `ltx export` wrote into a folder; its load.py is not executed.

    A config can name a class outside ltx; it is imported, which executes it, only with trust=True, and only where
    `spec` or `module()` is asked for. Raises BadInput where files are missing, damaged, changed, or none of ltx's.
    """
    path = Path(folder)
    tensors, meta = opened(path / TICKET)
    try:
        if meta.get("export") != plain.FORMAT:
            raise Damaged(f"it has format {meta.get('export')}, and this version of ltx reads {plain.FORMAT}")
        check(tensors, meta)
        row = Row.read(meta.get("row"), meta.get("layers"))
    except Damaged as error:
        raise BadInput(f"{path / TICKET} is no ticket that can be read: {error}.") from error
    return Exported(
        path,
        meta["key"],
        meta["seed"],
        meta["level"],
        row,
        meta["config"],
        plain.weights(tensors, meta),
        plain.masks(tensors, meta),
        under("buffer", tensors),
        scores_of(path / SCORES, meta),
        trust,
    )


def opened(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors and the metadata of a file of an export. Raises BadInput."""
    try:
        return unpack(path)
    except Damaged as error:
        if is_pickle(path):
            raise BadInput(
                f"{path} is a pickle, which could execute code when it is loaded, and is not read."
            ) from error
        raise BadInput(f"{error}; `ltx export` writes it.") from error


def scores_of(path: Path, meta: dict[str, Any]) -> Tensors:
    """Return the scores beside a ticket, none where they were left out or deleted. Raises BadInput for another's."""
    if meta.get("scores") is None or not path.exists():
        return {}
    tensors, said = opened(path)
    if digest(tensors, said) != meta["scores"] or not set(tensors) <= set(meta["masked"]):
        raise BadInput(f"{path} holds the scores of another ticket than {TICKET} beside it.")
    return tensors


def check(tensors: Tensors, meta: dict[str, Any]) -> None:
    """Raise Damaged where an export's tensors are not what a ticket has, whatever their digest says."""
    wrong = [name for name, kind in SAID.items() if type(meta.get(name)) is not kind]
    if wrong:
        raise Damaged(f"it does not say its {', '.join(wrong)}")
    for entry in tensors:
        kind, _, name = entry.partition("/")
        if kind not in KINDS or not plain_name(name):
            raise Damaged(f"{entry!r} is no name of a ticket's tensor")
        if kind in PARAMETERS and not numbers(tensors[entry]):
            raise Damaged(f"'{entry}' holds what is no weight: a value that is not finite, or one of another type")
    for name in meta["masked"]:
        if not plain_name(name) or not fits(tensors, name, meta["shapes"].get(name)):
            raise Damaged(f"the mask and the values of {str(name)!r} do not fit together")


def plain_name(name: object) -> bool:
    """Tell whether a text can name a parameter: words with dots between them, and so no path."""
    return isinstance(name, str) and name.isprintable() and all(name.split(".")) and not {"/", "\\"} & set(name)


def fits(tensors: Tensors, name: str, shape: object) -> bool:
    """Tell whether what stands for a masked matrix has the sizes of its shape, before anything is made of it."""
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        return False
    size, packed = math.prod(shape), tensors.get(f"mask/{name}")
    if packed is not None and (packed.dtype != torch.uint8 or packed.shape != (-(-size // 8),)):
        return False
    if f"whole/{name}" in tensors:
        return list(tensors[f"whole/{name}"].shape) == shape
    kept = size if packed is None else int(plain.bits(packed, size).sum())
    if f"values/{name}" in tensors:
        return tensors[f"values/{name}"].shape == (kept,)
    signs, alpha = tensors.get(f"signs/{name}"), tensors.get(f"alpha/{name}")
    right = signs is not None and signs.dtype == torch.uint8 and signs.shape == (-(-kept // 8),)
    return right and alpha is not None and alpha.shape == (1,)


def numbers(values: Tensor) -> bool:
    """Tell whether values can be weights: finite, and of a type that is computed with."""
    kind = values.is_complex() or (values.is_floating_point() and values.element_size() > 1)
    return kind and bool(values.isfinite().all())


def whole(config: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """Return a shared config with the usual values of what was left out of it."""
    left_out = {name: usual[name] for name in PLUMBING if name in usual}
    below = config.get("trunk")
    return {**left_out, **config, "trunk": whole(below, usual) if isinstance(below, dict) else below}
