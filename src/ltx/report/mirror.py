"""Mirror a run in wandb; the only importer of wandb. The records are the truth: the mirror is rebuilt from them."""

from __future__ import annotations

import netrc
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ltx.analysis.intervals import mean_interval
from ltx.config.names import shown
from ltx.config.spec import Spec
from ltx.store.claims import Claim
from ltx.store.files import set_aside
from ltx.store.folders import RunFolder
from ltx.store.rows import Row, by_level, columns_of
from ltx.store.seeds import SeedFolder

METRICS = ("train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "early_stop_test_accuracy")


def has_key() -> bool:
    """Tell whether wandb could log in: a key in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def mode_of(spec: Spec) -> str:
    """Return online, offline or disabled: as asked, else the environment's, else online with a key."""
    asked = spec.config["wandb"]["mode"]
    return asked or os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")


def begin(spec: Spec, mode: str, place: Path, name: str, group: str, job_type: str, tags: list[str]) -> Any:
    """Begin a wandb run in `place`, replacing the one there; a wandb that fails is named, and None returned."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    mirror = place / "wandb"
    if os.path.lexists(mirror) and (mirror.is_symlink() or not mirror.is_dir()):
        set_aside(mirror, f"{mirror} is not a folder")
    shutil.rmtree(mirror, ignore_errors=True)
    options = spec.config["wandb"]
    settings = wandb.Settings(silent=True, console="off", x_disable_meta=True, x_disable_stats=True, disable_git=True)
    settings.x_save_requirements = False  # listing every installed package takes 0.1 s; the manifest has the versions
    try:
        return wandb.init(
            id=name,
            name=name,
            group=group,
            job_type=job_type,
            tags=tags,
            project=options["project"],
            entity=options["entity"],
            mode=mode,  # type: ignore[arg-type]  # perhaps from the environment; wandb refuses other words
            dir=str(place),
            settings=settings,
            config={name: value for name, value in spec.config.items() if name not in ("root", "wandb")},
            reinit="create_new",
        )
    except wandb.Error as error:
        print(f"ltx: wandb failed ({error}); the records are whole, wandb.mode=offline mirrors them here.")
        return None


def mirror_sweep(spec: Spec, place: Path, table: Sequence[dict[str, Any]], plot: Path) -> None:
    """Keep a sweep's table and plot in a wandb run of their own, in the group of its points."""
    mode = mode_of(spec)
    if mode == "disabled":
        return
    run = begin(spec, mode, place, place.name, spec.config["wandb"]["group"] or place.name, "sweep", [])
    if run is None:
        return
    import wandb

    columns = list(dict.fromkeys(name for row in table for name in row))
    data = [[row.get(name) for name in columns] for row in table]
    run.log({"table": wandb.Table(columns=[*columns], data=data), "width": wandb.Image(str(plot))})
    run.finish()


class Mirror:
    """One wandb run per sweep point, begun at the first finished level, older levels replayed into it first.

    Axes: `level` for what is known per level; `seed_S/step` (optimiser steps of all levels) for what is logged per
    chunk. A run that is extended replaces its mirror: offline runs cannot be resumed.
    """

    def __init__(self, spec: Spec, folder: RunFolder, group: str | None = None):
        self.spec, self.folder, self.group = spec, folder, group
        self.mode = mode_of(spec)
        self.run: Any = None
        self.claim = Claim(
            folder.path / "wandb.lock"
        )  # one process mirrors at a time; the one that ends last completes it
        self.claimed = False
        self.logged: set[tuple[int, int]] = set()

    def start(self) -> None:
        """Begin the wandb run and replay what is finished. A wandb that fails is named and left out."""
        if self.mode == "disabled" or self.run is not None:
            return
        self.claimed = self.claimed or self.claim.attempt()
        if not self.claimed:
            return
        config, key = self.spec.config, self.spec.key
        method, *tags = [shown(config[group]["name"])[:64] for group in ("method", "model", "data")]
        group = config["wandb"]["group"] or self.group or key
        self.run = begin(self.spec, self.mode, self.folder.path, key, group, method, tags)
        if self.run is None:
            self.mode = "disabled"
            return
        self.run.define_metric("level")
        self.run.define_metric("*", step_metric="level")
        for seed in sorted({*self.spec.seeds, *(folder.seed for folder in self.folder.seeds())}):
            self.run.define_metric(f"seed_{seed}/step")
            self.run.define_metric(f"seed_{seed}/*", step_metric=f"seed_{seed}/step")
        for folder in self.folder.seeds():
            for row in folder.rows():
                self.level(folder, row)

    def level(self, folder: SeedFolder, row: Row) -> None:
        """Log the chunks of one finished level of one seed, from its records."""
        self.start()
        at = (row.seed, row.level)
        if self.run is None or at in self.logged:
            return
        self.logged.add(at)
        steps: dict[int, dict[str, Any]] = {}
        for record in folder.records(row.level):
            values = steps.setdefault(record["step"], {})
            values[f"{record['split']}_loss"] = record["loss"]
            values[f"{record['split']}_accuracy"] = record["accuracy"]
        prefix = f"seed_{row.seed}"
        for step, values in sorted(steps.items()):
            axes = {
                "step": row.level * self.spec.optim.steps + step,
                "level": row.level,
                "level_step": step,
            }
            self.run.log({f"{prefix}/{name}": value for name, value in (axes | values).items()})

    def release(self) -> None:
        """Let another process mirror the run."""
        if self.claimed:
            self.claimed = False
            self.claim.release()

    def finish(self, rows: Sequence[Row], trained: bool) -> None:
        """Log the levels, per seed and as means, layer densities, the table and the plot, and end the run.

        A process that has trained nothing leaves a mirror that is there as it is.
        """
        if trained or not (self.folder.path / "wandb").is_dir():
            self.start()
        if self.run is None:
            return
        for row in rows:  # also what other processes trained
            self.level(self.folder.seed(row.seed), row)
        import wandb

        for level, group in by_level(rows).items():
            values: dict[str, Any] = {"level": level, "density": group[0].density, "kept": group[0].kept}
            for name in METRICS:
                values |= {f"{name}/seed_{row.seed}": getattr(row, name) for row in group}
                values[f"{name}/mean"] = mean_interval([getattr(row, name) for row in group])[0]
            for name in dict.fromkeys(name for row in group for name in row.layers):
                values[f"layer_density/{name}"] = mean_interval([row.layers[name] for row in group])[0]
            self.run.log(values)
        if rows:
            columns = columns_of(rows)
            data = [[row.columns().get(name) for name in columns] for row in rows]
            logged: dict[str, Any] = {"summary": wandb.Table(columns=[*columns], data=data)}
            plot: Path = self.folder.path / "plots" / "levels.png"
            if plot.exists():
                logged["levels"] = wandb.Image(str(plot))
            self.run.log(logged)
        self.run.finish()
        self.run = None
