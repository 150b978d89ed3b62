"""Texts to a folder of token ids on disk, from which a model is trained.

    00000.npy, …   the ids of all documents one after the other, in files of some millions; uint16
                   if the vocabulary allows, else uint32; made to be memory-mapped
    documents.npy  (D,) int64, where each document begins, counted from the first id of all
    index.json     what is in the others: the tokeniser, counts of tokens, documents and bytes of
                   text, and the sha256 of each file

The folder is written under another name and renamed when all of it is on the disk, the index
last. So a folder of the right name is whole.

A document is a file, or what stands between two separators in one; `documents.py` takes documents
from anywhere else. With a separator, such as <|endoftext|>, each document ends with its id, by
which a model learns where texts end.
"""

import json
import os
import shutil
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from .progress import Progress
from .texts import PART_BYTES, read_in_parts, text_files
from .whole_files import bring_to_disk, room_for, sha256_of

FORMAT_VERSION = 1
SHARD_TOKENS = 8_000_000  # ids in each file, unless told otherwise
MAKE_ROOM = (
    "That is one of its files of ids; a text takes about half of its own bytes in all. Make room, "
    "or write to another disk, and begin again: nothing is left of it"
)


class Encodes(Protocol):
    """What the writers of shard folders need of a tokeniser: `Tokeniser` has all of it."""

    name: str
    special_tokens: dict[str, int]

    @property
    def pattern_of_parts(self) -> str:
        """The pattern by which a long text may be encoded in parts; "" if it may not."""
        ...

    @property
    def n_vocab(self) -> int:
        """The number of ids."""
        ...

    def fingerprint(self) -> str:
        """A hash of what decides which ids a text gets."""
        ...

    def encode_utf8(self, data: bytes) -> np.ndarray:
        """Turn valid UTF-8 into an array of ids (N,) uint32."""
        ...


class AtOnce(Executor):
    """A pool without threads: what is submitted is done at once, in the thread that submits it."""

    def __init__(self, _workers: int = 0):
        pass

    def submit(self, function, /, *arguments, **named) -> Future:
        """Call the function; return its result as a future that is there already."""
        future: Future = Future()
        future.set_result(function(*arguments, **named))
        return future


