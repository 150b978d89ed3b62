"""Philox: random numbers by counting."""

import numpy as np
import pytest

from tricycle_nn.philox import philox, philox_block

# The known answers that come with the authors' own implementation, Random123.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_known_answers(counter, key, words):
    assert [int(word) for word in philox(counter, key)] == words
    assert list(philox_block(*np.array([*counter, *key], np.uint32))) == words


def test_whole_arrays_give_what_single_blocks_give():
    blocks = np.arange(100, dtype=np.uint64)
    words = philox((blocks, 1, 2, 3), (4, 5))
    for block in (0, 1, 99):
        alone = philox_block(*np.array([block, 1, 2, 3, 4, 5], np.uint32))
        assert tuple(word[block] for word in words) == alone


def test_words_look_random():
    words = np.stack(philox((np.arange(50_000), 0, 0, 0), (0, 0)))
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 32)
    # 200,000 fair coins for each bit: a standard deviation of 0.0011
    assert abs(bits.mean(axis=0) - 0.5).max() < 0.006
    neighbours = np.corrcoef(words.astype(np.float64))
    assert abs(neighbours - np.eye(4)).max() < 0.02
