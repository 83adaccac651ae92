"""On a GPU: the steps between two looks at a level as one CUDA graph, which is launched at once.

A step of a small network is a hundred kernels, each of which takes longer to launch than to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ltx.data.batches import Batches
from ltx.data.splits import Dataset, Memory

Update = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # x and y of a batch to the loss and the outputs
Step = tuple[Tensor, Tensor, Tensor]  # loss, outputs and targets


class Graphs:
    """Takes spans of steps whose batches lie in the GPU's memory; `update` takes one step, always by the same kernels.

    The first span of a length is taken step by step, on the stream that the second one is captured on: what libraries
    and the optimiser set up at their first step is then there. Every later span is that graph again, with other batches
    and rates in the same memory.
    """

    def __init__(self, batches: Batches, update: Update, optimiser: torch.optim.Optimizer):
        assert isinstance(batches.train, Memory)
        self.batches, self.data = batches, batches.train
        self.update, self.optimiser = update, optimiser
        self.seen: set[int] = set()
        self.captured: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor, list[Step]]] = {}
        self.stream = None if self.data.y.device.type == "cpu" else torch.cuda.Stream(self.data.y.device)

    def take(self, first: int, last: int, rates: list[float]) -> list[Step]:
        """Take the steps first .. last - 1 at their learning rates; return what each leaves, in memory of its own."""
        chosen = self.batches.indices(first, last)
        if self.stream is None:  # on a CPU, where nothing can be captured, the same spans step by step
            return self.steps(chosen, rates)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            found = self.launched(chosen, torch.tensor(rates, dtype=torch.float32, device=chosen.device))
        torch.cuda.current_stream().wait_stream(self.stream)
        return found

    def launched(self, chosen: Tensor, rates: Tensor) -> list[Step]:
        """Return what the steps of batches (steps, batch) leave, from their graph where there is one."""
        length = len(rates)
        if length not in self.seen:
            self.seen.add(length)
            return self.steps(chosen, rates)
        if length not in self.captured:
            graph, held = torch.cuda.CUDAGraph(), (chosen.clone(), rates.clone())
            with torch.cuda.graph(graph, stream=self.stream):
                left = self.steps(*held)
            self.captured[length] = graph, *held, left
        graph, held_chosen, held_rates, left = self.captured[length]
        held_chosen.copy_(chosen)
        held_rates.copy_(rates)
        graph.replay()
        losses, outputs, targets = (torch.stack(column) for column in zip(*left, strict=True))
        return [*zip(losses, outputs, targets, strict=True)]

    def steps(self, chosen: Tensor, rates: Iterable[float | Tensor]) -> list[Step]:
        """Take one step after another."""
        found = []
        for indices, rate in zip(chosen, rates, strict=True):
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            x, y = self.data.take(indices)
            loss, outputs = self.update(x, y)
            found.append((loss.detach(), outputs.detach(), y))
        return found


def spans(first: int, last: int, stops: set[int]) -> Iterator[tuple[int, int]]:
    """Divide the steps first .. last - 1 where something happens after a step: at `stops`, the numbers after it."""
    begin = first
    for end in sorted({stop for stop in stops if first < stop < last} | {last}):
        yield begin, end
        begin = end


def capturable(data: Dataset) -> bool:
    """Tell whether a batch is some examples of a part in memory, as they are."""
    return isinstance(data.train, Memory) and data.augment is None
