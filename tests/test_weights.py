"""Pretrained starts: a file's weights are where every method and control begins, and what a key says of them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Result, only, tree
from helpers import same, spec, trained
from safetensors.torch import load_file, save_file

from ltx import open_run
from ltx.config.compose import CONF, compose, parse
from ltx.config.matching import Held, matched, renamed
from ltx.config.spec import Spec
from ltx.config.weights import PICKLES, header
from ltx.config.words import text
from ltx.errors import BadInput
from ltx.methods import control
from ltx.runs.worker import run_seed
from ltx.store.files import unpack
from ltx.streams import Streams
from ltx.tensors import Tensors, matrices, under

Ltx = Callable[..., Result]
MLP = ("model=mlp", "model.hidden=[6,5]", "model.bias=false", "model.affine=false")
SHORT = ("optim.steps=4", "optim.batch=40", "seeds=1")
BASE = (*MLP, *SHORT)
SETS = """
import numpy as np

X, Y = np.random.default_rng(0).normal(size=(120, 4)), np.arange(120) % 6


class Whole:
    def load(self):
        return X, Y


class Half:
    def load(self):
        return X[Y < 3], Y[Y < 3]
"""


def planted(*words: str, seed: int = 7) -> Tensors:
    """Return values for every tensor of a run's network, none of which any initialisation would draw."""
    drawn = torch.Generator().manual_seed(seed)
    state = spec(*(words or BASE)).network().state_dict()
    return {
        name: (2 + torch.rand(value.shape, generator=drawn)).mul(
            torch.rand(value.shape, generator=drawn).sub(0.5).sign()
        )
        if value.ndim > 1
        else torch.full_like(value, 3)
        for name, value in state.items()
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file of planted weights of the small network."""
    save_file(planted(), tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


def content(group: str, name: str) -> dict[str, Any]:
    """Return the values of a yaml."""
    found = yaml.safe_load(Path(CONF, group, f"{name}.yaml").read_text())
    return {key: value for key, value in found.items() if key not in ("defaults", "recipe")}


def started(file: Path, method: str = "dense", **changed: Any) -> Spec:
    """Return a short run of a method that starts from a file."""
    changed |= {"levels": 1} if method == "imp" else {"freeze_every": 2} if method == "gem_miner" else {}
    base = compose(["device=cpu", *BASE, f"model.weights={file}"], [])
    return Spec.of({**base, "root": str(file.parent / "root"), "method": content("method", method) | changed})


def levels_of(found: Spec, seed: int = 0) -> list[tuple[Tensors, dict[str, Any]]]:
    """Train a seed where its run lies, and read its levels."""
    return trained(found, found.directory, seed)


# What a run begins with.


def test_a_ticket_of_one_task_is_a_start_on_another_and_imp_rewinds_to_it(ltx: Ltx, root: Path) -> None:
    Path("halves.py").write_text(SETS)
    own = ("run", "data=own", "model.hidden=[7,5]", "optim.steps=15", "optim.batch=20", "seeds=1")
    assert ltx(*own, "data.name=halves:Half", "method=dense").code == 0
    source = only(root) / "seed_000" / "level_00.safetensors"
    words = (*own, "data.name=halves:Whole", "method.levels=1", f"model.weights={source}")
    refused = ltx(*words)
    assert refused.code == 2 and "'model.rename={end/:\"\"}'" in refused.err and len([*root.glob("runs/*")]) == 1
    result = ltx(*words, 'model.rename={end/:""}')
    assert result.code == 0, result.err
    assert result.err.count("drawn anew") == 1
    assert "out.weight is 3x5 in the file and 6x5 in the network and out.bias is 3" in result.err
    (first, _), (second, _) = (unpack(result.folder / "seed_000" / f"level_0{n}.safetensors") for n in (0, 1))
    end, begin, again = under("end", unpack(source)[0]), under("begin", first), under("begin", second)
    body = [name for name in end if not name.startswith("out.")]
    assert len(body) == 4 and all(torch.equal(begin[name], end[name]) for name in body)
    assert not all(torch.equal(end[name], under("begin", unpack(source)[0])[name]) for name in body)
    assert begin["out.weight"].shape == (6, 5) and not begin["out.bias"].any()
    mask = under("mask", second)
    assert {*mask} == {"fc1.weight", "fc2.weight"} and any(not m.all() for m in mask.values())
    assert all(torch.equal(again[name], begin[name] * mask.get(name, 1)) for name in begin)


# A control needs a trunk, and what is sampled takes no norms: tests/test_ticket_sample.py, test_ticket_split.py.
ELSEWHERE = ("control", "ticket_sample", "ticket_split")
METHODS = sorted(path.stem for path in Path(CONF, "method").glob("*.yaml") if path.stem not in ELSEWHERE)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_begins_with_the_weights_of_the_file(method: str, file: Path) -> None:
    found, values = started(file, method), load_file(file)
    for tensors, meta in levels_of(found):
        begin, mask = under("begin", tensors), under("mask", tensors)
        assert begin.keys() == values.keys() and math.isfinite(meta["row"]["test_loss"])
        for name, value in values.items():
            kept = mask.get(name, torch.ones_like(value, dtype=torch.bool))
            factor = found.method.factor if name in mask else 1.0
            assert torch.equal(begin[name][kept], (value * factor)[kept]), name


@pytest.mark.parametrize("criterion", ["random", "magnitude", "snip", "grasp", "synflow"])
def test_every_criterion_at_initialisation_ranks_the_weights_of_the_file(criterion: str, file: Path) -> None:
    found = started(file, "at_init", criterion=criterion, density=0.5)
    ((tensors, _),) = levels_of(found)
    mask, values = under("mask", tensors), load_file(file)
    if criterion == "magnitude":
        sizes = torch.cat([values[name].abs().flatten() for name in mask])
        kept = torch.cat([keep.flatten() for keep in mask.values()])
        assert sizes[kept].min() >= sizes[~kept].max()
    assert all(torch.equal(under("begin", tensors)[n][keep], values[n][keep]) for n, keep in mask.items())


@pytest.mark.parametrize("kind", control.KINDS)
def test_a_control_keeps_the_files_weights_or_draws_others_at_random(kind: str, file: Path) -> None:
    below, values = started(file, "imp"), load_file(file)
    levels_of(below)
    method = content("method", "control") | {"kind": kind, "trunk_level": 1, "trunk_seed": 0}
    found = Spec.of({**below.config, "method": method, "trunk": below.config})
    ((tensors, _),) = levels_of(found)
    begin, mask = under("begin", tensors), under("mask", tensors)
    drawn = found.network(streams=Streams.of(-1, dict.fromkeys(("init", "order", "augment", "mask", "noise"))))
    for name in matrices(drawn):
        keep = mask.get(name, torch.ones_like(values[name], dtype=torch.bool))
        fresh, old = drawn.get_parameter(name).detach(), values[name]
        expected = {
            "reinit": fresh,
            "reinit_signs": old.sign() * fresh.abs(),
            "signed_constant": old.sign() * old.square().mean().sqrt(),
        }.get(kind, old)
        assert torch.equal(begin[name][keep], expected[keep]), name
        if kind.startswith("reinit"):
            assert fresh.abs().max() < 2 <= old.abs().min(), "a draw never looks like the planted weights"


def test_a_trunk_starts_from_the_file_and_what_stands_on_it_from_the_trunks_end(ltx: Ltx, file: Path) -> None:
    words = ("run", *BASE, f"model.weights={file}", "method.levels=0", "trunk={method:dense}")
    result = ltx(*words)
    assert result.code == 0, result.err
    (below,) = (path for path in result.folder.parent.iterdir() if path.name.startswith("dense"))
    trunk, above = (unpack(folder / "seed_000" / "level_00.safetensors")[0] for folder in (below, result.folder))
    assert same(under("begin", trunk), load_file(file)) and same(under("begin", above), under("end", trunk))


def test_seeds_differ_in_what_follows_the_start_and_not_in_the_start(file: Path) -> None:
    one, two = (levels_of(started(file), seed)[0][0] for seed in (0, 1))
    assert same(under("begin", one), under("begin", two)) and not same(under("end", one), under("end", two))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_any_kind_become_those_of_the_network_and_counters_may_be_missing(dtype, file: Path) -> None:
    values = {name: value.to(dtype) for name, value in planted().items() if not name.endswith("num_batches_tracked")}
    save_file(values, file)
    begin = under("begin", levels_of(started(file))[0][0])
    assert all(begin[name].dtype == torch.float32 and torch.equal(begin[name], v.float()) for name, v in values.items())
    assert begin["norm1.num_batches_tracked"] == 0 and begin["norm1.running_mean"].eq(3).all()


def test_a_file_without_a_head_leaves_the_head_as_it_is_drawn(ltx: Ltx, file: Path) -> None:
    save_file({name: value for name, value in planted().items() if name != "out.weight"}, file)
    result = ltx("run", *BASE, "method=dense", f"model.weights={file}")
    assert result.code == 0 and "out.weight is not in the file" in result.err, result.err
    begin = under("begin", unpack(result.folder / "seed_000" / "level_00.safetensors")[0])
    found = spec(*BASE, "method=dense")
    assert torch.equal(begin["out.weight"], found.network(streams=found.streams(0)).out.weight)
    assert torch.equal(begin["fc1.weight"], planted()["fc1.weight"])


# Names.


def test_the_longest_key_of_a_mapping_counts_and_names_without_one_are_left_out() -> None:
    names = ("encoder.a.w", "encoder.layer1.w", "head.w")
    asked = {"encoder.": "", "encoder.layer1.": "block1."}
    assert renamed(names, Path("f"), asked) == {"a.w": "encoder.a.w", "block1.w": "encoder.layer1.w"}
    with pytest.raises(BadInput, match=r"makes w of two names of f, a\.w and b\.w"):
        renamed(("a.w", "b.w"), Path("f"), {"a.": "", "b.": ""})


MAPPING = {"module.encoder.": "", "a/": "b."}


def test_a_mapping_is_written_as_it_is_read_on_the_command_line_and_in_yaml(file: Path) -> None:
    assert parse(f"model.rename={text(MAPPING)}").value() == MAPPING
    assert parse('model.rename={module.encoder.:"",a/:b.}').value() == MAPPING
    save_file({f"net/{name}": value for name, value in planted().items()}, file)
    typed = spec(*BASE, f"model.weights={file}", 'model.rename={net/:""}')
    folder = Path("mine/model")
    folder.mkdir(parents=True)
    (folder / "begun.yaml").write_text(f"defaults: [mlp, _self_]\nweights: {file}\nrename: {{net/: ''}}\n")
    words = [word for word in BASE if word != "model=mlp"]
    assert Spec.of(compose(["device=cpu", "model=begun", *words], ["mine"])).key == typed.key
    trunk = spec(*BASE, "method=control", f"trunk={{method:imp,model.weights:{file},model.rename:{{net/:''}}}}")
    assert trunk.trunk is not None and trunk.trunk.config["model"]["rename"] == {"net/": ""}


def test_a_prefix_of_every_kind_is_found_and_its_remedy_works(ltx: Ltx, file: Path) -> None:
    for prefix in ("module.", "model.", "end/"):
        both = {"begin/", prefix} if prefix == "end/" else {prefix}
        save_file({f"{one}{name}": value for one in both for name, value in planted().items()}, file)
        words = ("run", *BASE, "method=dense", f"model.weights={file}")
        said = ltx(*words, "--dry-run")
        assert said.code == 2 and f"take that off: 'model.rename={{{prefix}:\"\"}}'." in said.err
        assert ltx(*words, "--dry-run", said.err.split("'")[-2]).code == 0


# The key.


def test_a_key_holds_what_is_in_the_file_and_how_it_is_named_and_not_where_it_lies(file: Path) -> None:
    def key(*words: str, at: Path = file) -> str:
        return spec(*BASE, f"model.weights={at}", *words).key

    moved = shutil.copy(file, file.with_name("moved.safetensors"))
    save_file({f"{one}/{name}": value for one in "ab" for name, value in planted().items()}, file.with_name("two"))
    mapped = {key(f'model.rename={{{one}/:""}}', at=file.with_name("two")) for one in "ab"}
    first = key()
    assert key(at=Path(moved)) == first != spec(*BASE).key and len(mapped) == 2
    assert spec(*BASE, "model.weights=null").key == spec(*BASE, "model.rename=null").key == spec(*BASE).key
    trunk = "trunk={method:dense,model.weights:%s}"
    assert spec(*BASE, trunk % file).key == spec(*BASE, trunk % moved).key != spec(*BASE, "trunk={method:dense}").key
    save_file(planted(seed=8), file)
    assert key() not in (first, *mapped)


def test_a_moved_file_continues_the_run_and_a_finished_one_is_read_without_it(ltx: Ltx, file: Path) -> None:
    words = ("run", *BASE, "method.levels=1", "method=imp")
    first = ltx(*words, f"model.weights={file}")
    before, moved = tree(first.folder / "seed_000"), file.rename(file.with_name("moved.safetensors"))
    again = ltx(*words, f"model.weights={moved}")
    assert again.folder == first.folder and "nothing was left to train" in again.out
    assert tree(first.folder / "seed_000") == before
    moved.unlink()
    ticket = open_run(first.folder).ticket()
    assert torch.equal(ticket.begin["out.weight"], planted()["out.weight"])
    gone = ltx("run", "method=control", "method.kind=ticket", f"of={first.folder.name}", *SHORT)
    assert gone.code == 2 and "moved.safetensors is not there" in gone.err
    save_file(planted(), file)
    control = ("run", "method=control", "method.kind=own_init", f"of={first.folder.name}", *SHORT)
    assert ltx(*control, f"model.weights={file}").code == 0
    save_file(planted(seed=8), moved)
    other = ltx(*control, f"model.weights={moved}")
    assert other.code == 0, other.err
    begin, mask = (under(part, unpack(other.folder / "seed_000/level_00.safetensors")[0]) for part in ("begin", "mask"))
    assert all(torch.equal(begin[name], planted(seed=8)[name] * keep) for name, keep in mask.items())


def test_status_and_diff_show_the_digest_and_not_the_path(ltx: Ltx, file: Path) -> None:
    moved = shutil.copy(file, file.with_name("moved.safetensors"))
    for lr, at in ((1e-3, file), (2e-3, moved)):
        assert ltx("run", *BASE, "method=dense", f"model.weights={at}", f"optim.lr={lr}").code == 0
    entries = json.loads(ltx("status", "--json").out)
    assert [entry["differs"] for entry in entries] == [{"optim.lr": 1e-3}, {"optim.lr": 2e-3}]
    save_file(planted(seed=8), moved)
    assert ltx("run", *BASE, "method=dense", f"model.weights={moved}").code == 0
    entries = json.loads(ltx("status", "--json").out)
    digests = {entry["differs"]["model.weights_digest"] for entry in entries}
    assert len(digests) == 2 and all(len(digest) == 8 for digest in digests)
    assert not any("model.weights" in entry["differs"] for entry in entries)


def test_a_file_that_changed_meanwhile_is_not_trained_under_the_old_key(file: Path) -> None:
    found = started(file, "imp")
    save_file(planted(seed=8), file)
    for change in (lambda: None, file.unlink):
        change()
        with pytest.raises(OSError, match=r"no longer the file|is not there"):
            run_seed(found.config, str(found.directory), 0, lambda kind, value: None)
        assert not [*found.directory.glob("seed_000/level_*")] and not [*found.directory.glob("seed_000/failed.json")]
    save_file(planted(), file)
    assert same(under("begin", levels_of(found)[0][0]), load_file(file))


def test_a_header_as_long_as_a_pickle_begins_is_that_of_a_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    for extra in range(0, 400, 8):
        save_file({"a" * (1 + extra): torch.ones(2)}, path)
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes().startswith(PICKLES)
    assert [*header(path).values()] == [Held("floats", (2,))]


def test_what_is_no_tensor_of_the_network_is_named_with_the_nearest(file: Path) -> None:
    own = {"fc1.weight": Held("floats", (2, 3)), "out.weight": Held("floats", (4, 2))}

    def said(held: dict[str, Held]) -> list[str]:
        return matched(own, held, {name: name for name in held}, ["out.weight"])[1]

    assert said(own) == [] and said(own | {"out.weight": Held("floats", (5, 2))}) == []
    assert said({**own, "fc2.weight": own["fc1.weight"]}) == [
        "The network has no fc2.weight (nearest to fc2.weight: fc1.weight)."
    ]
    assert said({"fc1.weigth": own["fc1.weight"], "out.weight": own["out.weight"]})[0] == (
        "It lacks fc1.weight (nearest to fc1.weight: fc1.weigth)."
    )
    wrong = said({**own, "fc1.weight": Held("integers", (2, 3))})
    assert wrong == ["fc1.weight holds integers in the file and floats in the network."]
    assert said({"fc1.weight": Held("floats", (2, 4)), "out.weight": own["out.weight"]}) == [
        "fc1.weight is 2x4 in the file and 2x3 in the network."
    ]
