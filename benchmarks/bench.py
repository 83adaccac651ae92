"""Measure ltx against plain loops: `make bench`, or `python benchmarks/bench.py B1 B8` for some.

Both sides run in turn, five rounds or more after one that is thrown away; medians are compared. That both compute the
same is asserted first. Everything is written to a temporary folder.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROUNDS = 5
T = TypeVar("T")
FORK = multiprocessing.get_context("fork")
STEPS = 2000  # of a level, where the steps are compared and not what comes around them
LTX = Path(sys.executable).with_name("ltx")


@dataclass(frozen=True)
class Line:
    """One measured figure and what it should reach; `least` tells whether larger is better."""

    name: str
    measured: float
    reach: float
    unit: str
    least: bool
    detail: str

    def __str__(self) -> str:
        reached = self.measured >= self.reach if self.least else self.measured <= self.reach
        sign = ">=" if self.least else "<="
        verdict = "reached" if reached else "MISSED"
        figure, reach = f"{self.measured:.2f} {self.unit}", f"{sign} {self.reach:.2f} {self.unit}"
        return f"{self.name:32} {figure:>8} / {reach:9} {verdict:8} {self.detail}"


@dataclass(frozen=True)
class Level:
    """A level to train: of which run, from which state, on which data."""

    spec: Any
    network: Any
    state: Any
    data: Any
    streams: Any
    number: int


def medians(*sides: Callable[[], float], rounds: int = ROUNDS) -> list[float]:
    """Return the median of what each side measures, the sides taking turns, after a round that does not count."""
    times = [[side() for side in sides] for _ in range(rounds + 1)][1:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def timed(call: Callable[[], object]) -> float:
    """Return the seconds a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def apart(side: Callable[[], T]) -> Callable[[], T]:
    """Return the same function, called in a process of its own that is forked now.

    What ltx sets for a whole process, how memory is kept above all, does not reach a plain loop there.
    """
    here, there = FORK.Pipe()

    def answer() -> None:
        while there.recv():
            there.send(side())

    FORK.Process(target=answer, daemon=True).start()

    def call() -> T:
        here.send(True)
        found: T = here.recv()
        return found

    return call


def lenet_step() -> Iterator[Line]:
    """B1: a masked LeNet-300-100 step on data of MNIST's size, against Trainer + DataLoader + self.log every step."""
    from reference import lightning_loop

    from ltx.data.batches import Batches

    level = of_mnists_size(density=0.5, steps=STEPS)
    spec, network, train, mask = level.spec, level.network, level.data.train, level.state.mask
    steps = spec.optim.steps
    batches = Batches(level.data, 128, level.streams).indices(0, steps).numpy()

    @apart
    def plain() -> tuple[float, Any]:
        network.load_state_dict(level.state.weights)
        seconds = timed(lambda: lightning_loop(network, mask, train.x, train.y, batches, spec.optim.lr))
        return seconds / steps, {name: tensor.detach().clone() for name, tensor in network.named_parameters()}

    assert_close("B1", fit(level)[1].weights, plain()[1])
    a, b = medians(lambda: fit(level)[0] / steps, lambda: plain()[0])
    yield Line("B1 LeNet step, plain / ltx", b / a, 1.6, "x", True, f"{b * 1e3:.2f} / {a * 1e3:.2f} ms")


def compressed_step() -> Iterator[Line]:
    """B3: a LeNet-300-100 step on data of MNIST's size, its sparse layers as compressed rows, against dense ones.

    At 5 % density, also of a network four times as wide, and at the density up to which a run compresses. Both sides
    are checked to end at the same weights after 20 steps; after hundreds, rounding alone moves them apart.
    """
    from ltx.config.schema import TrainerConfig
    from ltx.training.rows import fits

    most = TrainerConfig.model_fields["sparse_cpu"].default
    for density, width, reach in ((0.05, 1.0, 3.0), (0.05, 4.0, 3.0), (most, 1.0, 1.0)):
        short, level = (of_mnists_size(density, steps, width=width) for steps in (20, STEPS))
        rows = fits(level.network, level.spec.form)
        name = f"LeNet x{width:g} at {density:.0%}"
        assert_close(f"B3 {name}", fit(short, rows)[1].weights, fit(short)[1].weights, 1e-6)
        a, b = medians(lambda level=level, rows=rows: fit(level, rows)[0], lambda level=level: fit(level)[0])  # type: ignore[misc]
        detail = f"{b / STEPS * 1e3:.2f} / {a / STEPS * 1e3:.2f} ms; {', '.join(rows)}"
        yield Line(f"B3 {name}, dense / rows", b / a, reach, "x", True, detail)


