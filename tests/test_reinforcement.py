"""Measures of reinforcement against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ltx.analysis.reinforcement import gated, shapley, update_share
from ltx.streams import generator

MASK = {"a": torch.tensor([[True, False], [False, True]]), "b": torch.tensor([True, False, False])}
BEGIN = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([5.0, 6.0, 7.0]), "bias": torch.tensor([8.0])}


def test_shapley_values_of_independent_players_are_what_each_adds() -> None:
    assert shapley(everything=0.75, ticket=0.5, complement=0.25, nothing=0.0) == (0.5, 0.25)


def test_players_that_are_worth_something_only_together_share_alike() -> None:
    assert shapley(everything=1, ticket=0, complement=0, nothing=0) == (0.5, 0.5)


def test_shapley_values_are_means_over_both_orders_and_sum_to_the_whole() -> None:
    everything, ticket, complement, nothing = generator("noise", 0, "test shapley").random(4).tolist()
    first = ticket - nothing, everything - ticket
    second = everything - complement, complement - nothing
    assert shapley(everything, ticket, complement, nothing) == pytest.approx(np.mean([first, second], 0))
    assert sum(shapley(everything, ticket, complement, nothing)) == pytest.approx(everything - nothing)


def test_the_update_share_is_over_the_layers_of_the_mask_alone() -> None:
    moved = {"a": torch.tensor([[1.0, 2.0], [0.0, 0.0]]), "b": torch.tensor([2.0, 0.0, 4.0]), "bias": torch.ones(1)}
    end = {name: BEGIN[name] + moved[name] for name in BEGIN}
    assert update_share(MASK, BEGIN, end) == (1 + 4) / (1 + 4 + 4 + 16)
    assert math.isnan(update_share(MASK, BEGIN, BEGIN))


def test_a_gate_scales_what_lies_outside_of_the_mask() -> None:
    half = gated(BEGIN, MASK, 0.5)
    assert half["a"].tolist() == [[1, 1], [1.5, 4]] and half["b"].tolist() == [5, 3, 3.5]
    assert half["bias"] is BEGIN["bias"]
    assert all(torch.equal(tensor, BEGIN[name]) for name, tensor in gated(BEGIN, MASK, 1).items())
    assert gated(BEGIN, MASK, 0)["b"].tolist() == [5, 0, 0]
