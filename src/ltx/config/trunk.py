"""All that it means to stand on another run, the trunk: which words it gets, what it must be, what is taken from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from ltx.config.names import GROUPS, find
from ltx.config.words import head_of, key_of, text
from ltx.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from ltx.methods import Method, State
    from ltx.tensors import Tensors

ANY_OPTIM = ("optim.steps", "optim.batch")  # every optimiser has these, so a trunk with another one takes them over too


class Checked(Protocol):
    """What these rules look at of a run's spec."""

    @property
    def config(self) -> dict[str, Any]:
        """The whole config."""

    @property
    def method(self) -> Method:
        """The method with its fields."""

    @property
    def trunk(self) -> Checked | None:
        """The run below."""

    def network(self, device: str = "cpu") -> nn.Module:
        """Return the network on a device."""


def words(config: dict[str, Any], overrides: list[str]) -> list[str]:
    """Return the trunk's overrides: this run's own, without its method, then what `trunk={...}` names.

    Raises BadInput where `trunk` is no set of values, or contradicts this run.
    """
    trunk = config["trunk"]
    if not isinstance(trunk, dict) or not all(isinstance(key, str) for key in trunk):
        raise BadInput(f"trunk={trunk} should be a set of values: trunk={{method:imp,method.levels:14}}.")
    if is_control(config) and "model" in trunk and "model" in map(head_of, overrides):
        raise BadInput("model is named twice: a control has its trunk's network, so name it in trunk={...} alone.")
    own = {"method", "trunk", "of"} | {key for key in trunk if key in GROUPS}  # the trunk does not take these over
    shared = [word for word in overrides if head_of(word) not in own or key_of(word) in ANY_OPTIM]
    return [*shared, *(f"{key}={text(value)}" for key, value in {"trunk": None, "of": None, **trunk}.items())]


def without_optimiser(overrides: list[str]) -> list[str]:
    """Return a trunk's overrides without this run's optimiser: what trains scores is not for weights, nor reversely."""
    return [word for word in overrides if head_of(word) != "optim" or key_of(word) in ANY_OPTIM]


