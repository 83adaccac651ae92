"""What comparing two tickets measures: overlaps against nulls, networks under orders of units, lines between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ltx.analysis.connectivity import barriers
from ltx.analysis.identity import ACTIVATIONS, IDENTITY, WEIGHTS, Alike, Identity, Line, Side
from ltx.analysis.nulls import ROUNDS, degree_matched, layer_matched, size_matched
from ltx.analysis.overlap import Law, Null, against, by_layer, overlap, together
from ltx.api import Run, Ticket, level_file, seed_folder
from ltx.config.spec import Spec
from ltx.config.trunk import seed_of
from ltx.errors import BadInput
from ltx.store.folders import RunFolder
from ltx.streams import generator
from ltx.symmetry import Table, table_of, verify
from ltx.symmetry.gauge import balanced, folded, permuted, without_dead
from ltx.symmetry.matching import activation_matching, activations, cosines, fixed, weight_matching
from ltx.tensors import Tensors, buffers, norms, parameters, under
from ltx.training.evaluate import calibration
from ltx.training.line import along
from ltx.training.task import TASKS

DRAWS, FEWEST = 200, 20  # random masks of given degrees: as many as these for small networks, and at least
TRADED = 4e8  # weights that may be traded for them in all
VERIFIED = 20  # training examples on which a network's symmetries are tried
MATCHED = 1000  # training examples whose activations are matched


@dataclass(frozen=True)
class Known:
    """A finished ticket, and what is asked of it several times."""

    ticket: Ticket
    path: Path
    seed: int
    level: int

    @classmethod
    def of(cls, run: Run, seed: int | None = None, level: int | None = None) -> Known:
        """Read a level of a run, unless told the last one of its first seed. Raises BadInput."""
        folder = seed_folder(RunFolder(run.path), seed)
        chosen = max(folder.levels(), default=0) if level is None else level
        return cls(run.ticket(folder.seed, chosen), run.path, folder.seed, chosen)

    @property
    def run(self) -> str:
        """The run's key."""
        return self.path.name

    @property
    def spec(self) -> Spec:
        """The run's spec."""
        return self.ticket.spec

    @property
    def origin(self) -> tuple[Spec, int]:
        """The run that chose the mask, and its seed: this one, or the trunk of a control."""
        spec, seed = self.spec, self.seed
        while spec.trunk is not None and spec.method.needs_trunk:
            spec, seed = spec.trunk, seed_of(spec, seed)
        return spec, seed

    @cached_property
    def init(self) -> Tensors:
        """The initial weights that the mask was chosen over, as drawn: those of a control's trunk."""
        spec, seed = self.origin
        if spec.trunk is not None:  # it goes on from the trunk's end, which its first level began with
            tensors, _ = level_file(RunFolder(self.path.parent / spec.key).seed(seed), 0, spec.identity(seed))
            return under("begin", tensors)
        network = spec.network(streams=spec.streams(seed))
        if spec.start is not None:
            spec.start.load(network)
        return parameters(network)

    @cached_property
    def module(self) -> nn.Module:
        """The network with the ticket's weights and statistics, in eval mode."""
        return self.ticket.module()

    @cached_property
    def table(self) -> Table:
        """The symmetries of the network. Raises ValueError where it does not state them, or states others."""
        table = table_of(self.module)
        verify(self.module, table, self.examples(VERIFIED), generator("compare", self.seed, "verify"))
        return table

    def examples(self, count: int) -> Tensor:
        """Return the first training examples, the same for every run on these data."""
        x, _ = self.spec.data.train.take(slice(0, count))
        return self.spec.form.inputs(x)

    @cached_property
    def canonical(self) -> tuple[Tensors, int]:
        """The weights with norms folded, dead units at zero and all others balanced, and how many units are dead."""
        alive, dead = without_dead(folded(self.module, self.table, torch.float64).state_dict(), self.table)
        return balanced(alive, self.table), dead

    @cached_property
    def activations(self) -> list[Tensor]:
        """What the hidden units make of training examples."""
        return activations(self.module, self.table, self.examples(MATCHED))

    @property
    def accuracy(self) -> float:
        """The accuracy on the test part that the level's row has."""
        rows = RunFolder(self.path).seed(self.seed).rows()
        return next(row.test_accuracy for row in rows if row.level == self.level)

    @cached_property
    def predictions(self) -> Tensor:
        """The class of every test example."""
        with torch.no_grad(), self.spec.form.context("cpu"):
            outputs = [self.module(self.spec.form.inputs(x)) for x, _ in self.spec.data.test.chunks(2048)]
        return torch.cat(outputs).argmax(dim=-1)


def comparable(one: Known, other: Known) -> None:
    """Raise BadInput where two tickets are not of networks of one shape, on data of one shape."""
    shapes = [{name: tuple(t.shape) for name, t in side.ticket.end.items()} for side in (one, other)]
    if shapes[0] != shapes[1]:
        unlike = [name for name in shapes[0] if shapes[0][name] != shapes[1].get(name)] or [*shapes[1]]
        raise BadInput(
            f"{one.run} and {other.run} are networks of other shapes (at {', '.join(unlike[:3])}): tickets are "
            "compared weight by weight, which takes one model at one width."
        )
    if one.spec.facts.input_shape != other.spec.facts.input_shape or one.spec.facts.classes != other.spec.facts.classes:
        raise BadInput(f"{one.run} and {other.run} have seen data of other shapes.")


def nulls(one: Known, other: Known) -> tuple[dict[str, Null], dict[str, Null]]:
    """Return what every null says of the overlap in all layers, by its name, and the layer-matched one by layer."""
    masks = one.ticket.mask, other.ticket.mask
    found, whole, parts = laws(one, other), overlap(*masks), by_layer(*masks)
    every = {name: against(whole, together(by_name.values())) for name, by_name in found.items()}
    return every, {name: against(parts[name], law) for name, law in found["layer"].items()}


