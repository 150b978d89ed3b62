r"""The patterns that have a kernel, and what tells them from each other: a few switches.

cl100k, o200k and those of Llama 3, Qwen, Mistral and others are one expression with other settings:

    digits        how many numbers make a piece     one, up to three, any number
    letters       what a word is made of            letters, letters and marks, or letters in two
                                                    cases: a capital after a small one begins a word
    contractions  where 's and 're are cut off      before words, after (they end one), nowhere
    tail          what may follow punctuation       nothing, newlines, newlines and /

GPT-2's has one: whether numbers are led by a blank, or are split off first (SmolLM2, StarCoder 2).

A pattern is recognised by its text: here each setting is written as an expression, in every
spelling that is in use, and `kernel_of` looks a pattern up in that. The kernels (`scanning.py`) are
handed the switches as numbers.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

PLAIN, WITH_MARKS, CASED = 0, 1, 2  # letters
NOWHERE, BEFORE, AFTER = 0, 1, 2  # contractions
NOTHING, NEWLINES, SLASHES = 0, 1, 2  # tail
LED, ONE_BY_ONE, IN_RUNS = 0, 1, 2  # GPT-2's numbers


class Switches(NamedTuple):
    r"""One setting of each.

    digits             how many at most; 0 for any number
    keeps_last_blanks  whether blanks at the very end stay in one piece, as tiktoken's cl100k has it

    >>> expression(Switches(1, PLAIN, NOWHERE, NEWLINES)).split("|")[:2]
    ['[^\\r\\n\\p{L}\\p{N}]?\\p{L}+', '\\p{N}']
    """

    digits: int
    letters: int
    contractions: int
    tail: int
    keeps_last_blanks: bool = False


class Kernel(NamedTuple):
    """What splits by a pattern: a kernel by its name in `scanning.SCANNERS`, and its switches."""

    name: str
    switches: tuple[int, ...] = ()


# Each setting, spelt in all ways that are in use; the first is ours.
CONTRACTION = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)")
DIGITS = {0: r"\p{N}+", 1: r"\p{N}", 3: r"\p{N}{1,3}"}
CAPITALS, SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LED_BY = r"[^\r\n\p{L}\p{N}]?"
SIGNS = {PLAIN: r" ?[^\s\p{L}\p{N}]+", WITH_MARKS: r" ?[^\s\p{L}\p{M}\p{N}]+"}
SIGNS[CASED] = SIGNS[PLAIN]
TAIL = {NOTHING: "", NEWLINES: r"[\r\n]*", SLASHES: r"[\r\n/]*"}
BLANKS = (
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\s*[\r\n]+|\s+(?!\S)|\s",
    r"\s*[\r\n]|\s+(?!\S)|\s+",
    r"\s*[\r\n]|\s+(?!\S)|\s",
)
KEPT_BLANKS = (r"\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s",)
OF_GPT2 = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
)
# Numbers split off before: blanks in front of them are all one piece, as at the end of a text.
OF_GPT2_APART = OF_GPT2[0].replace(r"\s+(?!\S)", r"\s+(?![^\s\p{N}])")
AFTER_DIGITS = {
    ONE_BY_ONE: OF_GPT2_APART.replace(r" ?\p{N}+", r"\p{N}"),
    IN_RUNS: OF_GPT2_APART.replace(r" ?\p{N}+", r"\p{N}+"),
}


def expression(switches: Switches) -> str:
    """Write the switches as a regular expression."""
    return next(spellings(switches))


def spellings(switches: Switches) -> Iterator[str]:
    """All ways in which that expression is written, ours first."""
    digits, letters, contractions, tail, keeps_last_blanks = switches
    signs = SIGNS[letters]
    before = CONTRACTION if contractions == BEFORE else ("",)
    after = CONTRACTION[0] + "?" if contractions == AFTER else ""
    ends = [signs + TAIL[tail], signs + "+" + TAIL[tail]]  # ++ gives nothing back, nor does +
    blanks = KEPT_BLANKS if keeps_last_blanks else BLANKS
    for first, end, rest in product(before, ends, blanks):
        for word in _words(letters, after):
            yield "|".join(part for part in (first, *word, DIGITS[digits], end, rest) if part)


def _words(letters: int, contraction: str) -> list[tuple[str, ...]]:
    """The alternatives that match a word."""
    if letters == CASED:
        small, capitals = f"{CAPITALS}*{SMALL}+", f"{CAPITALS}+{SMALL}*"
        return [(LED_BY + small + contraction, LED_BY + capitals + contraction)]
    if letters == WITH_MARKS:
        return [(LED_BY + r"[\p{L}\p{M}]+" + contraction,)]
    possessive = [
        r"?\p{L}+",
        r"?+\p{L}+",
        r"?+\p{L}++",
    ]  # a sign is not a letter: all mean the same
    return [(LED_BY[:-1] + word + contraction,) for word in possessive]


def every_setting() -> Iterator[Switches]:
    """All switches that there are."""
    for settings in product(DIGITS, SIGNS, (NOWHERE, BEFORE, AFTER), TAIL):
        yield Switches(*settings)
    yield Switches(3, PLAIN, BEFORE, NEWLINES, keeps_last_blanks=True)


@cache
def _kernels() -> dict[str, tuple[str, Kernel]]:
    """Each expression that has a kernel: how we spell it, and the kernel."""
    found: dict[str, tuple[str, Kernel]] = {}
    for switches in every_setting():
        entry = expression(switches), Kernel("words", tuple(int(value) for value in switches))
        found |= dict.fromkeys(spellings(switches), entry)
    found |= dict.fromkeys(OF_GPT2, (OF_GPT2[0], Kernel("gpt2", (LED,))))
    for digits, written in AFTER_DIGITS.items():
        found[written] = written, Kernel("gpt2", (digits,))
    found[r"[\s\S]"] = r"[\s\S]", Kernel("characters")
    return found


def kernel_of(written: str) -> Kernel | None:
    """The kernel that splits by an expression, in whatever spelling; None if it has none."""
    found = _kernels().get(written)
    return found and found[1]


def our_spelling(written: str) -> str:
    """An expression as we spell it, if it has a kernel; else as it is."""
    found = _kernels().get(written)
    return found[0] if found else written
