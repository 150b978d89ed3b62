"""Files that are whole or not there at all, and the hash by which one is known again.

A file is written under another name, brought to the disk, and only then given its own, in one step
that cannot stop half-way. (`tricycle_datasets` and `tricycle_gpt` have a room of this name too:
each package is useful alone, and twenty lines are copied rather than a package added.)
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

    Two processes may write the same file at once: one of the two is there in the end. Raises
    OSError, which says for how many bytes there is no room.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with room_for(path, len(data)):
            temporary.write_bytes(data)
            bring_to_disk(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def bring_to_disk(path: Path) -> None:
    """Make sure that a file, or a folder's list of names, outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Hold a lock, after waiting for another process that does; the system drops it at the end.

    path  of a file for the lock alone, which stays there, empty
    """
    with open(path, "ab") as file:
        try:
            import fcntl
        except ImportError:  # Windows
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
