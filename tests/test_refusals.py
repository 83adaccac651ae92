"""Models, frames and labels whose faults shapes do not show: taken where the meaning is plain, else one paragraph."""

from __future__ import annotations

import typing
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pytest
from annotated_types import Gt
from conftest import TINY, only

from ltx.config import schema
from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.data import Facts
from ltx.data.arrays import assemble
from ltx.errors import BadInput

if typing.TYPE_CHECKING:
    from nowhere import Nothing


X, Y = np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) % 3


def test_control_characters_of_a_runs_config_and_of_a_users_errors_do_not_reach_the_terminal(ltx, finished):
    path = finished / "config.yaml"
    text = path.read_text()
    assert "name: lenet" in text
    for changed in (text.replace("name: lenet", 'name: "a:\\x1b[31mred"'), f'{text}"\\x1b[31m": 1\n'):
        path.write_text(changed)
        for more in ([], ["trust=true"]):
            result = ltx("run", "method=control", "method.kind=ticket", f"of={finished.name}", *more)
            assert result.code == 2 and "[31m" in result.err and "\x1b" not in result.err
    Path("red.py").write_text("raise ValueError('\\x1b[31mred')\n")
    Path("parts.py").write_text("class Set:\n    def load(self):\n        return {'\\x1b[31mred': 1}\n")
    for words in (["model=own", "model.name=red:Net"], ["data=own", "data.name=parts:Set"]):
        result = ltx("run", *words)
        assert result.code == 2 and "\N{REPLACEMENT CHARACTER}[31mred" in result.err and "\x1b" not in result.err


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))

    def forward(self, x):
        return self.body(x)
"""
# What is changed in Net, and what the refusal must say.
UNTRAINABLE = {
    "a layer of doubles": ("nn.Linear(8, classes)", "nn.Linear(8, classes).double()", "float32 and float64"),
    "all layers doubles": ("classes))", "classes)).double()", "same dtype"),
    "whole-number parameters": (
        "self.body =",
        "self.n = nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False)\n        self.body =",
        "float32 and int64",
    ),
    "whole-number outputs": ("self.body(x)", "self.body(x).round().long()", "returns torch.int64"),
    "detached outputs": ("self.body(x)", "self.body(x).detach()", "do not depend on its parameters"),
    "outputs without gradients": ("    def forward", "    @torch.no_grad()\n    def forward", "do not depend on"),
    "a change in place that breaks gradients": (
        "return self.body(x)",
        "y = self.body(x).exp(); z = y.square(); y += 1; return z",
        "modified by an inplace operation",
    ),
    "a lazy layer with buffers only": (
        "nn.ReLU()",
        "nn.LazyBatchNorm1d(affine=False)",
        "lazy layers (body.2.running_mean, body.2.running_var)",
    ),
}


@pytest.mark.parametrize("kind", UNTRAINABLE)
def test_a_network_that_cannot_be_trained_is_refused_before_anything_is_written(kind, ltx, root):
    before, after, words = UNTRAINABLE[kind]
    assert before in NET
    module = f"untrainable_{list(UNTRAINABLE).index(kind)}"
    Path(f"{module}.py").write_text(NET.replace(before, after))
    result = ltx("run", *TINY, "width=1", "model=own", f"model.name={module}:Net")
    assert result.code == 2 and words in result.err and len(result.err.strip().splitlines()) == 1, result.err
    assert not root.exists()


def test_a_model_is_tried_once_a_process_and_without_loading_data_that_says_what_it_is():
    text = NET.replace("return self.body", "CALLS.append(x.device.type); return self.body")
    Path("counted.py").write_text(text.replace("class Net", "CALLS = []\n\nclass Net"))
    Path("told.py").write_text(
        "from ltx.data import Facts\n\nclass Set:\n"
        "    def facts(self):\n        return Facts((1, 8, 8), 10, 99, 9, 9)\n"
        "    def load(self):\n        raise AssertionError('it was loaded')\n"
    )
    config = compose(["model=own", "model.name=counted:Net", "data=own", "data.name=told:Set"], [])
    assert Spec.of(config).facts == Facts((1, 8, 8), 10, 99, 9, 9)
    import counted

    assert counted.CALLS == ["cpu", "cpu"]
    Spec.of({**config, "seeds": 1})
    assert counted.CALLS == ["cpu", "cpu"]


def test_a_network_all_of_doubles_that_casts_its_input_runs(ltx, root):
    Path("doubles.py").write_text(NET.replace("classes))", "classes)).double()").replace("body(x)", "body(x.double())"))
    result = ltx("run", *TINY, "width=1", "model=own", "model.name=doubles:Net")
    assert result.code == 0, result.err


ANNOTATED = """
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from nowhere import Nothing

class Net(nn.Sequential):
    def __init__(self, input_shape, classes, q: torch.Tensor = torch.ones(2), n: Nothing = None, hidden: int = 8,
                 act: type[nn.Module] = nn.ReLU, _depth: int = 1, copy: bool = True):
        super().__init__(nn.Flatten(), nn.Linear(64, hidden), act(), nn.Linear(hidden, classes))
