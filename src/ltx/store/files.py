"""One file at a time: written whole or not at all, read only as what it should be, set aside where it is not."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ltx.errors import Failed, notice

if TYPE_CHECKING:
    from ltx.tensors import Tensors

YAML_LIMIT = 1_000_000  # characters
HEADER_LIMIT = 100_000_000  # bytes; safetensors' own limit
DEEP = re.compile(r"[*?]|\[(?!])|{(?!})|-\s+-")  # what a yaml needs for an alias, or for many levels in few characters
DIGESTS = re.compile(r'"(?:meta_)?digest":"[0-9a-f]{64}",')
TEMPORARY = re.compile(r"\..+\.(?P<host>[A-Za-z0-9-]+)\.(?P<pid>\d+)\.[0-9a-f]{6}")


class Damaged(Exception):
    """A file that is truncated, does not match its digest, belongs elsewhere, or is no file at all."""


def canonical(value: object) -> str:
    """Return the one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def host() -> str:
    """Return this machine's name as it stands in file names."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "-"


def commit(path: Path, content: bytes, replace: bool = True) -> bool:
    """Write a file so that it exists whole or not at all: write, fsync, rename.

    With replace=False a file that is already there is kept (adopted) and False returned. A directory that stands in
    the file's place, or a file in its folder's, is set aside.
    """
    if os.path.lexists(path.parent) and not path.parent.is_dir():
        set_aside(path.parent, f"{path.parent} is not a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{host()}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            if path.is_dir() and not path.is_symlink():
                set_aside(path, f"{path} is a folder")
            os.replace(temporary, path)
        else:
            try:
                os.link(temporary, path)  # unlike rename, never replaces
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise
                if path.exists():  # a file system without hard links
                    return False
                os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return True
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Raise Failed in one sentence where what is written within cannot be: a full disk, or one to read only."""
    try:
        yield
    except OSError as error:
        raise Failed(f"{what} could not be written: {error.strerror or error}.") from error


def set_aside(path: Path, why: object) -> None:
    """Rename what stands in the place of a file, and say so: nothing of a user's is deleted."""
    aside = path.with_name(f"{path.name}.damaged-{uuid.uuid4().hex[:6]}")
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        return  # another process has set it aside already
    notice(f"{why}; set aside as {aside.name}.")


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; of a link its own."""
    own = path.lstat().st_size
    if path.is_symlink() or not path.is_dir():
        return own
    below = (os.path.join(place, name) for place, _, names in os.walk(path) for name in names)
    return sum(os.lstat(file).st_size for file in below)


def tidy(folder: Path) -> None:
    """Remove the temporary files that killed writers on this machine left in a folder."""
    for path in folder.glob(".*"):
        if is_left_over(path.name):
            path.unlink(missing_ok=True)


def is_left_over(name: str) -> bool:
    """Tell whether a name is that of a temporary file whose writer was a process of this machine that is no more."""
    found = TEMPORARY.fullmatch(name)
    return found is not None and found["host"] == host() and not process_lives(int(found["pid"]))


def process_lives(pid: int) -> bool:
    """Tell whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def content(path: Path, limit: int | None = None) -> bytes | None:
    """Return the bytes of a regular file, its first `limit` ones, or None where nothing is there.

    Raises Damaged for a folder, a pipe, a link to nothing, and what cannot be read; never waits for a writer.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise Damaged(f"{path} is a link to nothing") from None
        return None
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror})") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Damaged(f"{path} is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(-1 if limit is None else limit)
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror})") from error
    finally:
        os.close(descriptor)


def text(path: Path) -> str | None:
    """Return the text of a file, or None where there is none. Raises Damaged."""
    found = content(path)
    try:
        return None if found is None else found.decode()
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise Damaged(f"{path} is not UTF-8 text (line {line}, byte {error.start})") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object that a file holds, or None where there is no file. Raises Damaged."""
    found = text(path)
    if found is None:
        return None
    try:
        value = json.loads(found)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise Damaged(f"{path} holds a {type(value).__name__} where an object should be")
    return value


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, by which a small file can stand for an endless value."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("it has an alias, which no config of ltx needs")
        return super().compose_node(parent, index)


