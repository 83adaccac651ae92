"""What a run would cost, before it is run."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import yaml
from torch import nn

from ltx.config.spec import Spec
from ltx.errors import stretches
from ltx.methods import WithoutGradients, imp, layer
from ltx.methods.counts import total
from ltx.report.progress import clock
from ltx.runs.capacity import pool
from ltx.runs.checks import pick_device
from ltx.runs.memory import needed
from ltx.runs.point import level_steps, missing_levels
from ltx.runs.seconds import FLOPS, each
from ltx.runs.sweep import expand, labels
from ltx.store.folders import RunFolder
from ltx.tensors import matrices
from ltx.training.leaves import masks_alone
from ltx.training.rows import GROWTH, LEAST, fits, sparse_enough

OVERHEAD = 8  # seconds of every command: imports, the data, tables and pictures
HEADS = ("done", "time", "disk")


def planned(spec: Spec, level: int, network: nn.Module) -> float:
    """Return the share of its prunable weights that a level keeps, 1 where that is not known before it is trained."""
    method = spec.method
    if method.needs_trunk and spec.trunk is not None:
        return planned(spec.trunk, min(level, spec.trunk.method.last_level), network)
    if isinstance(method, imp.Method):
        at = {name: network.get_parameter(name).shape for name in method.prunable(matrices(network))}
        return total(method.kept(level, at)) / sum(shape.numel() for shape in at.values())
    return float(getattr(method, "density", 1.0))


def compressed(spec: Spec) -> dict[int, tuple[list[str], float]]:
    """Return by level which matrices it will likely train as compressed rows, and the seconds a step then saves."""
    if isinstance(spec.method, WithoutGradients):
        return {}
    network, device = spec.network(device="meta"), pick_device(spec.config["device"])
    fitting = {*fits(network, spec.form)} & {*spec.method.prunable(matrices(network))}
    sizes = {name: network.get_parameter(name).numel() for name in fitting}
    found = {}
    for level in range(spec.method.last_level + 1) if sizes else ():
        kept = planned(spec, level, network)
        names = sparse_enough({name: (round(kept * n), n) for name, n in sizes.items()}, device, spec.config["trainer"])
        if names and masks_alone(spec.method, spec.plan(level)):
            dense = 6 * spec.optim.batch * sum(sizes[name] for name in names) / FLOPS
            found[level] = names, dense * (1 - LEAST - GROWTH * kept)
    return found


def sparse_words(spec: Spec) -> str:
    """Say which layers will likely be trained as compressed rows, at which levels, and what that saves; or nothing."""
    found = compressed(spec)
    if not found:
        return ""
    names = sorted({layer(name) for names, _ in found.values() for name in names})
    saved = sum(level_steps(spec, level)[1] * seconds for level, (_, seconds) in found.items()) * len(spec.seeds)
    return (
        f"compressed rows: {', '.join(names)} at level{'s' if len(found) > 1 else ''} {stretches([*found])}, where few "
        f"weights are kept; that saves about {clock(saved)} of one worker's time (trainer.sparse_cpu=0: never)\n"
    )


def level_bytes(spec: Spec) -> int:
    """Estimate the size of a level file: begin and end as numbers of the network, the mask in bytes."""
    return sum((2 * p.element_size() + 1) * p.numel() for p in spec.network(device="meta").parameters())


@dataclass(frozen=True)
class Cost:
    """What a run would take: levels that are there and in all, steps or masks, seconds of one worker, bytes of disk.

    memory: bytes of one worker.
    """

    done: int
    levels: int
    steps: int
    seconds: float
    size: float
    jobs: int
    memory: float


def cost(spec: Spec) -> Cost:
    """Estimate what is missing of a run; a seed is a job, and those with nothing missing are none."""
    folder = RunFolder(spec.directory)
    missing = {seed: missing_levels(spec, folder.seed(seed), verify=False) for seed in spec.seeds}
    count, levels = sum(map(len, missing.values())), (spec.method.last_level + 1) * len(missing)
    work = [(level, level_steps(spec, level)[1]) for levels_of in missing.values() for level in levels_of]
    steps = sum(n for _, n in work)
    seconds = steps * each(spec) if count else 0.0
    saved = compressed(spec) if count else {}
    seconds -= sum(n * saved[level][1] for level, n in work if level in saved)
    jobs, memory = sum(map(bool, missing.values())), needed(spec) if count else 0.0
    return Cost(levels - count, levels, steps, seconds, count * level_bytes(spec), jobs, memory)


def plural(n: int, word: str) -> str:
    """Write a count with its word."""
    return f"{n} {word}" + ("" if n == 1 else "s")


def size_text(size: float) -> str:
    """Write a number of bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def together(costs: Sequence[Cost], spec: Spec) -> str:
    """Write how long runs take on one pool of workers, their disk and memory; OVERHEAD to start and for pictures."""
    pool = pool_of(costs, spec)
    work = sum(c.seconds for c in costs)
    seconds = work / pool + OVERHEAD if any(c.jobs for c in costs) else 0
    written = f"about {clock(seconds)} with {plural(pool, 'worker')}, {size_text(sum(c.size for c in costs))} of disk"
    largest = max(c.memory for c in costs)
    return f"{written}, {size_text(pool * largest)} of memory" if largest else written


