"""The row of a finished level: how good its network is, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from ltx.analysis.costs import Counts, applications, bits, bits_of, multiply_adds
from ltx.config.spec import Spec
from ltx.masks import count
from ltx.methods import Plan, layer
from ltx.store.rows import Row, Value
from ltx.tensors import Tensors, buffers, matrices, seeded
from ltx.training.leaves import trained_beside
from ltx.training.measure import Measure
from ltx.training.setup import Trained

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
            users_own = self.spec.users_own  # its forward may not work without values
            network = self.spec.network("cpu" if users_own else "meta")
            x = self.spec.data.train.take(slice(0, 2))[0] if users_own else self.spec.facts.zeros(2, "meta")
            with seeded(0), self.spec.form.context("cpu"):
                _applied[self.spec.key] = applications(network, self.spec.form.inputs(x), self.matrices)
        return _applied[self.spec.key]


class Rows:
    """Measures the levels of a seed: what each was trained to is loaded into a scratch network."""

    def __init__(self, spec: Spec, network: nn.Module, measure: Measure):
        self.method, self.data, self.network, self.measure = spec.method, spec.data, network, measure
        self.costs, self.matrices = Costs(spec, network), matrices(network)
        self.total = sum(network.get_parameter(name).numel() for name in self.matrices)

    def row(self, seed: int, plan: Plan, mask: Tensors, trained: Trained, further: Mapping[str, Value]) -> Row:
        """Return a level's row, measured at the last step and at the smallest validation loss, with further columns.

        The early stop is null where the last grid point is the best (censored), or nothing was trained.
        """
        on, end, best = self.measure.on, replace(trained.state, mask=mask), trained.best_state(mask)
        kept, prunable = count(mask), sum(m.numel() for m in mask.values())
        train_loss, _ = on(self.data.measured, end)
        val_loss, val_accuracy = on(self.data.val, end)
        test_loss, test_accuracy = on(self.data.test, end)
        best_accuracy = test_accuracy if best is None else on(self.data.test, best)[1]
        return Row(
            seed=seed,
            level=plan.level,
            density=kept / prunable,
            kept=kept,
            prunable=prunable,
            total=self.total,
            step=plan.last,
            train_loss=train_loss,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            early_stop_step=trained.best_step if 0 <= trained.best_step < plan.last else None,
            early_stop_test_accuracy=best_accuracy,
            extra={**self.costs.columns(mask), **self.beside(), **further},
            layers={layer(name): float(keep.float().mean()) for name, keep in mask.items()},
        )

    def beside(self) -> dict[str, int]:
        """Return the column that says how many parameters a search trains beside its scores, where it could any."""
        if self.method.trains == "weights" or len(list(self.network.parameters())) == len(self.matrices):
            return {}
        names = trained_beside(self.network, self.method)
        return {"trained": sum(self.network.get_parameter(name).numel() for name in names)}
