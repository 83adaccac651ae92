"""Small sets of images in the formats that real ones come in, with classes that a network learns in a few steps."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ltx.config.names import CONF
from ltx.data.images import Data
from ltx.store.files import read_yaml

Format = Literal["parquet", "file", "flat", "folder", "saved"]
Array = np.ndarray[Any, Any]

NAMED = {
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "mnist": [str(digit) for digit in range(10)],
}  # classes of sets that tests look at by name; of the others they are c000, c001, ...
FOLDERS = {"cifar10": "plain_text", "mnist": "mnist", "fashion_mnist": "fashion_mnist", "cifar100": "cifar100"}
TEST = {"tiny_imagenet": "valid"}  # what the Hub's repository calls the part to test


def write_images(
    folder: Path,
    name: str = "cifar10",
    train: int = 200,
    test: int = 60,
    format: Format = "parquet",
    encoding: Literal["PNG", "JPEG"] = "PNG",
    seed: int = 0,
) -> Path:
    """Write a stand-in for a data set of the group `data` and return what `data.path` should be.

    Same arguments, same pixels, whatever the format. parquet: a folder as on the Hub, with its columns and folders;
    file: one parquet file, without a part to test where `test` is 0; flat: parquet files without a folder between;
    folder: train/<class>/0001.png; saved: what `save_to_disk` writes. `name` may be images: 3x16x16 and four classes.
    """
    parts = {part: drawn(name, count, seed, part) for part, count in (("train", train), ("test", test)) if count}
    files = {part: [encoded(x, encoding) for x in pixels] for part, (pixels, _) in parts.items()}
    labels = {part: y for part, (_, y) in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if format == "folder":
        for part, images in files.items():
            for i, (image, label) in enumerate(zip(images, labels[part], strict=True)):
                place = folder / part / names(name)[label]
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{i:04d}.{encoding.lower()}").write_bytes(image)
        return folder
    tables = {part: table(name, images, labels[part]) for part, images in files.items()}
    if format == "saved":
        import datasets

        made = {part: datasets.Dataset(found) for part, found in tables.items()}
        datasets.DatasetDict(made).save_to_disk(str(folder))
        return folder
    import pyarrow.parquet

    below = folder / FOLDERS.get(name, "data") if format == "parquet" else folder
    below.mkdir(exist_ok=True)
    for part, found in tables.items():
        pyarrow.parquet.write_table(
            found, below / f"{TEST.get(name, part) if part == 'test' else part}-00000-of-00001.parquet"
        )
    return folder / "train-00000-of-00001.parquet" if format == "file" else folder


def names(name: str) -> list[str]:
    """Return the names of the classes."""
    count = read_yaml(CONF / "data" / f"{name}.yaml")["classes"] or 4
    return NAMED.get(name) or [f"c{i:03d}" for i in range(count)]


def drawn(name: str, count: int, seed: int = 0, part: str = "train") -> tuple[Array, Array]:
    """Draw images, uint8 (count, C, H, W), and labels: noise with a bright patch whose place and colour is the class's.

    Every class has about as many images as any other, the first ones one of each.
    """
    shape = read_yaml(CONF / "data" / f"{name}.yaml").get("shape") or [3, 16, 16]
    channels, height, width = shape
    rng = np.random.default_rng([seed, count, part == "test"])
    labels = np.arange(count) % len(names(name))
    pixels = rng.integers(0, 100, (count, *shape), dtype="uint8")
    side = max(2, height // 4)
    for i, label in enumerate(labels):
        top, left = label % 4 * (height // 4), label // 4 % 4 * (width // 4)
        colour = [255 - 60 * (label // 16 + channel * (label % 3)) % 200 for channel in range(channels)]
        pixels[i, :, top : top + side, left : left + side] = np.array(colour)[:, None, None]
    return pixels, labels


def encoded(pixels: Array, encoding: str = "PNG") -> bytes:
    """Return an image (C, H, W) as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, encoding)
    return file.getvalue()


def table(name: str, images: list[bytes], labels: Array) -> Any:
    """Return the Arrow table of a part as the Hub's parquet files hold it, features in the metadata."""
    import pyarrow

    yaml = read_yaml(CONF / "data" / f"{name}.yaml")
    image, label = yaml["image"] or "image", yaml["label"] or "label"
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(images)]
    features = {image: {"_type": "Image"}, label: {"names": names(name), "_type": "ClassLabel"}}
    found = pyarrow.table({image: pyarrow.array(rows, kind), label: pyarrow.array(labels, pyarrow.int64())})
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def data(path: Path | None, name: str = "cifar10", **fields: Any) -> Data:
    """Return a data set of a yaml with other values."""
    node = read_yaml(CONF / "data" / f"{name}.yaml")
    del node["name"]
    return Data(**{**node, "path": None if path is None else str(path), **fields})
