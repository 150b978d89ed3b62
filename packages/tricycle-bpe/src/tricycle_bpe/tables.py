"""The tables of a vocabulary: which bytes are a token, and which two ids merge to which.

Both are hash tables in plain arrays, with a power of two of slots and at most half of them in
use. A thing whose slot is taken goes to the next one that is free.

The table of tokens holds ids; the bytes of token t are spelling[starts[t] : starts[t + 1]].

The table of pairs has rows of (pair, value). A pair is left << 32 | right. A value is the age of
the merge and the id it makes, age << 32 | id, so that the smallest value is the oldest merge.

Two kinds of vocabulary exist. One lists its merges (Hugging Face's files, and ours). The other, as
tiktoken's, only has ranks: any two tokens whose bytes together are a token merge, the lowest id
first. Both are the same table here; it is filled from a list, or from all the ways to cut each
token in two.

Where a thing's slot is depends on HASH_KEY, a number that each process draws for itself. Else
someone could write two megabytes of words that all meet in one slot, and looking them up would take
minutes. No id depends on it. (A kernel is handed the key: a global would become part of the
machine code, and be the same for ever.)
"""

import os

import numpy as np

from .bytes_at import eight_bytes_at, int32_at, int64_at, multiply_and_fold
from .kernels import helper, kernel

NEVER = np.int64(2**63 - 1)  # what the table of pairs says of two ids that do not merge
NO_PAIR = np.int64(-1)
NO_TOKEN = np.int64(-1)

MIX = np.uint64(0x9E3779B97F4A7C15)  # odd constants with bits all over
MIX_1 = np.uint64(0xC2B2AE3D27D4EB4F)


HASH_KEY = np.uint64(int.from_bytes(os.urandom(8), "little") | 1)


def room_for(n: int) -> int:
    """The number of slots of a hash table that is at most half full: a power of two."""
    return 1 << max(4, (2 * n).bit_length())


# ---- hashing ----


@helper
def hash_bytes(text, i, length, key):
    """Mix any number of bytes, eight at a time, with a key that nobody knows."""
    mixed = key ^ np.uint64(length) * MIX_1
    end = i + length
    while i + 8 <= end:
        mixed = multiply_and_fold(mixed ^ eight_bytes_at(text, i), MIX)
        i += 8
    if i < end:
        rest = (np.uint64(1) << np.uint64(8 * (end - i))) - np.uint64(1)
        mixed = multiply_and_fold(mixed ^ (eight_bytes_at(text, i) & rest), MIX)
    return np.int64(mixed >> np.uint64(20))


@helper
def equal_bytes(text, i, other, j, length):
    """Compare `length` bytes, eight at a time."""
    end = i + length
    while i + 8 <= end:
        if eight_bytes_at(text, i) != eight_bytes_at(other, j):
            return False
        i += 8
        j += 8
    differ = eight_bytes_at(text, i) ^ eight_bytes_at(other, j)
    rest = (np.uint64(1) << np.uint64(8 * (end - i))) - np.uint64(1)
    return (differ & rest) == np.uint64(0)


@helper
def pair_slot(left, right, key):
    mixed = ((np.uint64(left) << np.uint64(32)) | np.uint64(right)) * key
    return np.int64(mixed >> np.uint64(32))


# ---- tables ----


@helper
def find_token(text, i, length, spelling, starts, table, mask, key):
    """Look up the id of the token that text[i : i + length] spells, or NO_TOKEN."""
    slot = hash_bytes(text, i, length, key) & mask
    while True:
        token = int32_at(table, slot)
        if token < 0:
            return NO_TOKEN
        begin = int64_at(starts, token)
        if int64_at(starts, token + 1) - begin == length and equal_bytes(
            text, i, spelling, begin, length
        ):
            return token
        slot = (slot + 1) & mask


@helper
def find_pair(pairs, mask, key, left, right):
    """Look up age << 32 | id of the merge of two ids, or NEVER. A row of `pairs` is (pair,
    value).
    """
    pair = (left << 32) | right
    slot = pair_slot(left, right, key) & mask
    while True:
        found = int64_at(pairs, 2 * slot)
        if found == pair:
            return int64_at(pairs, 2 * slot + 1)
        if found == NO_PAIR:
            return NEVER
        slot = (slot + 1) & mask


@kernel
def fill_token_table(tokens, spelling_array, starts, table, key):
    """Enter tokens (ids) into a hash table of ids, filled with NO_TOKEN before."""
    spelling = spelling_array.ctypes.data
    mask = len(table) - 1
    for token in tokens:
        slot = hash_bytes(spelling, starts[token], starts[token + 1] - starts[token], key) & mask
        while table[slot] >= 0:
            slot = (slot + 1) & mask
        table[slot] = token


@kernel
def fill_pairs_from_merges(merges, pairs, key):
    """Enter merges (M, 3), rows of left, right and merged id, oldest first, into a table of
    pairs.
    """
    mask = len(pairs) - 1
    for age in range(len(merges)):
        left, right = np.int64(merges[age, 0]), np.int64(merges[age, 1])
        pair = (left << 32) | right
        slot = pair_slot(left, right, key) & mask
        while pairs[slot, 0] != NO_PAIR and pairs[slot, 0] != pair:
            slot = (slot + 1) & mask
        pairs[slot, 0] = pair  # of a merge that is listed twice the later one holds
        pairs[slot, 1] = (age << 32) | merges[age, 2]


@kernel
def fill_pairs_from_ranks(tokens, spelling_array, starts_array, table_array, pairs, key):
    """Enter every way to cut a token into two tokens, the token's id being its age.

    returns  the number of pairs, or -1 if they would fill more than half of the table
    """
    spelling, starts = spelling_array.ctypes.data, starts_array.ctypes.data
    table = table_array.ctypes.data
    table_mask = len(table_array) - 1
    mask = len(pairs) - 1
    n_pairs = 0
    for token in tokens:
        begin = starts_array[token]
        length = starts_array[token + 1] - begin
        for cut in range(1, length):
            left = find_token(spelling, begin, cut, spelling, starts, table, table_mask, key)
            if left == NO_TOKEN:
                continue
            right = find_token(
                spelling, begin + cut, length - cut, spelling, starts, table, table_mask, key
            )
            if right == NO_TOKEN:
                continue
            n_pairs += 1
            if 2 * n_pairs > len(pairs):
                return np.int64(-1)
            slot = pair_slot(left, right, key) & mask
            while pairs[slot, 0] != NO_PAIR:
                slot = (slot + 1) & mask
            pairs[slot, 0] = (left << 32) | right
            pairs[slot, 1] = (token << 32) | token
    return np.int64(n_pairs)
