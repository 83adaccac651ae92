"""Training equals a plain loop, resumes bit for bit and stops at what is no number."""

import gc
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import torch
from helpers import same
from safetensors.torch import load
from torch import nn
from torch.nn import functional as F

import ltx.training.fit
import ltx.training.watch
from ltx.config.schema import TrainerConfig
from ltx.data.arrays import assemble
from ltx.data.augment import shift
from ltx.data.batches import Batches
from ltx.data.splits import Dataset, Memory
from ltx.methods import Plan, State, Trains, dense
from ltx.models import initialise, mlp
from ltx.store.files import header, pack
from ltx.streams import Streams
from ltx.tensors import Tensors, buffers, cpu, matrices, under
from ltx.training.fit import train
from ltx.training.form import Form
from ltx.training.optim import SGD, Adam, AdamW
from ltx.training.setup import Hooks, Setup, Trained
from ltx.training.watch import Diverged

STREAMS = Streams(init=1, order=2, augment=3, mask=4, noise=5)
DENSE = dense.Method()
BASE: dict[str, Any] = {
    **{"steps": 16, "batch": 7, "lr": 0.1, "schedule": "constant", "milestones": [], "gamma": 0.5, "warmup": 0},
    **{"weight_decay": 0.0, "clip": None, "label_smoothing": 0.0},
}
RECIPES = {
    "sgd": SGD(**BASE, momentum=0.0, nesterov=False),
    "momentum": SGD(
        **{**BASE, "schedule": "multistep", "milestones": [4, 9], "warmup": 3, "weight_decay": 0.01, "clip": 0.3},
        **{"momentum": 0.9, "nesterov": True},
    ),
    "adam": Adam(**{**BASE, "lr": 0.01, "schedule": "cosine", "weight_decay": 0.01}, betas=[0.9, 0.99], eps=1e-8),
    "adamw": AdamW(
        **{**BASE, "lr": 0.01, "weight_decay": 0.1, "label_smoothing": 0.1, "clip": 0.5}, betas=[0.8, 0.9], eps=1e-4
    ),
}


