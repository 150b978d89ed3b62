"""Splitting: a text is cut into pieces before any merging, and no merge reaches across a cut.

A *pattern* is a regular expression; the pieces are its matches, one behind the other. The patterns
below are those of well-known tokenisers, written without possessive quantifiers so that every
regular-expression engine reads them alike. All of them say, with small differences: a word with the
blank before it, a number, a run of punctuation, a run of blanks but for the last one, which belongs to the
word that follows.
"""

from collections.abc import Iterator

import regex

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
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
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


def compile_pattern(pattern: str) -> regex.Pattern:
    """Compile a pattern, given by its name in PATTERNS or as a regular expression.

    raises ValueError if the expression is not one, or if it has no name and could match nothing at all
    """
    try:
        compiled = regex.compile(PATTERNS.get(pattern, pattern))
    except regex.error as error:
        names = ", ".join(PATTERNS)
        raise ValueError(
            f"pattern {pattern!r} is neither a known name ({names}) nor a regular expression: {error}"
        ) from error
    return compiled


def split(text: str, pattern: regex.Pattern) -> Iterator[str]:
    """Cut `text` into pieces. What lies between two matches, if anything, is a piece too."""
    end = 0
    for match in pattern.finditer(text):
        if match.start() > end:
            yield text[end : match.start()]
        if match.end() > match.start():
            yield match.group()
        end = match.end()
    if end < len(text):
        yield text[end:]