"""


@pytest.mark.parametrize("future", [True, False])
def test_an_annotation_that_means_nothing_to_ltx_is_anything_and_the_others_are_checked(future, ltx, root):
    text = (
        ANNOTATED
        if future
        else ANNOTATED.replace("from __future__ import annotations", "").replace("n: Nothing", "n: 'Nothing'")
    )
    module = f"annotated_{future}"
    Path(f"{module}.py").write_text(text)
    words = ("run", *TINY, "width=1", "model=own", f"model.name={module}:Net")
    wrong = ltx(*words, "model.hidden=many", "model._depth=x")
    assert wrong.code == 2 and "model.hidden=many" in wrong.err and "model._depth=x" in wrong.err
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = ltx(*words, "model.hidden=9")
    assert result.code == 0, result.err
    said = compose(list(words[1:]), [])
    held = Spec.of(said).config["model"]
    assert held == {
        "name": f"{module}:Net",
        "n": None,
        "hidden": 8,
        "_depth": 1,
        "copy": True,
        "init": None,
        "channels_last": None,
    }
    assert f"of={only(root).name}" and ltx("show", only(root).name).code == 0


@dataclass(frozen=True)
class Base:
    share: Annotated[float, Gt(0)] = 0.5
    what: Nothing | None = None


@dataclass(frozen=True)
class Derived(Base):
    kind: Literal["a", "b"] = "a"


def test_a_dataclass_keeps_the_types_that_can_be_looked_up():
    found = schema.fields(Derived)
    assert found["kind"][0] == Literal["a", "b"] and found["what"][0] is Any
    assert found["share"][0] == Annotated[float, Gt(0)]


def test_a_function_of_a_library_that_makes_no_network_is_refused_in_one_paragraph(ltx, root, finished):
    path = finished / "config.yaml"
    path.write_text(path.read_text().replace("name: lenet", "name: torch:load"))
    words = ("run", "method=control", "method.kind=ticket", f"of={finished.name}", "trust=true")
    for result in (ltx(*words), ltx("run", "model=own", "model.name=torch:load")):
        assert result.code == 2 and len(result.err.strip().splitlines()) == 1, result.err


FRAMES = {
    "one column of true and false": lambda: pd.DataFrame(X).assign(flag=Y > 0),
    "convert_dtypes": lambda: pd.DataFrame(X).assign(n=np.arange(12), flag=Y > 0).convert_dtypes(),
    "Int64, Float64 and boolean": lambda: pd.DataFrame(
        {"a": pd.array(Y, "Int64"), "b": pd.array(X[:, 0], "Float64"), "c": pd.array(Y > 0, "boolean")}
    ),
    "two columns of one name": lambda: pd.DataFrame(X, columns=["a", "a", "b", "c"]).assign(flag=Y > 0),
    "whole numbers as objects": lambda: pd.DataFrame(np.arange(24).reshape(12, 2)).astype(object),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_of_numbers_of_several_types_is_taken_column_by_column(kind):
    frame = FRAMES[kind]()
    data = assemble(dict.fromkeys(("train", "val", "test"), (frame, Y)), 0)
    assert data.train.x.tolist() == np.array(frame.to_numpy().tolist(), "float32").tolist()


def test_labels_in_a_column_that_can_hold_missing_values_are_taken():
    data = assemble((X, pd.Series(Y).convert_dtypes()), 0, val=2, test=2)
    assert data.classes == 3
    target = pd.DataFrame({"a": pd.array(X[:, 0], "Float64"), "b": Y})
    assert assemble((X, target), 0, val=2, test=2, task="regression").classes == 2


WITH_A_GAP = pd.DataFrame({"a": pd.array([None, *Y[1:]], "Int64"), "b c": Y})
WRONG: dict[str, tuple[Any, str]] = {
    "a column with a missing value": ((WITH_A_GAP, Y), "missing values in the columns a; fill them"),
    "a column of floats with a missing value": ((pd.DataFrame(X).replace(X[0, 1], np.nan), Y), "in the columns 1;"),
    "an array of objects with a missing value": (
        (np.array([[None, 1]] * 12), Y),
        "of the train part have missing",
    ),
    "a missing label": ((X, WITH_A_GAP["a"]), "labels of train have missing values"),
    "a missing text": ((X, np.array(["a", None] * 6, object)), "labels of train have missing values"),
    "texts and numbers": ((X, np.array(["a", 1] * 6, object)), "all of one kind, not int, str"),
    "an infinite label": ((X, np.where(Y == 0, np.inf, Y)), "not whole numbers (such as inf)"),
    "a huge label": ((X, np.where(Y == 0, 1e30, Y)), "labels of 2**63 and more (such as 1e+30); give them as texts"),
    "a huge unsigned label": (
        (X, Y.astype("uint64") + np.uint64(2**63)),
        "labels of 2**63 and more (such as 9223372036",
    ),
    "a negative label": ((X, Y - 1), "negative labels (such as -1)"),
    "examples without anything": ((np.ones((12, 0)), Y), "have nothing in them: their shape is (0,)"),
    "a frame without columns": ((pd.DataFrame(index=range(12)), Y), "have nothing in them"),
    "examples too large for float32": ((X * 1e300, Y), "not finite, or too large"),
    "lengths of time": ((Y.reshape(12, 1).astype("timedelta64[s]"), Y), "no numbers but timedelta64"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_examples_or_labels_is_refused_in_one_true_sentence(kind):
    given, words = WRONG[kind]
    with warnings.catch_warnings(), pytest.raises(BadInput) as refused:
        warnings.simplefilter("error")
        assemble(given, 0)
    assert words in str(refused.value)


def test_whole_numbers_as_objects_and_as_large_floats_are_classes():
    for labels in (
        np.array([3, 5, 7], object)[Y],
        np.array([3.0, 5.0, 2.0**40])[Y],
        Y.astype("uint64"),
        Y.astype(">i2"),
    ):
        data = assemble((X, labels), 0, val=2, test=2)
        assert data.classes == 3