def validation() -> Iterator[Line]:
    """Share of a LeNet level that goes into validation on the grid: 6,000 examples, 2,000 steps of 128."""
    from ltx.training.watch import Watch

    level, spent = of_mnists_size(density=0.5, steps=STEPS, val=6000), [0.0]
    record = Watch.record

    def watched(watch: Watch, step: int, looked: Any = None) -> Any:
        began = time.perf_counter()
        found = record(watch, step, looked)
        spent[0] += time.perf_counter() - began
        return found

    Watch.record = watched  # type: ignore[method-assign, assignment]
    try:
        whole, looked = [], []
        for _ in range(ROUNDS):
            spent[0] = 0.0
            whole.append(fit(level)[0])
            looked.append(spent[0])
    finally:
        Watch.record = record  # type: ignore[method-assign]
    a, b = statistics.median(looked), statistics.median(whole)
    yield Line("validation, grid / level", a / b, 0.10, "", False, f"{a:.2f} / {b:.2f} s, 50 looks")


def of_mnists_size(density: float, steps: int, val: int = 128, width: float = 1.0) -> Level:
    """Return level 1 of LeNet-300-100 on random data of MNIST's size.

    Of its two hidden layers the state keeps a random share of the weights.
    """
    import numpy as np
    import torch

    from ltx.config.spec import Spec
    from ltx.data.splits import Dataset, Memory
    from ltx.methods import State
    from ltx.streams import Streams

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((60000 + val, 1, 28, 28), dtype=np.float32))
    y = torch.from_numpy(rng.integers(0, 10, 60000 + val))
    train, rest = Memory(x[:60000], y[:60000]), Memory(x[60000:], y[60000:])
    sgd = ["optim=sgd", "optim.momentum=0", "optim.schedule=constant", "optim.batch=128", f"optim.steps={steps}"]
    spec = Spec.of(composed("method=imp", "method.levels=1", *sgd))
    network = lenet(28 * 28, width)
    start = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    mask = {name: torch.from_numpy(rng.random(start[name].shape) < density) for name in ("fc1.weight", "fc2.weight")}
    start |= {name: start[name] * keep for name, keep in mask.items()}
    return Level(spec, network, State(start, {}, mask), Dataset(train, rest, rest, 10), Streams(0, 0, 0, 0, 0), 1)


def selection() -> Iterator[Line]:
    """B6: the exact mask of the larger half of 2.1 million scores, against sorting them."""
    import torch

    from ltx.masks import keep_top

    torch.set_num_threads(1)
    n = 2_100_000
    score, k = torch.randn(n, generator=torch.Generator().manual_seed(0)), n // 2
    results: dict[str, Any] = {}

    def ours() -> None:
        results["ltx"] = keep_top(score, k)

    def sort() -> None:
        mask = torch.zeros(n, dtype=torch.bool)
        mask[torch.sort(score, descending=True, stable=True).indices[:k]] = True
        results["sort"] = mask

    a, b = medians(lambda: timed(ours), lambda: timed(sort))
    assert torch.equal(results["ltx"], results["sort"])
    print("B6: both masks are equal")
    yield Line("B6 exact mask, sort / ltx", b / a, 20.0, "x", True, f"{b * 1e3:.0f} / {a * 1e3:.1f} ms")


