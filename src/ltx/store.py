"""A run's directory: level files, records, and what is derived from them."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltx.tensors import Tensors

COLUMNS = (
    *("seed", "level", "density", "kept", "prunable", "total", "step", "train_loss", "val_loss", "val_accuracy"),
    *("test_loss", "test_accuracy", "early_stop_step", "early_stop_test_accuracy"),
)


class Damaged(Exception):
    """A file that is truncated or does not match its digest."""


def canonical(value: object) -> str:
    """Return the one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def commit(path: Path, content: bytes, replace: bool = True) -> bool:
    """Write a file so that it exists whole or not at all: write, fsync, rename.

    With replace=False a file that is already there is kept (adopted) and False returned.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
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
    """Serialise tensors and metadata as safetensors, the metadata canonical JSON under the one key `ltx`."""
    from safetensors.torch import save

    return save(tensors, {"ltx": canonical({**meta, "digest": digest(tensors, meta)})})


def unpack(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read what `pack` wrote and verify its digest. Raises Damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
        tensors, meta = load(content), header(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged(f"{path} cannot be read ({error})") from error
    if meta.pop("digest", None) != digest(tensors, meta):
        raise Damaged(f"{path} does not match its digest")
    return {name: tensors[name] for name in sorted(tensors)}, meta  # safetensors returns them in any order


def header(content: bytes) -> dict[str, Any]:
    """Return the metadata of a packed file from its first bytes."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["ltx"])


@dataclass(frozen=True)
class SeedFolder:
    """One seed's files; only its worker writes here."""

    path: Path

    @property
    def seed(self) -> int:
        """The seed of the folder's name."""
        return int(self.path.name.removeprefix("seed_"))

    def level_path(self, level: int) -> Path:
        """Return where a level's file is, finished or not."""
        return self.path / f"level_{level:02d}.safetensors"

    @property
    def partial_path(self) -> Path:
        """Where the level under way is checkpointed."""
        return self.path / "partial.safetensors"

    def read(self, path: Path) -> tuple[Tensors, dict[str, Any]] | None:
        """Read a level or checkpoint, or None where there is none; a damaged one is named and set aside."""
        if not path.exists():
            return None
        try:
            return unpack(path)
        except Damaged as error:
            aside = path.with_name(f"{path.name}.damaged-{uuid.uuid4().hex[:6]}")
            os.replace(path, aside)
            print(f"ltx: {error}; set aside as {aside.name} and computed again.", flush=True)
            return None

    def rows(self) -> list[dict[str, Any]]:
        """Return the summary rows of the finished levels, from the files' headers, with the densities of `layers`."""
        result = []
        for path in sorted(self.path.glob("level_*.safetensors")):
            try:
                with open(path, "rb") as file:
                    size = file.read(8)
                    meta = header(size + file.read(int.from_bytes(size, "little")))
                    result.append({**meta["row"], "layers": meta["layers"]})
            except (ValueError, KeyError, OverflowError, MemoryError):
                continue  # damaged: the seed's next worker sets it aside
        return result

    def records(self, level: int | None = None) -> list[dict[str, Any]]:
        """Return the records, of one level or all, in order.

        Of a step recorded again after a resume the last counts; a torn line is dropped.
        """
        path = self.path / "records.jsonl"
        found: dict[tuple, dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            if level is not None and f'"level": {level},' not in line:
                continue  # not even parsed: a run asks for each of its levels
            try:
                row = json.loads(line)
                found[row["level"], row["step"], row["split"]] = row
            except (ValueError, KeyError, TypeError):
                continue
        return [found[at] for at in sorted(found)]

    @property
    def failure_path(self) -> Path:
        """Where a failure that would happen again is kept."""
        return self.path / "failed.json"

    def failure(self) -> dict[str, Any] | None:
        """Return what failed here: level, step, reason, or None."""
        try:
            return json.loads(self.failure_path.read_text())
        except (OSError, ValueError):
            return None


class Records:
    """Append rows to a seed's records; every line is out of the process when `add` returns, so a kill loses none."""

    def __init__(self, folder: SeedFolder):
        folder.path.mkdir(parents=True, exist_ok=True)
        path = folder.path / "records.jsonl"
        torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by `close`
        if torn:
            self.file.write(b"\n")

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, one JSON line each."""
        self.file.write("".join(json.dumps(row) + "\n" for row in rows).encode())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


@dataclass(frozen=True)
class RunFolder:
    """A run's directory."""

    path: Path

    def seed(self, seed: int) -> SeedFolder:
        """Return one seed's folder."""
        return SeedFolder(self.path / f"seed_{seed:03d}")

    def seeds(self) -> list[SeedFolder]:
        """Return the folders of the seeds begun."""
        return [SeedFolder(path) for path in sorted(self.path.glob("seed_*")) if path.is_dir()]

    def rows(self) -> list[dict[str, Any]]:
        """Return the summary rows of all finished levels, by seed and level."""
        return sorted((row for seed in self.seeds() for row in seed.rows()), key=lambda r: (r["seed"], r["level"]))

    def write_summary(self) -> list[dict[str, Any]]:
        """Derive summary.csv from the level files and return its rows."""
        rows = self.rows()
        names = dict.fromkeys(name for row in rows for name in row)
        extra = [name for name in names if name not in (*COLUMNS, "layers")]
        text = io.StringIO()
        writer = csv.DictWriter(text, [*COLUMNS, *extra], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        commit(self.path / "summary.csv", text.getvalue().encode())
        return rows

    def manifest(self) -> dict[str, Any]:
        """Return the manifest, empty where there is none yet."""
        try:
            return json.loads((self.path / "manifest.json").read_text())
        except (OSError, ValueError):
            return {}

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest."""
        commit(self.path / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())

    def running(self, age: float = 5.0) -> dict[str, Any] | None:
        """Return who holds the lock, by the file's own age; for display only."""
        path = self.path / "lock"
        try:
            return json.loads(path.read_text()) if time.time() - path.stat().st_mtime < age else None
        except (OSError, ValueError):
            return None
