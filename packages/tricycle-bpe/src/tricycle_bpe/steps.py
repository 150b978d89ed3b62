"""Steps from a piece of text to smaller pieces: what published tokenisers do before they merge.

A tokenizer.json may list several, and each cuts what the one before it has left:

    Split         the matches of an expression, and what lies between them
    Digits        characters that are numbers
    Punctuation   characters that are punctuation
    ByteLevel     a blank in front, GPT-2's pattern, and every byte written as a character

A step is a function from a text to the list of its pieces. What becomes of the matches is one of
five behaviours, shown here for the match "-" in "a--b":

    Isolated             a · - · - · b      each a piece of its own
    Contiguous           a · -- · b         neighbours joined
    MergedWithPrevious   a- · - · b         with what stands before
    MergedWithNext       a · - · -b         with what stands behind
    Removed              a · b              left out
"""

import re
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import regex

from .byte_characters import to_characters
from .splitting import compile_pattern, matches
from .unicode_classes import NUMBER, unicode_classes

Step = Callable[[str], list[str]]
Spans = Iterable[tuple[int, int]]

BEHAVIOURS = ("Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext", "Removed")
PUNCTUATION = regex.compile(r"[!-/:-@\[-`{-~\p{P}]")


def split(expression: str, behaviour: str = "Isolated", invert: bool = False) -> Step:
    """Cut at the matches of an expression, given by its name in PATTERNS or as it is.

    invert  what lies between the matches is what counts as matched
    """
    pattern = compile_pattern(expression)
    return lambda text: cut(text, matches(text, pattern), behaviour, invert)


def digits(one_by_one: bool) -> Step:
    """Cut at characters that are numbers, also ½ and Ⅷ: each by itself, or in runs."""
    numbers, behaviour = numbers_of_unicode(), "Isolated" if one_by_one else "Contiguous"
    return lambda text: cut(text, (m.span() for m in numbers.finditer(text)), behaviour)


def punctuation(behaviour: str) -> Step:
    """Cut at characters that are punctuation, in ASCII also $ + < = > ^ ` | ~."""
    return lambda text: cut(text, (m.span() for m in PUNCTUATION.finditer(text)), behaviour)


def blank_in_front(text: str) -> list[str]:
    """Put a blank before a piece that does not begin with one."""
    return [text if text.startswith(" ") else " " + text]


def bytes_as_characters(text: str) -> list[str]:
    """Write each byte as a character, for steps that come after ByteLevel."""
    return [to_characters(text.encode())]


@cache
def numbers_of_unicode() -> re.Pattern:
    """One character of the class of numbers, as old as our other classes."""
    is_number = unicode_classes() & NUMBER != 0
    edges = np.flatnonzero(np.diff(is_number, prepend=False, append=False)).reshape(-1, 2)
    runs = (f"{chr(first)}-{chr(end - 1)}" for first, end in edges.tolist())
    return re.compile(f"[{''.join(runs)}]")


# ---- what becomes of the matches ----


def cut(text: str, spans: Spans, behaviour: str, invert: bool = False) -> list[str]:
    """Cut a text at these spans. An empty one is a match that takes no characters.

    >>> cut("a--b", [(1, 2), (2, 3)], "MergedWithPrevious")
    ['a-', '-', 'b']
    """
    found = [(piece, matched != invert) for piece, matched in parts(text, spans)]
    if behaviour == "Removed":
        return [piece for piece, matched in found if not matched and piece]
    if behaviour == "MergedWithNext":
        backwards = joined(found[::-1], lambda matched, before: matched and before is False)
        return [piece for pieces in backwards[::-1] if (piece := "".join(pieces[::-1]))]
    joins = {
        "Isolated": lambda matched, before: False,
        "Contiguous": lambda matched, before: matched == before,
        "MergedWithPrevious": lambda matched, before: matched and before is False,
    }
    return [piece for pieces in joined(found, joins[behaviour]) if (piece := "".join(pieces))]


def parts(text: str, spans: Spans) -> list[tuple[str, bool]]:
    """All of a text in order: (a part, whether it is one of the spans)."""
    found, end = [], 0
    for start, after in spans:
        if start > end:
            found.append((text[end:start], False))
        found.append((text[start:after], True))
        end = after
    if end < len(text):
        found.append((text[end:], False))
    return found


def joined(
    found: list[tuple[str, bool]], joins: Callable[[bool, bool | None], bool]
) -> list[list[str]]:
    """Put parts together that belong in one piece.

    joins  whether a part belongs to the one before it: (is it a match, was that, None if first)
    """
    pieces: list[list[str]] = []
    before = None
    for part, matched in found:
        if pieces and joins(matched, before):
            pieces[-1].append(part)
        else:
            pieces.append([part])
        before = matched
    return pieces
