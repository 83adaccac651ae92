"""What reads a ticket's folder without ltx, with torch and safetensors alone.

The `load.py` of an export begins with this file, and ltx reads exports by the same functions.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parsed
from torch import Tensor, nn
from torch.nn import functional as F

FORMAT = 1  # of ticket.safetensors
# Linear layers of so many weights, of which at most this share is kept, are held as compressed rows, which is faster
# for so many examples and more. For fewer the matrix itself is, unless it is large and this little of it is kept.
WEIGHTS, DENSITY, EXAMPLES = 2**15, 0.2, 32
LARGE, LITTLE = 2**20, 0.05

Tensors = dict[str, Tensor]


def read(folder: str | Path) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors of a ticket's folder and what it says of itself.

    Raises FileNotFoundError where there is no ticket, ValueError where it is not as it was written.
    """
    path = Path(folder) / "ticket.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        tensors, header = parsed(content), json.loads(content[8 : 8 + length])
        meta = json.loads(header["__metadata__"]["ltx"])
        said, _ = meta.pop("digest"), meta.pop("meta_digest")
    except Exception as error:  # whatever a changed header makes the libraries raise; it is repeated
        raise ValueError(f"{path} is no ticket ({error})") from error
    sha = hashlib.sha256(canonical(meta))
    for name in sorted(tensors):
        begin, end = header[name]["data_offsets"]
        sha.update(canonical([name, str(tensors[name].dtype), list(tensors[name].shape)]))
        sha.update(content[8 + length + begin : 8 + length + end])
    if sha.hexdigest() != said:
        raise ValueError(f"{path} does not match its digest: it was changed")
    if meta.get("export") != FORMAT:
        raise ValueError(f"{path} has format {meta.get('export')}; this loader reads format {FORMAT}")
    return tensors, meta


