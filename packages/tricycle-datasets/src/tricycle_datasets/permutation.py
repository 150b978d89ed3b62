"""Shuffling without a list: where does card number i lie in a shuffled pack of n?

Shuffling the usual way keeps an array of n indices: 8 GB for the windows of a large corpus, and to
continue from the middle one must shuffle all over again.  A keyed permutation is a function
instead.  It needs no memory, can be asked for any index at once, and is fixed by its key.

The idea is Feistel's (1973), in the form that Black and Rogaway gave it for any n (2002, "Ciphers
with arbitrary finite domains").  Write an index as two digits, (left, right), with left < a and
right < b.  Now and again add to one digit something scrambled from the other one and a secret:

    left  = (left + scramble(right, key 0)) mod a
    right = (right + scramble(left, key 1)) mod b        and so on, ROUNDS times

However wild `scramble` is, each line can be undone by a subtraction, because the digit that it read
is still there.  A step that can be undone loses no index: it is a permutation of all a·b pairs.

With a = ceil(√n) and b = ceil(n / a) there are a little more than n pairs.  An index that lands on
n or above is sent through again until it lands below ("cycle walking").  It must get there, since
following a permutation leads back to the start in the end, and two indices never meet.

This file, top to bottom: the permutation, the scrambling, the secrets.
"""

import hashlib
import math

import numpy as np

ROUNDS = 8


def shuffled(indices: np.ndarray, n: int, key: str) -> np.ndarray:
    """Where each index goes in the permutation of range(n) that belongs to a key.

    indices  (N,) int64, each in range(n)
    key      any text; the same text always gives the same permutation
    returns  (N,) int64, each in range(n)
    """
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    keys = secrets(key, ROUNDS)
    result = _permute(indices.astype(np.uint64), a, b, keys)
    while (outside := result >= n).any():
        result[outside] = _permute(result[outside], a, b, keys)
    return result.astype(np.int64)


def _permute(index: np.ndarray, a: int, b: int, keys: np.ndarray) -> np.ndarray:
    """One trip through a permutation of range(a * b)."""
    left, right = np.divmod(index, np.uint64(b))
    for even, odd in keys.reshape(-1, 2):
        left = (left + _scramble(right, even) % a) % a
        right = (right + _scramble(left, odd) % b) % b
    return left * b + right


def _scramble(x: np.ndarray, key: np.uint64) -> np.ndarray:
    """Mix the bits of x, so that near numbers come out far apart.

    Shift and multiply as in splitmix64 (Steele, Lea and Flood 2014); products wrap at 2**64.
    """
    x = x ^ key
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


def secrets(key: str, count: int) -> np.ndarray:
    """Up to eight numbers that belong to a text: the same on every machine, unlike `hash`.

    returns  (count,) uint64
    """
    digest = hashlib.blake2b(key.encode("utf-8"), digest_size=8 * count).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)
