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
from ltx.runs.checks import check_place
from ltx.store.files import Damaged, commit, header, host, is_left_over, writing

LOADER, CARD, ONNX = "load.py", "README.md", "ticket.onnx"
OURS = (TICKET, SCORES, LOADER, CARD, ONNX, "__pycache__")
FEW = 3  # names that a message shows
HIDDEN = ".ltx-export"  # begins the names of folders under way


def place(folder: str, overwrite: bool) -> Path:
    """Return where an export goes.

    Raises BadInput where something stands there that is not to be replaced, and where no folder can be made.
    """
    if not folder.strip():
        raise BadInput("DIR is empty; name a folder for the export.")
    path = Path(os.path.realpath(os.path.expanduser(folder)))
    check_place(path, str(path))
    if path.exists():
        check_free(path, overwrite)
    return path


def check_free(path: Path, overwrite: bool) -> None:
    """Raise BadInput where what is there is not to be replaced. What an export left that was killed may be."""
    found = sorted(entry.name for entry in path.iterdir())
    there = [name for name in found if not left_over(name)]
    foreign = [name for name in there if name not in OURS]
    if there and (foreign or not (is_export(path) or there != found)):
        shown = ", ".join((foreign or there)[:FEW])
        raise BadInput(
            f"{path} holds what `ltx export` did not write ({shown}), and is left as it is; name a folder that is not "
            "there yet, or an empty one."
        )
    if there and not overwrite:
        raise BadInput(f"{path} holds an export already; overwrite=true replaces it.")


def left_over(name: str) -> bool:
    """Tell whether a name is that of a folder which an export that was killed on this machine had under way."""
    return name.startswith(f"{HIDDEN}.") and is_left_over(name)


def is_export(folder: Path) -> bool:
    """Tell whether a folder's ticket is one that was exported."""
    try:
        return "export" in header(folder / TICKET)[0]
    except Damaged:
        return False


def write(export: Export, folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of an export, try what its loader makes of them, and put them in their place.

    Raises Failed, with nothing left behind, where they cannot be written, and where the logits are others than the
    ticket's.
    """
    beside = folder if folder.is_dir() else folder.parent
    new, old = (beside / f"{HIDDEN}.{host()}.{os.getpid()}.{uuid.uuid4().hex[:6]}" for _ in range(2))
    try:
        with writing(folder):
            for name, content in contents.items():
                commit(new / name, content)
            network = loader.module_of((new / LOADER).read_text()).load(folder=new)
            with torch.no_grad():
                logits = network(examples(export.known, TRIED))
            if not torch.equal(logits, logits_of(export.known)):
                raise Failed(
                    f"What {LOADER} makes of the written files has other logits than the ticket; nothing was kept."
                )
            if beside == folder:
                old.mkdir()
                exchange(folder, new, old)
            else:
                os.replace(new, folder)
            for path in beside.glob(f"{HIDDEN}.*"):
                if left_over(path.name):
                    shutil.rmtree(path, ignore_errors=True)
    finally:
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)


def exchange(folder: Path, new: Path, old: Path) -> None:
    """Put new files into a folder that stays, for one may stand in it or it may be a mount, and the others into `old`.

    The ticket goes first and comes last: without it the folder is no export. All goes back where a file cannot move.
    """
    gone = sorted((name for name in os.listdir(folder) if name in OURS), key=lambda name: name != TICKET)
    come = sorted(os.listdir(new), key=lambda name: name == TICKET)
    moves = [(folder / name, old / name) for name in gone] + [(new / name, folder / name) for name in come]
    try:
        for one, other in moves:
            os.replace(one, other)
    except BaseException:
        for one, other in reversed(moves):
            if other.exists() and not one.exists():
                os.replace(other, one)
        raise
