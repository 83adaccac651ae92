"""Mirror a run in wandb; the only importer of wandb. The records are the truth: the mirror is rebuilt from them."""

from __future__ import annotations

import contextlib
import netrc
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ltx.config.names import shown
from ltx.config.spec import Spec
from ltx.errors import notice, noticed
from ltx.report.mirrored import AXES, charts, chunk_values, config_of, level_values, point_rows, shared
from ltx.report.tables import Label
from ltx.store.claims import Claim
from ltx.store.files import set_aside
from ltx.store.folders import RunFolder
from ltx.store.rows import Row, by_level
from ltx.store.seeds import SeedFolder
from ltx.store.tags import tags as given_tags

INIT_SECONDS, FINISH_SECONDS = 15, 60  # that wandb may take, ten times as long to send tickets
GONE = ("HandleAbandonedError", "MailboxClosedError")  # what wandb raises then, beside a ConnectionError; not public
LEFT_OUT = (
    "wandb is left out of this command; the records are whole. The same command mirrors them once wandb answers, "
    "and with wandb.mode=offline here."
)


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


def begin(spec: Spec, mode: str, place: Path, config: dict[str, Any], **described: Any) -> Any:
    """Begin a wandb run in `place`, replacing the one there; a wandb that fails is named, and None returned.

    The run's id is the folder's name. What it is called, its group, job type, tags and notes are `described`. After a
    failure the rest of the command does without: each further try could take as long.
    """
    if noticed(LEFT_OUT):
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it writes to the terminal where the server is away
    import wandb

    mirror = place / "wandb"
    if os.path.lexists(mirror) and (mirror.is_symlink() or not mirror.is_dir()):
        set_aside(mirror, f"{mirror} is not a folder")
    shutil.rmtree(mirror, ignore_errors=True)
    options = spec.config["wandb"]
    settings = wandb.Settings(silent=True, console="off", x_disable_meta=True, x_disable_stats=True, disable_git=True)
    settings.x_save_requirements = False  # listing every installed package takes 0.1 s; the manifest has the versions
    patience = {"init_timeout": INIT_SECONDS, "finish_timeout": FINISH_SECONDS * (10 if options["artifacts"] else 1)}
    for name, seconds in patience.items():
        if f"WANDB_{name.upper()}" not in os.environ:
            setattr(settings, name, seconds)
    settings.finish_timeout_raises = True
    try:
        return wandb.init(
            id=place.name,
            project=options["project"],
            entity=options["entity"],
            notes=options["notes"],
            mode=mode,  # type: ignore[arg-type]  # perhaps from the environment; wandb refuses other words
            dir=str(place),
            settings=settings,
            config=config,
            reinit="create_new",
            **described,
        )
    except (wandb.Error, ValueError) as error:  # ValueError: a variable WANDB_... that is none of its setting's values
        shutil.rmtree(mirror, ignore_errors=True)
        notice(f"wandb failed: {' '.join(str(error).split())}")
        notice(LEFT_OUT)
        return None


def end(run: Any) -> None:
    """End a wandb run; one that does not take everything in time is named."""
    folder = Path(run.dir).parent
    try:
        run.finish()
    except TimeoutError:
        notice(f"wandb has not taken everything in time; `wandb sync {folder}` sends it.")


@contextlib.contextmanager
def forgiven(place: Path) -> Iterator[None]:
    """Leave wandb out of the rest of the command where its own process is gone: no run fails for its mirror.

    What it left of the mirror in `place` is removed, so that the same command mirrors again.
    """
    try:
        yield
    except Exception as error:  # wandb's own errors of this kind are not public: by their names; all others go on
        if not isinstance(error, ConnectionError) and type(error).__name__ not in GONE:
            raise
        shutil.rmtree(place / "wandb", ignore_errors=True)
        notice(f"wandb failed: its own process is gone ({type(error).__name__})")
        notice(LEFT_OUT)


def mirror_sweep(
    specs: Sequence[Spec],
    labels: Sequence[Label],
    rows: Sequence[Sequence[Row]],
    table: Sequence[dict[str, Any]],
    place: Path,
    plot: Path,
) -> None:
    """Keep a sweep's table, picture and charts in a wandb run of their own, in the group of its points.

    `points` has a line per point with the link to its run: its URL in wandb or, offline, its folder below the root.
    """
    mode, options = mode_of(specs[0]), specs[0].config["wandb"]
    if mode == "disabled":
        return
    config = shared([config_of(spec, RunFolder(spec.directory).manifest()) for spec in specs])
    group, tags = options["group"] or place.name, list(dict.fromkeys(options["tags"]))
    run = begin(specs[0], mode, place, config, name=place.name, group=group, job_type="sweep", tags=tags)
    if run is None:
        return
    import wandb

    online = run.url.rpartition("/")[0] if run.url else None
    points = [{**line, "link": f"{online or 'runs'}/{line['run']}"} for line in point_rows(specs, labels, rows)]
    logged: dict[str, Any] = {"table": tabulated(table), "points": tabulated(points), "plot": wandb.Image(str(plot))}
    for chart in charts(labels, rows):
        if chart.x is None:
            bars = wandb.Table(columns=["point", "test_accuracy"], data=[[*bar] for bar in chart.lines[""]])
            logged[chart.key] = wandb.plot.bar(bars, "point", "test_accuracy", chart.title)
        else:
            xs, ys = zip(*(zip(*points, strict=True) for points in chart.lines.values()), strict=True)
            logged[chart.key] = wandb.plot.line_series(xs, ys, [*chart.lines], chart.title, chart.x)
    with forgiven(place):
        run.log(logged)
        end(run)


