"""Encoding and decoding, fast: what `merges.encode` and `merges.decode` do, a hundred times
quicker.

`merges.encode` joins the oldest pair of one piece, again and again. Four things make that quick.

*Pieces repeat.* Most of a text is made of a few thousand words. The ids of every piece up to 31
bytes are remembered in a table whose row is one cache line: the piece itself, its length, and its
ids. A piece that was seen before costs one look. This is where nearly all the time is won.

Longer pieces, and those of many ids, are remembered too, in a second table whose rows point into an
arena.

*Memory is slow, but it can be asked early.* Pieces are taken in blocks. A first pass works out the
rows of all pieces of the block and asks the processor to fetch them; the second pass finds them
there.

*Pairs are numbers.* Whether two ids merge is a look into a hash table from (left, right) to the
merge's age and its id, both in one number: the smallest number is the oldest merge.

*Long pieces use a heap.* Looking through a short piece for its oldest pair is quick. In a piece
of a million equal letters that would take forever, so there the pairs wait in a heap, and the
symbols in a linked list.

Two kinds of vocabulary exist. One lists its merges (Hugging Face's files, and ours). The other, as
tiktoken's, only has ranks: any two tokens whose bytes together are a token may merge, the lowest id
first. Both are the same table of pairs here; it is filled from a list or from all the ways to cut
each token in two.

Order of the file: hashing, tables, merging one piece, encoding, decoding, and the class that holds
the tables of one vocabulary.
"""

import numpy as np

from .kernels import helper, kernel
from .memory import (
    PADDING,
    byte_at,
    eight_bytes_at,
    int32_at,
    int64_at,
    prefetch,
    put_eight_bytes,
    put_int64,
)
from .splitting import Splitter

NEVER = np.int64(2**63 - 1)  # what the table of pairs says of two ids that do not merge
NO_PAIR = np.int64(-1)
NO_TOKEN = np.int64(-1)
LOW_HALF = np.int64(0xFFFFFFFF)

SHORT_PIECE = 64  # bytes; longer pieces are merged with a heap
BLOCK = 128  # pieces whose rows are fetched together

# A row of the table of remembered pieces: 32 bytes of key and 32 of ids, one cache line.
ROW_BYTES = 64
LONGEST_REMEMBERED = 31  # bytes; the 32nd byte of the key is the length
MOST_IDS_REMEMBERED = 7  # four bytes each; the last four bytes are their number

MIX = np.uint64(0x9E3779B97F4A7C15)  # odd constants with bits all over
MIX_1 = np.uint64(0xC2B2AE3D27D4EB4F)
MIX_2 = np.uint64(0x165667B19E3779F9)
MIX_3 = np.uint64(0xD6E8FEB86659FD93)


def key_masks() -> np.ndarray:
    """Masks (32, 4) uint64 that keep the first `length` bytes of 32, for each length up to 31."""
    keep = np.arange(32)[:, None] > np.arange(32)[None, :]
    return np.where(keep, 255, 0).astype(np.uint8).view(np.uint64)


# ---- hashing ----


@helper
def hash_bytes(text, i, length):
    """Mix any number of bytes, eight at a time."""
    mixed = np.uint64(length) * MIX_1
    end = i + length
    while i + 8 <= end:
        mixed = (mixed ^ eight_bytes_at(text, i)) * MIX
        mixed ^= mixed >> np.uint64(29)
        i += 8
    if i < end:
        rest = (np.uint64(1) << np.uint64(8 * (end - i))) - np.uint64(1)
        mixed = (mixed ^ (eight_bytes_at(text, i) & rest)) * MIX
        mixed ^= mixed >> np.uint64(29)
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
def pair_slot(left, right):
    mixed = ((np.uint64(left) << np.uint64(32)) | np.uint64(right)) * MIX
    return np.int64(mixed >> np.uint64(32))


# ---- tables ----


@helper
def find_token(text, i, length, spelling, starts, table, mask):
    """Look up the id of the token that text[i : i + length] spells, or NO_TOKEN."""
    slot = hash_bytes(text, i, length) & mask
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
def find_pair(pairs, mask, left, right):
    """Look up age << 32 | id of the merge of two ids, or NEVER. A row of `pairs` is (pair,
    value).
    """
    pair = (left << 32) | right
    slot = pair_slot(left, right) & mask
    while True:
        found = int64_at(pairs, 2 * slot)
        if found == pair:
            return int64_at(pairs, 2 * slot + 1)
        if found == NO_PAIR:
            return NEVER
        slot = (slot + 1) & mask


