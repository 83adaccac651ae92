"""How good a state is: the network it makes on any part of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from ltx.data.splits import Dataset, Split
from ltx.methods import Method, State
from ltx.streams import Streams
from ltx.tensors import Tensors, buffers, cpu
from ltx.training.evaluate import calibration, evaluate, reestimate
from ltx.training.task import TASKS


@dataclass(frozen=True)
class Measure:
    """Loads states into a scratch network, on a device, and evaluates them."""

    network: nn.Module
    method: Method
    data: Dataset
    streams: Streams
    device: str

    def on(self, split: Split, state: State, noise: Tensors | None = None) -> tuple[float, float]:
        """Return loss and accuracy of a state's effective weights on a split, its mask drawn by `noise` if given."""
        return evaluate(self.network, self.effective(state, noise), split.to(self.device), TASKS[self.data.task])

    def part(self, state: State, part: str) -> tuple[float, float]:
        """Return loss and accuracy of a state on `train` or `val`, BatchNorm statistics estimated for it."""
        split = {"train": self.data.measured, "val": self.data.val}[part]
        return self.on(split, self.restated(state))

    def restated(self, state: State) -> State:
        """Return a state with BatchNorm statistics estimated for its effective weights."""
        reestimate(self.network, self.effective(state), calibration(self.data, self.streams).to(self.device))
        return replace(state, buffers=cpu(buffers(self.network)))

    def effective(self, state: State, noise: Tensors | None = None) -> Tensors:
        """Load a state into the network and return the weights it sees in place of its own."""
        self.network.load_state_dict(state.weights | state.buffers)
        self.network.to(self.device)
        weights: Tensors = {**dict(self.network.named_parameters())}
        scores, mask, drawn = (self.placed(tensors) for tensors in (state.scores, state.mask, noise or {}))
        return self.method.effective(weights, scores, mask, 1.0, drawn or None)

    def placed(self, tensors: Tensors) -> Tensors:
        """Return tensors on the device."""
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}
