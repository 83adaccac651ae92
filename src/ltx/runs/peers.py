"""The processes that train a seed's levels together with its worker, where a run uses several devices.

The worker is rank 0: it alone claims, reads, measures and writes. A peer is told where a level begins and takes the
level's steps; it knows no folder.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, cast

import torch
from torch import distributed

from ltx.config.spec import Spec
from ltx.launch.local import CONTEXT, Job, Report, start, warm_up
from ltx.runs.checks import pick_device
from ltx.training.fit import train
from ltx.training.ranks import ALONE, JOINING, join
from ltx.training.setup import Hooks, Resume, Setup, Trained
from ltx.training.watch import Diverged

HERE = "127.0.0.1"
OVER = b""  # tells a peer that nothing more comes


class Peers:
    """The other ranks of a worker, each a process, started when there is something to train.

    As a context manager it ends them. Where one is lost, `train` raises why.
    """

    def __init__(self, config: dict[str, Any]):
        self.config, self.count = config, config["trainer"]["devices"]
        self.ranks = ALONE
        self.processes: list[Any] = []
        self.reports: list[Connection] = []  # what peers say
        self.orders: list[Connection] = []  # what they are told
        self.loss: Exception | None = None
        self.closing = False

    def __enter__(self) -> Peers:
        warm_up()  # a worker cannot ask the server that it was forked from for processes, and starts one of its own
        return self

    def start(self) -> None:
        """Start the peers and wait until they are ready to meet. Raises why one is lost before."""
        self.store = distributed.TCPStore(HERE, 0, is_master=True, wait_for_workers=False, timeout=JOINING)
        for rank in range(1, self.count):
            theirs, ours = CONTEXT.Pipe(duplex=False)
            job = Job(f"rank {rank}", "ltx.runs.peers:follow", (self.config, rank, self.store.port, theirs))
            report, process = start(job)
            theirs.close()
            self.processes.append(process)
            self.reports.append(report)
            self.orders.append(ours)
        for rank, report in enumerate(self.reports, 1):
            if (lost := self.heard(rank, report)) is not None:
                raise lost
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()

    def heard(self, rank: int, report: Connection) -> Exception | None:
        """Wait for what a peer says; return why it is lost, or None where it is ready."""
        try:
            kind, value = report.recv()
        except (EOFError, ConnectionResetError):
            process = self.processes[rank - 1]
            process.join()
            return OSError(f"the process of rank {rank} was killed (exit {process.exitcode})")
        if kind == "ready":
            return None
        reason, trace, system = value
        lost = OSError(f"rank {rank}: {reason}") if system else RuntimeError(f"rank {rank}: {reason}")
        lost.add_note(trace)
        return lost

    def watch(self) -> None:
        """Wait until a peer is lost, remember the first one's reason, and free this process if it waits for that."""
        first = cast(Connection, wait(self.reports)[0])
        if self.closing:
            return
        self.loss = self.heard(1 + self.reports.index(first), first)
        with contextlib.suppress(Exception):  # the group may be over by now; Gloo notices by itself
            distributed.group.WORLD.abort()  # type: ignore[union-attr]

    def train(self, setup: Setup, device: str, options: dict[str, Any], resume: Resume | None) -> Trained:
        """Train a level on all ranks; see `fit.train`. Raises why a peer is lost, which the same command continues."""
        begin = pickle.dumps((setup.state, setup.plan, setup.streams, setup.compressed, resume))
        if not self.processes:
            self.start()
        try:
            if self.ranks is ALONE:
                self.ranks = join(self.store, 0, self.count, device_of(self.config, 0))
            for order in self.orders:
                order.send_bytes(begin)
            return train(setup, device, options, resume, self.ranks)
        except Exception as error:
            self.watcher.join(1)  # a lost peer is seen here and by its silence, in either order
            if self.loss is not None:
                raise self.loss from error
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing = True
        for order, process in zip(self.orders, self.processes, strict=True):
            with contextlib.suppress(OSError):
                order.send_bytes(OVER)
            if kind is not None:
                process.kill()  # it waits for the other ranks in a library, which hears no other signal
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for report, process in zip(self.reports, self.processes, strict=True):
            report.close()
            process.join(5)
            process.kill()


def device_of(config: dict[str, Any], rank: int) -> str:
    """Return the device of a rank: the CPU, or the GPUs from that of the worker on."""
    kind, _, number = pick_device(config["device"]).partition(":")
    return kind if kind == "cpu" else f"cuda:{int(number or 0) + rank}"


def follow(config: dict[str, Any], rank: int, port: int, orders: Connection, report: Report) -> None:
    """Train together with rank 0 whatever levels it begins, until it says that nothing more comes."""
    torch.set_num_threads(config["threads"])
    options, device = config["trainer"], device_of(config, rank)
    spec = Spec.of(config)
    network, data = spec.network(), spec.data
    hooks = Hooks(lambda rows: None, lambda step, loss: None, lambda tensors, meta: None, float("inf"))
    report("ready", None)
    store = distributed.TCPStore(HERE, port, is_master=False, timeout=JOINING)
    ranks = join(store, rank, options["devices"], device)
    while (begin := orders.recv_bytes()) != OVER:
        # not from a file: the pipe is between this process and the worker that started it, and nobody else has it
        state, plan, streams, compressed, resume = pickle.loads(begin)
        how = (spec.form, compressed, not spec.users_own)
        setup = Setup(network, spec.method, state, plan, spec.optim, data, streams, hooks, *how)
        with contextlib.suppress(Diverged):  # so does rank 0, which says so
            train(setup, device, options, resume, ranks)
    distributed.destroy_process_group()
