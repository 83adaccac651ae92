"""A ticket's network as ONNX, by torch's own exporter, which needs the packages of ltx[onnx]."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stdout
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ltx.errors import BadInput, described

NEEDED = ("onnx", "onnxscript")


def check_installed() -> None:
    """Raise BadInput where a package that writes ONNX is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise BadInput(f"format=onnx needs {' and '.join(missing)}, which are not installed: pip install 'ltx[onnx]'.")


def onnx_of(network: nn.Module, x: Tensor) -> bytes:
    """Return a network as ONNX, `x` to `logits`, for batches of any size. Raises BadInput where ONNX cannot hold it."""
    from onnx.checker import check_model

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells who has no torchvision so
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (x,),
                dynamo=True,
                verbose=False,
                input_names=["x"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        assert program is not None
        # Of bfloat16 it writes what no runtime takes: ONNX has no such convolution, nor one type where it mixes two.
        check_model(program.model_proto, full_check=True)
    except Exception as error:  # the exporter raises whatever one of its passes does
        raise BadInput(f"format=onnx cannot hold this network: {described(error)}.") from error
    content: bytes = program.model_proto.SerializeToString()
    return content
