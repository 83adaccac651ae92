"""Whether a run can share the batches of a seed between several devices and stay the run that one device trains."""

from __future__ import annotations

import typing

from ltx.errors import BadInput

if typing.TYPE_CHECKING:
    from ltx.config.trial import Parts


def check_devices(spec: Parts) -> None:
    """Raise BadInput where several devices are asked for that would do nothing, or something else than one does."""
    from ltx.methods import WithoutGradients

    trainer, batch, method = spec.config["trainer"], spec.optim.batch, spec.config["method"]["name"]
    devices = trainer["devices"]
    if devices == 1:
        return
    if trainer["strategy"] != "ddp":
        raise BadInput(
            f"trainer.devices={devices} needs trainer.strategy=ddp, which shares every batch of a seed between them; "
            "seeds and points run side by side without it, by workers=N."
        )
    if isinstance(spec.method, WithoutGradients):
        raise BadInput(f"method={method} takes no optimiser steps that trainer.devices={devices} could share; use 1.")
    if batch < devices:
        raise BadInput(f"optim.batch={batch} is smaller than trainer.devices={devices}; use at most {batch} devices.")
    if ":" in spec.config["model"]["name"]:  # ltx's own draw nothing, and mix examples by BatchNorm alone
        check_parts(spec)


def check_parts(spec: Parts) -> None:
    """Raise BadInput where a network draws, or gives other outputs for the parts of a batch than for the whole."""
    import torch

    from ltx.tensors import seeded
    from ltx.training.ranks import batch_norms

    network, x = spec.network().train(), spec.form.inputs(spec.data.train.take(slice(0, 4))[0])
    for norm in batch_norms(network):
        norm.eval()  # these take the statistics of the whole batch on every device
    half = len(x) // 2
    with seeded(0), torch.no_grad(), spec.form.context("cpu"):
        before = torch.get_rng_state()
        whole = network(x).float()
        drawn = not torch.equal(before, torch.get_rng_state())
        parts = torch.cat([network(x[:half]), network(x[half:])]).float()
    model, devices = spec.config["model"]["name"], spec.config["trainer"]["devices"]
    if drawn:
        raise BadInput(
            f"model={model} draws random numbers in forward (dropout, say), which would be others on "
            f"trainer.devices={devices} than on one; use 1, or a network that draws nothing."
        )
    if not torch.allclose(whole, parts, rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
        raise BadInput(
            f"model={model} computes something else of the parts of a batch than of the whole, so that "
            f"trainer.devices={devices} would train another network than one; use 1, or torch's own BatchNorm, whose "
            "statistics ltx takes over all devices."
        )
