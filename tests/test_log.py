"""The wandb mirror, read back with wandb's own reader: what is in it, how it is rebuilt, and what must not be in it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from conftest import TINY, call, only

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.errors import BadInput, forget_notices
from ltx.report.mirror import Mirror, mode_of
from ltx.report.mirrored import METRICS, averaged, charts, level_values
from ltx.runs.sweep import expand
from ltx.store.folders import RunFolder

SECRET = "f00dfeedcafe" * 3 + "beef"
OFFLINE = (*TINY, "wandb.mode=offline")
NAMED = (
    "wandb.name='${method.name} at width ${width}'",
    "wandb.notes=tried",
    "wandb.tags=[first,digits]",
    "wandb.artifacts=true",
)
SWEEP = ("-m", "method=dense,edge_popup", "width=.05,.1", "optim.steps=20", "optim.batch=50", "seeds=2", "workers=0")


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the records of the one wandb run below a folder."""
    wandb.teardown()  # finish() alone does not wait until all is written
    (place,) = folder.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(place)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in said.splitlines()]


def history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in records if record["type"] == "history"]


@contextlib.contextmanager
def with_a_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Stand where wandb has an API key and folders of a test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", SECRET)
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp("wandb")))
        yield patch


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory) -> tuple[Path, list, list]:
    """Return a run mirrored offline and extended by a level, with the records before and after."""
    root = tmp_path_factory.mktemp("mirrored")
    with with_a_key(tmp_path_factory):
        assert call("run", *OFFLINE, *NAMED, root=root) == 0
        before = read(only(root))
        assert call("run", *OFFLINE, *NAMED, "method.levels=2", root=root) == 0
        after = read(only(root))
    return only(root), before, after


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, list]:
    """Return a sweep's folder and the records of its own wandb run; its points are not mirrored, to save time."""
    root = tmp_path_factory.mktemp("swept")
    with with_a_key(tmp_path_factory) as patch:
        patch.setattr(Mirror, "start", lambda self: None)
        assert call("run", *SWEEP, "wandb.mode=offline", "wandb.tags=[first]", root=root) == 0
        (folder,) = (root / "sweeps").iterdir()
        return folder, read(folder)


def run_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    (run,) = (record["run"] for record in records if record["type"] == "run")
    return run


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the lines of a logged table, of a chart's too."""
    (path,) = folder.glob(f"wandb/offline-run-*/files/media/table/{name}_[0-9]*.json")
    content = json.loads(path.read_text())
    return [dict(zip(content["columns"], line, strict=True)) for line in content["data"]]


def charts_of(records: list[dict[str, Any]]) -> dict[str, str]:
    """Return the charts of a run by their keys, each with what wandb draws it as."""
    updates = [record["config"]["update"] for record in records if record["type"] == "config"]
    prefix = "_wandb.visualize."
    return {
        name.removeprefix(prefix): chart["panel_config"]["panelDefId"]
        for update in updates
        for name, chart in update.items()
        if name.startswith(prefix)
    }


