"""The page of a sweep of 200 points: seconds to read and write it, and its size."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import Line, timed

POINTS, SEEDS, LEVELS, STEPS = 200, 3, 10, 50
LAYERS = ("fc1", "fc2")


def lines() -> Iterator[Line]:
    """Yield the seconds and the megabytes of a page whose runs are there; the processor's seconds stand beside."""
    from ltx.report import page, page_data
    from ltx.store.sweeps import SweepFolder

    with tempfile.TemporaryDirectory() as folder:
        place = fill(Path(folder))
        began = processor()
        seconds = timed(lambda: page.write(page_data.of_sweep(SweepFolder(place)), place / page.NAME))
        detail = f"{processor() - began:.1f} s of the processor; {SEEDS} seeds, {LEVELS} levels, {STEPS} looks each"
        yield Line(f"page of {POINTS} points", seconds, 10.0, "s", False, detail)
        yield Line("its size", (place / page.NAME).stat().st_size / 1e6, 5.0, "MB", False, "")


def processor() -> float:
    """Return the seconds that this process has used of the processor."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def fill(root: Path) -> Path:
    """Write a sweep of finished runs, five methods at forty widths, and return its folder."""
    from ltx.store.sweeps import Record, SweepFolder, SweepPoint

    points = []
    for i in range(POINTS):
        label = {"method": ("imp", "at_init", "edge_popup", "biprop", "supermask")[i % 5], "width": 0.1 * (1 + i // 5)}
        run = f"{label['method']}-lenet-digits-w{label['width']:g}-{i:08x}"
        write_run(root / "runs" / run, i)
        points.append(SweepPoint(run, label, [*range(SEEDS)], LEVELS - 1))
    sweep = SweepFolder(root / "sweeps" / "many-01234567")
    sweep.begin(Record("many", points, ["ltx", "run", "-m"], time.strftime("%Y-%m-%dT%H:%M:%SZ")))
    return sweep.path


def write_run(path: Path, i: int) -> None:
    """Write a finished run: level files with metadata and a tensor, records, a manifest."""
    import json

    from ltx.store.files import pack, yaml_text
    from ltx.store.seeds import SeedFolder

    for number in range(SEEDS):
        seed = SeedFolder(path / f"seed_{number:03d}")
        seed.path.mkdir(parents=True)
        rows = []
        for level in range(LEVELS):
            meta = meta_of(path.name, number, level, i)
            seed.level_path(level).write_bytes(pack({}, meta))
            rows += [{"seed": number, "level": level, **row, "seconds": row["step"] / 100} for row in meta["records"]]
            rows.append({**rows[-1], "split": "test"})
        seed.records_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "config.yaml").write_text(yaml_text({"method": {"name": path.name.split("-")[0]}, "width": 1.0}))
    asked = [{"seeds": [*range(SEEDS)], "last_level": LEVELS - 1}]
    (path / "manifest.json").write_text(json.dumps({"key": path.name, "asked": asked, "versions": {"ltx": "0"}}))


def meta_of(key: str, seed: int, level: int, i: int) -> dict[str, Any]:
    """Return the metadata of a level: its row, the densities of its layers, and a learning curve."""
    density, accuracy = 0.8**level, 0.9 + 0.0004 * i - 0.002 * level + 0.001 * seed
    steps = [8 * (1 + step) for step in range(STEPS)]
    records = [
        {"step": step, "split": split, "loss": 2 / (1 + step / (20 + i)), "accuracy": accuracy * step / (step + 10)}
        for step in steps
        for split in ("train", "val")
    ]
    row = {"seed": seed, "level": level, "density": density, "kept": round(1000 * density), "prunable": 1000}
    row |= {"total": 1100, "step": steps[-1], "early_stop_step": steps[-5], "early_stop_test_accuracy": accuracy}
    row |= {f"{part}_loss": 0.1 for part in ("train", "val", "test")}
    row |= {f"{part}_accuracy": accuracy for part in ("val", "test")}
    layers = {layer: density ** (0.8 + 0.4 * n) for n, layer in enumerate(LAYERS)}
    return {"format": 2, "key": key, "seed": seed, "level": level, "row": row, "layers": layers, "records": records}
