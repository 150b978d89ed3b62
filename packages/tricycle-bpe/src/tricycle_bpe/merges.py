"""Byte pair encoding, the lesson: how text becomes a list of small integers.

A computer already has an alphabet for text: bytes, 256 of them. Encoded in UTF-8, any text in any
language is a list of bytes, so a model could read those. But the lists are long, and a model pays
for every entry. Byte pair encoding makes them shorter with one idea, used again and again:

    find the two neighbours that stand side by side most often,
    and give the pair a name of its own.

Start from the ids 0 … 255, one for each byte. If `t` and `h` meet more often than any other two,
then `th` becomes id 256. Later `th` and `e` meet most often, and `the` becomes id 257. The list of
pairs, in the order in which they were found, is all that training learns: it is called the
*merges*.

Encoding a new text replays the merges on it, oldest first. Decoding looks up the bytes of each id
and joins them. Nothing is ever lost, and nothing is ever "unknown": a word that was never seen
simply stays in smaller pieces, down to single bytes if need be.

Before any of this the text is cut into *pieces* (roughly words, see `splitting.py`), and no pair
reaches across a cut. Otherwise "dog." and "dog!" and "dog?" would become ids of their own, and
training would have to look at the whole text at once rather than at each distinct word once.

This file is written to be read and to be trusted. It is the oracle of the tests; the rest of the
package does the same things faster, and each fast function names the step below that it speeds
up.

Order of the file: counting and merging, training, encoding, decoding.

The idea is Philip Gage's ("A new algorithm for data compression", C Users Journal, 1994), brought
to language models by Sennrich, Haddow and Birch (2016, arXiv:1508.07909) and to bytes by GPT-2
(2019).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

Pair = tuple[int, int]
Merges = dict[Pair, int]  # pair of ids -> the id of both together, in the order they were learned


# ---- counting and merging ----


def count_pairs(words: Mapping[tuple[int, ...], int]) -> Counter[Pair]:
    """Count how often each two ids stand side by side, given how often each word occurs.

    >>> count_pairs({(1, 2, 3): 5, (1, 2): 1})
    Counter({(1, 2): 6, (2, 3): 5})
    """
    counts: Counter[Pair] = Counter()
    for word, occurrences in words.items():
        for pair in zip(word, word[1:]):
            counts[pair] += occurrences
    return counts


def merge(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """Replace every occurrence of `pair` with `new_id`, from left to right.

    >>> merge([1, 2, 3, 1, 2], (1, 2), 4)
    [4, 3, 4]
    >>> merge([7, 7, 7], (7, 7), 8)
    [8, 7]
    """
    merged = []
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


# ---- training ----


def train(pieces: Iterable[bytes], n_merges: int) -> Merges:
    """Learn up to `n_merges` merges from the pieces of a text.

    The most frequent pair goes first; among equals, the one with the smallest ids, so that the
    answer does not depend on the order of the pieces. A word is looked at once, however often it
    occurs.

    >>> train([b"low", b"low", b"lower"], 2)
    {(108, 111): 256, (256, 119): 257}
    """
    words = {tuple(piece): occurrences for piece, occurrences in Counter(pieces).items()}
    merges: Merges = {}
    while len(merges) < n_merges:
        counts = count_pairs(words)
        if not counts:
            break
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        merges[pair] = 256 + len(merges)
        words = {tuple(merge(word, pair, merges[pair])): n for word, n in words.items()}
    return merges


# ---- encoding ----


def encode(piece: bytes, merges: Merges) -> list[int]:
    """Turn one piece into ids: while any pair of neighbours is in the merges, join the oldest one.

    >>> encode(b"lower", {(108, 111): 256, (256, 119): 257})
    [257, 101, 114]
    """
    age = {pair: i for i, pair in enumerate(merges)}
    never = len(merges)
    ids = list(piece)
    while len(ids) > 1:
        ages = [age.get(pair, never) for pair in zip(ids, ids[1:])]
        oldest = min(ages)
        if oldest == never:
            break
        i = ages.index(oldest)  # the leftmost, where a pair occurs twice
        ids[i : i + 2] = [merges[ids[i], ids[i + 1]]]
    return ids


# ---- decoding ----


def vocabulary(merges: Merges) -> dict[int, bytes]:
    """Give the bytes that each id stands for: those of its left half, then those of its right half.

    >>> vocabulary({(108, 111): 256})[256]
    b'lo'
    """
    spelling = {byte: bytes([byte]) for byte in range(256)}
    for (left, right), new_id in merges.items():
        spelling[new_id] = spelling[left] + spelling[right]
    return spelling


def decode(ids: Iterable[int], merges: Merges) -> bytes:
    """Turn ids back into the bytes of the text.

    >>> decode([257, 101, 114], {(108, 111): 256, (256, 119): 257})
    b'lower'
    """
    spelling = vocabulary(merges)
    return b"".join(spelling[i] for i in ids)
