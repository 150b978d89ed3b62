"""Documents from anywhere to a shard folder: in parallel, and resumed after any stop.

While it is written the folder lies beside its final place, under the name `.NAME.preparing`:

    settings.json     the tokeniser and all else that decides the ids
    00000.json, …     a note for each shard that is on the disk: its sha256, the documents in it,
                      and the document in which it ends
    shards/           what will be the folder

A call that finds it there compares the settings and the shards' hashes, passes over the documents
that are done, and continues in the middle of the one where the last shard ends. What it writes then
is, byte for byte, what it would have written without the stop. Only at the end is `shards/`
renamed: a folder of the right name is whole.

Each document ends with the separator's id, as everywhere (see `shards.py`). Documents without text
are passed over.
"""

import errno
import hashlib
import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .progress import Progress
from .shards import (
    FORMAT_VERSION,
    SHARD_TOKENS,
    AtOnce,
    Encodes,
    ShardWriter,
    about,
    checked_dtype,
    ids_of_separator,
    in_order,
)
from .texts import PART_BYTES, numbered, read_in_parts, refuse_path
from .whole_files import bring_to_disk, room_for, sha256_of, write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MAKE_ROOM = (
    "That is one of its files of ids; a text takes about half of its own bytes in all. Make room "
    "and ask for the same again: it goes on after the last file that is whole"
)
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_held: dict[str, int] = {}  # folders that this process writes, and the thread that does
JOB_BYTES = 1 << 18  # of text that a thread encodes at once: short documents are taken together


class Part(NamedTuple):
    """Part of a document: its number in the source, all its text, the part, whether it is the
    last.
    """

    number: int
    text: bytes
    part: bytes
    is_last: bool


class ResumableWriter(ShardWriter):
    """A ShardWriter that leaves a note for each shard, and can continue from those it finds."""

    def __init__(self, place: Path, dtype: np.dtype, shard_tokens: int, pool: Executor):
        super().__init__(place / "shards", dtype, shard_tokens, pool)
        self.place = place
        self.number = -1  # of the document that is being written
        self.text = b""
        self.bytes_before = 0  # of text in the documents before it
        self.starts_noted = 0
        self.resumed_in = -1  # the document in which the last shard ended
        self.its_sha256 = ""
        self.to_pass_over = 0  # ids of it that are in finished shards

    def resume(self) -> None:
        """Take over the shards that are finished and as they were; remove the others."""
        (self.place / "shards").mkdir(exist_ok=True)
        while (note := self._next_note()) is not None:
            done: Future = Future()
            done.set_result(note["sha256"])
            self.shards.append((note["file"], note["n_tokens"], done))
            self.n_tokens += note["n_tokens"]
            self.documents.extend(note["starts"])
            self.n_bytes = note["bytes_before"]
            self.resumed_in, self.its_sha256 = note["document"], note["document_sha256"]
        if self.shards:
            self.to_pass_over = self.n_tokens - self.documents[-1]
        self.starts_noted = len(self.documents)
        kept = {name for name, _, _ in self.shards}
        for path in [*self.folder.iterdir(), *self.place.glob("[0-9]*.json")]:
            if f"{path.stem}.npy" not in kept:
                path.unlink()
        for path in self.place.glob(".*.tmp"):  # notes that were being written
            path.unlink()

    def _next_note(self) -> dict | None:
        name = f"{len(self.shards):05}"
        note, shard = self.place / f"{name}.json", self.folder / f"{name}.npy"
        if not (note.is_file() and shard.is_file()):
            return None
        found = json.loads(note.read_text(encoding="utf-8"))
        is_full = found["n_tokens"] == self.shard_tokens  # the very last is written once more
        return found if is_full and sha256_of(shard) == found["sha256"] else None

    def begin(self, number: int, text: bytes) -> None:
        """Say that document `number` comes now; ValueError if there was another before a stop."""
        if number == self.resumed_in:
            if hashlib.sha256(text).hexdigest() != self.its_sha256:
                raise ValueError(
                    f"document {number:,} is not the one that was there when {self.place} was "
                    "started: the texts have changed since, or come in another order. Remove that "
                    "folder, or pass resume=False, to start again"
                )
        else:
            self.begin_document()
        self.number, self.text, self.bytes_before = number, text, self.n_bytes
        self.n_bytes += len(text)

    def add(self, ids: np.ndarray) -> None:
        """Write some more ids, except those that are in finished shards."""
        passed_over = min(self.to_pass_over, len(ids))
        self.to_pass_over -= passed_over
        super().add(ids[passed_over:])

    def _seal(self, name: str) -> Future:
        note = {
            "file": name,
            "n_tokens": self.n_in_file,
            "document": self.number,
            "document_sha256": hashlib.sha256(self.text).hexdigest(),
            "bytes_before": self.bytes_before,
            "starts": list(self.documents[self.starts_noted :]),
        }
        self.starts_noted = len(self.documents)
        for _, _, sha256 in self.shards:
            if sha256.done():
                sha256.result()  # an error in writing one is raised before more is written
        return self.pool.submit(self._finish, name, note)

    def _finish(self, name: str, note: dict) -> str:
        """Bring a shard to the disk, and then its note."""
        bring_to_disk(self.folder / name)
        sha256 = sha256_of(self.folder / name)
        write_json(self.place / f"{Path(name).stem}.json", note | {"sha256": sha256})
        return sha256


