"""Remembering the ids of pieces: most of a text is made of a few thousand words.

A piece of up to 31 bytes and 7 ids has a row in a hash table. A row is one line of the processor's
cache, 64 bytes. So a piece that was seen before costs one look into memory, and that look can be
asked for ahead of time.

    bytes 0 to 30    the piece, and zeros after it
    byte 31          its length, which is never zero in a row that is in use
    bytes 32 to 59   its ids, four bytes each
    bytes 60 to 63   their number

Longer pieces, and those of more ids, have a row (hash, begin) in a second table, which points
into an arena. An entry there is, in words of eight bytes: the length of the piece, the number of
its ids, the piece itself, its ids two to a word.
"""

import os

import numpy as np

from .bytes_at import (
    byte_at,
    eight_bytes_at,
    int32_at,
    int64_at,
    multiply_and_fold,
    put_eight_bytes,
    put_int64,
)
from .kernels import helper, kernel
from .pieces import LOW_HALF, SHORT_PIECE
from .tables import equal_bytes

ROW_BYTES = 64
LONGEST_REMEMBERED = 31  # bytes; the 32nd byte of the key is the length
MOST_IDS_REMEMBERED = 7  # four bytes each; the last four bytes are their number
IDS = 32  # the byte of a row at which its ids begin
LAST_ID, N_IDS = 14, 15  # where the last id and the number of ids are, in numbers of four bytes
LAST_KEY_WORD = 3  # the eight bytes of a row that end with the length of the piece

# What is in use of `PiecesSeen`: rows of either table, words of the arena.
ROWS_USED, LONG_ROWS_USED, ARENA_USED = range(3)
BLOCK = 128  # pieces whose rows are fetched together

PIECES_AT_ONCE = 65_536
IDS_AT_ONCE = (1 << 20) + (1 << 18)  # 5 MB, of which only what is used is touched
FEWEST_ROWS, MOST_ROWS = 1 << 14, 1 << 20  # 1 MB and 64 MB, for each call at one time
LONG_ROWS, ARENA_WORDS = 1 << 17, 1 << 21  # 2 MB and 16 MB, of which only what is used is touched


HASH_KEYS = 1024  # where in the masks, in bytes, the last row begins


def key_masks() -> np.ndarray:
    """Masks (33, 4) uint64 that keep the first `length` bytes of 32, for each length up to 31.

    The last row has four numbers that nobody else knows: see `tables.HASH_KEY`.
    """
    keep = np.arange(32)[:, None] > np.arange(32)[None, :]
    masks = np.where(keep, 255, 0).astype(np.uint8).view(np.uint64)
    return np.concatenate([masks, np.frombuffer(os.urandom(32), np.uint64)[None] | 1])


# ---- short pieces ----


@helper
def row_of_piece(text, i, length, masks):
    """Mix the bytes of a piece of up to LONGEST_REMEMBERED bytes to a number that chooses its
    row.
    """
    key = masks + 32 * length
    secret = masks + HASH_KEYS
    one = (eight_bytes_at(text, i) & eight_bytes_at(key, 0)) ^ eight_bytes_at(secret, 0)
    two = (eight_bytes_at(text, i + 8) & eight_bytes_at(key, 8)) ^ eight_bytes_at(secret, 8)
    three = (eight_bytes_at(text, i + 16) & eight_bytes_at(key, 16)) ^ eight_bytes_at(secret, 16)
    four = (eight_bytes_at(text, i + 24) & eight_bytes_at(key, 24)) ^ eight_bytes_at(secret, 24)
    mixed = multiply_and_fold(one, two) + multiply_and_fold(three, four)
    return np.int64(mixed >> np.uint64(36))


@helper
def last_key_word(text, i, length, masks):
    """The last eight bytes of a piece's key; the very last is the length, so no key is zero."""
    word = eight_bytes_at(text, i + 24) & eight_bytes_at(masks, 32 * length + 24)
    return word | (np.uint64(length) << np.uint64(56))


