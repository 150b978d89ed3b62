"""Files that are whole or not there at all, and the hash by which one is known again.

A file is written under another name, brought to the disk, and only then given its own, in one step
that cannot stop half-way.  (`tricycle_bpe` and `tricycle_gpt` have a room of this name too: each
package is useful alone, and twenty lines are copied rather than a package added.)
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a disk says that has no room, or a system that allows no file of this length.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
ADVICE = "Make room, or write to another disk: a file of this name stays as it was"


@contextmanager
def room_for(path: Path, n_bytes: int, advice: str = ADVICE) -> Iterator[None]:
    """Run a block that writes; where the disk is full, its OSError says what there is no room for.

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


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it, or the old one, whatever happens meanwhile.

    Raises OSError, which says for how many bytes there is no room.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with room_for(path, len(data)):
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            give_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def give_name(temporary: Path, path: Path) -> None:
    """Give a file that is whole, and on the disk, its own name, in place of an older file."""
    os.replace(temporary, path)
    if os.name == "posix":  # or the new name might not survive a power cut; others see to it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
