"""Measure how long units take to match, and lines between networks to be followed. `make bench ARGS=matching`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench import Line, medians, timed


def lines() -> Iterator[Line]:
    """Pairs of untrained LeNet-300-100 (28x28) and ResNet-20 (3x32x32), restarts included; 30 points of a line."""
    import torch

    from ltx.analysis.connectivity import between
    from ltx.config.compose import compose
    from ltx.config.spec import Spec
    from ltx.streams import generator
    from ltx.symmetry import table_of
    from ltx.symmetry.gauge import balanced, folded
    from ltx.symmetry.matching import weight_matching
    from ltx.tensors import parameters
    from ltx.training.evaluate import evaluate
    from ltx.training.line import along
    from ltx.training.task import TASKS

    torch.set_num_threads(1)
    for name, words, reach in (
        ("LeNet-300-100", ("model=lenet", "data=canvas"), 2.0),
        ("ResNet-20", ("model=resnet20", "data=canvas"), 20.0),
    ):
        spec = Spec.of(compose(["device=cpu", *words], []))
        networks = [spec.network(streams=spec.streams(seed)) for seed in (0, 1)]
        table = table_of(networks[0])
        first, second = [balanced(folded(network, table, torch.float64).state_dict(), table) for network in networks]

        match = partial(weight_matching, first, second, table, generator("bench", 0, "matching"))
        (seconds,) = medians(partial(timed, match))
        yield Line(f"seconds to match a pair of {name}", seconds, reach, "s", False, "identity and 3 restarts")

    spec = Spec.of(compose(["device=cpu", "width=.25"], []))
    one, other = (parameters(spec.network(streams=spec.streams(seed))) for seed in (0, 1))
    network, split, task = spec.network(), spec.data.test, TASKS["classification"]
    seen: dict[str, list[float]] = {}

    def together() -> None:
        [(seen["together"], _)] = along(network, one, other, [split], task)

    def loop() -> None:
        seen["loop"] = [evaluate(network, between(one, other, i / 29), split, task)[0] for i in range(30)]

    batched, alone = medians(lambda: timed(together), lambda: timed(loop))
    worst = max(abs(a - b) for a, b in zip(seen["together"], seen["loop"], strict=True))
    assert worst < 1e-5, worst
    print(f"matching: losses on the line agree within {worst:.0e}")
    yield Line(
        "30 points of a line at width .25, against a loop", alone / batched, 1.2, "x", True, f"{1000 * batched:.0f} ms"
    )
