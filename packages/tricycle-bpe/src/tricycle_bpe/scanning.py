r"""Splitting, fast: the patterns of `splitting.py` as loops over the bytes of a text.

A regular-expression engine tries one alternative after another at each place. But the first
character of a piece, and the one after it, already tell which alternative will match; what
remains is to find the end of a run of letters, digits, punctuation or blanks. There are two kinds
of patterns, GPT-2's and cl100k's, and `switches.py` tells one from others of its kind. Each kind
has one function `next_…` that finds an end, in the order of the pattern's alternatives, with the
runs of `runs.py`. And it has one function `starts_…` that finds all pieces of 64 bytes of ASCII
together, with `byte_masks.py`. One loop drives both.

The text is valid UTF-8, followed by `bytes_at.PADDING` zero bytes. `n` is its length in bytes, `i`
a position in it. The result is an array of ends: piece k is text[ends[k - 1] : ends[k]].

Order of the file: the loop; for each kind its functions and its kernel.
"""

import numpy as np

from .byte_masks import (
    LOOK_AHEAD,
    ONE,
    blanks_at,
    decided_bits,
    digits_at,
    first_bits,
    lower_case,
    newlines_at,
    not_ascii,
    starts_of_blanks,
    starts_of_numbers,
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
    end_of_numbers,
    end_of_run,
    leave_one_blank,
    not_lower_case,
)
from .switches import (
    AFTER,
    BEFORE,
    CASED,
    LED,
    NOTHING,
    NOWHERE,
    ONE_BY_ONE,
    SLASHES,
    WITH_MARKS,
)
from .unicode_classes import LOWER, MARK, NEWLINE, NUMBER, OTHER, UPPER

PIECES_ONE_BY_ONE = 8


# ---- the loop of all patterns ----


@helper
def scan(text_array, i, n, class_table, ends, switches, next_piece, starts_of_pieces):
    """Write the ends of the pieces from position i on until `ends` is full; return their number.

    switches                      of the pattern, numbers
    next_piece, starts_of_pieces  what a kind of pattern is: its `next_…` and its `starts_…`. Both
                                  become part of the kernel that hands them in, so the call costs
                                  nothing
    """
    text, classes = text_array.ctypes.data, class_table.ctypes.data
    k = 0
    while i < n and k < len(ends):
        if k + 64 <= len(ends):
            starts = (
                starts_of_pieces(text, i, n, switches) & ~ONE
            )  # each of them ends the piece before
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
                i = next_piece(text, i, n, classes, switches)
                ends[k] = i
                k += 1
    return k


# ---- GPT-2's ----


@helper
def next_gpt2(text, i, n, classes, switches):
    """Where the piece of text[:n] that begins at i ends, by GPT-2's pattern."""
    (digits,) = switches
    first = byte_at(text, i)
    if first == APOSTROPHE:
        end = end_of_contraction(text, i, n, False)
        if end > 0:
            return end
    start = i + (first == SPACE_BYTE)
    if start < n:
        kind, after = character_at(text, start, classes)
        if kind & LETTER:
            return end_of_letters(text, after, n, classes, LETTER)
        if kind & NUMBER and (digits == LED or start == i):
            if digits == ONE_BY_ONE:
                return after
            return end_of_run(text, after, n, classes, NUMBER)
        if kind & PUNCTUATION:
            return end_of_run(text, after, n, classes, PUNCTUATION)
    end, last, _ = end_of_blanks(text, i, n, classes)
    if digits != LED and end < n:
        kind, _ = character_at(text, end, classes)
        if kind & NUMBER:
            return end
    return leave_one_blank(end, last, i, n)


@helper
def starts_gpt2(text, i, n, switches):
    """Find where pieces begin among the next 64 bytes, as far as they are ASCII: a bit for each.

    A piece begins at i. Whether one begins at another byte can be seen from the byte before it and
    the two after it, so all 64 are decided at once, by shifting masks of letters, digits …:

        a letter, digit, sign   where its kind of run begins, unless a space before leads it
        a blank                 where a run of blanks begins, and where its last one leads a word

    Numbers that are split off are led by no blank. Only a contraction has to be looked at by
    itself.
    """
    (digits_are,) = switches
    letters = upper_case(text, i) | lower_case(text, i)
    digits, blanks, strangers = digits_at(text, i), blanks_at(text, i), not_ascii(text, i)
    spaces = bytes_between(text, i, SPACE_BYTE, SPACE_BYTE)
    signs = ~(letters | digits | blanks | strangers)

    starts = letters & ~(letters << ONE) | digits & ~(digits << ONE) | signs & ~(signs << ONE)
    starts &= ~(spaces << ONE)
    starts |= blanks & ~(blanks << ONE & blanks >> ONE)
    if digits_are != LED:
        starts &= ~(blanks & blanks << ONE & digits >> ONE)
        starts |= digits if digits_are == ONE_BY_ONE else digits & ~(digits << ONE)
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
def scan_gpt2(text_array, i, n, class_table, ends, switches):
    """`scan`, for GPT-2's pattern and its kin."""
    return scan(text_array, i, n, class_table, ends, switches, next_gpt2, starts_gpt2)


# ---- cl100k's ----