def canonical(value: object) -> bytes:
    """Return the one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def under(kind: str, tensors: Tensors) -> Tensors:
    """Return the tensors named kind/name by their names."""
    return {name[len(kind) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{kind}/")}


def bits(packed: Tensor, count: int) -> Tensor:
    """Return as booleans what lies eight to a byte, the first in the highest bit."""
    places = torch.arange(7, -1, -1, dtype=torch.uint8)
    return ((packed[:, None] >> places) & 1).flatten()[:count].bool()


def masks(tensors: Tensors, meta: dict[str, Any]) -> Tensors:
    """Return of every parameter that could be pruned which of its weights are kept."""
    found = {}
    for name in meta["masked"]:
        shape = meta["shapes"][name]
        packed = tensors.get(f"mask/{name}")  # there is none where all are kept
        whole = torch.ones(shape, dtype=torch.bool)
        found[name] = whole if packed is None else bits(packed, math.prod(shape)).reshape(shape)
    return found


def weights(tensors: Tensors, meta: dict[str, Any]) -> Tensors:
    """Return every parameter by its name; weights that are not kept are zero.

    Kept ones are listed in the order of the mask, or as their signs beside the one magnitude that they share.
    """
    found = {name: tensor.clone() for name, tensor in under("whole", tensors).items()}
    for name, mask in masks(tensors, meta).items():
        if name in found:
            continue
        if f"signs/{name}" in tensors:
            alpha = tensors[f"alpha/{name}"]
            values = torch.where(bits(tensors[f"signs/{name}"], int(mask.sum())), alpha, -alpha)
        else:
            values = tensors[f"values/{name}"]
        found[name] = torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)
    return found


def made(network: nn.Module, tensors: Tensors, meta: dict[str, Any], compressed: bool = False) -> nn.Module:
    """Give a network the weights, statistics and memory layout of a ticket, and return it in eval mode."""
    for name, tensor in under("constant", tensors).items():
        placed(network, name, tensor.clone(), persistent=False)
    state = weights(tensors, meta) | {name: tensor.clone() for name, tensor in under("buffer", tensors).items()}
    network.load_state_dict(state, assign=True)
    if compressed:
        shrink(network, tensors)
    if meta["channels_last"]:
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = innermost(parameter.data)
    if compressed and meta["precision"] == "32-true":
        hold_sparse(network)
    return network.eval()


def placed(network: nn.Module, name: str, part: nn.Module | Tensor, persistent: bool = True) -> None:
    """Put a layer, a parameter or a buffer where its dotted name says."""
    *owners, leaf = name.split(".")
    for owner in owners:
        if owner not in network._modules:
            network.add_module(owner, nn.Module())
        network = network.get_submodule(owner)
    if isinstance(part, nn.Module):
        network.add_module(leaf, part)
    elif isinstance(part, nn.Parameter):
        network.register_parameter(leaf, part)
    else:
        network.register_buffer(leaf, part, persistent)


def innermost(tensor: Tensor) -> Tensor:
    """Return a tensor (N, C, H, W) with the channels innermost in memory, also where there is but one."""
    if tensor.is_contiguous(memory_format=torch.channels_last) and tensor.stride(1) == 1:
        return tensor
    return torch.empty_like(tensor, memory_format=torch.channels_last).copy_(tensor)


def shrink(network: nn.Module, tensors: Tensors) -> None:
    """Remove in place the units that cannot matter: their rows in layers and norms, their columns in what reads them.

    rows, columns: which outputs and inputs of a layer stay. folded: biases with what removed units always gave.
    """
    for name, bias in under("folded", tensors).items():
        owner, _, leaf = name.rpartition(".")
        layer = network.get_submodule(owner)
        setattr(layer, leaf, nn.Parameter(bias.to(next(layer.parameters()).dtype, copy=True)))
    sides = {"rows": ("out_features", "out_channels", "num_features"), "columns": ("in_features", "in_channels")}
    for axis, (side, counts) in enumerate(sides.items()):
        for name, packed in under(side, tensors).items():
            layer = network.get_submodule(name)
            held = {leaf: own for leaf, own in layer.state_dict(keep_vars=True).items() if own.ndim > axis}
            stay = bits(packed, next(iter(held.values())).shape[axis]).nonzero().flatten()
            for leaf, own in held.items():
                kept = own.detach().index_select(axis, stay)
                setattr(layer, leaf, nn.Parameter(kept) if isinstance(own, nn.Parameter) else kept)
            for count in counts:
                if hasattr(layer, count):
                    setattr(layer, count, len(stay))


class SparseLinear(nn.Module):
    """A linear layer that holds its weights as compressed rows; it computes, and is not trained.

    For many examples each output is a weighted sum of inputs, which torch's bags of embeddings are. For few it holds
    the weights as a matrix too, dense or sparse.
    """

    weight: Tensor
    values: Tensor
    columns: Tensor
    starts: Tensor

    def __init__(self, layer: nn.Linear):
        super().__init__()
        weight = layer.weight.detach()
        rows = weight.to_sparse_csr()
        sparse = weight.numel() >= LARGE and len(rows.values()) <= LITTLE * weight.numel()
        self.register_buffer("weight", rows if sparse else weight)
        self.register_buffer("values", rows.values())
        self.register_buffer("columns", rows.col_indices().int())
        self.register_buffer("starts", rows.crow_indices().int())
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        inputs = x.reshape(-1, x.shape[-1])
        if len(inputs) >= EXAMPLES:
            table, weigh = inputs.T.contiguous(), self.values
            outputs = F.embedding_bag(
                self.columns, table, self.starts, mode="sum", per_sample_weights=weigh, include_last_offset=True
            ).T
        elif self.weight.layout == torch.strided:
            return F.linear(x, self.weight, self.bias)
        else:
            outputs = (self.weight @ inputs.T).T
        outputs = outputs if self.bias is None else outputs + self.bias
        return outputs.reshape(*x.shape[:-1], -1)


def hold_sparse(network: nn.Module) -> None:
    """Hold in place as compressed rows the linear layers for which that is faster."""
    for name, layer in list(network.named_modules()):
        if type(layer) is not nn.Linear or layer.weight.numel() < WEIGHTS:
            continue
        if int(layer.weight.count_nonzero()) <= DENSITY * layer.weight.numel():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch says of compressed rows that they are new
                placed(network, name, SparseLinear(layer))