def plain_yaml(found: str) -> Any:
    """Return the plain value that a yaml text holds. Raises what yaml raises.

    The parser in C takes a tenth of the time, but it follows aliases, and a deep text ends the process. It gets the
    short texts that have neither; its errors are worded by the other.
    """
    if len(found) < 2000 and not DEEP.search(found):
        with contextlib.suppress(yaml.YAMLError):
            return yaml.load(found, getattr(yaml, "CSafeLoader", _PlainLoader))
    return yaml.load(found, _PlainLoader)


def yaml_problem(error: Exception) -> str:
    """Return what an error of yaml's says, with its line in front, to be set behind a file's name."""
    mark = getattr(error, "problem_mark", None)
    said = " ".join(str(getattr(error, "problem", None) or error).split()) or type(error).__name__
    return f", line {mark.line + 1}: {said}" if mark is not None else f": {said}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a yaml file holds; plain values only, no aliases. Raises Damaged."""
    found = text(path)
    if found is None:
        raise Damaged(f"{path} is not there")
    if len(found) > YAML_LIMIT:
        raise Damaged(f"{path} is too large for a config ({len(found)} characters)")
    try:
        value = plain_yaml(found)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Damaged(f"{path} is not yaml{yaml_problem(error)}") from error
    if not isinstance(value, dict):
        raise Damaged(f"{path} holds no keys and values")
    return value


class _PlainDumper(yaml.SafeDumper):
    """YAML without aliases, as `read_yaml` wants it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def yaml_text(value: Mapping[str, Any]) -> str:
    """Return the yaml of plain values, in their order."""
    return yaml.dump(value, Dumper=_PlainDumper, sort_keys=False)


def side_file(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file that others can do without: a damaged one is named and taken as empty."""
    try:
        return read_json(path) or {}
    except Damaged as error:
        notice(f"{error}; it is left out.")
        return {}


def digest(tensors: Tensors, meta: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the metadata and of every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(canonical(meta).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(canonical([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.reshape(-1).view(dtype=_bytes()).numpy().data if tensor.numel() else b"")
    return sha.hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8


def pack(tensors: Tensors, meta: Mapping[str, Any]) -> bytes:
    """Serialise tensors and metadata as safetensors, the metadata canonical JSON under the one key `ltx`.

    Two digests stand beside the metadata: `digest` of everything, and `meta_digest` of the metadata alone, so that a
    table can be made from the headers of files without trusting what no digest covers.
    """
    from safetensors.torch import save

    digests = {"digest": digest(tensors, meta), "meta_digest": digest({}, meta)}
    return save(tensors, {"ltx": canonical({**meta, **digests})})


def unpack(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read what `pack` wrote and verify its digests. Raises Damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    found = content(path)
    if found is None:
        raise Damaged(f"{path} is not there")
    try:
        tensors, (meta, whole) = load(found), header(path, found)
    except (SafetensorError, ValueError, KeyError, MemoryError) as error:
        raise Damaged(f"{path} cannot be read ({error})") from error
    if whole != digest(tensors, meta):
        raise Damaged(f"{path} does not match its digest")
    return {name: tensors[name] for name in sorted(tensors)}, meta  # safetensors returns them in any order


def header(path: Path, found: bytes | None = None) -> tuple[dict[str, Any], str]:
    """Return the metadata of a packed file, read from its first bytes, and the digest of the whole. Raises Damaged."""
    if found is None:
        size = content(path, 8)
        if size is None:
            raise Damaged(f"{path} is not there")
        length = int.from_bytes(size, "little")
        found = content(path, 8 + min(length, HEADER_LIMIT)) or b""
    length = int.from_bytes(found[:8], "little")
    try:
        told = json.loads(found[8 : 8 + length])["__metadata__"]["ltx"]
        meta = json.loads(told)
        whole, own = meta.pop("digest"), meta.pop("meta_digest")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    # What `pack` wrote is canonical but for the two digests; to write it anew takes as long as all the rest.
    as_written = hashlib.sha256(DIGESTS.sub("", told).encode(errors="replace")).hexdigest()
    if own != as_written and own != digest({}, meta):
        raise Damaged(f"{path} does not match its digest")
    return meta, whole
