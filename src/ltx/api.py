"""Finished runs as values: tables, and tickets as tensors and as plain modules."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx.config.schema import check_trusted
from ltx.config.spec import Spec
from ltx.errors import BadInput
from ltx.store.files import Damaged, read_yaml, unpack
from ltx.store.folders import RunFolder, belongs
from ltx.tensors import Tensors, under

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


@dataclass(frozen=True)
class Ticket:
    """One level of one seed: what it started from and ended at, all on the CPU, by parameter name.

    weights: what the network sees at the end, masked and binarised as the method does; biases and norms included.
    mask: bool, of the prunable parameters. score: empty where the method has none. density: kept / prunable.
    """

    spec: Spec
    weights: Tensors
    mask: Tensors
    begin: Tensors
    end: Tensors
    score: Tensors
    density: float

    def module(self) -> nn.Module:
        """Return the network with the ticket's weights and statistics, in eval mode: no mask or score in forward."""
        import torch

        network = self.spec.network()
        with torch.no_grad():
            network.load_state_dict(self.end | self.weights)
        return network.eval()


@dataclass(frozen=True)
class Run:
    """A run's directory, read."""

    path: Path
    trust: bool = False

    @cached_property
    def config(self) -> dict[str, Any]:
        """The whole config. Raises BadInput where its file is damaged."""
        try:
            return read_yaml(self.path / "config.yaml")
        except Damaged as error:
            raise BadInput(f"{error}; running the same command again writes it anew.") from error

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row per seed and level, from the level files."""
        import pandas as pd

        return pd.DataFrame(RunFolder(self.path).rows()).drop(columns="layers", errors="ignore")

    @cached_property
    def records(self) -> pd.DataFrame:
        """A row per seed, level, step and split."""
        import pandas as pd

        return pd.DataFrame([row for folder in RunFolder(self.path).seeds() for row in folder.records()])

    def ticket(self, seed: int = 0, level: int | None = None) -> Ticket:
        """Return the ticket of a seed and level, the last finished level unless told. Raises BadInput.

        Its network and method are those that the run's config names; see `open_run` for code outside ltx.
        """
        run = RunFolder(self.path)
        folder = run.seed(seed)
        finished = folder.levels()
        chosen = finished[-1] if level is None and finished else level or 0
        if chosen not in finished:
            there = ", ".join(f"{f.path.name}/level_{n:02d}" for f in run.seeds() for n in f.levels())
            raise BadInput(f"{self.path} has no finished level {chosen} of seed {seed}. There are: {there or 'none'}.")
        config = self.path / "config.yaml"
        check_trusted(self.config, self.trust, (), config, f"ltx.open_run({str(self.path)!r}, trust=True)")
        spec = Spec.of(copy.deepcopy(self.config))
        path = folder.level_path(chosen)
        try:
            tensors, meta = unpack(path)
            belongs(path, meta, {**spec.identity(seed), "level": chosen})
        except Damaged as error:
            raise BadInput(f"{error}; running the same command again computes it anew.") from error
        end, mask, score = under("end", tensors), under("mask", tensors), under("score", tensors)
        names = [name for name, _ in spec.network(device="meta").named_parameters()]
        weights = spec.method.effective({name: end[name] for name in names}, score, mask)
        weights = {name: tensor.detach() for name, tensor in weights.items()}
        return Ticket(spec, weights, mask, under("begin", tensors), end, score, meta["row"]["density"])


def open_run(path: str | Path, trust: bool = False) -> Run:
    """Open a run's directory, outputs/runs/<key>. Raises BadInput where there is none.

    A config can name a class outside ltx. Its module is imported, which executes it, only with trust=True; tables and
    config need no code.
    """
    path = Path(path)
    if not (path / "config.yaml").is_file():
        raise BadInput(f"{path} is no run's directory: it has no config.yaml.")
    return Run(path, trust)
