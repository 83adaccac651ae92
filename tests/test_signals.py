"""A command ends in order on any signal, leaves no process, and output that nobody reads ends nothing."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver, process
from pathlib import Path

import pytest
from conftest import LONG, TINY, call, only, results, soon, under_way

import ltx.runs.levels as ltx_levels
from ltx.cli import Output
from ltx.cli.commands import COMMANDS
from ltx.launch import local as launch
from ltx.launch.signals import interruptible
from ltx.store.claims import Claim, here, started
from ltx.store.files import commit

ENTRY = (sys.executable, "-c", "from ltx.cli import entry; entry()")


def never() -> None:
    raise AssertionError("it was ended at once")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_inside_an_import_waits_until_the_library_is_whole(number, tmp_path, monkeypatch):
    name = f"half_imported_{number.name}"
    text = f"import os\nos.kill(os.getpid(), {int(number)})\nfor i in range(2000):\n    whole = i\nwhole = 'yes'\n"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), interruptible(never):
        __import__(name)
        time.sleep(5)
    assert sys.modules[name].whole == "yes"


def test_a_signal_that_was_ignored_before_stays_ignored_and_handlers_are_put_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interruptible(never):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            during = signal.getsignal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is not during
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_ends_the_workers_and_the_process_at_once(monkeypatch):
    ended: list[object] = []

    def exit_now(code: int) -> None:
        ended.append(code)
        raise SystemExit

    monkeypatch.setattr(os, "_exit", exit_now)
    with pytest.raises(KeyboardInterrupt), interruptible(lambda: ended.append("workers")):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert ended == ["workers", 130]


def test_an_interrupt_that_a_library_turned_into_another_error_is_an_interrupt_all_the_same(ltx, monkeypatch):
    def interrupted_in_a_cleanup(_: list[str]) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            raise AttributeError("half built")

    monkeypatch.setitem(COMMANDS, "status", interrupted_in_a_cleanup)
    result = ltx("status")
    assert result.code == 130 and result.err == "ltx: interrupted; the same command continues.\n"


def test_a_seed_whose_training_ends_with_another_error_after_a_signal_has_not_failed(ltx, root, monkeypatch):
    def fit(*_: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        raise ValueError("half built")

    monkeypatch.setattr(ltx_levels, "train", fit)
    assert ltx("run", *TINY).code == 130
    assert only(root) and not list(root.glob("runs/*/seed_*/failed.json"))


def test_a_signal_inside_hydra_waits_until_the_config_is_composed():
    hydra = {"__name__": "hydra.core.of_a_test", "os": os, "signal": signal, "done": []}
    exec("def compose():\n  os.kill(os.getpid(), signal.SIGTERM)\n  done.extend(range(1000))\n", hydra)
    with pytest.raises(KeyboardInterrupt), interruptible(never):
        hydra["compose"]()
        time.sleep(5)
    assert len(hydra["done"]) == 1000


SLOW = "import atexit, time\natexit.register(lambda: (print('leaving', flush=True), time.sleep({leaving})))\n"
SLOW += "print('importing', flush=True)\ntime.sleep({importing})\n"


@pytest.mark.parametrize("importing, leaving", [(30, 0), (0.3, 30)])
def test_signals_end_the_console_script_soon_with_130_until_the_process_is_gone(importing, leaving, root):
    Path("slow.py").write_text(SLOW.format(importing=importing, leaving=leaving))
    words = ["run", "model=own", "model.name=slow:Net", "workers=0", f"root={root}"]
    command = subprocess.Popen([*ENTRY, *words], stdout=-1, stderr=-1, text=True)
    assert command.stdout.readline() == "importing\n"
    began = time.monotonic()
    command.send_signal(signal.SIGTERM)
    if leaving:
        assert command.stdout.readline() == "leaving\n"
        command.send_signal(signal.SIGTERM)
    _, said = command.communicate(timeout=20)
    assert command.returncode == 130 and "the same command continues" in said and "Traceback" not in said, said
    assert time.monotonic() - began < 10 and not root.exists()


def test_a_closed_standard_output_is_as_good_as_dev_null(root):
    words = ("status", f"root={root}")
    done = subprocess.run(["bash", "-c", 'exec "$@" >&-', "bash", *ENTRY, *words], stderr=-1, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""


def session(leader: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += [int(pid)] if int(fields[3]) == leader and fields[0] != "Z" else []
    return found


def test_a_run_whose_terminal_is_closed_ends_its_workers_and_leaves_no_claim(root, ltx, undisturbed):
    words = ["run", *LONG, "workers=2", f"root={root}"]
    command = subprocess.Popen([*ENTRY, *words], stdout=-1, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    soon(lambda: under_way(root))
    command.send_signal(signal.SIGHUP)
    said, _ = command.communicate(timeout=30)
    assert command.returncode == 130 and "Traceback" not in said and "Received SIG" not in said, said
    soon(lambda: not session(command.pid), 10)
    assert not list(only(root).rglob("claim"))
    assert ltx("run", *LONG).code == 0
    assert results(only(root)) == results(undisturbed)


def test_a_refused_command_leaves_no_process(root):
    command = subprocess.Popen([*ENTRY, "run", "method=nope"], stdout=-1, stderr=-1, text=True, start_new_session=True)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 2 and "nope is unknown" in said
    soon(lambda: not session(command.pid), 2)


def test_output_that_nobody_reads_ends_nothing_and_a_full_disk_is_said():
    reader, writer = os.pipe()
    os.close(reader)
    out = Output(open(writer, "wb", 0), "utf-8", write_through=True)  # noqa: SIM115
    for _ in range(3):
        out.write("a line\n")
        out.flush()
    assert out.fault is None
    full = Output(open("/dev/full", "wb"), "utf-8")  # noqa: SIM115
    full.write("x" * 100_000)
    full.flush()
    assert full.fault is not None and full.fault.errno == errno.ENOSPC
    help_to = [*ENTRY, "--help"]
    with open("/dev/full", "w") as nowhere:
        done = subprocess.run(help_to, stdout=nowhere, stderr=-1, text=True, timeout=60)
    assert done.returncode == 3 and done.stderr.count("\n") == 1 and "No space left" in done.stderr


def test_a_fork_server_that_is_killed_is_started_again_and_the_run_goes_on(ltx, root, undisturbed):
    killed = []

    def kill() -> None:
        soon(lambda: list(root.glob("runs/*/seed_000/partial.safetensors")))
        killed.append(forkserver._forkserver._forkserver_pid)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    result = ltx("run", *LONG, "workers=1")
    thread.join()
    assert killed and result.code == 0, result.out + result.err
    assert results(only(root)) == results(undisturbed)


def test_the_folders_of_dead_fork_servers_are_removed_and_no_others(tmp_path, monkeypatch):
    gone = subprocess.Popen(["true"])
    gone.wait()
    names = {f"{launch.FOLDER}{gone.pid}-a": False, f"{launch.FOLDER}{os.getpid()}-b": True, "pymp-c": True}
    for name in names:
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setitem(process.current_process()._config, "tempdir", None)
    del process.current_process()._config["tempdir"]
    launch.own_folder()
    assert {name: (tmp_path / name).exists() for name in names} == names
    assert Path(process.current_process()._config["tempdir"]).name.startswith(f"{launch.FOLDER}{os.getpid()}-")


def beat(**changed: object) -> bytes:
    holder = {**here(), "pid": os.getpid(), "started": started(os.getpid()), "token": "x", "counter": 0}
    return json.dumps({**holder, **changed}).encode()


@pytest.mark.parametrize("whose", ["a dead process", "a number used again"])
def test_the_claim_of_a_dead_process_of_this_machine_is_taken_at_once(whose, tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    content = {"a dead process": beat(pid=gone.pid, started="1"), "a number used again": beat(started="1")}[whose]
    commit(tmp_path / "claim", content)
    claim = Claim(tmp_path / "claim", patience=60)
    assert claim.attempt()
    claim.release()


@pytest.mark.parametrize("changed", [{}, {"host": "another", "pid": 2**22 - 1}, {"namespace": "pid:[1]", "pid": 3}])
def test_the_claim_of_a_process_that_may_live_is_waited_for(changed, tmp_path):
    commit(tmp_path / "claim", beat(**changed))
    claim = Claim(tmp_path / "claim", patience=60)
    assert not any(claim.attempt() for _ in range(5))


def test_a_claim_from_elsewhere_that_stands_still_is_taken_over_and_that_is_said(tmp_path, capfd):
    commit(tmp_path / "claim", beat(host="else\x1b[2Jwhere"))
    claim = Claim(tmp_path / "claim", patience=0.2)
    soon(claim.attempt, 10)
    claim.release()
    said = capfd.readouterr().err
    assert "has not moved for 0.2 s" in said and "\x1b" not in said and said.count("\n") == 1


TAKEN_OVER = ["run", *LONG, "method.levels=0", "optim.steps=4000", "seeds=1"]


@pytest.fixture(scope="session")
def left_alone(tmp_path_factory):
    """Return the directory of TAKEN_OVER, trained by one process alone."""
    root = tmp_path_factory.mktemp("left_alone")
    assert call(*TAKEN_OVER, "wandb.mode=disabled", "trainer.checkpoint_seconds=60", root=root) == 0
    return only(root)


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_worker_whose_claim_was_taken_over_stops_and_goes_on_when_the_other_is_gone(workers, ltx, root, left_alone):
    stopped: list[bool] = []

    def take_over() -> None:
        soon(lambda: list(root.glob("runs/*/seed_000/partial.safetensors")))
        claim, records = (only(root) / "seed_000" / name for name in ("claim", "records.jsonl"))
        commit(claim, beat(token="another"))
        time.sleep(1)  # a beat and some steps
        before = records.read_bytes()
        time.sleep(0.4)
        stopped.append(records.read_bytes() == before and claim.read_bytes() == beat(token="another"))
        claim.unlink()

    thread = threading.Thread(target=take_over)
    thread.start()
    result = ltx(*TAKEN_OVER, f"workers={workers}")
    thread.join()
    assert stopped == [True], "it trained on, or took the other's claim away"
    assert result.code == 0, result.out + result.err
    assert results(only(root)) == results(left_alone)


@pytest.mark.parametrize("name", ["ünï", "a b,c", "k=v", "it's", "[x]", "a{b}", "$x", "a\\b"])
def test_an_output_root_of_any_name_just_works(name, tmp_path, ltx):
    place = tmp_path / name
    assert ltx("run", *TINY, "method.levels=0", "seeds=1", f"root={place}").code == 0
    assert only(place).is_dir()


@pytest.mark.parametrize("root", ["", "/proc/x", "/dev/null/x"])
def test_an_output_root_that_cannot_be_is_refused(root, ltx):
    result = ltx("run", *TINY, f"root={root}")
    assert result.code == 2 and "root=" in result.err and len(result.err.splitlines()) == 1
    assert isinstance(sys.stdout, io.TextIOBase)
