"""What tests of numbers share: a method of a yaml, a context to start it in, and seeds trained in process and read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ltx.runs.levels as ltx_levels
from ltx.analysis.quality import Examples
from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.methods import Context, State
from ltx.runs.worker import run_seed
from ltx.store.files import header, unpack
from ltx.streams import Streams
from ltx.tensors import Tensors
from ltx.training.task import TASKS

SMALL = ("device=cpu", "model.hidden=[12,8]", "optim.steps=12", "optim.batch=50", "seeds=1")
STREAMS = Streams(init=0, order=1, augment=2, mask=3, noise=4)
File = tuple[Tensors, dict[str, Any]]  # a level's tensors, and what it says of itself


def spec(*words: str) -> Spec:
    """Return the run of a command line's words."""
    return Spec.of(compose(["device=cpu", *words], []))


def method(name: str, *words: str, **changed: Any) -> Any:
    """Return the method of a yaml with other values."""
    return replace(spec(f"method={name}", *words).method, **changed)


def never(*_: object) -> Any:
    """Stand for what a method should not ask for."""
    pytest.fail("the method asked for more than it needs")


def context(weights: Tensors, **changed: Any) -> Context:
    """Return what a level may look at where `weights` are the initialisation, all of them prunable.

    Anything it is not given fails when it is asked for.
    """
    init = State(weights, {}, {})
    usual = {"prunable": list(weights), "init": init, "anchor": init, "previous": init, "streams": STREAMS}
    asked = {"redrawn": never, "drawn": never, "network": None, "batch": never, "measure": never, "examples": never}
    return Context(**{**usual, **asked, "loss": TASKS["classification"].loss, **changed})


def whole(weights: Mapping[str, Tensor]) -> Tensors:
    """Return the mask that keeps everything."""
    return {name: torch.ones_like(value, dtype=torch.bool) for name, value in weights.items()}


def trained(found: Spec, folder: Path, seed: int = 0) -> list[File]:
    """Train one seed in this process and read its levels."""
    run_seed(found.config, str(folder), seed, lambda kind, value: None)
    return [unpack(path) for path in sorted(folder.glob(f"seed_{seed:03d}/level_*.safetensors"))]


def initial(found: Spec, seed: int = 0) -> Tensors:
    """Return the weights of a run as drawn."""
    network = found.network(streams=found.streams(seed))
    return {name: weight.detach() for name, weight in network.named_parameters()}


def ticket_examples(found: Spec) -> Examples:
    """Return the digits that tell a random ticket's quality: 180 to fit temperatures, then the training part."""
    data = found.data
    assert len(data.val) == 180 and len(data.train) == 1257
    x, y = torch.cat([data.val.x, data.train.x]), torch.cat([data.val.y, data.train.y])
    return Examples(x.reshape(1437, 64), y, 180)


def dying(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """Return a function that raises OSError at one of its calls, counted from 1, as if its process ended there."""
    calls = itertools.count(1)

    def until_then(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise OSError("killed")
        return function(*args, **options)

    return until_then


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Tell whether two dicts of tensors are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def counts(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how many values of each tensor are not zero."""
    return {name: int((tensor != 0).sum()) for name, tensor in tensors.items()}


def gates(mask: Mapping[str, Tensor]) -> Tensors:
    """Return a mask as the numbers that weights are multiplied by."""
    return {name: keep.float() for name, keep in mask.items()}


@contextmanager
def checkpoints() -> Iterator[dict[int, bytes]]:
    """Collect the checkpoints of what is trained in this process, by step."""
    found: dict[int, bytes] = {}
    commit = ltx_levels.commit

    def kept(path: Path, content: bytes, **options: Any) -> object:
        if path.name.startswith("partial"):
            found[header(path, content)[0]["step"]] = content
        return commit(path, content, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ltx_levels, "commit", kept)
        yield found


def near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], within: float) -> bool:
    """Tell whether tensors of the same names differ by rounding alone, as a share of the largest value of each."""
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name])
        if not tensor.is_floating_point()
        else float((tensor - other[name]).abs().max()) <= within * float(tensor.abs().max())
        for name, tensor in one.items()
        if tensor.numel()
    )


def same_run(one: list[Any], other: list[Any], within: float = 2e-6) -> None:
    """Assert that the levels of two runs are the same within rounding, their masks, counts and records exactly."""
    assert len(one) == len(other)
    for (tensors, meta), (others, about) in zip(one, other, strict=True):
        assert near(tensors, others, within)
        assert [(r["step"], r["split"]) for r in meta["records"]] == [(r["step"], r["split"]) for r in about["records"]]
        for name, value in meta["row"].items():
            expected = about["row"][name]
            assert value == (pytest.approx(expected, rel=1e-5) if isinstance(expected, float) else expected), name
        for row, line in zip(meta["records"], about["records"], strict=True):
            assert row["loss"] == pytest.approx(line["loss"], rel=1e-5)
            assert row["accuracy"] == line["accuracy"]
        assert meta.get("compressed") == about.get("compressed")
