"""What the optimiser of a level holds, as a value: leaves and mask give the network that is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ltx.methods import Method, Plan, State, dense
from ltx.tensors import Tensors, call, laid_out, norms, prefixed, under
from ltx.training.form import Form
from ltx.training.rows import Places, Rows


def masks_alone(method: Method, plan: Plan) -> bool:
    """Tell whether all that a method does to the weights of a level is to mask them, with one mask."""
    return type(method).effective is dense.Method.effective and method.trains == "weights" and not plan.every


def pruned_are_zero(state: State) -> bool:
    """Tell whether every pruned weight of a state is zero."""
    return not any(bool(state.weights[name][~mask].any()) for name, mask in state.mask.items())


def trained_beside(network: nn.Module, method: Method) -> list[str]:
    """Name the network's own parameters that a search trains beside its scores: its norms, where it says so."""
    return norms(network) if method.trains == "scores" and method.trains_norms else []


class Leaves(nn.Module):
    """One network's own parameters, the scores of a search, and the mask between them and what the network sees.

    Methods train the weights or the scores; of the network's own parameters a search trains the norms at most, where
    it says so, and leaves the rest as it was drawn. Calling it gives the network's outputs. `replicas.Stack` is the
    same thing for several networks.
    Of the weights named in `compressed` only the kept values are held (see `rows`); the network has them when `settle`
    was called. Where the level's mask is `fixed` and pruned weights are zero, nothing is multiplied by the mask but
    gradients, in place: the numbers are the same. plain: see `setup.Setup`; what draws finds its inputs in one order.
    """

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        state: State,
        form: Form,
        fixed: bool = False,
        compressed: Sequence[str] = (),
        plain: bool = False,
    ):
        super().__init__()
        self.plain = plain
        self.fixed = fixed and pruned_are_zero(state)
        self.network, self.method, self.form = form.network(network), method, form
        network.load_state_dict(state.weights | state.buffers, strict=True)
        beside = trained_beside(network, method)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_((method.trains == "weights" and name not in compressed) or name in beside)
        parameters = dict(network.named_parameters())
        self.values = {name: nn.Parameter(parameters[name].detach()[state.mask[name]]) for name in compressed}
        self.scores: Tensors = {
            name: nn.Parameter(laid_out(score.clone(), parameters[name]), method.trains == "scores")
            for name, score in state.scores.items()
        }
        self.held = nn.ParameterList(
            [*self.scores.values(), *self.values.values()]
        )  # torch moves and lists only parameters that a module holds in this way
        self.mask = state.mask
        self.place(torch.device("cpu"))

    def place(self, device: torch.device) -> None:
        """Gather everything again after the module was moved to `device`."""
        self.weights: Tensors = {**dict(self.network.named_parameters())}
        self.trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.set_mask({name: mask.to(device) for name, mask in self.mask.items()})

    def set_mask(self, mask: Tensors) -> None:
        """Keep a mask (bool) and its gate, the same as numbers that lie as the weights do."""
        dtype = next(self.network.parameters()).dtype
        self.mask = mask
        whole = {name: m for name, m in mask.items() if name not in self.values}
        self.gate = {name: laid_out(m.to(dtype), self.weights[name]) for name, m in whole.items()}
        self.pruned = [name for name, m in whole.items() if not m.all()]
        self.places = {name: Places(mask[name]) for name in self.values}
        of = partial(Rows.of, alike=not self.plain)
        self.rows: Tensors = {name: of(values, self.places[name]) for name, values in self.values.items()}

    def effective(self, done: float = 1.0, noise: Tensors | None = None) -> Tensors:
        """Return the weights the network sees in place of its own, or their rows, with the graph to what is trained."""
        if self.fixed:
            return self.rows
        seen = self.method.effective(self.weights, self.scores, self.gate, done, noise)
        return {name: tensor for name, tensor in seen.items() if tensor is not self.weights[name]} | self.rows

    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to zero, where the effective weights have not done so."""
        for name in self.pruned if self.fixed else ():
            if (gradient := self.weights[name].grad) is not None:
                gradient.mul_(self.gate[name])

    def forward(self, x: Tensor, done: float, noise: Tensors | None) -> Tensor:
        return self.form.outputs(call(self.network, self.effective(done, noise), self.form.inputs(x)))

    def clamp(self, low: float, high: float) -> None:
        """Hold the scores in a range."""
        for score in self.scores.values():
            score.data.clamp_(low, high)

    @torch.no_grad()
    def between(self, done: float, rng: Callable[[str], np.random.Generator]) -> None:
        """Let the method change weights, scores and mask, in place."""
        weights, scores, mask = self.method.between(self.weights, self.scores, self.mask, done, rng)
        for now, after in ((self.weights, weights), (self.scores, scores)):
            for name, tensor in now.items():
                if after[name] is not tensor:
                    tensor.copy_(after[name])
        if mask is not self.mask:
            self.set_mask(mask)

    @torch.no_grad()
    def settle(self) -> None:
        """Write the values that are held in place of weights to the network."""
        for name, values in self.values.items():
            self.weights[name].view(-1)[self.places[name].flat] = values

    def snapshot(self) -> Tensors:
        """Copy all parameters and buffers of the network."""
        self.settle()
        return {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def tensors(self) -> Tensors:
        """Return everything that a checkpoint must hold of them."""
        parts: dict[str, Tensors] = {"network": self.snapshot(), "score": self.scores, "mask": self.mask}
        return {name: tensor for part, tensors in parts.items() for name, tensor in prefixed(part, tensors).items()}

    def restore(self, tensors: Tensors) -> None:
        """Continue from what `tensors` returned."""
        self.network.load_state_dict(under("network", tensors))
        for name, values in self.values.items():
            values.data.copy_(self.weights[name].detach().view(-1)[self.places[name].flat])
        scores = under("score", tensors)
        for name, parameter in self.scores.items():
            parameter.data.copy_(scores[name])
        self.set_mask(under("mask", tensors))
