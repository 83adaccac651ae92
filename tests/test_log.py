"""The wandb mirror, read back with wandb's own reader: what is in it, how it is rebuilt, and what must not be in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from conftest import TINY, call, only

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.report.mirror import Mirror, mode_of
from ltx.store.folders import RunFolder

SECRET = "f00dfeedcafe" * 3 + "beef"
OFFLINE = (*TINY, "wandb.mode=offline")


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the records of the one wandb run below a folder."""
    wandb.teardown()  # finish() alone does not wait until all is written
    (place,) = folder.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(place)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in said.splitlines()]


def history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in records if record["type"] == "history"]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory) -> tuple[Path, list, list]:
    """Return a run mirrored offline and extended by a level, with the records before and after."""
    root = tmp_path_factory.mktemp("mirrored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", SECRET)
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp("wandb")))
        assert call("run", *OFFLINE, root=root) == 0
        before = read(only(root))
        assert call("run", *OFFLINE, "method.levels=2", root=root) == 0
        after = read(only(root))
    return only(root), before, after


def test_the_mirror_has_group_job_type_tags_and_config(mirrored):
    folder, records, _ = mirrored
    (run,) = (record["run"] for record in records if record["type"] == "run")
    assert run["run_id"] == run["display_name"] == run["run_group"] == folder.name
    assert run["job_type"] == "imp" and run["tags"] == ["lenet", "digits"] and run["project"] == "ltx"
    config = run["config"]["update"]
    assert config["method"]["fraction"] == 0.2 and config["optim"]["steps"] == 20 and config["width"] == 0.05
    assert "root" not in config and "wandb" not in config


@pytest.mark.parametrize("last", [1, 2])
def test_every_level_has_means_seeds_and_layer_densities(last, mirrored):
    folder, *both = mirrored
    found = {item["level"]: item for item in history(both[last - 1]) if "test_accuracy/mean" in item}
    rows = {(row.seed, row.level): row for row in RunFolder(folder).rows()}
    assert sorted(found) == list(range(last + 1)), "an extended run has its old levels too"
    for level, item in found.items():
        ours = [rows[seed, level] for seed in (0, 1)]
        assert item["density"] == ours[0].density and item["kept"] == ours[0].kept
        for name in (
            "train_loss",
            "val_loss",
            "val_accuracy",
            "test_loss",
            "test_accuracy",
            "early_stop_test_accuracy",
        ):
            assert [item[f"{name}/seed_{seed}"] for seed in (0, 1)] == [getattr(row, name) for row in ours]
            assert item[f"{name}/mean"] == pytest.approx(sum(getattr(row, name) for row in ours) / 2)
        for name in ("fc1", "fc2"):
            assert item[f"layer_density/{name}"] == pytest.approx(sum(row.layers[name] for row in ours) / 2)


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


def test_the_axes_are_declared(mirrored):
    metrics = [record["metric"] for record in mirrored[1] if record["type"] == "metric"]
    axes = {metric.get("glob_name"): metric.get("step_metric") for metric in metrics if "glob_name" in metric}
    assert axes == {"*": "level", "seed_0/*": "seed_0/step", "seed_1/*": "seed_1/step"}
    assert {"level", "seed_0/step", "seed_1/step"} <= {metric.get("name") for metric in metrics}


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


def test_no_secret_is_in_any_file_of_the_run(mirrored):
    paths = [path for path in mirrored[0].rglob("*") if path.is_file()]
    assert len(paths) > 10 and any(path.suffix == ".wandb" for path in paths)
    for path in paths:
        assert SECRET.encode() not in path.read_bytes(), path


def test_a_finished_run_is_not_mirrored_again(mirrored, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in mirrored[0].glob("wandb/**/*.wandb")}
    assert call("run", *OFFLINE, "method.levels=2", root=mirrored[0].parents[1]) == 0
    assert {path: path.stat().st_mtime_ns for path in mirrored[0].glob("wandb/**/*.wandb")} == before


def test_a_wandb_that_fails_is_named_and_the_run_goes_on(ltx, root, monkeypatch):
    def init(**_: object) -> None:
        raise wandb.errors.CommError("the server is away")

    monkeypatch.setattr(wandb, "init", init)
    result = ltx("run", *OFFLINE)
    assert result.code == 0 and "wandb failed: the server is away" in result.err
    assert len(RunFolder(only(root)).rows()) == 4


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