@helper
def is_key_of(row, text, i, length, masks):
    """Compare a row's key with a piece, without a branch on where they differ."""
    key = masks + 32 * length
    differ = eight_bytes_at(row, 0) ^ (eight_bytes_at(text, i) & eight_bytes_at(key, 0))
    differ |= eight_bytes_at(row, 8) ^ (eight_bytes_at(text, i + 8) & eight_bytes_at(key, 8))
    differ |= eight_bytes_at(row, 16) ^ (eight_bytes_at(text, i + 16) & eight_bytes_at(key, 16))
    differ |= eight_bytes_at(row, 24) ^ last_key_word(text, i, length, masks)
    return differ == np.uint64(0)


@helper
def remember(row, text, i, length, masks, out, o, count):
    """Write a piece and its ids, out[o : o + count], into a row."""
    key = masks + 32 * length
    put_eight_bytes(row, 0, eight_bytes_at(text, i) & eight_bytes_at(key, 0))
    put_eight_bytes(row, 8, eight_bytes_at(text, i + 8) & eight_bytes_at(key, 8))
    put_eight_bytes(row, 16, eight_bytes_at(text, i + 16) & eight_bytes_at(key, 16))
    put_eight_bytes(row, 24, last_key_word(text, i, length, masks))
    for k in range(0, MOST_IDS_REMEMBERED, 2):
        put_eight_bytes(row, IDS + 4 * k, eight_bytes_at(out, 4 * (o + k)))
    last = np.uint64(int32_at(row, LAST_ID) & LOW_HALF)
    put_eight_bytes(row, 56, last | (np.uint64(count) << np.uint64(32)))


@helper
def is_in_use(row):
    """Tell a row that holds a piece from an empty one."""
    return int64_at(row, LAST_KEY_WORD) != 0


@helper
def write_ids_of_row(row, out, o):
    """Copy the ids of a remembered piece to out[o], …; return their number."""
    count = int32_at(row, N_IDS)
    put_eight_bytes(out, 4 * o, eight_bytes_at(row, IDS))
    if count > 2:  # always copy two: cheaper than a branch
        put_eight_bytes(out, 4 * o + 8, eight_bytes_at(row, IDS + 8))
        put_eight_bytes(out, 4 * o + 16, eight_bytes_at(row, IDS + 16))
        put_eight_bytes(out, 4 * o + 24, eight_bytes_at(row, IDS + 24))
    return count


@kernel
def move_remembered(old, new_array, masks_array):
    """Enter all rows of one table of remembered pieces into a larger, empty one."""
    new, masks = new_array.ctypes.data, masks_array.ctypes.data
    mask = len(new_array) - 1
    for k in range(len(old)):
        if old[k, LAST_KEY_WORD] != 0:
            key = old.ctypes.data + ROW_BYTES * k
            length = byte_at(key, LONGEST_REMEMBERED)
            slot = row_of_piece(key, 0, length, masks) & mask
            while new_array[slot, LAST_KEY_WORD] != 0:
                slot = (slot + 1) & mask
            for word in range(8):
                put_eight_bytes(new + ROW_BYTES * slot, 8 * word, eight_bytes_at(key, 8 * word))


# ---- long pieces ----


@helper
def find_long(text, i, length, hashed, rows, mask, arena):
    """Look for a piece in the second table; return where its entry in the arena begins, or 0."""
    slot = hashed & mask
    while int64_at(rows, 2 * slot + 1) != 0:
        begin = int64_at(rows, 2 * slot + 1)
        if (
            int64_at(rows, 2 * slot) == hashed
            and int64_at(arena, begin) == length
            and equal_bytes(text, i, arena + 8 * (begin + 2), 0, length)
        ):
            return begin
        slot = (slot + 1) & mask
    return np.int64(0)


