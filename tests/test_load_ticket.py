"""`ltx.load_ticket`: a folder from elsewhere is read as data, and refused where it is not what an export writes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Result
from exports import known, program, written
from helpers import same
from torch import Tensor

from ltx import load_ticket
from ltx.errors import BadInput
from ltx.export.build import Export
from ltx.store.files import pack, unpack

Ltx = Callable[..., Result]
TICKET, SCORES = "ticket.safetensors", "scores.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a ticket of biprop, with its scores."""
    folder = tmp_path_factory.mktemp("whole")
    export = Export.of(known(folder, "model.hidden=[12,8]", "method=biprop"))
    written(export, folder / "ticket")
    assert export.scores is not None
    (folder / "ticket" / SCORES).write_bytes(export.scores)
    return folder / "ticket"


@pytest.fixture
def exported(whole: Path) -> Path:
    """A test's own copy of it."""
    return Path(shutil.copytree(whole, "ticket"))


def changed(folder: Path, tensors: dict[str, Tensor] | None = None, **meta: object) -> None:
    """Write a ticket with some of its tensors and its metadata replaced, and the digest that belongs to these."""
    own, said = unpack(folder / TICKET)
    (folder / TICKET).write_bytes(pack(own | (tensors or {}), said | meta))


def without_signs(folder: Path, values: Tensor, shape: list[int]) -> None:
    """Write a ticket whose first matrix, of which all is kept, has these values and this shape."""
    own, said = unpack(folder / TICKET)
    name = "fc1.weight"
    rest = {entry: tensor for entry, tensor in own.items() if entry.partition("/")[2] != name}
    meta = {**said, "shapes": {**said["shapes"], name: shape}}
    (folder / TICKET).write_bytes(pack(rest | {f"values/{name}": values}, meta))


def spoilt(folder: Path, case: str) -> None:
    path = folder / TICKET
    content = path.read_bytes()
    name = "fc1.weight"
    cases: dict[str, Callable[[], object]] = {
        "missing": path.unlink,
        "a folder": lambda: path.rename(folder / "away") and path.mkdir(),  # type: ignore[func-returns-value]
        "pickle": lambda: torch.save({"a": torch.zeros(1)}, path),
        "truncated": lambda: path.write_bytes(content[:-5]),
        "a bit": lambda: path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]),
        "digest": lambda: path.write_bytes(content.replace(b'level\\":0', b'level\\":1')),
        "dots": lambda: changed(folder, {"whole/../../x": torch.zeros(1)}),
        "a path": lambda: changed(folder, {"whole//etc/x": torch.zeros(1)}),
        "a kind": lambda: changed(folder, {"code/fc1": torch.zeros(1)}),
        "format": lambda: changed(folder, export=2),
        "no key": lambda: changed(folder, key=None),
        "no row": lambda: changed(folder, row={}),
        "masked": lambda: changed(folder, masked=["../x"], shapes={"../x": [1]}),
        "no name": lambda: changed(folder, masked=[["fc1"]]),
        "a line": lambda: changed(folder, {"whole/a\nb": torch.zeros(1)}),
        "a terminal": lambda: changed(folder, {"bad/\x1b[31m": torch.zeros(1)}),
        "nothing": lambda: without_signs(folder, torch.zeros(0), [0, 2**62, 2**62]),
        "eight bits": lambda: without_signs(folder, torch.zeros(6).to(torch.float8_e4m3fn), [2, 3]),
        "no floats": lambda: changed(folder, {f"alpha/{name}": torch.ones(1, dtype=torch.bool)}),
        "nan": lambda: changed(folder, {f"alpha/{name}": torch.full((1,), torch.nan)}),
        "infinite": lambda: changed(folder, {"whole/fc1.bias": torch.full((2,), torch.inf)}),
        "huge": lambda: changed(folder, shapes={name: [10**9, 10**9]}),
        "mask": lambda: changed(folder, {f"mask/{name}": torch.zeros(3, dtype=torch.uint8)}),
        "signs": lambda: changed(folder, {f"signs/{name}": torch.zeros(3, dtype=torch.uint8)}),
        "alpha": lambda: changed(folder, {f"alpha/{name}": torch.zeros(2)}),
        "level file": lambda: path.write_bytes(pack({"end/fc1.weight": torch.zeros(1)}, {"format": 2})),
        "scores": lambda: (folder / SCORES).write_bytes(pack({"fc1.weight": torch.zeros(1)}, {})),
    }
    cases[case]()


