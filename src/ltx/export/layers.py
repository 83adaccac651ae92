"""How a layer of torch.nn is made again: the call of its constructor, as text."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import torch
from torch import nn

Call = tuple[list[Any], dict[str, Any]]  # arguments by position and by name


class Text(str):
    """A text that stands in a call as it is, without quotes."""

    __repr__ = str.__str__


def constructor(layer: nn.Module) -> str:
    """Return the call that makes a layer of torch.nn. Raises ValueError where none is known that makes the same."""
    kind, none = type(layer), f"no call is known that makes the layer {type(layer).__name__}"
    if getattr(nn, kind.__name__, None) is not kind:
        raise ValueError(none)
    arguments, named = COMPOSED[kind](layer) if kind in COMPOSED else shown(layer)
    usual = inspect.signature(kind).parameters
    # What has its usual value is left out: other versions of torch may not know the argument.
    named = {name: value for name, value in named.items() if name not in usual or usual[name].default != value}
    given = [*map(repr, arguments), *(f"{name}={value!r}" for name, value in named.items())]
    text = f"nn.{kind.__name__}({', '.join(given)})"
    with torch.device("meta"):
        again = eval(text, {"nn": nn})  # literals and names of torch.nn alone
    if fields(again) != fields(layer):
        raise ValueError(none)
    return text


def shown(layer: nn.Module) -> Call:
    """Return the arguments that a layer's representation shows. Raises ValueError where it is no call."""
    try:
        call = ast.parse(repr(layer), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"the layer {type(layer).__name__} does not show how it is made") from error
    assert isinstance(call, ast.Call)
    return [literal(node) for node in call.args], {str(word.arg): literal(word.value) for word in call.keywords}


def literal(node: ast.expr) -> object:
    """Return the value in a representation; torch writes texts without quotes: padding=same."""
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def layer_norm(layer: Any) -> Call:
    """Return the arguments of a LayerNorm, whose representation leaves the bias out in some versions of torch."""
    affine = layer.elementwise_affine
    return [layer.normalized_shape], {
        "eps": layer.eps,
        "elementwise_affine": affine,
        "bias": layer.bias is not None or not affine,
    }


def attention(layer: Any) -> Call:
    """Return the arguments of a MultiheadAttention."""
    names = ("dropout", "add_zero_attn", "batch_first")
    own = {name: getattr(layer, name) for name in names}
    own |= {name: size for name in ("kdim", "vdim") if (size := getattr(layer, name)) != layer.embed_dim}
    own |= {"bias": layer.in_proj_bias is not None, "add_bias_kv": layer.bias_k is not None}
    return [layer.embed_dim, layer.num_heads], own


def encoder_layer(layer: Any) -> Call:
    """Return the arguments of a TransformerEncoderLayer."""
    return [layer.self_attn.embed_dim, layer.self_attn.num_heads, layer.linear1.out_features], {
        "dropout": layer.dropout.p,
        "activation": "gelu" if layer.activation_relu_or_gelu == 2 else "relu",
        "layer_norm_eps": layer.norm1.eps,
        "batch_first": layer.self_attn.batch_first,
        "norm_first": layer.norm_first,
        "bias": layer.linear1.bias is not None,
    }


def encoder(layer: Any) -> Call:
    """Return the arguments of a TransformerEncoder, whose layers are all alike."""
    norm = None if layer.norm is None else Text(constructor(layer.norm))
    named = {"norm": norm, "enable_nested_tensor": layer.enable_nested_tensor}
    return [Text(constructor(layer.layers[0])), layer.num_layers], named


COMPOSED = {
    nn.LayerNorm: layer_norm,
    nn.MultiheadAttention: attention,
    nn.TransformerEncoderLayer: encoder_layer,
    nn.TransformerEncoder: encoder,
}


def fields(layer: nn.Module) -> dict[str, object]:
    """Return what tells a layer from others: the fields of all modules in it, and the shapes of its state."""
    own: dict[str, object] = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    for owner, part in layer.named_modules():
        own[owner or "kind"] = type(part)
        own |= {f"{owner}:{name}": v for name, v in vars(part).items() if name[0] != "_" and name != "training"}
    return own