@dataclass
class Case:
    """One level to train, and what its hooks heard."""

    recipe: SGD | Adam = RECIPES["sgd"]
    method: Any = DENSE
    network: Callable[[], nn.Module] = lambda: mlp.Model((1, 4, 4), 3, 1.0, [6, 5], "batch", True)
    data: Dataset | None = None
    state: State | None = None
    first: int = 0
    last: int = 16
    anchor: int | None = 5
    level: int = 0
    rate_at: int | None = None
    chunk: int = 100
    every: float = 1e9
    precision: str = "32-true"
    compressed: tuple[str, ...] = ()
    plain: bool = True
    graphs: bool = False
    device: str = "cpu"
    check: Callable[[], None] = lambda: None
    streams: Streams = STREAMS
    checkpoints: dict[int, bytes] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def checkpoint(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        self.checkpoints[meta["step"]] = pack(tensors, json.loads(json.dumps(meta)))

    def saved(self, step: int) -> tuple[Tensors, dict[str, Any]]:
        return load(self.checkpoints[step]), header(Path("checkpoint"), self.checkpoints[step])[0]

    def setup(self) -> Setup:
        network = self.network()
        state = self.state or begin(network)
        hooks = Hooks(self.records.extend, lambda step, loss: None, self.checkpoint, self.every, self.check)
        plan = Plan(self.level, 0, self.first, self.last, self.anchor, rate_at=self.rate_at)
        data, form = self.data or blobs(), Form(self.precision)
        how = (form, self.compressed, self.plain, self.graphs)
        return Setup(network, self.method, state, plan, self.recipe, data, self.streams, hooks, *how)

    def train(self, resume: tuple[Tensors, dict[str, Any]] | None = None) -> Trained:
        torch.set_num_threads(1)
        return train(self.setup(), self.device, {"deterministic": True, "chunk": self.chunk}, resume)


def blobs(augment: bool = True) -> Dataset:
    """Three noisy classes of 4x4 images: 40 examples to train, 20 to validate."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.randn(3, 1, 4, 4, generator=rng)[y] + torch.randn(60, 1, 4, 4, generator=rng)
    parts = {"train": (x[:40], y[:40]), "val": (x[40:], y[40:]), "test": (x[40:], y[40:])}
    return assemble(parts, 0, augment=shift(1, fill=0.5) if augment else None)


def begin(network: nn.Module, density: float = 1.0) -> State:
    """The initialisation, with a random share of the weights masked to zero."""
    initialise(network, "kaiming_normal", STREAMS)
    weights = cpu(dict(network.named_parameters()))
    rng = torch.Generator().manual_seed(1)
    mask = {name: torch.rand(weights[name].shape, generator=rng) < density for name in matrices(network)}
    return State(weights | {name: weights[name] * m for name, m in mask.items()}, cpu(buffers(network)), mask)


def anchored(trained: Trained) -> State:
    """The anchor as a state to start from, nothing pruned."""
    weights, rest = ({name: trained.anchor[name] for name in part} for part in (trained.weights, trained.buffers))
    return State(weights, rest, begin(Case().network()).mask)


def equal(one: Trained, other: Trained) -> bool:
    """Bit-identical in everything but the seconds."""
    parts = ("weights", "buffers", "scores", "mask", "best", "anchor")
    return one.best_step == other.best_step and all(same(getattr(one, part), getattr(other, part)) for part in parts)


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in records]


def best_at_3(network: mlp.Model, weights: Tensors, split: Any, task: Any, form: Form) -> tuple[float, float]:
    """Stands for `evaluate`: the smallest loss is at step 3."""
    return abs(int(network.norm1.num_batches_tracked) - 3.0), 0.0


@pytest.fixture(autouse=True)
def sparse_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate less often than these short levels would, so that losses wait between records."""
    monkeypatch.setattr(ltx.training.fit, "grid", lambda first, last: [*(s for s in (3, 8) if first < s < last), last])


@pytest.mark.parametrize("name", list(RECIPES))
def test_training_equals_a_plain_loop(name: str):
    recipe, data = RECIPES[name], blobs()
    # no biases: before BatchNorm their gradient is rounding, which Adam blows up
    case = Case(recipe, data=data, network=lambda: mlp.Model((1, 4, 4), 3, 1.0, [6, 5], "batch", False))
    network = case.network()
    case.state = state = begin(network, density=0.5)
    network.load_state_dict(state.weights | state.buffers)
    kind: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.get(name, torch.optim.SGD)
    options = {key: getattr(recipe, key) for key in ("momentum", "nesterov", "betas", "eps") if hasattr(recipe, key)}
    optimiser = kind(network.parameters(), weight_decay=recipe.weight_decay, **options)
    batches = Batches(data, recipe.batch, STREAMS)
    for step in range(16):
        x, y = batches.at(step)
        log_p, smooth = F.log_softmax(network(x), 1), recipe.label_smoothing
        loss = -((1 - smooth) * log_p[range(7), y] + smooth * log_p.mean(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        for parameter, keep in ((network.get_parameter(n), m) for n, m in state.mask.items()):
            parameter.grad *= keep
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters()))
        for parameter in network.parameters() if recipe.clip is not None and norm > recipe.clip else ():
            parameter.grad *= recipe.clip / norm
        optimiser.param_groups[0]["lr"] = recipe.rate(step)
        optimiser.step()
    trained = case.train()
    for key, value in network.state_dict().items():
        assert torch.allclose((trained.weights | trained.buffers)[key], value, atol=1e-5), key
    assert not torch.allclose(trained.weights["fc1.weight"], state.weights["fc1.weight"], atol=1e-2)


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_level_resumed_in_the_middle_equals_an_uninterrupted_one(name: str):
    whole, interrupted = Case(RECIPES[name], chunk=5), Case(RECIPES[name], chunk=5, every=0)
    expected = whole.train()
    assert equal(interrupted.train(), expected) and timeless(interrupted.records) == timeless(whole.records)
    assert sorted(interrupted.checkpoints) == list(range(1, 16))
    for step in (1, 4, 5, 6, 11, 15):  # around the anchor at 5, across an epoch at 5.7 and 11.4
        again = Case(RECIPES[name], chunk=5)
        assert equal(again.train(interrupted.saved(step)), expected)
        assert timeless(again.records) == [row for row in timeless(whole.records) if row["step"] > step]


def test_resuming_keeps_the_best_step_found_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ltx.training.watch, "evaluate", best_at_3)
    case = Case(every=0)
    expected = case.train()
    assert expected.best_step == 3 and int(expected.best["norm1.num_batches_tracked"]) == 3
    assert equal(Case().train(case.saved(9)), expected)
    short = Case(last=3).train()
    assert same(expected.best, short.weights | short.buffers)


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_number_of_fused_steps_does_not_change_a_bit(name: str, monkeypatch: pytest.MonkeyPatch):
    cases = [Case(RECIPES[name], chunk=chunk) for chunk in (1, 3, 100)]
    first, *others = [case.train() for case in cases]
    assert all(equal(first, other) for other in others)
    monkeypatch.setattr(ltx.training.watch, "FLUSH", 2)
    assert equal(Case(RECIPES[name]).train(), first)
    assert timeless(cases[0].records) == timeless(cases[1].records) == timeless(cases[2].records)


