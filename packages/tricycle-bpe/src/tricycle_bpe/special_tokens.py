"""Special tokens in a text: whether they may be there, and where they are.

A special token, such as <|endoftext|>, tells a model something that text must not be able to say.
So a text that spells one is refused, unless the caller says what is meant.

An added token is text like any other, but is looked for before a text is split, as in some
tokenizer.json.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Set
from functools import lru_cache
from os.path import commonprefix

from .byte_characters import to_characters
from .corpus import LARGEST_ID


def allowed_tokens(
    text: str,
    known: Set[str],
    allowed_special: Collection[str] | str,
    disallowed_special: Collection[str] | str,
) -> frozenset[str]:
    """Refuse a text with disallowed special tokens; return the tokens that are allowed.

    known                                the special tokens of the tokeniser
    allowed_special, disallowed_special  as for `Tokeniser.encode`
    raises                               ValueError
    """
    for rule in (allowed_special, disallowed_special):
        if isinstance(rule, str) and rule != "all":
            raise ValueError(f"expected 'all' or a set of special tokens, got {rule!r}")
    allowed = frozenset(known if allowed_special == "all" else known & set(allowed_special))
    disallowed = known - allowed if disallowed_special == "all" else disallowed_special
    token = first_of(frozenset(disallowed), text) if disallowed else None
    if token is not None:
        raise ValueError(
            f"the text contains the special token {token!r}, which could trick a model. To "
            f"encode it as a special token pass allowed_special={{{token!r}}}; to encode it as "
            "ordinary text pass disallowed_special=()"
        )
    return allowed


def first_of(tokens: frozenset[str], text: str) -> str | None:
    """The first of these tokens in a text, or None.

    Where all begin alike, say with <|, looking for that beginning is much quicker than looking for
    each.
    """
    beginning, expression = _finder(tokens)
    match = expression.search(text) if beginning in text else None
    return match.group() if match else None


def cut_at(tokens: frozenset[str], text: str) -> Iterator[tuple[str, str | None]]:
    """Cut a text at these tokens: (ordinary text, the token after it), None after the last.

    >>> list(cut_at(frozenset({"<|end|>"}), "one<|end|>two"))
    [('one', '<|end|>'), ('two', None)]
    """
    end = 0
    for match in _finder(tokens)[1].finditer(text):
        yield text[end : match.start()], match.group()
        end = match.end()
    yield text[end:], None


def cut_bytes_at(tokens: frozenset[str], data: bytes) -> Iterator[tuple[bytes, str | None]]:
    """As `cut_at`, for UTF-8."""
    end = 0
    for match in _bytes_finder(tokens).finditer(data) if tokens else ():
        yield data[end : match.start()], match.group().decode()
        end = match.end()
    yield data[end:], None


@lru_cache(maxsize=64)
def _finder(tokens: frozenset[str]) -> tuple[str, re.Pattern]:
    """How all of these texts begin, and an expression that matches any of them: the longest where
    several begin at one place.
    """
    longest_first = sorted(tokens, key=len, reverse=True)
    return commonprefix(longest_first), re.compile("|".join(map(re.escape, longest_first)))


@lru_cache(maxsize=64)
def _bytes_finder(tokens: frozenset[str]) -> re.Pattern[bytes]:
    longest_first = sorted((token.encode() for token in tokens), key=len, reverse=True)
    return re.compile(b"|".join(map(re.escape, longest_first)))


# ---- whether the tokens of a vocabulary fit together ----


def check_tokens(
    vocab: dict[bytes, int],
    special_tokens: dict[str, int],
    added_tokens: dict[str, int],
    decode_only: Mapping[str, int],
) -> None:
    """Raise ValueError unless each id is one, and belongs to one token.

    An ordinary token and a special one may share an id where a file writes both alike.
    """
    if not (vocab or special_tokens or added_tokens):
        raise ValueError(
            "a vocabulary of no tokens at all can encode nothing; give it one for each byte "
            "that texts may have"
        )
    first: dict[int, bytes | str] = {}
    for what, ids in (
        ("tokens", vocab),
        ("special tokens", special_tokens),
        ("added tokens", added_tokens),
        ("tokens that no text gets", decode_only),
    ):
        for token, i in ids.items():
            _check_token(token, i, bytes if ids is vocab else str)
            other = first.setdefault(i, token)
            if other is not token and not _are_one(other, token):
                raise ValueError(
                    f"two {what} have the same id {i}, {other!r:.60} and {token!r:.60}; give each "
                    "an id of its own"
                    if type(other) is type(token)
                    else f"a token and one of the {what} have the same id {i}, {other!r:.60} and "
                    f"{token!r:.60}; give each an id of its own"
                )
    for token in added_tokens:
        if token in special_tokens:
            raise ValueError(f"{token!r:.60} is both a special and an added token; choose one")
        if re.search(r"[A-Za-z0-9]\n", token):
            raise ValueError(
                f"added token {token!r:.60} has a line end after a letter or digit, where long "
                "texts are cut: it could be missed, and is refused"
            )


def _check_token(token: bytes | str, i: int, kind: type) -> None:
    if type(i) is not int or not 0 <= i <= LARGEST_ID:
        raise ValueError(f"token {token!r:.60} has the id {i!r:.60}; ids go from 0 to {LARGEST_ID}")
    if not isinstance(token, kind):
        raise ValueError(f"token {token!r:.60} with id {i} is no {kind.__name__}")
    if not token:
        raise ValueError(
            f"the token with id {i} is empty; a token has a byte at least: leave it out"
        )
    if isinstance(token, str):
        try:
            token.encode()
        except UnicodeEncodeError:
            raise ValueError(f"token {token!r:.60} with id {i} has half a surrogate pair") from None


def _are_one(token: bytes | str, text: bytes | str) -> bool:
    """Whether a file writes both alike: a special token that is also an ordinary one."""
    if type(token) is type(text):
        return token == text
    assert isinstance(token, bytes) and isinstance(text, str)
    return text in (to_characters(token), token.decode("utf-8", "replace"))
