"""The folder that an export is: tried before it is there, and put in its place whole."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch

from ltx.errors import BadInput, Failed
from ltx.export import loader
from ltx.export.build import TRIED, Export, examples, logits_of
from ltx.export.restore import SCORES, TICKET
from ltx.store.files import Damaged, commit, header, host

LOADER, CARD, ONNX = "load.py", "README.md", "ticket.onnx"
OURS = (TICKET, SCORES, LOADER, CARD, ONNX, "__pycache__")
FEW = 3  # names that a message shows


def place(folder: str, overwrite: bool) -> Path:
    """Return where an export goes. Raises BadInput where something stands there that is not to be replaced."""
    if not folder.strip():
        raise BadInput("DIR is empty; name a folder for the export.")
    path = Path(os.path.realpath(os.path.expanduser(folder)))
    if not path.exists():
        return path
    if not path.is_dir():
        raise BadInput(f"{path} is a file; name a folder that is not there yet, or an empty one.")
    there = sorted(found.name for found in path.iterdir())
    foreign = [name for name in there if name not in OURS]
    if there and (foreign or not is_export(path)):
        shown = ", ".join((foreign or there)[:FEW])
        raise BadInput(
            f"{path} holds what `ltx export` did not write ({shown}), and is left as it is; name a folder that is not "
            "there yet, or an empty one."
        )
    if there and not overwrite:
        raise BadInput(f"{path} holds an export already; overwrite=true replaces it.")
    return path


def is_export(folder: Path) -> bool:
    """Tell whether a folder's ticket is one that was exported."""
    try:
        return "export" in header(folder / TICKET)[0]
    except Damaged:
        return False


def write(export: Export, folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of an export, try what its loader makes of them, and put the folder in its place.

    Raises Failed, with nothing left behind, where the logits are others than the ticket's.
    """
    new, old = (folder.with_name(f".{folder.name}.{host()}.{os.getpid()}.{uuid.uuid4().hex[:6]}") for _ in range(2))
    try:
        for name, content in contents.items():
            commit(new / name, content)
        network = loader.module_of((new / LOADER).read_text()).load(folder=new)
        with torch.no_grad():
            logits = network(examples(export.known, TRIED))
        if not torch.equal(logits, logits_of(export.known)):
            raise Failed(
                f"What {LOADER} makes of the written files has other logits than the ticket; nothing was kept."
            )
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