def encode_documents(
    tokeniser: Encodes,
    documents: Iterable[str],
    out: str | Path,
    *,
    document_separator: str | None = "<|endoftext|>",
    dtype: str = "auto",
    workers: int = 1,
    shard_tokens: int = SHARD_TOKENS,
    max_tokens: int | None = None,
    total_bytes: int | None = None,
    resume: bool = True,
) -> Path:
    """Encode documents, from wherever they come, to a folder of shards (see documents.py).

    The same call after a stop of any kind, with the same documents in the same order, continues
    from the last finished shard, and ends with the same bytes. While another process writes the
    same folder it waits.

    documents           texts; what looks like a special token in them is ordinary text
    document_separator  a special token whose id ends each document; None for none
    dtype               "uint16", "uint32", or "auto" for the smaller one that holds every id
    workers             threads
    shard_tokens        ids in each file of the folder
    max_tokens          stop after the document that reaches it; None for all documents
    total_bytes         of text, where known: for the time left
    resume              False starts from nothing where an earlier call was stopped
    returns             the folder, which is complete as soon as it exists
    raises              FileExistsError; ValueError for no text at all, half a surrogate pair,
                        and documents or settings other than before the stop
    """
    out = Path(out)
    if isinstance(documents, str):
        raise ValueError("documents is one string, whose items are characters; pass a list of them")
    kind = checked_dtype(tokeniser, dtype, workers, shard_tokens, document_separator)
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    if out.exists():
        raise FileExistsError(f"{out} exists already; remove it or write to another folder")
    place = out.with_name(f".{out.name}.preparing")
    settings = {
        "version": FORMAT_VERSION,
        "tokeniser": tokeniser.fingerprint(),
        "document_separator": document_separator,
        "dtype": kind.name,
        "shard_tokens": shard_tokens,
    }
    with (
        room_for(place, shard_tokens * kind.itemsize, MAKE_ROOM),
        alone_in(place),
        Progress("encoding", total_bytes, "B") as progress,
    ):
        if out.exists():
            with suppress(OSError):  # or it is not empty, and who made `out` removes it
                place.rmdir()
            raise FileExistsError(f"{out} was made by another process, for which this one waited")
        open_place(place, settings, resume)
        threads = ThreadPoolExecutor if workers > 1 else AtOnce
        with threads(workers) as encoding, threads(2) as sealing:
            writer = ResumableWriter(place, kind, shard_tokens, sealing)
            writer.resume()
            jobs = jobs_of(
                parts_of(documents, writer.resumed_in, tokeniser.pattern_of_parts, progress)
            )
            encoded = in_order(lambda job: encode(tokeniser, job), jobs, encoding, 2 * workers)
            end_ids = ids_of_separator(tokeniser, document_separator)
            write(writer, encoded, end_ids, max_tokens, progress)
            if not writer.n_tokens:
                shutil.rmtree(place)
                raise ValueError("there are no documents with text in them: nothing to encode")
            writer.close(about(tokeniser))
        os.rename(place / "shards", out)
        bring_to_disk(out.parent)
    shutil.rmtree(place)
    return out


def open_place(place: Path, settings: dict, resume: bool) -> None:
    """Make the temporary folder ready; ValueError if it was started with other settings."""
    path = place / "settings.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if resume and earlier is not None and earlier != settings:
        differ = [
            f"{name} was {earlier.get(name)!r}, is {now!r}"
            for name, now in settings.items()
            if earlier.get(name) != now
        ]
        raise ValueError(
            f"{place} was started differently: {'; '.join(differ)}. Remove that folder, or pass "
            "resume=False, to start again"
        )
    if earlier is None or not resume:
        for path_inside in place.iterdir():
            shutil.rmtree(path_inside) if path_inside.is_dir() else path_inside.unlink()
        write_json(path, settings)


