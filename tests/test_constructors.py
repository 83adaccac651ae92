"""Models by the name of a function: packages like timm and torchvision, whose constructors take what they do not name.

Neither can be installed everywhere, so each test that needs one writes a small package with its signatures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Result
from helpers import spec
from safetensors.torch import save_file

from ltx.config.spec import Spec
from ltx.errors import BadInput

Ltx = Callable[..., Result]
SHORT = ("method.levels=0", "optim.steps=2", "optim.batch=20", "seeds=1")

FACTORY = """
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Union

from torch import nn

SEEN = []


def small(num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0, act=None, dims=(6,)):
    hidden = [nn.Linear(in_chans * 64, dims[0]), nn.ReLU(), nn.Dropout(drop_rate)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(dims[0], num_classes))


def create_model(
    model_name: str,
    pretrained: bool = False,
    pretrained_cfg: Optional[Union[str, Dict[str, Any]]] = None,
    checkpoint_path: Optional[Union[str, Path]] = None,
    scriptable: Optional[bool] = None,
    **kwargs,
):
    SEEN.append(kwargs)
    if pretrained:
        raise RuntimeError("could not reach the hub")
    if model_name != "small":
        raise RuntimeError(f"Unknown model ({model_name})")
    return small(**kwargs)
"""
VISION = """
from enum import Enum
from typing import Any, Optional

from torch import nn

from {package}._utils import handle_legacy_interface


class ResNet18_Weights(Enum):
    IMAGENET1K_V1 = "url"
    DEFAULT = "url"


@handle_legacy_interface(weights=("pretrained", ResNet18_Weights.IMAGENET1K_V1))
def resnet18(*, weights: Optional[ResNet18_Weights] = None, progress: bool = True, **kwargs: Any) -> nn.Module:
    if isinstance(weights, str):
        weights = ResNet18_Weights[weights]
    if weights is not None:
        raise OSError("would download")
    classes = kwargs.pop("num_classes", 1000)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, classes), **kwargs)
"""
UTILS = """
import functools


def handle_legacy_interface(**legacy):
    def outer(builder):
        @functools.wraps(builder)
        def inner(*args, **kwargs):
            return builder(*args, **kwargs)

        return inner

    return outer
"""


@pytest.fixture
def package(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Return the name and the folder of an installed package that has both constructors."""
    name = f"package_{abs(hash(request.node.name))}"
    folder = tmp_path / "site-packages" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(f'__version__ = "1.0"\n\nfrom {name}.factory import create_model\n')
    (folder / "factory.py").write_text(FACTORY)
    (folder / "_utils.py").write_text(UTILS)
    (folder / "vision.py").write_text(VISION.format(package=name))
    sys.path.append(str(folder.parent))
    return name, folder


def timm(package: tuple[str, Path], *words: str) -> tuple[str, ...]:
    """Return the words that name the package's factory."""
    return (*SHORT, "model=own", f"model.name={package[0]}:create_model", "model.model_name=small", *words)


def vision(package: tuple[str, Path], *words: str) -> tuple[str, ...]:
    """Return the words that name the package's decorated constructor."""
    return (*SHORT, "model=own", f"model.name={package[0]}.vision:resnet18", *words)


DIGITS = ("model.num_classes=10", "model.in_chans=1")


def test_fields_that_a_function_does_not_name_are_passed_on_and_are_in_the_key(package, ltx: Ltx) -> None:
    result = ltx("run", *timm(package, *DIGITS, "model.drop_rate=.5", "model.dims=[4]"))
    assert result.code == 0, result.err
    seen = sys.modules[f"{package[0]}.factory"].SEEN
    assert seen and all(kwargs == {"num_classes": 10, "in_chans": 1, "drop_rate": 0.5, "dims": [4]} for kwargs in seen)
    found = spec(*timm(package, *DIGITS))
    keys = {spec(*timm(package, *DIGITS, *more)).key for more in ([], ["model.drop_rate=.5"], ["model.dims=[4]"])}
    assert len(keys) == 3 and found.network()[1].out_features == 6
    assert spec(*timm(package, *DIGITS, "model.drop_rate=null")).key == found.key, (
        "null leaves the function its default"
    )


