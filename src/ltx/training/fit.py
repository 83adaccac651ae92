"""Train one level of one seed: a LightningModule whose training_step fuses many optimiser steps.

The only importer of Lightning.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltx.data import Batches, Dataset
from ltx.masks import NotANumber
from ltx.methods import Method, State
from ltx.streams import Streams
from ltx.tensors import (
    Tensors,
    buffers,
    call,
    cpu,
    generators,
    matrices,
    prefixed,
    seeded,
    set_generators,
    under,
)
from ltx.training.evaluate import calibration, evaluate, grid, reestimate
from ltx.training.optim import SGD, Adam

FLUSH = 64  # steps whose losses and logits wait on the device before they are summed


class Diverged(Exception):
    """The training loss stopped being a number."""

    def __init__(self, level: int, step: int):
        super().__init__(f"the training loss is not a finite number at level {level}, step {step}")
        self.level, self.step = level, step


@dataclass(frozen=True)
class Plan:
    """What a level trains: steps `first` .. `last`, the step whose state becomes the anchor (level 0), the level."""

    level: int
    first: int
    last: int
    anchor: int | None


@dataclass(frozen=True)
class Hooks:
    """How a level under way is heard: rows of the records, progress, and checkpoints at least every `seconds`."""

    record: Callable[[list[dict[str, Any]]], None]
    progress: Callable[[int, float], None]
    checkpoint: Callable[[Tensors, dict[str, Any]], object]
    seconds: float


@dataclass
class Trained:
    """What a level leaves: its end, the point of smallest validation loss, the anchor, and seconds of training."""

    weights: Tensors
    buffers: Tensors
    extra: Tensors
    mask: Tensors
    best: Tensors
    best_step: int
    anchor: Tensors
    seconds: float


class Fit(lightning.LightningModule):
    """One level of one network: the network's own parameters are what the optimiser holds, masks are functional."""

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        state: State,
        plan: Plan,
        optim: SGD | Adam,
        data: Dataset,
        streams: Streams,
        hooks: Hooks,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.network, self.method, self.plan, self.recipe = network, method, plan, optim
        self.data, self.streams, self.hooks = data, streams, hooks
        network.load_state_dict(state.weights | state.buffers, strict=True)
        frozen = set(matrices(network))  # a search leaves them as drawn; norms, where affine, are trained
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(method.trains == "weights" or name not in frozen)
        trained = method.trains == "extra"
        self.scores: Tensors = {n: nn.Parameter(t.clone(), trained) for n, t in state.extra.items()}
        self.extra = nn.ParameterList(self.scores.values())  # so that they go to the device with the network
        self.mask = state.mask
        self.step, self.seconds = plan.first, 0.0
        self.began = self.checkpointed = time.monotonic()
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self.sums = torch.zeros(3, dtype=torch.float64)  # loss, correct, examples since the last record
        self.best: Tensors = {}
        self.best_step, self.best_loss = -1, float("inf")
        self.anchor: Tensors = {}
        self.restored: dict[str, Any] = {}
        self.generators: Tensors = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimiser = self.recipe.build([p for p in self.parameters() if p.requires_grad])
        if self.restored:
            optimiser.load_state_dict(self.restored)
        return optimiser

    def on_fit_start(self) -> None:
        dtype = next(self.network.parameters()).dtype
        self.mask = {name: mask.to(self.device, dtype) for name, mask in self.mask.items()}
        self.batches = Batches(self.data, self.recipe.batch, self.streams, self.device)
        self.val = self.data.val.to(self.device)
        self.weights: Tensors = {**dict(self.network.named_parameters())}
        self.grid = set(grid(self.plan.first, self.plan.last))
        self.trained = [p for p in self.parameters() if p.requires_grad]
        self.subset = calibration(self.data, self.streams).to(self.device) if self.method.restates else None
        if not self.generators:
            with seeded(self.streams.torch_seed("noise", "network", self.plan.level), str(self.device)):
                self.generators = generators(self.device)

    def effective(self, done: float = 1.0, noise: Tensors | None = None) -> Tensors:
        """Return the weights the network sees in place of its own, with the graph to what is trained."""
        seen = self.method.effective(self.weights, self.scores, self.mask, done, noise)
        return {name: tensor for name, tensor in seen.items() if tensor is not self.weights[name]}

    def training_step(self, chunk: tuple[int, int], index: int) -> None:
        """Take the optimiser steps chunk[0] .. chunk[1] - 1; the raw optimiser, whose state nothing else touches.

        Between two chunks Lightning may draw from torch's generators, so that each chunk continues its own states.
        """
        set_generators(self.generators, self.device)
        optimiser = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimiser, torch.optim.Optimizer)
        steps, network = range(*chunk), self.network
        for step, indices in zip(steps, self.batches.indices(*chunk), strict=True):
            x, y = self.batches.at(step, indices)
            rate = self.recipe.rate(self.method.rate_step(self.plan.level, step, self.plan.last))
            for group in optimiser.param_groups:
                group["lr"] = rate
            for parameter in self.trained:
                parameter.grad = None
            try:
                seen = self.effective(step / self.plan.last, self.noise(step))
            except NotANumber:
                self.flush()  # names the first loss that was not finite
                raise Diverged(self.plan.level, step) from None
            logits = call(network, seen, x)
            loss = F.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
            loss.backward()  # one device and no loss scaling: manual_backward would add its hooks and nothing else
            if self.recipe.clip is not None:
                nn.utils.clip_grad_norm_(self.trained, self.recipe.clip)
            optimiser.step()
            if self.method.score_range is not None:
                for score in self.scores.values():
                    score.data.clamp_(*self.method.score_range)
            self.waiting.append((loss.detach(), logits.detach(), y))
            self.__dict__["step"] = step + 1  # nn.Module's own setattr takes microseconds
            self.after_step(optimiser)
        self.generators = generators(self.device)

    def after_step(self, optimiser: torch.optim.Optimizer) -> None:
        """Record on the validation grid, keep the anchor, and checkpoint when it is time."""
        if len(self.waiting) >= FLUSH:
            self.flush()
        if self.method.every and self.step % self.method.every == 0 and self.step < self.plan.last:
            self.between()
        if self.step in self.grid:
            self.record()
        if self.step == self.plan.anchor:
            self.anchor = self.snapshot()
        now = time.monotonic()
        if now - self.checkpointed >= self.hooks.seconds and self.step < self.plan.last:
            self.flush()
            self.hooks.checkpoint(*self.checkpoint(optimiser))
            self.checkpointed = time.monotonic()

    def noise(self, step: int) -> Tensors | None:
        """Draw what a random mask of this step needs: uniforms in [0, 1), one per score."""
        if not self.method.noisy:
            return None
        rng = self.streams.generator("noise", "step", self.plan.level, step)
        return {n: torch.from_numpy(rng.random(tuple(t.shape), "float32")).to(t) for n, t in self.scores.items()}

    @torch.no_grad()
    def between(self) -> None:
        """Let the method change weights, scores and mask, in place."""

        def rng(name: str) -> np.random.Generator:
            return self.streams.generator("noise", "between", self.plan.level, self.step, name)

        done = self.step / self.plan.last
        weights, scores, self.mask = self.method.between(self.weights, self.scores, self.mask, done, rng)
        for now, after in ((self.weights, weights), (self.scores, scores)):
            for name, tensor in now.items():
                if after[name] is not tensor:
                    tensor.copy_(after[name])

    def flush(self) -> None:
        """Sum the waiting losses and hits. Raises Diverged naming the first step that is not finite."""
        if not self.waiting:
            return
        losses, logits, labels = (torch.stack(column) for column in zip(*self.waiting, strict=True))
        finite = torch.isfinite(losses)
        if not finite.all():
            raise Diverged(self.plan.level, self.step - len(losses) + int((~finite).nonzero()[0]))
        n = labels.numel()
        hits = (logits.argmax(-1) == labels).sum()
        self.sums += torch.stack([losses.double().sum() * n / len(losses), hits.double(), hits.new_tensor(n)]).cpu()
        self.waiting.clear()

    def elapsed(self) -> float:
        """Return the seconds this level has trained, before a resume included."""
        return self.seconds + time.monotonic() - self.began

    def snapshot(self) -> Tensors:
        """Copy all parameters and buffers of the network."""
        return {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def record(self) -> None:
        """Write the mean training loss and accuracy since the last record, and the validation loss here."""
        self.flush()
        before = self.restate()
        with torch.no_grad():
            loss, accuracy = evaluate(self.network, self.effective(), self.val)
        if not math.isfinite(loss):
            raise Diverged(self.plan.level, self.step)
        train_loss, hits, n = self.sums.tolist()
        self.sums.zero_()
        if loss < self.best_loss and self.method.settled(self.mask):
            self.best_loss, self.best_step = loss, self.step
            extra = {name: score.detach().clone() for name, score in self.scores.items()}
            self.best = self.snapshot() | prefixed("extra", extra)
        self.network.load_state_dict(before, strict=False)
        seconds = round(self.elapsed(), 3)
        at = {"level": self.plan.level, "step": self.step}
        self.hooks.record(
            [
                {**at, "split": "train", "loss": train_loss / n, "accuracy": hits / n, "seconds": seconds},
                {**at, "split": "val", "loss": loss, "accuracy": accuracy, "seconds": seconds},
            ]
        )
        self.hooks.progress(self.step, train_loss / n)

    def restate(self) -> Tensors:
        """Estimate BatchNorm statistics for the ticket where training saw other weights; return what stood before."""
        if self.subset is None:
            return {}
        before = {name: tensor.clone() for name, tensor in buffers(self.network).items()}
        with torch.no_grad():
            reestimate(self.network, self.effective(), self.subset)
        return before

    def checkpoint(self, optimiser: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
        """Return all that the rest of the level depends on."""
        state = optimiser.state_dict()["state"]
        moments = {
            f"{i}/{k}": torch.as_tensor(v) for i, slot in state.items() for k, v in slot.items() if v is not None
        }
        parts = {
            "network": self.snapshot(),
            "extra": self.scores,
            "optim": moments,
            "best": self.best,
            "anchor": self.anchor,
            "mask": self.mask,
            "sums": {"sums": self.sums},
            "generators": generators(self.device),
        }
        meta = {
            "level": self.plan.level,
            "step": self.step,
            "best_step": self.best_step,
            "best_loss": self.best_loss if self.best else None,
            "seconds": self.elapsed(),
        }
        return {name: t for part, tensors in parts.items() for name, t in cpu(prefixed(part, tensors)).items()}, meta

    def restore(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        """Continue from what `checkpoint` returned. Call before the fit."""
        self.network.load_state_dict(under("network", tensors))
        extra = under("extra", tensors)
        for name, parameter in self.scores.items():
            parameter.data.copy_(extra[name])
        self.step, self.seconds, self.best_step = meta["step"], meta["seconds"], meta["best_step"]
        self.best_loss = meta["best_loss"] if meta["best_loss"] is not None else float("inf")
        self.best, self.anchor = under("best", tensors), under("anchor", tensors)
        self.sums.copy_(tensors["sums/sums"])
        self.generators = under("generators", tensors)
        self.mask = under("mask", tensors)
        fresh = self.configure_optimizers().state_dict()
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in under("optim", tensors).items():
            i, _, key = name.partition("/")
            slots.setdefault(int(i), {})[key] = tensor
        self.restored = {"state": slots, "param_groups": fresh["param_groups"]}


class Chunks(torch.utils.data.IterableDataset):
    """The (start, stop) spans of optimiser steps that one training_step each takes."""

    def __init__(self, first: int, last: int, size: int):
        self.spans = [(start, min(start + size, last)) for start in range(first, last, size)]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.spans)


def train(
    network: nn.Module,
    method: Method,
    state: State,
    plan: Plan,
    optim: SGD | Adam,
    data: Dataset,
    streams: Streams,
    hooks: Hooks,
    device: str,
    options: dict[str, Any],
    resume: tuple[Tensors, dict[str, Any]] | None,
) -> Trained:
    """Train one level through Lightning's Trainer and return its end, on the CPU.

    `network` is a scratch module: its values are overwritten. Raises Diverged.
    """
    fit = Fit(network, method, state, plan, optim, data, streams, hooks)
    if plan.anchor == plan.first:
        fit.anchor = fit.snapshot()
    if resume is not None:
        fit.restore(*resume)
    if fit.step < plan.last:
        loader = torch.utils.data.DataLoader(Chunks(fit.step, plan.last, options["chunk"]), batch_size=None)
        try:
            with seeded(0, device):  # what a fit draws is its own affair; the caller's generators stay as they are
                trainer(device, options).fit(fit, loader)
        except SystemExit as stopped:
            if isinstance(stopped.__context__, KeyboardInterrupt):  # Lightning's answer to Ctrl-C
                raise KeyboardInterrupt from stopped
            raise
    end = cpu(fit.network.state_dict())
    kept = buffers(network)
    return Trained(
        weights={name: tensor for name, tensor in end.items() if name not in kept},
        buffers={name: end[name] for name in kept},
        extra=cpu(fit.scores),
        mask={name: mask.bool() for name, mask in cpu(fit.mask).items()},
        best=cpu(fit.best),
        best_step=fit.best_step,
        anchor=cpu(fit.anchor),
        seconds=round(fit.elapsed(), 3),
    )


def trainer(device: str, options: dict[str, Any]) -> lightning.Trainer:
    """Return a quiet Trainer of one device: records, checkpoints and progress are ours."""
    for name in ("utilities.rank_zero", "trainer.connectors.signal_connector"):  # tips, and "Received SIGTERM"
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    kind, _, number = device.partition(":")
    return lightning.Trainer(
        accelerator="gpu" if kind == "cuda" else "cpu",
        devices=[int(number or 0)] if kind == "cuda" else 1,
        precision=options["precision"],
        deterministic=options["deterministic"],
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
