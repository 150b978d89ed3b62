r"""Splitting, fast: the patterns of `splitting.py` as loops over the bytes of a text.

A regular-expression engine tries one alternative after another at each place. But the first
character of a piece, and the one after it, already tell which alternative will match; what
remains is to find the end of a run of letters, digits, punctuation or blanks. Each pattern has one
function `next_…` that does so, in the order of the pattern's alternatives, with the runs of
`runs.py`. And it has one function `starts_…` that finds all pieces of 64 bytes of ASCII together,
with `byte_masks.py`. One loop drives both.

The text is valid UTF-8, followed by `bytes_at.PADDING` zero bytes. `n` is its length in bytes, `i`
a position in it. The result is an array of ends: piece k is text[ends[k - 1] : ends[k]].

Order of the file: the loop; for each pattern its two functions and its kernel.
"""

import numpy as np

from .byte_masks import (
    LOOK_AHEAD,
    ONE,
    blanks_at,
    decided_bits,
    digits_at,
    every_third,
    first_bits,
    lower_case,
    newlines_at,
    not_ascii,
    starts_of_blanks,
    upper_case,
)
from .bytes_at import byte_at, bytes_between, eight_bytes_at, first_set_bit, first_set_byte
from .kernels import helper, kernel
from .runs import (
    APOSTROPHE,
    CARRIAGE_RETURN,
    LETTER,
    LINE_FEED,
    LOWER_OR_UNCASED,
    PUNCTUATION,
    SLASH,
    SPACE_BYTE,
    UPPER_OR_UNCASED,
    character_at,
    end_of_blanks,
    end_of_contraction,
    end_of_letters,
    end_of_run,
    end_of_three_numbers,
    leave_one_blank,
    not_lower_case,
)
from .unicode_classes import LOWER, MARK, NEWLINE, NUMBER, UPPER

PIECES_ONE_BY_ONE = 8


# ---- the loop of all patterns ----


@helper
def scan(text_array, i, n, class_table, ends, next_piece, starts_of_pieces):
    """Write the ends of the pieces from position i on until `ends` is full; return their number.

    next_piece, starts_of_pieces  what a pattern is: its `next_…` and its `starts_…`. Both become
                                  part of the kernel that hands them in, so the call costs nothing
    """
    text, classes = text_array.ctypes.data, class_table.ctypes.data
    k = 0
    while i < n and k < len(ends):
        if k + 64 <= len(ends):
            starts = starts_of_pieces(text, i, n) & ~ONE  # each of them ends the piece before
            begin = i
            while starts != 0:
                i = begin + first_set_bit(starts)
                starts &= starts - ONE
                ends[k] = i
                k += 1
            if i > begin:
                continue
        # Other scripts, long words, the end of the text: piece by piece, for a while.
        for _ in range(PIECES_ONE_BY_ONE):
            if i < n and k < len(ends):
                i = next_piece(text, i, n, classes)
                ends[k] = i
                k += 1
    return k


# ---- gpt2 ----


@helper
def next_gpt2(text, i, n, classes):
    """Where the piece of text[:n] that begins at i ends, by GPT-2's pattern."""
    first = byte_at(text, i)
    if first == APOSTROPHE:
        end = end_of_contraction(text, i, n, False)
        if end > 0:
            return end
    start = i + (first == SPACE_BYTE)
    if start < n:
        kind, after = character_at(text, start, classes)
        if kind & LETTER:
            return end_of_letters(text, after, n, classes)
        if kind & NUMBER:
            return end_of_run(text, after, n, classes, NUMBER)
        if kind & PUNCTUATION:
            return end_of_run(text, after, n, classes, PUNCTUATION)
    end, last, _ = end_of_blanks(text, i, n, classes)
    return leave_one_blank(end, last, i, n)


@helper
def starts_gpt2(text, i, n):
    """Find where pieces begin among the next 64 bytes, as far as they are ASCII: a bit for each.

    A piece begins at i. Whether one begins at another byte can be seen from the byte before it and
    the two after it, so all 64 are decided at once, by shifting masks of letters, digits …:

        a letter, digit, sign   where its kind of run begins, unless a space before leads it
        a blank                 where a run of blanks begins, and where its last one leads a word

    Only a contraction has to be looked at by itself.
    """
    letters = upper_case(text, i) | lower_case(text, i)
    digits, blanks, strangers = digits_at(text, i), blanks_at(text, i), not_ascii(text, i)
    spaces = bytes_between(text, i, SPACE_BYTE, SPACE_BYTE)
    signs = ~(letters | digits | blanks | strangers)

    starts = letters & ~(letters << ONE) | digits & ~(digits << ONE) | signs & ~(signs << ONE)
    starts &= ~(spaces << ONE)
    starts |= blanks & ~(blanks << ONE & blanks >> ONE)
    starts |= ONE

    decided = first_bits(min(first_set_bit(strangers), n - i) - LOOK_AHEAD)
    apostrophes = bytes_between(text, i, APOSTROPHE, APOSTROPHE) & starts & decided
    while apostrophes != 0:
        j = first_set_bit(apostrophes)
        apostrophes &= apostrophes - ONE
        end = end_of_contraction(text, i + j, n, False)
        if end > 0:
            starts &= ~(ONE << np.uint64(j + 1))
            starts |= ONE << np.uint64(end - i)
    return starts & decided


