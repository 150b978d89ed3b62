"""One row of numbers in a `.npy` file that must be what was promised, and must stay so.

The promise stands in a shard folder's index: this many numbers, of this dtype, with this sha256.  A
file is held to it three times:

- *When it is opened*: it is there, its header says the same, and it is exactly as long as that.
- *When it is verified*: its sha256 is right.  That takes a pass over the file, a piece at a time.
- *Whenever it is read*, perhaps days later: after the read it is still the file that was opened, by
  its inode, its size and the time of its last change.  So what was read was what was opened, unless
  a file is written over and its clock set back.

The file is not mapped into memory, though it could be: under a map, a file that is cut short or a
disk that fails ends the whole process (SIGBUS), and the run with it.  A read says what went wrong,
leaves no file open, and takes little longer (scripts/bench/token_shards.py).

The header is read with a pattern, not evaluated as numpy does: it is one of very few strings.

This file, top to bottom: the error, the file, its header.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

PIECE = 1 << 22  # bytes read at once while a file is verified
NPY_1_0 = b"\x93NUMPY\x01\x00"
HEADER = re.compile(
    rb"\{'descr': '([^']{1,9})', 'fortran_order': False, 'shape': \((\d{1,18}),\), \} *\n"
)


class ShardError(ValueError):
    """A shard folder that is damaged, incomplete, meant for another tokeniser, or has changed."""


class Identity(NamedTuple):
    """What identifies a file: it is the same as long as these are."""

    size: int
    changed: int
    inode: int


@dataclass(frozen=True)
class ShardFile:
    """A file that held its promise when it was opened.

    dtype     of its numbers, little endian
    count     how many there are
    sha256    of the whole file, as the index has it; hex
    offset    the byte where the first number begins
    identity  by which the file is known again
    """

    path: Path
    dtype: np.dtype
    count: int
    sha256: str
    offset: int
    identity: Identity

    @classmethod
    def open(cls, path: Path, dtype: str, count: int, sha256: str) -> "ShardFile":
        """Look at the header and the length of a file; raises ShardError that says what is wrong.

        dtype  the name that the index gives, such as "uint16"
        """
        wanted = np.dtype(dtype).newbyteorder("<")
        try:
            with open(path, "rb") as file:
                identity = _identity(os.fstat(file.fileno()))
                descr, found, offset = read_header(file, path)
        except FileNotFoundError as error:
            raise ShardError(
                f"{path} is missing, but index.json names it: copy the folder again, all of it, or "
                "prepare it again"
            ) from error
        if descr != wanted.str:
            raise ShardError(
                f"{path} holds numbers of dtype {descr!r}, but index.json says {dtype} "
                f"({wanted.str!r}): prepare the folder again"
            )
        if found != count:
            raise ShardError(
                f"the header of {path} says {found:,} numbers, but index.json says {count:,}: "
                "prepare the folder again"
            )
        size = offset + count * wanted.itemsize
        if identity.size != size:
            how = "cut short" if identity.size < size else "longer than it should be"
            raise ShardError(
                f"{path} is {how}: it has {identity.size:,} bytes, and {count:,} numbers of "
                f"{dtype} take {size:,}; copy it again, or prepare the folder again"
            )
        return cls(path, wanted, count, sha256, offset, identity)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The numbers from start to stop, (stop - start,); raises ShardError if the file changed.

        0 <= start < stop <= count
        """
        numbers = np.empty(stop - start, self.dtype)
        missing = numbers.data.cast("B")
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self.offset + start * self.dtype.itemsize)
                while missing and (n_bytes := file.readinto(missing)):
                    missing = missing[n_bytes:]
                self._compare(_identity(os.fstat(file.fileno())))
            if missing:
                raise ShardError(
                    f"{self.path} ended {len(missing):,} bytes too early: copy it again"
                )
        except FileNotFoundError as error:
            raise ShardError(
                f"{self.path} was removed while it was in use: put it back, and start again from "
                "the last checkpoint"
            ) from error
        return numbers

    def verified_pieces(self) -> Iterator[np.ndarray]:
        """All numbers, some millions at a time; raises ShardError at the end if the hash is wrong.

        To be read to the end: only then is anything verified.
        """
        with open(self.path, "rb") as file:
            digest = hashlib.sha256(file.read(self.offset))
            while piece := file.read(PIECE):
                digest.update(piece)
                whole = len(piece) - len(piece) % self.dtype.itemsize
                yield np.frombuffer(piece[:whole], self.dtype)
            self._compare(_identity(os.fstat(file.fileno())))
        if digest.hexdigest() != self.sha256:
            raise ShardError(
                f"{self.path} is damaged: its sha256 is {digest.hexdigest()}, and index.json says "
                f"{self.sha256}; copy it again, or prepare the folder again"
            )

    def _compare(self, now: Identity) -> None:
        if now != self.identity:
            what = [
                f"{name} {before:,} became {after:,}"
                for name, before, after in zip(Identity._fields, self.identity, now, strict=True)
                if before != after
            ]
            raise ShardError(
                f"{self.path} changed while it was in use ({', '.join(what)}): nothing more is "
                "read from it; put the old file back, and start again from the last checkpoint"
            )


def _identity(status: os.stat_result) -> Identity:
    return Identity(status.st_size, status.st_mtime_ns, status.st_ino)


def read_header(file: BinaryIO, path: Path) -> tuple[str, int, int]:
    """(dtype as numpy writes it, number of numbers, byte where they begin) of a .npy file."""
    start = file.read(10)
    length = int.from_bytes(start[8:10], "little")
    text = file.read(length)
    if start[:8] == NPY_1_0[: len(start)] and (len(start) < 10 or len(text) < length):
        n_bytes = os.fstat(file.fileno()).st_size
        raise ShardError(
            f"{path} is cut short: its {n_bytes:,} bytes do not hold a header; copy it again, or "
            "prepare the folder again"
        )
    found = HEADER.fullmatch(text)
    if start[:8] != NPY_1_0 or not found:
        raise ShardError(
            f"{path} does not begin as a .npy file (version 1.0) of one row of numbers does: "
            f"{(start + text)[:60]!r}; copy it again, or prepare the folder again"
        )
    return found[1].decode("ascii", "replace"), int(found[2]), 10 + length
