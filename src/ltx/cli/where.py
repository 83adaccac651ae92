"""`ltx where`: the run directory that the words of `ltx run` mean, whether or not it is there yet."""

from __future__ import annotations

from ltx.cli.training import divided, points_of
from ltx.errors import BadInput, nearest

TAKEN = ("-m", "--multirun", "--config-dir")  # the flags of `ltx run` that decide which runs are meant


def where(arguments: list[str]) -> int:
    """Print the run directory of every point that the words mean, a line each; trains and writes nothing."""
    flags, folders, words = divided(arguments)
    for flag in flags:
        if flag not in TAKEN and flag.startswith("-"):
            raise BadInput(f"{flag} is not a flag of where, which takes the words of `ltx run`{nearest(flag, TAKEN)}")
    from ltx.config import defaults
    from ltx.runs.command import specs_of

    own = defaults.read()
    words = [word for word in words if not word.startswith("plot=")]  # of the picture, and of no run
    points, _ = points_of(flags, words, folders, own)
    specs = specs_of(points, folders, own, here=False)
    print("\n".join(str(spec.directory) for spec in specs))
    return 0
