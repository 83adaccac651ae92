"""What a run would cost, before it is run."""

from __future__ import annotations

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from ltx.experiment import Experiment
from ltx.report import clock
from ltx.run import level_steps, missing_levels
from ltx.store import RunFolder
from ltx.sweep import workers

FLOPS, STEP = 4e10, 8e-4  # fp32 operations and fixed cost of a step on one core of a 2-core cloud machine


def step_seconds(experiment: Experiment) -> float:
    """Estimate the seconds of one optimiser step: three forward passes' operations and a fixed cost."""
    network = experiment.network(device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(experiment.optim.batch, *experiment.data.input_shape, device="meta"))
    return STEP + 3 * counter.get_total_flops() / FLOPS


def level_bytes(experiment: Experiment) -> int:
    """Estimate the size of a level file: begin and end in float32, the mask in bytes."""
    network = experiment.network(device="meta")
    parameters = {name: p.numel() for name, p in network.named_parameters()}
    return sum(9 * n for n in parameters.values())


def dry_run(experiment: Experiment) -> str:
    """Return the resolved config, what is done already, and estimated minutes and disk; nothing is written."""
    folder = RunFolder(experiment.directory)
    levels = experiment.method.last_level + 1
    missing = {seed: missing_levels(experiment, folder.seed(seed), verify=False) for seed in experiment.seeds}
    count = sum(map(len, missing.values()))
    steps = sum(level_steps(experiment, level)[1] for levels_of in missing.values() for level in levels_of)
    parallel = max(1, min(workers(experiment), len(missing)))
    seconds = steps * step_seconds(experiment) / parallel + 8
    size = count * level_bytes(experiment) / 1e6
    done = levels * len(missing) - count
    return (
        f"{yaml.safe_dump(experiment.config, sort_keys=False)}\n"
        f"run: {experiment.directory}\n"
        f"done already: {done} of {levels * len(missing)} levels over {len(missing)} seeds\n"
        f"to train: {steps} steps, about {clock(seconds if count else 0)} with {parallel} workers, "
        f"{size:.0f} MB of disk\n"
    )
