"""Splitting: a text is cut into pieces before any merging, and no merge reaches across a cut.

A *pattern* is a regular expression; the pieces are its matches, one after the other. The patterns
below are those of well-known tokenisers, written without possessive quantifiers so that every
regular-expression engine reads them alike. All of them say, with small differences: a word with
the blank before it, a number, a run of punctuation, a run of blanks but for the last one, which
belongs to the word that follows.

The patterns named here, and others that differ from them in a few settings (`switches.py`), have a
kernel in `scanning.py`. Any other regular expression is run by the `regex` package, with its own
idea of Unicode.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import regex

from .dialects import as_hugging_face_reads, as_tiktoken_reads, check_alike
from .switches import Kernel, kernel_of, our_spelling

PATTERNS = {
    # OpenAI's GPT-2 and GPT-3: gpt2, r50k_base, p50k_base
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # GPT-3.5 and GPT-4 as tiktoken has it: blanks at the very end stay in one piece
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    # The same as Hugging Face writes it (Llama 3 too)
    "cl100k-huggingface": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    # GPT-4o: a change from lower to upper case starts a new piece
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    # Every character a piece: for tokenisers that know whole characters only
    "characters": r"[\s\S]",
}

# As tiktoken writes them; only where {1,3}+ means what it means to tiktoken (see dialects.py).
TIKTOKENS_SPELLINGS = {
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ): "cl100k",
}
# tiktoken's names of whole tokenisers, for the pattern that each has.
TIKTOKENS_NAMES = {
    "r50k_base": "gpt2",
    "p50k_base": "gpt2",
    "p50k_edit": "gpt2",
    "cl100k_base": "cl100k",
    "o200k_base": "o200k",
    "o200k_harmony": "o200k",
}
# A known pattern takes less than a microsecond for a character, on a slow machine.
SECONDS_OF_A_TEXT, SECONDS_OF_A_CHARACTER = 10.0, 2e-5
A_WORD = re.compile(r"[\w-]+")


def known_pattern(pattern: str) -> str:
    """Settle what a pattern is: its name if it has one, else an expression written so that it
    means here what it means to tiktoken.

    raises  ValueError for a word other than a name, and for what cannot be followed here

    >>> known_pattern("cl100k_base")
    'cl100k'
    """
    if not isinstance(pattern, str):
        raise ValueError(f"a pattern is a text (str), got {type(pattern).__name__}")
    if pattern in PATTERNS:
        return pattern
    named = TIKTOKENS_SPELLINGS | TIKTOKENS_NAMES
    if pattern in named:
        return named[pattern]
    if A_WORD.fullmatch(pattern):
        raise ValueError(
            f"there is no pattern named {pattern!r}; there are {', '.join(PATTERNS)}. (As a "
            "regular expression, a word would split off nothing but itself.)"
        )
    return _with_kernel(pattern) or as_tiktoken_reads(pattern)


def pattern_in_json(expression: str) -> str:
    """As `known_pattern`, for an expression in a tokenizer.json, where no name means anything."""
    return _with_kernel(expression) or not_a_name(as_hugging_face_reads(expression))


def check_it_can_be_saved(pattern: str) -> None:
    """Raise ValueError for a pattern that would mean another thing when it is read from a file.

    pattern  as `known_pattern` gives it
    """
    if pattern not in PATTERNS and kernel_of(pattern) is None:
        check_alike(pattern)


def not_a_name(expression: str) -> str:
    """Write an expression so that it is not taken for the name of a pattern."""
    return f"(?:{expression})" if A_WORD.fullmatch(expression) else expression


def kernel_for(pattern: str) -> Kernel | None:
    """The kernel that splits by a pattern, given by its name or as an expression, if it has one."""
    return kernel_of(PATTERNS.get(pattern, pattern))


def _with_kernel(expression: str) -> str:
    """The name of an expression that has a kernel, or else our spelling; "" if it has none."""
    kernel = kernel_of(expression)
    if kernel is None:
        return ""
    names = (name for name, known in PATTERNS.items() if kernel_of(known) == kernel)
    return next(names, our_spelling(expression))


def compile_pattern(pattern: str) -> regex.Pattern:
    """Compile a pattern, given by its name in PATTERNS or as a regular expression.

    raises  ValueError
    """
    try:
        return regex.compile(PATTERNS.get(pattern, pattern))
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"pattern {pattern!r:.200} is neither a known name ({', '.join(PATTERNS)}) "
            f"nor a regular expression: {error}"
        ) from error


@dataclass
class Patience:
    """How long the expressions that look at one text may take, all together.

    seconds  of this thread's own time
    left     of them
    text     what it is about, for the message: its length and its beginning
    """

    seconds: float
    left: float
    text: str


_patience: ContextVar[Patience | None] = ContextVar("patience", default=None)


@contextmanager
def one_text(beginning: str, length: int) -> Iterator[None]:
    """Count the time of all that is split in this block as one text's.

    beginning, length  of the text, which may be looked at in many pieces, one after the other
    """
    if _patience.get() is not None:
        yield
        return
    token = _patience.set(_patience_for(beginning, length))
    try:
        yield
    finally:
        _patience.reset(token)


def _patience_for(beginning: str, length: int) -> Patience:
    seconds = SECONDS_OF_A_TEXT + SECONDS_OF_A_CHARACTER * length
    text = f"a text of {length:,} characters, beginning {beginning[:40]!r}"
    return Patience(seconds, seconds, text)


def matches(text: str, pattern: regex.Pattern) -> Iterator[tuple[int, int]]:
    """Find the matches of a pattern: where each begins and ends.

    An empty one is a place to cut, as Hugging Face has it, unless it stands right after another.

    raises  ValueError for a pattern that takes 50 times as long as any known one does
    """
    patience = _patience.get() or _patience_for(text, len(text))
    began = time.thread_time()
    try:
        yield from _matches(text, pattern, patience, began)
    finally:
        patience.left -= time.thread_time() - began


def _matches(
    text: str, pattern: regex.Pattern, patience: Patience, began: float
) -> Iterator[tuple[int, int]]:
    after, last = 0, -1  # where to look on; where the last match ended
    while after <= len(text):
        left = patience.left - (time.thread_time() - began)
        if left <= 0:
            raise ValueError(
                f"the pattern {pattern.pattern!r:.120} took more than {patience.seconds:.0f} "
                f"seconds for {patience.text}: it tries the same characters again and again, as "
                "(a+)+ does; take a known one or write it otherwise"
            )
        try:
            for match in pattern.finditer(text, after, timeout=left):
                start, end = match.span()
                if end == start:
                    break
                yield start, end
                after = last = end
            else:
                return
        except TimeoutError:
            continue  # regex counts the time of all threads: others' is not held against a text
        if start != last:
            yield start, start
        after, last = start + 1, start


def piece_ends(text: str, pattern: regex.Pattern) -> list[int]:
    """Find where the pieces of a text end, in characters.

    What lies between two matches, if anything, is a piece too, so that nothing is lost.

    raises  ValueError for a pattern that takes 50 times as long as any known one does

    >>> piece_ends("to be.", compile_pattern("gpt2"))
    [2, 5, 6]
    """
    ends = [0]
    for start, end in matches(text, pattern):
        if start > ends[-1]:
            ends.append(start)
        if end > start:
            ends.append(end)
    if len(text) > ends[-1]:
        ends.append(len(text))
    return ends[1:]


# Takes a padded text, its length in bytes and an int64 array to work in; yields arrays of ends of
# pieces, in bytes, until the text is used up. An array holds until the next one is asked for.
Splitter = Callable[[np.ndarray, int, np.ndarray], Iterator[np.ndarray]]


def splitter(pattern: str) -> Splitter:
    """Make the function that splits: by a kernel if the pattern has one, else by `regex`."""
    from .scanning import SCANNERS
    from .unicode_classes import unicode_classes

    kernel = kernel_for(pattern)
    if kernel is None:
        compiled = compile_pattern(pattern)
        return lambda text, n, room: _split_by_expression(text, n, room, compiled)
    scan, switches, classes = SCANNERS[kernel.name], kernel.switches, unicode_classes()

    def split_by_kernel(text: np.ndarray, n: int, room: np.ndarray) -> Iterator[np.ndarray]:
        i = 0
        while i < n:
            count = scan(text, i, n, classes, room, switches)
            i = int(room[count - 1])
            yield room[:count]

    return split_by_kernel


def splitter_within(pattern: str, piece_ends: np.ndarray) -> Splitter:
    """As `splitter`, for a pattern that has a kernel, each of these pieces being split as if it
    were a text of its own.

    piece_ends  where they end, in bytes
    """
    from .scanning import SCANNERS
    from .unicode_classes import unicode_classes

    kernel = kernel_for(pattern)
    assert kernel is not None, f"pattern {pattern!r} has no kernel"
    scan, switches, classes = SCANNERS[kernel.name], kernel.switches, unicode_classes()

    def split(text: np.ndarray, _n: int, room: np.ndarray) -> Iterator[np.ndarray]:
        i = k = 0  # where we are in the text, and in the room
        for end in piece_ends.tolist():
            while i < end:
                if k == len(room):
                    yield room
                    k = 0
                k += scan(text, i, end, classes, room[k:], switches)
                i = int(room[k - 1])
        if k:
            yield room[:k]

    return split


def _split_by_expression(
    text: np.ndarray, n: int, room: np.ndarray, pattern: regex.Pattern
) -> Iterator[np.ndarray]:
    characters = piece_ends(text[:n].tobytes().decode(), pattern)
    begins_character = (text[:n] & 0xC0) != 0x80
    ends = np.append(np.flatnonzero(begins_character), n)[characters]
    for k in range(0, len(ends), len(room)):
        yield ends[k : k + len(room)]
