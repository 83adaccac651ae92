"""Print the digests of small runs over all methods, to see whether a change of the code changed any result.

    python scripts/digests.py > before.json    # then change the code
    python scripts/digests.py before.json      # names the runs whose files are not the same bytes; exit code 1 if any

Files are compared on one machine with one torch: level files, summary, and records without their seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ltx.cli import main

SMALL = ("width=.05", "seeds=2", "optim.steps=100", "wandb.mode=disabled", "workers=0")
SEARCH = "width=.1"
RUNS = {
    "dense": ["method=dense", "optim.label_smoothing=.1", "optim.clip=1"],
    "imp": ["method.levels=2"],
    "imp, layers, rewound, shifted": [
        "model=convnet",
        "data.shift=1",
        "method.levels=2",
        "method.scope=layer",
        "method.fraction={conv*:.3,out:.1}",
        "method.exclude=[]",
        "method.rewind=7",
        "method.criterion=increase",
    ],
    "imp, learning-rate rewinding": ["model=mlp", "method.levels=2", "method.retrain=lr_rewind", "optim=sgd"],
    "imp, fine-tuned in one shot": [
        "method.levels=2",
        "method.retrain=finetune",
        "method.one_shot=true",
        "optim=adamw",
    ],
    "imp on a pretrained network": ["method.levels=1", "trunk={method:dense,data.random_labels:true}"],
    "edge_popup, annealed and redrawn": [
        "method=edge_popup",
        "method.density=.2",
        "method.anneal=true",
        "method.redraw=.1",
        "method.redraw_every=30",
        "model=convnet",
        "model.norm=batch",
        SEARCH,
    ],
    "biprop, binary activations": ["method=biprop", "model=convnet", "model.activation=sign", SEARCH],
    "supermask": ["method=supermask", "model=convnet", SEARCH],
    "gem_miner": ["method=gem_miner", SEARCH],
    "ticket_sample": ["method=ticket_sample", "method.levels=1"],
    "ticket_split": ["method=ticket_split", "method.levels=2", "method.masks=16"],
    "at_init, random": ["method=at_init", "method.criterion=random"],
    "at_init, erk": ["method=at_init", "method.criterion=erk"],
    "at_init, snip": ["method=at_init", "method.criterion=snip", "model=convnet"],
    "at_init, grasp": ["method=at_init", "method.criterion=grasp"],
    "at_init, synflow": ["method=at_init", "method.criterion=synflow", "method.rounds=10"],
    "control, shuffled": [
        "method=control",
        "method.kind=shuffle",
        "trunk={method:imp,method.levels:2,method.rewind:9}",
    ],
    "control, reinitialised signs over a search": [
        "method=control",
        "method.kind=reinit_signs",
        "trunk={method:edge_popup}",
        SEARCH,
    ],
    "control, inverted search": ["method=control", "method.kind=invert", "trunk={method:edge_popup}", SEARCH],
    "control, data order": ["method=control", "method.kind=data_order", "trunk={method:imp,method.levels:1}"],
    "control, untrained and binarised": [
        "method=control",
        "method.kind=untrained",
        "method.binarise=true",
        "method.trunk_level=1",
        "trunk={method:imp,method.levels:1,model:convnet}",
    ],
    "control, random": ["method=control", "method.kind=random", "trunk={method:imp,method.levels:2}"],
}
EXTENDED = ["method.levels=2", "optim.lr=2e-3"]  # one level and one seed first, then the rest
RESUMED = ["method.levels=1", "optim.steps=2000", "trainer.checkpoint_seconds=.05"]  # killed -9 within a level


def run(root: Path, words: list[str]) -> None:
    """Run a command in this process, silently."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(["run", f"root={root}", *SMALL, *words])
    assert code == 0, f"{words}: {said.getvalue()}"


def killed(root: Path, words: list[str]) -> None:
    """Begin a run in another process and kill it once a level has been checkpointed."""
    line = [sys.executable, "-c", "import sys; from ltx.cli import main; main(sys.argv[1:])", "run", f"root={root}"]
    process = subprocess.Popen([*line, *SMALL, *words], stdout=-1, stderr=-1, start_new_session=True)
    while not list(root.glob("runs/*/seed_*/partial.safetensors")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def digests(root: Path) -> dict[str, str]:
    """Return a digest of everything that must be the same of the runs under a root, by run key."""
    found = {}
    for folder in sorted((root / "runs").iterdir()):
        sha = hashlib.sha256((folder / "summary.csv").read_bytes())
        for path in sorted(folder.rglob("*.safetensors")):
            sha.update(f"{path.relative_to(folder)}".encode() + path.read_bytes())
        for path in sorted(folder.rglob("records.jsonl")):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            last = {(row["level"], row["step"], row["split"]): {**row, "seconds": None} for row in rows}
            sha.update(json.dumps([last[at] for at in sorted(last)], sort_keys=True).encode())
        found[folder.name] = sha.hexdigest()[:16]
    return found


def measure() -> dict[str, dict[str, str]]:
    """Run everything and return the digests by name."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for number, (name, words) in enumerate(RUNS.items()):
            run(Path(place) / str(number), words)
            found[name] = digests(Path(place) / str(number))
        run(Path(place) / "extended", [*EXTENDED, "method.levels=1", "seeds=1"])
        run(Path(place) / "extended", EXTENDED)
        killed(Path(place) / "resumed", RESUMED)
        run(Path(place) / "resumed", RESUMED)
        for name in ("extended", "resumed"):
            found[name] = digests(Path(place) / name)
    return found


if __name__ == "__main__":
    now = measure()
    if len(sys.argv) == 1:
        print(json.dumps(now, indent=1))
        sys.exit()
    before = json.loads(Path(sys.argv[1]).read_text())
    changed = [name for name in before if before[name] != now.get(name)]
    for name in changed:
        print(f"{name}: {before[name]} before, {now.get(name)} now")
    print(f"{len(before) - len(changed)} of {len(before)} are the same bytes")
    sys.exit(bool(changed))
