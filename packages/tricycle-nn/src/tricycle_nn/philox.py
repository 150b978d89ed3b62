"""Philox: random numbers by counting.

Most generators walk from state to state, so the millionth number comes after the one before
it.  Philox scrambles a counter instead: the number with index i is a function of i, and of a
key.  Any thread can have any number, in any order, and have it again later without keeping it.

A block is four 32-bit words of counter, scrambled ten times into four random words.  One
round multiplies two of them by odd constants, which mixes low bits into high ones, swaps the
halves of the products around, and adds the key (by exclusive or):

    high₀, low₀ = M0 · c0           high₁, low₁ = M1 · c2
    c0, c1, c2, c3  ←  high₁ ⊕ c1 ⊕ k0,  low₁,  high₀ ⊕ c3 ⊕ k1,  low₀
    k0, k1  ←  k0 + W0, k1 + W1

Here the key is the user's seed; the counter holds the index of the block, a step and a stream.
The function is written twice: for whole arrays, and for kernels.

Source: Salmon, Moraes, Dror & Shaw, Parallel Random Numbers: As Easy as 1, 2, 3 (2011);
Philox4x32-10.
"""

import numpy as np

from tricycle_autograd.cpu import cpu_function

M0 = np.uint64(0xD2511F53)
M1 = np.uint64(0xCD9E8D57)
W0 = np.uint32(0x9E3779B9)  # the golden ratio
W1 = np.uint32(0xBB67AE85)  # √3 − 1
ROUNDS = 10

LOW_WORD = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)  # bits


def philox(counter, key):
    """Four arrays of random words (uint32) for four arrays of counter words and two key words.

    Any of them may be integers, or arrays that broadcast together.
    """
    c0, c1, c2, c3 = [np.asarray(word, np.uint64) for word in counter]
    k0, k1 = [np.asarray(word, np.uint64) for word in key]
    for _ in range(ROUNDS):
        a, b = M0 * c0, M1 * c2
        c0, c1 = (b >> WORD) ^ c1 ^ k0, b & LOW_WORD
        c2, c3 = (a >> WORD) ^ c3 ^ k1, a & LOW_WORD
        k0, k1 = (k0 + np.uint64(W0)) & LOW_WORD, (k1 + np.uint64(W1)) & LOW_WORD
    return [word.astype(np.uint32) for word in np.broadcast_arrays(c0, c1, c2, c3)]


@cpu_function
def philox_block(c0, c1, c2, c3, k0, k1):
    """The same for one block: four random words for six words, all uint32."""
    # Ten rounds, nested: a loop here would keep the loop around this call from vectorising.
    state = (c0, c1, c2, c3, k0, k1)
    state = philox_round(philox_round(philox_round(philox_round(philox_round(state)))))
    state = philox_round(philox_round(philox_round(philox_round(philox_round(state)))))
    return state[:4]


@cpu_function
def philox_round(state):
    c0, c1, c2, c3, k0, k1 = state
    a, b = M0 * np.uint64(c0), M1 * np.uint64(c2)
    return (
        np.uint32(np.uint32(b >> WORD) ^ c1 ^ k0),
        np.uint32(b),
        np.uint32(np.uint32(a >> WORD) ^ c3 ^ k1),
        np.uint32(a),
        np.uint32(k0 + W0),
        np.uint32(k1 + W1),
    )


@cpu_function
def low_word(n):
    """The lower 32 bits of a uint64."""
    return np.uint32(n)


@cpu_function
def high_word(n):
    """The upper 32 bits of a uint64."""
    return np.uint32(n >> WORD)
