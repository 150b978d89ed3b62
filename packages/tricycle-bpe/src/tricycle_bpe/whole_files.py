"""Files that are whole or not there at all, and the hash by which one is known again.

A file is written under another name, brought to the disk, and only then given its own, in one step
that cannot stop half-way. (`tricycle_datasets` and `tricycle_gpt` have a room of this name too:
each package is useful alone, and twenty lines are copied rather than a package added.)
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it, or the old one, whatever happens meanwhile.

    Two processes may write the same file at once: one of the two is there in the end.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
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
