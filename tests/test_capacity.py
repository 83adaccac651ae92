"""How many workers there is room for, by planted memories; and which jobs begin first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Result, levels

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.runs import capacity as capacity_module
from ltx.runs import sweep
from ltx.runs.capacity import Capacity, Memory, available, memory_of_this_process
from ltx.runs.seconds import longest_first

GB = 1e9
Ltx = Callable[..., Result]


def config(**changed: Any) -> dict[str, Any]:
    devices = changed.pop("devices", 1)
    return {"workers": None, "device": "cpu", "threads": 1, "trainer": {"devices": devices}, **changed}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, float | None], None]:
    """Plant a machine with some cores, some GPUs and some free memory."""

    def plant(cores: int, gpus: int, free: float | None) -> None:
        monkeypatch.setattr(capacity_module, "cores", lambda: cores)
        monkeypatch.setattr(capacity_module.torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(capacity_module, "available", lambda: free)

    return plant


def test_on_cpus_there_is_a_worker_a_core_while_memory_is_free(machine):
    machine(8, 0, 100 * GB)
    assert Capacity(config()).most(0) == 8 and Capacity(config(threads=3)).most(0) == 2
    assert Capacity(config(workers=3)).most(0) == 3 and Capacity(config(workers=0)).most(0) == 0
    room = Capacity(config())
    room.hear("a", "cpu", "started", None)
    room.hear("a", "cpu", "memory", Memory(10 * GB, 50 * GB))
    for free, most in ((100, 8), (45, 5), (30, 3), (11.2, 2), (5, 1), (0, 1)):
        machine(8, 0, free * GB)
        assert room.most(1) == most, free
    machine(8, 0, 45 * GB)
    room.hear("b", "cpu", "started", None)  # it has not taken its memory yet
    assert room.most(2) == 2 + 3
    room.hear("b", "cpu", "ended", None)
    assert room.most(1) == 1 + 4
    machine(8, 0, None)
    assert room.most(1) == 8


def test_a_gpu_gets_one_worker_and_then_as_many_as_were_measured_to_fit(machine):
    machine(16, 1, None)
    room = Capacity(config(device="auto"))
    assert room.most(0) == 1 and room.next_device() == "auto"
    room.hear("a", "auto", "started", None)
    assert room.most(1) == 1
    room.hear("a", "auto", "memory", Memory(8 * GB, 72 * GB))
    assert room.most(1) == 1 + 8
    for job in "bcd":
        room.hear(job, "auto", "started", None)
    assert room.most(4) == 4 + 5
    room.hear("b", "auto", "memory", Memory(16 * GB, 40 * GB))  # a larger one: what is free is asked by its size
    assert room.most(4) == 4
    assert Capacity(config(device="cuda:3")).most(0) == 1


def test_several_gpus_are_filled_in_turn(machine):
    machine(16, 2, None)
    room = Capacity(config(device="auto"))
    assert room.most(0) == 2 and room.next_device() == "cuda:0"
    room.hear("a", "cuda:0", "started", None)
    assert room.next_device() == "cuda:1" and room.most(1) == 2
    room.hear("b", "cuda:1", "started", None)
    assert room.most(2) == 2
    room.hear("b", "cuda:1", "memory", Memory(10 * GB, 30 * GB))
    assert room.next_device() == "cuda:1" and room.most(2) == 2 + 2
    machine(3, 2, None)
    small = Capacity(config(device="auto"))
    small.hear("a", "cuda:0", "memory", Memory(GB, 70 * GB))
    assert small.most(2) == 3, "a GPU's workers need cores too"


def test_a_worker_with_several_devices_takes_as_many_cores_or_gpus(machine):
    machine(8, 0, 100 * GB)
    assert Capacity(config(devices=2)).most(0) == 4 and Capacity(config(devices=3, threads=2)).most(0) == 1
    room = Capacity(config(devices=2))
    room.hear("a", "cpu", "memory", Memory(10 * GB, 50 * GB))
    machine(8, 0, 45 * GB)
    assert room.most(1) == 1 + 2, "each of its processes takes as much"
    machine(16, 5, None)
    room = Capacity(config(device="auto", devices=2))
    assert [place.device for place in room.places] == ["cuda:0", "cuda:2"] and room.most(0) == 2
    room.hear("a", "cuda:0", "started", None)
    room.hear("a", "cuda:0", "memory", Memory(GB, 70 * GB))
    assert room.next_device() == "cuda:2" and room.most(1) == 2
    machine(16, 2, None)
    assert Capacity(config(device="cuda", devices=2)).next_device() == "cuda"


def test_memory_is_that_of_the_system_or_of_the_tightest_limit(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(capacity_module, "PROC", tmp_path / "proc")
    monkeypatch.setattr(capacity_module, "CGROUP", tmp_path / "cgroup")
    assert available() is None and memory_of_this_process("cpu") is None
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert available() == 8000 * 1024
    job = tmp_path / "cgroup" / "slurm" / "job_7"
    job.mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/slurm/job_7\n")
    (job / "memory.max").write_text("max\n")
    (job / "memory.current").write_text("500000\n")
    assert available() == 8000 * 1024
    (job.parent / "memory.max").write_text("2000000\n")
    (job.parent / "memory.current").write_text("700000\n")
    (job.parent / "memory.stat").write_text("anon 1\ninactive_file 200000\n")
    assert available() == 2000000 - 700000 + 200000


def test_a_worker_says_what_it_takes():
    memory = memory_of_this_process("cpu")
    assert memory is not None and 1e7 < memory.taken < 1e11 and memory.free > 1e6


def test_the_longest_jobs_begin_first_and_trunks_before_what_stands_on_them():
    seconds = {"short": 1.0, "trunk": 2.0, "long": 5.0, "top": 9.0, "done": 0.0}
    trunks = {"short": None, "trunk": None, "long": None, "done": None, "top": "trunk"}
    assert longest_first(seconds, trunks) == ["trunk", "top", "long", "short", "done"]
    assert longest_first({"a": 1.0, "b": 1.0}, {"a": None, "b": None}) == ["a", "b"]
    assert longest_first({"a": 0.0, "b": 3.0}, {"a": None, "b": "a"}) == ["a", "b"]
    chain = {"a": 1.0, "b": 1.0, "c": 1.0, "lone": 2.5}
    assert longest_first(chain, {"a": None, "lone": None, "b": "a", "c": "b"}) == ["a", "lone", "b", "c"]


def test_a_sweep_begins_with_its_widest_networks(ltx: Ltx, root: Path, monkeypatch):
    begun: list[float] = []
    original = sweep.Schedule.next_job

    def next_job(schedule: Any) -> Any:
        job = original(schedule)
        if job is not None:
            begun.append(job.arguments[0]["width"])
        return job

    monkeypatch.setattr(sweep.Schedule, "next_job", next_job)
    words = ("-m", "width=.05,.2,.1", "method=dense", "optim.steps=2", "seeds=2", "wandb.mode=disabled")
    assert ltx("run", *words).code == 0
    assert begun == [0.2, 0.2, 0.1, 0.1, 0.05, 0.05] and len(levels(root / "runs")) == 6


def test_code_of_ones_own_is_not_called_to_order_a_sweep(root: Path):
    words = ["model=own", "model.name=noisy_order:net", "width=1", f"root={root}", "optim.steps=2", "method=dense"]
    Path("noisy_order.py").write_text(
        "from torch import nn\n\nclass net(nn.Sequential):\n    calls = []\n\n    def __init__(self, input_shape):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n\n"
        "    def forward(self, x):\n        self.calls.append(x.shape)\n        return super().forward(x)\n"
    )
    specs = [Spec.of(compose([*words, f"optim.lr={rate}"], [])) for rate in (0.1, 0.2)]
    import noisy_order

    before = len(noisy_order.net.calls)
    points = sweep.expand(specs, [], None)
    plans = dict.fromkeys(points, (1, 2))
    assert [*sweep.in_order(points, plans)] == [*points]
    assert len(noisy_order.net.calls) == before
