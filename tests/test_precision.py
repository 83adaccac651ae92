"""Precision and memory layout: the same masks wherever numbers lie, and every method in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import File, checkpoints, same, trained
from safetensors.torch import load
from torch import Tensor, nn

import ltx
from ltx.config.compose import compose
from ltx.config.names import CONF
from ltx.config.spec import Spec
from ltx.masks import keep_top, prune, shuffle, straight_through, top
from ltx.methods import State
from ltx.methods.biprop import binarised
from ltx.tensors import Tensors, all_laid_out, under
from ltx.training.checkpoint import moments, set_moments
from ltx.training.evaluate import evaluate
from ltx.training.fit import Fit
from ltx.training.form import Form
from ltx.training.leaves import Leaves
from ltx.training.task import TASKS

# A control needs a trunk, and what is sampled has no steps to be resumed at.
ELSEWHERE = ("control", "ticket_sample", "ticket_split")
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml") if path.stem not in ELSEWHERE)
NETWORKS = {
    "lenet": ("model.hidden=[12,8]",),
    "convnet": ("model=convnet", "width=.25", "model.affine=null", "data.shift=1"),
}
SEARCHES = ("edge_popup", "biprop", "supermask", "gem_miner")
CHANGED = 3  # steps between two changes of a method that makes some


def lying(tensor: Tensor) -> Tensor:
    """Return the same numbers with the channels innermost."""
    return tensor.clone(memory_format=torch.channels_last)


def scores(ties: bool) -> Tensors:
    """Scores of two kernels and a matrix, of all different values or of three."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"conv1": (6, 4, 3, 3), "conv2": (4, 6, 2, 2), "out": (5, 4)}
    drawn = {name: torch.rand(shape, generator=rng) for name, shape in shapes.items()}
    return {name: (3 * t).floor() if ties else t for name, t in drawn.items()}


def moved(tensors: Tensors) -> Tensors:
    return {name: lying(tensor) if tensor.ndim == 4 else tensor for name, tensor in tensors.items()}


def rng_of(name: str) -> Any:
    return np.random.default_rng(len(name))


