"""Training, fast: the same merges as `merges.train`, in a fraction of a second per million words.

`merges.train` counts every pair again after each merge. But a merge of (a, b) into c changes only
the few counts around the places where a b stood:

    … x a b y …   becomes   … x c y …
    one (x, a) and one (b, y) fewer, one (x, c) and one (c, y) more

So we keep the counts, keep for each pair the list of places where it stands, and visit only those.
Three choices make that quick:

*One long array.* All distinct words lie in a row in `symbols`, a separator between them. A
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

The tables, and what the heap of `heap.py` holds, are in `training_tables.py`. Order of the file:
first counts, one merge, learning, the vocabulary around it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .byte_characters import from_characters, in_character_order
from .kernels import helper, kernel
from .progress import Progress
from .tables import HASH_KEY
from .training_tables import (
    NO_PAIR,
    add_to_count,
    push_row,
    rehash,
    row_at,
    sink_row,
    slot_of,
    spell_pair,
    string_slot,
)

SEPARATOR = np.int32(-1)  # stands before the first word and after each
ENDS = np.int32(-2)  # the last byte of a longer token holds ENDS - id
INSIDE = np.int32(-(2**31))  # the bytes in between hold nothing
MERGES_AT_ONCE = 100


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

    letters      (N,) uint8, the words in a row
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


def new_tally(vocab_size: int) -> tuple[np.ndarray, ...]:
    """An empty tally."""
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
    """Append the places of a log to `places`, sorted by neighbour; a row of `spans` for each."""
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
            push_row(heap, n_heap, (count, pair, n_spans + k))
            n_heap += 1
        change[other] = cursor[other] = 0
    return n_heap


# Learning is done in steps, so that progress can be shown and Ctrl-C is heard. What it keeps from
# step to step are these sizes, and arrays, some of which grow:
#     words   symbols and weights, from `lay_out_words`
#     tokens  spelling, starts: the bytes of token t are spelling[starts[t] : starts[t + 1]];
#             lengths; the table of known strings
#     table   pairs and counts
#     lists   places; spans (n, 2), where in `places` a list begins and ends
#     heap    (n, 3) of count, pair, and which span lists the pair's places
#     merges  (n, 3) of left, right and merged id
# The last of the sizes is the key of the table of known strings.
N_TOKENS, N_MERGES, N_PAIRS, N_PLACES, N_SPANS, N_HEAP, N_SPECIAL, KEY = range(8)


@kernel
def begin_learning(words, byte_ids, spelling, starts, n_special, vocab_size, key):
    """Set up what learning needs, from the first counts of all pairs of bytes.

    byte_ids          (256,) the id of each byte
    spelling, starts  of the special tokens and the bytes; starts has room for vocab_size
    n_special         the number of special tokens, which have the first ids
    key               an int64 that nobody else knows
    returns           sizes, tokens, table, lists, heap
    """
    symbols, weights = words
    byte_counts, byte_starts, places = first_places(symbols, weights)
    for i in range(len(symbols)):
        if symbols[i] >= 0:
            symbols[i] = byte_ids[symbols[i]]

    n_tokens = n_special + 256
    lengths = np.ones(vocab_size, np.int32)
    strings = np.full(1 << np.int64(np.log2(4 * vocab_size)), -1, np.int32)
    for token in range(n_tokens):
        length = starts[token + 1] - starts[token]
        if length > 0:
            strings[string_slot(strings, spelling, starts, starts[token], length, key)] = token
            lengths[token] = length

    pairs, counts = np.full(1 << 18, NO_PAIR), np.zeros(1 << 18, np.int64)
    heap, spans = np.empty((1 << 16, 3), np.int64), np.empty((1 << 16, 2), np.int64)
    n_pairs = n = 0
    for k in range(65536):
        if byte_counts[k] > 0:
            pair = pair_of(byte_ids[k >> 8], byte_ids[k & 255])
            n_pairs += add_to_count(pairs, counts, pair, byte_counts[k])
            spans[n, 0], spans[n, 1] = byte_starts[k], byte_starts[k + 1]
            push_row(heap, n, (byte_counts[k], pair, n))
            n += 1
    sizes = np.array([n_tokens, 0, n_pairs, len(places), n, n, n_special, key])
    tokens = spelling, starts, lengths, strings
    return sizes, tokens, (pairs, counts), (places, spans), heap


@helper
def pop_most_frequent(heap, sizes, pairs, counts):
    """Take the most frequent pair off the heap: its count, or 0 if none is left, and its row."""
    while sizes[N_HEAP] > 0:
        count, pair, span = row_at(heap, 0)
        present = counts[slot_of(pairs, pair)]
        if 0 < present != count:  # its count has sunk since it was pushed
            sink_row(heap, sizes[N_HEAP], (present, pair, span))
            continue
        sizes[N_HEAP] -= 1
        sink_row(heap, sizes[N_HEAP], row_at(heap, sizes[N_HEAP]))
        if present > 0:
            return count, pair, span
    return np.int64(0), NO_PAIR, np.int64(0)


@helper
def name_pair(spelling, starts, lengths, strings, sizes, a, b):
    """The id of a + b: the next free one, unless the same string has one already."""
    c = np.int32(sizes[N_TOKENS])
    length = spell_pair(spelling, starts, c, a, b)
    slot = string_slot(strings, spelling, starts, starts[c], length, sizes[KEY])
    if strings[slot] >= 0:
        return strings[slot]
    strings[slot] = c
    starts[c + 1] = starts[c] + length
    lengths[c] = length
    sizes[N_TOKENS] += 1
    return c


@helper
def update_pairs(sizes, table, lists, heap, lefts, rights, merged, met):
    """Put right, after a merge, the counts, the lists of places and the heap; all have room.

    lefts, rights  the tallies of what was met on either side
    merged         a, b and c of the merge of (a, b) into c
    met            what `merge_places` returned
    """
    pairs, counts = table
    places, spans = lists
    n_left_met, n_left, n_right_met, n_right = met
    c = merged[2]
    sizes[N_PAIRS] += change_counts(pairs, counts, merged, lefts, n_left_met, True)
    sizes[N_PAIRS] += change_counts(pairs, counts, merged, rights, n_right_met, False)
    n, left = sizes[N_PLACES], sizes[N_SPANS]
    right = left + n_left_met
    n = list_places(places, n, spans, left, lefts, n_left_met, n_left)
    n = list_places(places, n, spans, right, rights, n_right_met, n_right)
    sizes[N_PLACES], sizes[N_SPANS] = n, right + n_right_met
    # Only now are the counts right: a pair made by one place may be unmade by the next.
    n = sizes[N_HEAP]
    n = push_pairs(heap, n, pairs, counts, c, spans, left, lefts, n_left_met, True)
    n = push_pairs(heap, n, pairs, counts, c, spans, right, rights, n_right_met, False)
    sizes[N_HEAP] = n


@kernel
def learn_merges(sizes, words, tokens, table, lists, heap, tallies, merges, until, min_count):
    """Merge the most frequent pair again and again: the loop of `merges.train`.

    until      stop at this many tokens, or when no pair is left that occurs min_count times
    tallies    for the left and for the right neighbours, from `new_tally`
    returns    tokens, table, lists, heap, tallies, merges, of which some may have grown; sizes and
               words are changed where they are
    """
    symbols, weights = words
    spelling, starts, lengths, strings = tokens
    pairs, counts = table
    places, spans = lists
    (left_change, left_cursor, left_met, left_log), rights = tallies
    right_change, right_cursor, right_met, right_log = rights
    lefts = left_change, left_cursor, left_met, left_log
    while sizes[N_TOKENS] < until:
        count, pair, span = pop_most_frequent(heap, sizes, pairs, counts)
        if count < min_count:
            break
        a, b = np.int32(pair >> 32), np.int32(pair & 0xFFFFFFFF)
        spelling = grown(spelling, starts[sizes[N_TOKENS]] + lengths[a] + lengths[b])
        c = name_pair(spelling, starts, lengths, strings, sizes, a, b)
        if c < sizes[N_SPECIAL]:
            continue  # a special token is never made by ordinary text
        merges = grown_rows(merges, sizes[N_MERGES] + 1)
        row = merges[sizes[N_MERGES]]
        row[0], row[1], row[2] = a, b, c
        sizes[N_MERGES] += 1

        here = places[spans[span, 0] : spans[span, 1]]
        left_log, right_log = grown_rows(left_log, 2 * len(here)), grown_rows(right_log, len(here))
        lefts = left_change, left_cursor, left_met, left_log
        rights = right_change, right_cursor, right_met, right_log
        met = merge_places(symbols, weights, lengths, here, a, b, c, lefts, rights)

        n_met = met[0] + met[2]
        if 2 * (sizes[N_PAIRS] + 2 * n_met) > len(pairs):
            pairs, counts = rehash(pairs, counts, 4 * len(pairs))
        places = grown(places, sizes[N_PLACES] + met[1] + met[3])
        spans = grown_rows(spans, sizes[N_SPANS] + n_met)
        heap = grown_rows(heap, sizes[N_HEAP] + n_met)
        lists, merged = (places, spans), (a, b, c)
        update_pairs(sizes, (pairs, counts), lists, heap, lefts, rights, merged, met)
    tokens = spelling, starts, lengths, strings
    return tokens, (pairs, counts), (places, spans), heap, (lefts, rights), merges


def learn(words, byte_ids, spelling, starts, n_special, vocab_size, min_count):
    """Learn merges until the vocabulary is full, and show how far it is.

    The arguments are those of `begin_learning`; a pair must occur min_count times to be merged.

    returns  merges (n, 3): left, right, merged id; the bytes of every token
    """
    n_tokens = n_special + 256
    key = HASH_KEY.astype(np.int64)
    sizes, *grown_so_far = begin_learning(
        words, byte_ids, spelling, starts, n_special, vocab_size, key
    )
    tallies = new_tally(vocab_size), new_tally(vocab_size)
    state = *grown_so_far, tallies, np.empty((vocab_size, 3), np.int32)
    with Progress("learning merges", vocab_size - n_tokens, "") as progress:
        while n_tokens < vocab_size:
            until = min(vocab_size, n_tokens + MERGES_AT_ONCE)
            state = learn_merges(sizes, words, *state, until, min_count)
            progress.update(int(sizes[N_TOKENS]) - n_tokens)
            n_tokens = int(sizes[N_TOKENS])
            if n_tokens < until:
                break
    (spelling, starts, _, _), *_, merges = state
    text = spelling.tobytes()
    tokens = [text[starts[i] : starts[i + 1]] for i in range(n_tokens)]
    return merges[: sizes[N_MERGES]], tokens


def base_vocabulary(special_tokens: Sequence[str], ties: str) -> tuple[list[str], list[int]]:
    """Number what exists before the first merge: special tokens first, then the bytes.

    "huggingface"  the bytes in the order of their stand-in characters
    "bytes"        the bytes in order

    returns  the special tokens, each once; the id of each byte
    """
    special = list(dict.fromkeys(special_tokens))
    in_order = list(range(256))
    if ties == "huggingface":
        in_order = [byte for byte, _ in in_character_order()]
    byte_ids = [0] * 256
    for place, byte in enumerate(in_order):
        byte_ids[byte] = len(special) + place
    return special, byte_ids


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

    No merge spells, in stand-in characters, a special token: files write both in the same way.

    returns  the id of every token, the merges in the order learned, the ids of the special tokens
    """
    special, byte_ids = base_vocabulary(special_tokens, ties)
    known = [from_characters(token) or b"" for token in special]
    known += [bytes([byte]) for byte in sorted(range(256), key=byte_ids.__getitem__)]
    starts = np.zeros(vocab_size + 1, np.int64)
    starts[1 : len(known) + 1] = np.cumsum([len(token) for token in known])
    spelling = np.frombuffer(b"".join(known), np.uint8).copy()

    words = lay_out_words(letters, ends, occurrences)
    ids = np.array(byte_ids, np.int32)
    rows, tokens = learn(
        words, ids, spelling, starts, len(special), vocab_size, max(1, min_frequency)
    )
    merges = [(tokens[left], tokens[right]) for left, right, _ in rows.tolist()]
    # With "bytes" special tokens come last, and so everything else is as many ids earlier.
    shift, first = (0, 0) if ties == "huggingface" else (len(special), len(tokens) - len(special))
    vocab = {tokens[i]: i - shift for i in range(len(special), len(tokens))}
    return vocab, merges, {token: first + i for i, token in enumerate(special)}


def words_as_arrays(words: Mapping[bytes, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay distinct words and their counts out as arrays: letters (N,), ends (W,), occurrences
    (W,).
    """
    letters = np.frombuffer(b"".join(words), np.uint8)
    ends = np.cumsum([len(word) for word in words], dtype=np.int64)
    return letters, ends, np.fromiter(words.values(), np.int64, len(words))
