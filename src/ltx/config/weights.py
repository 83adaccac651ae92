"""Pretrained starts: a file of weights as a run's initialisation, checked by its header before anything is written.

The network of every seed is drawn as always, and then all its parameters and buffers are taken from the file. So
`begin/` of level 0 holds the file's values (times the factor of a search that scales its weights, and zero where a mask
is there from the beginning), and a method rewinds to them. Seeds then differ in their data order, in what is drawn of
masks and scores, and in a head that is drawn anew, and in nothing else. What a control draws anew is drawn from the
model's own law and never read from the file.

A run's key holds the file's SHA-256 and not its path, and so does the config (`weights_digest`): a finished run is read
without the file, a file that was moved continues the run, and one that was changed is not trained under the old key.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx.config.matching import Fit, Held, fitted, kind_of
from ltx.errors import BadInput, nearest
from ltx.store.files import Damaged, content

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ltx.tensors import Tensors

PICKLES = (b"PK\x03\x04", b"\x80")  # how files of torch.save begin, the newer ones as zip archives
CONVERT = "safetensors.torch.save_file(torch.load('{name}', weights_only=True), '{stem}.safetensors')"


@dataclass(frozen=True)
class Start:
    """The file that a run starts from, how its names are read, and its SHA-256."""

    path: Path
    rename: dict[str, str] | None
    digest: str

    def fit(self, network: nn.Module) -> Fit:
        """Return what the network takes of the file, by its header. Raises BadInput where they do not fit."""
        if digest_of(self.path) != self.digest:
            raise BadInput(changed(self.path))
        return fitted(network, header(self.path), self.path, self.rename)

    def load(self, network: nn.Module) -> None:
        """Put the file's values in the place of the network's own, a head that is drawn anew excepted.

        Raises BadInput where the file is not the one of the digest, or holds values that are not finite.
        """
        import torch

        values, own = read(self.path, self.digest), network.state_dict()
        held = {name: Held(kind_of(value.dtype), tuple(value.shape)) for name, value in values.items()}
        with torch.no_grad():
            for name, there in fitted(network, held, self.path, self.rename).taken.items():
                value = values[there].to(own[name].dtype)
                check_finite(self.path, there, value)
                own[name].copy_(value)

    def check_values(self, network: nn.Module) -> None:
        """Raise BadInput where a value that the network takes is not finite. Reads each file once a process."""
        taken = self.fit(network).taken.values()
        values_checked(self.path, self.digest, stamp(self.path), tuple(sorted(taken)))


def start_of(model: Mapping[str, Any]) -> Start | None:
    """Return the start that a checked config of a model names; one without a digest names none (see `with_digest`)."""
    if not model.get("weights_digest"):
        return None
    return Start(place(model["weights"]), model["rename"], model["weights_digest"])


def with_digest(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model's fields with the SHA-256 of the file that they name, where they do not have it yet.

    Raises BadInput for a file that is not there or not safetensors, and for what belongs to a file where none is named.
    """
    if model["weights"] is None:
        for name in ("rename", "weights_digest"):
            if model[name] is not None:
                raise BadInput(f"model.{name} belongs to a file of weights: give model.weights=FILE.safetensors too.")
        return model
    if model["weights_digest"] is not None:
        return model
    header(place(model["weights"]))
    return {**model, "weights_digest": digest_of(place(model["weights"]))}


def own_weights(given: Mapping[str, Any]) -> str:
    """Return what to say where a constructor has an argument `weights` itself and is given a file for it."""
    if not str(given.get("weights", "")).endswith(".safetensors"):
        return ""
    return (
        " (model.weights is an argument of its own and no start of ltx; to start from a file, name a function of yours "
        "that calls it and has no such argument)"
    )


def place(weights: str) -> Path:
    """Return the path that model.weights means."""
    return Path(os.path.expanduser(weights))


def stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does: its inode, size and times. Raises BadInput where there is no such file."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadInput(missing(path)) from error
    except OSError as error:
        raise BadInput(f"model.weights={path} cannot be read ({error.strerror}).") from error
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise BadInput(f"model.weights={path} is {what}; it should be a file of weights, FILE.safetensors.")
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def missing(path: Path) -> str:
    """Say that a file is not there, and what stands beside it that may be meant."""
    if not path.parent.is_dir():
        return f"model.weights={path} is not there: there is no folder {path.parent}."
    beside = [found.name for found in path.parent.iterdir() if found.is_dir() or found.suffix == ".safetensors"]
    return f"model.weights={path} is not there{nearest(path.name, beside)}"


def changed(path: Path) -> str:
    """Say that a file is another one than the run began with."""
    return (
        f"model.weights={path} is no longer the file that the run's key was made from; put that one back, or name the "
        "new one in a command of its own, which is another run."
    )


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, read again only where it has changed. Raises BadInput."""
    return digested(path, stamp(path))


@functools.lru_cache(maxsize=32)
def digested(path: Path, stamped: tuple[int, ...]) -> str:
    """Return the SHA-256 of a file as it was at a time."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"model.weights={path} cannot be read ({error.strerror}).") from error


def read(path: Path, digest: str) -> Tensors:
    """Return the tensors of a file; what is parsed is what was hashed. Raises BadInput for a file that was changed."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = content(path)
    except Damaged as error:
        raise BadInput(f"model.weights: {error}.") from error
    if found is None:
        raise BadInput(missing(path))
    if hashlib.sha256(found).hexdigest() != digest:
        raise BadInput(changed(path))
    try:
        return load(found)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise BadInput(f"model.weights={path} cannot be read ({error}).") from error


def header(path: Path) -> dict[str, Held]:
    """Return what a safetensors file holds, by its header and without its values. Raises BadInput."""
    return headed(path, stamp(path))


@functools.lru_cache(maxsize=32)
def headed(path: Path, stamped: tuple[int, ...]) -> dict[str, Held]:
    """Return what a file holds as it was at a time."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            entries = {name: file.get_slice(name) for name in sorted(file.keys())}
            return {name: Held(said_kind(e.get_dtype()), tuple(e.get_shape())) for name, e in entries.items()}
    except (SafetensorError, OSError) as error:
        said = str(error).rstrip(".")
    if is_pickle(path):
        convert = CONVERT.format(name=path.name, stem=path.stem)
        raise BadInput(
            f"model.weights={path} is a pickle, which could execute code when it is loaded, and is not read here; "
            f"convert it once: {convert}."
        )
    raise BadInput(f"model.weights={path} is no whole safetensors file ({said}).")


def is_pickle(path: Path) -> bool:
    """Tell whether a file that is not safetensors begins like one of torch.save."""
    try:
        return (content(path, 8) or b"").startswith(PICKLES)
    except Damaged:
        return False


def said_kind(dtype: str) -> str:
    """Return the kind of number of a type in the words of safetensors, as F32, BF16 or I64."""
    if dtype.startswith(("F", "BF")):
        return "floats"
    return {"BOOL": "booleans", "C64": "complex numbers"}.get(dtype, "integers")


@functools.lru_cache(maxsize=32)
def values_checked(path: Path, digest: str, stamped: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Raise BadInput where one of a file's tensors has values that are not finite as the float32 of networks."""
    values = read(path, digest)
    for name in names:
        if values[name].is_floating_point():
            check_finite(path, name, values[name].float())


def check_finite(path: Path, name: str, value: Tensor) -> None:
    """Raise BadInput where a tensor of floats has values that are not finite."""
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise BadInput(
            f"model.weights={path}: {name} has values that are not finite; nothing can be trained from them."
        )
