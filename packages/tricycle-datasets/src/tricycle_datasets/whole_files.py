"""Files that are whole or not there at all, and the hash by which one is known again.

A file is written under another name, brought to the disk, and only then given its own, in one step
that cannot stop half-way.  (`tricycle_bpe` and `tricycle_gpt` have a room of this name too: each
package is useful alone, and twenty lines are copied rather than a package added.)
"""

import hashlib
import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it, or the old one, whatever happens meanwhile."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    give_name(temporary, path)


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
