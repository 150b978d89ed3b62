"""Token ids as other programs keep them on disk, opened as one row.

    train.bin     nanoGPT's: numbers of two bytes, nothing else
    *.bin         llm.c's and modded-nanogpt's: 256 numbers of four bytes that say how many ids
                  follow, of two bytes (GPT-2) or four (Llama 3)
    *.npy         build-nanogpt's: a row of numbers as numpy saves it

They do not say which tokeniser made them, nor is there a hash to hold them to: what can be checked
is their length, and, where it is known, that no id lies outside of the vocabulary.
"""

import os
from pathlib import Path

import numpy as np

from tricycle_datasets.shard_files import ShardError, read_header

HEADER_BYTES = 1024
# The first two numbers of a header, and how many bytes an id takes.
HEADERS = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
MAGIC = {magic for magic, _ in HEADERS}
WHOLE_NUMBERS = ("|u1", "<u2", "<u4", "<u8", "<i2", "<i4", "<i8")
ENDINGS = (".bin", ".npy")


def read_ids(path: str | os.PathLike[str], *, n_vocab: int | None = None) -> np.ndarray:
    """Open a file of token ids of nanoGPT, llm.c, modded-nanogpt or build-nanogpt.

    n_vocab  ids must be below it; to find out, all of the file is read once.  None to believe it
    returns  (N,) uint16 or uint32 (of a .npy: as it has them), mapped from the disk, read-only;
             `Batches` takes it as it is
    raises   FileNotFoundError; ShardError, a ValueError, that says what is wrong with the file
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path} (looked in {Path.cwd()})")
    ids = _open_npy(path) if path.suffix.lower() == ".npy" else _open_bin(path)
    if n_vocab is not None:
        _check_ids(path, ids, n_vocab)
    return ids


def is_ids(path: Path) -> bool:
    """Whether a file is called as files of ids are."""
    return path.suffix.lower() in ENDINGS


def _open_bin(path: Path) -> np.ndarray:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = np.frombuffer(file.read(12).ljust(12, b"\0"), "<i4").tolist()
    magic, version, count = start
    if magic not in MAGIC:
        if size < 2 or size % 2:
            raise ShardError(
                f"{path} has {size:,} bytes: no whole number of ids of two bytes, as nanoGPT's "
                "have; is it such a file, and all of it?"
            )
        return np.memmap(path, "<u2", "r")
    kind = HEADERS.get((magic, version))
    if kind is None:
        raise ShardError(
            f"{path} has version {version} of the format {magic}, which is not known here"
        )
    wanted = HEADER_BYTES + count * np.dtype(kind).itemsize
    if count < 1 or size != wanted:
        raise ShardError(
            f"{path} says that it has {count:,} ids, which take {wanted:,} bytes with the header, "
            f"and has {size:,} bytes: copy it again"
        )
    return np.memmap(path, kind, "r", HEADER_BYTES, (count,))


def _open_npy(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        kind, count, offset = read_header(file, path)
    if kind not in WHOLE_NUMBERS or count < 1:
        raise ShardError(
            f"{path} holds {count:,} numbers of dtype {kind!r}, and a row of whole numbers was "
            "wanted"
        )
    wanted = offset + count * np.dtype(kind).itemsize
    if path.stat().st_size != wanted:
        raise ShardError(
            f"{path} says that it has {count:,} numbers, which take {wanted:,} bytes with the "
            f"header, and has {path.stat().st_size:,} bytes: copy it again"
        )
    return np.memmap(path, kind, "r", offset, (count,))


def _check_ids(path: Path, ids: np.ndarray, n_vocab: int) -> None:
    for start in range(0, len(ids), 1 << 22):
        some = ids[start : start + (1 << 22)]
        if some.min() < 0 or some.max() >= n_vocab:
            wrong = some.min() if some.min() < 0 else some.max()
            raise ShardError(
                f"{path} holds id {wrong:,}, outside of a vocabulary of {n_vocab:,}: it was made "
                "by another tokeniser, or is no such file"
            )
