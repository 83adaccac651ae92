"""What every method keeps, whatever it is: one suite over every yaml of conf/method, and over variants of some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import SMALL, checkpoints, gates, same
from safetensors.torch import load
from torch import Tensor
from torch.func import functional_call, vmap

import ltx
from ltx.config.compose import CONF, compose
from ltx.config.names import find
from ltx.config.spec import Spec
from ltx.methods import Method, State
from ltx.runs.worker import run_seed
from ltx.store.files import unpack
from ltx.tensors import Tensors, matrices, under
from ltx.training.evaluate import evaluate
from ltx.training.fit import Fit
from ltx.training.setup import Hooks, Setup
from ltx.training.task import TASKS

YAMLS = sorted(path.stem for path in Path(CONF, "method").glob("*.yaml") if path.stem != "control")
BATCHNORM = ("model=mlp", "data.shift=1")
BESIDE = ("model.bias=true", "model.affine=true", *BATCHNORM)
VARIANTS = {  # several at once, so that a mistake in one shows beside the others
    "annealed": ("method=edge_popup", "method.density=.1", "method.anneal=true", "method.exclude=[output]"),
    "iterand": ("method=edge_popup", "method.redraw=.3", *BATCHNORM),
    "global": ("method=edge_popup", "method.density=.37", "method.scope=global", "optim=adam", "method.scale=false"),
    "binary": ("method=biprop", "model.activation=sign", "optim=adam", "optim.lr=.1", *BATCHNORM),
    "trained_norms": ("method=biprop", "method.anneal=true", "method.density=.2", *BESIDE, "method.train_norms=true"),
    "binary_with_trained_norms": ("method=biprop", "model.activation=sign", *BESIDE, "method.train_norms=true"),
    "frozen": ("method=gem_miner", "method.density=.3", *BESIDE, "method.freeze=true"),
    "freezing": ("method=gem_miner", "method.scope=global", "method.density=.3", *BATCHNORM),
    "at_random": ("method=at_init", "method.criterion=random", "method.exclude=[]"),
    "in_rounds": ("method=at_init", "method.criterion=synflow", "method.rounds=5", *BATCHNORM),
    "rewound": ("method=imp", "method.rewind=4", *BATCHNORM),
}
CASES = {name: (f"method={name}",) for name in YAMLS} | VARIANTS
# A method without gradients takes no steps, so that its levels have no checkpoints.
WITH_STEPS = [name for name in CASES if not hasattr(find("method", name if name in YAMLS else "dense"), "advance")]
with_steps = pytest.mark.parametrize("case", WITH_STEPS, indirect=True, scope="module")


def spec(*words: str) -> Spec:
    """A small run of a case: two levels where it has levels, a change every 3 steps, random tickets on 40 examples."""
    config = compose([*SMALL, *words], [])
    if config["method"].get("levels"):
        config["method"]["levels"] = 1
    config["method"] |= {name: 3 for name in config["method"] if name.endswith("_every")}
    config["method"] |= {name: 40 for name in config["method"] if name == "examples"}
    return Spec.of(config)


@dataclass(frozen=True)
class Finished:
    """A run whose first seed is trained."""

    spec: Spec
    files: list[Path]

    @property
    def method(self) -> Method:
        return self.spec.method

    @property
    def levels(self) -> list[tuple[Tensors, dict[str, Any]]]:
        return [unpack(path) for path in self.files]

    @property
    def last(self) -> tuple[Tensors, dict[str, Any]]:
        return unpack(self.files[-1])

    @property
    def bytes(self) -> list[bytes]:
        return [path.read_bytes() for path in self.files]


def trained(folder: Path, *words: str) -> Finished:
    """Train the first seed of a case in this process."""
    found = spec(*words)
    run_seed(found.config, str(folder), 0, lambda kind, value: None)
    return Finished(found, sorted(folder.glob("seed_000/level_*.safetensors")))


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return CASES[request.param]


@pytest.fixture(scope="module")
def run(case: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return trained(tmp_path_factory.mktemp("run"), *case)


@pytest.fixture(scope="module")
def checkpointed(case: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Finished, dict]]:
    """The same run with one step a chunk, and its checkpoints after every step of its last level."""
    with checkpoints() as found:
        words = ("trainer.chunk=1", "trainer.checkpoint_seconds=0")
        yield trained(tmp_path_factory.mktemp("checkpointed"), *case, *words), found


def norm(name: str) -> bool:
    """Tell whether a parameter of the packaged networks belongs to a norm."""
    return name.startswith("norm")


def ticket(run: Finished) -> State:
    """The end of the last level."""
    tensors, _ = run.last
    parameters = dict(run.spec.network().named_parameters())
    end = under("end", tensors)
    weights = {name: end[name] for name in parameters}
    rest = {name: tensor for name, tensor in end.items() if name not in weights}
    return State(weights, rest, under("mask", tensors), under("score", tensors))


def test_the_density_asked_for_is_an_exact_count(run: Finished) -> None:
    tensors, meta = run.last
    mask, fields = under("mask", tensors), run.spec.config["method"]
    sizes = {name: m.numel() for name, m in mask.items()}
    kept = {name: int(m.sum()) for name, m in mask.items()}
    assert meta["row"]["kept"] == sum(kept.values())
    assert meta["row"]["prunable"] == sum(sizes.values()) and all(m.dtype == torch.bool for m in mask.values())
    if "density" not in fields:
        return
    by_layer = {name: round(fields["density"] * n) for name, n in sizes.items()}
    if fields["name"] == "gem_miner":  # rounding may drop more than was frozen off, never less
        assert "freeze_every" in fields and all(k <= n for k, n in zip(kept.values(), sizes.values(), strict=True))
    elif fields.get("scope") == "layer" or fields.get("criterion") == "random":
        assert kept == by_layer
    else:
        assert sum(kept.values()) == round(fields["density"] * sum(sizes.values()))


def test_only_the_declared_tree_is_held_by_the_optimiser(run: Finished) -> None:
    state, found = ticket(run), run.spec
    hooks = Hooks(lambda *_: None, lambda *_: None, lambda *_: None, 1e9)
    network = found.network()
    setup = Setup(network, run.method, state, found.plan(0), found.optim, found.data, found.streams(0), hooks)
    fit, searched = Fit(setup), run.method.trains == "scores"
    scores = list(fit.leaves.scores.values())
    assert [p.requires_grad for p in scores] == [searched] * len(state.scores)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    expected = {
        n for n in dict(network.named_parameters()) if not (found.config["method"].get("train_norms") and norm(n))
    }
    assert frozen == (expected if searched else set())
    held = {id(p) for group in fit.configure_optimizers().param_groups for p in group["params"]}
    assert held == {id(p) for p in (*network.parameters(), *scores) if p.requires_grad}


@with_steps
def test_only_the_declared_tree_changes_and_the_file_holds_it(run: Finished, checkpointed: tuple) -> None:
    tensors, _ = run.last
    begin, end, score = (under(part, tensors) for part in ("begin", "end", "score"))
    first = load(checkpointed[1][5])
    weights = matrices(run.spec.network())
    if run.method.trains == "weights":
        assert same(score, under("leaves/score", first)), "scores at initialisation are kept, not trained"
        assert not any(torch.equal(begin[name], end[name]) for name in weights)
        return
    assert score.keys() == under("mask", tensors).keys()
    assert not any(torch.equal(first[f"leaves/score/{name}"], score[name]) for name in score)
    redrawn = set(score) if run.spec.config["method"].get("redraw") else set()
    for name in weights:
        assert torch.equal(begin[name], end[name]) == (name not in redrawn), name
    told = run.spec.config["method"]["train_norms"]
    for name in dict(run.spec.network().named_parameters()).keys() - {*weights}:
        assert torch.equal(begin[name], end[name]) == (not (told and norm(name))), name


def test_every_score_gets_the_gradient_that_its_weight_gets(run: Finished) -> None:
    state, found = ticket(run), run.spec
    searched = run.method.trains == "scores"
    leaves = state.scores if searched else {n: state.weights[n] for n in state.mask}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in leaves.items()}
    weights, scores = (state.weights, leaves) if searched else (state.weights | leaves, {})
    seen = run.method.effective(weights, scores, gates(state.mask), 0.5, noise_of(run, state.scores))
    split = found.data.train
    network = found.network().train()
    logits = functional_call(network, (seen, {k: v.clone() for k, v in state.buffers.items()}), (split.x[:50],))
    grads = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, split.y[:50]), list(leaves.values()))
    for (name, _), grad in zip(leaves.items(), grads, strict=True):
        assert torch.isfinite(grad).all()
        assert grad.any(), f"nothing would ever move {name}"
        if run.method.trains == "weights":
            assert not grad[~state.mask[name]].any(), "a pruned weight is not seen"


@with_steps
def test_one_step_a_chunk_or_a_hundred_is_the_same_to_the_bit(run: Finished, checkpointed: tuple) -> None:
    assert run.bytes == checkpointed[0].bytes
    assert sorted(checkpointed[1])[-3:] == [9, 10, 11]


@with_steps
@pytest.mark.parametrize("step", [5, 6, 9])  # before, at and after the changes between steps of the variants
def test_a_level_resumed_inside_ends_in_the_same_bytes(
    step: int, case: tuple[str, ...], run: Finished, checkpointed: tuple, tmp_path: Path, monkeypatch: Any
) -> None:
    seed = tmp_path / "seed_000"
    seed.mkdir()
    for path in run.files[:-1]:
        (seed / path.name).write_bytes(path.read_bytes())
    (seed / "partial.safetensors").write_bytes(checkpointed[1][step])
    taken: list[tuple[int, int]] = []
    training_step = Fit.training_step

    def counted(fit: Fit, chunk: tuple[int, int], index: int) -> None:
        taken.append((int(chunk[0]), int(chunk[1])))
        training_step(fit, chunk, index)

    monkeypatch.setattr(Fit, "training_step", counted)
    assert trained(tmp_path, *case).bytes == run.bytes
    assert taken == [(step, 12)], "it went on from the checkpoint"


def noise_of(run: Finished, like: Tensors, seed: int = 0) -> Tensors | None:
    """Uniform draws for a method that wants them."""
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.rand(t.shape, generator=rng) for name, t in like.items()} if run.spec.plan(0).noise else None


@pytest.mark.parametrize("done", [0.2, 1.0])
def test_the_effective_weights_of_stacked_networks_are_those_of_each(run: Finished, done: float) -> None:
    rng = torch.Generator().manual_seed(0)
    state = ticket(run)

    def stack(like: Tensors) -> Tensors:
        return {name: torch.randn(4, *tensor.shape, generator=rng) for name, tensor in like.items()}

    weights, scores = stack(state.weights), stack(state.scores)
    masks = {name: (tensor > 0.3).float() for name, tensor in stack(state.mask).items()}
    noise = noise_of(run, scores) or {}

    def effective(weights: Tensors, scores: Tensors, mask: Tensors, noise: Tensors) -> Tensors:
        return run.method.effective(weights, scores, mask, done, noise or None)

    parts = (weights, scores, masks, noise)
    together = vmap(effective)(*parts)
    for i in range(4):
        each = effective(*({name: tensor[i] for name, tensor in part.items()} for part in parts))
        assert each.keys() == weights.keys() and same(each, {name: tensor[i] for name, tensor in together.items()})


def test_the_logits_and_the_row_of_a_file_are_those_of_its_effective_weights(run: Finished) -> None:
    state, found = ticket(run), run.spec
    seen = run.method.effective(state.weights, state.scores, gates(state.mask))
    network = found.network()
    network.load_state_dict(state.weights | state.buffers)
    loss, accuracy = evaluate(network, seen, found.data.test, TASKS["classification"])
    row = run.last[1]["row"]
    assert (loss, accuracy) == (row["test_loss"], row["test_accuracy"])
    folder, x = run.files[-1].parents[1], found.data.test.x[:40]
    (folder / "config.yaml").write_text(yaml.safe_dump(found.config))
    opened = ltx.open_run(folder).ticket(seed=0)
    module = opened.module()  # the ticket as an ordinary network
    assert torch.equal(module(x), functional_call(network.eval(), seen, (x,))) and not module.training
    assert same(opened.mask, state.mask) and same(opened.weights, seen) and opened.density == row["density"]


def test_the_mask_of_a_file_is_where_the_ticket_has_weights(run: Finished) -> None:
    state = ticket(run)
    assert same(state.mask, run.method.ticket(state.scores, state.mask)[0])
    seen = run.method.effective(state.weights, state.scores, gates(state.mask))
    for name, weight in seen.items():
        if name not in state.mask:
            assert torch.equal(weight, state.weights[name])
        elif (state.weights[name] != 0)[state.mask[name]].all():
            assert torch.equal(weight != 0, state.mask[name])
        assert not weight[~state.mask[name]].any() if name in state.mask else True


def scale(values: Tensor, other: Tensor) -> float:
    """The constant between two tensors that differ by one."""
    return float(values.norm() / other.norm())


@pytest.mark.parametrize("name", YAMLS)
def test_methods_of_one_seed_and_law_stand_on_one_initialisation(name: str, tmp_path: Path) -> None:
    words = ("model.init=kaiming_uniform", "model.bias=false", "optim.steps=8", "streams.order=5", "streams.mask=6")
    run = trained(tmp_path, f"method={name}", *words)
    tensors = run.levels[0][0]
    network = run.spec.network(streams=spec("method=dense", *words[:2]).streams(0))
    for weight, own in network.named_parameters():
        mask = tensors[f"mask/{weight}"] if f"mask/{weight}" in tensors else torch.ones_like(own, dtype=torch.bool)
        begin = tensors[f"begin/{weight}"]
        kept = begin if run.method.trains == "scores" else begin[mask]
        reference = own.detach() if run.method.trains == "scores" else own.detach()[mask]
        ratio = scale(kept, reference)
        assert torch.allclose(kept, ratio * reference, rtol=1e-6), "the same draw, up to one constant"
        scaled = run.spec.config["method"].get("scale") or name.startswith("ticket_")
        assert ratio == pytest.approx(run.spec.config["method"]["density"] ** -0.5 if scaled else 1, abs=1e-6)
