"""The command line: the first word is the command, the rest `key=value`."""

from __future__ import annotations

import io
import os
import sys

from ltx.cli.commands import COMMANDS
from ltx.errors import BadInput, Failed, forget_notices, nearest
from ltx.launch.signals import interruptible

HELP = """\
ltx runs experiments on the Lottery Ticket Hypothesis.

  ltx run method=imp width=4        train, prune and rewind one sweep point; the same command resumes or extends it
  ltx run ... --dry-run             its config, what is done already, estimated minutes and disk; writes nothing
  ltx run ... --cfg job --resolve   its config as yaml
  ltx run -m width=1,2,4 method=imp,dense   a sweep: all points on one pool of workers; zip=width,optim.lr in step
  ltx run experiment=NAME           a named sweep, conf/experiment/NAME.yaml
  ltx figure NAME                   redraw a paper's figure and check its claims; runs what is missing
  ltx list [methods|models|data|optim|experiments|figures] [width=4]   what can be named, with sizes
  ltx status [KEY...] [--json]      every run under the output root
  ltx show RUN                      a run's config, table and plots; RUN is a key or a directory
  eval "$(ltx complete)"            tab completion for bash; put it in ~/.bashrc
  ltx --version

Any value of a config can be set: ltx run model=convnet optim=sgd optim.lr=0.05 method.levels=20 seeds=5.
Every command takes root=DIR (default outputs, or LTX_OUTPUT). --config-dir DIR adds yaml files of your own to `run`.
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
    """Be the console script."""
    given = sys.stdout
    assert isinstance(given, io.TextIOWrapper)
    encoding, terminal = given.encoding, given.isatty()
    out = sys.stdout = Output(given.detach(), encoding, "replace", line_buffering=terminal)
    code = main(sys.argv[1:])
    out.flush()
    if out.fault is not None:
        print(f"ltx: what it said could not be written ({out.fault.strerror}).", file=sys.stderr)
    end_workers()
    sys.exit(code if out.fault is None else code or 3)


def main(argv: list[str]) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 3 something failed, 130 interrupted."""
    forget_notices()
    try:
        with interruptible(end_workers):
            return dispatch(argv)
    except BadInput as error:
        print(f"ltx: {error}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"ltx: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("ltx: interrupted; the same command continues.", file=sys.stderr)
        return 130


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
        print(HELP, end="")
        return 0
    return COMMANDS[command](rest)