def runner_tax() -> Iterator[Line]:
    """B8: a step of the default digits network through Trainer and records, against bare torch."""
    import torch
    from reference import bare_loop

    from ltx.config.spec import Spec
    from ltx.data.batches import Batches
    from ltx.methods import State
    from ltx.training.evaluate import grid

    torch.set_num_threads(1)
    steps = 2100
    spec = Spec.of(composed("method=imp", f"optim.steps={steps}"))
    streams, data = spec.streams(0), spec.data
    network = spec.network(streams=streams)
    start = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    mask = {name: torch.ones_like(start[name], dtype=torch.bool) for name in ("fc1.weight", "fc2.weight")}
    batches = Batches(data, spec.optim.batch, streams).indices(0, steps)
    train, val, at = (data.train.x, data.train.y), (data.val.x, data.val.y), set(grid(0, steps))
    results: dict[str, Any] = {}

    def ours() -> float:
        seconds, trained, losses = fit(Level(spec, network, State(start, {}, mask), data, streams, 0))
        results["ltx"] = trained.weights, losses
        return seconds / steps

    def bare() -> float:
        def loop() -> None:
            results["bare"] = bare_loop(start, mask, train, val, batches, at, spec.optim.lr)

        return timed(loop) / steps

    ours(), bare()
    assert_close("B8", results["ltx"][0], results["bare"][0])
    a, b = medians(ours, bare, rounds=9)
    yield Line("B8 digits step, ltx / bare", a / b, 1.08, "x", False, f"{a * 1e6:.0f} / {b * 1e6:.0f} us")


def start_up() -> Iterator[Line]:
    """B9: seconds to the first optimiser step, to the help, and to the status of 1000 runs."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(1000))

        def first_step() -> float:
            """With 50 steps the first record is written after the first step."""
            root = Path(folder) / f"start-{next(numbers)}"
            small = ["method=dense", "seeds=1", "optim.steps=50", "wandb.mode=disabled", f"root={root}"]
            began = time.perf_counter()
            process = subprocess.Popen([LTX, "run", *small], stdout=subprocess.DEVNULL)
            while not any(path.stat().st_size for path in root.glob("runs/*/seed_000/records.jsonl")):
                assert process.poll() is None, "ltx run ended before its first step"
                time.sleep(0.005)
            seconds = time.perf_counter() - began
            assert process.wait() == 0
            return seconds

        a, b = medians(first_step, command(sys.executable, "-c", "import lightning"))
        yield Line("B9 first step / import lightning", a / b, 1.5, "x", False, f"{a:.2f} / {b:.2f} s")
        (helped,) = medians(command(LTX, "--help"))
        yield Line("B9 ltx --help", helped, 1.0, "s", False, "")
        fill(Path(folder) / "many", 1000)
        (listed,) = medians(command(LTX, "status", f"root={folder}/many"))
        yield Line("B9 ltx status of 1000 runs", listed, 1.5, "s", False, "3 seeds, 15 levels each")
        fill(Path(folder) / "most", 10_000)
        (all_listed,) = medians(command(LTX, "status", f"root={folder}/most"), rounds=3)
        yield Line("B9 ltx status of 10,000 runs", all_listed, 10.0, "s", False, "likewise")


def sweeps() -> Iterator[Line]:
    """Sweep: two workers against one, the cost of one more point, seconds to the first point of a hundred."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(1000))

        def points(n: int, steps: int, workers: int) -> Callable[[], float]:
            """Return a function that runs n LeNet points of so many steps and returns the seconds of the sweep."""

            def run() -> float:
                from ltx.config.spec import Spec
                from ltx.runs import sweep

                root = f"root={folder}/sweep-{next(numbers)}"
                words = ["method=dense", f"optim.steps={steps}", f"workers={workers}", root]
                chosen = [Spec.of(composed(*words, f"optim.lr={1e-3 + 1e-5 * i}")) for i in range(n)]
                return timed(lambda: sweep.run(chosen, [], group="bench"))

            return run

        points(2, 1, 2)()
        one, two = medians(points(6, 5000, 1), points(6, 5000, 2), rounds=3)
        detail = f"{one:.1f} / {two:.1f} s, 6 points of 5,000 steps"
        yield Line("two workers, one / two", one / two, 1.85, "x", True, detail)
        few, many = medians(points(2, 1, 2), points(12, 1, 2), rounds=3)
        yield Line("one more point", (many - few) / 10, 0.5, "s", False, "beyond its training")
        _, trained = short_jobs(Path(folder) / "tried", 1, 1000)
        took, trained = short_jobs(Path(folder) / "short", 20, round(1000 * 10 / trained))
        detail = f"20 points of 10 seeds; {took:.0f} s, of which the jobs trained {trained / 2:.0f}"
        yield Line("200 jobs of 1 s, two workers", took / (trained / 2), 1.15, "x", False, detail)
        yield Line("a claim", 1e3 * claim(Path(folder)), 20.0, "ms", False, "taken and released")

        def hundred() -> float:
            root = Path(folder) / f"hundred-{next(numbers)}"
            widths = ",".join(f"{0.05 + 0.01 * i:.2f}" for i in range(100))
            words = ["-m", f"width={widths}", "method=dense", "seeds=1", "optim.steps=50", f"root={root}"]
            began = time.perf_counter()
            process = subprocess.Popen([LTX, "run", *words], stdout=subprocess.DEVNULL)
            while not any(root.glob("runs/*/seed_000/records.jsonl")):
                assert process.poll() is None, "ltx run ended before its first point"
                time.sleep(0.02)
            seconds = time.perf_counter() - began
            process.terminate()
            process.wait()
            return seconds

        (first,) = medians(hundred, rounds=3)
        yield Line("first of 100 points", first, 15.0, "s", False, "")


