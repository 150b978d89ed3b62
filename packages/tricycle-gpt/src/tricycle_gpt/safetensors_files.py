"""The safetensors files of a model folder: one, or several with an index.

    model.safetensors
    model.safetensors.index.json   model-00001-of-00002.safetensors   …

The index says which file each tensor is in.  Tensors are found here, not read: `Stored.read` takes
one out of its file when it is wanted.  Written, a file has no more than 5 GB, as others keep it.
"""

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from tricycle_gpt.published import Stored
from tricycle_gpt.runs.whole_files import replace_text, replacing, write_arrays

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
LARGEST_FILE = 5_000_000_000
WRITTEN: dict[str, Any] = {
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}
LONGEST_NAME = 255  # bytes of a file's name, as systems have it


def stored_in_folder(folder: Path) -> dict[str, Stored]:
    """The tensors of a model folder by name, not read yet.

    Raises FileNotFoundError if there are none, ValueError for a damaged file or index.
    """
    if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
        return _stored_by_index(folder)
    return stored_in_file(folder / WEIGHTS)


def files_in_folder(folder: Path) -> list[Path]:
    """The files of a model folder that its weights are read from; an index is one of them.

    Raises as above.
    """
    if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
        return [folder / INDEX, *(folder / name for name in _in_index(folder)[1])]
    return [folder / WEIGHTS]


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
    where, names = _in_index(folder)
    files = {name: stored_in_file(folder / name) for name in names}
    absent = [
        f"{_printable(tensor)} in {name}"
        for tensor, name in where.items()
        if tensor not in files[name]
    ]
    if absent:
        raise ValueError(f"{folder / INDEX} names tensors that are not there: {', '.join(absent)}")
    return {tensor: files[name][tensor] for tensor, name in where.items()}


def _in_index(folder):
    """Which file each tensor is in, and the names of the files, which are there."""
    path = folder / INDEX
    try:
        where = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(where.values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no index of weights: {error!r}") from error
    faults = [f"{name!r} is no file name" for name in names if not _is_plain(name)]
    faults += [
        f"{name} is missing" for name in names if _is_plain(name) and not (folder / name).is_file()
    ]
    if faults:
        raise ValueError(f"{path} names files that cannot be read: {'; '.join(faults)}")
    return where, names


# ---- Writing ----


def write_in_folder(
    folder: Path, weights: dict[str, np.ndarray], dtype: str, largest: int = LARGEST_FILE
) -> set[str]:
    """Write weights by their names, in one file or in several with an index.

    dtype    float32, bfloat16 or float16
    largest  bytes in a file; a tensor that is larger has one of its own

    All that was there before stays until all is written, and then goes.  Returns the names of the
    files.  OSError if it cannot be written (a full disk).
    """
    number = WRITTEN[dtype]
    shares = _shares(weights, np.dtype(number).itemsize, largest)
    names = [f"model-{i + 1:05}-of-{len(shares):05}.safetensors" for i in range(len(shares))]
    names = names if len(names) > 1 else [WEIGHTS]
    with ExitStack() as all_or_none:
        for name, share in zip(names, shares, strict=True):
            new = all_or_none.enter_context(replacing(folder / name))
            arrays = {each: np.asarray(weights[each]).astype(number, copy=False) for each in share}
            # By this transformers knows that matrices lie as PyTorch would have them.
            write_arrays(new, arrays, metadata={"format": "pt"})
    if len(names) > 1:
        where = {each: name for name, share in zip(names, shares, strict=True) for each in share}
        size = sum(array.size for array in weights.values()) * np.dtype(number).itemsize
        index = {"metadata": {"total_size": size}, "weight_map": where}
        replace_text(folder / INDEX, json.dumps(index, indent=2) + "\n")
    kept = {*names, *([INDEX] if len(names) > 1 else [])}
    remove_other_weights(folder, kept)
    return kept


def remove_other_weights(folder: Path, kept: set[str]) -> None:
    """Remove files of weights, and an index of them, of other names than these."""
    for path in (*folder.glob("model*.safetensors"), folder / INDEX):
        if path.name not in kept and (path.name in (WEIGHTS, INDEX) or SHARD.match(path.name)):
            path.unlink(missing_ok=True)


def _shares(weights, n_bytes, largest):
    """Names of weights, in their order, dealt to files."""
    shares: list[list[str]] = [[]]
    room = largest
    for name, array in weights.items():
        if shares[-1] and array.size * n_bytes > room:
            shares.append([])
            room = largest
        shares[-1].append(name)
        room -= array.size * n_bytes
    return shares


def _is_plain(name):
    """Whether it is the name of a file in the folder itself, and of this kind."""
    plain = isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
    return plain and name == _printable(name) and len(name.encode()) <= LONGEST_NAME


def _printable(name):
    """A name without halves of characters, which a JSON file may hold and no terminal shows."""
    return name.encode("utf-8", "backslashreplace").decode()