def test_a_rewound_level_goes_on_with_the_order_augmentation_and_schedule_of_its_step():
    recipe = replace(RECIPES["sgd"], schedule="cosine")
    full = Case(recipe).train()
    anchor = anchored(full)
    rewound = Case(recipe, state=anchor, first=5, anchor=None, level=1).train()
    assert same(rewound.weights, full.weights) and same(rewound.buffers, full.buffers) and rewound.anchor == {}
    later = Case(recipe, state=anchor, first=6, anchor=None, level=1).train()
    assert not torch.equal(later.weights["fc1.weight"], full.weights["fc1.weight"])


def test_a_fixed_rate_is_that_of_its_step_of_the_schedule():
    recipe = replace(RECIPES["sgd"], schedule="cosine")
    fixed = Case(recipe, rate_at=10).train()
    constant = Case(replace(RECIPES["sgd"], lr=recipe.rate(10))).train()
    assert same(fixed.weights, constant.weights) and not same(fixed.weights, Case(recipe).train().weights)


def test_a_level_that_should_not_go_on_stops_before_its_next_chunk():
    asked: list[int] = []
    case = Case(chunk=4, every=0)

    def check() -> None:
        asked.append(len(case.checkpoints))
        if len(asked) == 3:
            raise RuntimeError("taken over")

    case.check = check
    with pytest.raises(RuntimeError, match="taken over"):
        case.train()
    assert asked == [0, 4, 8]


def test_a_level_that_ends_or_stops_lets_go_of_its_batches_at_once(monkeypatch: pytest.MonkeyPatch):
    closed: list[bool] = []
    ahead = Memory.ahead

    def held(split: Memory, batches: Any, rngs: Any) -> Any:
        try:
            yield from ahead(split, batches, rngs)
        finally:
            closed.append(True)

    def stop() -> None:
        if case.checkpoints:
            raise RuntimeError("taken over")

    monkeypatch.setattr(Memory, "ahead", held)
    case = Case(chunk=4, every=0, check=stop)
    gc.disable()  # which would find them some time
    try:
        Case().train()
        assert closed == [True]
        with pytest.raises(RuntimeError, match="taken over"):
            case.train()
        assert closed == [True, True]
    finally:
        gc.enable()


