"""How long the work of a run takes, before it is run: for estimates, and for giving out the longest jobs first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ltx.config.spec import Spec
from ltx.methods import WithoutGradients
from ltx.methods.ticket_sample import FITTED, SCORED

# On one core of a 2-core cloud machine: operations a second in float32 and with bfloat16, and what each parameter
# tensor costs a step besides, in layers around it, its gradient and its update. LeNet, convnet, Conv-2, Conv-4, VGG-11,
# VGG-16 and ResNets of 18, 20 and 50 layers at the image sizes they are meant for are within 40 % of it.
FLOPS, BF16_FLOPS, TENSOR = 8e10, 1.45e11, 1e-4


def step_seconds(spec: Spec) -> float:
    """Estimate the seconds of one optimiser step: three forward passes' operations, and the cost of its tensors."""
    network = spec.network(device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(spec.form.inputs(spec.facts.zeros(spec.optim.batch, "meta")))
    return of_operations(spec, network, counter.get_total_flops())


def of_operations(spec: Spec, network: nn.Module, forward: float) -> float:
    """Estimate the seconds of an optimiser step whose forward pass has some number of operations."""
    rate = FLOPS if spec.form.precision == "32-true" else BF16_FLOPS
    return TENSOR * len([*network.parameters()]) + 3 * forward / rate


def mask_seconds(spec: Spec) -> float:
    """Estimate the seconds of scoring one mask: the operations of all examples, and the exponentials of their logits.

    Measured for the networks 64-16-10 and 64-128-10 on 600 and 1,437 digits; they are within 40 % of it.
    """
    most = getattr(spec.method, "examples", None) or SCORED
    examples = min(FITTED, spec.facts.val) + min(most, spec.facts.train)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        spec.network(device="meta")(spec.form.inputs(spec.facts.zeros(examples, "meta")))
    return counter.get_total_flops() / 4e10 + 8e-8 * examples


def each(spec: Spec) -> float:
    """Estimate the seconds of what a run's levels are made of: an optimiser step, or a mask that is scored."""
    return mask_seconds(spec) if isinstance(spec.method, WithoutGradients) else step_seconds(spec)


def rank(spec: Spec) -> float:
    """Return roughly the seconds of what a run's levels are made of, without calling code of the user's own.

    Each weight of such a network is taken to be applied once to an example.
    """
    if ":" not in spec.config["model"]["name"]:
        return each(spec)
    network = spec.network(device="meta")
    return of_operations(spec, network, 2 * spec.optim.batch * sum(p.numel() for p in network.parameters()))


def longest_first(seconds: Mapping[str, float], trunks: Mapping[str, str | None]) -> list[str]:
    """Return runs in the order in which their jobs are to begin, given the seconds of a job of each and its trunk.

    A run counts with the longest chain of runs that stands on it, so that a trunk comes before these, and no worker is
    left with a long job when all others have ended. `trunks` has every trunk before what stands on it.
    """
    chain = dict(seconds)
    for name in reversed([*trunks]):
        below = trunks[name]
        if below is not None:
            chain[below] = max(chain[below], seconds[below] + chain[name])
    return sorted(trunks, key=lambda name: -chain[name])