def laws(one: Known, other: Known) -> dict[str, dict[str, Law]]:
    """Return what the shared count would be by chance in every layer, by the name of the null."""
    first, second = one.ticket.mask, other.ticket.mask
    weights = sum(mask.numel() for mask in first.values())
    draws = max(FEWEST, min(DRAWS, int(TRADED / (ROUNDS * weights))))
    sizes = {name: tensor.abs() for name, tensor in one.init.items()}
    rng = generator("compare", one.seed, one.run, other.run, other.seed)
    return {
        "layer": layer_matched(first, second),
        "degree": degree_matched(first, second, rng, draws),
        "size": size_matched(first, second, sizes),
    }


def orders(one: Known, other: Known) -> dict[str, list[Tensor]]:
    """Return the orders of the second's units that are looked at: none, by matched weights, by matched activations."""
    rng = generator("compare", one.seed, "matching", one.run, other.run, other.seed)
    matched = weight_matching(one.canonical[0], other.canonical[0], one.table, rng)
    return {
        IDENTITY: [torch.arange(len(order)) for order in matched],
        WEIGHTS: matched,
        ACTIVATIONS: activation_matching(one.activations, other.activations),
    }


def alike(one: Known, other: Known, order: Sequence[Tensor]) -> Alike:
    """Return how alike two networks are with the second's units in an order."""
    first, second = one.canonical[0], permuted(other.canonical[0], one.table, order)
    moved = permuted(other.ticket.mask, one.table, order)
    apart = sum(float((first[name] - second[name]).square().sum()) for name in first)
    size = sum(float(t.square().sum()) for tensors in (first, second) for t in tensors.values())
    units = torch.cat(cosines(first, second, one.table))
    distance = math.sqrt(apart / size) if size else 0.0
    return Alike(overlap(one.ticket.mask, moved).iou, float(units.mean()), distance, fixed(order))


def lines(one: Known, other: Known, chosen: dict[str, list[Tensor]], points: int = 30) -> list[Line]:
    """Return loss and error between two networks, on train and test, for some orders of the second's units.

    Where the network has BatchNorm, with statistics as they lie on the line and with statistics estimated anew.
    """
    data, form = one.spec.data, one.spec.form
    begin, found = one.module.state_dict(), []
    again = calibration(data, one.spec.streams(one.seed)) if buffers(one.module) and norms(one.module) else None
    for name, order in chosen.items():
        end = other.module.state_dict()
        end = permuted(end, one.table, order) if name != IDENTITY else end
        for restate in (None,) if again is None else (None, again):
            with form.context("cpu"):
                splits = data.measured, data.test
                ways = along(one.module, begin, end, splits, TASKS[data.task], form, points, restate)
            for part, way in zip(("train", "test"), ways, strict=True):
                for of, values in zip(("loss", "error"), way, strict=True):
                    found.append(Line(name, part, of, restate is not None, values, barriers(values)))
    return found


def compare(
    one: Known, other: Known, unrelated: Sequence[Known] = (), step: Callable[[str], None] = lambda _: None
) -> Identity:
    """Compare two tickets; `unrelated` are tickets like the second of inits that have nothing to do with the first's.

    `step` hears what is done next. They are `comparable`.
    """
    step("masks against chance")
    every, by_name = nulls(one, other)
    parts = by_layer(one.ticket.mask, other.ticket.mask)
    found = Identity(
        side(one),
        side(other),
        same(one.init, other.init),
        overlap(one.ticket.mask, other.ticket.mask),
        {name: (part, by_name[name]) for name, part in parts.items()},
        every,
        disagreement(one, other),
    )
    unknown = without_symmetry(one, other)
    if unknown:
        step("the line between them")
        return replace(found, lines=lines(one, other, {IDENTITY: []}), notes=[unknown])
    step("matching units")
    chosen = orders(one, other)
    step("unrelated networks")
    strangers = [alike(one, stranger, orders(one, stranger)[WEIGHTS]) for stranger in unrelated]
    step("the line between them")
    rescaled = any(units.rescales for units in one.table.units)
    return replace(
        found,
        one=replace(found.one, dead=one.canonical[1]),
        other=replace(found.other, dead=other.canonical[1]),
        alike={name: alike(one, other, order) for name, order in chosen.items()},
        unrelated=strangers,
        lines=lines(one, other, {name: chosen[name] for name in (IDENTITY, WEIGHTS)}),
        notes=[] if rescaled else ["no ReLU follows the units, so that nothing is rescaled"],
    )


def without_symmetry(one: Known, other: Known) -> str:
    """Return why two networks are compared without symmetries, empty where both state the same ones."""
    try:
        alike = one.table == other.table
    except ValueError as error:
        return f"weights are compared as they are, without symmetries: {error}"
    return "" if alike else "weights are compared as they are: the networks state different symmetries"


def disagreement(one: Known, other: Known) -> float:
    """Return the share of test examples that two networks classify differently; nan where they do not classify."""
    if one.spec.facts.task == "regression":
        return math.nan
    return float((one.predictions != other.predictions).float().mean())


def side(known: Known) -> Side:
    """Return what is said of one of the two."""
    method = known.spec.config["method"]
    kind = method.get("kind")
    found_by = method["name"] + (f" ({kind})" if kind else "")
    return Side(known.run, known.seed, known.level, found_by, known.ticket.density, known.accuracy, 0)


def same(one: Tensors, other: Tensors) -> bool:
    """Tell whether two networks begin with the same weights."""
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())
