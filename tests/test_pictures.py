"""Pictures: readable in a column of a paper, true to what can be, and following what was run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Result
from helpers import spec
from looks import assert_readable, bar_ends, texts
from matplotlib.figure import Figure

from ltx.methods import control
from ltx.report.plots import is_picture, save_plot
from ltx.report.run_picture import draw
from ltx.report.style import density_ticks, number_axis, page
from ltx.report.sweep_picture import draw_sweep
from ltx.report.swept import axes_of
from ltx.report.wording import KINDS, title
from ltx.runs import sweep
from ltx.store.rows import Row

LONG = "ThePruningMethodOfMyOwn tickets of AResidualNetworkWithAVeryLongName on TheLongestDataSetNameOfTheWholeWorld"


def rows(seeds: int, levels: int, accuracy: float = 0.95, stop: int | None = 200, last: int = 420) -> list[Row]:
    """Return made-up rows: 80 % kept at each level, accuracies that scatter by 4 %, early stops that scatter too."""
    found = []
    for seed, level in itertools.product(range(seeds), range(levels)):
        kept, wave = round(100_000 * 0.8**level), math.sin(5 * seed + level)
        test = min(1, accuracy + 0.04 * wave)
        counts = {"density": kept / 100_000, "kept": kept, "prunable": 100_000, "total": 101_000, "step": last}
        losses = {"train_loss": 0.1, "val_loss": 0.1, "val_accuracy": test, "test_loss": 0.1, "test_accuracy": test}
        early = None if stop is None or level > 8 else min(last, int(stop * (1 + wave)))
        found.append(
            Row(seed, level, **counts, **losses, early_stop_step=early, early_stop_test_accuracy=test)  # type: ignore[arg-type]
        )
    return found


def picture(found: Sequence[Row], said: str = "IMP tickets of LeNet-300-100 on 8×8 digits") -> Figure:
    return draw(found, said, "Trained for 420 steps of Adam at learning rate 0.0012.", ("test accuracy", 0))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (rows(1, 1), "Dense networks"),
        (rows(3, 2, accuracy=1), "IMP tickets of LeNet-300-100 on 8×8 digits"),
        (rows(46, 25, last=120_000), LONG),
        (rows(3, 15, stop=None), "IMP tickets"),
    ],
    ids=["one seed, one level", "two levels, at the ceiling", "46 seeds, 25 levels, long names", "all censored"],
)
def test_nothing_in_the_picture_of_a_run_is_cut_off_or_covered(found: list[Row], said: str) -> None:
    figure = picture(found, said)
    assert_readable(figure)
    n = len({row.seed for row in found})
    caption = " ".join(text for text, _, _ in texts(figure))
    assert (f"over {n} seeds; bars and bands: its 95 % Student-t" if n > 1 else "One seed, so that no") in caption


def test_intervals_end_where_accuracies_and_steps_do_and_the_dense_level_has_a_band():
    figure = picture(rows(3, 4, accuracy=0.99, stop=415))
    accuracies, stops = bar_ends(figure, 0), bar_ends(figure, 1)
    assert len(accuracies) == 8 and len(stops) == 4
    assert max(high for _, high in accuracies) == 1 and min(low for low, _ in accuracies) > 0
    assert max(high for _, high in stops) == 420 and min(low for low, _ in stops) == 0
    (band,) = figure.axes[0].patches
    low, high = accuracies[0]
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((low, high))
    assert figure.axes[0].get_ylim()[0] < min(low for low, _ in accuracies)


def test_intervals_of_one_level_stand_beside_one_another():
    figure = picture(rows(3, 15))
    one, other = (bars.get_transform().transform(bars.get_segments()[4][0])[0] for bars in figure.axes[0].collections)
    assert 1 < (other - one) * 72 / figure.dpi < 5


@pytest.mark.parametrize("levels", [1, 2, 3, 5, 8, 15, 25])
@pytest.mark.parametrize("kept", [0.999, 0.8, 0.512, 0.2, 0.013])
def test_an_axis_of_densities_has_three_ticks_or_more_wherever_there_are_two_levels(levels, kept):
    lowest = max(100 * kept ** (levels - 1), 1e-4)
    ticks = density_ticks(lowest, 100)
    assert len(ticks) == 1 if levels == 1 else 3 <= len(ticks) <= 9
    assert all(lowest * 0.999 <= tick <= 100.1 for tick in ticks)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=imp", "width=4"], "IMP tickets of LeNet-300-100, width 4, on 8×8 digits"),
        (["method=dense", "model=convnet"], "Dense networks of ConvNet-16-32-64 on 8×8 digits"),
        (["method=at_init", "method.criterion=synflow"], "SynFlow tickets of LeNet-300-100 on 8×8 digits"),
        (
            ["method=control", "method.kind=reinit", "trunk={method:imp,method.levels:2}"],
            "IMP tickets, reinitialised, of LeNet-300-100 on 8×8 digits",
        ),
        (["method=imp", "model=own", "model.name=mynets:Net"], "IMP tickets of Net on 8×8 digits"),
    ],
)
def test_the_title_says_in_words_what_a_run_is(words, said):
    Path("mynets.py").write_text(
        "from torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))\n"
    )
    assert title(spec(*words)) == said


def labels(**keys: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the labels of a sweep over the product of some keys, `_` for `.`."""
    names = [name.replace("_", ".") for name in keys]
    base = {"method": "imp", "model": "lenet", "data": "digits", "width": 1.0}
    return [base | dict(zip(names, values, strict=True)) for values in itertools.product(*keys.values())]