class ShardWriter:
    """Writes ids to files of `shard_tokens` each, and remembers where documents begin.

    pool  brings full files to the disk and hashes them

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> writer = ShardWriter(folder, np.dtype(np.uint16), shard_tokens=4)
    >>> writer.begin_document()
    >>> writer.add(np.array([1, 2, 3, 4, 5]))
    >>> writer.close({"format": "an example"})
    >>> [shard["n_tokens"] for shard in json.loads((folder / "index.json").read_text())["shards"]]
    [4, 1]
    """

    def __init__(
        self, folder: Path, dtype: np.dtype, shard_tokens: int, pool: Executor | None = None
    ):
        self.pool = pool or AtOnce()
        self.folder = folder
        self.dtype = dtype
        self.shard_tokens = shard_tokens
        self.documents = array("q")  # where each begins
        self.n_tokens = 0
        self.n_bytes = 0  # of text, which the caller counts
        self.shards: list[tuple[str, int, Future]] = []  # a file, its tokens, its sha256 to come
        self.on_the_disk: list[Future] = []
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
            self.file.write(np.ascontiguousarray(portion, self.dtype).data)
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
        self.shards.append((name, self.n_in_file, self._seal(name)))
        self.file, self.n_in_file = None, 0

    def _seal(self, name: str) -> Future:
        """Have a file brought to the disk, and hashed: a sha256 to come."""
        self._have_on_disk(name)
        return self.pool.submit(sha256_of, self.folder / name)

    def _have_on_disk(self, name: str) -> None:
        self.on_the_disk.append(self.pool.submit(bring_to_disk, self.folder / name))

    def close(self, about: dict) -> None:
        """End the last shard, write documents.npy and, with what is said here, index.json.

        All of it is on the disk when this returns.
        """
        if self.file is not None:
            self._end_shard(self.file)
        np.save(self.folder / "documents.npy", np.array(self.documents, np.int64))
        self._have_on_disk("documents.npy")
        documents = sha256_of(self.folder / "documents.npy")
        shards = [
            {"file": name, "n_tokens": n_tokens, "sha256": sha256.result()}
            for name, n_tokens, sha256 in self.shards
        ]
        index = {
            **about,
            "dtype": self.dtype.name,
            "n_tokens": self.n_tokens,
            "n_documents": len(self.documents),
            "n_bytes": self.n_bytes,
            "shards": shards,
            "documents": {"file": "documents.npy", "sha256": documents},
        }
        (self.folder / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
        self._have_on_disk("index.json")
        for done in self.on_the_disk:
            done.result()


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


def checked_dtype(
    tokeniser: Encodes,
    dtype: str,
    workers: int,
    shard_tokens: int,
    document_separator: str | None,
) -> np.dtype:
    """The dtype of the ids in a shard folder; ValueError if it, or anything else, cannot work."""
    largest = tokeniser.n_vocab - 1
    kind = np.dtype((np.uint16 if largest < 1 << 16 else np.uint32) if dtype == "auto" else dtype)
    if kind.kind != "u" or np.iinfo(kind).max < largest:
        raise ValueError(f"dtype {dtype} cannot hold ids up to {largest}; take uint32 or 'auto'")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens must be at least 1, got {shard_tokens}")
    if document_separator is not None and document_separator not in tokeniser.special_tokens:
        raise ValueError(
            f"document_separator {document_separator!r} is not a special token of this tokeniser; "
            f"it has {sorted(tokeniser.special_tokens)!r:.200}"
        )
    return kind


def about(tokeniser: Encodes) -> dict:
    """What the index of a shard folder says about itself and its tokeniser."""
    return {
        "format": "tricycle-shards",
        "version": FORMAT_VERSION,
        "tokeniser": {"name": tokeniser.name, "sha256": tokeniser.fingerprint()},
        "n_vocab": tokeniser.n_vocab,
    }


def ids_of_separator(tokeniser: Encodes, document_separator: str | None) -> np.ndarray:
    """The ids that end a document: one, or none without a separator."""
    return np.array(
        [] if document_separator is None else [tokeniser.special_tokens[document_separator]],
        np.uint32,
    )


def encode_file(
    tokeniser: Encodes,
    path: str | Path,
    out: str | Path,
    dtype: str = "auto",
    workers: int = 1,
    shard_tokens: int = SHARD_TOKENS,
    document_separator: str | None = None,
) -> Path:
    """Encode a text file, or all .txt files of a folder, to a folder of shards (see shards.py).

    dtype               "uint16", "uint32", or "auto" for the smaller one that holds every id
    workers             threads
    shard_tokens        ids in each file of the folder
    document_separator  a special token: where the text has it a document ends, and each
                        document gets its id at the end. Without one, each file is a document
    returns             the folder, which is complete as soon as it exists
    raises              FileNotFoundError, FileExistsError, ValueError
    """
    out = Path(out)
    kind = checked_dtype(tokeniser, dtype, workers, shard_tokens, document_separator)
    if document_separator is not None and "\n" in document_separator:
        raise ValueError(f"document_separator {document_separator!r} must not contain a newline")
    if out.exists():
        raise FileExistsError(f"{out} exists already; remove it or write to another folder")
    files = text_files(Path(path))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        threads = ThreadPoolExecutor if workers > 1 else AtOnce
        # Sealing waits for the disk, and has threads of its own for that.
        with (
            room_for(out, shard_tokens * kind.itemsize, MAKE_ROOM),
            threads(workers) as encoding,
            threads(2) as sealing,
        ):
            writer = ShardWriter(temporary, kind, shard_tokens, sealing)
            ahead = 2 * workers
            _encode_into(writer, tokeniser, files, document_separator, encoding, ahead)
            writer.close(about(tokeniser))
        os.rename(temporary, out)
        bring_to_disk(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _encode_into(
    writer: ShardWriter,
    tokeniser: Encodes,
    files: list[Path],
    document_separator: str | None,
    pool: Executor,
    ahead: int,
) -> None:
    """Read, encode in a pool and write, in order, with few parts under way at once."""
    from .utf8 import check_utf8  # imports numba

    end_ids = ids_of_separator(tokeniser, document_separator)
    separator = None if document_separator is None else document_separator.encode()

    def parts() -> Iterator[tuple[Path, bytes, bool]]:
        for path in files:
            with open(path, "rb") as file:
                texts = read_in_parts(file, tokeniser.pattern_of_parts, PART_BYTES)
                for part, ends_document in documents_in(texts, separator):
                    yield path, part, ends_document

    def encode(job: tuple[Path, bytes, bool]) -> tuple[np.ndarray, bool, int]:
        path, part, ends_document = job
        check_utf8(part, path)
        try:
            ids = tokeniser.encode_utf8(part).astype(writer.dtype)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return ids, ends_document, len(part)

    total = sum(path.stat().st_size for path in files)
    begins = True
    with Progress("encoding", total, "B") as progress:
        for ids, ends_document, n_bytes in in_order(encode, parts(), pool, ahead):
            writer.n_bytes += n_bytes
            if begins:
                writer.begin_document()
            writer.add(ids)
            if ends_document:
                writer.add(end_ids)
            begins = ends_document
            progress.update(n_bytes)


def in_order(function: Callable, items: Iterable, pool: Executor, ahead: int) -> Iterator:
    """Map a function over items in a pool, in order, with at most `ahead` results waiting."""
    waiting: deque[Future] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
