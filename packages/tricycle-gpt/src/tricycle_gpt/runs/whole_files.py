"""Files that are there whole, or not at all.

Each is flushed to the disk before it counts.  In the place of a file that may be there already,
`replacing` writes one beside it, which takes its name when it is whole: a rename happens wholly or
not at all, so that a kill or a full disk leaves what was there before.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    flush(path)


def write_text(path: Path, text: str) -> None:
    """Write a new text file, and flush it."""
    path.write_text(text, encoding="utf-8")
    flush(path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Run a block that writes a new file, which then takes the place of one that may be there.

    Yields the new file's path.  It is flushed after the block, and renamed to `path`; where the
    block or that fails, it is removed and `path` stays as it was.
    """
    new = path.with_name(f"{path.name}.tmp")
    try:
        yield new
        flush(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file in the place of one that may be there."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Have the disk remember a file, through a pulled plug too."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