def parts_of(
    documents: Iterable[str], first: int, pattern: str, progress: Progress
) -> Iterator[Part]:
    """Go through the documents with text, from number `first` on, long ones in parts."""
    number = -1
    for number, document in enumerate(documents):
        text = checked_utf8(document, number)
        if number < first:
            progress.update(len(text))
            continue
        if len(text) <= PART_BYTES:
            if text:
                yield Part(number, text, text, True)
            continue
        parts = list(read_in_parts(io.BytesIO(text), pattern, PART_BYTES))
        for k, part in enumerate(parts):
            yield Part(number, text, part, k == len(parts) - 1)
    if number < first:
        raise ValueError(
            f"there are {number + 1:,} documents now, and {first + 1:,} or more were there when "
            "this was started: the texts have changed since. Pass resume=False to start again"
        )


def checked_utf8(document: str, number: int) -> bytes:
    """A document's bytes; TypeError or ValueError, with its number, for anything but text."""
    if not isinstance(document, str):
        raise TypeError(f"document {number:,} is a {type(document).__name__}, not a text (str)")
    if number == 0:
        refuse_path(document, number)
    try:
        return document.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"document {number:,} holds half a surrogate pair, {document[error.start]!r}, at "
            f"character {error.start:,}: it was not decoded as UTF-8"
        ) from error


def jobs_of(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts in lists of about JOB_BYTES."""
    job: list[Part] = []
    n_bytes = 0
    for part in parts:
        job.append(part)
        n_bytes += len(part.part)
        if n_bytes >= JOB_BYTES:
            yield job
            job, n_bytes = [], 0
    if job:
        yield job


def encode(tokeniser: Encodes, job: list[Part]) -> list[tuple[Part, np.ndarray]]:
    """The ids of each part; what looks like a special token is text like any other."""
    encoded = []
    for part in job:
        with numbered("document", part.number):
            encoded.append((part, tokeniser.encode_utf8(part.part)))
    return encoded


def write(
    writer: ResumableWriter,
    encoded: Iterable[list[tuple[Part, np.ndarray]]],
    end_ids: np.ndarray,
    max_tokens: int | None,
    progress: Progress,
) -> None:
    """Write what was encoded, until a document ends at max_tokens or beyond."""
    for job in encoded:
        for part, ids in job:
            if part.number != writer.number:
                writer.begin(part.number, part.text)
            writer.add(ids)
            progress.update(len(part.part))
            if part.is_last:
                writer.add(end_ids)
                if max_tokens is not None and writer.n_tokens >= max_tokens:
                    return
        progress.note(f"{len(writer.documents):,} documents")


@contextmanager
def alone_in(place: Path) -> Iterator[None]:
    """Hold a folder, which is made, alone, after waiting for another process that does.

    Where there are no such locks (Windows, some file systems of networks) nobody waits. Raises
    FileExistsError in the thread that holds it already: it would wait for itself.
    """
    name = os.path.abspath(place)
    if _held.get(name) == threading.get_ident():
        raise FileExistsError(f"this program is writing to {place} just now")
    descriptor = -1
    while descriptor < 0:
        place.mkdir(parents=True, exist_ok=True)
        if os.name == "nt":
            break
        descriptor = os.open(place, os.O_RDONLY)
        if not _is_ours_when_it_is_free(descriptor, place):
            os.close(descriptor)  # who had it has finished, and removed it
            descriptor = -1
    _held[name] = threading.get_ident()
    try:
        yield
    finally:
        del _held[name]
        if descriptor >= 0:
            os.close(descriptor)


def _is_ours_when_it_is_free(descriptor: int, place: Path) -> bool:
    """Wait for the lock of an open folder; False if it is not the one of that name any more."""
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say = f"another process is writing to {place} just now: waiting until it ends"
            print(say, file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(descriptor)
            raise
    return place.exists() and os.path.samestat(os.fstat(descriptor), place.stat())


def write_json(path: Path, values: dict) -> None:
    """Write a file of settings, or a note: whole, on the disk, or not there at all."""
    write_whole(path, json.dumps(values).encode())
