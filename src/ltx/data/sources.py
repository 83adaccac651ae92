"""Where images come from: a data set of the Hugging Face Hub, or a file or folder in one of its formats.

The only importer of `datasets`, which takes over a second: nothing here needs it before a source is really read.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltx.data.origin import Images, Layout, Opened, Source, canonical, check_labels, files, folders, layout
from ltx.errors import BadInput, described, nearest, notice


def opened(source: Source, scratch: Path) -> Opened:
    """Read a source; `scratch` is a folder for what `datasets` writes. Raises BadInput naming what does not fit."""
    if source.path is None:
        return tabular(source, from_hub(source), str(source.hub), {})
    place, listed = source.place, [name for name, _, _ in files(source.place)]
    kind = layout(place, listed)
    if kind == "images":
        return folders(place, listed, source.classes)
    found, parquet = from_disk(place, kind, listed, scratch)
    return tabular(source, found, str(place), parquet)


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Import `datasets` and keep its progress bars, warnings and logging to itself; give it back."""
    import logging
    import warnings

    import datasets

    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    hub = logging.getLogger("huggingface_hub")
    before = hub.level
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    hub.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield datasets
    finally:
        datasets.logging.set_verbosity(level)
        hub.setLevel(before)
        if not bars:
            datasets.enable_progress_bars()


def from_disk(
    place: Path, kind: Layout, listed: Sequence[str], scratch: Path
) -> tuple[dict[str, Any], dict[str, list[tuple[str, int]]]]:
    """Return the parts of parquet files or of a saved set, as `datasets` has them, and the parquet files of each."""
    rows = {}
    if kind == "parquet":
        paths = [place / name if place.is_dir() else place for name in listed if name.endswith(".parquet")]
        rows = {str(path): rows_of(path) for path in paths}
    with quiet() as datasets:
        try:
            if kind == "saved":
                found = datasets.load_from_disk(str(place))
                return dict(found) if isinstance(found, dict) else {"train": found}, {}
            given: dict[str, Any] = {"path": str(place)}
            if not place.is_dir():
                given = {"path": "parquet", "data_files": {"train": str(place)}}
            builder = datasets.load_dataset_builder(**given, cache_dir=str(scratch))
            builder.download_and_prepare()
            found = dict(builder.as_dataset())
            names = {str(part): [str(name) for name in of] for part, of in builder.config.data_files.items()}
        except Exception as error:  # pyarrow's and `datasets`' own, of what is wrong inside a file
            check_disk(error)
            raise BadInput(f"data.path={place} cannot be read: {described(cause(error))}.") from error
    return found, {part: [(name, rows.get(name, 0)) for name in of] for part, of in names.items()}


def rows_of(path: Path) -> int:
    """Return the number of rows of a parquet file. Raises BadInput where it is none, or not whole."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return int(file.metadata.num_rows)
    except (OSError, pyarrow.ArrowException) as error:
        raise BadInput(f"{path} is no parquet file, or not a whole one: {described(error)}.") from error


def from_hub(source: Source) -> dict[str, Any]:
    """Return the parts of a set of the Hub, fetched unless `datasets` has it. Raises BadInput where it cannot be."""
    with quiet() as datasets:
        offline = not hub_answers(source)
        if not offline:
            notice(f"fetching {source.hub} from the Hugging Face Hub, once for all runs.")
        before = datasets.config.HF_HUB_OFFLINE
        datasets.config.HF_HUB_OFFLINE = before or offline  # otherwise it tries again and again for half a minute
        try:
            return dict(datasets.load_dataset(source.hub, revision=source.revision))
        except ConnectionError as error:
            name = str(source.hub).rpartition("/")[2]
            raise BadInput(
                f"{source.hub} is not on this machine and the Hugging Face Hub cannot be reached. On a machine with "
                f"a network run `hf download {source.hub} --repo-type dataset --local-dir {name}`, bring the folder "
                f"here, and add data.path={name}."
            ) from error
        except datasets.exceptions.DatasetNotFoundError as error:
            raise BadInput(f"data.hub={source.hub}: {' '.join(str(error).split()).rstrip('.')}.") from error
        except Exception as error:  # whatever the libraries below raise where a download or a file in it is faulty
            check_disk(error)
            raise BadInput(f"data.hub={source.hub} cannot be fetched: {described(cause(error))}.") from error
        finally:
            datasets.config.HF_HUB_OFFLINE = before


def hub_answers(source: Source) -> bool:
    """Tell whether the Hub answers, even if only that it has no such set."""
    import huggingface_hub

    try:
        huggingface_hub.HfApi().dataset_info(str(source.hub), revision=source.revision, timeout=10)
    except huggingface_hub.errors.HfHubHTTPError:
        return True
    except Exception:  # no network, in the words of whichever library noticed first
        return False
    return True


def cause(error: BaseException) -> BaseException:
    """Return the error at the root of a chain: `datasets` raises one that says little of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def check_disk(error: BaseException) -> None:
    """Raise the OSError behind an error that is about writing: the source is not to blame for a full disk."""
    root = cause(error)
    if isinstance(root, OSError) and root.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        raise root
    if "Not enough disk space" in str(error):  # `datasets` looks before it writes
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def tabular(source: Source, parts: Mapping[str, Any], where: str, parquet: Mapping[str, Any]) -> Opened:
    """Read the columns of images and labels of a set that `datasets` has opened."""
    import datasets

    found, notes = canonical(parts, where)
    features = found["train"].features
    image = image_column(source, features, where)
    label = label_column(source, features, image, where)
    secret = [name for name, one in parts.items() if label in one.features and one.unique(label) == [-1]]
    if secret:
        found, notes = canonical({name: one for name, one in parts.items() if name not in secret}, where)
        notes += [f"the part {name} is left out: its labels are secret" for name in secret]
    of_part = {part: next(name for name in parts if parts[name] is one) for part, one in found.items()}
    columns = {}
    for part, one in found.items():
        lacking = [column for column in (image, label) if column not in one.features]
        if lacking:
            raise BadInput(f"the part {of_part[part]} of {where} has no column {lacking[0]}, which its train part has.")
        columns[part] = one.select_columns([label]).with_format("arrow")[:].column(label)
    names, labels = classes_of(columns, getattr(features[label], "names", None), source.classes, where)
    check_labels(labels, names, source.classes, where)
    images = {}
    for part, one in found.items():
        if isinstance(one.features[image], datasets.Image):
            one = one.cast_column(image, datasets.Image(decode=False))
        table = one.select_columns([image]).with_format("arrow")
        at = f"the part {of_part[part]} of {where}"
        images[part] = Images(labels[part], at, table=table, parquet=parquet.get(of_part[part], ()))
    return Opened(images, names, notes)


