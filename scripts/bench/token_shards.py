"""How long does a batch take that comes from the disk?

    hatch run bench token_shards.py

A shard folder of 200 million random ids in files of a million, and batches of 12 windows of 1,024
from four places in turn:

    memory     all ids in one array
    shards     TokenShards, which opens a file for each window and keeps none open
    documents  the same, each window within one document
    maps       every file mapped by numpy and kept open, as one would do without TokenShards

The files are in the system's cache, so this is what the reading costs, not the disk.  Printed are
medians over the rounds: milliseconds for a batch, and the ratio to `memory` in the same round.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from tricycle_bpe.shards import FORMAT_VERSION, ShardWriter
from tricycle_datasets import Batches, TokenShards
from tricycle_datasets.permutation import shuffled

N, PER_FILE, DOCUMENT = 200_000_000, 1_000_000, 700
B, T = 12, 1024
ROUNDS = 300


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        shards = TokenShards(folder)
        paths = sorted(folder.glob("0*.npy"))
        ids = shards[:]
        contestants = {
            "memory": Batches(ids, B, T, seed=0),
            "shards": Batches(shards, B, T, seed=0),
            "documents": Batches(shards, B, T, seed=0, packing=False),
            "maps": from_maps([np.load(path, mmap_mode="r") for path in paths]),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(ROUNDS):
            for name, batches in contestants.items():
                started = time.perf_counter()
                next(batches)
                times[name].append(time.perf_counter() - started)
    for name, seconds in times.items():
        ratio = median(a / b for a, b in zip(seconds, times["memory"], strict=True))
        print(f"{name:10} {1e3 * median(seconds):6.3f} ms   {ratio:5.2f} times memory")


def write(folder: Path) -> None:
    writer = ShardWriter(folder, np.dtype(np.uint16), PER_FILE)
    ids = np.random.default_rng(0).integers(0, 50257, N, np.uint16)
    for first in range(0, N, DOCUMENT):
        writer.begin_document()
        writer.add(ids[first : first + DOCUMENT])
    about = {"format": "tricycle-shards", "version": FORMAT_VERSION, "n_vocab": 50257}
    writer.close(about | {"tokeniser": {"name": "none", "sha256": ""}})


def from_maps(maps: list[np.ndarray]):
    """Batches of windows that each lie within a file, cut from maps of all files."""
    per_file = (PER_FILE - 1) // T
    n_windows = len(maps) * per_file
    for first in range(0, n_windows, B):
        order = shuffled(np.arange(first, min(first + B, n_windows)), n_windows, "maps")
        starts = [(maps[i // per_file], i % per_file * T) for i in order.tolist()]
        block = np.stack([ids[start : start + T + 1] for ids, start in starts]).astype(np.int64)
        yield block[:, :-1], block[:, 1:]


if __name__ == "__main__":
    main()
