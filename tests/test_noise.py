"""What a network draws by itself (dropout) is a function of the noise stream: fresh, repeated and resumed are equal."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from conftest import LONG, call, only, results, under_way

import ltx.runs.levels as ltx_levels
from ltx.store.files import unpack

NET = """
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.drop, self.out = nn.Linear(64, 16), nn.Dropout(0.3), nn.Linear(16, 10)

    def forward(self, x):
        x = self.drop(self.fc1(x.flatten(1)).relu())
        return self.out(F.dropout(x, 0.1, self.training))
"""
WORDS = (*LONG[1:], "model=own", "model.name=net_with_dropout:Net", "model.init=glorot_normal", "seeds=1", "width=1")


@pytest.fixture(autouse=True)
def net() -> None:
    Path("net_with_dropout.py").write_text(NET)


def run(root: Path, *words: str) -> dict[str, object]:
    assert call("run", *WORDS, "method.levels=1", *words, root=root) == 0
    return results(only(root))


def test_two_fresh_runs_with_dropout_are_equal_whatever_was_drawn_before(tmp_path):
    torch.manual_seed(1)
    one = run(tmp_path / "one", "trainer.checkpoint_seconds=60")
    torch.manual_seed(2)
    torch.rand(7)
    other = run(tmp_path / "other", "trainer.checkpoint_seconds=60", "trainer.chunk=7")
    assert one == other


def test_the_noise_stream_alone_decides_what_dropout_draws(tmp_path):
    def ends(*words: str) -> list[torch.Tensor]:
        root = tmp_path / str(len(words))
        assert call("run", *WORDS, "method=dense", *words, root=root) == 0
        return [unpack(p)[0]["end/fc1.weight"] for p in sorted(only(root).glob("seed_*/level_00.safetensors"))]

    pinned = ["streams.init=0", "streams.order=0", "seeds=2"]
    one, other = ends(*pinned)
    assert not torch.equal(one, other), "dropout drew the same in two seeds"
    one, other = ends(*pinned, "streams.noise=0")
    assert torch.equal(one, other)


def test_a_level_with_dropout_resumed_from_its_checkpoint_ends_with_the_same_bytes(ltx, root, tmp_path, monkeypatch):
    expected = run(tmp_path / "undisturbed", "trainer.checkpoint_seconds=60")
    original, at = ltx_levels.commit, []

    def commit(path, content, **options):
        made = original(path, content, **options)
        if path.name.startswith("partial") and under_way(root):
            at.append(unpack(path)[1]["step"])
            raise OSError(errno.EIO, "pulled plug")
        return made

    with monkeypatch.context() as patch:
        patch.setattr(ltx_levels, "commit", commit)
        assert ltx("run", *WORDS, "method.levels=1").code == 3
    assert 0 < at[0] < 250, "it was not interrupted inside a level"
    assert ltx("run", *WORDS, "method.levels=1").code == 0
    assert results(only(root)) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_level_with_dropout_is_repeated_and_resumed_with_the_same_bytes(ltx, root, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    test_two_fresh_runs_with_dropout_are_equal_whatever_was_drawn_before(tmp_path)
    test_a_level_with_dropout_resumed_from_its_checkpoint_ends_with_the_same_bytes(ltx, root, tmp_path, monkeypatch)
