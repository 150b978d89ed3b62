"""Files that are there whole, or not at all.

Each is flushed to the disk before it counts.  In the place of a file that may be there already,
`replacing` writes one beside it, which takes its name when it is whole: a rename happens wholly or
not at all, so that a kill or a full disk leaves what was there before.
"""

import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

# What a disk, or a network to it, may say once and not again.
MAY_PASS = {errno.EIO, errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT}
# What one says that has no room: the disk, the user's share of it, the length of a file.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def try_twice(write: Callable[[], object]) -> None:
    """Call a function that writes, and once more if the disk had an error that may pass."""
    try:
        write()
    except OSError as error:
        if error.errno not in MAY_PASS:
            raise
        write()


@contextmanager
def room_for(path: Path, n_bytes: int, advice: str) -> Iterator[None]:
    """Run a block that writes; where the disk is full, its OSError says for what there is no room.

    path     what is written, a file or a folder
    n_bytes  that it takes
    advice   a sentence: what to do
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or _is_elsewhere(error.filename, path):
            raise
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        free = shutil.disk_usage(there).free
        what = f"{os.strerror(error.errno)}: it takes {n_bytes:,} bytes, and {free:,} are free"
        raise OSError(error.errno, f"{what}. {advice}", str(path)) from error


def _is_elsewhere(name: str | bytes | int | None, path: Path) -> bool:
    """Whether a file of this name, if it has one, lies on other ground than the path."""
    if not isinstance(name, (str, bytes)):
        return False
    return path.absolute().parent not in Path(os.fsdecode(name)).absolute().parents


@contextmanager
def or_else_say(what: str) -> Iterator[None]:
    """Run a block that writes what a run can do without; where the disk fails, say so and go on."""
    try:
        yield
    except OSError as error:
        print(f"warning: no {what}: {error}", file=sys.stderr)


def write_arrays(
    path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write a new safetensors file, and flush it.  OSError if it cannot be written."""
    path.touch()
    allowed = path.stat().st_mode  # as the umask has it, which the package does not ask
    try:
        ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        save_file(ordered, path, metadata=metadata)
    except SafetensorError as error:  # what it makes of a full disk
        number = re.search(r"os error (\d+)", str(error))
        about = (int(number[1]),) if number else ()
        raise OSError(*about, f"{path} could not be written: {error}") from error
    path.chmod(stat.S_IMODE(allowed))
    flush(path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, bfloat16 among them.

    Raises SafetensorError for a file that is damaged or another kind of file.
    """
    with safe_open(path, framework="numpy") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        found = {name: file.get_tensor(name) for name, kind in kinds.items() if kind != "BF16"}
    if len(found) < len(kinds):  # the package has no numpy dtype for it
        for name, entry in deserialize(path.read_bytes()):
            if entry["dtype"] == "BF16":
                numbers = np.frombuffer(entry["data"], ml_dtypes.bfloat16)
                found[name] = numbers.reshape(entry["shape"])
    return found


def describe_arrays(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type ("F32", "BF16", …) and the shape of each array of a safetensors file, by its name.

    Only the beginning of the file is read.  Raises as `read_arrays` does.
    """
    with safe_open(path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {n: (part.get_dtype(), tuple(part.get_shape())) for n, part in slices.items()}


def write_text(path: Path, text: str) -> None:
    """Write a new text file, and flush it."""
    path.write_text(text, encoding="utf-8")
    flush(path)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Run a block that fills a new folder, whose files then take their places in `folder`.

    Yields the new folder's path, inside of `folder`.  Where the block fails it is removed, and the
    files that were in `folder` before stay as they were.
    """
    new = folder / ".writing"
    shutil.rmtree(new, ignore_errors=True)  # what a kill left
    new.mkdir(parents=True)
    try:
        yield new
        for path in new.iterdir():
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


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

    def write() -> None:
        with replacing(path) as new:
            new.write_text(text, encoding="utf-8")

    try_twice(write)


def flush(path: Path) -> None:
    """Have the disk remember a file, through a pulled plug too."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
