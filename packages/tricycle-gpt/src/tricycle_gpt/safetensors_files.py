"""The safetensors files of a model folder: one, or several with an index.

    model.safetensors
    model.safetensors.index.json   model-00001-of-00002.safetensors   …

The index says which file each tensor is in.  Tensors are found here, not read: `Stored.read` takes
one out of its file when it is wanted.
"""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from tricycle_gpt.published import Stored

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}


def stored_in_folder(folder: Path) -> dict[str, Stored]:
    """The tensors of a model folder by name, not read yet.

    Raises FileNotFoundError if there are none, ValueError for a damaged file or index.
    """
    if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
        return _stored_by_index(folder)
    return stored_in_file(folder / WEIGHTS)


def stored_in_file(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file."""
    try:
        with safe_open(path, framework="numpy") as file:  # finds a damaged or cut file
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: _stored(path, header[name], 8 + length, shape) for name, shape in shapes.items()}


def _stored(path, entry, begin, shape):
    kind, (start, end) = entry["dtype"], entry["data_offsets"]

    def read():
        with path.open("rb") as file:
            file.seek(begin + start)
            raw = np.fromfile(file, np.uint8, end - start)
        return raw.view(DTYPES[kind]).reshape(shape)

    return Stored(shape, kind, read)


def _stored_by_index(folder):
    path = folder / INDEX
    try:
        where = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(where.values()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no index of weights: {error!r}") from error
    faults = [f"{name!r} is no file name" for name in names if not _is_plain(name)]
    faults += [
        f"{name} is missing" for name in names if _is_plain(name) and not (folder / name).is_file()
    ]
    if faults:
        raise ValueError(f"{path} names files that cannot be read: {'; '.join(faults)}")
    files = {name: stored_in_file(folder / name) for name in names}
    absent = [f"{tensor} in {name}" for tensor, name in where.items() if tensor not in files[name]]
    if absent:
        raise ValueError(f"{path} names tensors that are not there: {', '.join(absent)}")
    return {tensor: files[name][tensor] for tensor, name in where.items()}


def _is_plain(name):
    """Whether it is the name of a file in the folder itself, and of this kind."""
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