def begun(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """Return what a run of a command line would tell wandb of itself."""
    told: dict[str, Any] = {}
    monkeypatch.setattr("ltx.report.mirror.begin", lambda *_, **described: told.update(described))
    key = started(*words)
    return {"key": key, **told}


def started(*words: str) -> str:
    """Start a mirror of a run that there is nothing of, and return the run's key."""
    spec = Spec.of(compose([*words, "wandb.mode=offline"], []))
    mirror = Mirror(spec, RunFolder(Path("nowhere") / spec.key))
    mirror.start()
    mirror.release()
    return spec.key


def test_the_mirror_has_name_notes_group_job_type_tags_and_config(mirrored):
    folder, records, _ = mirrored
    run = run_of(records)
    assert run["run_id"] == run["run_group"] == folder.name and run["display_name"] == "imp at width 0.05"
    assert run["tags"] == ["lenet", "digits", "first"] and run["notes"] == "tried"
    assert run["job_type"] == "imp" and run["project"] == "ltx"
    config = run["config"]["update"]
    assert config["method"]["fraction"] == 0.2 and config["optim"]["steps"] == 20 and config["width"] == 0.05
    assert "root" not in config and "wandb" not in config


def test_the_config_says_on_what_and_with_what_it_was_computed(mirrored):
    config, manifest = run_of(mirrored[1])["config"]["update"], RunFolder(mirrored[0]).manifest()
    assert config["device"] == manifest["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert config["threads"] == 1
    versions = {name: version(name) for name in ("torch", "ltx")}
    assert config["versions"] == {"python": platform.python_version(), **versions}
    assert config["git"]["commit"] == (manifest["git"] or {}).get("commit")


def test_what_is_not_named_is_named_as_before(monkeypatch):
    told = begun(monkeypatch)
    assert told["name"] == told["group"] == told["key"]
    assert told["job_type"] == "imp" and told["tags"] == ["lenet", "digits"]
    assert begun(monkeypatch, "wandb.job_type=trial")["job_type"] == "trial"


def test_a_trunk_is_not_called_what_its_dependant_is(tmp_path):
    words = ("method=control", "trunk={method:imp}", "wandb.name=mine", "wandb.tags=[first]", f"root={tmp_path}")
    trunk, run = expand([Spec.of(compose([*words], []))], [], None).values()
    assert run.spec.config["wandb"]["name"] == "mine" and trunk.spec.config["wandb"]["name"] is None
    assert trunk.spec.config["wandb"]["tags"] == ["first"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("wandb.nmae=x", "did you mean 'name'"),
        ("wandb.name=[x]", "a text"),
        ("wandb.name=''", "at least 1"),
        ("wandb.notes={a:1}", "a text"),
        ("wandb.tags=x", "a list"),
        (f"wandb.tags=[{'x' * 65}]", "at most 64"),
        ("wandb.job_type=3", "a text"),
        ("wandb.artifacts=all", "true or false"),
        ("wandb.api_key=" + SECRET, "wandb.api_key is not a field of wandb"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_no_secret_repeated(override, said):
    with pytest.raises(BadInput) as refusal:
        Spec.of(compose([override], []))
    assert said in str(refusal.value) and override.partition("=")[0] in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_a_config_from_before_these_names_is_still_read():
    config = compose([], [])
    config["wandb"] = {"mode": None, "project": "ltx", "entity": None, "group": None}
    assert Spec.of(config).config["wandb"] == Spec.of(compose([], [])).config["wandb"]


@pytest.mark.parametrize("last", [1, 2])
def test_every_level_has_means_intervals_seeds_and_layer_densities_on_both_axes(last, mirrored):
    folder, *both = mirrored
    found = {item["level"]: item for item in history(both[last - 1]) if "test_accuracy/mean" in item}
    rows = {(row.seed, row.level): row for row in RunFolder(folder).rows()}
    assert sorted(found) == list(range(last + 1)), "an extended run has its old levels too"
    for level, item in found.items():
        ours = [rows[seed, level] for seed in (0, 1)]
        assert item["density"] == ours[0].density and item["kept"] == ours[0].kept and item["n"] == 2
        for name in METRICS:
            values = [getattr(row, name) for row in ours]
            assert [item[f"{name}/seed_{seed}"] for seed in (0, 1)] == values
            assert item[f"{name}/mean"] == pytest.approx(sum(values) / 2)
            half = 12.706205 * abs(values[0] - values[1]) / 2  # Student's t of one degree of freedom
            most = 1 if name.endswith("accuracy") else math.inf
            assert item[f"{name}/low"] == pytest.approx(max(0, sum(values) / 2 - half), abs=1e-6)
            assert item[f"{name}/high"] == pytest.approx(min(most, sum(values) / 2 + half), abs=1e-6)
            for part in ("seed_0", "seed_1", "mean", "low", "high"):
                assert item[f"by_density/{name}/{part}"] == item[f"{name}/{part}"]
        for name in ("fc1", "fc2"):
            assert item[f"layer_density/{name}"] == pytest.approx(sum(row.layers[name] for row in ours) / 2)


def test_one_seed_has_a_mean_and_no_interval(finished):
    (row, *_) = RunFolder(finished).rows()
    values = level_values([row])
    assert values["n"] == 1 and values["test_accuracy/mean"] == row.test_accuracy
    assert not [name for name in values if name.endswith(("/low", "/high"))]


def test_the_interval_of_an_accuracy_ends_at_one_and_that_of_a_loss_does_not():
    assert averaged("test_accuracy", [1.0, 0.9])["test_accuracy/high"] == 1
    assert averaged("test_loss", [1.0, 0.9])["test_loss/high"] > 1


@pytest.mark.parametrize("last", [1, 2])
def test_every_chunk_of_every_seed_is_there_on_its_own_axis(last, mirrored):
    folder, *both = mirrored
    for seed in (0, 1):
        axis = f"seed_{seed}/step"
        items = [item for item in history(both[last - 1]) if axis in item]
        records = [r for r in RunFolder(folder).seed(seed).records() if r["level"] <= last and r["split"] == "train"]
        assert [(i[f"seed_{seed}/level"], i[f"seed_{seed}/level_step"]) for i in items] == [
            (r["level"], r["step"]) for r in records
        ]
        assert [i[axis] for i in items] == [20 * r["level"] + r["step"] for r in records]
        assert [i[f"seed_{seed}/train_loss"] for i in items] == [r["loss"] for r in records]
        assert all(f"seed_{seed}/val_accuracy" in item for item in items)
        assert [i[axis] for i in items if f"seed_{seed}/test_loss" in i] == [
            20 * (level + 1) for level in range(last + 1)
        ]


def test_every_metric_has_one_axis(mirrored):
    """wandb takes any of several patterns that fit a name, so that no name may fit two."""
    metrics = [record["metric"] for record in mirrored[1] if record["type"] == "metric"]
    axes = {m.get("glob_name") or m["name"]: m["step_metric"] for m in metrics if "step_metric" in m}
    logged = {name for item in history(mirrored[1]) for name in item if not name.startswith("_")}

    def axis(name: str) -> str | None:
        fits = [one for one in axes if one == name or (one.endswith("*") and name.startswith(one[:-1]))]
        assert len(fits) <= 1, f"{name} fits {fits}"
        return axes[fits[0]] if fits else None

    found = {name: axis(name) for name in logged}
    assert found["test_accuracy/mean"] == found["layer_density/fc1"] == found["density"] == "level"
    assert found["by_density/test_accuracy/mean"] == found["by_density/val_loss/seed_1"] == "density"
    assert found["seed_1/train_loss"] == "seed_1/step"
    assert {name for name in logged if found[name] is None and "." not in name} <= {"level", "summary", "levels"}


def test_every_seed_has_its_ticket_as_an_artifact(mirrored):
    folder, _, records = mirrored
    artifacts = {r["artifact"]["name"]: r["artifact"] for r in records if r["type"] == "artifact"}
    tickets = {name: artifact for name, artifact in artifacts.items() if artifact["type"] == "ticket"}
    assert sorted(tickets) == [f"ticket-{folder.name}-seed_000", f"ticket-{folder.name}-seed_001"]
    for seed, (_, ticket) in enumerate(sorted(tickets.items())):
        metadata = json.loads(ticket["metadata"])
        rows = [row.columns() for row in RunFolder(folder).rows() if row.seed == seed]
        assert metadata == {"key": folder.name, "seed": seed, "rows": rows} and len(rows) == 3
        files = {entry["path"]: entry for entry in ticket["manifest"]["contents"]}
        assert sorted(files) == [f"level_{level:02d}.safetensors" for level in range(3)]
        for name, entry in files.items():
            content = (folder / f"seed_{seed:03d}" / name).read_bytes()
            assert base64.b64decode(entry["digest"]) == hashlib.md5(content).digest()


def test_a_sweep_has_its_tables_its_picture_and_the_config_that_its_points_share(swept):
    folder, records = swept
    run = run_of(records)
    assert run["job_type"] == "sweep" and run["tags"] == ["first"] and run["run_group"] == folder.name
    config = run["config"]["update"]
    assert config["optim"]["steps"] == 20 and config["model"]["name"] == "lenet" and config["device"]
    assert "width" not in config and "name" not in config.get("method", {})
    (item,) = (item for item in history(records) if "points" in item or "points._type" in item)
    assert item["plot._type"] == "image-file"
    assert len(table(folder, "table")) == 8
    points = table(folder, "points")
    runs = [point["run"] for point in json.loads((folder / "sweep.json").read_text())["points"]]
    assert [point["run"] for point in points] == runs
    for point in points:
        rows = RunFolder(folder.parents[1] / point["link"]).rows()
        assert point["test_accuracy"] == pytest.approx(sum(row.test_accuracy for row in rows) / 2)
        assert point["n"] == 2 and 0 <= point["low"] <= point["test_accuracy"] <= point["high"] <= 1
        assert (point["density"], point["kept"], point["total"]) == (rows[0].density, rows[0].kept, rows[0].total)


def test_a_sweep_has_lines_over_what_is_numeric_and_bars_where_something_else_was_swept(swept):
    folder, records = swept
    assert charts_of(records) == {
        "test_accuracy_by_width": "wandb/lineseries/v0",
        "test_accuracy_by_point": "wandb/bar/v0",
    }
    accuracy = {(p["method"], p["width"]): p["test_accuracy"] for p in table(folder, "points")}
    lines = table(folder, "test_accuracy_by_width_table")
    assert {(line["lineKey"], line["step"]): line["lineVal"] for line in lines} == accuracy
    bars = table(folder, "test_accuracy_by_point_table")
    assert {bar["point"]: bar["test_accuracy"] for bar in bars} == {
        f"{method}, width {width}": value for (method, width), value in accuracy.items()
    }


def test_only_what_was_swept_is_drawn(finished):
    rows = [RunFolder(finished).rows()] * 2

    def drawn(one: dict[str, Any], other: dict[str, Any]) -> dict[str, dict[str, list]]:
        same = {"method": "imp", "data": "digits", "width": 1.0}
        return {chart.key: chart.lines for chart in charts([same | one, same | other], rows)}

    accuracy = pytest.approx(sum(row.test_accuracy for row in rows[0] if row.level == 1) / 2)
    assert drawn({"optim.lr": "1e-2"}, {"optim.lr": "1e-3"}) == {
        "test_accuracy_by_optim_lr": {"test accuracy": [(0.001, accuracy), (0.01, accuracy)]}
    }
    assert drawn({"method": "dense"}, {}) == {"test_accuracy_by_point": {"": [("dense", accuracy), ("imp", accuracy)]}}
    assert list(drawn({"model.norm": "true"}, {"model.norm": None})) == ["test_accuracy_by_point"]
    assert charts([{"width": 1.0}, {"width": 2.0}], [[], []]) == []


def test_the_summary_table_and_the_plot_are_in_the_mirror(mirrored):
    folder, _, records = mirrored
    (item,) = (item for item in history(records) if "summary._type" in item or "summary" in item)
    assert item["summary._type"] == "table-file" and item["summary.nrows"] == 6
    assert item["levels._type"] == "image-file"
    (place,) = folder.glob("wandb/offline-run-*/files/media")
    (table,) = place.glob("table/*.json")
    content = json.loads(table.read_text())
    rows = RunFolder(folder).rows()
    assert content["columns"][:4] == ["seed", "level", "density", "kept"]
    assert [row[:4] for row in content["data"]] == [[r.seed, r.level, r.density, r.kept] for r in rows]
    (plot,) = place.glob("images/*.png")
    assert plot.read_bytes() == (folder / "plots" / "levels.png").read_bytes()


def test_no_secret_is_in_any_file_of_a_run_or_a_sweep(mirrored, swept):
    for folder in (mirrored[0], swept[0]):
        paths = [path for path in folder.rglob("*") if path.is_file()]
        assert len(paths) > 8 and any(path.suffix == ".wandb" for path in paths)
        for path in paths:
            assert SECRET.encode() not in path.read_bytes(), path


def test_a_finished_run_is_not_mirrored_again(mirrored, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in mirrored[0].glob("wandb/**/*.wandb")}
    assert call("run", *OFFLINE, *NAMED, "method.levels=2", root=mirrored[0].parents[1]) == 0
    assert {path: path.stat().st_mtime_ns for path in mirrored[0].glob("wandb/**/*.wandb")} == before


@pytest.mark.parametrize("error", [wandb.errors.CommError("the server is away"), ValueError("the server\nis away")])
def test_a_wandb_that_fails_is_named_once_and_the_sweep_goes_on(error, ltx, root, monkeypatch):
    tried = []

    def init(**options: Any) -> None:
        tried.append(options["id"])
        (Path(options["dir"]) / "wandb").mkdir()
        raise error

    monkeypatch.setattr(wandb, "init", init)
    result = ltx("run", "-m", "width=.05,.1", *TINY[:2], "seeds=1", "wandb.mode=offline")
    assert result.code == 0 and result.err.count("wandb failed: the server is away") == 1
    assert len(tried) == 1, "a server that is away may take long to say so"
    assert [len(RunFolder(path).rows()) for path in (root / "runs").iterdir()] == [2, 2]
    assert not list(root.glob("*/*/wandb")), "the same command mirrors it once wandb answers"


class Unwilling:
    """A wandb run that says something else than its methods should."""

    dir = "there/files"
    url = None

    def __init__(self, fails: str, error: Exception):
        self.fails, self.error = fails, error

    def __getattr__(self, name: str) -> Any:
        def method(*_: object, **__: object) -> None:
            if name == self.fails:
                raise self.error

        return method


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_a_run_ends_well_when_the_process_of_wandb_is_gone(fails, ltx, root, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: Unwilling(fails, ConnectionResetError()))
    result = ltx("run", *OFFLINE, "seeds=1")
    assert result.code == 0 and "its own process is gone" in result.err
    assert len(RunFolder(only(root)).rows()) == 2


def test_there_are_no_tickets_unless_asked_for(ltx, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: Unwilling("log_artifact", AssertionError("there is a ticket")))
    assert ltx("run", *OFFLINE, "seeds=1").code == 0


def test_what_wandb_has_not_taken_in_time_is_named(ltx, root, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: Unwilling("finish", TimeoutError()))
    result = ltx("run", *OFFLINE, "seeds=1")
    assert result.code == 0 and "`wandb sync there` sends it" in result.err


@pytest.mark.parametrize(("words", "seconds"), [((), 60), (("wandb.artifacts=true",), 600)])
def test_wandb_has_its_time_unless_the_environment_gives_it_another(words, seconds, monkeypatch):
    found = []

    def init(**options: Any) -> Any:
        found.append((options["settings"].init_timeout, options["settings"].finish_timeout))
        raise wandb.errors.CommError("away")

    monkeypatch.setattr(wandb, "init", init)
    forget_notices()
    started(*words)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "300")
    forget_notices()
    started(*words)
    assert found == [(15, seconds), (wandb.Settings().init_timeout, seconds)]


def test_the_mode_is_as_asked_else_as_the_environment_says_else_online_with_a_key(monkeypatch, tmp_path):
    def mode(*words: str) -> str:
        spec = Spec.of(compose([*words], []))
        assert Mirror(spec, RunFolder(tmp_path)).mode == mode_of(spec)
        return mode_of(spec)

    monkeypatch.setenv("HOME", str(tmp_path))
    assert mode() == "disabled" and mode("wandb.mode=offline") == "offline"
    monkeypatch.delenv("WANDB_MODE")
    assert mode() == "offline", "there is no key"
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert mode() == "online" and mode("wandb.mode=disabled") == "disabled"
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {SECRET}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert mode() == "online"
