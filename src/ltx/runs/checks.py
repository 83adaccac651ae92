"""What must be true of the machine and the data before anything is written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ltx.config.spec import Spec
from ltx.errors import BadInput, nearest, notice

WANDB_MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")  # those that wandb takes


def check_machine(spec: Spec) -> None:
    """Raise BadInput where this machine cannot do what is asked, before anything is written."""
    device = spec.config["device"]
    check_device(device)
    check_gpus(device, spec.config["trainer"]["devices"])
    kind, _, number = device.partition(":")
    if kind == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BadInput(
                f"device={device}, but torch {torch.__version__} sees no CUDA device; use device=auto or cpu."
            )
        if int(number or 0) >= torch.cuda.device_count():
            raise BadInput(f"device={device}, but there are {torch.cuda.device_count()} CUDA devices, numbered from 0.")
    mode = os.environ.get("WANDB_MODE")
    if spec.config["wandb"]["mode"] is None and mode and mode not in WANDB_MODES:
        raise BadInput(f"WANDB_MODE={mode} in the environment is unknown{nearest(mode, WANDB_MODES)}")
    check_place(spec.directory.absolute(), f"root={spec.config['root']}")


def check_gpus(device: str, devices: int) -> None:
    """Raise BadInput where there are not as many GPUs as a seed should have, or one of them is named."""
    if devices == 1 or device == "cpu":
        return
    if ":" in device:
        raise BadInput(f"device={device} is one device, but trainer.devices={devices} are several; use device=cuda.")
    import torch

    there = torch.cuda.device_count()
    if torch.cuda.is_available() and there < devices:
        raise BadInput(
            f"trainer.devices={devices}, but the number of CUDA devices is {there}; use trainer.devices={there}, or "
            "device=cpu for processes on the CPU."
        )


def check_device(device: str) -> None:
    """Raise BadInput for a word that names no device on any machine."""
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdigit()):
        raise BadInput(f"device={device} is unknown{nearest(device, ('auto', 'cpu', 'cuda', 'cuda:N'))}")


def pick_device(asked: str) -> str:
    """Return the device `auto` stands for, or the one asked for."""
    if asked == "auto":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return asked


def check_place(place: Path, said: str) -> None:
    """Raise BadInput where a folder could not be made: it is tried, since permissions do not say it of /proc."""
    try:
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise BadInput(f"{said} cannot be written: {place} is not a folder.")
        with tempfile.TemporaryDirectory(prefix=".ltx-", dir=place):
            return
    except OSError as error:
        raise BadInput(f"{said} cannot be used: {place}: {error.strerror or error}.") from error


def check_weights(spec: Spec, values: bool = False) -> None:
    """Raise BadInput where the file that a run starts from does not fit its network, by the file's header.

    With `values` these are read too, for all must be finite. Says once which head is drawn anew.
    """
    start = spec.start
    if start is None:
        return
    network = spec.network(device="meta")
    found = start.fit(network)
    if found.head:
        notice(f"{start.path}: the output layer ({', '.join(found.head)}) is drawn anew: {found.why}.")
    if values:
        start.check_values(network)


def check_data(spec: Spec) -> None:
    """Load the data, before anything is written. Raises BadInput, and says what was changed of what the user gave."""
    for note in spec.data.notes:
        notice(f"{spec.config['data']['name']}: {note}.")