WIDTHS = [0.5, 1.0, 2.0]
LRS = ["1e-3", "1e-2"]


@pytest.mark.parametrize(
    ("points", "chosen", "expected"),
    [
        (labels(width=WIDTHS), None, ("width", [])),
        (labels(optim_lr=LRS, method=["imp", "dense"]), None, ("optim.lr", ["method"])),
        (labels(optim_lr=[*LRS, ".1"], width=WIDTHS), None, ("width", ["optim.lr"])),
        (labels(optim_lr=[*LRS, ".1", "1"], width=WIDTHS), None, ("optim.lr", ["width"])),
        (labels(optim_lr=[*LRS, ".1", "1"], width=WIDTHS), "width", ("width", ["optim.lr"])),
        (labels(optim=["adam", "sgd"], width=WIDTHS, method=["imp", "dense"]), None, ("width", ["method", "optim"])),
        (labels(model=["lenet", "mlp"], optim=["adam", "sgd"]), None, (None, ["model", "optim"])),
        ([{"width": w, "optim.lr": lr} for w, lr in zip(WIDTHS, (1, 2, 3), strict=True)], None, ("width", [])),
        ([{"method": m, "optim.lr": lr} for m, lr in (("imp", ".1"), ("dense", ".2"))], None, (None, ["method"])),
        ([{"method": m, "method.levels": n} for m, n in (("imp", "3"), ("dense", None))], None, (None, ["method"])),
    ],
)
def test_the_axis_is_the_numeric_key_of_most_values_or_the_chosen_one(points, chosen, expected):
    assert axes_of(points, chosen) == expected


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1, 2, 4], "linear"),
        ([0.25, 0.5, 1, 2, 4], "log"),
        ([0, 10, 100], "linear"),
        ([1e-4, 1e-1], "log"),
        ([3], "linear"),
    ],
)
def test_an_axis_of_numbers_is_logarithmic_where_they_span_a_decade(values, scale):
    _, panels = page(1, 1)
    number_axis(panels[0, 0], values, "numbers")
    assert panels[0, 0].get_xscale() == scale
    assert panels[0, 0].get_xticks().tolist() == values


def swept_picture(words: Sequence[Sequence[str]], chosen: str | None = None) -> Figure:
    """Return the picture of a sweep over these points, with made-up rows."""
    specs = [spec("device=cpu", *point) for point in words]
    found = [rows(3, one.method.last_level + 1, 0.9 + 0.02 * i / len(specs)) for i, one in enumerate(specs)]
    return draw_sweep(specs, sweep.labels(specs, words), found, chosen)


def product(**keys: Sequence[Any]) -> list[list[str]]:
    names = [name.replace("_", ".") for name in keys]
    return [[f"{n}={v}" for n, v in zip(names, point, strict=True)] for point in itertools.product(*keys.values())]