def short_jobs(root: Path, points: int, steps: int) -> tuple[float, float]:
    """Sweep points of ten seeds over two workers, a job a seed; return the seconds, and what all jobs trained."""
    from ltx.config.spec import Spec
    from ltx.runs import sweep
    from ltx.store.folders import RunFolder

    words = ["method=dense", f"optim.steps={steps}", "workers=2", f"root={root}"]
    configs = [composed(*words, f"optim.lr={1e-3 + 1e-5 * i}") for i in range(points)]
    chosen = [Spec.of({**config, "seeds": [*range(10)]}) for config in configs]
    took = timed(lambda: sweep.run(chosen, [], group="bench"))
    seeds = [seed for spec in chosen for seed in RunFolder(spec.directory).seeds()]
    return took, sum(max(row["seconds"] for row in seed.records()) for seed in seeds)


def claim(folder: Path) -> float:
    """Return the median seconds of taking and releasing a claim."""
    from ltx.store.claims import Claim

    def once() -> None:
        held = Claim(folder / "claim")
        assert held.attempt()
        held.release()

    return statistics.median(timed(once) for _ in range(50))


def images() -> Iterator[Line]:
    """Images: a batch from the cache against a step of ResNet-20, and decoding on all cores."""
    import data

    return data.lines()


def masks() -> Iterator[Line]:
    """Masks: random ones drawn and scored, and swapped, on one core."""
    import masks

    return masks.lines()


def pages() -> Iterator[Line]:
    """Page: the report of a sweep of 200 points, on one core."""
    import report

    return report.lines()


def pairs() -> Iterator[Line]:
    """Pairs of networks: their units matched, and the line between them followed, on one core."""
    import matching

    return matching.lines()


def side_by_side() -> Iterator[Line]:
    """Seeds side by side."""
    import replicas

    return replicas.on_cpu()


def on_gpu() -> Iterator[Line]:
    """A GPU: steps, its matmul rate, and seeds side by side."""
    import gpu

    return gpu.lines()


def command(*words: str | Path) -> Callable[[], float]:
    """Return a function that runs a command and returns its seconds."""
    return lambda: timed(lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL))


def fill(root: Path, runs: int) -> None:
    """Write the folders of many finished runs, their level files empty: status reads no tensor."""
    from ltx.store.rows import COLUMNS

    row = ",".join(["0"] * len(COLUMNS))
    summary = "\n".join([",".join(COLUMNS), *[row] * 45]) + "\n"
    for i in range(runs):
        run = root / "runs" / f"imp-lenet-digits-w1-{i:08x}"
        for seed in range(3):
            (run / f"seed_{seed:03d}").mkdir(parents=True)
            (run / f"seed_{seed:03d}" / "records.jsonl").touch()
            for level in range(15):
                (run / f"seed_{seed:03d}" / f"level_{level:02d}.safetensors").touch()
        (run / "config.yaml").write_text("method: {name: imp}\n")
        (run / "manifest.json").write_text('{"seeds": [0, 1, 2], "last_level": 14}\n')
        (run / "summary.csv").write_text(summary)