SPOILT = {
    "missing": "is not there",
    "a folder": "is not a regular file",
    "pickle": "is a pickle",
    "truncated": "cannot be read",
    "a bit": "does not match its digest",
    "digest": "does not match its digest",
    "dots": "'whole/../../x' is no name",
    "a path": "'whole//etc/x' is no name",
    "a kind": "'code/fc1' is no name",
    "format": "it has format 2",
    "no key": "it does not say its key",
    "no row": "its row has no seed",
    "masked": "of '../x' do not fit",
    "no name": "of \"['fc1']\" do not fit",
    "a line": r"'whole/a\nb' is no name",
    "a terminal": r"'bad/\x1b[31m' is no name",
    "nothing": "of 'fc1.weight' do not fit",
    "eight bits": "'values/fc1.weight' holds what is no weight",
    "no floats": "'alpha/fc1.weight' holds what is no weight",
    "nan": "'alpha/fc1.weight' holds what is no weight",
    "infinite": "'whole/fc1.bias' holds what is no weight",
    "huge": "of 'fc1.weight' do not fit",
    "mask": "of 'fc1.weight' do not fit",
    "signs": "of 'fc1.weight' do not fit",
    "alpha": "of 'fc1.weight' do not fit",
    "level file": "it has format None",
    "scores": "the scores of another ticket",
}
SEEN = ("missing", "a folder", "pickle", "truncated", "a bit", "digest", "format", "level file")


@pytest.mark.parametrize("case", SPOILT)
def test_a_hostile_or_damaged_folder_is_refused_in_one_paragraph(case: str, exported: Path) -> None:
    spoilt(exported, case)
    with pytest.raises(BadInput) as refused:
        load_ticket(exported)
    assert SPOILT[case] in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("case", SEEN)
def test_the_loader_itself_refuses_what_was_changed(case: str, exported: Path) -> None:
    spoilt(exported, case)
    with pytest.raises((ValueError, OSError)):
        program(exported).load(folder=exported)


def test_what_is_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="File name too long"):
        load_ticket("n" * 300)
    with pytest.raises(BadInput, match="is not there"):
        load_ticket(tmp_path / "nowhere")


NET = """
from pathlib import Path
from torch import nn

Path("imported").touch()


class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, classes))
"""


def test_code_outside_ltx_is_imported_only_where_it_is_trusted(tmp_path: Path, ltx: Ltx) -> None:
    Path("tickets_own.py").write_text(NET)
    own = ("model=own", "model.name=tickets_own:Net", "method=at_init", "method.criterion=random")
    folder = known(tmp_path, *own).path
    assert ltx("export", str(folder), "no").code == 2
    assert ltx("export", str(folder), "ticket", "trust=true").code == 0
    assert ltx("show", str(folder), "--time").code == 2 and ltx("show", str(folder), "--time", "trust=true").code == 0
    Path("imported").unlink()
    sys.modules.pop("tickets_own")
    back = load_ticket("ticket")
    network = program(Path("ticket")).load(folder="ticket")
    with pytest.raises(BadInput, match=r"tickets_own:Net.*trust=True"):
        back.module()
    assert not Path("imported").exists() and len(back.weights) == 4
    trusted = load_ticket("ticket", trust=True).module()
    assert Path("imported").exists() and same(dict(trusted.state_dict()), dict(network.state_dict()))


def test_a_ticket_that_does_not_fit_its_own_config_is_refused(exported: Path) -> None:
    config = unpack(exported / TICKET)[1]["config"]
    changed(exported, config={**config, "model": {**config["model"], "hidden": [4, 4]}})
    with pytest.raises(BadInput, match="does not fit the network of its config"):
        load_ticket(exported).module()
