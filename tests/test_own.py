"""Data sets and networks of a user's own: what is plainly meant is taken, all else is one paragraph and exit 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, only

from ltx.data.arrays import assemble
from ltx.errors import BadInput

X, Y = np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) % 3
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3)).astype("uint8")

REFUSED: dict[str, tuple[Any, str]] = {
    "regression": ((X, Y + 0.5), "not whole numbers"),
    "one class": ((X, np.ones(12)), "one class"),
    "labels that are not finite": ((X, np.where(Y == 0, np.nan, Y)), "not whole numbers"),
    "labels of two kinds": ({"train": (X, Y), "val": (X, ["a"] * 12)}, "of one kind"),
    "a label that train has not": ({"train": (X, Y), "test": (X, Y + 1)}, "labels that train has not: 3"),
    "valid": ({"train": (X, Y), "valid": (X, Y)}, "'valid' is none of them; did you mean 'val'?"),
    "Train": ({"Train": (X, Y)}, "did you mean 'train'?"),
    "three things": ((X, Y, Y), "not tuple of 3"),
    "None": (None, "not NoneType"),
    "a part that is no pair": ({"train": X}, "should be a pair"),
    "texts for examples": ((np.array([["a"] * 4] * 12), Y), "no numbers"),
    "a column of texts": ((pd.DataFrame(X).assign(name="a"), Y), "columns that are no numbers: name"),
    "ragged rows": (([[1.0], [1.0, 2.0]], [0, 1]), "no array"),
    "parts of two shapes": ({"train": (X, Y), "test": (X[:, :3], Y)}, "should be equal"),
    "dates for labels": ((X, np.array(["2020-01-01"] * 12, "datetime64[D]")), "whole numbers or texts"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_data_set_may_be_is_refused_in_one_sentence(kind: str) -> None:
    parts, words = REFUSED[kind]
    with pytest.raises(BadInput) as refused:
        assemble(parts, 0)
    assert words in str(refused.value)


TAKEN: dict[str, tuple[Any, list[str]]] = {
    "a bare pair": ((X, Y), ["0", "1", "2"]),
    "whole floats": ((X, Y.astype(float)), ["0", "1", "2"]),
    "gaps": ((X, np.array([7, 1_000_000, 0])[Y]), ["0", "7", "1000000"]),
    "texts": ((X, np.array(["dog", "ant", "cat"])[Y]), ["ant", "cat", "dog"]),
    "true and false": ((X, Y > 0), ["0", "1"]),
    "tensors": ((torch.from_numpy(X), torch.from_numpy(Y)), ["0", "1", "2"]),
    "lists": ((X.tolist(), Y.tolist()), ["0", "1", "2"]),
    "a frame and a series": ((pd.DataFrame(X), pd.Series(["b", "a", "c"])[Y].reset_index(drop=True)), ["a", "b", "c"]),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_plainly_means_a_data_set_is_taken_and_its_classes_keep_their_names(kind: str) -> None:
    given, names = TAKEN[kind]
    data = assemble(given, 0, val=2, test=2)
    assert data.names == tuple(names) and data.classes == len(names)
    x = torch.cat([split.x for split in (data.train, data.val, data.test)])
    y = torch.cat([split.y for split in (data.train, data.val, data.test)])
    labels = [str(int(label)) if not isinstance(label, str) else label for label in list(given[1])]
    rows: dict[tuple, str] = {tuple(np.float32(row).tolist()): label for row, label in zip(X, labels, strict=True)}
    assert [rows[tuple(row)] for row in x.tolist()] == [names[i] for i in y.tolist()]


def test_images_of_bytes_get_their_channels_first_and_run_from_0_to_1() -> None:
    data = assemble(dict.fromkeys(("train", "val", "test"), (IMAGES, Y)), 0)
    assert data.facts.input_shape == (3, 6, 5)
    assert torch.equal(data.train.x, torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).astype("float32") / 255))
    assert any("channels last" in note for note in data.notes) and any("divided by 255" in note for note in data.notes)
    first = assemble({name: (IMAGES.transpose(0, 3, 1, 2), Y) for name in ("train", "val", "test")}, 0)
    assert torch.equal(first.train.x, data.train.x) and not any("channels last" in note for note in first.notes)
    grey = assemble(dict.fromkeys(("train", "val", "test"), (IMAGES[..., 0], Y)), 0)
    assert grey.facts.input_shape == (1, 6, 5)


HERE = "  # here"  # the line that the refusal must name
HEAD = "import numpy as np\nimport torch\nfrom torch import nn\n\nX = np.random.default_rng(0).normal(size=(60, 4))\n"
DATA = "class Set:\n    def load(self):\n        return X, np.arange(60) % 3\n"
NET = "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(4, 3)\n"
NET += "    def forward(self, x):\n"
GOOD = f"{NET}        return self.fc(x)\n"
# Code of a module that has Set and Net, and what the refusal must say.
OWN = {
    "forward wants images": (DATA + NET + "        return self.fc(x.flatten(2))  # here\n", "input 4 "),
    "forward looks at values and fails": (DATA + NET + "        return [][int(x.sum() * 0)]  # here\n", "IndexError"),
    "another shape": (DATA + NET + "        return self.fc(x).sum()\n", "returns shape () for 2 examples"),
    "lazy layers": (DATA + GOOD.replace("nn.Linear(4, 3)", "nn.LazyLinear(3)"), "lazy layers (fc.weight, fc.bias)"),
    "a function that makes no network": (DATA + "def Net():\n    return 3\n", "returned a int"),
}


@pytest.mark.parametrize("kind", OWN)
def test_what_a_users_code_does_wrong_is_one_paragraph_before_anything_is_written(
    kind: str, ltx: Callable, root: Path, request: pytest.FixtureRequest
) -> None:
    code, words = OWN[kind]
    module = f"own_{list(OWN).index(kind)}"
    text = HEAD + code
    Path(f"{module}.py").write_text(text)
    own = ("model=own", f"model.name={module}:Net", "data=own", f"data.name={module}:Set")
    for more in ([], ["--dry-run"]):
        result = ltx("run", *own, *more)
        assert result.code == 2 and words in result.err and len(result.err.strip().splitlines()) == 1, result.err
        if "# here" in text:
            line = next(i for i, row in enumerate(text.splitlines(), 1) if "# here" in row)
            assert f"{module}.py, line {line}: " in result.err
        assert not root.exists()


def test_a_network_that_looks_at_values_is_tried_on_real_examples_and_runs(ltx: Callable, root: Path) -> None:
    code = DATA.replace("np.arange(60) % 3", "np.array(['b', 'a', 'c'])[np.arange(60) % 3]")
    Path("own_values.py").write_text(HEAD + code + NET + "        return self.fc(x) if float(x.sum()) < 1e9 else x\n")
    result = ltx(
        "run",
        *TINY,
        "optim.batch=10",
        "width=1",
        "method.exclude=[]",
        "model=own",
        "model.name=own_values:Net",
        "data=own",
        "data.name=own_values:Set",
    )
    assert result.code == 0, result.err
    assert "became the classes 0 to 2" in result.err
    assert json.loads((only(root) / "manifest.json").read_text())["classes"] == ["a", "b", "c"]


def test_a_width_is_refused_where_a_users_network_takes_none(ltx: Callable, root: Path) -> None:
    Path("own_width.py").write_text(HEAD + DATA + GOOD + "\n\ndef wide(width):\n    return Net()\n")
    words = ("run", "method=dense", "optim.steps=2", "seeds=1", "model=own", "data=own", "data.name=own_width:Set")
    for more in ([], ["--dry-run"]):
        refused = ltx(*words, "model.name=own_width:Net", "width=4", *more)
        assert refused.code == 2 and "takes no width, so that width=4 would change nothing" in refused.err
        assert len(refused.err.strip().splitlines()) == 1 and not root.exists()
    assert ltx(*words, "model.name=own_width:Net", "optim.batch=10", "width=1").code == 0
    assert ltx(*words, "model.name=own_width:wide", "optim.batch=10", "width=4").code == 0