def tabulated(lines: Sequence[dict[str, Any]]) -> Any:
    """Return a wandb table of dicts, with the columns that they have between them."""
    import wandb

    columns = list(dict.fromkeys(name for line in lines for name in line))
    return wandb.Table(columns=[*columns], data=[[line.get(name) for name in columns] for line in lines])


class Mirror:
    """One wandb run per sweep point, begun at the first finished level, older levels replayed into it first.

    Axes: `level` for what is known per level, and `density` for the same under `by_density/`; `seed_S/step` (optimiser
    steps of all levels) for what is logged per chunk. A run that is extended replaces its mirror: offline runs cannot
    be resumed. With wandb.artifacts=true every seed's level files are an artifact `ticket-<key>-seed_000` of the type
    ticket, its metadata their summary rows.
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
        options = config["wandb"]
        method, *tags = [shown(config[group]["name"])[:64] for group in ("method", "model", "data")]
        self.run = begin(
            self.spec,
            self.mode,
            self.folder.path,
            config_of(self.spec, self.folder.manifest()),
            name=options["name"] or key,
            group=options["group"] or self.group or key,
            job_type=options["job_type"] or method,
            tags=list(dict.fromkeys([*tags, *options["tags"], *given_tags(self.folder.path)])),
        )
        if self.run is None:
            self.mode = "disabled"
            return
        self.run.define_metric("level")
        for name, axis in AXES.items():
            self.run.define_metric(name, step_metric=axis)
        for seed in sorted({*self.spec.seeds, *(folder.seed for folder in self.folder.seeds())}):
            self.run.define_metric(f"seed_{seed}/step")
            self.run.define_metric(f"seed_{seed}/*", step_metric=f"seed_{seed}/step")
        for folder in self.folder.seeds():
            for row in folder.rows():
                self.log_chunks(folder, row)

    def level(self, folder: SeedFolder, row: Row) -> None:
        """Log the chunks of one finished level of one seed, from its records."""
        with forgiven(self.folder.path):
            self.start()
            self.log_chunks(folder, row)
            return
        self.run, self.mode = None, "disabled"

    def log_chunks(self, folder: SeedFolder, row: Row) -> None:
        """Log the chunks of a level once."""
        at = (row.seed, row.level)
        if self.run is None or at in self.logged:
            return
        self.logged.add(at)
        for values in chunk_values(row, self.spec.optim.steps, folder.records(row.level)):
            self.run.log(values)

    def release(self) -> None:
        """Let another process mirror the run."""
        if self.claimed:
            self.claimed = False
            self.claim.release()

    def finish(self, rows: Sequence[Row], trained: bool) -> None:
        """Log the levels, per seed and as means, layer densities, the table, the plot and tickets, and end the run.

        A process that has trained nothing leaves a mirror that is there as it is.
        """
        with forgiven(self.folder.path):
            if trained or not (self.folder.path / "wandb").is_dir():
                self.start()
            if self.run is not None:
                self.log_levels(rows)
                end(self.run)
        self.run = None

    def log_levels(self, rows: Sequence[Row]) -> None:
        """Log what is known once all levels are there."""
        import wandb

        for row in rows:  # also what other processes trained
            self.log_chunks(self.folder.seed(row.seed), row)
        for group in by_level(rows).values():
            self.run.log(level_values(group))
        if rows:
            logged: dict[str, Any] = {"summary": tabulated([row.columns() for row in rows])}
            plot: Path = self.folder.path / "plots" / "levels.png"
            if plot.exists():
                logged["levels"] = wandb.Image(str(plot))
            self.run.log(logged)
        if self.spec.config["wandb"]["artifacts"]:
            self.log_tickets(rows)

    def log_tickets(self, rows: Sequence[Row]) -> None:
        """Log every seed's level files as an artifact; wandb reads them where they are, as they never change."""
        import wandb

        for seed in sorted({row.seed for row in rows}):
            folder, own = self.folder.seed(seed), [row for row in rows if row.seed == seed]
            name = f"ticket-{self.spec.key[-100:]}-{folder.path.name}"  # of 128 characters at most
            metadata = {"key": self.spec.key, "seed": seed, "rows": [row.columns() for row in own]}
            ticket = wandb.Artifact(name, type="ticket", metadata=metadata)
            for row in own:
                ticket.add_file(str(folder.level_path(row.level).absolute()), policy="immutable", skip_cache=True)
            self.run.log_artifact(ticket)
