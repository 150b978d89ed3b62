"""Compressed files as pieces of bytes: .gz, .bz2, .xz, .zst.

A few kilobytes may unpack to gigabytes.  So a file is never unpacked whole: it comes in pieces of a
megabyte, and a decompressor that asks for more than MOST_MEMORY is refused.

.zst needs zstandard (the extra `zst`), imported when it is first needed; the others are Python's
own.
"""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

PIECE = 1 << 20
SMALL_PIECE = 1 << 9  # of a .zst: all that it unpacks to comes at once, up to 128 KiB for 4 bytes
MOST_MEMORY = 1 << 28  # bytes; `xz -9` takes 65 million, `zstd --ultra` 135 million

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


def compression_of(name: str) -> str:
    """The ending of a compressed file's name, "" for others.

    >>> compression_of("corpus.jsonl.GZ")
    '.gz'
    """
    ending = Path(name.lower()).suffix
    return ending if ending in COMPRESSIONS else ""


def pieces_of(path: Path) -> Iterator[bytes]:
    """What a file holds, unpacked if its name says that it is packed, a megabyte at a time.

    raises  ValueError that names the file, if it is damaged or cut short; ImportError for .zst
            without zstandard
    """
    kind = compression_of(path.name)
    if kind == ".zst":
        import_zstandard()
    try:
        with open(path, "rb") as file:
            yield from _unpacked(file, kind)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, _Damaged) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error
    except OSError as error:
        if error.errno is None:  # bz2 says so of wrong data
            raise ValueError(f"{path} is damaged or cut short: {error}") from error
        raise


def import_zstandard() -> Any:
    """zstandard; an ImportError names the extra that brings it."""
    try:
        import zstandard
    except ImportError as error:
        raise ImportError(
            "reading .zst files needs zstandard: pip install 'tricycle-datasets[zst]'"
        ) from error
    return zstandard


class _Damaged(Exception):
    """What a decompressor of another library said."""


def _unpacked(file: BinaryIO, kind: str) -> Iterator[bytes]:
    if kind == ".xz":
        yield from _unpacked_xz(file)
        return
    if kind == ".zst":
        yield from _unpacked_zst(file)
        return
    stream: Any = file
    if kind == ".gz":
        stream = gzip.GzipFile(fileobj=file)
    elif kind == ".bz2":
        stream = bz2.BZ2File(file)
    while piece := stream.read(PIECE):
        yield piece


def _unpacked_xz(file: BinaryIO) -> Iterator[bytes]:
    """One stream behind the other, as `xz` writes and `cat` joins them."""
    data = file.read(PIECE)
    while data:
        stream = lzma.LZMADecompressor(memlimit=MOST_MEMORY)
        while not stream.eof:
            piece = stream.decompress(data, PIECE)
            data = b""
            if piece:
                yield piece
            elif stream.needs_input and not stream.eof:
                data = file.read(PIECE)
                if not data:
                    raise EOFError("it ends before the end of its stream")
        data = stream.unused_data or file.read(PIECE)
        while data and not data.strip(b"\0"):  # zeros may stand between and after streams
            data = file.read(PIECE)
        data = data.lstrip(b"\0")


def _unpacked_zst(file: BinaryIO) -> Iterator[bytes]:
    zstandard = import_zstandard()
    data = file.read(SMALL_PIECE)
    while data:
        frame = zstandard.ZstdDecompressor(max_window_size=MOST_MEMORY).decompressobj()
        while not frame.eof:
            try:
                piece = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise _Damaged(error) from error
            yield piece
            if not frame.eof:
                data = file.read(SMALL_PIECE)
                if not data:
                    raise EOFError("it ends before the end of its frame")
        data = frame.unused_data or file.read(SMALL_PIECE)
