"""The command line: the first word is the command, the rest `key=value`."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys

from ltx.cli.commands import COMMANDS
from ltx.errors import BadInput, Failed, forget_notices, nearest, printable
from ltx.launch.signals import interruptible

HELP = """\
ltx runs experiments on the Lottery Ticket Hypothesis.

  ltx run method=imp width=4   train, prune and rewind one sweep point; the same
                               command resumes or extends it
  ltx run ... --dry-run        what is done, minutes and disk; writes nothing
  ltx run ... --cfg job --resolve          its config as yaml
  ltx run -m width=1,2 method=imp,dense    a sweep on one pool of workers
  ltx run experiment=NAME      a named sweep, conf/experiment/NAME.yaml
  ltx run -m ... hydra/launcher=slurm      the same by workers of a cluster
  ltx work SWEEP               join a sweep from any machine that sees its root
  ltx cancel SWEEP             end it on all machines; its command continues it
  ltx where KEY=VALUE...       the run directory of these words, nothing else
  ltx figure NAME              draw a paper's figure and check its claims; runs
                               what is missing
  ltx list [methods|models|data|optim|experiments|figures]   what can be named
  ltx status [RUN...]          every run and sweep, and by what the runs differ
  ltx status --watch           what is under way, renewed once a second
  ltx show RUN|SWEEP           a run's config, table and plots; a sweep's table
  ltx show A --time            how long a ticket takes, and its bytes
  ltx diff RUN RUN             in what two runs differ: config and accuracy
  ltx compare A B              whether two tickets are the same, up to symmetry;
                               each is RUN, RUN:seed or RUN:seed:level
  ltx export A DIR             a ticket as safetensors, with a loader in plain
                               torch and a model card
  ltx tail                     whether tickets are short- or long-tailed as
                               networks widen, with the evidence
  ltx report [SWEEP|RUN...]    one HTML page of a sweep, of runs, of everything,
                               or of a figure: figure NAME
  ltx tag RUN WORD...          give words to a run; ltx status tag=WORD finds it
  ltx clean RUN...             remove runs, or --failed or --partial: what seeds
                               keep of failures, and of levels under way
  ltx doctor                   whether runs are possible here, or what is amiss
  eval "$(ltx complete)"       tab completion for bash; put it in ~/.bashrc
  ltx COMMAND --help           the same of one command, with all keys of run
  ltx --version

A RUN is a key, a directory, or as much of a key or of its hash as only one run
has. A SWEEP is a name or a directory.
Any value can be set: ltx run model=convnet optim=sgd optim.lr=0.05 seeds=5.
Every command takes root=DIR (default outputs, or LTX_OUTPUT).
"""


class Output(io.TextIOWrapper):
    """Standard output that nobody need read: a closed pipe is as good as a reader, and any other fault is kept."""

    fault: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self.leave(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.leave(error)

    def leave(self, error: OSError) -> None:
        """Write to nowhere from now on."""
        if not isinstance(error, BrokenPipeError):
            self.fault = error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def entry() -> None:
    """Be the console script.

    The process ends in `leave`, after everything else that Python does at an exit: Python itself would give signals
    their usual meaning back before it takes all modules apart, and one that comes then would end it with -15.
    """
    fill_closed_streams()
    ending = Ending()
    atexit.register(ending.leave)  # those that are registered first are called last
    given = sys.stdout
    assert isinstance(given, io.TextIOWrapper)
    encoding, terminal = given.encoding, given.isatty()
    out = sys.stdout = Output(given.detach(), encoding, "replace", line_buffering=terminal)
    code = main(sys.argv[1:], to_the_end=True)
    out.flush()
    if out.fault is not None:
        print(f"ltx: what it said could not be written ({out.fault.strerror}).", file=sys.stderr)
        code = code or 3
    end_workers()
    ending.code = code
    sys.exit(code)


class Ending:
    """How this process ends; 1 until it is known, as Python does after an error of ltx's own."""

    code = 1

    def leave(self) -> None:
        """Write what is left of the output, and end without taking anything apart."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(self.code)


def fill_closed_streams() -> None:
    """Put /dev/null where standard input, output or error is closed, as by `>&-`.

    Otherwise the next file that is opened takes its number, and what any library prints goes into that file.
    """
    while True:
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:
            os.close(number)
            break
        os.set_inheritable(number, True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def main(argv: list[str], to_the_end: bool = False) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 3 something failed, 130 interrupted.

    With `to_the_end` the caller ends the process next, and signals go on ending it with 130 until it has.
    """
    forget_notices()
    try:
        with interruptible(end_at_once if to_the_end else end_workers, to_the_end):
            return dispatch(argv)
    except (BadInput, Failed) as error:
        print(f"ltx: {printable(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 3
    except KeyboardInterrupt:
        print("ltx: interrupted; the same command continues.", file=sys.stderr)
        return 130


def end_at_once() -> None:
    """End the workers and say so, past Python's own buffers: a signal may have come in the middle of a print."""
    end_workers()
    with contextlib.suppress(OSError):
        os.write(2, b"ltx: ended at once; the same command continues.\n")


def end_workers() -> None:
    """Kill what this process has started; level files are whole at any moment."""
    if "ltx.launch.local" in sys.modules:
        sys.modules["ltx.launch.local"].cool_down()


def dispatch(argv: list[str]) -> int:
    """Call the command that the first word names."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    command, rest = argv[0], argv[1:]
    if command == "--version":
        from importlib.metadata import version

        print(f"ltx {version('ltx')}")
        return 0
    if command not in COMMANDS:
        raise BadInput(f"'{command}' is not a command{nearest(command, COMMANDS)}")
    if {"-h", "--help"} & set(rest):
        from ltx.cli.help import help_of

        print(help_of(command, rest), end="")
        return 0
    return COMMANDS[command](rest)
