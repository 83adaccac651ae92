"""The levels of one seed: what is on disk is adopted, what is not is computed and committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

import torch

from ltx.config.spec import Spec
from ltx.config.trunk import Standing, seed_of
from ltx.data.batches import Batches
from ltx.data.splits import Dataset, Example, some
from ltx.errors import BadInput
from ltx.methods import Context, Plan, State, WithoutGradients
from ltx.runs.checks import pick_device
from ltx.runs.peers import Peers
from ltx.runs.row import Rows
from ltx.store.files import commit, pack
from ltx.store.folders import RunFolder
from ltx.store.rows import Row, Value
from ltx.store.seeds import FORMAT, Log, SeedFolder
from ltx.streams import Streams
from ltx.tensors import Tensors, buffers, cpu, in_kind, matrices, seeded, under
from ltx.training.checkpoint import LAYOUT, joined
from ltx.training.fit import train
from ltx.training.leaves import masks_alone, pruned_are_zero
from ltx.training.measure import Measure
from ltx.training.rows import fits, sparse_enough
from ltx.training.setup import Hooks, Resume, Setup, Trained
from ltx.training.task import TASKS

Report = Callable[[str, Any], None]
Columns = Mapping[str, Value]


@dataclass(frozen=True)
class Computed:
    """A level before it is measured: where it began, what came out, a method's further columns and what it sampled.

    compressed: the weights that were trained as compressed rows.
    """

    begin: State
    end: Trained
    columns: Columns
    sample: Tensors = field(default_factory=dict)
    compressed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Begun:
    """A level that is ready to be computed; setup: what it is trained with, None where its method trains nothing."""

    plan: Plan
    context: Context
    resume: Resume | None
    log: Log
    setup: Setup | None


class LevelLoop:
    """One seed's levels. `check` raises Lost where the seed's claim is another process's by now.

    `peers` are the processes that train it together with this one, where it has several devices.
    """

    def __init__(
        self, spec: Spec, folder: SeedFolder, report: Report, check: Callable[[], None], peers: Peers | None = None
    ):
        self.spec, self.folder, self.report, self.check, self.peers = spec, folder, report, check, peers
        self.method, self.data, self.options = spec.method, spec.data, spec.config["trainer"]
        self.device = pick_device(spec.config["device"])
        self.streams = spec.streams(folder.seed)
        self.network = spec.network(streams=self.streams)
        self.measure = Measure(self.network, self.method, self.data, self.streams, self.device, spec.form)
        self.rows = Rows(spec, self.network, self.measure)
        self.matrices = matrices(self.network)
        self.prunable = self.method.prunable(self.matrices)
        self.identity = {"format": FORMAT, **spec.identity(folder.seed)}
        self.read: dict[int, tuple[Tensors, dict[str, Any]]] = {}
        self.parameters = {name for name, _ in self.network.named_parameters()}
        self.trunk = self.standing()

    @cached_property
    def init(self) -> State:
        """The initialisation: as drawn, then from the file of model.weights, then from the end of a trunk.

        The first level that is computed asks for it before it trains, which changes the network; a seed with all its
        levels reads no file. A file that is gone or was changed raises OSError: it may be put back.
        """
        if self.spec.start is not None:
            try:
                self.spec.start.load(self.network)
            except BadInput as error:
                raise OSError(str(error)) from error
        init = State(cpu(dict(self.network.named_parameters())), cpu(buffers(self.network)), {})
        return init if self.trunk is None or self.method.needs_trunk else self.trunk.pretrained(init)

    def standing(self) -> Standing | None:
        """Return the trunk as this seed finds it."""
        below = self.spec.trunk
        if below is None:
            return None
        run = RunFolder(self.folder.path.parents[1] / below.key)
        kind = next(self.network.parameters()).dtype

        @cache
        def loop(seed: int) -> LevelLoop:
            return LevelLoop(below, run.seed(seed), lambda kind, value: None, self.check)

        def state(seed: int, level: int, part: str) -> State:
            """Return a state of the trunk; where that was trained in another precision, in this run's."""
            found = loop(seed).state(level, part)
            if below.form.reduced == self.spec.form.reduced:
                return found
            weights, rest, scores = (in_kind(t, kind) for t in (found.weights, found.buffers, found.scores))
            return State(weights, rest, found.mask, scores, found.step)

        own = self.folder.seed
        return Standing(below.method, self.matrices, partial(state, seed_of(self.spec, own)), partial(state, own))

    def tensors(self, level: int) -> Tensors | None:
        """Return a finished level's tensors, or None; level 0 and the last one asked for stay in memory."""
        if level not in self.read:
            found = self.folder.read_level(level, self.identity)
            if found is None:
                return None
            self.keep(level, *found)
        return self.read[level][0]

    def keep(self, level: int, tensors: Tensors, meta: dict[str, Any]) -> None:
        """Keep a level in memory beside level 0."""
        self.read = {k: v for k, v in self.read.items() if k == 0} | {level: (tensors, meta)}

    def state(self, level: int, part: str) -> State:
        """Return the `end` or `anchor` state of a level; one that was damaged since is computed again."""
        if self.tensors(level) is None:
            self.compute(level)
        found, meta = self.read[level]
        values = under(part, found)
        weights = {name: tensor for name, tensor in values.items() if name in self.parameters}
        rest = {name: tensor for name, tensor in values.items() if name not in weights}
        scores = self.ordered(under("score", found)) if part == "end" else {}
        step = meta["anchor_step"] if part == "anchor" else 0
        sample = under("sample", found) if part == "end" else {}
        return State(weights, rest, self.ordered(under("mask", found)), scores, step, sample)

    def ordered(self, tensors: Tensors) -> Tensors:
        """Return masks or scores in the network's order, which decides ties; a file has them sorted by name."""
        return {name: tensors[name] for name in self.prunable if name in tensors}

    def compute(self, level: int) -> None:
        """Compute one level, from its checkpoint if it was under way, and commit its file."""
        begun = self.begin(level)
        if begun.setup is None:
            self.finish(begun)
        else:
            together = train if self.peers is None or begun.plan.first == begun.plan.last else self.peers.train
            self.finish(begun, together(begun.setup, self.device, self.options, begun.resume))

    def begin(self, level: int) -> Begun:
        """Make ready what a level begins with, or goes on with from its checkpoint if it was under way."""
        plan, context, resume = self.spec.plan(level), self.context(level), self.under_way(level)
        log = Log(self.folder, [] if resume is None else resume[1]["records"])
        setup = None if isinstance(self.method, WithoutGradients) else self.setup(plan, context, resume, log)
        return Begun(plan, context, resume, log, setup)

    def finish(self, begun: Begun, trained: Trained | None = None) -> None:
        """Measure what a level's training has left, where its method trains, and commit its file."""
        plan, log = begun.plan, begun.log
        if trained is None:
            assert isinstance(self.method, WithoutGradients)
            found = self.advanced(self.method, plan, begun.context)
        else:
            assert begun.setup is not None
            found = self.restated(begun.setup, trained)
        self.check()
        mask, _ = self.method.ticket(found.end.scores, found.end.mask)
        with self.seeded("measure", plan.level):
            row = self.rows.row(self.folder.seed, plan, mask, found.end, found.columns)
        test = {"split": "test", "loss": row.test_loss, "accuracy": row.test_accuracy}
        log.add([{"level": plan.level, "step": plan.last, **test, "seconds": found.end.seconds}])
        log.file.close()
        self.commit(plan, mask, found, row, log.rows)
        self.report("level", row)

    def context(self, level: int) -> Context:
        """Return what a level may look at when it starts."""
        parent = self.spec.plan(level).parent
        return Context(
            prunable=self.prunable,
            init=replace(self.init, weights=self.begun(self.init.weights)),
            anchor=self.state(0, "anchor") if level else self.init,
            previous=self.init if parent == level else self.state(parent, "end"),
            streams=self.streams,
            redrawn=self.redrawn,
            drawn=self.drawn,
            network=self.spec.network(),
            batch=Batches(self.data, self.spec.optim.batch, self.streams).at,
            loss=TASKS[self.data.task].loss,
            measure=self.measure.part,
            examples=self.examples,
            device=self.measure.device,
            trunk=None if self.trunk is None else self.trunk.ticket,
            dense=None if self.trunk is None else self.trunk.dense,
        )

    def examples(self, part: str, most: int) -> Example:
        """Return at most so many examples of a part, the same for all seeds; of the test part only to report them."""
        return examples(self.data, part, most)

    def redrawn(self) -> Tensors:
        """Draw the model's initialisation another time, never from a file, at the scale of the trunk's method."""
        streams = replace(self.streams, init=Streams.other(self.streams.init))
        weights = cpu(dict(self.spec.network(streams=streams).named_parameters()))
        return self.begun(weights)

    def drawn(self, number: int) -> Tensors:
        """Draw the initialisation of a number, one of a series that belongs to the init stream."""
        streams = replace(self.streams, init=self.streams.torch_seed("init", "series", number))
        return cpu(dict(self.spec.redrawn(self.series, streams).named_parameters()))

    @cached_property
    def series(self) -> torch.nn.Module:
        """A scratch network for `drawn`."""
        return self.spec.network()

    def begun(self, weights: Tensors) -> Tensors:
        """Return drawn weights as the run begins with them: a control at the scale of its trunk."""
        return self.trunk.scaled(weights) if self.trunk is not None and self.method.needs_trunk else weights

    def under_way(self, level: int) -> Resume | None:
        """Return the checkpoint of a level that was under way."""
        found = self.folder.read(self.folder.partial_path, {**self.identity, "layout": LAYOUT})
        return found if found is not None and found[1]["level"] == level else None

    def advanced(self, method: WithoutGradients, plan: Plan, context: Context) -> Computed:
        """Let a method without gradients make the level."""
        previous, began = context.previous, time.monotonic()
        if not previous.mask:
            ones = {name: torch.ones_like(previous.weights[name], dtype=torch.bool) for name in self.prunable}
            scaled = {name: previous.weights[name] * self.method.factor for name in self.prunable}
            previous = replace(previous, weights=previous.weights | scaled, mask=ones)
        with self.seeded("start", plan.level):
            end, columns = method.advance(plan.level, previous, context)
        seconds = round(time.monotonic() - began, 3)
        anchor = {} if plan.level else previous.weights | previous.buffers
        end = self.measure.restated(end)
        trained = Trained(end.weights, end.buffers, end.scores, end.mask, {}, -1, anchor, seconds)
        return Computed(previous, trained, columns, end.sample)

    def setup(self, plan: Plan, context: Context, resume: Resume | None, log: Log) -> Setup:
        """Return what a level is trained with."""
        method, level = self.method, plan.level
        with self.seeded("start", level):
            begin = method.start(level, context)

        def save(tensors: Tensors, meta: dict[str, Any]) -> None:
            whose = {**self.identity, "layout": LAYOUT, "level": level}
            commit(self.folder.partial_path, pack(tensors, {**meta, **whose, "records": log.rows}))

        hooks = Hooks(log.add, self.progress(level), save, self.options["checkpoint_seconds"], self.check)
        streams = self.streams
        if plan.other_order:
            order, augment = streams.other(streams.order), streams.other(streams.augment)
            streams = replace(streams, order=order, augment=augment)
        rows, form = self.compressed(plan, begin, resume), self.spec.form
        optim, how = self.spec.optim, (form, rows, not self.spec.users_own, self.options["cuda_graphs"])
        return Setup(self.network, method, begin, plan, optim, self.data, streams, hooks, *how)

    def restated(self, setup: Setup, end: Trained) -> Computed:
        """Return what a level was trained to, with the statistics that its ticket needs."""
        plan, state, on = setup.plan, end.state, self.measure.on
        with self.seeded("measure", plan.level):
            columns = self.method.columns(state, self.streams, lambda noise: on(self.data.test, state, noise)[1])
            if plan.first == plan.last or plan.restates:
                end = replace(end, buffers=self.measure.restated(state).buffers)
        return Computed(setup.state, end, columns, compressed=list(setup.compressed))

    def compressed(self, plan: Plan, begin: State, resume: Resume | None) -> list[str]:
        """Name the weights that a level trains as compressed rows (see `rows`); it goes on as it was begun."""
        if resume is not None:
            found: list[str] = resume[1].get("compressed", [])
            return found
        if not masks_alone(self.method, plan) or (self.spec.optim.weight_decay and not pruned_are_zero(begin)):
            return []  # pruned weights that are not zero would decay, unseen, where all weights are held
        masks = {name: begin.mask[name] for name in fits(self.network, self.spec.form) if name in begin.mask}
        return sparse_enough({name: (int(m.sum()), m.numel()) for name, m in masks.items()}, self.device, self.options)

    def commit(self, plan: Plan, mask: Tensors, found: Computed, row: Row, records: list[dict[str, Any]]) -> None:
        """Write the level's file, unless another process was faster, and remove its checkpoint."""
        begin, end = found.begin, found.end
        tensors = joined(
            {
                "begin": begin.weights | begin.buffers,
                "end": end.weights | end.buffers,
                "mask": mask,
                "score": end.scores,
                "anchor": end.anchor,
                "sample": found.sample,
            }
        )
        records.sort(key=lambda record: (record["step"], record["split"]))
        about = {"row": row.columns(), "layers": row.layers, "anchor_step": plan.anchor, "records": records}
        if found.compressed:
            about["compressed"] = found.compressed
        if end.replicas > 1:
            about["replicas"] = end.replicas
        meta = {**self.identity, "level": plan.level, **about}
        commit(self.folder.level_path(plan.level), pack(tensors, meta), replace=False)
        self.folder.partial_path.unlink(missing_ok=True)
        self.keep(plan.level, tensors, meta)

    def seeded(self, purpose: str, level: int) -> AbstractContextManager[None]:
        """Seed what a network draws by itself outside the training steps (see `Fit` for those)."""
        return seeded(self.streams.torch_seed("noise", purpose, level), self.device)

    def progress(self, level: int) -> Callable[[int, float], None]:
        """Return a reporter of (step, loss) that stays silent for a tenth of a second after each report."""
        last = 0.0

        def report(step: int, loss: float) -> None:
            nonlocal last
            if (now := time.monotonic()) - last >= 0.1:
                last = now
                self.report("progress", (level, step, loss))

        return report


def examples(data: Dataset, part: str, most: int) -> Example:
    """Return at most so many examples of a part of the data, the same for all seeds."""
    split = some({"train": data.train, "val": data.val, "test": data.test}[part], most, "examples")
    return split.x, split.y
