"""Who may import whom, read from the source: dependencies point one way, and each heavy library has one door."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import ltx

SOURCE = Path(ltx.__file__).parent

# From the bottom up: a room imports from its own row and those above it here.
ROWS = (
    ("errors", "streams", "tensors", "masks", "symmetry", "analysis"),
    ("store",),
    ("models", "data", "methods"),
    ("training",),
    ("config",),
    ("launch", "report"),
    ("runs",),
    ("api",),
    ("identity",),
    ("export", "figures"),
    ("cli",),
)
DOORS = {
    "hydra": {"config.compose"},
    "omegaconf": {"config.compose"},
    "lightning": {"training.fit"},
    "wandb": {"report.mirror"},
    "rich": {
        "report.lines",
        "report.progress",
        "report.grid",
        "report.status",
        "report.tables",
        "report.diff",
        "report.identity_words",
        "report.tail_words",
        "report.watch",
        "cli.clean",
        "cli.compare",
        "cli.doctor",
        "cli.look",
        "cli.status",
        "cli.tail",
        "cli.training",
    },
    "pydantic": {"config.schema", "config.spec"},
    "bokeh": {"report.page_drawing"},
    "jinja2": {"report.page"},
    "datasets": {"data.sources"},
    "huggingface_hub": {"data.sources"},
    "PIL": {"data.decode", "data.encoded"},
}


def modules() -> dict[str, Path]:
    """Return the dotted name below ltx and the path of every module."""
    names = {path: path.relative_to(SOURCE).with_suffix("").parts for path in SOURCE.rglob("*.py")}
    return {".".join(part for part in parts if part != "__init__"): path for path, parts in names.items()}


def imported(path: Path, names: set[str]) -> tuple[set[str], set[str]]:
    """Return the modules of ltx and the other top-level packages that a file imports anywhere in it."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            top, _, rest = name.partition(".")
            if top == "ltx":
                ours.add(rest if rest in names else rest.rpartition(".")[0])
            else:
                others.add(top)
    return ours - {""}, others


MODULES = modules()


@functools.cache
def imports() -> dict[str, tuple[set[str], set[str]]]:
    """Return what each module imports; it takes a second, which only who runs these tests waits for."""
    return {name: imported(path, set(MODULES)) for name, path in MODULES.items()}


def row(name: str) -> int:
    """Return where a module stands, a submodule as its package."""
    top = name.partition(".")[0]
    for index, members in enumerate(ROWS):
        if top in members:
            return index
    raise AssertionError(f"ltx.{name} has no place yet: give it one in ROWS of {Path(__file__).name}")


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_a_module_imports_nothing_that_stands_above_it(name):
    above = {other for other in imports()[name][0] if row(other) > row(name)}
    assert not above, f"ltx.{name} imports {sorted(above)}, which may import it"


def test_no_module_imports_itself_in_a_circle():
    def reach(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        for other in imports()[name][0] - {name}:
            if other not in checked:
                reach(other, (*path, name))
        checked.add(name)

    checked: set[str] = set()
    for name in MODULES:
        reach(name, ())


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library):
    users = {name for name, (_, others) in imports().items() if library in others}
    assert users and users <= DOORS[library], f"{library} is imported by {sorted(users - DOORS[library])}"


def test_the_hydra_plugin_knows_nothing_of_ltx():
    for path in (SOURCE.parent / "hydra_plugins").glob("*.py"):
        ours, others = imported(path, set(MODULES))
        assert "hydra" in others and not ours


@pytest.mark.parametrize("name", [name for name in MODULES if row(name or "errors") == 0])
def test_what_stands_at_the_bottom_does_no_files_and_no_processes(name):
    reaching = {"os", "pathlib", "io", "subprocess", "multiprocessing", "time", "tempfile", "shutil"}
    assert not imports()[name][1] & reaching


@pytest.mark.parametrize("name", sorted(MODULES))
def test_randomness_comes_from_streams_alone(name):
    """No module calls torch's or numpy's global generators, or makes a generator of its own."""
    if name == "streams":
        return
    drawn = []
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            text = ast.unparse(node.func)
            if text.startswith(("np.random.", "random.", "torch.rand", "torch.normal")) or text.endswith(
                ".default_rng"
            ):
                drawn.append(text)
    assert drawn in ([], ["torch.random.fork_rng"]), f"ltx.{name} draws with {drawn}"
