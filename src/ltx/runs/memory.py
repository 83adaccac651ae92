"""How much memory a worker would need, before it is started."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ltx.config.spec import Spec
from ltx.data.splits import MEASURED, at_once
from ltx.tensors import matrices
from ltx.training.evaluate import CHUNK

INTERPRETER = 450e6  # bytes of Python with torch and Lightning, measured on Linux
EXAMPLES = 2  # in the batch of no values whose tensors are counted

# Copies of all parameters that a worker holds beside what it trains: the initialisation, anchor, parent, beginning, end
# and best step as states, and the files of level 0, of the parent and of the level itself, once more while it is
# written, each with beginning and end.
STATES, FILES = 6, 4


def needed(spec: Spec) -> float:
    """Estimate the bytes of a worker at its largest: the libraries, the data, states, and a step or an evaluation.

    It is what lives at once. A worker on a CPU takes more, since what it frees lies in pieces that do not always fit
    what comes next: LeNet on digits 1.0 to 1.1 times as much, Conv-4 and ResNet-20 on canvas 1.2 to 1.3 times.
    """
    network = spec.network("meta")
    parameters = [p.numel() * p.element_size() for p in network.parameters()]
    masked = [network.get_parameter(name) for name in spec.method.prunable(matrices(network))]
    weights, gate = sum(parameters), sum(p.numel() * p.element_size() for p in masked)
    searched = spec.method.trains == "scores"
    trained = gate if searched else weights
    # what is trained, its gradients and moments; the scores, the gate, the effective weights and their gradients
    step = weights + trained * (1 + moments(spec)) + gate * (3 + searched)
    states = (STATES + 2 * FILES) * weights
    evaluated = at_once(CHUNK, spec.facts.input_shape, "cpu")
    largest = max(spec.optim.batch * saved(spec, network), evaluated * passing(spec, network))
    return INTERPRETER + held(spec) + step + states + largest


def moments(spec: Spec) -> int:
    """Return how many numbers the optimiser keeps for each one that it trains."""
    name = spec.config["optim"]["name"]
    return 2 if name.startswith("adam") else int(spec.config["optim"].get("momentum", 0) > 0)


def held(spec: Spec) -> float:
    """Return the bytes of a data set in memory, and of the part that training loss is measured on."""
    facts = spec.facts
    part = facts.train if facts.train > MEASURED else 0
    return (facts.train + facts.val + facts.test + min(part, MEASURED)) * float(
        math.prod(facts.input_shape) * facts.bytes
    )


def saved(spec: Spec, network: nn.Module) -> float:
    """Return the bytes that a step keeps of an example for the backward pass, each storage once."""
    kept: dict[int, Tensor] = {}
    own = storages(network)

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:  # a layer keeps its weight, seen from another side
            kept[tensor.untyped_storage()._cdata] = tensor  # held, so that no other tensor gets its number
        return tensor

    x = spec.form.inputs(spec.facts.zeros(EXAMPLES, "meta"))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network.train()(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / EXAMPLES


def storages(network: nn.Module) -> set[int]:
    """Return what tells the memory of a network's own tensors from that of others."""
    return {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}


class _Living(TorchDispatchMode):
    """Hears of every operation, and keeps the most bytes that living tensors of an evaluation have together."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.own = storages(network)
        self.holders: Counter[int] = Counter()  # tensors by storage
        self.bytes = self.most = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a tensor, until it is freed."""
        storage, size = tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes()
        if storage in self.own:
            return
        if not self.holders[storage]:
            self.bytes += size
        self.holders[storage] += 1
        self.most = max(self.most, self.bytes)
        weakref.finalize(tensor, self.free, storage, size)

    def free(self, storage: int, size: int) -> None:
        """Take a freed tensor off."""
        self.holders[storage] -= 1
        if not self.holders[storage]:
            self.bytes -= size


def passing(spec: Spec, network: nn.Module) -> float:
    """Return the most bytes of an example that live at one time of an evaluation."""
    with torch.no_grad(), _Living(network) as heard:
        network.eval()(spec.form.inputs(spec.facts.zeros(EXAMPLES, "meta")))
    return heard.most / EXAMPLES
