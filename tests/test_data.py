"""Splits are fixed and disjoint, batches are functions of (stream, step), and measuring counts every example once."""

import numpy as np
import pytest
import torch
from helpers import SMALL, spec, trained
from torch import Tensor
from torch.nn import functional as F

import ltx.training.evaluate
from ltx.data.arrays import assemble
from ltx.data.augment import shift
from ltx.data.batches import SPAN, Batches
from ltx.data.digits import MEAN, SD
from ltx.data.splits import Dataset, Memory, grid_size
from ltx.errors import BadInput
from ltx.models import mlp
from ltx.streams import Streams, generator
from ltx.tensors import under
from ltx.training.evaluate import evaluate, grid
from ltx.training.task import TASKS

SEEDS = {"init": 1, "order": 2, "augment": 3, "mask": 4, "noise": 5}
STREAMS = Streams(**SEEDS)


def numbered(n: int, **options) -> Dataset:
    """Examples that carry their own number."""
    return assemble({"train": (np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1), np.arange(n) % 3)}, 0, **options)


def training(n: int, augment=None) -> Dataset:
    x = torch.arange(n).reshape(n, 1, 1, 1).float()
    part = (x, torch.arange(n) % 3)
    return assemble({"train": part, "val": part, "test": part}, 0, augment=augment)


def digits(*overrides: str) -> Dataset:
    return spec("method=dense", *overrides).data


def numbers(x: Tensor) -> list[int]:
    return x.reshape(-1).int().tolist()


class Offsets:
    """Stands for a generator whose draw is known."""

    def __init__(self, down: list[int], right: list[int]):
        self.drawn = np.array([down, right])

    def integers(self, low: int, high: int, shape: tuple) -> np.ndarray:
        assert shape == self.drawn.shape and low <= self.drawn.min() and self.drawn.max() < high
        return self.drawn


def test_digits_are_1257_to_train_180_to_validate_and_360_to_test():
    data = digits()
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [1257, 180, 360]
    assert data.facts.input_shape == (1, 8, 8) and data.classes == 10
    assert data.train.x.dtype == torch.float32 and data.train.y.dtype == torch.int64


def test_the_three_splits_of_digits_are_the_whole_set_once_and_its_labels_stay_with_their_images():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    data = digits()
    images = torch.cat([split.x for split in (data.train, data.val, data.test)]).reshape(-1, 64) * SD + MEAN
    labels = torch.cat([split.y for split in (data.train, data.val, data.test)])
    found = sorted([*row, label] for row, label in zip(images.round().int().tolist(), labels.tolist(), strict=True))
    assert found == sorted([*row, label] for row, label in zip(x.astype(int).tolist(), y.tolist(), strict=True))
    everything = torch.cat([split.x for split in (data.train, data.val, data.test)])
    assert abs(float(everything.mean())) < 1e-3 and abs(float(everything.std()) - 1) < 1e-3


def test_the_digits_are_read_from_their_file_or_else_by_scikit_learn(monkeypatch):
    from sklearn.datasets import load_digits

    from ltx.data import digits as shipped

    for place in (shipped.find_spec("sklearn"), None):
        monkeypatch.setattr(shipped, "find_spec", lambda name, place=place: place)
        for found, expected in zip(shipped.examples(), load_digits(return_X_y=True), strict=True):
            assert found.dtype == expected.dtype and (found == expected).all()


def test_splits_share_no_example():
    data = numbered(100, val=10, test=0.2)
    train, val, test = (numbers(split.x) for split in (data.train, data.val, data.test))
    assert (len(train), len(val), len(test)) == (70, 10, 20) and sorted(train + val + test) == list(range(100))


def test_validation_and_test_are_the_same_for_all_run_seeds_and_move_with_the_split_seed():
    prints = [digits(f"seeds=[{seed}]", f"streams.order={seed}").fingerprint() for seed in (0, 5)]
    assert prints[0] == prints[1]
    assert digits("data.split_seed=1").fingerprint() != prints[0]


def test_a_part_that_is_given_is_used_as_it_is():
    part = (np.zeros((4, 2)), np.zeros(4))
    data = assemble({"train": (np.ones((10, 2)), np.arange(10) % 2), "test": part}, 0, val=3)
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [7, 3, 4] and not data.test.x.any()


