"""What the command line, `ltx.run` and the figures share: what to check before a run, and what to say after it."""

from __future__ import annotations

from collections.abc import Sequence

from ltx.config.compose import compose
from ltx.config.defaults import NONE, Defaults
from ltx.config.spec import Spec
from ltx.errors import BadInput, printable
from ltx.runs.checks import check_device, check_machine, check_weights
from ltx.runs.sweep import Outcome


def specs_of(
    points: Sequence[list[str]], config_dirs: list[str], own: Defaults = NONE, here: bool = True
) -> list[Spec]:
    """Compose every point from its overrides and check all of them. Raises BadInput before anything is written.

    `own` are a person's defaults; a refusal of one of their values names the file. With here=False the points are not
    to run on this machine, which then need not have their device, nor a root that can be written.
    """

    def spec_of(overrides: list[str]) -> Spec:
        try:
            spec = Spec.of(compose(overrides, config_dirs, own))
            if here:
                check_machine(spec)
            else:
                check_device(spec.config["device"])
            if spec.start is not None and spec.start.path.exists():
                check_weights(spec)
        except BadInput as error:
            raise own.blamed(error, overrides) from error
        return spec

    return [spec_of(overrides) for overrides in points]


def failures(outcome: Outcome) -> list[str]:
    """Return a paragraph for every point that failed; none where the command was interrupted."""
    if outcome.interrupted:
        return []
    return [printable(point.explain()) for point in outcome.points.values() if point.failures]