@kernel
def fill_token_table(tokens, spelling_array, starts, table):
    """Enter tokens (ids) into a hash table of ids, filled with NO_TOKEN before."""
    spelling = spelling_array.ctypes.data
    mask = len(table) - 1
    for token in tokens:
        slot = hash_bytes(spelling, starts[token], starts[token + 1] - starts[token]) & mask
        while table[slot] >= 0:
            slot = (slot + 1) & mask
        table[slot] = token


@kernel
def fill_pairs_from_merges(merges, pairs):
    """Enter merges (M, 3), rows of left, right and merged id, oldest first, into a table of
    pairs.
    """
    mask = len(pairs) - 1
    for age in range(len(merges)):
        left, right = np.int64(merges[age, 0]), np.int64(merges[age, 1])
        pair = (left << 32) | right
        slot = pair_slot(left, right) & mask
        while pairs[slot, 0] != NO_PAIR and pairs[slot, 0] != pair:
            slot = (slot + 1) & mask
        pairs[slot, 0] = pair  # of a merge that is listed twice the later one holds
        pairs[slot, 1] = (age << 32) | merges[age, 2]


@kernel
def fill_pairs_from_ranks(tokens, spelling_array, starts_array, table_array, pairs):
    """Enter every way to cut a token into two tokens, the token's id being its age.

    returns  the number of pairs, or -1 if they would fill more than half of the table
    """
    spelling, starts, table = (
        spelling_array.ctypes.data,
        starts_array.ctypes.data,
        table_array.ctypes.data,
    )
    table_mask = len(table_array) - 1
    mask = len(pairs) - 1
    n_pairs = 0
    for token in tokens:
        begin = starts_array[token]
        length = starts_array[token + 1] - begin
        for cut in range(1, length):
            left = find_token(spelling, begin, cut, spelling, starts, table, table_mask)
            if left == NO_TOKEN:
                continue
            right = find_token(
                spelling, begin + cut, length - cut, spelling, starts, table, table_mask
            )
            if right == NO_TOKEN:
                continue
            n_pairs += 1
            if 2 * n_pairs > len(pairs):
                return np.int64(-1)
            slot = pair_slot(left, right) & mask
            while pairs[slot, 0] != NO_PAIR:
                slot = (slot + 1) & mask
            pairs[slot, 0] = (left << 32) | right
            pairs[slot, 1] = (token << 32) | token
    return np.int64(n_pairs)


# ---- merging one piece ----


@helper
def merge_short(text, i, length, byte_ids, pairs, mask, symbols, values, oldest_allowed):
    """Merge a piece of up to SHORT_PIECE bytes: `merges.encode`, looking for the oldest pair anew
    each time.

    symbols, values  room for SHORT_PIECE numbers each; symbols holds the ids in the end
    oldest_allowed   merges of this age or younger are not made
    returns          the number of ids
    """
    for k in range(length):
        put_int64(symbols, k, int32_at(byte_ids, byte_at(text, i + k)))
    for k in range(length - 1):
        value = find_pair(pairs, mask, int64_at(symbols, k), int64_at(symbols, k + 1))
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
            value = find_pair(pairs, mask, merged, int64_at(symbols, where + 1))
            put_int64(values, where, value)
        if where > 0:
            value = find_pair(pairs, mask, int64_at(symbols, where - 1), merged)
            put_int64(values, where - 1, value)
    return length


@helper
def heap_push(heap, size, item):
    i = size
    while i > 0 and heap[(i - 1) >> 1] > item:
        heap[i] = heap[(i - 1) >> 1]
        i = (i - 1) >> 1
    heap[i] = item


@helper
def heap_pop(heap, size):
    """Take the smallest of `size` items."""
    smallest, item = heap[0], heap[size - 1]
    i = 0
    while 2 * i + 1 < size - 1:
        child = 2 * i + 1
        if child + 1 < size - 1 and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= item:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = item
    return smallest