def pool_of(costs: Sequence[Cost], spec: Spec) -> int:
    """Return how many workers would work at a time."""
    return max(1, min(pool(spec.config), sum(c.jobs for c in costs)))


def too_large(costs: Sequence[Cost], spec: Spec) -> str:
    """Say that the workers would need more memory than the machine has, or nothing."""
    pool, there = pool_of(costs, spec), machine_memory()
    wanted = pool * max(c.memory for c in costs)
    if wanted <= there:
        return ""
    return (
        f"memory: {plural(pool, 'worker')} may need about {size_text(wanted)}, but this machine has "
        f"{size_text(there)}; fewer workers, a smaller width or a smaller batch need less"
    )


def machine_memory() -> float:
    """Return the bytes of memory that this machine has."""
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def dry_run(spec: Spec) -> str:
    """Return the resolved config, what is done already, and estimated minutes, disk and memory; nothing is written."""
    found = cost(spec)
    memory = f"memory: about {size_text(found.memory)} a worker\n" if found.memory else ""
    warning = "".join(f"{line}\n" for line in [too_large([found], spec)] if line)
    return (
        f"{yaml.safe_dump(spec.config, sort_keys=False)}\n"
        f"run: {spec.directory}\n"
        f"done already: {found.done} of {found.levels} levels over {plural(len(spec.seeds), 'seed')}\n"
        f"to {'score' if isinstance(spec.method, WithoutGradients) else 'train'}: {found.steps} "
        f"{'masks' if isinstance(spec.method, WithoutGradients) else 'steps'}, {together([found], spec)}\n"
        f"{sparse_words(spec)}{memory}{warning}"
    )


def sweep_plan(specs: Sequence[Spec], overrides: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return a line a point of a sweep, one for each trunk that is not a point itself, and one for the whole.

    Times of a line are those of one worker. What several points share, as a trunk, is counted once in the whole.
    """
    named = labels(specs, overrides)
    differing = [name for name in named[0] if len({str(label.get(name)) for label in named}) > 1] or ["method"]
    points = expand(specs, [], None)
    asked = {spec.key for spec in specs}
    costs = {key: cost(point.spec) for key, point in points.items()}
    trunks = [(f"trunk {key}", costs[key]) for key in costs if key not in asked]
    texts = [" ".join(f"{n}={plain(label[n])}" for n in differing if label.get(n) is not None) for label in named]
    lines = [*trunks, *((text, cost(spec)) for text, spec in zip(texts, specs, strict=True))]
    cells = [(f"{c.done}/{c.levels}", clock(c.seconds), size_text(c.size)) for _, c in lines]
    sizes = [max(len(head), *(len(row[i]) for row in cells)) for i, head in enumerate(HEADS)]
    longest = max(len(text) for text, _ in lines)
    room = max(20, min(longest, width - sum(sizes) - 2 * len(sizes) - 1))
    table = [row(("point", *HEADS), [room, *sizes])]
    for (text, _), numbers in zip(lines, cells, strict=True):
        first, *rest = textwrap.wrap(text, room, subsequent_indent="  ")
        table += [row((first, *numbers), [room, *sizes]), *rest]
    runs = f" in {plural(len(asked), 'run')}" if len(asked) < len(specs) else ""
    counts = [plural(len(specs), "point") + runs] + ([plural(len(trunks), "trunk")] if trunks else [])
    whole = [*costs.values()]
    missing = sum(c.levels - c.done for c in whole)
    total = f"total: {' and '.join(counts)}, {missing} of {sum(c.levels for c in whole)} levels to train"
    said = textwrap.wrap(f"{total}, {together(whole, specs[0])} (time of a line: one worker)", width)
    return [*table, *said, *textwrap.wrap(too_large(whole, specs[0]), width)]


def plain(value: object) -> str:
    """Write a value of a label as a command has it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def row(cells: Sequence[str], sizes: Sequence[int]) -> str:
    """Return a line of a table: text to the left, numbers to the right."""
    return cells[0].ljust(sizes[0]) + "".join(
        f"  {cell:>{size}}" for cell, size in zip(cells[1:], sizes[1:], strict=True)
    )