SELECTIONS = {
    "keep_top": lambda s: {name: keep_top(score, score.numel() // 2) for name, score in s.items()},
    "none and all": lambda s: {name: keep_top(s[name], k) for name, k in (("conv1", 0), ("conv2", 96))},
    "top, layers": lambda s: top(s, {name: score.numel() // 3 for name, score in s.items()}),
    "top, global": lambda s: top(s, 150),
    "prune, layers": lambda s: prune(s, {n: t > 0.1 for n, t in s.items()}, {n: t.numel() // 3 for n, t in s.items()}),
    "prune, global": lambda s: prune(s, {n: t > 0.1 for n, t in s.items()}, 120),
    "shuffle": lambda s: shuffle({name: score > 0.5 for name, score in s.items()}, rng_of),
}


@pytest.mark.parametrize("ties", [False, True], ids=["no ties", "ties"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_masks_are_the_same_whatever_the_layout_of_the_scores(name: str, ties: bool) -> None:
    usual, other = SELECTIONS[name](scores(ties)), SELECTIONS[name](moved(scores(ties)))
    assert same(usual, other)


def test_the_lower_index_wins_a_tie_where_the_storage_has_another_order() -> None:
    equal = lying(torch.ones(1, 3, 2, 2))
    assert keep_top(equal, 4).reshape(-1).nonzero().reshape(-1).tolist() == [0, 1, 2, 3]
    in_storage = torch.zeros(12, dtype=torch.bool)
    in_storage[:4] = True
    assert not torch.equal(in_storage.reshape(1, 2, 2, 3).permute(0, 3, 1, 2), keep_top(equal, 4))


def test_a_mask_lies_as_its_scores_do_and_so_does_what_is_made_of_it() -> None:
    score = moved(scores(False))["conv1"].requires_grad_()
    for hard in (top({"conv1": score}, 40)["conv1"], top({"conv1": score}, {"conv1": 40})["conv1"]):
        assert hard.stride() == score.stride() == straight_through(hard, score.abs()).stride()
    assert keep_top(score, 216).stride() == score.stride()


def small(*words: str, steps: int = 8) -> Spec:
    config = compose(["device=cpu", "seeds=1", f"optim.steps={steps}", "optim.batch=50", *words], [])
    if config["method"].get("levels"):
        config["method"]["levels"] = 1
    config["method"] |= {name: CHANGED for name in config["method"] if name.endswith("_every")}
    return Spec.of(config)


@pytest.mark.parametrize(("width", "innermost"), [(1, True), (0.5, False)])
def test_channels_lie_outermost_where_a_narrow_shortcut_would_write_past_its_memory(width, innermost):
    assert small("model=resnet20", f"width={width}").form.channels_last is innermost


def test_everything_that_a_step_multiplies_lies_alike() -> None:
    spec = small("method=edge_popup", "model=convnet", "width=.25", "model.channels_last=true")
    network = spec.network(streams=spec.streams(0))
    weights = {name: p.detach().clone().contiguous() for name, p in network.named_parameters()}
    mask = {n: torch.ones_like(weights[n], dtype=torch.bool) for n in spec.method.prunable(list(weights))}
    state = State(weights, dict(network.named_buffers()), mask, {n: weights[n].abs() for n in mask})
    leaves = Leaves(network, spec.method, state, spec.form)
    kernel = leaves.weights["conv2.weight"]
    assert kernel.is_contiguous(memory_format=torch.channels_last) and not kernel.is_contiguous()
    for tensors in (leaves.scores, leaves.gate, leaves.effective()):
        assert tensors["conv2.weight"].stride() == kernel.stride()
    heard: list[Tensor] = []
    network.conv2.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    network.conv2.register_forward_hook(lambda module, inputs, output: heard.append(output))
    leaves(spec.data.train.x[:5], 0.5, None).sum().backward()
    assert all(t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in heard)
    assert leaves.scores["conv2.weight"].grad.stride() == kernel.stride()


def test_moments_are_continued_in_the_layout_of_their_parameters() -> None:
    kernel = nn.Parameter(lying(torch.arange(24.0).reshape(2, 3, 2, 2)))
    optimiser = torch.optim.SGD([kernel], 0.1, momentum=0.9, fused=True)
    gradients = [torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(i)) for i in range(2)]

    def step(gradient: Tensor) -> None:
        kernel.grad = lying(gradient)
        optimiser.step()

    step(gradients[0])
    kept, found = kernel.detach().clone(), {name: t.contiguous() for name, t in moments(optimiser).items()}
    step(gradients[1])
    expected = kernel.detach().clone()
    with torch.no_grad():
        kernel.copy_(kept)
    set_moments(optimiser, found)
    step(gradients[1])
    assert torch.equal(kernel, expected)


def test_a_network_with_the_channels_innermost_computes_the_same(tmp_path: Path) -> None:
    words = ("method=imp", "model=convnet", "width=.25", "data.shift=1")
    usual, other = (
        trained(small(*words, *more), tmp_path / str(len(more))) for more in ((), ("model.channels_last=true",))
    )
    for (first, about), (second, told) in zip(usual, other, strict=True):
        assert first.keys() == second.keys() and all(t.is_contiguous() for t in second.values())
        for name in first:
            if first[name].is_floating_point():
                assert torch.allclose(first[name], second[name], rtol=1e-3, atol=1e-4), name
        assert about["row"]["test_loss"] == pytest.approx(told["row"]["test_loss"], rel=1e-4)
    assert same(under("begin", usual[0][0]), under("begin", other[0][0]))


FORMS = {
    "channels_last": ("model.channels_last=true",),
    "bf16-mixed": ("trainer.precision=bf16-mixed",),
    "bf16-true": ("trainer.precision=bf16-true",),
    "bf16-true, channels_last": ("trainer.precision=bf16-true", "model.channels_last=true"),
}
CASES = [
    (method, network, form)
    for method in METHODS
    for network in NETWORKS
    for form in FORMS
    if (network == "convnet" or "channels_last" not in form)
    and not (method in SEARCHES and "bf16-true" in form)  # which is refused
]


def state_of(spec: Spec, file: File) -> State:
    end = under("end", file[0])
    names = [name for name, _ in spec.network().named_parameters()]
    rest = {name: tensor for name, tensor in end.items() if name not in names}
    return State({n: end[n] for n in names}, rest, under("mask", file[0]), under("score", file[0]))


@pytest.mark.parametrize(("method", "network", "form"), CASES)
def test_every_method_keeps_its_count_resumes_and_is_read_as_it_was_measured(
    method: str, network: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = ("method.freeze=true",) if method in SEARCHES else ()
    words = (f"method={method}", *NETWORKS[network], *beside, *FORMS[form])
    spec = small(*words)
    whole = trained(spec, tmp_path / "whole")
    for tensors, about in whole:
        assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
        kinds = {t.dtype for name, t in tensors.items() if t.is_floating_point()}
        assert kinds == {torch.bfloat16 if spec.form.reduced else torch.float32}
        row, mask = about["row"], under("mask", tensors)
        assert row["kept"] == sum(int(m.sum()) for m in mask.values())
        density = spec.config["method"].get("density")
        if density is not None and method != "gem_miner":  # its rounding may drop more
            by_layer = sum(round(density * m.numel()) for m in mask.values())
            assert row["kept"] in (by_layer, round(density * row["prunable"]))
        if method == "imp":
            assert row["kept"] == round(row["prunable"] * 0.8 ** row["level"])
    files = sorted((tmp_path / "whole" / "seed_000").glob("level_*.safetensors"))

    with checkpoints() as found:
        trained(small(*words, "trainer.chunk=1", "trainer.checkpoint_seconds=0"), tmp_path / "steps")
    (tmp_path / "resumed" / "seed_000").mkdir(parents=True)
    for path in files[:-1]:
        (tmp_path / "resumed" / "seed_000" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "resumed" / "seed_000" / "partial.safetensors").write_bytes(found[5])
    taken: list[int] = []
    training_step = Fit.training_step

    def counted(fit: Fit, chunk: tuple[int, int], index: int) -> None:
        taken.append(int(chunk[0]))
        training_step(fit, chunk, index)

    monkeypatch.setattr(Fit, "training_step", counted)
    trained(spec, tmp_path / "resumed")
    assert taken == [5]
    again = sorted((tmp_path / "resumed" / "seed_000").glob("level_*.safetensors"))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]

    (tmp_path / "whole" / "config.yaml").write_text(yaml.safe_dump(spec.config))
    ticket = ltx.open_run(tmp_path / "whole").ticket(seed=0)
    state = state_of(spec, whole[-1])
    assert same(ticket.mask, state.mask) and same(ticket.end, state.weights | state.buffers)
    module = ticket.module()
    with spec.form.context("cpu"):
        loss, accuracy = evaluate(module, {}, spec.data.test, TASKS["classification"], spec.form)
    row = whole[-1][1]["row"]
    assert (loss, accuracy) == (row["test_loss"], row["test_accuracy"])


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_row_is_measured_in_the_precision_of_its_training(precision: str, tmp_path: Path) -> None:
    spec = small("method=dense", *NETWORKS["lenet"], f"trainer.precision={precision}")
    [(tensors, about)] = trained(spec, tmp_path)
    network = spec.network()
    network.load_state_dict(under("end", tensors))
    usual = evaluate(network.float(), {}, spec.data.test, TASKS["classification"])[0]
    assert about["row"]["test_loss"] == pytest.approx(usual, rel=0.02)
    assert about["row"]["test_loss"] != usual
    last = about["records"][-2:]
    val = next(row["loss"] for row in last if row["split"] == "val")
    assert about["row"]["val_loss"] == val, "the last validation of training and the row are one measurement"


@pytest.mark.parametrize("kind", ["shuffle", "reinit_signs", "invert", "untrained"])
def test_a_control_trains_in_its_own_precision_over_a_trunk_of_another(kind: str, tmp_path: Path) -> None:
    words = ("method=control", f"method.kind={kind}", *NETWORKS["lenet"], "trainer.precision=bf16-true")
    over = small(*words, "trunk={method:imp,method.levels:1,trainer.precision:32-true}")
    assert over.trunk is not None and over.trunk.form == Form()
    below = trained(over.trunk, tmp_path / over.trunk.key)
    above = trained(over, tmp_path / over.key)
    for (tensors, about), (under_it, _) in zip(above, below, strict=True):
        assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.bfloat16}
        assert about["row"]["kept"] == sum(int(m.sum()) for m in under("mask", under_it).values())


def test_scores_in_bfloat16_have_many_ties_and_exactly_as_many_are_kept() -> None:
    drawn = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    coarse = drawn.bfloat16()
    assert len(coarse.unique()) < 2000
    mask = keep_top(coarse, 7001)
    assert int(mask.sum()) == 7001 and coarse[mask].min() >= coarse[~mask].max()
    tied = coarse == coarse[mask].min()
    assert mask[tied].float().diff().max() <= 0, "of the ties those with the lower index"


def test_a_network_of_ones_own_that_makes_numbers_runs_in_bfloat16(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "makes.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self, input_shape, classes):\n        super().__init__()\n"
        "        self.fc = nn.Linear(64, classes)\n\n"
        "    def forward(self, x):\n        return self.fc(x.flatten(1) + torch.linspace(0, 1, 64))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = small("method=dense", "model=own", "model.name=makes:Net", "trainer.precision=bf16-true")
    [(tensors, about)] = trained(spec, tmp_path / "run")
    assert tensors["end/fc.weight"].dtype == torch.bfloat16 and about["row"]["test_loss"] < 10


def test_alpha_of_a_layer_is_read_as_it_was_summed_in_training() -> None:
    rng = torch.Generator().manual_seed(0)
    weight, mask = torch.randn(16, 16, 3, 3, generator=rng), torch.rand(16, 16, 3, 3, generator=rng) < 0.5
    there = binarised(lying(weight), lying(mask.float()))
    laid = all_laid_out({"w": weight, "m": mask.float()}, {"w": lying(weight), "m": lying(weight)})
    assert torch.equal(binarised(laid["w"], laid["m"]), there)


def test_the_loss_and_moments_of_a_bfloat16_checkpoint(tmp_path: Path) -> None:
    with checkpoints() as found:
        words = ("trainer.precision=bf16-true", "trainer.chunk=1", "trainer.checkpoint_seconds=0")
        trained(small("method=dense", *NETWORKS["lenet"], *words), tmp_path)
    kept = load(found[5])
    assert kept["optim/0/exp_avg"].dtype == torch.bfloat16 and kept["watch/sums"].dtype == torch.float64