@pytest.mark.parametrize(
    "parts, words",
    [
        ({"test": (np.ones((4, 2)), np.ones(4))}, "needs a 'train' part"),
        ({"train": (np.ones((4, 2)), np.ones(3))}, "one label per example"),
        ({"train": (np.full((4, 2), np.nan), np.ones(4))}, "not finite"),
        ({"train": (np.ones((4, 2)), np.full(4, -1))}, "negative labels"),
        ({"train": (np.ones((2, 2)), np.arange(2))}, "leaves nothing"),
    ],
)
def test_what_is_no_data_set_is_refused_by_name(parts: dict, words: str):
    with pytest.raises(BadInput, match=words):
        assemble(parts, 0)


@pytest.mark.parametrize("n, batch", [(20, 7), (20, 20), (20, 1), (5, 12), (13, 4), (7, 6)])
def test_each_example_is_seen_once_an_epoch_and_every_batch_is_full(n: int, batch: int):
    batches, epochs = Batches(training(n), batch, STREAMS), 6
    steps = epochs * n // batch
    seen = []
    for step in range(steps):
        x, y = batches.at(step)
        assert len(x) == batch and y.tolist() == [i % 3 for i in numbers(x)]
        seen += numbers(x)
    whole = [seen[i : i + n] for i in range(0, len(seen) - n + 1, n)]
    assert len(whole) >= epochs - 1 - batch // n and all(sorted(epoch) == list(range(n)) for epoch in whole)
    assert n == 1 or whole[0] != whole[1]


def test_batches_asked_out_of_order_are_the_same():
    def make() -> Batches:
        return Batches(training(20), 7, STREAMS)

    straight = make().indices(0, 30)
    jumping = make()
    for start, stop in ((25, 30), (3, 4), (0, 12), (11, 12), (11, 25), (0, 30)):
        assert torch.equal(jumping.indices(start, stop), straight[start:stop])


@pytest.mark.parametrize("first, last", [(0, 1), (3, 9), (SPAN - 2, 2 * SPAN + 1)])
def test_a_stream_of_batches_gives_what_each_step_gives_alone(first: int, last: int):
    data = training(20, augment=lambda x, rng: x + torch.from_numpy(rng.random(x.shape, "float32")))
    found = list(Batches(data, 7, STREAMS).stream(first, last))
    assert len(found) == last - first
    for step, (x, y) in enumerate(found, first):
        alone = Batches(data, 7, STREAMS).at(step)
        assert torch.equal(x, alone[0]) and torch.equal(y, alone[1])


def test_the_order_follows_the_order_stream_only():
    def order(**changed: int) -> Tensor:
        streams = Streams(**{**SEEDS, **changed})
        return Batches(training(20), 7, streams).indices(0, 10)

    assert all(torch.equal(order(**{name: 99}), order()) for name in ("init", "augment", "mask", "noise"))
    assert not torch.equal(order(order=99), order())


def test_a_shift_moves_each_image_by_its_own_offsets_and_fills():
    image = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]]])
    moved = shift(1, fill=-9.0)(image.repeat(4, 1, 1, 1), Offsets([0, 1, 2, 2], [2, 1, 0, 1]))
    expected = [
        # read one row up and one column right: the image moves down and left
        [[[-9, -9, -9], [2, 3, -9]], [[-9, -9, -9], [20, 30, -9]]],
        [[[1, 2, 3], [4, 5, 6]], [[10, 20, 30], [40, 50, 60]]],  # offset 1 of 0..2: stays
        [[[-9, 4, 5], [-9, -9, -9]], [[-9, 40, 50], [-9, -9, -9]]],  # moves up and right
        [[[4, 5, 6], [-9, -9, -9]], [[40, 50, 60], [-9, -9, -9]]],  # moves up
    ]
    assert moved.tolist() == expected and moved.is_contiguous()


def test_a_shift_reaches_every_offset_and_none_beyond():
    image = torch.zeros(400, 1, 5, 5)
    image[:, :, 2, 2] = 1.0
    moved = shift(2, fill=0.0)(image, np.random.default_rng(0))
    assert moved.sum((1, 2, 3)).eq(1).all() and (moved.sum((0, 1)) > 0).all()


