"""The level loop of one seed, in a worker: what is on disk is adopted, what is not is trained and committed."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltx.config.spec import Spec
from ltx.data import Batches, Split
from ltx.masks import count
from ltx.methods import Context, State, layer, masked
from ltx.store.files import commit, pack
from ltx.store.folders import FORMAT, RECORD, Records, RunFolder, SeedFolder
from ltx.streams import Streams
from ltx.tensors import Tensors, buffers, cpu, matrices, prefixed, seeded, under
from ltx.training.evaluate import calibration, evaluate, reestimate
from ltx.training.fit import Diverged, Hooks, Plan, Trained, train

Report = Callable[[str, Any], None]


def run_seed(config: dict[str, Any], directory: str, seed: int, report: Report) -> None:
    """Train the levels of one seed that are not there yet, in order, each committed when it ends.

    Reports ("progress", (level, step, loss)), ("level", row) and ("diverged", failure). A failure that would happen
    again is kept in the seed's folder; an OSError (disk full, say) is not.
    """
    torch.set_num_threads(config["threads"])
    folder = RunFolder(Path(directory)).seed(seed)
    folder.forget_failure()
    try:
        try:
            loop = LevelLoop(Spec.of(config), folder, report)
            for level in range(loop.spec.method.last_level + 1):
                if loop.tensors(level) is None:
                    loop.train(level)
        except SystemExit as stopped:
            raise RuntimeError(f"the point called exit({stopped.code})") from stopped
    except Diverged as error:
        failure = {"kind": "diverged", "level": error.level, "step": error.step, "reason": str(error)}
        commit(folder.failure_path, json.dumps(failure).encode())
        report("diverged", failure)
    except Exception as error:  # kept beside the seed's files, then raised on: nothing is hidden
        if not isinstance(error, OSError):
            failure = {
                "kind": "raised",
                "reason": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }
            commit(folder.failure_path, json.dumps(failure).encode())
        raise


class LevelLoop:
    """One seed's levels."""

    def __init__(self, spec: Spec, folder: SeedFolder, report: Report):
        self.spec, self.folder, self.report = spec, folder, report
        self.method, self.data, self.options = spec.method, spec.data, spec.config["trainer"]
        self.trunk = None
        if spec.trunk is not None:
            pinned = spec.config["method"].get("trunk_seed")
            trunk_run = RunFolder(folder.path.parents[1] / spec.trunk.key)
            seed = folder.seed if pinned is None else pinned
            self.trunk = LevelLoop(spec.trunk, trunk_run.seed(seed), lambda kind, value: None)
        self.device = pick_device(spec.config["device"])
        self.streams = spec.streams(folder.seed)
        self.network = spec.network(streams=self.streams)
        self.matrices = matrices(self.network)
        self.total = sum(self.network.get_parameter(name).numel() for name in self.matrices)
        self.init = State(cpu(dict(self.network.named_parameters())), cpu(buffers(self.network)), {})
        if self.trunk is not None and not self.method.needs_trunk:
            self.init = self.pretrained(self.trunk)
        self.identity = {"format": FORMAT, **spec.identity(folder.seed)}
        self.read: dict[int, tuple[Tensors, dict[str, Any]]] = {}

    def pretrained(self, trunk: LevelLoop) -> State:
        """Return the trunk's last end as initialisation; parameters of another shape (other classes) keep their own."""
        end = trunk.state(trunk.method.last_level, "end")
        values = masked(end.weights, end.mask) | end.buffers

        def same(own: Tensors) -> Tensors:
            return {k: values[k] if k in values and values[k].shape == t.shape else t for k, t in own.items()}

        return State(same(self.init.weights), same(self.init.buffers), {})

    def redrawn(self) -> Tensors:
        """Draw the model's initialisation another time."""
        streams = replace(self.streams, init=Streams.other(self.streams.init))
        return self.scaled(cpu(dict(self.spec.network(streams=streams).named_parameters())))

    def scaled(self, weights: Tensors) -> Tensors:
        """Return initial weights at the scale of the trunk's method, which a control takes over."""
        if self.trunk is None or not self.method.needs_trunk:
            return weights
        names = self.trunk.method.prunable(self.matrices)
        return weights | self.trunk.method.scaled({name: weights[name] for name in names})

    def trunk_state(self, level: int) -> State:
        """Return the trunk's anchor with the mask of one of its levels."""
        assert self.trunk is not None
        ticket, anchor = self.trunk.state(level, "end"), self.trunk.state(0, "anchor")
        dense = self.trunk.state(0, "end").weights
        ranks = self.trunk.method.ranks(ticket.extra)
        if self.trunk.method.trains == "weights":  # scores at initialisation carry a sign; others rank by magnitude
            ranks = ticket.extra or {name: dense[name].abs() for name in ticket.mask}
        if self.trunk.method.trains == "extra":  # frozen but for what IteRand drew anew
            anchor = replace(anchor, weights=anchor.weights | {name: ticket.weights[name] for name in ticket.mask})
        return replace(anchor, mask=ticket.mask, extra=ranks)

    def tensors(self, level: int) -> Tensors | None:
        """Return a finished level's tensors, or None; level 0 and the last one asked for stay in memory."""
        if level not in self.read:
            found = self.folder.read_level(level, self.identity)
            if found is None:
                return None
            self.read = {k: v for k, v in self.read.items() if k == 0} | {level: found}
        return self.read[level][0]

    def state(self, level: int, part: str) -> State:
        """Return the `end` or `anchor` state of a level; one that was damaged since is computed again."""
        if self.tensors(level) is None:
            self.train(level)
        found, meta = self.read[level]
        values = under(part, found)
        weights = {name: tensor for name, tensor in values.items() if name in self.init.weights}
        rest = {name: tensor for name, tensor in values.items() if name not in weights}
        extra = under("score", found) if part == "end" else {}
        return State(weights, rest, under("mask", found), extra, meta["anchor_step"] if part == "anchor" else 0)

    def train(self, level: int) -> None:
        """Train one level, from its checkpoint if it was under way, and commit its file."""
        method, steps = self.method, self.spec.optim.steps
        anchor = self.state(0, "anchor") if level else self.init
        parent = method.parent(level)
        previous = self.init if parent == level else self.state(parent, "end")
        prunable = method.prunable(self.matrices)
        trunk = self.trunk_state if self.trunk is not None else None
        batches = Batches(self.data, self.spec.optim.batch, self.streams)
        batch = partial(training_batch, batches)
        network = self.spec.network()
        init = replace(self.init, weights=self.scaled(self.init.weights))
        context = Context(prunable, init, anchor, previous, self.streams, self.redrawn, network, batch, trunk)
        with self.seeded("start", level):
            begin = method.start(level, context)
        last = max(begin.step, method.steps(level, steps))
        anchor_step = max(begin.step, method.anchor_step)
        plan = Plan(level, begin.step, last, None if level else anchor_step)
        identity = {**self.identity, "level": level}
        resume = self.folder.read(self.folder.partial_path, self.identity)
        if resume is not None and resume[1]["level"] != level:
            resume = None
        records = Records(self.folder)
        rows: list[dict[str, Any]] = resume[1]["records"] if resume is not None else []  # of this level, without times

        def record(new: list[dict[str, Any]]) -> None:
            records.add({"seed": self.folder.seed, **row} for row in new)
            rows.extend({name: row[name] for name in RECORD} for row in new)

        def checkpoint(tensors: Tensors, meta: dict[str, Any]) -> None:
            commit(self.folder.partial_path, pack(tensors, {**meta, **identity, "records": rows}))

        hooks = Hooks(record, self.progress(level), checkpoint, self.options["checkpoint_seconds"])
        trained = train(
            *(self.network, method, begin, plan, self.spec.optim, self.data, method.streams(self.streams), hooks),
            *(self.device, self.options, resume),
        )
        mask = method.ticket_mask(trained.extra, trained.mask)
        with self.seeded("measure", level):
            draws = self.mean_of_draws(trained) if method.noisy else None
            if plan.first == plan.last or method.restates:
                trained = self.restated(trained)
            row = self.summarise(plan, mask, trained)
        if draws is not None:
            row["draws_test_accuracy"] = draws
        test = {
            "level": level,
            "step": plan.last,
            "split": "test",
            "loss": row["test_loss"],
            "accuracy": row["test_accuracy"],
        }
        hooks.record([{**test, "seconds": trained.seconds}])
        records.close()
        parts = {
            "begin": begin.weights | begin.buffers,
            "end": trained.weights | trained.buffers,
            "mask": mask,
            "score": trained.extra,
            "anchor": trained.anchor,
        }
        tensors = {name: t for part, values in parts.items() for name, t in cpu(prefixed(part, values)).items()}
        layers = {layer(name): float(mask.float().mean()) for name, mask in mask.items()}
        rows.sort(key=lambda row: (row["step"], row["split"]))
        meta = {**identity, "row": row, "layers": layers, "anchor_step": plan.anchor, "records": rows}
        commit(self.folder.level_path(level), pack(tensors, meta), replace=False)
        self.folder.partial_path.unlink(missing_ok=True)
        self.read = {k: v for k, v in self.read.items() if k == 0} | {level: (tensors, meta)}
        self.report("level", row)

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

    def restated(self, trained: Trained) -> Trained:
        """Return what training left with BatchNorm statistics estimated anew, for the weights as they are."""
        self.network.load_state_dict(trained.weights | trained.buffers)
        effective = self.method.effective(trained.weights, trained.extra, cpu(trained.mask))
        reestimate(self.network, effective, calibration(self.data, self.streams))
        return replace(trained, buffers=cpu(buffers(self.network)))

    def summarise(self, plan: Plan, mask: Tensors, trained: Trained) -> dict[str, Any]:
        """Return the level's summary row, measured at the last step and at the smallest validation loss.

        The early stop is null where the last grid point is the best (censored), or nothing was trained.
        """
        end = State(trained.weights, trained.buffers, mask, trained.extra)
        kept, prunable = count(mask), sum(m.numel() for m in mask.values())
        row: dict[str, Any] = {
            **{"seed": self.folder.seed, "level": plan.level, "density": kept / prunable, "kept": kept},
            **{"prunable": prunable, "total": self.total, "step": plan.last},
        }
        row["train_loss"] = self.measure(end, self.data.train)[0]
        row["val_loss"], row["val_accuracy"] = self.measure(end, self.data.val)
        row["test_loss"], row["test_accuracy"] = self.measure(end, self.data.test)
        row["early_stop_step"] = trained.best_step if 0 <= trained.best_step < plan.last else None
        if not trained.best:
            return row | {"early_stop_test_accuracy": row["test_accuracy"]}
        best = State(
            {name: tensor for name, tensor in trained.best.items() if name in trained.weights},
            {name: tensor for name, tensor in trained.best.items() if name in trained.buffers},
            mask,
            under("extra", trained.best),
        )
        row["early_stop_test_accuracy"] = self.measure(best, self.data.test)[1]
        return row

    def mean_of_draws(self, trained: Trained, draws: int = 10) -> float:
        """Return the mean test accuracy over drawn masks."""
        state, total = State(trained.weights, trained.buffers, trained.mask, trained.extra), 0.0
        for i in range(draws):
            rng = self.streams.generator("noise", "draw", i)
            noise = {
                n: torch.from_numpy(rng.random(tuple(t.shape), "float32")).to(self.device)
                for n, t in state.extra.items()
            }
            total += self.measure(state, self.data.test, noise)[1]
        return total / draws

    def measure(self, state: State, split: Split, noise: Tensors | None = None) -> tuple[float, float]:
        """Return loss and accuracy of a state's effective weights on a split."""
        self.network.load_state_dict(state.weights | state.buffers)
        self.network.to(self.device)
        extra, mask = ({k: v.to(self.device) for k, v in part.items()} for part in (state.extra, state.mask))
        effective = self.method.effective(dict(self.network.named_parameters()), extra, mask, 1.0, noise)
        return evaluate(self.network, effective, split.to(self.device))


def training_batch(batches: Batches, step: int) -> tuple[Tensor, Tensor]:
    """Return the training batch of a step."""
    return batches.at(step, batches.indices(step, step + 1)[0])


def pick_device(asked: str) -> str:
    """Return the device `auto` stands for, or the one asked for."""
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return asked