@kernel
def merge_long(text, i, length, byte_ids, pairs, mask, out, o):
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
        values[k] = find_pair(pairs, mask, symbols[k], symbols[k + 1])
        if values[k] != NEVER:
            heap_push(heap, size, (values[k] >> 32 << 32) | k)
            size += 1
    while size > 0:
        oldest = heap_pop(heap, size)
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
            values[k] = find_pair(pairs, mask, symbols[k], symbols[following[k]])
            if values[k] != NEVER:
                heap_push(heap, size, (values[k] >> 32 << 32) | k)
                size += 1
        before = preceding[k]
        if before >= 0:
            values[before] = find_pair(pairs, mask, symbols[before], symbols[k])
            if values[before] != NEVER:
                heap_push(heap, size, (values[before] >> 32 << 32) | before)
                size += 1
    k = 0
    while k < length:
        out[o] = symbols[k]
        o += 1
        k = following[k]
    return o


@kernel
def halves(spelling_array, starts, byte_ids_array, pairs_array, ranks):
    """Find the two tokens whose merge makes each token: the last step of merging its own bytes.

    ranks    (T,) the tokens to look at
    returns  (T, 2) left and right ids, -1 where the token's bytes do not merge to two tokens
    """
    spelling, byte_ids, pairs = (
        spelling_array.ctypes.data,
        byte_ids_array.ctypes.data,
        pairs_array.ctypes.data,
    )
    mask = len(pairs_array) - 1
    longest = 1
    for token in ranks:
        longest = max(longest, starts[token + 1] - starts[token])
    symbols, values = np.empty(longest, np.int64), np.empty(longest, np.int64)
    found = np.full((len(ranks), 2), NO_TOKEN)
    for k in range(len(ranks)):
        begin, end = starts[ranks[k]], starts[ranks[k] + 1]
        n_left = merge_short(
            spelling,
            begin,
            end - begin,
            byte_ids,
            pairs,
            mask,
            symbols.ctypes.data,
            values.ctypes.data,
            ranks[k],
        )
        if n_left == 2:
            found[k, 0], found[k, 1] = symbols[0], symbols[1]
    return found


# ---- encoding ----


@helper
def row_of_piece(text, i, length, masks):
    """Mix the bytes of a piece of up to LONGEST_REMEMBERED bytes to a number that chooses its
    row.
    """
    key = masks + 32 * length
    mixed = (eight_bytes_at(text, i) & eight_bytes_at(key, 0)) * MIX
    mixed += (eight_bytes_at(text, i + 8) & eight_bytes_at(key, 8)) * MIX_1
    mixed += (eight_bytes_at(text, i + 16) & eight_bytes_at(key, 16)) * MIX_2
    mixed += (eight_bytes_at(text, i + 24) & eight_bytes_at(key, 24)) * MIX_3
    mixed ^= mixed >> np.uint64(32)
    mixed *= MIX
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
        put_eight_bytes(row, 32 + 4 * k, eight_bytes_at(out, 4 * (o + k)))
    last = np.uint64(int32_at(row, 14) & LOW_HALF)
    put_eight_bytes(row, 56, last | (np.uint64(count) << np.uint64(32)))


@helper
def find_long(text, i, length, hashed, rows, mask, arena):
    """Look for a piece in the second table; return where its entry in the arena begins, or 0.

    A row is (hash, begin). An entry is, in words of eight bytes: the length of the piece, the
    number of its ids, the piece itself, its ids two to a word.
    """
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
def remember_long(text, i, length, hashed, rows, mask, arena, begin, out, o, count):
    """Write an entry into the arena at `begin`, and a row that points to it; return its end."""
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


