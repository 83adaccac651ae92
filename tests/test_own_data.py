"""Data sets of a user's own: examples in files, numbers and tokens to predict, and facts that spare a load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result, levels, only
from helpers import spec
from PIL import Image
from torch import nn
from torch.nn import functional as F

import ltx as ltx_package
from ltx.config.loading import facts, load
from ltx.store.folders import RunFolder

PNGS = '''
import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from ltx.data import Files


def decode(path):
    return np.asarray(Image.open(path), "float32")[None] / 255


class Set:
    """Images in files or in memory, as the surroundings say, so that both are one run's."""

    def load(self):
        paths, loading = sorted(Path("pngs").glob("*.png")), os.environ["LOADING"]
        y = np.arange(len(paths)) % 3
        if loading == "memory":
            return np.stack([decode(path) for path in paths]), y
        return {"train": Files(paths, y, decode, workers=int(loading))}


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(20, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3))
'''
DENSE = ("method=dense", "model=own", "data=own", "seeds=1")


def own(module: str, text: str) -> tuple[str, ...]:
    """Write a user's module with a Set and a Net, and return the words that name them."""
    Path(f"{module}.py").write_text(text)
    return (*DENSE, f"model.name={module}:Net", f"data.name={module}:Set")


def forget_data() -> None:
    """Load data sets anew, as another process would."""
    facts.cache_clear()
    load.cache_clear()


@pytest.fixture
def pngs(monkeypatch: pytest.MonkeyPatch, root: Path, ltx: Callable) -> Callable[[str], Result]:
    """Return what trains on 40 images with dropout, loaded as it is told, each way under its own root."""
    Path("pngs").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (40, 4, 5), "uint8")):
        Image.fromarray(image).save(f"pngs/{i:02d}.png")
    words = own("data_of_pngs", PNGS)

    def run(loading: str) -> Result:
        monkeypatch.setenv("LOADING", loading)
        forget_data()
        return ltx("run", *words, "optim.steps=5", "optim.batch=12", f"root={root / loading}")

    return run


def test_examples_in_files_give_the_bytes_of_examples_in_memory(pngs: Callable[[str], Result], root: Path) -> None:
    for loading in ("memory", "0", "2"):
        result = pngs(loading)
        assert result.code == 0, result.err
    expected = levels(only(root / "memory"))
    assert expected and levels(only(root / "0")) == expected and levels(only(root / "2")) == expected


@pytest.mark.parametrize("loading", ["0", "2"])
def test_a_truncated_file_is_named_in_the_failure(loading: str, pngs: Callable[[str], Result]) -> None:
    broken = Path("pngs/17.png")
    broken.write_bytes(broken.read_bytes()[:50])
    result = pngs(loading)
    assert result.code not in (0, 2) and "17.png cannot be decoded" in result.err, result.err


def of_the_run(folder: Path, seed: int) -> nn.Module:
    """Return what a seed's level 0 left, as an ordinary network."""
    return ltx_package.open_run(folder, trust=True).ticket(seed, 0).module().requires_grad_(False)


LINE = """
import numpy as np
from torch import nn

X = np.random.default_rng(0).normal(size=(200, 4))


class Set:
    task = "regression"

    def load(self):
        return X, 5 + X @ [3.0, -2.0, 0.5, 1.0]


class Net(nn.Linear):
    def __init__(self, input_shape, classes):
        super().__init__(input_shape[0], classes)
"""
TOKENS = """
import numpy as np
from torch import nn

SEQUENCES = np.random.default_rng(0).integers(0, 7, (80, 1))
for _ in range(6):
    SEQUENCES = np.concatenate([SEQUENCES, (3 * SEQUENCES[:, -1:] + 1) % 7], 1)


class Set:
    task = "next_token"

    def load(self):
        return SEQUENCES[:, :-1], SEQUENCES[:, 1:]


class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Embedding(classes, 12), nn.Linear(12, classes))
"""
LEARN = ("device=cpu", "optim.lr=.05", "optim.steps=200", "optim.batch=20")  # where the tests compute them again


def test_a_linear_target_is_learnt_and_its_score_is_the_share_of_variance_explained(ltx: Callable, root: Path) -> None:
    words = own("data_on_a_line", LINE)
    result = ltx("run", *words, *LEARN)
    assert result.code == 0, result.err
    (row,) = RunFolder(only(root)).rows()
    assert 0.99 < row.test_accuracy <= 1 and row.val_loss < 0.01
    data, network = spec(*words).data, of_the_run(only(root), 0)
    assert abs(float(data.train.y.mean())) < 1e-6 and float(data.train.y.var(correction=0)) == pytest.approx(1)
    for part, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        errors = (network(split.x) - split.y).square()
        assert getattr(row, f"{part}_loss") == pytest.approx(float(errors.mean()), rel=1e-4)
        if part != "train":
            assert getattr(row, f"{part}_accuracy") == pytest.approx(1 - float(errors.mean()), rel=1e-5)
    last = [r for r in RunFolder(only(root)).seed(0).records() if r["split"] == "train"][-1]
    assert last["accuracy"] == pytest.approx(1 - last["loss"], rel=1e-5), "of training too"


def test_the_next_token_of_a_deterministic_sequence_is_predicted(ltx: Callable, root: Path) -> None:
    words = own("data_of_tokens", TOKENS)
    result = ltx("run", *words, *LEARN)
    assert result.code == 0, result.err
    (row,) = RunFolder(only(root)).rows()
    assert row.test_accuracy == row.val_accuracy == 1.0
    data, network = spec(*words).data, of_the_run(only(root), 0)
    assert data.facts.task == "next_token" and data.facts.classes == 7 and data.facts.input_shape == (6,)
    for part, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        log_p = F.log_softmax(network(split.x), -1)
        reference = -torch.stack([log_p[i, t, split.y[i, t]] for i in range(len(split)) for t in range(6)]).mean()
        assert getattr(row, f"{part}_loss") == pytest.approx(float(reference), rel=1e-4)


LAZY = """
from pathlib import Path

import numpy as np
from torch import nn

from ltx.data import Facts


class Set:
    def facts(self):
        return Facts((4,), 3, 40, 10, 10)

    def load(self):
        if Path("gone").exists():
            raise OSError("the disk is not there")
        x, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
        return {"train": (x[:40], y[:40]), "val": (x[40:50], y[40:50]), "test": (x[50:], y[50:])}


class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
"""


def test_checking_listing_and_looking_load_no_data_and_a_run_that_cannot_is_refused(ltx: Callable, root: Path) -> None:
    words = (*own("data_that_says_what_it_is", LAZY), "optim.steps=3", "optim.batch=10")
    assert ltx("run", *words).code == 0
    Path("gone").touch()
    forget_data()
    assert spec(*words, f"root={root}").directory == only(root)
    for command in (("run", *words, "seeds=2", "--dry-run"), ("list",), ("status",), ("show", only(root).name)):
        result = ltx(*command)
        assert result.code == 0 and not result.err, result.err
    refused = ltx("run", *words, "optim.lr=.5")
    assert refused.code == 2 and "the disk is not there" in refused.err and len(list((root / "runs").iterdir())) == 1


def test_a_data_set_that_is_not_what_it_says_is_refused(ltx: Callable, root: Path) -> None:
    words = own("data_that_says_another_thing", LAZY.replace("3, 40, 10", "3, 41, 10"))
    result = ltx("run", *words)
    assert result.code == 2 and "says that it is" in result.err and not root.exists()


MANY = """
import numpy as np
from torch import nn

X = np.random.default_rng(0).normal(size=(10_100, 2))


class Set:
    def load(self):
        y = (X[:, 0] > 0).astype(int)
        return {"train": (X, y), "val": (X[:50], y[:50]), "test": (X[:50], y[:50])}


class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
"""


def test_the_training_loss_is_measured_on_two_thousand_examples_the_same_for_every_seed(ltx: Callable, root: Path):
    words = own("data_of_many", MANY)
    assert ltx("run", *words, "optim.steps=2", "optim.batch=50", "seeds=2").code == 0
    data = spec(*words).data
    once = data.measured.x
    assert len(data.train) == 10_100 and len(once) == len(once.unique(dim=0)) == 2_000
    assert not torch.equal(once, data.train.x[:2_000]), "drawn, not the first"
    for seed, row in enumerate(RunFolder(only(root)).rows()):
        network = of_the_run(only(root), seed)
        losses = [float(F.cross_entropy(network(part.x), part.y)) for part in (data.measured, data.train)]
        assert row.train_loss == pytest.approx(losses[0], rel=1e-6) != pytest.approx(losses[1], rel=1e-6)
    forget_data()
    assert torch.equal(spec(*words).data.measured.x, once)


def test_a_machine_without_memory_is_no_faulty_file(tmp_path: Path) -> None:
    def decode(path: Path) -> np.ndarray:
        raise MemoryError

    with pytest.raises(MemoryError):
        ltx_package.data.Files([tmp_path / "one.png"], np.zeros(1, dtype=np.int64), decode).take(torch.tensor([0]))
