"""What `import ltx` offers: train a run, open runs and sweeps as tables and tickets, and load data as a run sees it."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx.config import defaults
from ltx.config.loading import load
from ltx.config.names import check_trusted
from ltx.config.spec import Spec
from ltx.errors import BadInput, Failed, forget_notices, stretches
from ltx.launch import local as launch
from ltx.launch.signals import interruptible
from ltx.store.files import Damaged, read_yaml, unpack
from ltx.store.find import few
from ltx.store.folders import RunFolder
from ltx.store.rows import columns_of
from ltx.store.seeds import SeedFolder, belongs
from ltx.store.sweeps import Record, SweepFolder, find_sweep, sweeps, table_columns, table_rows

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from ltx.data import Dataset
    from ltx.tensors import Tensors


SHOWN = 3  # seeds that a message tells the levels of


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
    def spec(self) -> Spec:
        """The config checked, which builds network, data and method. Raises BadInput, also for code outside ltx."""
        config = self.path / "config.yaml"
        check_trusted(self.config, self.trust, (), config, f"ltx.open_run({str(self.path)!r}, trust=True)")
        return Spec.of(copy.deepcopy(self.config))

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row per seed and level, from the level files."""
        import pandas as pd

        rows = RunFolder(self.path).rows()
        return pd.DataFrame([row.columns() for row in rows], columns=columns_of(rows))

    @cached_property
    def records(self) -> pd.DataFrame:
        """A row per seed, level, step and split."""
        import pandas as pd

        return pd.DataFrame([row for folder in RunFolder(self.path).seeds() for row in folder.records()])

    def samples(self, seed: int | None = None) -> pd.DataFrame:
        """Return what method=ticket_sample measured of one seed, the first one unless told: a row per mask, as drawn.

        level: the block of the mask. quality: in nats, to the bit. dead: the network's output is constant. Raises
        BadInput where there is none.
        """
        import pandas as pd

        from ltx.tensors import under

        folder = seed_folder(RunFolder(self.path), seed)
        parts = []
        for level in folder.levels():
            sample = under("sample", level_file(folder, level, folder.identity)[0])
            if "quality" in sample:
                columns = {name: sample[name].numpy() for name in ("quality", "dead")}
                parts.append(pd.DataFrame({"level": level, **columns}))
        if not parts:
            raise BadInput(f"{self.path} has no samples of seed {folder.seed}; runs of method=ticket_sample have them.")
        return pd.concat(parts, ignore_index=True)

    def ticket(self, seed: int | None = None, level: int | None = None) -> Ticket:
        """Return the ticket of a seed and level, the first seed and its last finished level unless told.

        Its network and method are those that the run's config names; see `open_run` for code outside ltx. Raises
        BadInput.
        """
        from ltx.tensors import all_laid_out, cpu, under

        run = RunFolder(self.path)
        folder = seed_folder(run, seed)
        finished = folder.levels()
        chosen = finished[-1] if level is None and finished else level or 0
        if chosen not in finished:
            there = [f"seed {f.seed}: {stretches(f.levels())}" for f in run.seeds() if f.levels()]
            if finished:
                there = [f"seed {folder.seed}: {stretches(finished)}"]
            levels = "; ".join(there[:SHOWN]) + (f" and {len(there) - SHOWN} seeds more" if len(there) > SHOWN else "")
            raise BadInput(
                f"{self.path} has no finished level {chosen} of seed {folder.seed}. There are levels of "
                f"{levels or 'none'}."
            )
        spec = self.spec
        tensors, meta = level_file(folder, chosen, spec.identity(folder.seed))
        end, mask, score = under("end", tensors), under("mask", tensors), under("score", tensors)
        like = dict(spec.network(device="meta").named_parameters())
        own, scores, gate = (all_laid_out(found, like) for found in ({name: end[name] for name in like}, score, mask))
        weights = cpu(spec.method.effective(own, scores, gate))  # as they lay in training, which orders a layer's sums
        return Ticket(spec, weights, mask, under("begin", tensors), end, score, meta["row"]["density"])


def seed_folder(run: RunFolder, seed: int | None) -> SeedFolder:
    """Return the folder of a seed; None means the first that there is."""
    if seed is None:
        seed = next((folder.seed for folder in run.seeds()), 0)
    return run.seed(seed)


