"""Layers of which few weights are kept, computed from these alone: compressed rows in place of a masked matrix.

A step then costs in proportion to the kept weights, forward and backward, and the optimiser holds nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltx.training.form import Form

# A matrix of fewer weights is the faster one at any density: what Python does around its rows costs more.
SMALLEST = 2**14
# The cost of a layer's step as compressed rows of a density d against that of the dense one, for estimates: measured on
# layers of 64 x 1200 to 1200 x 400 in batches of 60 and 128.
LEAST, GROWTH = 0.15, 3.0
# Up to this density each kept weight's gradient is a product of its own; above it the gradients of all weights, one
# product of matrices, are there sooner, and those of the kept ones are picked from them.
SINGLY = 0.18
# Up to so many examples NumPy transposes a batch sooner than torch does: in two thirds of the time for 128.
BY_NUMPY = 128


def fits(network: nn.Module, form: Form) -> list[str]:
    """Name the weights that may be trained as compressed rows: those of large linear layers, in float32."""
    layers = {f"{name}.weight": layer.weight for name, layer in network.named_modules() if type(layer) is nn.Linear}
    large = [name for name, w in layers.items() if w.numel() >= SMALLEST and w.dtype == torch.float32]
    return large if form.precision == "32-true" else []


def sparse_enough(sizes: Mapping[str, tuple[int, int]], device: str, options: Mapping[str, Any]) -> list[str]:
    """Name the matrices that a level trains as compressed rows, given the kept and all weights of those that may be.

    options: the config's under `trainer`, which say up to which density on which device.
    """
    most = options["sparse_cuda" if device.startswith("cuda") else "sparse_cpu"]
    return [name for name, (kept, n) in sizes.items() if most and kept <= most * n]


class Places:
    """Where the kept weights of a matrix (out, in) lie: row by row, and for its transpose column by column."""

    def __init__(self, mask: Tensor):
        out, columns = mask.nonzero(as_tuple=True)
        self.flat = mask.reshape(-1).nonzero().squeeze(1)  # the order in which values are held
        self.shape = mask.shape
        self.columns, self.row_starts = columns.int(), starts(mask.sum(1))
        self.by_column = columns.argsort(stable=True)
        self.rows, self.column_starts = out[self.by_column].int(), starts(mask.sum(0))
        self.singly = len(columns) <= SINGLY * mask.numel()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse", UserWarning)  # that its interface may change, what is unchecked
            zeros = torch.zeros(len(columns), device=mask.device)
            self.pattern = torch.sparse_csr_tensor(
                self.row_starts, self.columns, zeros, mask.shape, check_invariants=True
            )

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Return of left (out, N) times the transpose of right (in, N) what lies at the kept places, (kept)."""
        if self.singly:
            return torch.sparse.sampled_addmm(self.pattern, left, right.t(), beta=0.0).values()
        return (left @ right.t()).reshape(-1).index_select(0, self.flat)


def starts(counts: Tensor) -> Tensor:
    """Return where each row's values start among those of all rows, and where the last one's end."""
    return F.pad(counts.cumsum(0), (1, 0)).int()


def times(values: Tensor, indices: Tensor, starts: Tensor, x: Tensor) -> Tensor:
    """Return a matrix of compressed rows times x (in, N): each row a weighted sum of rows of x, (out, N).

    torch's bags of embeddings are this product, and its fastest: twice as fast as that of its sparse tensors. They are
    given no tensor that has a gradient, for which they would prepare, slowly, a gradient of their own, and are called
    without the checks of F.embedding_bag, which cost as much as a fiftieth of LeNet's step.
    """
    values, x = values.detach(), x.detach()
    out: Tensor = torch.embedding_bag(x, indices, starts, per_sample_weights=values, include_last_offset=True)[0]
    return out


def turned(x: Tensor) -> Tensor:
    """Return the transpose of x (N, in), contiguous: x's own memory where N is innermost there."""
    if x.is_cuda or len(x) > BY_NUMPY or x.t().is_contiguous():
        return x.t().contiguous()
    return torch.from_numpy(np.ascontiguousarray(x.detach().t().numpy()))


class _Linear(torch.autograd.Function):
    """W x^T + b, (out, N), for x (N, in), W (out, in) given by its kept values; x lies with N innermost in memory.

    The next layer of the same kind then finds its inputs as it needs them. The result is no view, which a network may
    not change in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, places: Places) -> Tensor:
        x = turned(x)
        out = times(values, places.columns, places.row_starts, x)
        if bias is not None:
            out += bias[:, None]
        ctx.places = places
        ctx.save_for_backward(x, values)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("compressed rows have no second derivatives; trainer.sparse_cpu=0 does without them")
        (x, values), places = ctx.saved_tensors, ctx.places
        grad = turned(grads[0].t())
        into_x, into_values, into_bias = ctx.needs_input_grad[:3]
        return (
            times(values.index_select(0, places.by_column), places.rows, places.column_starts, grad).t()
            if into_x
            else None,
            places.products(grad, x) if into_values else None,
            grad.sum(1) if into_bias else None,
            None,
        )


class Rows(Tensor):
    """A matrix (out, in) whose weights are zero but for its kept values, in place of a linear layer's weight.

    `F.linear` computes with the values alone; whatever else is done with it, autocast too, sees the whole matrix.
    alike: whether outputs lie in memory as a matrix's do; dropout draws in that order.
    """

    kept: Tensor
    places: Places
    alike: bool

    @staticmethod
    def of(kept: Tensor, places: Places, alike: bool = True) -> Rows:
        """Return the matrix with the values `kept` at these places."""
        rows = kept.detach().as_subclass(Rows)
        rows.kept, rows.places, rows.alike = kept, places, alike
        return rows

    def whole(self) -> Tensor:
        """Return the matrix itself, with the graph to its values."""
        zeros = self.kept.new_zeros(self.places.shape.numel())
        return zeros.index_put((self.places.flat,), self.kept).reshape(self.places.shape)

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b for x (..., in)."""
        if x.dtype != self.kept.dtype or torch.is_autocast_enabled(x.device.type):
            return F.linear(x, self.whole(), bias)
        out: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), self.kept, bias, self.places).t()
        if self.alike:
            out = out.contiguous()
        return out if x.ndim == 2 else out.reshape(*x.shape[:-1], self.places.shape[0])

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.linear and len(args) > 1 and isinstance(args[1], cls) and not isinstance(args[0], cls):
            return args[1].linear(args[0], *args[2:], **kwargs)
        return function(*map(given, args), **{name: given(value) for name, value in kwargs.items()})


def given(value: Any) -> Any:
    """Return what a function of torch takes: the whole matrix in place of its rows."""
    return value.whole() if isinstance(value, Rows) else value
