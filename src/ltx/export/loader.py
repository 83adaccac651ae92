"""An export's load.py: the text of a program that needs torch and safetensors, and what it defines."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ltx.export import plain
from ltx.export.graph import Graph

TITLE = '''"""Loads the ticket beside this file as a plain torch network: `from load import load; network = load()`.

It needs torch and safetensors, and nothing else. It was written by `ltx export`.
"""'''

TAIL = '''
def network_of(tensors: Tensors, meta: dict[str, Any], compressed: bool = False) -> nn.Module:
    """Return the network with a ticket's tensors, in eval mode."""
    with torch.device("meta"):  # nothing is drawn: all values are the ticket's
        network = Network()
    return made(network, tensors, meta, compressed)


def load(compressed: bool = False, folder: str | Path = Path(__file__).parent) -> nn.Module:
    """Return the ticket as a network in eval mode; its parameters have the names that they had when it was found.

    compressed: without the units that cannot matter, and with large sparse linear layers as compressed rows. That is
        the same function up to rounding, for computing and not for training.
    """
    return network_of(*read(folder), compressed)


def kept(folder: str | Path = Path(__file__).parent) -> Tensors:
    """Return of every parameter that was pruned which of its weights are kept, as booleans, for training on."""
    return masks(*read(folder))


if __name__ == "__main__":
    about = read(Path(__file__).parent)[1]
    print(f"{about['key']}, seed {about['seed']}, level {about['level']}")
    print(f"{about['row']['kept']:,} of {about['row']['prunable']:,} weights kept")
    measure = "R squared" if about["task"] == "regression" else "accuracy"
    print(f"{measure} on the test part: {about['row']['test_accuracy']:.4f}")
    print(load())
'''


def text(graph: Graph) -> str:
    """Return the program that loads a network of a graph."""
    _, _, functions = Path(plain.__file__).read_text().partition('\n"""\n')
    return f"{TITLE}\n{functions}\n\n{graph.source}\n{TAIL}"


def module_of(program: str) -> ModuleType:
    """Return what a load.py defines, without a file."""
    module = ModuleType("ticket")
    module.__file__ = "load.py"
    exec(compile(program, "load.py", "exec"), vars(module))
    return module
