"""How good a state is: the network it makes on any part of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from ltx.data.splits import Dataset, Split
from ltx.methods import Method, State
from ltx.streams import Streams
from ltx.tensors import Tensors, all_laid_out, buffers, cpu
from ltx.training.evaluate import calibration, evaluate, reestimate
from ltx.training.form import Form
from ltx.training.task import TASKS


@dataclass(frozen=True)
class Measure:
    """Loads states into a scratch network, on a device, and evaluates them in the precision they are trained in."""

    network: nn.Module
    method: Method
    data: Dataset
    streams: Streams
    device: str
    form: Form

    def on(self, split: Split, state: State, noise: Tensors | None = None) -> tuple[float, float]:
        """Return loss and accuracy of a state's effective weights on a split, its mask drawn by `noise` if given."""
        with self.form.context(self.device):
            weights = self.effective(state, noise)
            return evaluate(self.network, weights, split.to(self.device), TASKS[self.data.task], self.form)

    def part(self, state: State, part: str) -> tuple[float, float]:
        """Return loss and accuracy of a state on `train` or `val`, BatchNorm statistics estimated for it."""
        split = {"train": self.data.measured, "val": self.data.val}[part]
        return self.on(split, self.restated(state))

    def restated(self, state: State) -> State:
        """Return a state with BatchNorm statistics estimated for its effective weights."""
        subset = calibration(self.data, self.streams).to(self.device)
        with self.form.context(self.device):
            reestimate(self.network, self.effective(state), subset, self.form)
        return replace(state, buffers=cpu(buffers(self.network)))

    def effective(self, state: State, noise: Tensors | None = None) -> Tensors:
        """Load a state into the network and return the weights it sees in place of its own."""
        self.network.load_state_dict(state.weights | state.buffers)
        self.network.to(self.device)
        weights: Tensors = {**dict(self.network.named_parameters())}

        def placed(tensors: Tensors) -> Tensors:
            return all_laid_out({name: tensor.to(self.device) for name, tensor in tensors.items()}, weights)

        return self.method.effective(
            weights, placed(state.scores), placed(state.mask), 1.0, placed(noise or {}) or None
        )