def level_file(folder: SeedFolder, level: int, identity: Mapping[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors of a finished level and what it says of itself. Raises BadInput where it is damaged."""
    path = folder.level_path(level)
    try:
        tensors, meta = unpack(path)
        belongs(path, meta, {**identity, "level": level})
    except Damaged as error:
        raise BadInput(f"{error}; running the same command again computes it anew.") from error
    return tensors, meta


def open_run(path: str | Path, trust: bool = False) -> Run:
    """Open a run's directory, outputs/runs/<key>. Raises BadInput where there is none.

    A config can name a class outside ltx. Its module is imported, which executes it, only with trust=True; tables and
    config need no code.
    """
    path = Path(path)
    if not RunFolder(path).is_run():
        raise BadInput(f"{path} is no run's directory: it has neither a config nor a seed's folder.")
    return Run(path, trust)


@dataclass(frozen=True)
class Sweep:
    """A sweep's directory, read: what it asks for, and as much of that as there is."""

    path: Path
    trust: bool = False

    @cached_property
    def folder(self) -> SweepFolder:
        """The directory as the store sees it."""
        return SweepFolder(self.path)

    @cached_property
    def record(self) -> Record:
        """Which points it has, and the command that asked for them."""
        return self.folder.record()

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per point, seed and finished level: the run, what distinguishes the point, and the run's summary."""
        import pandas as pd

        points = self.record.points
        rows = [self.folder.rows(point) for point in points]
        return pd.DataFrame(table_rows(points, rows), columns=table_columns(points, rows))

    @cached_property
    def points(self) -> pd.DataFrame:
        """A row per point: its run, what distinguishes it, and its state, done, failed, running or unfinished."""
        import pandas as pd

        states = zip(self.record.points, self.folder.states(self.record), strict=True)
        return pd.DataFrame([{"run": point.run, **point.label, "state": state} for point, state in states])

    @cached_property
    def runs(self) -> list[Run]:
        """The runs of its points that have been begun, in their order."""
        folders = [self.folder.run(point) for point in self.record.points]
        return [Run(folder.path, self.trust) for folder in folders if folder.is_run()]


def open_sweep(sweep: str | Path, root: str | Path | None = None, trust: bool = False) -> Sweep:
    """Open a sweep, finished or not: its name, its folder's name under `root`/sweeps, or its directory.

    `root` is the output root (None: LTX_OUTPUT, or outputs). A name means the newest sweep that was given it. See
    `open_run` for `trust`. Raises BadInput where there is none.
    """
    place = Path(root or os.environ.get("LTX_OUTPUT") or "outputs")
    found = find_sweep(str(sweep), place)
    if found is None:
        names = [name for known in sweeps(place) for name in (known.path.name, known.name) if name]
        raise BadInput(f"No sweep is named {sweep} under {place / 'sweeps'}{few(str(sweep), names)}")
    return Sweep(found.path, trust)


def run(*words: str, config_dirs: Sequence[str | Path] = (), **keys: Any) -> Run:
    """Train what is missing of a run, or find it finished, and return it opened: `ltx.run("method=imp", width=4)`.

    Words are those of `ltx run`, `key=value`, and a file of your own defaults counts as it does there. Keyword
    arguments are top-level keys with plain Python values: `seeds=[3, 7]`, `trunk={"method": "imp"}`. `config_dirs`
    are folders with yaml files of your own. It works in a notebook, and in a script without
    `if __name__ == "__main__":`. Raises BadInput before anything is written, Failed where a seed failed, and
    KeyboardInterrupt; what is finished then is kept, and the same call continues.
    """
    from ltx.config.words import plain_root, text

    given = [*words, *(f"{key}={text(value)}" for key, value in keys.items())]
    folders = [str(folder) for folder in config_dirs]
    forget_notices()
    with interruptible(interrupt_again):
        overrides = [plain_root(word) for word in given]
        refuse_several(overrides)
        own = defaults.read()
        if "workers=0" not in overrides and own.values.get("workers") != 0:
            launch.warm_up()
        from ltx.config.optional import settled
        from ltx.runs import sweep
        from ltx.runs.command import failures, specs_of

        [spec] = specs_of(settled([overrides], folders, own), folders, own)
        same = ["ltx", "run", *(f"--config-dir={folder}" for folder in folders), *given]
        outcome = sweep.run([spec], own.command(same))
    if outcome.interrupted:
        raise KeyboardInterrupt("finished levels are kept and the same call continues")
    if outcome.exit_code:
        raise Failed("\n".join(failures(outcome)))
    return open_run(spec.directory, trust=True)  # the code outside ltx that it names was named in this call


def refuse_several(words: list[str]) -> None:
    """Raise BadInput where words mean a sweep, or name a class that no other process could import."""
    from ltx.config.compose import parse
    from ltx.config.words import key_of

    for word in words:
        if key_of(word) == "experiment" or parse(word.removeprefix("?")).is_sweep_override():
            raise BadInput(
                f"{word} can mean several runs, and ltx.run trains one. On the command line `ltx run -m {word}` is a "
                "sweep; in Python call ltx.run for each. A list is written [1,2]."
            )
        if "=__main__:" in word:
            raise BadInput(
                f"{word} is defined in the script or notebook itself, which workers cannot import; put it into a file "
                "of its own and name that: mymodule:Class."
            )


def interrupt_again() -> None:
    """Let a second Ctrl-C raise KeyboardInterrupt like the first one; a notebook must not end for it."""
    raise KeyboardInterrupt


def load_data(name: str = "digits", /, *, config_dirs: Sequence[str | Path] = (), **fields: Any) -> Dataset:
    """Load a data set as a run sees it: .train, .val and .test, each with .x and .y; augmentation is not applied.

    `name` is what `data=` names, and keyword arguments are the fields of its group:
    `ltx.load_data("own", name="mydata:Rings", examples=100)` is data=own data.name=mydata:Rings data.examples=100.
    The tensors are the caller's own copies. Raises BadInput.
    """
    from ltx.config.compose import compose

    if name == "own" and "path" in fields and "name" not in fields:
        name = "table"
    words = [f"data={name}"] + ([f"data.name={fields['name']}"] if "name" in fields else [])
    node = compose(words, [str(folder) for folder in config_dirs], defaults.read())["data"]
    return copy.deepcopy(load(json.dumps({**node, **fields}, sort_keys=True, default=str)))