def taken_over(config: dict[str, Any], below: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return the groups a run has from its trunk: a control its network and, where none is given, its optimiser."""
    if not is_control(config):
        return {}
    found = {"model": below["model"]}
    if not searches(below) and "optim" not in map(key_of, overrides):
        found["optim"] = below["optim"]
    return found


def taken_over_of(below: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return the groups that a run has from a finished one named by `of=`: all but method and seeds."""
    groups = ("data", "model", "width", "streams") + (() if searches(below) else ("optim",))
    taken = {name: below[name] for name in groups if name not in map(key_of, overrides)}
    if "model" in taken and "model.weights" in map(key_of, overrides):  # the digest is that of the other file
        taken["model"] = {**taken["model"], "weights_digest": None}
    return taken


def reference(of: str) -> tuple[str, list[str]]:
    """Return the run of `of=RUN[:seed[:level]]` and the overrides that pin seed and level. Raises BadInput."""
    name, *numbers = of.rsplit(":", 2) if of.count(":") < 3 else (of,)
    if not all(number.isdigit() for number in numbers):
        raise BadInput(f"of={of} should read RUN, RUN:seed or RUN:seed:level.")
    return name, [f"method.trunk_{which}={n}" for which, n in zip(("seed", "level"), numbers, strict=False)]


def is_control(config: dict[str, Any]) -> bool:
    """Tell whether a run retrains the tickets of its trunk."""
    return bool(config["method"]["name"] == "control")


def searches(config: dict[str, Any]) -> bool:
    """Tell whether a run trains scores and leaves the weights as they are."""
    method: Any = find("method", config["method"]["name"])
    return bool(method.trains == "scores")


def prunes_trained(trunk: Checked) -> bool:
    """Tell whether level 0 of a trunk is a trained dense network, and later levels have masks."""
    from ltx.methods import WithoutGradients

    trained = not searches(trunk.config) and not isinstance(trunk.method, WithoutGradients)
    return trained and trunk.method.last_level > 0


def check(spec: Checked, network: nn.Module) -> None:
    """Raise BadInput where a run cannot stand on its trunk, or has none and needs one."""
    from ltx.tensors import matrices

    if spec.trunk is None:
        if spec.method.needs_trunk:
            name = spec.config["method"]["name"]
            raise BadInput(
                f"method={name} stands on another run: give trunk={{method:imp,method.levels:14}} or of=RUN."
            )
        return
    method, below = spec.config["method"], spec.trunk.config["method"]
    if spec.method.needs_trunk:
        pinned = method.get("trunk_level")
        wanted, last = spec.method.last_level if pinned is None else pinned, spec.trunk.method.last_level
        if wanted > last:
            raise BadInput(f"level {wanted} of the trunk is asked for, but it has levels 0 to {last}.")
    shapes = {name: p.shape for name, p in spec.trunk.network(device="meta").named_parameters()}
    unlike = [name for name, p in network.named_parameters() if shapes.get(name) != p.shape]
    if (spec.method.needs_trunk and unlike) or set(matrices(network)) <= set(unlike):
        raise BadInput(
            f"the trunk's network has other shapes at {', '.join(unlike)}: what it found fits only "
            "a network of the same width, classes and input."
        )
    if method.get("kind") == "transport" and not prunes_trained(spec.trunk):
        raise BadInput(
            "method.kind=transport moves a mask by way of the trained dense networks of two seeds, but with "
            f"method={below['name']} the trunk has none with levels pruned from it; "
            "trunk={method:imp,method.levels:14} has."
        )
    if method.get("kind") in ("ticket", "data_order") and below.get("retrain", "rewind") != "rewind":
        raise BadInput(
            f"method.kind={method['kind']} starts from the trunk's anchor, but the trunk goes on from "
            f"trained weights (method.retrain={below['retrain']}); give it method.retrain:rewind."
        )


def seed_of(spec: Checked, seed: int) -> int:
    """Return the trunk's seed that one of this run's seeds stands on."""
    method = spec.config["method"]
    pinned, shift = method.get("trunk_seed"), method.get("trunk_shift")
    return int(pinned) if pinned is not None else seed + int(shift or 0)


def seeds_of(spec: Checked, seed: int) -> list[int]:
    """Return the trunk's seeds that a seed needs: the one it stands on and, to move a mask between both, its own."""
    aligned = spec.config["method"].get("kind") == "transport"
    return sorted({seed_of(spec, seed), *([seed] if aligned else [])})


@dataclass(frozen=True)
class Standing:
    """A trunk as one seed of the run above finds it: state(level, "end" or "anchor") reads its levels.

    own(level, part) reads those of the trunk's seed of the same number, where the run stands on another.
    """

    method: Method
    matrices: list[str]
    state: Callable[[int, str], State]
    own: Callable[[int, str], State]

    def dense(self, own: bool) -> State:
        """Return the trained dense network, of the seed that is stood on or of this seed itself."""
        return (self.own if own else self.state)(0, "end")

    def pretrained(self, init: State) -> State:
        """Return the trunk's last end as initialisation; parameters of another shape (other classes) keep their own."""
        from ltx.methods import masked

        end = self.state(self.method.last_level, "end")
        values = masked(end.weights, end.mask) | end.buffers

        def same(own: Tensors) -> Tensors:
            return {k: values[k] if k in values and values[k].shape == t.shape else t for k, t in own.items()}

        return replace(init, weights=same(init.weights), buffers=same(init.buffers))

    def scaled(self, weights: Tensors) -> Tensors:
        """Return initial weights at the scale of the trunk's method, which a control takes over."""
        names = self.method.prunable(self.matrices)
        return weights | {name: weights[name] * self.method.factor for name in names}

    def ticket(self, level: int) -> State:
        """Return the trunk's anchor with the mask of one of its levels, and what ranked its weights as scores.

        A search's weights are those of its end: as drawn, but for norms that it trained and weights drawn anew.
        """
        end, anchor = self.state(level, "end"), self.state(0, "anchor")
        _, ranks = self.method.ticket(end.scores, end.mask)
        if self.method.trains == "scores":
            return replace(anchor, weights=end.weights, mask=end.mask, scores=ranks)
        dense = self.state(0, "end").weights
        return replace(anchor, mask=end.mask, scores=ranks or {name: dense[name].abs() for name in end.mask})