@kernel
def encode_pieces(
    text_array,
    start,
    ends,
    spelling_array,
    starts_array,
    table_array,
    pairs_array,
    byte_ids_array,
    masks_array,
    whole_pieces,
    longest_token,
    remembered_array,
    long_rows_array,
    arena_array,
    used,
    scratch,
    out_array,
    o,
):
    """Encode the pieces of a text: `merges.encode` for each, unless it is remembered.

    text              (N + PADDING,) uint8
    start, ends       the first piece begins at `start`, piece k ends at ends[k]
    spelling … masks  the tables of a vocabulary, see `Encoder`
    whole_pieces      whether a piece that is a token is not merged but taken
    longest_token     in bytes
    remembered        (R, 8) uint64, R a power of two: the pieces seen so far, updated
    long_rows, arena  (L, 2) int64, L a power of two, and (A,) int64: those that need more room
    used              (3,) int64: rows in use in either table, words in use in the arena; updated
    scratch           (2 * SHORT_PIECE + BLOCK,) int64
    out, o            ids are written to out[o], …; there must be room for one id a byte and 8 more
    returns           the new o, or -1 - k if piece k has bytes that the vocabulary has not
    """
    text, spelling, starts = (
        text_array.ctypes.data,
        spelling_array.ctypes.data,
        starts_array.ctypes.data,
    )
    table, pairs, byte_ids = (
        table_array.ctypes.data,
        pairs_array.ctypes.data,
        byte_ids_array.ctypes.data,
    )
    masks, remembered, out = (
        masks_array.ctypes.data,
        remembered_array.ctypes.data,
        out_array.ctypes.data,
    )
    long_rows, arena, piece_ends = (
        long_rows_array.ctypes.data,
        arena_array.ctypes.data,
        ends.ctypes.data,
    )
    table_mask, pair_mask = len(table_array) - 1, len(pairs_array) - 1
    row_mask, long_mask = len(remembered_array) - 1, len(long_rows_array) - 1
    most_rows, most_long_rows = 3 * len(remembered_array) // 4, len(long_rows_array) // 2
    symbols = scratch.ctypes.data
    values = symbols + 8 * SHORT_PIECE
    rows = symbols + 16 * SHORT_PIECE

    for first in range(0, len(ends), BLOCK):
        last = min(first + BLOCK, len(ends))
        i = start
        for k in range(first, last):
            end = int64_at(piece_ends, k)
            length = end - i
            if length <= LONGEST_REMEMBERED:
                slot = row_of_piece(text, i, length, masks) & row_mask
                put_int64(rows, k - first, slot)
                prefetch(remembered + ROW_BYTES * slot)
            i = end
        for k in range(first, last):
            i, start = start, int64_at(piece_ends, k)
            length = start - i
            row = np.int64(0)
            if length <= LONGEST_REMEMBERED:
                slot = int64_at(rows, k - first)
                row = remembered + ROW_BYTES * slot
                while not is_key_of(row, text, i, length, masks) and int64_at(row, 3) != 0:
                    slot = (slot + 1) & row_mask
                    row = remembered + ROW_BYTES * slot
                count = int32_at(row, 15)
                if count > 0:
                    put_eight_bytes(out, 4 * o, eight_bytes_at(row, 32))
                    if count > 2:
                        put_eight_bytes(out, 4 * o + 8, eight_bytes_at(row, 40))
                        put_eight_bytes(out, 4 * o + 16, eight_bytes_at(row, 48))
                        put_eight_bytes(out, 4 * o + 24, eight_bytes_at(row, 56))
                    o += count
                    continue
            hashed = hash_bytes(text, i, length)
            found = find_long(text, i, length, hashed, long_rows, long_mask, arena)
            if found != 0:
                count = int64_at(arena, found + 1)
                ids = found + 2 + ((length + 7) >> 3)
                for j in range((count + 1) >> 1):
                    put_eight_bytes(out, 4 * o + 8 * j, eight_bytes_at(arena, 8 * (ids + j)))
                o += count
                continue

            before = o
            token = NO_TOKEN
            if whole_pieces and length <= longest_token:
                token = find_token(text, i, length, spelling, starts, table, table_mask)
            if token != NO_TOKEN:
                out_array[o] = token
                o += 1
            else:
                for j in range(i, start):
                    if int32_at(byte_ids, byte_at(text, j)) < 0:
                        return np.int64(-1 - k)
                if length <= SHORT_PIECE:
                    count = merge_short(
                        text, i, length, byte_ids, pairs, pair_mask, symbols, values, NEVER >> 32
                    )
                    for j in range(count):
                        out_array[o + j] = int64_at(symbols, j)
                    o += count
                else:
                    o = merge_long(text, i, length, byte_ids, pairs, pair_mask, out_array, o)
            count = o - before
            if length <= LONGEST_REMEMBERED and count <= MOST_IDS_REMEMBERED:
                if used[0] < most_rows:
                    remember(row, text, i, length, masks, out, before, count)
                    used[0] += 1
            elif used[1] < most_long_rows and used[2] + length + 4 < len(arena_array):
                used[1] += 1
                used[2] = remember_long(
                    text,
                    i,
                    length,
                    hashed,
                    long_rows,
                    long_mask,
                    arena,
                    used[2],
                    out,
                    before,
                    count,
                )
    return o