def composed(*overrides: str) -> dict[str, Any]:
    """Return the plain config of these overrides."""
    from ltx.config.compose import compose

    return compose([*overrides, "seeds=1", "device=cpu", "wandb.mode=disabled"], [])


def lenet(inputs: int, width: float = 1.0) -> Any:
    """Return LeNet-300-100 for 10 classes."""
    from ltx.models.mlp import Model

    return Model(input_shape=(inputs,), classes=10, width=width, hidden=[300, 100], norm=None, bias=True)


def fit(
    level: Level, rows: Sequence[str] = (), device: str = "cpu", graphs: bool = False
) -> tuple[float, Any, list[float]]:
    """Train a level as a worker does, records to a file; return seconds, what it left and the validation losses.

    rows: the weights that are held as compressed rows. graphs: steps are captured in CUDA graphs.
    """
    import torch

    from ltx.store.seeds import Records, SeedFolder
    from ltx.training.fit import train
    from ltx.training.setup import Hooks, Setup

    torch.set_num_threads(1)
    gc.freeze()
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        records = Records(SeedFolder(Path(folder) / "seed_000"))

        def record(rows: list[dict[str, Any]]) -> None:
            records.add({"seed": 0, **row} for row in rows)
            losses.extend(row["loss"] for row in rows if row["split"] == "val")

        spec = level.spec
        hooks = Hooks(record, lambda *_: None, lambda *_: None, spec.config["trainer"]["checkpoint_seconds"])
        plan, beginning = spec.plan(level.number), (level.network, spec.method, level.state)
        setup = Setup(*beginning, plan, spec.optim, level.data, level.streams, hooks, spec.form, rows, True, graphs)
        began = time.perf_counter()
        trained = train(setup, device, spec.config["trainer"], None)
        seconds = time.perf_counter() - began
        records.close()
    return seconds, trained, losses


def assert_close(name: str, ours: Any, theirs: Any, most: float = 1e-5) -> None:
    """Stop if the two sides did not end at the same weights, and say how close they are."""
    import torch

    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=most)
    same = all(torch.equal(ours[key], theirs[key]) for key in ours)
    worst = max(float((ours[key] - theirs[key]).abs().max()) for key in ours)
    print(f"{name}: both sides end at the same weights, {'bit for bit' if same else f'within {worst:.1e}'}")


def of_steps(name: str) -> Callable[[], Iterator[Line]]:
    """Return a benchmark of steps.py, which imports torch and this file."""

    def run() -> Iterator[Line]:
        import steps

        yield from getattr(steps, name)()

    return run


BENCHES = {
    "B1": lenet_step,
    "B3": compressed_step,
    "B4": of_steps("edge_popup"),
    "B5": of_steps("biprop"),
    "B6": selection,
    "B7": of_steps("resnet"),
    "B8": runner_tax,
    "B9": start_up,
    "sweep": sweeps,
    "level": of_steps("level"),
    "validation": validation,
    "data": images,
    "masks": masks,
    "matching": pairs,
    "page": pages,
    "replicas": side_by_side,
    "gpu": on_gpu,
}


def main(names: list[str]) -> int:
    """Run the benchmarks named, or all, and print a line for each figure."""
    unknown = set(names) - set(BENCHES)
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    os.environ["WANDB_MODE"] = "disabled"
    os.environ["LTX_DEFAULTS"] = ""
    print(f"medians of {ROUNDS} or more alternating rounds; load of this machine {os.getloadavg()[0]:.1f}")
    for name in names or BENCHES:
        process = FORK.Process(target=measure, args=[name])
        process.start()
        try:
            process.join()
        except KeyboardInterrupt:
            return 130
        if process.exitcode:
            return 1
    return 0


def measure(name: str) -> None:
    """Print the lines of a benchmark, in a process that no other one has changed."""
    with contextlib.suppress(KeyboardInterrupt):
        for line in BENCHES[name]():
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