@helper
def next_word(text, i, n, classes, switches):
    """Where the piece of text[:n] that begins at i ends, by a pattern of cl100k's kind."""
    digits, letters, contractions, tail, keeps_last_blanks = switches
    first = byte_at(text, i)
    if contractions == BEFORE and first == APOSTROPHE:
        end = end_of_contraction(text, i, n, True)
        if end > 0:
            return end
    kind, after = character_at(text, i, classes)
    end = end_of_word(text, i, n, classes, letters)
    if end > 0:
        return with_contraction(text, end, n) if contractions == AFTER else end
    if kind & NUMBER:
        return end_of_numbers(text, i, n, classes, digits)
    signs = OTHER if letters == WITH_MARKS else PUNCTUATION
    if first == SPACE_BYTE and after < n:
        next_kind, next_after = character_at(text, after, classes)
        if next_kind & signs:
            kind, after = next_kind, next_after
    if kind & signs:
        end = end_of_run(text, after, n, classes, signs)
        while end < n and is_tail(byte_at(text, end), tail):
            end += 1
        return end
    end, last, after_newline = end_of_blanks(text, i, n, classes)
    if keeps_last_blanks and end == n:
        return end
    if after_newline > 0:
        return after_newline
    return leave_one_blank(end, last, i, n)


@helper
def is_tail(byte, tail):
    """Whether a byte may follow punctuation and belong to it."""
    newline = byte in (LINE_FEED, CARRIAGE_RETURN)
    return tail != NOTHING and newline or tail == SLASHES and byte == SLASH


@helper
def end_of_word(text, i, n, classes, letters):
    """Match a word, which a blank or a sign may lead; return the end, or 0."""
    kind, after = character_at(text, i, classes)
    if letters == CASED:
        return end_of_word_in_two_cases(text, i, n, classes, kind, after)
    of_words = LETTER | MARK if letters == WITH_MARKS else LETTER
    if kind & of_words:
        return end_of_letters(text, after, n, classes, of_words)
    if after < n and not kind & (NUMBER | NEWLINE):
        kind, after = character_at(text, after, classes)
        if kind & of_words:
            return end_of_letters(text, after, n, classes, of_words)
    return np.int64(0)


@helper
def end_of_word_in_two_cases(text, i, n, classes, kind, after):
    """As `end_of_word`, where a capital after a small letter begins another word."""
    if kind & (NUMBER | NEWLINE):
        return np.int64(0)
    word = i if kind & LETTER else after
    if word < n:
        first_kind, _ = character_at(text, word, classes)
        if first_kind & (LETTER | MARK):
            end = end_of_cased_word(text, word, n, classes)
            if end == 0 and not kind & MARK:
                end = end_of_run(text, word, n, classes, UPPER)
            if end > 0:
                return end
    if kind & MARK:  # a mark may lead a word, but is also a letter of one
        return end_of_cased_word(text, i, n, classes)
    return np.int64(0)


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
def starts_words(text, i, n, switches):
    """As `starts_gpt2`. Here a blank or a lone sign leads a word, and only a blank leads signs."""
    digits_are, letters_are, contractions, tail, _ = switches
    capitals, small = upper_case(text, i), lower_case(text, i)
    letters = capitals | small
    digits, blanks, strangers = digits_at(text, i), blanks_at(text, i), not_ascii(text, i)
    newlines = newlines_at(text, i)
    spaces = bytes_between(text, i, SPACE_BYTE, SPACE_BYTE)
    signs = ~(letters | digits | blanks | strangers)

    of_signs = signs & ~(signs << ONE) & ~(spaces << ONE)
    leading = blanks & ~newlines | of_signs
    starts = ONE | of_signs | letters & ~(letters << ONE) & ~(leading << ONE)
    starts |= starts_of_numbers(digits, digits_are)
    starts |= starts_of_blanks(blanks, newlines, signs if tail != NOTHING else np.uint64(0))
    if letters_are == CASED:
        starts |= capitals & small << ONE

    odd = strangers
    if tail == SLASHES:  # after newlines it may belong to the signs before them: for `next_word`
        odd |= bytes_between(text, i, SLASH, SLASH) & newlines << ONE
    decided = decided_bits(blanks, min(first_set_bit(odd), n - i))
    if contractions == NOWHERE:
        return starts & decided
    may_begin = of_signs if contractions == BEFORE else letters << ONE
    apostrophes = bytes_between(text, i, APOSTROPHE, APOSTROPHE) & may_begin & decided
    last_end = np.int64(-1)
    while apostrophes != 0:
        j = first_set_bit(apostrophes)
        apostrophes &= apostrophes - ONE
        end = end_of_contraction(text, i + j, n, True)
        if end > 0 and (contractions == BEFORE or last_end != i + j):  # a word ends in one at most
            of_it = first_bits(end - i) & ~first_bits(j + (contractions == BEFORE))
            starts = starts & ~of_it | ONE << np.uint64(end - i) & letters
            last_end = end
    return starts & decided


@kernel
def scan_words(text_array, i, n, class_table, ends, switches):
    """`scan`, for cl100k's pattern and its kin."""
    return scan(text_array, i, n, class_table, ends, switches, next_word, starts_words)


# ---- characters ----


@kernel
def scan_characters(text_array, i, n, class_table, ends, _switches):
    """As `scan`, each character being a piece: its first byte says how long it is."""
    text = text_array.ctypes.data
    k = 0
    while i < n and k < len(ends):
        first = byte_at(text, i)
        i += 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)
        ends[k] = i
        k += 1
    return k


SCANNERS = {"gpt2": scan_gpt2, "words": scan_words, "characters": scan_characters}