def image_column(source: Source, features: Mapping[str, Any], where: str) -> str:
    """Return the column of images: the one asked for, or the only one there is. Raises BadInput."""
    import datasets

    def holds_images(feature: Any) -> bool:
        plain = isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")
        return isinstance(feature, datasets.Image) or plain or (isinstance(feature, dict) and "bytes" in feature)

    known = [name for name, feature in features.items() if holds_images(feature)]
    if not known:
        raise BadInput(f"{where} has no column of images; its columns are {', '.join(features)}.")
    if source.image is not None and source.image not in known:
        raise BadInput(f"data.image={source.image} is no column of images in {where}{nearest(source.image, known)}")
    if source.image is None and len(known) > 1:
        raise BadInput(f"{where} has several columns of images, {', '.join(known)}; name one: data.image={known[0]}.")
    return source.image or known[0]


def label_column(source: Source, features: Mapping[str, Any], image: str, where: str) -> str:
    """Return the column of labels: the one asked for, one with classes, or the only other. Raises BadInput."""
    others = [name for name in features if name != image]
    if source.label is not None:
        if source.label not in others:
            raise BadInput(f"data.label={source.label} is no column of {where}{nearest(source.label, others)}")
        return source.label
    classed = [name for name in others if hasattr(features[name], "names")] or others
    if not classed:
        raise BadInput(f"{where} has no column of labels beside its images; its columns are {', '.join(features)}.")
    if len(classed) > 1 and "label" not in classed:
        raise BadInput(f"{where} has several columns, {', '.join(classed)}; name the labels: data.label={classed[0]}.")
    return "label" if "label" in classed else classed[0]


def classes_of(
    columns: Mapping[str, Any], known: Sequence[str] | None, classes: int | None, where: str
) -> tuple[list[str], dict[str, np.ndarray[Any, Any]]]:
    """Return the names of the classes and every part's labels, int64. Raises BadInput for what is no label.

    Texts become classes in sorted order. So do whole numbers without names, but where the number of classes is known:
    then they are the classes themselves.
    """
    import pyarrow

    labels: dict[str, np.ndarray[Any, Any]] = {}
    for part, column in columns.items():
        kind = column.type
        texts = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
        if not (texts or pyarrow.types.is_integer(kind)):
            raise BadInput(f"the labels of {where} should be whole numbers or texts, not {kind}; see data.label.")
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise BadInput(f"the label of row {row} of the part {part} of {where} is missing; drop that row, say.")
        labels[part] = np.array(column.to_pylist()) if texts else column.to_numpy().astype("int64")
    if known is not None and all(values.dtype.kind == "i" for values in labels.values()):
        return list(known), labels
    if classes is not None and all(values.dtype.kind == "i" for values in labels.values()):
        return [str(number) for number in range(classes)], labels
    values = sorted({value for of in labels.values() for value in of.tolist()})
    return [str(value) for value in values], {part: np.searchsorted(values, of) for part, of in labels.items()}
