"""Special tokens in a text: whether they may be there, and where they are.

A special token, such as <|endoftext|>, tells a model something that text must not be able to say.
So a text that spells one is refused, unless the caller says what is meant.
"""

import re
from collections.abc import Collection, Iterator, Set
from functools import lru_cache
from os.path import commonprefix


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


@lru_cache(maxsize=64)
def _finder(tokens: frozenset[str]) -> tuple[str, re.Pattern]:
    """How all of these texts begin, and an expression that matches any of them: the longest where
    several begin at one place.
    """
    longest_first = sorted(tokens, key=len, reverse=True)
    return commonprefix(longest_first), re.compile("|".join(map(re.escape, longest_first)))
