"""A folder of token ids on disk, opened as one long row.

    index.json     what is in the other files: the tokeniser, counts, and the sha256 of each
    00000.npy, …   the ids of all documents in a row, in files of some millions; uint16 or uint32
    documents.npy  (D,) int64, where each document begins, counted from the first id of all

`Tokeniser.encode_file` of tricycle-bpe writes such folders; anything that writes the same files
will do.  They may be far larger than memory: only the ids that are asked for are read, when they
are asked for.  In memory are 8 bytes for each document, and nothing for a token.

*Every fault has a name before the first step.*  Opening a folder checks the index, each file's
header and length, that no file is missing and no other there, and that documents begin in order.
Unless it is told `verify=False` it then reads everything once, in constant memory, and compares
each sha256 and every id with the vocabulary.  On a folder that was verified before, as when a run
is resumed, that pass may be left out: each id is compared with the vocabulary again when it is
read, whether or not it was verified.

*And after it.*  A file that changes under a run is noticed at the next read, see shard_files.py.

This file, top to bottom: the shards, the index, the checks of what the files hold.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tricycle_datasets.shard_files import ShardError, ShardFile

FORMAT = "tricycle-shards"
FORMAT_VERSION = 1
NEAR = 1024  # places that lie so near to each other are read at once


class TokenShards:
    """The ids of a shard folder: looks like an array of shape (N,), and reads from the disk.

    path              the folder
    tokeniser_sha256  fingerprint of the tokeniser that the model is for; None to take any
    verify            read everything once and compare each sha256, and each id with the vocabulary

    `len(shards)`, `shards[i]`, `shards[i:j]` and `shards[array of integers]` work as with numpy;
    what they give is a new array, in the folder's dtype.  `np.asarray(shards)` brings all
    of it into memory.

    n_vocab          ids are below this
    tokeniser        {"name": …, "sha256": …} of the tokeniser that made the ids
    document_starts  (D,) int64, in order: where each document begins; read-only
    digest           sha256 of index.json, which has the sha256 of all else: the folder's name in a
                     record

    Raises FileNotFoundError if there is no such folder, and ShardError, a ValueError, for
    everything else: which file, what is wrong with it, what to do.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        tokeniser_sha256: str | None = None,
        verify: bool = True,
    ):
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"no folder at {self.path} (looked in {Path.cwd()})")
        index_path = self.path / "index.json"
        index, self.digest = _read_index(index_path)
        self.n_vocab: int = index["n_vocab"]
        self.tokeniser: dict[str, str] = index["tokeniser"]
        if tokeniser_sha256 not in (None, self.tokeniser["sha256"]):
            raise ShardError(
                f"{index_path}: the ids were made by tokeniser {self.tokeniser['name']!r} with "
                f"sha256 {self.tokeniser['sha256']}, and the one wanted has {tokeniser_sha256}; "
                "prepare the text again with the tokeniser that the model is for"
            )
        _check_names(self.path, index)
        self._files = [
            ShardFile.open(
                self.path / part["file"], index["dtype"], part["n_tokens"], part["sha256"]
            )
            for part in index["shards"]
        ]
        self._ends = np.cumsum([file.count for file in self._files])  # where each file's ids end
        documents = index["documents"]
        documents_file = ShardFile.open(
            self.path / documents["file"], "int64", index["n_documents"], documents["sha256"]
        )
        if verify:
            self._verify()
        self.document_starts = _document_starts(documents_file, len(self))

    # ---- As an array ----

    @property
    def dtype(self) -> np.dtype:
        """uint16 or uint32."""
        return self._files[0].dtype

    @property
    def shape(self) -> tuple[int]:
        """(N,)."""
        return (len(self),)

    ndim = 1

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, where: Any) -> Any:
        """Some ids, copied: for a slice or an integer array an array, for an integer one id."""
        if isinstance(where, slice):
            start, stop, step = where.indices(len(self))
            if step == 1:
                return self._read(start, max(start, stop))
            return self[np.arange(start, stop, step)]
        where = np.asarray(where)
        if where.dtype.kind not in "iu" and where.size:
            raise IndexError(
                f"shards are indexed by integers, slices and integer arrays, got {where.dtype}"
            )
        ids = self._gather(where.reshape(-1).astype(np.int64)).reshape(where.shape)
        return ids if where.ndim else ids[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("token shards lie on the disk: an array of them is always a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return (
            f"TokenShards({str(self.path)!r}: {len(self):,} ids below {self.n_vocab:,}, "
            f"{len(self.document_starts):,} documents)"
        )

    # ---- Reading ----

    def _read(self, start: int, stop: int) -> np.ndarray:
        """The ids from start to stop, across as many files as it takes."""
        parts = []
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            file, file_end = self._files[number], int(self._ends[number])
            first, end = file_end - file.count, min(stop, file_end)
            ids = file.read(start - first, end - first)
            if ids.max() >= self.n_vocab:
                self._complain_of_id(file, ids)
            parts.append(ids)
            start, number = end, number + 1
        if not parts:
            return np.empty(0, self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _gather(self, places: np.ndarray) -> np.ndarray:
        """The ids at some places, (n,) int64; negative ones count from the end."""
        n = len(self)
        if places.size and not (-n <= places.min() and places.max() < n):
            worst = places[np.argmax((places < -n) | (places >= n))]
            raise IndexError(f"index {worst:,} lies outside of {n:,} tokens")
        places = np.where(places < 0, places + n, places)
        order = np.argsort(places)
        ids = np.empty(len(places), self.dtype)
        for some in np.split(order, np.flatnonzero(np.diff(places[order]) > NEAR) + 1):
            if some.size:
                first, last = int(places[some[0]]), int(places[some[-1]])
                ids[some] = self._read(first, last + 1)[places[some] - first]
        return ids

    def _verify(self) -> None:
        """Read every file of ids once; raises ShardError for a wrong sha256 or id."""
        from tqdm import tqdm  # here, since importing the package should take no time

        n_bytes = sum(file.identity.size for file in self._files)
        with tqdm(
            desc=f"verifying {self.path.name}",
            total=n_bytes,
            unit="B",
            unit_scale=True,
            disable=None,  # silent where standard error is not a terminal
        ) as bar:
            for file in self._files:
                for ids in file.verified_pieces():
                    if ids.size and ids.max() >= self.n_vocab:
                        self._complain_of_id(file, ids)
                    bar.update(ids.nbytes)

    def _complain_of_id(self, file: ShardFile, ids: np.ndarray) -> None:
        raise ShardError(
            f"{file.path} holds id {ids.max():,}, which does not fit the vocabulary of "
            f"{self.n_vocab:,} that index.json names: prepare the folder again"
        )


# ---- The index ----


def _read_index(path: Path) -> tuple[dict[str, Any], str]:
    """The index as it is written, every field of the right kind; and the sha256 of its file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ShardError(
            f"{path} is missing, so {path.parent} is not a shard folder, or one that was not "
            "finished: prepare it again"
        ) from error
    try:
        index = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ShardError(
            f"{path} is not JSON ({error}): copy it again, or prepare the folder again"
        ) from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        given = index.get("format") if isinstance(index, dict) else index
        raise ShardError(
            f"{path} is not the index of a shard folder: its format is {given!r:.100}, wanted "
            f"{FORMAT!r}"
        )
    if not _is_count(index.get("version")) or index["version"] != FORMAT_VERSION:
        raise ShardError(
            f"{path} has version {index.get('version')!r:.100}, and this program reads version "
            f"{FORMAT_VERSION}: use the program that wrote it, or prepare the folder again"
        )
    _check_fields(path, index)
    return index, hashlib.sha256(content).hexdigest()


def _check_fields(path: Path, index: dict[str, Any]) -> None:
    """Raise ShardError for a field of the index that is missing or of the wrong kind."""

    def check(name: str, value: object, right: bool, wanted: str) -> None:
        if not right:
            raise ShardError(
                f"{path}: {name} should be {wanted}, it is {value!r:.100}; copy it again, or "
                "prepare the folder again"
            )

    if index.get("n_tokens") == 0:
        raise ShardError(f"{path.parent} is empty: no tokens; prepare it again, from more text")
    for name in ("n_vocab", "n_tokens", "n_documents"):
        value = index.get(name)
        check(name, value, _is_count(value), "a whole number of 1 or more")
    dtype = index.get("dtype")
    check("dtype", dtype, dtype in ("uint16", "uint32"), "'uint16' or 'uint32'")
    tokeniser = index.get("tokeniser")
    is_named = isinstance(tokeniser, dict) and {"name", "sha256"} <= tokeniser.keys()
    check("tokeniser", tokeniser, is_named, "a record of name and sha256")
    shards = index.get("shards")
    check("shards", shards, isinstance(shards, list) and len(shards) > 0, "a list of files")
    documents = index.get("documents")
    for entry in [*index["shards"], documents]:
        is_entry = isinstance(entry, dict) and isinstance(entry.get("sha256"), str)
        check("each file", entry, is_entry, "a record of file and sha256")
    for number, part in enumerate(index["shards"]):
        name, count = part.get("file"), part.get("n_tokens")
        wanted = f"{number:05}.npy"
        check(f"the file of shard {number}", name, name == wanted, repr(wanted))
        check(f"n_tokens of {name}", count, _is_count(count), "a whole number of 1 or more")
    name = index["documents"].get("file")
    check("the file of documents", name, name == "documents.npy", "'documents.npy'")
    total = sum(part["n_tokens"] for part in index["shards"])
    check("n_tokens", index["n_tokens"], index["n_tokens"] == total, f"the sum of all: {total:,}")


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value < 1 << 62


def _check_names(folder: Path, index: dict[str, Any]) -> None:
    """Raise ShardError if the folder has a .npy file that the index does not name."""
    named = {part["file"] for part in index["shards"]} | {index["documents"]["file"]}
    others = sorted(path.name for path in folder.glob("*.npy") if path.name not in named)
    if others:
        raise ShardError(
            f"{folder} holds {others[0]}, which index.json does not name: two folders were mixed, "
            "or the index is an old one; prepare the folder again, in a new place"
        )


# ---- Documents ----


def _document_starts(file: ShardFile, n_tokens: int) -> np.ndarray:
    """Where documents begin, (D,) int64, read into memory; raises ShardError if out of order."""
    starts = np.concatenate(list(file.verified_pieces())).astype(np.int64)
    if starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] > n_tokens:
        raise ShardError(
            f"{file.path}: documents should begin at 0 and then in order, up to {n_tokens:,}; "
            f"they begin at {starts[:3].tolist()} … {starts[-1]:,}; prepare the folder again"
        )
    starts.flags.writeable = False
    return starts
