"""Random streams never share a sequence, and a draw is a function of its name alone."""

from dataclasses import astuple
from itertools import product

import numpy as np
import pytest

from ltx.streams import Streams, generator

NAMES = ("init", "order", "augment", "mask", "noise")


def first(*name: str | int) -> tuple[int, ...]:
    return tuple(generator(*name).bit_generator.random_raw(4).tolist())


def test_no_two_of_stream_seed_purpose_layer_and_epoch_share_a_sequence():
    purposes = [
        *((purpose,) for purpose in ("epoch", "step", "prune")),
        *product(("epoch", "step"), range(12)),
        *product(("prune",), range(4), ("fc1.weight", "fc2.weight", "fc11.weight")),
    ]
    draws = [first(stream, seed, *purpose) for stream, seed, purpose in product((*NAMES, "split"), range(12), purposes)]
    words = [word for draw in draws for word in draw]
    assert len(set(draws)) == len(draws) and len(set(words)) == len(words)


@pytest.mark.parametrize(
    "one, other",
    [
        (("order", 1, "epoch", 2), ("order", 2, "epoch", 1)),  # seed + epoch
        (("order", 1, 23), ("order", 12, 3)),  # digits run together
        (("init", 0, "fc1", 10), ("init", 0, "fc11", 0)),
        (("init", 0, "ab", "c"), ("init", 0, "a", "bc")),  # names run together
        (("init", 0, "a,b"), ("init", 0, "a", "b")),
        (("init", 0, 1), ("init", 0, "1")),
        (("init", 0), ("init", 0, 0)),
        (("init", 0, "w", 2, 3), ("init", 0, "w", 3, 2)),  # shape
        (("init", 3), ("init", 3 + 2**32)),  # a seed cut to 32 bits
    ],
)
def test_names_that_look_alike_do_not_collide(one: tuple, other: tuple):
    assert first(*one) != first(*other)


def test_one_seed_gives_every_stream_its_own_sequence():
    streams = Streams.of(5, dict.fromkeys(NAMES))
    draws = [tuple(streams.generator(name, "epoch", 0).permutation(50)) for name in NAMES]
    assert len(set(draws)) == len(NAMES)


def test_a_draw_does_not_depend_on_what_was_drawn_before():
    streams = Streams.of(0, dict.fromkeys(NAMES))
    fresh = streams.generator("order", "epoch", 3).permutation(20)
    np.random.seed(1)
    for epoch in range(3):
        streams.generator("order", "epoch", epoch).random(1000)
    streams.generator("order", "epoch", 3).random(7)
    assert np.array_equal(streams.generator("order", "epoch", 3).permutation(20), fresh)


def test_a_seed_gives_the_same_numbers_in_every_process_and_version():
    assert first("init", 0, "fc1.weight", 300, 64)[:2] == (12799774606757546100, 3895493340910315154)
    assert generator("init", np.int64(7)).random() == generator("init", 7).random()


def test_streams_follow_the_run_seed_unless_pinned():
    pinned = {"init": 7, "order": None, "augment": None, "mask": 0, "noise": None}
    assert astuple(Streams.of(3, pinned)) == (7, 3, 3, 0, 3)


def test_a_pinned_stream_is_the_same_for_every_run_seed_and_the_others_are_not():
    pinned = {**dict.fromkeys(NAMES), "init": 7}
    one, other = Streams.of(1, pinned), Streams.of(2, pinned)
    for name in NAMES:
        same = one.generator(name, "x").random() == other.generator(name, "x").random()
        assert same == (name == "init")


def test_pinning_a_stream_to_the_run_seed_changes_nothing():
    assert Streams.of(4, {**dict.fromkeys(NAMES), "order": 4}) == Streams.of(4, dict.fromkeys(NAMES))
