"""What an export holds: a ticket's tensors in few bytes, and what they say of themselves."""

from __future__ import annotations

from typing import Any

import torch

from ltx.config.names import PLUMBING
from ltx.export.compact import packed
from ltx.export.plain import FORMAT
from ltx.identity.measure import Known
from ltx.store.files import digest
from ltx.store.rows import Row
from ltx.tensors import Tensors, prefixed

KEPT = ("seeds", "threads")  # of what changes no result: what a bit may hang on, and what the interval is over


def tensors_of(known: Known) -> Tensors:
    """Return a ticket's tensors under names that say what they are.

    whole/NAME: a parameter as it is. mask/NAME: which weights are kept, as bits; there is none where all are.
    values/NAME: the kept ones in the mask's order. signs/NAME and alpha/NAME: their signs as bits, 1 for +, and their
    magnitude, where they have but one. buffer/NAME: running statistics and the like.
    """
    ticket = known.ticket
    buffers = {name: tensor for name, tensor in ticket.end.items() if name not in ticket.weights}
    found = prefixed("buffer", buffers)
    for name, weight in ticket.weights.items():
        mask = ticket.mask.get(name)
        if mask is not None and not mask.all():
            found[f"mask/{name}"] = packed(mask)
        if mask is None or weight[~mask].any():  # a method of a user's own may leave weights beside its mask
            found[f"whole/{name}"] = weight
            continue
        values = weight[mask]
        alpha = values[:1].abs()
        if alpha.any() and torch.equal(values.abs(), alpha.expand_as(values)):
            found |= {f"signs/{name}": packed(values > 0), f"alpha/{name}": alpha}
        elif mask.all():
            found[f"whole/{name}"] = weight
        else:
            found[f"values/{name}"] = values
    return {name: tensor.contiguous() for name, tensor in found.items()}


def about(known: Known, row: Row, scores: Tensors) -> dict[str, Any]:
    """Return what an export says of itself: run, seed, level, config, and what its loader needs to know."""
    ticket, spec = known.ticket, known.spec
    return {
        "export": FORMAT,
        **known_as(known),
        "row": row.columns(),
        "layers": row.layers,
        "config": shared(spec.config),
        "masked": list(ticket.mask),
        "shapes": {name: list(mask.shape) for name, mask in ticket.mask.items()},
        "input_shape": list(spec.facts.input_shape),
        "task": spec.facts.task,
        "precision": spec.form.precision,
        "channels_last": spec.form.channels_last,
        "scores": digest(scores, known_as(known)) if scores else None,
    }


def known_as(known: Known) -> dict[str, Any]:
    """Return the run, seed and level."""
    return {"key": known.run, "seed": known.seed, "level": known.level}


def shared(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config without what is a matter of the machine and its owner."""
    own = {name: value for name, value in config.items() if name not in PLUMBING or name in KEPT}
    return own | {"trunk": shared(config["trunk"]) if config["trunk"] else None}
