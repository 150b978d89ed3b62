"""Sixty-four bytes of a text at a time, each a bit of a mask: bit j is about byte i + j.

One comparison of 64 bytes says which of them are letters, say. Where words begin is then arithmetic
on whole masks: `letters & ~(letters << 1)` has a bit for each letter that no letter stands before.
"""

import numpy as np

from .bytes_at import bytes_between, first_set_bit, last_set_bit
from .kernels import helper
from .runs import CARRIAGE_RETURN, LINE_FEED, SPACE_BYTE

TAB, DIGIT_0, DIGIT_9, CAPITAL_A, CAPITAL_Z, LETTER_A, LETTER_Z = b"\t09AZaz"

ONE = np.uint64(1)
LOOK_AHEAD = 3  # bytes after a piece's first that say whether it is one: a contraction has three


@helper
def upper_case(text, i):
    return bytes_between(text, i, CAPITAL_A, CAPITAL_Z)


@helper
def lower_case(text, i):
    return bytes_between(text, i, LETTER_A, LETTER_Z)


@helper
def digits_at(text, i):
    return bytes_between(text, i, DIGIT_0, DIGIT_9)


@helper
def blanks_at(text, i):
    return bytes_between(text, i, SPACE_BYTE, SPACE_BYTE) | bytes_between(
        text, i, TAB, CARRIAGE_RETURN
    )


@helper
def newlines_at(text, i):
    return bytes_between(text, i, LINE_FEED, LINE_FEED) | bytes_between(
        text, i, CARRIAGE_RETURN, CARRIAGE_RETURN
    )


@helper
def not_ascii(text, i):
    return bytes_between(text, i, 0x80, 0xFF)


@helper
def first_bits(n):
    """A mask of the first n bits, but of one bit at least: at the first a piece begins anyway."""
    return ~np.uint64(0) >> np.uint64(64 - max(n, 1))


@helper
def every_third(digits):
    r"""Begin a piece at every third digit of each run: \p{N}{1,3}."""
    begin = digits & ~(digits << ONE)
    starts = begin
    three_before = digits & digits << ONE & digits << np.uint64(2) & digits << np.uint64(3)
    while begin != 0:
        begin = begin << np.uint64(3) & three_before
        starts |= begin
    return starts


@helper
def starts_of_numbers(digits, most):
    r"""Begin a piece at each digit, at every third, or at the first of a run: most is 1, 3 or 0."""
    if most == 1:
        return digits
    if most == 3:
        return every_third(digits)
    return digits & ~(digits << ONE)


@helper
def starts_of_blanks(blanks, newlines, signs):
    r"""Find where pieces begin among blanks, for [^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+.

    Newlines right after signs belong to them. A run of other blanks is a piece up to its last
    newline; of what is left, if a word follows, the last blank is kept for that word.
    """
    after_signs = newlines & ~(newlines + (signs << ONE & newlines))  # the sum carries through
    free = blanks & ~after_signs
    plain = free & ~newlines
    starts = free & ~(free << ONE) | plain & ~(blanks >> ONE)
    candidates = plain & newlines << ONE & ~starts
    while candidates != 0:
        j = first_set_bit(candidates)
        candidates &= candidates - ONE
        after = first_set_bit(~(plain >> np.uint64(j))) + j
        if after > 63 or not newlines >> np.uint64(after) & ONE:
            starts |= ONE << np.uint64(j)
    return starts


@helper
def decided_bits(blanks, n_known):
    """A mask of the bytes for which it is decided whether a piece begins there.

    n_known  bytes, from the first on, that are known to be ASCII text

    A run of blanks that goes up to the end of them may continue with a newline, or not.
    """
    not_blank = ~blanks & first_bits(n_known)
    return first_bits(min(n_known - LOOK_AHEAD, last_set_bit(not_blank) + 2))
