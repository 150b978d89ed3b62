r"""Added tokens as published files have them: looked for in two passes, with conditions.

First those that stand in the text as it is; then, in what is left, once it is normalised, those
that are marked `normalized`. Of several at one place the longest is taken. A token may besides

    single_word   count only where no letter, digit or _ stands beside it
    lstrip        swallow the blanks before it
    rstrip        swallow the blanks behind it
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import regex

from .special_tokens import cut_at

# White space, as Rust and Unicode know it: Python's str.strip() takes \x1c to \x1f too.
BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
RUN_OF_BLANKS = regex.compile(f"[{BLANKS}]*")
IN_WORD = regex.compile(r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d]")


class Flags(NamedTuple):
    """Under which conditions an added token is found, and what it takes with it."""

    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalised: bool = False


PLAIN = Flags()


def cut_in_two_passes(
    text: str,
    tokens: frozenset[str],
    flags: Mapping[str, Flags],
    normalise: Callable[[str], str],
) -> Iterator[tuple[str, str | None]]:
    """Cut a text at added tokens: (normalised ordinary text, the token after it), None at the end.

    tokens  those that are looked for
    flags   of those that have any
    """
    later = frozenset(token for token in tokens if flags.get(token, PLAIN).normalised)
    written = {normalise(token): token for token in later}
    for part, token in cut_by_flags(text, {token: token for token in tokens - later}, flags):
        yield from _with_last(cut_by_flags(normalise(part), written, flags), token)


def _with_last(parts, token):
    """The parts of a text, the last of which is followed by `token`."""
    for ordinary, inside in parts:
        yield ordinary, token if inside is None else inside


def cut_by_flags(
    text: str, tokens: Mapping[str, str], flags: Mapping[str, Flags]
) -> Iterator[tuple[str, str | None]]:
    """As `special_tokens.cut_at`, for tokens with conditions.

    tokens  by how they are written in this text

    >>> flags = {"<mask>": Flags(lstrip=True)}
    >>> list(cut_by_flags("a <mask> b", {"<mask>": "<mask>"}, flags))
    [('a', '<mask>'), (' b', None)]
    """
    end = at = 0  # what was cut off so far; where the search is
    if tokens:
        for ordinary, written in cut_at(frozenset(tokens), text):
            if written is None:
                break
            start, at = at + len(ordinary), at + len(ordinary) + len(written)
            span = _taken(text, start, at, end, flags.get(tokens[written], PLAIN))
            if span is not None:
                yield text[end : span[0]], tokens[written]
                end = span[1]
    yield text[end:], None


def _taken(text: str, start: int, end: int, floor: int, flags: Flags) -> tuple[int, int] | None:
    """From where to where a token that was found reaches; None if it does not count here.

    It may begin in the blanks that the token before it has swallowed, up to `floor`.
    """
    if flags.single_word and (
        (start and IN_WORD.match(text[start - 1])) or (end < len(text) and IN_WORD.match(text[end]))
    ):
        return None
    if flags.lstrip:
        start = floor + len(text[floor:start].rstrip(BLANKS))
    if flags.rstrip:
        end = RUN_OF_BLANKS.match(text, end).end()
    return (start, end) if start < end else None
