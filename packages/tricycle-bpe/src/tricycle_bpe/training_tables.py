"""The tables that training keeps: a heap of pairs, the counts of all pairs, the known strings.

All are plain arrays, so that kernels can change them: a heap, and two hash tables with open
addressing (what finds its slot taken goes to the next one).
"""

import numpy as np

from .bytes_at import multiply_and_fold
from .heap import heap_push, heap_sink
from .kernels import helper, kernel
from .tables import MIX

NO_PAIR = np.int64(-1)


# ---- a heap of (count, pair, list of places), the most frequent pair on top ----


@helper
def goes_before(row, other):
    return row[0] > other[0] or (row[0] == other[0] and row[1] < other[1])


@helper
def row_at(heap, i):
    """The count, the pair and the list of places at place i."""
    return heap[i, 0], heap[i, 1], heap[i, 2]


@helper
def put_row(heap, i, row):
    heap[i, 0], heap[i, 1], heap[i, 2] = row


@helper
def push_row(heap, size, row):
    """Put a row in the heap of `size` rows."""
    heap_push(heap, size, row, goes_before, row_at, put_row)


@helper
def sink_row(heap, size, row):
    """Replace the top row by another and let it sink to where it belongs."""
    heap_sink(heap, size, row, goes_before, row_at, put_row)


# ---- the table of pair counts: open addressing, a power of two of slots ----


@helper
def slot_of(pairs, pair):
    """Find the slot of a pair, or the empty one where it would go."""
    mask = len(pairs) - 1
    mixed = np.uint64(pair) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(mixed >> np.uint64(32)) & mask
    while pairs[slot] != pair and pairs[slot] != NO_PAIR:
        slot = (slot + 1) & mask
    return slot


@helper
def add_to_count(pairs, counts, pair, change):
    """Add to the count of a pair; return 1 if the pair is new to the table."""
    slot = slot_of(pairs, pair)
    is_new = pairs[slot] == NO_PAIR
    pairs[slot] = pair
    counts[slot] += change
    return np.int64(is_new)


@kernel
def rehash(pairs, counts, n_slots):
    """Move a table of pair counts to one of `n_slots` slots."""
    new_pairs = np.full(n_slots, NO_PAIR)
    new_counts = np.zeros(n_slots, np.int64)
    for i in range(len(pairs)):
        if pairs[i] != NO_PAIR:
            slot = slot_of(new_pairs, pairs[i])
            new_pairs[slot] = pairs[i]
            new_counts[slot] = counts[i]
    return new_pairs, new_counts


# ---- the strings of all tokens, to notice when a merge spells one that exists ----


@helper
def spell_pair(spelling, starts, n_tokens, left, right):
    """Write the bytes of left + right after those of the last token; return their number."""
    o = starts[n_tokens]
    for token in (left, right):
        for i in range(starts[token], starts[token + 1]):
            spelling[o] = spelling[i]
            o += 1
    return o - starts[n_tokens]


@helper
def string_slot(table, spelling, starts, begin, length, key):
    """Find the slot of the token that spells these bytes, or the empty one where it would go.

    key  of this process, see tables.py
    """
    mask = len(table) - 1
    mixed = np.uint64(key)
    for i in range(begin, begin + length):
        mixed = multiply_and_fold(mixed ^ np.uint64(spelling[i]), MIX)
    slot = np.int64(mixed >> np.uint64(20)) & mask
    while table[slot] >= 0:
        token = table[slot]
        if starts[token + 1] - starts[token] == length:
            same = 0
            while same < length and spelling[starts[token] + same] == spelling[begin + same]:
                same += 1
            if same == length:
                break
        slot = (slot + 1) & mask
    return slot
