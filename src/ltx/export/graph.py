"""A network written down as plain torch: the class `Network` of an export's loader."""

from __future__ import annotations

import builtins
import copy
import io
import logging
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ltx.export.layers import constructor
from ltx.tensors import Tensors
from ltx.training.form import Form

IMPORTABLE = ("torch", "math", "operator", "_operator")
INNER = "forward_in_form"  # a name that a layer of the network hardly has


@dataclass(frozen=True)
class Graph:
    """A network's source, and the tensors that its forward needs beside the state.

    layered: it calls layers of torch.nn; otherwise it is a list of operations on their parameters.
    """

    source: str
    constants: Tensors
    layered: bool


def layered(module: nn.Module, form: Form, x: Tensor) -> Graph:
    """Write a network as calls of its layers, by symbolic tracing. Raises what tracing raises, and ValueError."""
    network = copy.deepcopy(module)  # tracing adds constants to it
    with torch.no_grad(), form.context("cpu"):
        graph = fx.Tracer().trace(network)
    called = dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "call_module")
    layers = {name: constructor(network.get_submodule(name)) for name in called}
    return written(graph, network, layers, form, x)


def operations(module: nn.Module, form: Form, x: Tensor) -> Graph:
    """Write a network as the operations that torch.export finds in it. Raises what exporting raises, and ValueError."""
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    logging.getLogger("torch.fx.experimental.symbolic_shapes").setLevel(logging.ERROR)
    with torch.no_grad(), form.context("cpu"), redirect_stderr(io.StringIO()):  # it prints graphs that it cannot make
        found = torch.export.export(copy.deepcopy(module), (x,), dynamic_shapes=dynamic).module()
    graph = found.graph
    graph.set_codegen(fx.graph.CodeGen())
    for node in list(graph.nodes):
        if node.op == "call_module" or node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)  # checks of shapes and devices
        elif node.op == "output":
            (outputs,) = node.args
            node.args = (outputs[0],) if isinstance(outputs, tuple | list) else (outputs,)
    graph.eliminate_dead_code()
    return written(graph, found, {}, form, x)


WAYS: tuple[Callable[[nn.Module, Form, Tensor], Graph], ...] = (layered, operations)


def written(graph: fx.Graph, network: nn.Module, layers: dict[str, str], form: Form, x: Tensor) -> Graph:
    """Return the class that computes a graph, its layers given by how they are constructed."""
    inside = {f"{layer}.{name}" for layer in layers for name in network.get_submodule(layer).state_dict()}
    state = {name: tensor for name, tensor in network.state_dict().items() if name not in inside}
    parameters = dict(network.named_parameters())
    parts = dict(layers)
    for name, tensor in state.items():
        values = f"torch.empty({tuple(tensor.shape)})"
        parts[name] = f"nn.Parameter({values})" if name in parameters else values
    constants: Tensors = {}
    for node in graph.nodes:
        node.type = None  # annotations, which may name types of the user's
        if node.op == "get_attr" and str(node.target) not in network.state_dict():
            constants[str(node.target)] = attribute(network, str(node.target))
    lines = ["class Network(nn.Module):", '    """The ticket\'s network."""', "", "    def __init__(self):"]
    lines += ["        super().__init__()", *(f"        {put(name, part)}" for name, part in parts.items())]
    code = graph.python_code("self")
    body = [line for line in code.src.splitlines() if line.strip()]
    form_lines = in_form(form, x)
    if form_lines:
        body[0] = body[0].replace("def forward(", f"def {INNER}(")
    lines += ["", *(f"    {line}" for line in [*form_lines, *body])]
    source = "\n".join([*imports(code.globals, code.src), *lines])
    return Graph(source + "\n", constants, bool(layers))


def in_form(form: Form, x: Tensor) -> list[str]:
    """Return the forward that brings an input into the form of the network, nothing where it is the usual one."""
    lines = []
    if form.reduced and x.is_floating_point():
        lines.append("x = x.to(torch.bfloat16)")
    if form.channels_last and x.ndim == 4:
        lines.append("x = innermost(x)  # the order of a sum depends on it")
    call = [f"return self.{INNER}(x)"]
    if form.precision == "bf16-mixed":
        call = ["with torch.autocast(x.device.type, torch.bfloat16):", f"    return self.{INNER}(x)"]
    if form.reduced:
        call = [
            "usual = torch.get_default_dtype()",
            "torch.set_default_dtype(torch.bfloat16)  # of what the network makes by itself, zeros say",
            "try:",
            f"    return self.{INNER}(x)",
            "finally:",
            "    torch.set_default_dtype(usual)",
        ]
    if not lines and len(call) == 1:
        return []
    return ["def forward(self, x):", *(f"    {line}" for line in [*lines, *call]), ""]


def put(name: str, part: str) -> str:
    """Return the line that gives a network a part of this name."""
    if name.isidentifier() and part.startswith("nn."):
        return f"self.{name} = {part}"
    return f"placed(self, {name!r}, {part})"


def attribute(network: nn.Module, name: str) -> Tensor:
    """Return a tensor that a network has under a dotted name beside its state. Raises ValueError for anything else."""
    owner, _, leaf = name.rpartition(".")
    found = getattr(network.get_submodule(owner), leaf)
    if not isinstance(found, Tensor):
        raise ValueError(f"its forward needs {name}, a {type(found).__name__}")
    return found.detach()


def imports(found: dict[str, object], source: str) -> list[str]:
    """Return the lines that give a graph's source the names it uses. Raises ValueError for code that is not torch's."""
    lines = []
    for name, value in found.items():
        if name == "torch" or not re.search(rf"\b{name}\b", source) or getattr(builtins, name, None) is value:
            continue
        module, own = getattr(value, "__module__", None) or "", getattr(value, "__name__", name)
        if isinstance(value, float):
            module, own = "math", name  # inf, nan
        if module.partition(".")[0] not in IMPORTABLE:
            raise ValueError(f"its forward calls {own}, which is not of torch")
        lines.append(f"from {module} import {own} as {name}\n")
    return lines