def test_a_sweep_over_numbers_and_two_more_keys_has_lines_and_panels():
    figure = swept_picture(product(width=[0.5, 1, 8], method=["dense", "imp"], optim=["adam", "sgd"]))
    assert [axes.get_title() for axes in figure.axes] == ["Adam", "SGD"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dense", "IMP"]
    assert figure.axes[-1].get_xscale() == "log" and figure.axes[-1].get_xlabel().startswith("width (multiple")
    assert_readable(figure)
    said = " ".join(text for text, _, _ in texts(figure))
    assert "Test accuracy of LeNet-300-100 on 8×8 digits, by width" in said
    assert "(kept / prunable weights) differ: dense 100 %, IMP 4.4 %" in said


def test_a_sweep_over_one_number_has_the_dense_networks_as_a_band():
    figure = swept_picture(product(optim_lr=["1e-4", "1e-3", "1e-2"]))
    (axes,) = figure.axes
    assert not figure.legends and [text.get_text() for text in axes.texts] == ["IMP tickets", "dense"]
    assert len(axes.collections) == 2 and axes.get_xscale() == "log" and axes.get_xlabel() == "learning rate"
    assert_readable(figure)


def test_a_sweep_over_names_alone_is_a_row_of_dots_each_named_in_full():
    figure = swept_picture(product(model=["lenet", "convnet"], optim=["adam", "sgd"]))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        f"{model}, {optim}" for model in ("LeNet", "ConvNet") for optim in ("Adam", "SGD")
    ]
    assert axes.yaxis_inverted() and not figure.legends and axes.get_xlabel() == "test accuracy"
    assert_readable(figure)


def test_a_chosen_key_of_names_has_its_values_as_rows_and_the_rest_as_marks():
    figure = swept_picture(product(width=[0.5, 1], method=["dense", "imp"]), "method")
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["dense", "IMP"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["width 0.5", "width 1"]
    assert_readable(figure)


def test_many_lines_have_a_legend_of_their_own_above():
    methods = ["dense", "imp", "edge_popup", "biprop", "supermask", "gem_miner", "at_init"]
    figure = swept_picture(product(width=[0.25, 0.5, 1, 2, 4], method=methods))
    assert len(figure.legends[0].get_texts()) == 7
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 7 and len({marker for _, marker, _ in looks}) == 7
    assert_readable(figure)


def test_plot_names_a_key_that_was_swept_or_is_refused_before_anything_runs(
    ltx: Callable[..., Result], root: Path
) -> None:
    words = ("run", "-m", *TINY, "optim.lr=1e-3,1e-2")
    result = ltx(*words, "plot=optim.lrr")
    assert result.code == 2 and "did you mean 'optim.lr'" in result.err and not root.exists()
    result = ltx("run", *TINY, "plot=width")
    assert result.code == 2 and "here nothing is swept" in result.err and not root.exists()


def test_plot_is_no_part_of_a_run_and_a_sweep_is_drawn_as_png_and_pdf(
    ltx: Callable[..., Result], root: Path, pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx.runs.point.save_plot", lambda *_, **__: None)  # the runs' own pictures are not looked at
    words = ("run", "-m", "method=dense", "optim.steps=2", "seeds=1", "width=.05,.1", "optim.lr=1e-3,1e-2")
    assert ltx(*words).code == 0
    (place,) = (root / "sweeps").iterdir()
    by_width = (place / "sweep.png").read_bytes()
    assert by_width.startswith(b"\x89PNG") and (place / "sweep.pdf").read_bytes().startswith(b"%PDF")
    result = ltx(*words, "plot=optim.lr")
    assert result.code == 0 and str(place / "sweep.png") in result.out
    assert len(list((root / "runs").iterdir())) == 4 and (place / "sweep.png").read_bytes() != by_width


def test_both_files_of_a_picture_say_whether_they_are_whole_and_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx.report.plots.FONTS", 42)  # as outside of the tests
    figure = Figure(figsize=(1, 1))
    figure.text(0, 0, "words")
    path = save_plot(figure, tmp_path / "levels.png", "of these rows")
    paper = path.with_suffix(".pdf")
    assert b"/FontFile2" in paper.read_bytes() and b"/Type3" not in paper.read_bytes()
    for file in (path, paper):
        whole = file.read_bytes()
        assert is_picture(file, "of these rows") and not is_picture(file, "of others")
        for damaged in (whole[:-20], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], b""):
            file.write_bytes(damaged)
            assert not is_picture(file, "of these rows")


def test_a_run_whose_pdf_is_lost_draws_it_again(ltx: Callable[..., Result], finished: Path) -> None:
    paper = finished / "plots" / "levels.pdf"
    paper.unlink()
    assert ltx("run", *TINY).code == 0
    assert paper.read_bytes().startswith(b"%PDF")


def test_every_kind_of_control_has_words_of_its_own() -> None:
    assert set(KINDS) == set(control.KINDS)
