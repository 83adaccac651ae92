"""The columns of a row that say what a level's network costs."""

from __future__ import annotations

from torch import nn

from ltx.analysis.costs import Counts, applications, bits, bits_of, multiply_adds
from ltx.config.spec import Spec
from ltx.tensors import Tensors, buffers, matrices, seeded

_applied: dict[str, Counts] = {}  # of the runs whose seeds this process has computed


class Costs:
    """Counts multiply-adds and bits of a run's networks; how its layers are applied is looked at once."""

    def __init__(self, spec: Spec, network: nn.Module):
        self.spec, self.network, self.matrices = spec, network, matrices(network)

    def columns(self, mask: Tensors) -> dict[str, int | None]:
        """Return the columns of a network with a mask: see `multiply_adds` and `bits`."""
        own = dict(self.network.named_parameters()) | buffers(self.network)
        kept = {name: int(mask[name].sum()) if name in mask else own[name].numel() for name in self.matrices}
        rest = {name: tensor for name, tensor in own.items() if name not in mask}
        width = bits_of(own[self.matrices[0]])
        return {"macs": multiply_adds(kept, self.applied), "bits": bits(mask, rest, width, self.spec.method.value_bits)}

    @property
    def applied(self) -> Counts:
        """At how many places of an example the network applies each matrix."""
        if self.spec.key not in _applied:
            users_own = ":" in self.spec.config["model"]["name"]  # its forward may not work without values
            network = self.spec.network("cpu" if users_own else "meta")
            x = self.spec.data.train.take(slice(0, 2))[0] if users_own else self.spec.facts.zeros(2, "meta")
            with seeded(0), self.spec.form.context("cpu"):
                _applied[self.spec.key] = applications(network, self.spec.form.inputs(x), self.matrices)
        return _applied[self.spec.key]
