"""Where runs of letters, digits or blanks end: what the scanners of `scanning.py` are made of.

What a character is (letter, number, blank …) is looked up in the table of `unicode_classes.py`.
Eight ASCII letters are recognised at once by arithmetic on a 64-bit word.

The text is valid UTF-8, followed by `bytes_at.PADDING` zero bytes. `n` is its length in bytes, `i`
a position in it.
"""

import numpy as np

from .bytes_at import byte_at, eight_bytes_at, first_set_byte
from .kernels import helper
from .unicode_classes import BLANK, LOWER, MARK, NEWLINE, NUMBER, OTHER, UNCASED, UPPER

LETTER = UPPER | LOWER | UNCASED
SPACE = BLANK | NEWLINE  # \s
PUNCTUATION = OTHER | MARK  # [^\s\p{L}\p{N}]
UPPER_OR_UNCASED = UPPER | UNCASED | MARK  # [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
LOWER_OR_UNCASED = LOWER | UNCASED | MARK  # [\p{Ll}\p{Lm}\p{Lo}\p{M}]

LINE_FEED, CARRIAGE_RETURN, SPACE_BYTE, APOSTROPHE, SLASH = (ord(c) for c in "\n\r '/")
LETTER_D, LETTER_E, LETTER_L, LETTER_M, LETTER_R, LETTER_S, LETTER_T, LETTER_V = b"delmrstv"
LOWER_CASE_BIT = 0x20


# ---- characters ----


@helper
def character_at(text, i, classes):
    """Look up the class of the character that begins at byte i; return it and where the next
    begins.
    """
    first = byte_at(text, i)
    if first < 0x80:
        return byte_at(classes, first), i + 1
    second = byte_at(text, i + 1) & 0x3F
    if first < 0xE0:
        return byte_at(classes, (first & 0x1F) << 6 | second), i + 2
    third = byte_at(text, i + 2) & 0x3F
    if first < 0xF0:
        return byte_at(classes, (first & 0x0F) << 12 | second << 6 | third), i + 3
    fourth = byte_at(text, i + 3) & 0x3F
    return byte_at(classes, (first & 0x07) << 18 | second << 12 | third << 6 | fourth), i + 4


ALL_BYTES = np.uint64(0x0101010101010101)
HIGH_BITS = np.uint64(0x8080808080808080)
LOW_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
LOWER_CASE_BITS = np.uint64(LOWER_CASE_BIT) * ALL_BYTES
FROM_A = np.uint64(0x80 - ord("a")) * ALL_BYTES  # added to a byte >= "a" this sets its high bit
ABOVE_Z = np.uint64(0x80 - ord("z") - 1) * ALL_BYTES  # … to a byte > "z"


@helper
def not_lower_case(word):
    """Set the high bit of each of eight bytes that is not an ASCII lower-case letter."""
    low = word & LOW_BITS
    inside = (low + FROM_A) & ~(low + ABOVE_Z) & ~word & HIGH_BITS
    return inside ^ HIGH_BITS


@helper
def not_letters(word):
    """Set the high bit of each of eight bytes that is not an ASCII letter."""
    return not_lower_case(word | LOWER_CASE_BITS)


# ---- runs ----


@helper
def end_of_run(text, i, n, classes, wanted):
    """Continue while the characters are of the `wanted` classes."""
    while i < n:
        kind, after = character_at(text, i, classes)
        if not kind & wanted:
            break
        i = after
    return i


@helper
def end_of_letters(text, i, n, classes, wanted):
    r"""Continue while there are letters: \p{L}*, eight ASCII letters at a time.

    wanted  the classes that count as letters: with marks or without
    """
    while i < n:
        strangers = not_letters(eight_bytes_at(text, i))
        if strangers == 0:
            i += 8
            continue
        i += first_set_byte(strangers)
        if byte_at(text, i) < 0x80:
            break
        while i < n and byte_at(text, i) >= 0x80:
            kind, after = character_at(text, i, classes)
            if not kind & wanted:
                return i
            i = after
    return min(i, n)


@helper
def end_of_numbers(text, i, n, classes, most):
    r"""Continue over up to `most` numbers, or all if that is 0: \p{N}{1,3}, \p{N}+."""
    count = 0
    while i < n and (most == 0 or count < most):
        kind, after = character_at(text, i, classes)
        if not kind & NUMBER:
            break
        i = after
        count += 1
    return i


@helper
def end_of_blanks(text, i, n, classes):
    r"""Continue while there are blanks.

    returns  the end, where the last blank begins, and the end of the last newline among them, or 0
    """
    last = i
    after_newline = 0
    while i < n:
        kind, after = character_at(text, i, classes)
        if not kind & SPACE:
            break
        last, i = i, after
        if kind & NEWLINE:
            after_newline = i
    return i, last, after_newline


@helper
def leave_one_blank(end, last, i, n):
    r"""End a run of blanks: \s+(?!\S)|\s+ leaves the last blank to the word that follows."""
    if end == n or last == i:
        return end
    return last


@helper
def end_of_contraction(text, i, n, any_case):
    """Match 's 't 'm 'd 're 've 'll at an apostrophe; return the end, or 0."""
    if i + 1 >= n:
        return 0
    first = byte_at(text, i + 1)
    if any_case and first == 0xC5:
        return i + 3 if byte_at(text, i + 2) == 0xBF else 0  # ſ, an s in any case but upper
    if any_case and first < 0x80:
        first |= LOWER_CASE_BIT
    if first in (LETTER_S, LETTER_T, LETTER_M, LETTER_D):
        return i + 2
    if i + 2 >= n:
        return 0
    second = byte_at(text, i + 2)
    if any_case and second < 0x80:
        second |= LOWER_CASE_BIT
    if first in (LETTER_R, LETTER_V) and second == LETTER_E:
        return i + 3
    if first == LETTER_L and second == LETTER_L:
        return i + 3
    return 0
