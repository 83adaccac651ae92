"""A ticket made ready to leave, in memory: its tensors, what they say of themselves, and what loads them."""

from __future__ import annotations

import textwrap
import warnings
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ltx.errors import BadInput, described
from ltx.export import loader, pack
from ltx.export.compact import compacted
from ltx.export.graph import WAYS, Graph
from ltx.export.timing import Times, measured
from ltx.identity.measure import Known
from ltx.store import files
from ltx.store.folders import RunFolder
from ltx.store.rows import Row
from ltx.tensors import Tensors, in_kind, prefixed

TRIED = 64  # examples whose logits are compared
TIMED = 256  # examples that times are measured on
SAID = 250  # characters of an error that a message repeats


@dataclass(frozen=True)
class Export:
    """A ticket as it leaves.

    rows: of its level, of all seeds of the run. removed: units that the compressed network does without. why_whole: why
    none was looked for, empty where they were.
    """

    known: Known
    rows: list[Row]
    tensors: Tensors
    meta: dict[str, Any]
    program: str
    removed: int
    why_whole: str

    @classmethod
    def of(cls, known: Known, scores: bool = True) -> Export:
        """Make the export of a ticket, with its scores or without.

        Raises BadInput where its network cannot be written as plain torch.
        """
        rows = [row for row in RunFolder(known.path).rows() if row.level == known.level]
        [row] = [row for row in rows if row.seed == known.seed]
        tensors, meta = pack.tensors_of(known), pack.about(known, row, known.ticket.score if scores else {})
        graph = plain_torch(known, tensors, meta)
        units, removed, why_whole = without_units(known, graph)
        tensors |= prefixed("constant", graph.constants) | units
        return cls(known, rows, tensors, meta, loader.text(graph), removed, why_whole)

    @property
    def row(self) -> Row:
        """The ticket's own row."""
        return next(row for row in self.rows if row.seed == self.known.seed)

    @cached_property
    def content(self) -> bytes:
        """What stands in ticket.safetensors."""
        return files.pack(self.tensors, self.meta)

    @cached_property
    def scores(self) -> bytes | None:
        """What stands in scores.safetensors, None where there are none or they are left out."""
        return files.pack(self.known.ticket.score, pack.known_as(self.known)) if self.meta["scores"] else None

    @property
    def dense_bytes(self) -> int:
        """The bytes of the dense network's state as float32."""
        return 4 * sum(tensor.numel() for tensor in self.known.module.state_dict().values())

    @cached_property
    def loader(self) -> ModuleType:
        """What the program defines."""
        return loader.module_of(self.program)

    def network(self, compressed: bool = False) -> nn.Module:
        """Return the network that the program makes."""
        made = self.loader.network_of(self.tensors, self.meta, compressed)
        assert isinstance(made, nn.Module)
        return made

    def times(self) -> list[Times]:
        """Measure the dense network, its mask in its weights, against the compressed one."""
        networks = self.network(), self.network(compressed=True)
        return measured(*networks, examples(self.known, TIMED), self.known.spec.config["threads"])


def examples(known: Known, count: int) -> Tensor:
    """Return the first test examples, as the data set gives them."""
    return known.spec.data.test.take(slice(0, count))[0]


def logits_of(known: Known) -> Tensor:
    """Return what the ticket's network makes of the examples that are tried, in the form that its run has measured."""
    form = known.spec.form
    with torch.no_grad(), form.context("cpu"):
        outputs: Tensor = known.module(form.inputs(examples(known, TRIED)))
    return outputs


def plain_torch(known: Known, tensors: Tensors, meta: dict[str, Any]) -> Graph:
    """Write a ticket's network as plain torch that gives its logits bit for bit. Raises BadInput where no way does."""
    form, x, expected, reasons = known.spec.form, examples(known, TRIED), logits_of(known), []
    for way in WAYS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch says of a forward that this way may not suit
                graph = way(known.module, form, form.inputs(x))
            module = loader.module_of(loader.text(graph))
            network = module.network_of(tensors | prefixed("constant", graph.constants), meta)
            with torch.no_grad():
                if torch.equal(network(x), expected):
                    return graph
            reasons.append(f"as {way.__name__} its logits are others")
        except Exception as error:  # tracing calls a user's forward with what is no tensor, which may raise anything
            said = textwrap.shorten(described(error), SAID, placeholder=" ...")
            reasons.append(f"as {way.__name__} it cannot be written ({said})")
    raise BadInput(f"The network of {known.run} is no graph of plain torch: {'; '.join(reasons)}.")


def without_units(known: Known, graph: Graph) -> tuple[Tensors, int, str]:
    """Return what removes the units that cannot matter, how many these are, and why they were not looked for."""
    if not graph.layered:
        return {}, 0, "it is written as operations, which do not say what its units are"
    try:
        found, removed = compacted(known.module, known.table, known.examples(TRIED))
    except (ValueError, RuntimeError) as error:  # a user's forward may not do with float64
        return {}, 0, " ".join(str(error).split())
    return in_kind(found, next(known.module.parameters()).dtype), removed, ""