@kernel
def move_remembered(old, new_array, masks_array):
    """Enter all rows of one table of remembered pieces into a larger, empty one."""
    new, masks = new_array.ctypes.data, masks_array.ctypes.data
    mask = len(new_array) - 1
    for k in range(len(old)):
        if old[k, 3] != 0:
            key = old.ctypes.data + ROW_BYTES * k
            length = byte_at(key, LONGEST_REMEMBERED)
            slot = row_of_piece(key, 0, length, masks) & mask
            while new_array[slot, 3] != 0:
                slot = (slot + 1) & mask
            for word in range(8):
                put_eight_bytes(new + ROW_BYTES * slot, 8 * word, eight_bytes_at(key, 8 * word))


# ---- decoding ----


@kernel
def decoded_length(ids, starts):
    """Add up the bytes of all ids; return -1 - k if ids[k] is not in the vocabulary."""
    total = 0
    for k in range(len(ids)):
        token = np.int64(ids[k])
        if token < 0 or token >= len(starts) - 1 or starts[token + 1] == starts[token]:
            return np.int64(-1 - k)
        total += starts[token + 1] - starts[token]
    return np.int64(total)


@kernel
def decode_ids(ids, spelling_array, starts, out_array):
    """Join the bytes of all ids: `merges.decode`, sixteen bytes at a time.

    out  uint8, with room for 16 bytes more than `decoded_length`
    """
    spelling, out = spelling_array.ctypes.data, out_array.ctypes.data
    o = 0
    for k in range(len(ids)):
        token = np.int64(ids[k])
        begin, end = starts[token], starts[token + 1]
        put_eight_bytes(out, o, eight_bytes_at(spelling, begin))
        put_eight_bytes(out, o + 8, eight_bytes_at(spelling, begin + 8))
        for i in range(begin + 16, end, 8):
            put_eight_bytes(out, o + i - begin, eight_bytes_at(spelling, i))
        o += end - begin


# ---- one vocabulary ----

PIECES_AT_ONCE = 16_384
FEWEST_ROWS, MOST_ROWS = 1 << 14, 1 << 20  # 1 MB and 64 MB, for each call at one time
LONG_ROWS, ARENA_WORDS = 1 << 17, 1 << 21  # 2 MB and 16 MB, of which only what is used is touched


def padded(text: bytes) -> np.ndarray:
    """The bytes of a text as the kernels want them: (N + PADDING,) uint8."""
    return np.frombuffer(text + bytes(PADDING), np.uint8)


def _room_for(n: int) -> int:
    """The number of slots of a hash table that is at most half full: a power of two."""
    return 1 << max(4, (2 * n).bit_length())


def _empty_rows(n: int) -> np.ndarray:
    """An empty table of remembered pieces, each row on one cache line."""
    words = np.zeros((n + 1) * 8, np.uint64)
    skip = -words.ctypes.data % ROW_BYTES // 8
    return words[skip : skip + 8 * n].reshape(n, 8)


class _Memory:
    """What is remembered from call to call. Only one call at a time may use it."""

    def __init__(self):
        self.ends = np.empty(PIECES_AT_ONCE, np.int64)
        self.rows = _empty_rows(FEWEST_ROWS)
        self.long_rows = np.zeros((LONG_ROWS, 2), np.int64)
        self.arena = np.empty(ARENA_WORDS, np.int64)
        self.used = np.array([0, 0, 1])  # the arena begins at 1, so that 0 can mean "nowhere"
        self.scratch = np.empty(2 * SHORT_PIECE + BLOCK, np.int64)

    def make_room(self, masks: np.ndarray) -> None:
        """Grow the first table when it is half full; what may not grow any more is begun anew."""
        if 2 * self.used[0] > len(self.rows):
            if len(self.rows) < MOST_ROWS:
                larger = _empty_rows(2 * len(self.rows))
                move_remembered(self.rows, larger, masks)
                self.rows = larger
            else:
                self.rows[:] = 0
                self.used[0] = 0
        if 3 * self.used[1] > LONG_ROWS or 2 * self.used[2] > ARENA_WORDS:
            self.long_rows[:] = 0
            self.used[1:] = 0, 1


