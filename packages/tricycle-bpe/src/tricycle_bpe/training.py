"""Training, fast: the same merges as `merges.train`, in a fraction of a second per million words.

`merges.train` counts every pair again after each merge. But a merge of (a, b) into c changes only
the few counts around the places where a b stood:

    … x a b y …   becomes   … x c y …
    one (x, a) and one (b, y) fewer, one (x, c) and one (c, y) more

So we keep the counts, keep for each pair the list of places where it stands, and visit only those.
Three choices make that quick:

*One long array.* All distinct words lie behind each other in `symbols`, a separator between them. A
token of several bytes is written at its first byte and, as ENDS - id, at its last; so its
neighbours on both sides are found by looking one step left and right. Everything a merge touches
lies together.

*Neighbours are tallied before they are looked up.* Merging a frequent pair meets the same few
neighbours thousands of times. The changes are summed in small arrays, indexed by neighbour, and
the table of pair counts is touched once for each distinct neighbour.

*A lazy heap.* The most frequent pair is on top. A count that sank since it was pushed is noticed
when it reaches the top, and pushed again with its present value.

Ties go to the smallest pair of ids. Where a merged string already exists as a token (say `aa`+`aa`
after `aaa`+`a`), no new id is made: the pair leads to the old one. Then that pair may come up for
merging again, with only its new places in the list. All of this is as Hugging Face's trainer does
it, so that the merges are equal, one by one.

Order of the file: the heap, the table of pair counts, the table of known strings, learning.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .byte_characters import from_characters, in_character_order
from .kernels import helper, kernel

SEPARATOR = np.int32(-1)  # stands before the first word and after each
ENDS = np.int32(-2)  # the last byte of a longer token holds ENDS - id
INSIDE = np.int32(-(2**31))  # the bytes in between hold nothing
NO_PAIR = np.int64(-1)


# ---- a heap of (count, pair, list of places), the most frequent pair on top ----


@helper
def goes_before(count, pair, other_count, other_pair):
    return count > other_count or (count == other_count and pair < other_pair)


@helper
def copy_row(heap, source, target):
    heap[target, 0] = heap[source, 0]
    heap[target, 1] = heap[source, 1]
    heap[target, 2] = heap[source, 2]


@helper
def heap_push(heap, size, count, pair, places):
    """Put a row in the heap of `size` rows; each parent i has its children at 4 i + 1 … 4 i + 4."""
    i = size
    while i > 0:
        parent = (i - 1) >> 2
        if not goes_before(count, pair, heap[parent, 0], heap[parent, 1]):
            break
        copy_row(heap, parent, i)
        i = parent
    heap[i, 0], heap[i, 1], heap[i, 2] = count, pair, places


@helper
def heap_sink(heap, size, count, pair, places):
    """Replace the top row by another and let it sink to where it belongs."""
    i = 0
    while True:
        first = 4 * i + 1
        if first >= size:
            break
        best = first
        for child in range(first + 1, min(first + 4, size)):
            if goes_before(heap[child, 0], heap[child, 1], heap[best, 0], heap[best, 1]):
                best = child
        if not goes_before(heap[best, 0], heap[best, 1], count, pair):
            break
        copy_row(heap, best, i)
        i = best
    heap[i, 0], heap[i, 1], heap[i, 2] = count, pair, places


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
    """Write the bytes of left + right behind those of the last token; return their number."""
    o = starts[n_tokens]
    for token in (left, right):
        for i in range(starts[token], starts[token + 1]):
            spelling[o] = spelling[i]
            o += 1
    return o - starts[n_tokens]


@helper
def string_slot(table, spelling, starts, begin, length):
    """Find the slot of the token that spells these bytes, or the empty one where it would go."""
    mask = len(table) - 1
    mixed = np.uint64(14695981039346656037)  # FNV-1a
    for i in range(begin, begin + length):
        mixed = (mixed ^ np.uint64(spelling[i])) * np.uint64(1099511628211)
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


# ---- learning ----


@kernel
def grown(array, needed):
    """Return the array, or a copy in one at least twice as long if it has no room for `needed`."""
    if needed <= len(array):
        return array
    larger = np.empty(max(needed, 2 * len(array)), array.dtype)
    for i in range(len(array)):
        larger[i] = array[i]
    return larger


@kernel
def grown_rows(array, needed):
    """As `grown`, for an array of rows."""
    if needed <= len(array):
        return array
    larger = np.empty((max(needed, 2 * len(array)), array.shape[1]), array.dtype)
    for i in range(len(array)):
        for j in range(array.shape[1]):
            larger[i, j] = array[i, j]
    return larger


@kernel
def lay_out_words(letters, ends, occurrences):
    """Write all words into one array, a separator before, between and after them.

    letters      (N,) uint8, the words behind each other
    ends         (W,) where each word ends
    occurrences  (W,) how often each word occurs
    returns      symbols (N + W + 1,) int32 and the weight of each symbol, its word's occurrences
    """
    symbols = np.full(len(letters) + len(ends) + 1, SEPARATOR)
    weights = np.zeros(len(symbols), np.int64)
    i = 0
    for word in range(len(ends)):
        for i in range(ends[word - 1] if word else 0, ends[word]):
            symbols[1 + i + word] = letters[i]
            weights[1 + i + word] = occurrences[word]
    return symbols, weights


@kernel
def first_places(symbols, weights):
    """Count the pairs of bytes and list their places: `merges.count_pairs`, with an address book.

    returns  counts (65536,) and starts (65537,), indexed by 256 * left + right, and places: those
             of pair p are places[starts[p] : starts[p + 1]], in ascending order
    """
    counts = np.zeros(65536, np.int64)
    starts = np.zeros(65537, np.int64)
    for i in range(len(symbols) - 1):
        if symbols[i] >= 0 and symbols[i + 1] >= 0:
            pair = 256 * symbols[i] + symbols[i + 1]
            counts[pair] += weights[i]
            starts[pair + 1] += 1
    starts = np.cumsum(starts)
    places = np.empty(starts[65536], np.int32)
    cursor = starts.copy()
    for i in range(len(symbols) - 1):
        if symbols[i] >= 0 and symbols[i + 1] >= 0:
            pair = 256 * symbols[i] + symbols[i + 1]
            places[cursor[pair]] = i
            cursor[pair] += 1
    return counts, starts, places


# What a merge of (a, b) into c meets on one side of it is tallied in a tuple of four arrays:
#     change     (V,) by neighbour, how often it was met, each place weighted
#     cursor     (V,) by neighbour, at how many places; later, where its next place is written
#     met        (V,) the neighbours that were met, each once
#     log        (n, 2) neighbour and place, in the order in which they were met


@helper
def new_tally(vocab_size):
    return (
        np.zeros(vocab_size, np.int64),
        np.zeros(vocab_size, np.int64),
        np.empty(vocab_size, np.int32),
        np.empty((1024, 2), np.int32),
    )


@kernel
def merge_places(symbols, weights, lengths, places, a, b, c, left_tally, right_tally):
    """Merge a pair wherever it still stands: `merges.merge`, which here visits its places only.

    The neighbours of each place go into the tallies, whose logs have room for them.

    returns  the number of entries in left met, left log, right met, right log
    """
    left_change, left_cursor, left_met, left_log = left_tally
    right_change, right_cursor, right_met, right_log = right_tally
    n_left_met = n_left = n_right_met = n_right = 0
    length_a, length_b = lengths[a], lengths[b]
    for i in places:
        j = i + length_a
        if symbols[i] != a or symbols[j] != b:
            continue
        after = j + length_b
        symbols[j - 1] = INSIDE
        symbols[j] = INSIDE
        symbols[i] = c
        symbols[after - 1] = ENDS - c
        right = symbols[after]
        if right != SEPARATOR:
            if right_change[right] == 0:
                right_met[n_right_met] = right
                n_right_met += 1
            right_change[right] += weights[i]
            if right == c:  # (c, c) may be met from both sides, and must stay one list
                left_log[n_left, 0], left_log[n_left, 1] = c, i
                n_left += 1
                left_cursor[c] += 1
            else:
                right_log[n_right, 0], right_log[n_right, 1] = right, i
                n_right += 1
                right_cursor[right] += 1
        left = symbols[i - 1]
        if left != SEPARATOR:
            if left < 0:
                left = ENDS - left
            if left_change[left] == 0:
                left_met[n_left_met] = left
                n_left_met += 1
            left_change[left] += weights[i]
            left_log[n_left, 0], left_log[n_left, 1] = left, i - lengths[left]
            n_left += 1
            left_cursor[left] += 1
    if right_change[c] > 0 and left_change[c] == 0:
        left_met[n_left_met] = c
        n_left_met += 1
    return n_left_met, n_left, n_right_met, n_right


@helper
def pair_of(left, right):
    """Write two ids as one number."""
    return (np.int64(left) << 32) | np.int64(right)


@kernel
def change_counts(pairs, counts, merged, tally, n_met, on_the_left):
    """Take the pairs that a merge has broken out of the counts, and put those it has made in.

    merged   a, b and c of the merge of (a, b) into c
    returns  how many pairs are new to the table
    """
    a, b, c = merged
    change, _, met, _ = tally
    n_new = 0
    for k in range(n_met):
        other = met[k]
        old = pair_of(other, a) if on_the_left else pair_of(b, other)
        new = pair_of(other, c) if on_the_left else pair_of(c, other)
        n_new += add_to_count(pairs, counts, old, -change[other])
        n_new += add_to_count(pairs, counts, new, change[other])
    return n_new


@kernel
def list_places(places, n_places, spans, n_spans, tally, n_met, n_log):
    """Write the places in a log behind `places`, sorted by neighbour; a row of `spans` for each."""
    _, cursor, met, log = tally
    for k in range(n_met):
        begin = n_places
        n_places += cursor[met[k]]
        cursor[met[k]] = begin
        spans[n_spans + k, 0], spans[n_spans + k, 1] = begin, n_places
    for k in range(n_log):
        places[cursor[log[k, 0]]] = log[k, 1]
        cursor[log[k, 0]] += 1
    return n_places


@kernel
def push_pairs(heap, n_heap, pairs, counts, c, spans, n_spans, tally, n_met, on_the_left):
    """Push the pairs that a merge has made, if any are left of them, and clear the tally."""
    change, cursor, met, _ = tally
    for k in range(n_met):
        other = met[k]
        pair = pair_of(other, c) if on_the_left else pair_of(c, other)
        count = counts[slot_of(pairs, pair)]
        if count > 0 and spans[n_spans + k, 1] > spans[n_spans + k, 0]:
            heap_push(heap, n_heap, count, pair, n_spans + k)
            n_heap += 1
        change[other] = cursor[other] = 0
    return n_heap


@kernel
def learn_merges(symbols, weights, byte_ids, spelling, starts, n_tokens, vocab_size, min_count):
    """Merge the most frequent pair until the vocabulary is full: the loop of `merges.train`.

    symbols, weights   from `lay_out_words`; symbols is overwritten
    byte_ids           (256,) the id of each byte
    spelling, starts   the bytes of token t are spelling[starts[t] : starts[t + 1]]; n_tokens of
                       them exist already, and starts has room for vocab_size
    returns            merges (n, 3): left, right, merged id; n_tokens; spelling; starts
    """
    byte_counts, byte_starts, places = first_places(symbols, weights)
    n_places = len(places)
    for i in range(len(symbols)):
        if symbols[i] >= 0:
            symbols[i] = byte_ids[symbols[i]]

    lengths = np.ones(vocab_size, np.int32)
    strings = np.full(1 << np.int64(np.log2(4 * vocab_size)), -1, np.int32)
    for token in range(n_tokens):
        length = starts[token + 1] - starts[token]
        if length > 0:
            strings[string_slot(strings, spelling, starts, starts[token], length)] = token
            lengths[token] = length

    # An entry of the heap knows its places by a row of `spans`: begin and end in `places`.
    pairs, counts, n_pairs = np.full(1 << 18, NO_PAIR), np.zeros(1 << 18, np.int64), 0
    heap, n_heap = np.empty((1 << 16, 3), np.int64), 0
    spans, n_spans = np.empty((1 << 16, 2), np.int64), 0
    for k in range(65536):
        if byte_counts[k] > 0:
            pair = pair_of(byte_ids[k >> 8], byte_ids[k & 255])
            n_pairs += add_to_count(pairs, counts, pair, byte_counts[k])
            spans[n_spans, 0], spans[n_spans, 1] = byte_starts[k], byte_starts[k + 1]
            heap_push(heap, n_heap, byte_counts[k], pair, n_spans)
            n_heap += 1
            n_spans += 1

    left_change, left_cursor, left_met, left_log = new_tally(vocab_size)
    right_change, right_cursor, right_met, right_log = new_tally(vocab_size)
    merges = np.empty((vocab_size, 3), np.int32)
    n_merges = 0
    while n_tokens < vocab_size and n_heap > 0:
        # Take the top of the heap, unless its count has sunk since it was pushed.
        count, pair, span = heap[0, 0], heap[0, 1], heap[0, 2]
        present = counts[slot_of(pairs, pair)]
        if present != count and present > 0:
            heap_sink(heap, n_heap, present, pair, span)
            continue
        n_heap -= 1
        heap_sink(heap, n_heap, heap[n_heap, 0], heap[n_heap, 1], heap[n_heap, 2])
        if present <= 0:
            continue
        if count < min_count:
            break

        # Name the pair: the next free id, unless the same string has one already.
        a, b = np.int32(pair >> 32), np.int32(pair & 0xFFFFFFFF)
        spelling = grown(spelling, starts[n_tokens] + lengths[a] + lengths[b])
        length = spell_pair(spelling, starts, n_tokens, a, b)
        slot = string_slot(strings, spelling, starts, starts[n_tokens], length)
        c = np.int32(n_tokens)
        if strings[slot] >= 0:
            c = strings[slot]
        else:
            strings[slot] = c
            starts[c + 1] = starts[c] + length
            lengths[c] = length
            n_tokens += 1
        merges = grown_rows(merges, n_merges + 1)
        merges[n_merges, 0], merges[n_merges, 1], merges[n_merges, 2] = a, b, c
        n_merges += 1

        here = places[spans[span, 0] : spans[span, 1]]
        left_log, right_log = grown_rows(left_log, 2 * len(here)), grown_rows(right_log, len(here))
        lefts = left_change, left_cursor, left_met, left_log
        rights = right_change, right_cursor, right_met, right_log
        n_left_met, n_left, n_right_met, n_right = merge_places(
            symbols, weights, lengths, here, a, b, c, lefts, rights
        )

        n_met = n_left_met + n_right_met
        if 2 * (n_pairs + 2 * n_met) > len(pairs):
            pairs, counts = rehash(pairs, counts, 4 * len(pairs))
        places = grown(places, n_places + n_left + n_right)
        spans = grown_rows(spans, n_spans + n_met)
        heap = grown_rows(heap, n_heap + n_met)
        merged = a, b, c
        n_pairs += change_counts(pairs, counts, merged, lefts, n_left_met, True)
        n_pairs += change_counts(pairs, counts, merged, rights, n_right_met, False)
        right_spans = n_spans + n_left_met
        n_places = list_places(places, n_places, spans, n_spans, lefts, n_left_met, n_left)
        n_places = list_places(places, n_places, spans, right_spans, rights, n_right_met, n_right)
        # Only now are the counts right: a pair made by one place may be unmade by the next.
        n_heap = push_pairs(heap, n_heap, pairs, counts, c, spans, n_spans, lefts, n_left_met, True)
        n_heap = push_pairs(
            heap, n_heap, pairs, counts, c, spans, right_spans, rights, n_right_met, False
        )
        n_spans += n_met
    return merges[:n_merges], n_tokens, spelling, starts


def base_vocabulary(special_tokens: Sequence[str], ties: str) -> tuple[dict[str, int], list[int]]:
    """Number what exists before the first merge.

    "huggingface"  special tokens first, then the bytes in the order of their stand-in characters; a
                   special token that is written like a byte or like a merge is that token
    "bytes"        the 256 bytes in order; special tokens come last, after the merges

    returns  the ids of the special tokens (none yet with "bytes"), the id of each byte
    """
    if ties == "bytes":
        return {}, list(range(256))
    ids = {token: i for i, token in enumerate(dict.fromkeys(special_tokens))}
    byte_ids = [0] * 256
    next_id = len(ids)
    for byte, character in in_character_order():
        if character in ids:
            byte_ids[byte] = ids[character]
        else:
            byte_ids[byte] = next_id
            next_id += 1
    return ids, byte_ids


def train_on_words(
    letters: np.ndarray,
    ends: np.ndarray,
    occurrences: np.ndarray,
    vocab_size: int,
    special_tokens: Sequence[str],
    min_frequency: int,
    ties: str,
) -> tuple[dict[bytes, int], list[tuple[bytes, bytes]], dict[str, int]]:
    """Learn merges from distinct words, laid out as for `lay_out_words`.

    returns  the id of every token, the merges in the order learned, the ids of the special tokens
    """
    special_ids, byte_ids = base_vocabulary(special_tokens, ties)
    n_last = 0 if ties == "huggingface" else len(set(special_tokens))
    vocab_size -= n_last
    known = {byte_ids[byte]: bytes([byte]) for byte in range(256)}
    for token, i in special_ids.items():
        known.setdefault(i, from_characters(token) or b"")
    n_tokens = len(known)
    room = max(vocab_size, n_tokens)
    starts = np.zeros(room + 1, np.int64)
    starts[1 : n_tokens + 1] = np.cumsum([len(known[i]) for i in range(n_tokens)])
    spelling = np.frombuffer(b"".join(known[i] for i in range(n_tokens)), np.uint8).copy()

    symbols, weights = lay_out_words(letters, ends, occurrences)
    rows, n_tokens, spelling, starts = learn_merges(
        symbols,
        weights,
        np.array(byte_ids, np.int32),
        spelling,
        starts,
        n_tokens,
        room,
        max(1, min_frequency),
    )
    text = spelling.tobytes()
    tokens = [text[starts[i] : starts[i + 1]] for i in range(n_tokens)]
    merges = [(tokens[left], tokens[right]) for left, right, _ in rows.tolist()]
    in_use = {*byte_ids, *rows.ravel().tolist()}
    vocab = {tokens[i]: i for i in sorted(in_use)}
    if ties == "bytes":
        special_ids = {t: n_tokens + i for i, t in enumerate(dict.fromkeys(special_tokens))}
    return vocab, merges, special_ids


def words_as_arrays(words: Mapping[bytes, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay distinct words and their counts out as arrays: letters (N,), ends (W,), occurrences
    (W,).
    """
    letters = np.frombuffer(b"".join(words), np.uint8)
    ends = np.cumsum([len(word) for word in words], dtype=np.int64)
    return letters, ends, np.fromiter(words.values(), np.int64, len(words))