@kernel
def scan_gpt2(text_array, i, n, class_table, ends):
    """`scan`, for the pattern gpt2."""
    return scan(text_array, i, n, class_table, ends, next_gpt2, starts_gpt2)


# ---- cl100k ----


@helper
def next_of_either_cl100k(text, i, n, classes, keep_last_blanks):
    """Where the piece of text[:n] that begins at i ends, by the pattern of cl100k_base.

    keep_last_blanks  whether blanks at the very end stay in one piece
    """
    first = byte_at(text, i)
    if first == APOSTROPHE:
        end = end_of_contraction(text, i, n, True)
        if end > 0:
            return end
    kind, after = character_at(text, i, classes)
    if kind & LETTER:
        return end_of_letters(text, after, n, classes)
    if kind & NUMBER:
        return end_of_three_numbers(text, i, n, classes)
    if not kind & NEWLINE:
        # One character, not a letter, may lead a word: [^\r\n\p{L}\p{N}]?\p{L}+
        if after < n:
            next_kind, next_after = character_at(text, after, classes)
            if next_kind & LETTER:
                return end_of_letters(text, next_after, n, classes)
            if first == SPACE_BYTE and next_kind & PUNCTUATION:
                kind, after = next_kind, next_after
        if kind & PUNCTUATION:
            end = end_of_run(text, after, n, classes, PUNCTUATION)
            while end < n and (
                byte_at(text, end) == LINE_FEED or byte_at(text, end) == CARRIAGE_RETURN
            ):
                end += 1
            return end
    end, last, after_newline = end_of_blanks(text, i, n, classes)
    if keep_last_blanks and end == n:
        return end
    if after_newline > 0:
        return after_newline
    return leave_one_blank(end, last, i, n)


@helper
def next_cl100k(text, i, n, classes):
    """As tiktoken has it: blanks at the very end stay in one piece."""
    return next_of_either_cl100k(text, i, n, classes, True)


@helper
def next_cl100k_huggingface(text, i, n, classes):
    """As Hugging Face has it: blanks at the very end are cut like any others."""
    return next_of_either_cl100k(text, i, n, classes, False)


@helper
def starts_cl100k(text, i, n):
    """As `starts_gpt2`. Here a blank or a lone sign leads a word, and only a blank leads signs."""
    letters = upper_case(text, i) | lower_case(text, i)
    digits, blanks, strangers = digits_at(text, i), blanks_at(text, i), not_ascii(text, i)
    newlines = newlines_at(text, i)
    spaces = bytes_between(text, i, SPACE_BYTE, SPACE_BYTE)
    signs = ~(letters | digits | blanks | strangers)

    of_signs = signs & ~(signs << ONE) & ~(spaces << ONE)
    leading = blanks & ~newlines | of_signs
    starts = ONE | of_signs | letters & ~(letters << ONE) & ~(leading << ONE)
    starts |= every_third(digits) | starts_of_blanks(blanks, newlines, signs)

    decided = decided_bits(blanks, min(first_set_bit(strangers), n - i))
    apostrophes = bytes_between(text, i, APOSTROPHE, APOSTROPHE) & of_signs & decided
    while apostrophes != 0:
        j = first_set_bit(apostrophes)
        apostrophes &= apostrophes - ONE
        end = end_of_contraction(text, i + j, n, True)
        if end > 0:
            starts |= ONE << np.uint64(end - i) & letters
    return starts & decided


@kernel
def scan_cl100k(text_array, i, n, class_table, ends):
    """`scan`, for the pattern cl100k."""
    return scan(text_array, i, n, class_table, ends, next_cl100k, starts_cl100k)


@kernel
def scan_cl100k_huggingface(text_array, i, n, class_table, ends):
    """`scan`, for the pattern cl100k-huggingface."""
    return scan(text_array, i, n, class_table, ends, next_cl100k_huggingface, starts_cl100k)


# ---- o200k ----