class Encoder:
    """The tables of one vocabulary, and the loop that drives the kernels over a text.

    tokens    the bytes of every id from 0 on, special tokens too; b"" where an id is not in use
    ordinary  the ids that are not only special tokens
    merges    rows of left, right and merged id, oldest first, or None: then any two tokens whose
              bytes together are a token merge, the lowest id first
    """

    def __init__(
        self,
        tokens: list[bytes],
        ordinary: list[int],
        merges: list[tuple[int, int, int]] | None,
        whole_pieces: bool,
    ):
        self.starts = np.zeros(len(tokens) + 1, np.int64)
        np.cumsum([len(token) for token in tokens], out=self.starts[1:])
        self.spelling = padded(b"".join(tokens))
        self.ordinary = ids = np.array(ordinary, np.int64)
        table = np.full(_room_for(len(ids)), NO_TOKEN, np.int32)
        fill_token_table(ids, self.spelling, self.starts, table)
        if merges is None:
            self.pairs = self._pairs_from_ranks(ids, table)
        else:
            self.pairs = np.full((_room_for(len(merges)), 2), NO_PAIR)
            fill_pairs_from_merges(np.array(merges, np.int64).reshape(-1, 3), self.pairs)
        self.byte_ids = np.full(256, NO_TOKEN, np.int32)
        for i in ordinary:
            if len(tokens[i]) == 1:
                self.byte_ids[tokens[i][0]] = i
        self.masks = key_masks()
        longest = max((len(tokens[i]) for i in ordinary), default=0)
        self._tables = (
            self.spelling,
            self.starts,
            table,
            self.pairs,
            self.byte_ids,
            self.masks,
            whole_pieces,
            longest,
        )
        self._free: list[_Memory] = []  # those that no call is using just now

    def _pairs_from_ranks(self, ids: np.ndarray, table: np.ndarray) -> np.ndarray:
        room = _room_for(2 * len(ids))
        while True:
            pairs = np.full((room, 2), NO_PAIR)
            if fill_pairs_from_ranks(ids, self.spelling, self.starts, table, pairs) >= 0:
                return pairs
            room *= 2

    def encode(self, text: bytes, split: Splitter) -> np.ndarray:
        """Encode a text: (N,) uint32.

        raises  ValueError if the vocabulary lacks a byte of it
        """
        try:
            memory = self._free.pop()
        except IndexError:
            memory = _Memory()
        try:
            return self._encode_with(memory, text, split)
        finally:
            self._free.append(memory)

    def _encode_with(self, memory: _Memory, text: bytes, split: Splitter) -> np.ndarray:
        buffer = padded(text)
        out = np.empty(len(text) + 8, np.uint32)
        start = o = 0
        for ends in split(buffer, len(text), memory.ends):
            encoded = encode_pieces(
                buffer,
                start,
                ends,
                *self._tables,
                memory.rows,
                memory.long_rows,
                memory.arena,
                memory.used,
                memory.scratch,
                out,
                o,
            )
            if encoded < 0:
                self._refuse(text, start, ends, -1 - encoded)
            o = encoded
            start = int(ends[-1])
            memory.make_room(self.masks)
        return out[:o]

    def merges(self) -> list[tuple[bytes, bytes]]:
        """The last merge of each token, in the order of ids, for a vocabulary without a list."""
        ids = np.sort(self.ordinary[np.diff(self.starts)[self.ordinary] > 1])
        found = halves(self.spelling, self.starts, self.byte_ids, self.pairs, ids)
        text = self.spelling.tobytes()
        starts = self.starts.tolist()

        def token(i):
            return text[starts[i] : starts[i + 1]]

        return [(token(left), token(right)) for left, right in found.tolist() if left >= 0]

    def _refuse(self, text: bytes, start: int, ends: np.ndarray, k: int) -> None:
        piece = text[ends[k - 1] if k else start : ends[k]].decode("utf-8", "replace")
        raise ValueError(
            f"{piece!r:.80} is not in this vocabulary of {len(self.starts) - 1} tokens, "
            "nor are all of its bytes"
        )

    def decode(self, ids: np.ndarray) -> bytes:
        """Decode an array of integers.

        raises  ValueError if one of them is not an id of the vocabulary
        """
        length = decoded_length(ids, self.starts)
        if length < 0:
            raise ValueError(
                f"id {ids[-1 - length]} is not in this vocabulary of {len(self.starts) - 1} tokens"
            )
        out = np.empty(length + 16, np.uint8)
        decode_ids(ids, self.spelling, self.starts, out)
        return out[:length].tobytes()