def test_augmentation_is_a_function_of_the_augment_stream_and_the_step():
    def batch(step: int, **changed: int) -> Tensor:
        streams = Streams(**{**SEEDS, **changed})
        x = torch.arange(6 * 64).reshape(6, 1, 8, 8).float()
        part = (x, torch.arange(6) % 3)
        data = assemble({"train": part, "val": part, "test": part}, 0, augment=shift(2, fill=0.0))
        return Batches(data, 6, streams).augmented(step, x)

    assert torch.equal(batch(4), batch(4)) and not torch.equal(batch(4), batch(5))
    assert all(torch.equal(batch(4), batch(4, **{name: 99})) for name in ("init", "order", "mask", "noise"))
    assert not torch.equal(batch(4), batch(4, augment=99))


def test_augmentation_leaves_the_data_set_as_it_was():
    data = digits("data.shift=1")
    before = data.fingerprint()
    x, _ = Batches(data, 50, STREAMS).at(0)
    assert data.fingerprint() == before and x.shape == (50, 1, 8, 8)
    assert float(x.min()) >= float(np.float32(-MEAN / SD))  # filled with the background


@pytest.mark.parametrize("chunk", [1, 7, 20, 2048])
def test_evaluation_is_the_mean_over_examples_with_a_short_last_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ltx.training.evaluate, "CHUNK", chunk)
    network = mlp.Model((1, 4, 4), 3, 1.0, [6], "batch", True)
    x, y = torch.randn(20, 1, 4, 4) * 3, torch.arange(20) % 3
    network.train()(x)  # statistics that are not the initial ones
    weights = {name: torch.randn_like(p) for name, p in network.named_parameters()}  # not the network's own
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss, accuracy = evaluate(network, weights, Memory(x, y), TASKS["classification"])
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.load_state_dict(before | weights)
    logits = network.eval()(x).detach()
    losses = F.cross_entropy(logits, y, reduction="none")
    assert loss == pytest.approx(float(losses.mean()), rel=1e-5)
    assert accuracy == int((logits.argmax(1) == y).sum()) / 20
    means = sum(float(part.mean()) for part in losses.split(chunk)) / len(losses.split(chunk))
    assert chunk != 7 or means != pytest.approx(loss, rel=1e-3)  # a mean of means would not pass
    evaluate(network, weights, Memory(x, y), TASKS["classification"])
    assert not network.training


def test_the_validation_grid_is_at_most_two_percent_of_the_run_and_holds_the_last_step():
    for last in (1, 2, 49, 50, 51, 99, 100, 149, 420, 840, 1999, 50_000):
        for first in {0, last // 3, last - 1}:
            steps = grid(first, last)
            assert steps == sorted(set(steps)) and steps[0] > first and steps[-1] == last
            gaps = [after - before for before, after in zip([first, *steps], steps, strict=False)]
            assert max(gaps) <= max(1, 0.02 * last)
            assert set(steps[:-1]) <= set(grid(0, last))  # a rewound level is read at the same steps


def test_while_a_level_trains_few_validation_examples_are_looked_at_and_all_of_them_at_its_end(tmp_path):
    sizes = ((25_200, 180), (256_000, 5_000), (600_000, 5_000), (10**7, 5_000))
    assert [grid_size(*of) for of in sizes] == [180, 256, 600, 5_000]
    found = spec("data=canvas", "data.examples=200", "method=dense", *SMALL)
    ((tensors, meta),) = trained(found, tmp_path)
    val, network = found.data.val, found.network().requires_grad_(False)
    network.load_state_dict(under("end", tensors))
    last = [row["loss"] for row in meta["records"] if row["split"] == "val"][-1]
    losses = F.cross_entropy(network(val.x), val.y, reduction="none")
    chosen = generator("split", 0, "validated").permutation(len(val))[:256]
    assert last == pytest.approx(float(losses[chosen].mean()), rel=1e-5)
    assert meta["row"]["val_loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert last != pytest.approx(meta["row"]["val_loss"], rel=1e-4)


def test_how_many_validation_examples_are_looked_at_is_in_the_key_where_they_are_not_all(monkeypatch):
    words = ("data=canvas", "method=dense")
    assert spec(*words).validated == 256 < spec(*words).facts.val and spec().validated == spec().facts.val
    keys = [spec(*words).key, spec().key]
    monkeypatch.setattr("ltx.data.splits.VALIDATED", 257)
    assert spec(*words).key != keys[0] and spec().key == keys[1]
