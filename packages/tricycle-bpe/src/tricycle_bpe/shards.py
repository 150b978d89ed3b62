"""Texts to a folder of token ids on disk, from which a model is trained.

    00000.npy, …   the ids of all documents behind each other, cut after so many tokens; uint16 if
                   the vocabulary allows, else uint32; made to be memory-mapped
    documents.npy  (D,) int64, where each document begins, counted from the first id of all
    index.json     what is in the others: the tokeniser, counts, and the sha256 of each file

The folder is written under another name and renamed when all of it is on the disk, the index
last. So a folder of the right name is whole.

A document is a file, or what stands between two separators in one. With a separator, such as
<|endoftext|>, each document ends with its id, by which a model learns where texts end.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from .progress import Progress
from .splitting import read_in_parts

if TYPE_CHECKING:
    from .tokeniser import Tokeniser

FORMAT_VERSION = 1
PART_BYTES = 4 << 20  # of text that a worker takes at once


def text_files(path: Path) -> list[Path]:
    """The file itself, or every .txt file of a folder, sorted.

    raises  FileNotFoundError
    """
    if path.is_file():
        return [path]
    files = sorted(path.rglob("*.txt"))
    if not files:
        raise FileNotFoundError(f"{path} is neither a file nor a folder with .txt files in it")
    return files


class ShardWriter:
    """Writes ids to files of `shard_tokens` each, and remembers where documents begin.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> writer = ShardWriter(folder, np.dtype(np.uint16), shard_tokens=4)
    >>> writer.begin_document()
    >>> writer.add(np.array([1, 2, 3, 4, 5]))
    >>> [shard["n_tokens"] for shard in writer.close()["shards"]]
    [4, 1]
    """

    def __init__(self, folder: Path, dtype: np.dtype, shard_tokens: int):
        self.folder = folder
        self.dtype = dtype
        self.shard_tokens = shard_tokens
        self.documents: list[int] = []
        self.n_tokens = 0
        self.shards: list[dict] = []
        self.file: BinaryIO | None = None
        self.n_in_file = 0

    def begin_document(self) -> None:
        """Say that the next id is the first of a document."""
        self.documents.append(self.n_tokens)

    def add(self, ids: np.ndarray) -> None:
        """Write some more ids."""
        while len(ids):
            if self.file is None:
                self.file = (self.folder / f"{len(self.shards):05}.npy").open("wb+")
                self._write_header(self.file)
            portion = ids[: self.shard_tokens - self.n_in_file]
            self.file.write(portion.astype(self.dtype).tobytes())
            self.n_in_file += len(portion)
            self.n_tokens += len(portion)
            ids = ids[len(portion) :]
            if self.n_in_file == self.shard_tokens:
                self._end_shard(self.file)

    def _write_header(self, file: BinaryIO) -> None:
        """Write the header of a .npy file; it is 128 bytes long for any number of tokens."""
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.n_in_file,)}
        np.lib.format.write_array_header_1_0(file, header)

    def _end_shard(self, file: BinaryIO) -> None:
        file.seek(0)
        self._write_header(file)
        file.close()
        name = f"{len(self.shards):05}.npy"
        self.shards.append({"file": name, "n_tokens": self.n_in_file, **self._seal(name)})
        self.file, self.n_in_file = None, 0

    def _seal(self, name: str) -> dict[str, str]:
        """Bring a file to the disk and hash it."""
        with open(self.folder / name, "rb+") as file:
            os.fsync(file.fileno())
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def close(self) -> dict:
        """End the last shard, write documents.npy; return what the index says of all files."""
        if self.file is not None:
            self._end_shard(self.file)
        np.save(self.folder / "documents.npy", np.array(self.documents, np.int64))
        return {
            "dtype": self.dtype.name,
            "n_tokens": self.n_tokens,
            "n_documents": len(self.documents),
            "shards": self.shards,
            "documents": {"file": "documents.npy", **self._seal("documents.npy")},
        }


def _bring_to_disk(folder: Path) -> None:
    """Make sure that a renamed entry of a folder outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def documents_in(parts: Iterable[bytes], separator: bytes | None) -> Iterator[tuple[bytes, bool]]:
    """Cut a text at each separator; yield parts of documents, and whether a document ends with
    each.

    >>> list(documents_in([b"one||two\\n", b"more||", b"three"], b"||"))
    [(b'one', True), (b'two\\n', False), (b'more', True), (b'three', False), (b'', True)]
    """
    inside = separator is None  # without separators even an empty text is a document
    for part in parts:
        *ended, rest = [part] if separator is None else part.split(separator)
        for document in ended:
            if document or inside:
                yield document, True
            inside = False
        if rest:
            yield rest, False
            inside = True
    if inside:
        yield b"", True


