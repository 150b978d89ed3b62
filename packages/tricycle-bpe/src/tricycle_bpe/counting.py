"""Counting pieces, fast: the first line of `merges.train`, for texts of any size.

Training needs to know each distinct piece of the texts and how often it occurs, nothing else. So
the texts are read one after another, their pieces are looked up in one hash table, and memory
grows with the number of distinct pieces only.

A row of the table is (hash, begin); an entry of the arena, from word `begin` on, is the number of
occurrences, the length in bytes, and the piece. Several workers count into tables of their own,
which are added up in the end; the merges do not depend on the order.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import numpy as np

from .bytes_at import eight_bytes_at, put_eight_bytes
from .encoding import padded
from .kernels import kernel
from .remembering import PIECES_AT_ONCE
from .splitting import Splitter
from .tables import HASH_KEY, equal_bytes, hash_bytes

ROWS_USED, ARENA_USED = range(2)


@kernel
def count_pieces(text_array, start, ends, weights, first, rows, arena, used, key):
    """Count pieces `first`, `first` + 1, … of a text; stop where the table or the arena is full.

    weights  (K,) how often to count each piece, or one number for all
    used     (2,) int64, indexed by ROWS_USED and ARENA_USED (words of the arena); updated
    key      `tables.HASH_KEY`
    returns  the piece at which to continue once there is more room, len(ends) if all are counted
    """
    text, words = text_array.ctypes.data, arena.ctypes.data
    mask = len(rows) - 1
    for k in range(first, len(ends)):
        i = start if k == 0 else ends[k - 1]
        length = ends[k] - i
        is_full = 2 * used[ROWS_USED] >= len(rows)
        if is_full or used[ARENA_USED] + 4 + (length >> 3) >= len(arena):
            return np.int64(k)
        weight = weights[min(k, len(weights) - 1)]
        hashed = hash_bytes(text, i, length, key)
        slot = hashed & mask
        while True:
            begin = rows[slot, 1]
            if begin == 0:
                begin = used[ARENA_USED]
                rows[slot, 0], rows[slot, 1] = hashed, begin
                arena[begin], arena[begin + 1] = weight, length
                for j in range(0, length, 8):
                    put_eight_bytes(words, 8 * (begin + 2) + j, eight_bytes_at(text, i + j))
                used[ROWS_USED] += 1
                used[ARENA_USED] += 2 + ((length + 7) >> 3)
                break
            if (
                rows[slot, 0] == hashed
                and arena[begin + 1] == length
                and equal_bytes(text, i, words, 8 * (begin + 2), length)
            ):
                arena[begin] += weight
                break
            slot = (slot + 1) & mask
    return np.int64(len(ends))


@kernel
def move_rows(old, new):
    """Enter the rows of one table into a larger, empty one."""
    mask = len(new) - 1
    for k in range(len(old)):
        if old[k, 1] != 0:
            slot = old[k, 0] & mask
            while new[slot, 1] != 0:
                slot = (slot + 1) & mask
            new[slot, 0], new[slot, 1] = old[k, 0], old[k, 1]


@kernel
def list_pieces(arena, n_pieces, letters, ends, occurrences):
    """Lay the pieces of an arena out in a row, as `training.lay_out_words` wants them."""
    bytes_of = arena.view(np.uint8)
    begin, o = 1, 0
    for k in range(n_pieces):
        occurrences[k] = arena[begin]
        length = arena[begin + 1]
        for i in range(length):
            letters[o + i] = bytes_of[8 * (begin + 2) + i]
        o += length
        ends[k] = o
        begin += 2 + ((length + 7) >> 3)
    return o


ONCE = np.ones(1, np.int64)


class PieceCounter:
    """The distinct pieces of some texts, and how often each occurs."""

    def __init__(self):
        self.rows = np.zeros((1 << 16, 2), np.int64)
        self.arena = np.zeros(1 << 17, np.int64)
        self.used = np.array([0, 1])  # the arena begins at 1, so that 0 can mean "nowhere"
        self.room = np.empty(PIECES_AT_ONCE, np.int64)

    def add(self, text: bytes, split: Splitter, weights: np.ndarray = ONCE) -> None:
        """Count the pieces of one more text, each as often as `weights` says."""
        buffer, start = padded(text), 0
        for ends in split(buffer, len(text), self.room):
            first = 0
            while first < len(ends):
                first = count_pieces(
                    buffer, start, ends, weights, first, self.rows, self.arena, self.used, HASH_KEY
                )
                if first < len(ends):
                    self._grow(int(ends[first] - (ends[first - 1] if first else start)))
            start = int(ends[-1])

    def _grow(self, length: int) -> None:
        if 2 * self.used[ROWS_USED] >= len(self.rows):
            more_rows = np.zeros((2 * len(self.rows), 2), np.int64)
            move_rows(self.rows, more_rows)
            self.rows = more_rows
        needed = int(self.used[ARENA_USED]) + 5 + length // 8
        if needed > len(self.arena):
            larger = np.zeros(max(needed, 2 * len(self.arena)), np.int64)
            larger[: len(self.arena)] = self.arena
            self.arena = larger

    def absorb(self, other: "PieceCounter") -> None:
        """Add what another counter has counted."""
        letters, ends, occurrences = other.pieces()
        text = letters.tobytes()
        self.add(text, lambda _text, _n, _room: iter([ends] if len(ends) else []), occurrences)

    def pieces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The distinct pieces in a row, (N,) uint8, their ends and occurrences, (W,)."""
        n = int(self.used[ROWS_USED])
        letters = np.empty(8 * int(self.used[ARENA_USED]), np.uint8)
        ends, occurrences = np.empty(n, np.int64), np.empty(n, np.int64)
        length = list_pieces(self.arena, n, letters, ends, occurrences)
        return letters[:length].copy(), ends, occurrences


def count_all(texts: Iterable[bytes], split: Splitter, workers: int) -> PieceCounter:
    """Count the pieces of all texts, on `workers` threads."""
    counters = [PieceCounter() for _ in range(workers)]
    if workers == 1:
        for text in texts:
            counters[0].add(text, split)
        return counters[0]
    waiting: Queue[bytes | None] = Queue(maxsize=2 * workers)

    def work(counter: PieceCounter) -> None:
        try:
            while (text := waiting.get()) is not None:
                counter.add(text, split)
        except BaseException:
            while waiting.get() is not None:  # else the thread that fills it waits for ever
                pass
            raise

    with ThreadPoolExecutor(workers) as pool:
        done = [pool.submit(work, counter) for counter in counters]
        try:
            for text in texts:
                waiting.put(text)
        finally:
            for _ in counters:
                waiting.put(None)
        for future in done:
            future.result()
    for counter in counters[1:]:
        counters[0].absorb(counter)
    return counters[0]
