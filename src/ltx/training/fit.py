"""Train one level of one seed: a LightningModule whose training_step fuses many optimiser steps.

The only importer of Lightning.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Generator
from functools import partial
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from ltx.data.batches import Batches
from ltx.data.splits import Example
from ltx.masks import NotANumber
from ltx.tensors import Tensors, buffers, cpu, generators, laid_out, seeded, set_generators
from ltx.training.checkpoint import joined, moments, part, set_moments
from ltx.training.evaluate import calibration, grid
from ltx.training.graphs import Graphs, spans
from ltx.training.heap import memory_kept
from ltx.training.leaves import Leaves, masks_alone
from ltx.training.optim import move
from ltx.training.ranks import ALONE, Ranks, over_ranks
from ltx.training.setup import Chunks, Resume, Setup, Trained
from ltx.training.task import TASKS
from ltx.training.watch import Diverged, Watch


class Fit(lightning.LightningModule):
    """One level under way. It knows the order of things; what each is stands in its own module.

    A step is: batch, network, loss, backward, clip, update. Of several ranks (see `ranks`) all take the same steps, and
    rank 0 alone measures, records and checkpoints.
    """

    leaves: Any  # Leaves, or what has stacked those of several seeds; see `replicas`

    def __init__(self, setup: Setup, ranks: Ranks = ALONE, leaves: Leaves | None = None):
        super().__init__()
        self.automatic_optimization = False
        self.ranks, self.on_sigterm = ranks, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
        self.plan, self.recipe, self.streams, self.hooks = setup.plan, setup.optim, setup.streams, setup.hooks
        self.task, self.data = TASKS[setup.data.task], setup.data
        self.leaves = leaves_of(setup) if leaves is None else leaves
        subset = calibration(setup.data, setup.streams) if setup.plan.restates else None
        val = setup.data.validated(setup.optim.steps * setup.optim.batch)
        self.watch = Watch(setup.plan, self.task, self.leaves, val, subset)
        self.grid = set(grid(setup.plan.first, setup.plan.last))
        self.step, self.seconds, self.side_by_side = setup.plan.first, 0.0, 1
        self.began = self.checkpointed = time.monotonic()
        self.anchor = self.leaves.snapshot() if setup.plan.anchor == setup.plan.first else {}
        self.batches: Generator[Example, None, None] | None = None
        self.graphs: Graphs | None = None
        self.captures = setup.graphs and setup.simple and ranks.count == 1
        self.moments: Tensors = {}
        self.generators: Tensors = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.leaves.parameters() if p.requires_grad]
        optimiser = self.recipe.build(trained, capturable=self.captures and self.device.type == "cuda")
        if self.moments:
            set_moments(optimiser, self.moments)
        return optimiser

    def on_fit_start(self) -> None:
        self.leaves.place(self.device)
        self.watch.place(self.device)
        batches = self.all_batches()
        self.batches = batches.stream(self.step, self.plan.last)
        if self.captures and self.device.type == "cuda":
            optimiser = self.raw_optimiser()
            self.graphs = Graphs(batches, partial(self.update, optimiser), optimiser)
        if not self.generators:
            with seeded(self.streams.torch_seed("noise", "network", self.plan.level), str(self.device)):
                self.generators = generators(self.device)

    def all_batches(self) -> Batches:
        """Return the batches of all steps."""
        return Batches(self.data, self.recipe.batch, self.streams, self.device)

    def on_train_start(self) -> None:
        """Of several ranks, end at SIGTERM as before: Lightning would first have all of them meet, and none comes."""
        if self.ranks.count > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_sigterm)

    def training_step(self, chunk: tuple[int, int], index: int) -> None:
        """Take the optimiser steps chunk[0] .. chunk[1] - 1; the raw optimiser, whose state nothing else touches.

        Between two chunks Lightning may draw from torch's generators, so that each chunk continues its own states.
        """
        self.hooks.check()
        set_generators(self.generators, self.device)
        optimiser = self.raw_optimiser()
        if self.graphs is None:
            for step in range(*chunk):
                self.take_step(step, optimiser)
                self.after_step(optimiser)
        else:
            for first, last in spans(*chunk, self.grid | {self.plan.anchor or 0}):
                rates = [self.rate(step) for step in range(first, last)]
                for step, (loss, outputs, y) in enumerate(self.graphs.take(first, last, rates), first + 1):
                    self.watch.add(loss, outputs, y, step)
                self.__dict__["step"] = last
                self.after_step(optimiser)
        self.generators = generators(self.device)

    def raw_optimiser(self) -> torch.optim.Optimizer:
        """Return torch's optimiser without what Lightning puts around it."""
        optimiser = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimiser, torch.optim.Optimizer)
        return optimiser

    def rate(self, step: int) -> float:
        """Return the learning rate of the step from `step` to `step + 1`."""
        return self.recipe.rate(step if self.plan.rate_at is None else self.plan.rate_at)

    def take_step(self, step: int, optimiser: torch.optim.Optimizer) -> None:
        """Take the step from `step` to `step + 1`."""
        assert self.batches is not None
        x, y = next(self.batches)
        plan, rate = self.plan, self.rate(step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        try:
            loss, outputs = self.update(optimiser, x, y, step / plan.last, self.noise(step))
        except NotANumber:
            self.watch.flush(step)  # raises for the first loss that was not finite, if one was
            raise Diverged(plan.level, step) from None
        if plan.clamp is not None:
            self.leaves.clamp(*plan.clamp)
        self.__dict__["step"] = step + 1  # nn.Module's own setattr takes microseconds
        if self.ranks.rank == 0:
            self.watch.add(loss, outputs, y, step + 1)

    def update(
        self, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, done: float = 1.0, noise: Tensors | None = None
    ) -> tuple[Tensor, Tensor]:
        """Move what is trained by the gradient of a batch; return the loss and the outputs."""
        leaves, recipe = self.leaves, self.recipe
        for parameter in leaves.trained:
            parameter.grad = None
        if self.ranks.count == 1:
            outputs = leaves(x, done, noise)
            loss = self.task.loss(outputs, y, recipe.label_smoothing)
            loss.backward()  # there is no loss scaling, so Lightning's manual_backward would only cost time
        else:
            loss, outputs = self.backward_together(x, y, done, noise)
        leaves.mask_gradients()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(leaves.trained, recipe.clip)
        move(optimiser)
        return loss, outputs

    def backward_together(self, x: Tensor, y: Tensor, done: float, noise: Tensors | None) -> tuple[Tensor, Tensor]:
        """Compute this rank's part of a batch and sum the gradients; return loss and outputs of the whole batch."""
        part, smoothing = self.ranks.part(len(x)), self.recipe.label_smoothing
        with over_ranks(self.leaves.network):
            outputs = self.leaves(x[part], done, noise)
        loss = self.task.loss(outputs, y[part], smoothing) * (len(outputs) / len(x))
        loss.backward()
        gradients = [parameter.grad for parameter in self.leaves.trained if parameter.grad is not None]
        outputs = self.ranks.sum(gradients, outputs.detach(), len(x))
        return self.task.loss(outputs, y, smoothing), outputs

    def after_step(self, optimiser: torch.optim.Optimizer) -> None:
        """Let the method act, record on the validation grid, keep the anchor, and checkpoint when it is time."""
        step, plan = self.step, self.plan
        if plan.every and step % plan.every == 0 and step < plan.last:
            self.leaves.between(step / plan.last, self.drawn_between)
        if self.ranks.rank:
            return
        if step in self.grid:
            self.record()
        if step == plan.anchor:
            self.keep_anchor()
        if time.monotonic() - self.checkpointed >= self.hooks.seconds and step < plan.last:
            self.watch.flush(step)
            self.save(moments(optimiser))
            self.checkpointed = time.monotonic()

    def noise(self, step: int) -> Tensors | None:
        """Draw what a random mask of this step needs: uniforms in [0, 1), one per score."""
        if not self.plan.noise:
            return None
        rng = self.streams.generator("noise", "step", self.plan.level, step)
        scores = self.leaves.scores
        drawn = {n: torch.from_numpy(rng.random(tuple(t.shape), "float32")) for n, t in scores.items()}
        return {n: laid_out(t.to(self.device), scores[n]) for n, t in drawn.items()}

    def drawn_between(self, name: str) -> np.random.Generator:
        """Return the generator of what the method draws for a parameter after this step."""
        return self.streams.generator("noise", "between", self.plan.level, self.step, name)

    def elapsed(self) -> float:
        """Return the seconds this level has trained, before a resume included; of several side by side its share."""
        return self.seconds + (time.monotonic() - self.began) / self.side_by_side

    def record(self, looked: tuple[float, float] | None = None) -> None:
        """Write the mean training loss and accuracy since the last record, and the validation loss here."""
        train, val = self.watch.record(self.step, looked)
        at = {"level": self.plan.level, "step": self.step}
        seconds = {"seconds": round(self.elapsed(), 3)}
        self.hooks.record([{**at, "split": "train", **train, **seconds}, {**at, "split": "val", **val, **seconds}])
        self.hooks.progress(self.step, train["loss"])

    def keep_anchor(self) -> None:
        """Keep the network as it is, to rewind to."""
        self.anchor = self.leaves.snapshot()

    def save(self, moments: Tensors) -> None:
        """Write a checkpoint, given the optimiser's moments."""
        self.hooks.checkpoint(*self.checkpoint(moments))

    def checkpoint(self, moments: Tensors) -> Resume:
        """Return all that the rest of the level depends on, given the optimiser's moments."""
        parts = {
            "leaves": self.leaves.tensors(),
            "watch": self.watch.tensors(),
            "optim": moments,
            "anchor": self.anchor,
            "generators": generators(self.device),
        }
        meta = {"level": self.plan.level, "step": self.step, "seconds": self.elapsed(), **self.watch.meta()}
        meta["compressed"] = list(self.leaves.values)
        return joined(parts), meta

    def restore(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        """Continue from what `checkpoint` returned. Call before the fit."""
        self.leaves.restore(part("leaves", tensors))
        self.watch.restore(part("watch", tensors), meta)
        self.moments, self.anchor = part("optim", tensors), part("anchor", tensors)
        self.generators = part("generators", tensors)
        self.step, self.seconds = meta["step"], meta["seconds"]


def train(setup: Setup, device: str, options: dict[str, Any], resume: Resume | None, ranks: Ranks = ALONE) -> Trained:
    """Train one level through Lightning's Trainer and return its end, on the CPU.

    The setup's network is a scratch module: its values are overwritten. `options` are the config's under `trainer`.
    Of several ranks all call it with the same setup, each on its device; what rank 0 returns counts. Raises Diverged.
    """
    fit = Fit(setup, ranks)
    if resume is not None:
        fit.restore(*resume)
    take_steps(fit, device, options, setup.form.precision)
    return trained(fit)


def leaves_of(setup: Setup) -> Leaves:
    """Return what the optimiser of a level holds, as the level begins."""
    fixed = masks_alone(setup.method, setup.plan)
    return Leaves(setup.network, setup.method, setup.state, setup.form, fixed, setup.compressed, setup.plain)


def take_steps(fit: Fit, device: str, options: dict[str, Any], precision: Any) -> None:
    """Take the steps of a level that are left."""
    if fit.step == fit.plan.last:
        return
    loader = torch.utils.data.DataLoader(Chunks(fit.step, fit.plan.last, options["chunk"]), batch_size=None)
    try:
        with memory_kept(), seeded(0, device):  # so that the caller's random generators are afterwards as they were
            trainer(device, precision, options["deterministic"], fit.ranks).fit(fit, loader)
    except SystemExit as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from stopped
        raise
    finally:
        if fit.batches is not None:
            fit.batches.close()  # left to the garbage collector, worker processes are not told and hold it up


def trained(fit: Fit) -> Trained:
    """Return what a level leaves whose steps were all taken, on the CPU."""
    end = cpu(fit.leaves.snapshot())
    kept = buffers(fit.leaves.network)
    return Trained(
        weights={name: tensor for name, tensor in end.items() if name not in kept},
        buffers={name: end[name] for name in kept},
        scores=cpu(fit.leaves.scores),
        mask=cpu(fit.leaves.mask),
        best=cpu(fit.watch.best),
        best_step=fit.watch.best_step,
        anchor=cpu(fit.anchor),
        seconds=round(fit.elapsed(), 3),
        replicas=fit.side_by_side,
    )


class Environment(LightningEnvironment):
    """Tells Lightning which rank this process is, so that it starts none itself."""

    def __init__(self, ranks: Ranks):
        super().__init__()
        self.ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self.ranks.rank

    def node_rank(self) -> int:
        return 0


class Together(DDPStrategy):
    """Lightning's data parallelism without its wrapper, which allows one backward pass in a training_step."""

    def configure_ddp(self) -> None:
        """Leave the module as it is: `Fit` sums the gradients."""

    def _configure_launcher(self) -> None:
        """Have no launcher: it would set the number of threads."""


def trainer(device: str, precision: Any, deterministic: bool, ranks: Ranks = ALONE) -> lightning.Trainer:
    """Return a quiet Trainer of this process's device: records, checkpoints and progress are ours."""
    # Tips, "Received SIGTERM", and which CUDA devices a worker sees.
    for name in ("utilities.rank_zero", "trainer.connectors.signal_connector", "accelerators.cuda"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    # Where algorithms are deterministic torch would also fill all new memory before it is used, for those who read it
    # before they write it. That is a tenth of a small network's step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    kind, _, number = device.partition(":")
    first = int(number or 0) - ranks.rank  # the GPUs of the ranks follow each other
    return lightning.Trainer(
        accelerator="gpu" if kind == "cuda" else "cpu",
        devices=[*range(first, first + ranks.count)] if kind == "cuda" else ranks.count,
        strategy="auto" if ranks.count == 1 else Together(),
        plugins=None if ranks.count == 1 else [Environment(ranks)],
        precision=precision,
        deterministic=deterministic,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