def test_a_rewound_level_starts_with_a_fresh_optimiser():
    recipe = RECIPES["momentum"]
    state = anchored(Case(recipe).train())
    case = Case(recipe, state=state, first=5, last=7, anchor=None, level=1, every=0)
    case.train()
    after, _ = case.saved(6)
    for i, (name, before) in enumerate(state.weights.items()):  # Nesterov's first step is -rate (1 + momentum) gradient
        expected = before - recipe.rate(5) * 1.9 * after[f"optim/{i}/momentum_buffer"]
        assert torch.allclose(after[f"leaves/network/{name}"], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw"])
def test_neither_momentum_nor_decay_nor_clipping_sees_or_revives_a_pruned_weight(name: str):
    case = Case(RECIPES[name], every=0)
    case.state = begin(case.network(), density=0.4)
    trained = case.train()
    moments, _ = case.saved(15)
    order = list(case.state.weights)
    for parameter, keep in case.state.mask.items():
        assert not trained.weights[parameter][~keep].any() and (trained.weights[parameter][keep] != 0).all()
        slots = [t for k, t in moments.items() if k.startswith(f"optim/{order.index(parameter)}/") and t.ndim]
        assert slots and all(not slot[~keep].any() and slot[keep].any() for slot in slots)
    stray = {n: case.state.weights[n] + 7.0 * ~keep for n, keep in case.state.mask.items()}
    other = replace(case, state=replace(case.state, weights=case.state.weights | stray)).train()
    assert all(torch.equal(other.weights[n][keep], trained.weights[n][keep]) for n, keep in case.state.mask.items())


@dataclass(frozen=True)
class Scored(dense.Method):
    """Train one factor per weight, the weights themselves frozen."""

    trains: ClassVar[Trains] = "scores"

    def effective(
        self, weights: Tensors, scores: Tensors, gate: Tensors, done: float = 1.0, noise: Tensors | None = None
    ) -> Tensors:
        return weights | {name: weights[name] * score * gate[name] for name, score in scores.items()}


def scored(**options: Any) -> Case:
    state = begin(Case().network())
    scores = {name: torch.rand(m.shape, generator=torch.Generator().manual_seed(2)) for name, m in state.mask.items()}
    return Case(method=Scored(), state=replace(state, scores=scores), **options)


def test_the_best_scores_are_those_of_the_best_step(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ltx.training.watch, "evaluate", best_at_3)
    trained, short = scored().train(), scored(last=3).train()
    assert trained.best_step == 3 and not same(trained.scores, short.scores)
    assert same(under("score", trained.best), short.scores)


def test_scores_resume_by_name_and_leave_the_weights_alone():
    case = scored(every=0)
    expected = case.train()
    assert all(torch.equal(expected.weights[name], case.state.weights[name]) for name in case.state.mask)
    tensors, meta = case.saved(9)
    for order in (sorted(tensors), sorted(tensors, reverse=True)):  # a file has no order
        assert equal(scored().train(({name: tensors[name] for name in order}, meta)), expected)


@pytest.mark.parametrize("chunk, flush, every", [(1, 64, 1e9), (100, 64, 1e9), (5, 3, 1e9), (100, 64, 0)])
def test_a_loss_that_is_no_number_stops_the_level_at_its_step(chunk: int, flush: int, every: float, monkeypatch: Any):
    monkeypatch.setattr(ltx.training.watch, "FLUSH", flush)
    data = blobs(augment=False)
    data.train.x[17] = torch.nan
    at = int((Batches(data, 7, STREAMS).indices(0, 16) == 17).any(1).nonzero()[0])
    case = Case(data=data, level=3, chunk=chunk, every=every)
    with pytest.raises(Diverged, match=f"level 3, step {at}") as caught:
        case.train()
    assert at > 0 and (caught.value.level, caught.value.step) == (3, at)
    assert list(case.checkpoints) == ([] if every else list(range(1, at + 1)))  # none that holds a NaN


def test_a_level_that_ends_in_weights_that_are_no_numbers_has_diverged():
    recipe = replace(RECIPES["sgd"], lr=1e30, steps=1)
    case = Case(recipe, network=lambda: mlp.Model((1, 4, 4), 3, 1.0, [6, 5], None, True), last=1, anchor=0, level=2)
    with pytest.raises(Diverged, match="level 2"):
        case.train()


@pytest.mark.parametrize("precision", get_args(TrainerConfig.model_fields["precision"].annotation))
def test_every_precision_that_can_be_asked_for_trains(precision: str):
    trained = Case(replace(RECIPES["adam"], schedule="constant"), last=60, anchor=0, precision=precision)
    trained.train()
    assert trained.records[-1]["split"] == "val" and trained.records[-1]["loss"] < 0.8 * trained.records[1]["loss"]


def test_the_schedules_follow_their_closed_forms_at_absolute_steps():
    def rates(schedule: str, steps: list[int], **changed: Any) -> Any:
        recipe = replace(RECIPES["sgd"], schedule=schedule, **{"lr": 0.4, "steps": 100, **changed})
        return pytest.approx([recipe.rate(step) for step in steps], abs=1e-12)

    dropped, wave = {"milestones": [30, 60], "gamma": 0.1}, 0.1 * 2**0.5
    assert rates("constant", [0, 50, 99]) == [0.4, 0.4, 0.4]
    assert rates("multistep", [0, 29, 30, 59, 60, 99], **dropped) == [0.4, 0.4, 0.04, 0.04, 0.004, 0.004]
    assert rates("cosine", [0, 25, 50, 75, 100]) == [0.4, 0.2 + wave, 0.2, 0.2 - wave, 0]
    assert rates("constant", [0, 4, 8, 9, 10, 99], warmup=10) == [0.04, 0.2, 0.36, 0.4, 0.4, 0.4]
    assert rates("cosine", [4, 20, 60, 100], warmup=20) == [0.1, 0.4, 0.2, 0]
    assert rates("multistep", [1, 3], warmup=4, milestones=[2], gamma=0.5) == [0.2, 0.2]
