"""Files that are there whole, or not at all.

Each is flushed to the disk before anybody counts on it.  What may be there already is written
beside it and takes its name when it is whole: a rename happens wholly or not at all, so that a kill
or a full disk leaves what was there before.
"""

import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file


def write_arrays(
    path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write a new safetensors file, and flush it.  OSError if it cannot be written."""
    try:
        ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        save_file(ordered, path, metadata=metadata)
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(f"{path} could not be written: {error}") from error
    path.chmod(0o644)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a new text file, and flush it."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Write a text file in the place of one that may be there."""
    temporary = path.with_name(f"{path.name}.tmp")
    write_text(temporary, text)
    temporary.replace(path)