def encode_files(
    tokeniser: "Tokeniser",
    path: Path,
    out: Path,
    dtype: str,
    workers: int,
    shard_tokens: int,
    document_separator: str | None,
) -> Path:
    """Encode a text file, or a folder of them, to a shard folder; see `Tokeniser.encode_file`."""
    largest = tokeniser.n_vocab - 1
    kind = np.dtype((np.uint16 if largest < 1 << 16 else np.uint32) if dtype == "auto" else dtype)
    if kind.kind != "u" or np.iinfo(kind).max < largest:
        raise ValueError(f"dtype {dtype} cannot hold ids up to {largest}; take uint32 or 'auto'")
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens must be at least 1, got {shard_tokens}")
    if document_separator is not None and document_separator not in tokeniser.special_tokens:
        raise ValueError(
            f"document_separator {document_separator!r} is not a special token of this tokeniser; "
            f"it has {sorted(tokeniser.special_tokens)!r:.200}"
        )
    if document_separator is not None and "\n" in document_separator:
        raise ValueError(f"document_separator {document_separator!r} must not contain a newline")
    if out.exists():
        raise FileExistsError(f"{out} exists already; remove it or write to another folder")
    files = text_files(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        writer = ShardWriter(temporary, kind, shard_tokens)
        _encode_into(writer, tokeniser, files, workers, document_separator)
        index = {
            "format": "tricycle-shards",
            "version": FORMAT_VERSION,
            "tokeniser": {"name": tokeniser.name, "sha256": tokeniser.fingerprint()},
            "n_vocab": tokeniser.n_vocab,
            **writer.close(),
        }
        with open(temporary / "index.json", "w", encoding="utf-8") as file:
            json.dump(index, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, out)
        _bring_to_disk(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _encode_into(
    writer: ShardWriter,
    tokeniser: "Tokeniser",
    files: list[Path],
    workers: int,
    document_separator: str | None,
) -> None:
    """Read, encode on several threads and write, in order; few parts are under way at once."""
    end_ids = np.array(
        [] if document_separator is None else [tokeniser.special_tokens[document_separator]],
        np.uint32,
    )
    under_way: list[tuple[Future, bool, int]] = []
    total = sum(path.stat().st_size for path in files)
    begins = True

    def write_first(progress: Progress) -> None:
        nonlocal begins
        future, ends_document, n_bytes = under_way.pop(0)
        if begins:
            writer.begin_document()
        writer.add(future.result())
        if ends_document:
            writer.add(end_ids)
        begins = ends_document
        progress.update(n_bytes)

    with Progress("encoding", total, "B") as progress, ThreadPoolExecutor(workers) as pool:
        for path in files:
            with open(path, "rb") as file:
                parts = read_in_parts(file, tokeniser.pattern, PART_BYTES)
                separator = None if document_separator is None else document_separator.encode()
                for part, ends_document in documents_in(parts, separator):
                    future = pool.submit(_encode_part, tokeniser, path, part)
                    under_way.append((future, ends_document, len(part)))
                    if len(under_way) > 2 * workers:
                        write_first(progress)
        while under_way:
            write_first(progress)


def _encode_part(tokeniser: "Tokeniser", path: Path, part: bytes) -> np.ndarray:
    try:
        part.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    return tokeniser._encode_utf8(part)
