"""Shard folders for the tests, as `Tokeniser.encode_file` of tricycle-bpe writes them.

Run as a program, it damages one in many ways and tells what became of it: see `damage_often`.
"""

import hashlib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tricycle_datasets import ShardError, TokenShards

IDS = np.random.default_rng(0).integers(0, 300, 50)
STARTS = [0, 7, 8, 8, 30]


def write_folder(
    folder: Path, ids=IDS, starts=(0,), *, per_file=20, dtype="uint16", n_vocab=300, **index
) -> Path:
    """Write ids in files of `per_file` each; further arguments replace what the index says."""
    folder.mkdir(parents=True)
    ids = np.asarray(ids).astype(dtype)
    shards = []
    for first in range(0, len(ids), per_file):
        part = ids[first : first + per_file]
        shards.append(save(folder / f"{len(shards):05}.npy", part) | {"n_tokens": len(part)})
    documents = save(folder / "documents.npy", np.array(starts, np.int64))
    about = {
        "format": "tricycle-shards",
        "version": 1,
        "tokeniser": {"name": "letters", "sha256": "f" * 64},
        "n_vocab": n_vocab,
        "dtype": dtype,
        "n_tokens": len(ids),
        "n_documents": len(starts),
        "shards": shards,
        "documents": documents,
    }
    (folder / "index.json").write_text(json.dumps(about | index, indent=1), encoding="utf-8")
    return folder


def save(path: Path, array: np.ndarray) -> dict:
    np.save(path, array)
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# ---- Damage ----


def random_bytes(chance: random.Random, most: int) -> bytes:
    return chance.randbytes(chance.randrange(1, most))


def flip_bits(content: bytes, chance: random.Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(chance.randrange(1, 4)):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def flip_in_header(content: bytes, chance: random.Random) -> bytes:
    return flip_bits(content[:128], chance) + content[128:]


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def append(content: bytes, chance: random.Random) -> bytes:
    return content + random_bytes(chance, 300)


def insert(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + random_bytes(chance, 9) + content[at:]


def leave_out(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + content[at + chance.randrange(1, 9) :]


def overwrite(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return (content[:at] + random_bytes(chance, 40) + content[at:])[: len(content)]


def other_number(content: bytes, chance: random.Random) -> bytes:
    """Another number in the place of one, as a text: in the index, or in a header."""
    digits = [at for at in range(len(content)) if content[at : at + 1].isdigit()]
    at = chance.choice(digits) if digits else 0
    return content[:at] + str(chance.randrange(-9, 10**6)).encode() + content[at + 1 :]


def other_value(content: bytes, chance: random.Random) -> bytes:
    """An index in which one value is of another kind, missing, or that of another place."""
    try:
        index = json.loads(content)
    except ValueError:
        return b"{}"
    places: list = [(index, key) for key in index]
    places += [(part, key) for part in index["shards"] for key in part]
    places += [(index["shards"], number) for number in range(len(index["shards"]))]
    places += [(index[name], key) for name in ("documents", "tokeniser") for key in index[name]]
    inside, key = chance.choice(places)
    others = [None, 0, -1, 1.5, True, "", "x", [], {}, 10**30, [[[]]], *(i[k] for i, k in places)]
    others = json.loads(json.dumps(others))  # copies, none of which holds another
    if chance.random() < 0.2:
        del inside[key]
    else:
        inside[key] = chance.choice(others)
    return json.dumps(index).encode()


ON_BYTES = (flip_bits, cut, append, insert, leave_out, overwrite, other_number)


def damage(folder: Path, chance: random.Random) -> str:
    """Damage one file of a folder in place; returns what was done."""
    names = sorted(path.name for path in folder.iterdir())
    name = chance.choice(names)
    path = folder / name
    ways: list[Callable] = [*ON_BYTES, flip_in_header]
    if name == "index.json":
        ways = [*ON_BYTES, *[other_value] * 5]
    kind = chance.choice([*ways, "remove", "empty", "swap", "copy", "folder"])
    if callable(kind):
        path.write_bytes(kind(path.read_bytes(), chance))
        return f"{kind.__name__} {name}"
    other = folder / chance.choice(names)
    if kind == "remove":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "swap":
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
    elif kind == "copy":
        name = chance.choice(["00003.npy", "00000.npy", "documents.npy", "notes.txt"])
        (folder / name).write_bytes(path.read_bytes())
    else:
        path.unlink()
        path.mkdir()
    return f"{kind} {name} {other.name}"


def restore(folder: Path, whole: dict[str, bytes]) -> None:
    """Make a folder whole, its files as old as files usually are when they are damaged."""
    for path in folder.iterdir():
        if path.is_dir():
            path.rmdir()
        elif path.name not in whole:
            path.unlink()
    for name, content in whole.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content or path.stat().st_mtime > 1e9:
            path.write_bytes(content)
            os.utime(path, (1e9, 1e9))


def damage_often(folder: Path, times: int, seed: int) -> Counter:
    """Damage a folder, before it is opened or while it is in use, and read it: what came of it?

    Counts "named" (a ShardError or an error of the system) and "harmless" (all ids and documents
    are what they were).  Raises AssertionError for anything else.
    """
    write_folder(folder, IDS, STARTS)
    whole, chance, came = contents(folder), random.Random(seed), Counter()
    for number in range(times):
        restore(folder, whole)
        in_use, verify = chance.random() < 0.4, True
        if in_use:
            verify = chance.random() < 0.5
            shards = TokenShards(folder, verify=verify)
            shards[chance.randrange(50)]
        done = damage(folder, chance)
        try:
            if not in_use:
                shards = TokenShards(folder)
            ids = shards[:]
        except (ShardError, OSError) as error:
            assert str(folder) in str(error), f"{number}: {done}: {error}"
            came["named"] += 1
        else:
            same = np.array_equal(ids, IDS) and shards.document_starts.tolist() == STARTS
            assert same, f"{number}: {done} (in use: {in_use}, verified: {verify}): read silently"
            came["harmless"] += 1
    return came


if __name__ == "__main__":
    print(json.dumps(damage_often(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
