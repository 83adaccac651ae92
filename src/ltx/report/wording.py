"""What methods, models, data and config keys are called in a picture: in words, never by a key of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from ltx.config.names import CONF
from ltx.config.spec import Spec

METHODS = {
    "dense": "dense",
    "imp": "IMP",
    "edge_popup": "edge-popup",
    "biprop": "biprop",
    "supermask": "supermask",
    "gem_miner": "Gem-Miner",
    "at_init": "pruned at initialisation",
    "ticket_sample": "sampled",
    "ticket_split": "split",
    "control": "control",
}
CRITERIA = {
    "random": "random",
    "erk": "ERK",
    "magnitude": "initial magnitude",
    "snip": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
}
KINDS = {
    "ticket": "trained once more",
    "reinit": "reinitialised",
    "reinit_signs": "reinitialised with their signs kept",
    "signed_constant": "as signed constants",
    "shuffle": "masks shuffled within layers",
    "random": "random masks of the same layer densities",
    "data_order": "trained in another data order",
    "untrained": "not trained",
    "own_init": "from an initialisation of their own",
    "transport": "from an initialisation of their own, units matched",
    "invert": "masks inverted",
}
MODELS = {"lenet": "LeNet", "convnet": "ConvNet", "mlp": "MLP", "vgg_small": "VGG-Small"} | {
    f"{name}{depth}": f"{word}-{depth}"
    for name, word, depths in (
        ("conv", "Conv", (2, 4, 6, 8)),
        ("resnet", "ResNet", (18, 20, 32, 34, 44, 50, 56, 110)),
        ("vgg", "VGG", (11, 13, 16, 19)),
        ("wideresnet", "WideResNet", (50,)),
    )
    for depth in depths
}
SHAPES = ("stages", "average", "hidden", "stem", "stem_channels", "blocks", "channels", "expansion")
DATA = {"digits": "8×8 digits", "canvas": "canvas digits", "mnist1d": "MNIST-1D"}
OPTIMISERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}
VALUES = {
    "method": METHODS,
    "model": MODELS,
    "data": DATA,
    "optim": OPTIMISERS,
    "method.criterion": CRITERIA,
    "method.kind": KINDS,
}
KEYS = {
    "width": "width (multiple of the model's hidden units)",
    "optim": "optimiser",
    "optim.lr": "learning rate",
    "optim.steps": "training steps",
    "optim.batch": "batch size (examples)",
    "optim.warmup": "warm-up (steps)",
    "method.levels": "pruning levels",
    "method.fraction": "share of weights pruned at each level",
    "method.density": "density asked for (share of weights kept)",
    "method.rewind": "rewinding step",
    "method.kind": "control",
    "model.init": "initialisation",
}


def plain(name: str) -> str:
    """Return a name without underscores, and a class of the user's own, `package.module:Class`, by the class."""
    return name.rpartition(":")[2].replace("_", " ")


def of_key(key: str) -> str:
    """Name a key of a config, with its unit where it has one."""
    return KEYS.get(key) or plain(key.rpartition(".")[2])


def of_values(key: str, values: Iterable[Any]) -> dict[str, str]:
    """Name the values of a key by their text; two classes of one name stay apart by their modules."""
    texts = list(dict.fromkeys(map(str, values)))
    found = {text: VALUES.get(key, {}).get(text) or plain(text) for text in texts}
    if len(set(found.values())) < len(found):
        return {text: text for text in texts}
    return {text: f"{of_short_key(key)} {number(text)}" if is_bare(text) else name for text, name in found.items()}


def is_bare(text: str) -> bool:
    """Tell whether a value says nothing without its key."""
    return is_number(text) or text in ("None", "null", "true", "false")


def number(text: str) -> str:
    """Write a number without zeros that say nothing, and a missing value as such."""
    return f"{float(text):g}" if is_number(text) else "unset" if text in ("None", "null") else text


def of_short_key(key: str) -> str:
    """Name a key without its unit, to stand before a value."""
    return of_key(key).partition(" (")[0]


def is_number(text: str) -> bool:
    """Tell whether a text is a finite number."""
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def model(spec: Spec) -> str:
    """Name a model: of ltx's small ones also the hidden units at width 1, of the others what differs from its yaml."""
    config = spec.config["model"]
    name = MODELS.get(config["name"])
    if name is None:
        return plain(config["name"])
    if config["name"] in ("lenet", "convnet", "mlp"):
        return "-".join(map(str, [name, *(config.get("hidden") or config.get("channels") or [])]))
    usual = yaml.safe_load((CONF / "model" / f"{config['name']}.yaml").read_text())
    changed = [f"{plain(key)} {config[key]}" for key in SHAPES if key in usual and config[key] != usual[key]]
    return f"{name} ({', '.join(changed)})" if changed else name


def data(spec: Spec) -> str:
    """Name a data set."""
    return DATA.get(spec.config["data"]["name"]) or plain(spec.config["data"]["name"])


def network(spec: Spec) -> str:
    """Say which network a run is of and what it learns."""
    width = spec.config["width"]
    return f"{model(spec)}, width {width:g}, on {data(spec)}" if width != 1 else f"{model(spec)} on {data(spec)}"


def subject(spec: Spec) -> str:
    """Say what a run trains or finds."""
    method = spec.config["method"]
    if method["name"] == "control" and spec.trunk is not None:
        return f"{subject(spec.trunk)}, {KINDS.get(method['kind']) or plain(method['kind'])},"
    if method["name"] == "dense":
        return "dense networks"
    name = METHODS.get(method["name"]) or plain(method["name"])
    if method["name"] == "at_init":
        name = CRITERIA[method["criterion"]]
    return f"{'one-shot ' if method.get('one_shot') else ''}{name} tickets"


def title(spec: Spec) -> str:
    """Say what a run is."""
    return capital(f"{subject(spec)} of {network(spec)}")


def titles(specs: Sequence[Spec]) -> str:
    """Say what the runs of a sweep have in common, to stand after the name of a score."""
    subjects, networks = {subject(spec) for spec in specs}, {network(spec) for spec in specs}
    models, sets = {model(spec) for spec in specs}, {data(spec) for spec in specs}
    text = f" of {subjects.pop()}" if len(subjects) == 1 else ""
    if len(networks) == 1:
        return f"{text} of {networks.pop()}"
    text += f" of {models.pop()}" if len(models) == 1 else ""
    return text + (f" on {sets.pop()}" if len(sets) == 1 else "")


def capital(text: str) -> str:
    """Begin a text with a capital."""
    return text[:1].upper() + text[1:]


def training(spec: Spec) -> str:
    """Say how a run trains."""
    optim, steps = spec.config["optim"], spec.plan(0)
    if steps.last == steps.first:
        return "Nothing is trained."
    name = OPTIMISERS.get(optim["name"], optim["name"])
    return f"Trained for {steps.last:,} steps of {name} at learning rate {optim['lr']:g}."


def score(spec: Spec) -> tuple[str, float]:
    """Return what the columns call accuracy, and the least it can be; the most is 1."""
    return ("test R²", float("-inf")) if spec.facts.task == "regression" else ("test accuracy", 0)


def seeds(counts: Iterable[int]) -> str:
    """Say over how many seeds a mean is, and which interval is drawn around it."""
    numbers = sorted(set(counts))
    if numbers == [1]:
        return "One seed, so that no interval is known."
    n = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"Mean over {n} seeds; bars and bands: its 95 % Student-t interval, within what is possible."