@helper
def remember_long(piece, ids_of_piece, rows, mask, arena, begin):
    """Write an entry into the arena at `begin`, and a row that points to it; return its end.

    piece         the text, where in it the piece begins, its length and its hash
    ids_of_piece  an array of ids, where in it the piece's begin, and their number
    """
    text, i, length, hashed = piece
    out, o, count = ids_of_piece
    slot = hashed & mask
    while int64_at(rows, 2 * slot + 1) != 0:
        slot = (slot + 1) & mask
    put_int64(rows, 2 * slot, hashed)
    put_int64(rows, 2 * slot + 1, begin)
    put_int64(arena, begin, length)
    put_int64(arena, begin + 1, count)
    words = (length + 7) >> 3
    for k in range(words):
        put_eight_bytes(arena, 8 * (begin + 2 + k), eight_bytes_at(text, i + 8 * k))
    ids = begin + 2 + words
    for k in range((count + 1) >> 1):
        put_eight_bytes(arena, 8 * (ids + k), eight_bytes_at(out, 4 * o + 8 * k))
    return ids + ((count + 1) >> 1)


@helper
def write_ids_of_entry(arena, entry, length, out, o):
    """Copy the ids of a remembered long piece to out[o], …; return their number."""
    count = int64_at(arena, entry + 1)
    ids = entry + 2 + ((length + 7) >> 3)
    for k in range((count + 1) >> 1):
        put_eight_bytes(out, 4 * o + 8 * k, eight_bytes_at(arena, 8 * (ids + k)))
    return count


# ---- what one call may use ----


def empty_rows(n: int) -> np.ndarray:
    """An empty table of remembered pieces, each row on one cache line."""
    words = np.zeros((n + 1) * 8, np.uint64)
    skip = -words.ctypes.data % ROW_BYTES // 8
    return words[skip : skip + 8 * n].reshape(n, 8)


class PiecesSeen:
    """The pieces that were seen so far, and their ids. Only one call at a time may use it."""

    def __init__(self):
        self.ends = np.empty(PIECES_AT_ONCE, np.int64)
        self.rows = empty_rows(FEWEST_ROWS)
        self.long_rows = np.zeros((LONG_ROWS, 2), np.int64)
        self.arena = np.empty(ARENA_WORDS, np.int64)
        self.used = np.array([0, 0, 1])  # the arena begins at 1, so that 0 can mean "nowhere"
        self.masks = key_masks()
        self.scratch = np.empty(2 * SHORT_PIECE + BLOCK, np.int64)
        self.ids = np.empty(IDS_AT_ONCE, np.uint32)  # for the ids of a text that is not longer

    def arrays(self) -> tuple[np.ndarray, ...]:
        """What `encoding.encode_pieces` wants of it, in this order.

        rows              (R, 8) uint64, R a power of two
        long_rows, arena  (L, 2) int64, L a power of two, and (A,) int64
        used              (3,) int64, indexed by ROWS_USED, LONG_ROWS_USED, ARENA_USED
        masks             (33, 4) uint64, from `key_masks`
        scratch           (2 * SHORT_PIECE + BLOCK,) int64
        """
        return self.rows, self.long_rows, self.arena, self.used, self.masks, self.scratch

    def n_bytes(self) -> int:
        """What it holds of memory, at most."""
        return sum(array.nbytes for array in (*self.arrays(), self.ends, self.ids))

    def make_room(self) -> None:
        """Grow the first table when it is half full; empty what may not grow any more."""
        if 2 * self.used[ROWS_USED] > len(self.rows):
            if len(self.rows) < MOST_ROWS:
                larger = empty_rows(2 * len(self.rows))
                move_remembered(self.rows, larger, self.masks)
                self.rows = larger
            else:
                self.rows[:] = 0
                self.used[ROWS_USED] = 0
        if 3 * self.used[LONG_ROWS_USED] > LONG_ROWS or 2 * self.used[ARENA_USED] > ARENA_WORDS:
            self.long_rows[:] = 0
            self.used[LONG_ROWS_USED], self.used[ARENA_USED] = 0, 1
