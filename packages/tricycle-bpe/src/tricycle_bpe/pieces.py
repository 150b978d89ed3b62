"""Encoding one piece: `merges.encode`, fast.

`merges.encode` works out the age of every pair of neighbours again after each merge. But a merge
changes only the pairs at its two ends, so here the others are kept.

In a short piece the oldest pair is found by looking through all of them, which is quick. In a piece
of a million equal letters that would take forever. There the pairs wait in a heap (`heap.py`), the
oldest on top, and the ids are a linked list, from which one can be taken out without moving the
others.
"""

import numpy as np

from .bytes_at import byte_at, int32_at, int64_at, put_int64
from .heap import heap_push, heap_sink
from .kernels import helper, kernel
from .tables import NEVER, NO_TOKEN, find_pair

LOW_HALF = np.int64(0xFFFFFFFF)
SHORT_PIECE = 64  # bytes; longer pieces are merged with a heap


@helper
def has_unknown_bytes(text, i, end, byte_ids):
    """Look whether the vocabulary lacks one of these bytes."""
    least = np.int64(0)
    for k in range(i, end):
        least = min(least, int32_at(byte_ids, byte_at(text, k)))
    return least < 0


@helper
def merge_short(text, i, length, byte_ids, pairs, mask, key, symbols, values, oldest_allowed):
    """Merge a piece of up to SHORT_PIECE bytes: `merges.encode`, looking through all pairs for the
    oldest each time.

    symbols, values  room for SHORT_PIECE numbers each; symbols holds the ids in the end
    oldest_allowed   merges of this age or younger are not made
    returns          the number of ids
    """
    for k in range(length):
        put_int64(symbols, k, int32_at(byte_ids, byte_at(text, i + k)))
    for k in range(length - 1):
        value = find_pair(pairs, mask, key, int64_at(symbols, k), int64_at(symbols, k + 1))
        put_int64(values, k, value)
    while length > 1:
        oldest, where = NEVER, 0
        for k in range(length - 1):
            value = int64_at(values, k)
            if value < oldest:
                oldest, where = value, k
        if oldest >> 32 >= oldest_allowed:
            break
        length -= 1
        for k in range(where + 1, length):
            put_int64(symbols, k, int64_at(symbols, k + 1))
            put_int64(values, k, int64_at(values, k + 1))
        merged = oldest & LOW_HALF
        put_int64(symbols, where, merged)
        if where + 1 < length:
            value = find_pair(pairs, mask, key, merged, int64_at(symbols, where + 1))
            put_int64(values, where, value)
        if where > 0:
            value = find_pair(pairs, mask, key, int64_at(symbols, where - 1), merged)
            put_int64(values, where - 1, value)
    return length


# The heap of a long piece: each item a number, age << 32 | position, the smallest on top.


@helper
def goes_before(one, other):
    return one < other


@helper
def item_at(heap, i):
    return heap[i]


@helper
def put_item(heap, i, item):
    heap[i] = item


@helper
def push(heap, size, value, position):
    """Let a pair wait: `value` as in the table of pairs, age << 32 | merged id."""
    heap_push(heap, size, (value >> 32 << 32) | position, goes_before, item_at, put_item)


@helper
def pop(heap, size):
    """Take the oldest of `size` pairs: age << 32 | position."""
    oldest = heap[0]
    heap_sink(heap, size - 1, heap[size - 1], goes_before, item_at, put_item)
    return oldest


@kernel
def merge_long(text, i, length, byte_ids, pairs, mask, key, out, o):
    """Merge a long piece: as `merge_short`, the pairs waiting in a heap as age << 32 | position."""
    symbols = np.empty(length, np.int64)
    values = np.full(length, NEVER)
    following = np.arange(1, length + 1)
    preceding = np.arange(-1, length - 1)
    heap = np.empty(3 * length, np.int64)
    size = 0
    for k in range(length):
        symbols[k] = int32_at(byte_ids, byte_at(text, i + k))
    for k in range(length - 1):
        values[k] = find_pair(pairs, mask, key, symbols[k], symbols[k + 1])
        if values[k] != NEVER:
            push(heap, size, values[k], k)
            size += 1
    while size > 0:
        oldest = pop(heap, size)
        size -= 1
        k = oldest & LOW_HALF
        if values[k] >> 32 != oldest >> 32:
            continue  # merged with another neighbour in the meantime
        gone = following[k]
        symbols[k] = values[k] & LOW_HALF
        following[k] = following[gone]
        values[gone] = NEVER
        values[k] = NEVER
        if following[k] < length:
            preceding[following[k]] = k
            values[k] = find_pair(pairs, mask, key, symbols[k], symbols[following[k]])
            if values[k] != NEVER:
                push(heap, size, values[k], k)
                size += 1
        before = preceding[k]
        if before >= 0:
            values[before] = find_pair(pairs, mask, key, symbols[before], symbols[k])
            if values[before] != NEVER:
                push(heap, size, values[before], before)
                size += 1
    k = 0
    while k < length:
        out[o] = symbols[k]
        o += 1
        k = following[k]
    return o


@kernel
def halves(spelling_array, starts, byte_ids_array, pairs_array, ranks, key):
    """Find the two tokens whose merge makes each token: the last step of merging its own bytes.

    ranks    (T,) the tokens to look at
    returns  (T, 2) left and right ids, -1 where the token's bytes do not merge to two tokens
    """
    spelling, byte_ids = spelling_array.ctypes.data, byte_ids_array.ctypes.data
    pairs = pairs_array.ctypes.data
    mask = len(pairs_array) - 1
    longest = 1
    for token in ranks:
        longest = max(longest, starts[token + 1] - starts[token])
    symbols, values = np.empty(longest, np.int64), np.empty(longest, np.int64)
    found = np.full((len(ranks), 2), NO_TOKEN)
    for k in range(len(ranks)):
        begin, end = starts[ranks[k]], starts[ranks[k] + 1]
        if has_unknown_bytes(spelling, begin, end, byte_ids):
            continue  # no token to begin with, and so none to merge
        n_left = merge_short(
            spelling,
            begin,
            end - begin,
            byte_ids,
            pairs,
            mask,
            key,
            symbols.ctypes.data,
            values.ctypes.data,
            ranks[k],
        )
        if n_left == 2:
            found[k, 0], found[k, 1] = symbols[0], symbols[1]
    return found