@pytest.mark.parametrize("which", [timm, vision])
def test_a_function_starts_from_a_file_or_says_how(which: Any, package, ltx: Ltx, tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    words = which(package, *(DIGITS if which is timm else DIGITS[:1]))
    found = spec(*words)
    save_file(found.network(streams=found.streams(9)).state_dict(), path)
    result = ltx("run", *words, f"model.weights={path}")
    if which is timm:
        assert result.code == 0, result.err
        return
    assert result.code == 2 and "an argument of its own and no start of ltx" in result.err
    assert "name a function of yours that calls it and has no such argument" in result.err
    Path("mine_vision.py").write_text(
        f"from {package[0]}.vision import resnet18\n\n\ndef net(classes):\n    return resnet18(num_classes=classes)\n"
    )
    assert ltx("run", *SHORT, "model=own", "model.name=mine_vision:net", f"model.weights={path}").code == 0


def test_a_constructors_own_argument_weights_is_its_own(package, ltx: Ltx) -> None:
    result = ltx("run", *vision(package, "model.num_classes=10", "model.weights=IMAGENET1K_V1"))
    assert result.code == 2 and "OSError: would download" in result.err and "start of ltx" not in result.err
    found = spec(*vision(package, "model.num_classes=10", "model.progress=false")).config["model"]
    assert found["progress"] is False and found["weights"] is None and "rename" not in found


REFUSED = {
    "too many outputs, by **kwargs": (timm, ["model.in_chans=1"], "returns shape (2, 1000) for 2 examples"),
    "the remedy": (timm, ["model.in_chans=1"], "Give it model.num_classes=10."),
    "the remedy of a decorated one": (vision, [], "Give it model.num_classes=10."),
    "a misspelt field": (timm, [*DIGITS, "model.drop_rat=.5"], "unexpected keyword argument 'drop_rat'"),
    "a misspelt value": (timm, [*DIGITS, "model.pretrained=yes"], "model.pretrained=yes: should be true or false"),
    "an unknown model": (timm, [*DIGITS, "model.model_name=smal"], "RuntimeError: Unknown model (smal)."),
    "a download": (timm, [*DIGITS, "model.pretrained=true"], "RuntimeError: could not reach the hub."),
    "a width": (timm, [*DIGITS, "width=2"], "takes no width, so that width=2 would change nothing"),
    "a mapping where weights are its own": (
        vision,
        ["model.rename={a:b}"],
        "model.weights is an argument of the model's",
    ),
    "a width of the decorated one": (vision, ["model.num_classes=10", "width=2"], "takes no width"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_packages_constructor_refuses_is_one_paragraph(kind: str, package, ltx: Ltx, root: Path) -> None:
    which, words, said = REFUSED[kind]
    result = ltx("run", *which(package, *words))
    assert result.code == 2 and said in result.err and len(result.err.strip().splitlines()) == 1, result.err
    assert not root.exists()


KWARGS = """
from torch import nn


def net(classes, **kwargs):
    assert not kwargs.keys() & {"width", "input_shape", "weights", "rename", "weights_digest", "init"}
    units = kwargs.get("units", 5)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, units), nn.Linear(units, classes))


class Bare(nn.Module):
    pass
"""


def test_what_comes_from_the_run_is_given_where_it_is_named_and_cannot_be_set(ltx: Ltx) -> None:
    Path("own_kwargs.py").write_text(KWARGS)
    words = (*SHORT, "model=own", "model.name=own_kwargs:net")
    assert spec(*words, "model.units=7").network()[1].out_features == 7
    with pytest.raises(BadInput, match=r"model\.classes is no field: the model has its classes from the run"):
        spec(*words, "model.classes=3")
    with pytest.raises(BadInput, match=r"model\.units is not a field of model=own_kwargs:Bare"):
        spec(*SHORT, "model=own", "model.name=own_kwargs:Bare", "model.units=7")


def test_the_version_of_an_installed_package_is_in_the_key_and_that_of_ones_own_is_not(package) -> None:
    found = spec(*timm(package, *DIGITS))
    before = found.key
    module = sys.modules[package[0]]
    module.__version__ = "1.1"
    assert Spec.of(found.config).key != before
    module.__version__ = "1.0"
    assert Spec.of(found.config).key == before
    Path("own_versioned.py").write_text(f'__version__ = "1.0"\n{KWARGS}')
    own = spec(*SHORT, "model=own", "model.name=own_versioned:net")
    before = own.key
    sys.modules["own_versioned"].__version__ = "1.1"
    assert Spec.of(own.config).key == before


def test_the_file_of_a_decorated_function_is_in_the_key_and_not_that_of_its_decorator(package) -> None:
    found = spec(*vision(package, "model.num_classes=10"))
    before = found.key
    (package[1] / "_utils.py").write_text(f"{UTILS}\n# changed\n")
    assert Spec.of(found.config).key == before
    (package[1] / "vision.py").write_text(f"{VISION}\n# changed\n")
    assert Spec.of(found.config).key != before