@helper
def end_of_cased_word(text, i, n, classes):
    r"""Match [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+; return the end, or 0.

    The first part takes all it can. If no lower-case letter follows, it has to give back characters
    until the second part can have one: up to its last letter without case, or mark.
    """
    after_uncased = 0
    while i < n:
        kind, after = character_at(text, i, classes)
        if kind & LOWER:
            break
        if not kind & UPPER_OR_UNCASED:
            return after_uncased
        i = after
        if not kind & UPPER:
            after_uncased = i
    if i >= n:
        return after_uncased
    while i < n:
        strangers = not_lower_case(eight_bytes_at(text, i))
        if strangers == 0:
            i += 8
            continue
        i += first_set_byte(strangers)
        if i >= n:
            break
        kind, after = character_at(text, i, classes)
        if not kind & LOWER_OR_UNCASED:
            break
        i = after
    return min(i, n)


@helper
def with_contraction(text, end, n):
    """Add a contraction that follows a word to it."""
    if end < n and byte_at(text, end) == APOSTROPHE:
        return max(end, end_of_contraction(text, end, n, True))
    return end


@helper
def next_o200k(text, i, n, classes):
    """Where the piece of text[:n] that begins at i ends, by the pattern of o200k_base."""
    kind, after = character_at(text, i, classes)
    if not kind & (NUMBER | NEWLINE):
        # One character, not a letter, may lead a word.
        word = i if kind & LETTER else after
        if word < n:
            first_kind, _ = character_at(text, word, classes)
            if first_kind & (LETTER | MARK):
                end = end_of_cased_word(text, word, n, classes)
                if end == 0 and not kind & MARK:
                    end = end_of_run(text, word, n, classes, UPPER)
                if end > 0:
                    return with_contraction(text, end, n)
        if kind & MARK:  # a mark may lead a word, but is also a letter of one
            return with_contraction(text, end_of_cased_word(text, i, n, classes), n)
    if kind & NUMBER:
        return end_of_three_numbers(text, i, n, classes)
    if byte_at(text, i) == SPACE_BYTE and after < n:
        next_kind, next_after = character_at(text, after, classes)
        if next_kind & PUNCTUATION:
            kind, after = next_kind, next_after
    if kind & PUNCTUATION:
        end = end_of_run(text, after, n, classes, PUNCTUATION)
        while end < n and (
            byte_at(text, end) == LINE_FEED
            or byte_at(text, end) == CARRIAGE_RETURN
            or byte_at(text, end) == SLASH
        ):
            end += 1
        return end
    end, last, after_newline = end_of_blanks(text, i, n, classes)
    if after_newline > 0:
        return after_newline
    return leave_one_blank(end, last, i, n)


@helper
def starts_o200k(text, i, n):
    """As `starts_cl100k`. A capital after a small letter begins a word, a contraction ends one."""
    capitals, small = upper_case(text, i), lower_case(text, i)
    letters = capitals | small
    digits, blanks, strangers = digits_at(text, i), blanks_at(text, i), not_ascii(text, i)
    newlines = newlines_at(text, i)
    spaces = bytes_between(text, i, SPACE_BYTE, SPACE_BYTE)
    signs = ~(letters | digits | blanks | strangers)

    of_signs = signs & ~(signs << ONE) & ~(spaces << ONE)
    leading = blanks & ~newlines | of_signs
    starts = ONE | of_signs | letters & ~(letters << ONE) & ~(leading << ONE)
    starts |= capitals & small << ONE
    starts |= every_third(digits) | starts_of_blanks(blanks, newlines, signs)

    # A slash after newlines may belong to the signs before them: that is left to `next_o200k`.
    odd = bytes_between(text, i, SLASH, SLASH) & newlines << ONE | strangers
    decided = decided_bits(blanks, min(first_set_bit(odd), n - i))
    apostrophes = bytes_between(text, i, APOSTROPHE, APOSTROPHE) & letters << ONE & decided
    last_end = i
    while apostrophes != 0:
        j = first_set_bit(apostrophes)
        apostrophes &= apostrophes - ONE
        end = end_of_contraction(text, i + j, n, True)
        if end > 0 and last_end != i + j:  # a word has one contraction at most
            starts &= ~(ONE << np.uint64(j))
            starts |= ONE << np.uint64(end - i) & letters
            last_end = end
    return starts & decided


@kernel
def scan_o200k(text_array, i, n, class_table, ends):
    """`scan`, for the pattern o200k."""
    return scan(text_array, i, n, class_table, ends, next_o200k, starts_o200k)


# ---- characters ----


@kernel
def scan_characters(text_array, i, n, class_table, ends):
    """As `scan`, each character being a piece: its first byte says how long it is."""
    text = text_array.ctypes.data
    k = 0
    while i < n and k < len(ends):
        first = byte_at(text, i)
        i += 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)
        ends[k] = i
        k += 1
    return k


SCANNERS = {
    "gpt2": scan_gpt2,
    "cl100k": scan_cl100k,
    "cl100k-huggingface": scan_cl100k_huggingface,
    "o200k": scan_o200k,
    "characters": scan_characters,
}
