"""What a run would cost, before it is run."""

from __future__ import annotations

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from ltx.config.spec import Spec
from ltx.report.progress import clock
from ltx.runs.point import level_steps, missing_levels
from ltx.runs.sweep import workers
from ltx.store.folders import RunFolder

FLOPS, STEP = 4e10, 8e-4  # fp32 operations and fixed cost of a step on one core of a 2-core cloud machine


def step_seconds(spec: Spec) -> float:
    """Estimate the seconds of one optimiser step: three forward passes' operations and a fixed cost."""
    network = spec.network(device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(spec.facts.zeros(spec.optim.batch, "meta"))
    return STEP + 3 * counter.get_total_flops() / FLOPS


def level_bytes(spec: Spec) -> int:
    """Estimate the size of a level file: begin and end in float32, the mask in bytes."""
    network = spec.network(device="meta")
    parameters = {name: p.numel() for name, p in network.named_parameters()}
    return sum(9 * n for n in parameters.values())


def dry_run(spec: Spec) -> str:
    """Return the resolved config, what is done already, and estimated minutes and disk; nothing is written."""
    folder = RunFolder(spec.directory)
    levels = spec.method.last_level + 1
    missing = {seed: missing_levels(spec, folder.seed(seed), verify=False) for seed in spec.seeds}
    count = sum(map(len, missing.values()))
    steps = sum(level_steps(spec, level)[1] for levels_of in missing.values() for level in levels_of)
    parallel = max(1, min(workers(spec), len(missing)))
    seconds = steps * step_seconds(spec) / parallel + 8
    size = count * level_bytes(spec) / 1e6
    done = levels * len(missing) - count
    return (
        f"{yaml.safe_dump(spec.config, sort_keys=False)}\n"
        f"run: {spec.directory}\n"
        f"done already: {done} of {levels * len(missing)} levels over {len(missing)} seeds\n"
        f"to train: {steps} steps, about {clock(seconds if count else 0)} with {parallel} workers, "
        f"{size:.0f} MB of disk\n"
    )
