r"""One regular expression, as different programs read it.

A pattern comes from tiktoken, whose regular expressions are Rust's, or from a tokenizer.json, where
they are Oniguruma's; here the `regex` package runs it. Where the three do not agree on counts and
ends, a pattern is written anew, in words that mean the same to all:

    `X{1,3}+`   at most three, never given back     tiktoken     (?>X{1,3})
                one to three, again and again       Oniguruma    (?:X{1,3})+
    `X{3}?`     three                               tiktoken     X{3}
                three, or none                      Oniguruma    (?:X{3})?
    `$` `^`     the end, the beginning of the text  tiktoken     (?![\s\S])  (?<![\s\S])
                of a line                           Oniguruma    (?=\n|(?![\s\S]))  (?:…|(?<=\n)…)

What else means another thing to Oniguruma is the matter of `oniguruma.py`. Sets made from sets, as
[a-z&&[^aeiou]], mean something there and something else here: they are refused.
"""

import re
from collections.abc import Iterator

from .oniguruma import in_words_of_both, read_otherwise

LONGEST_PATTERN = 5_000  # characters; the longest of a known tokeniser has about 600

ESCAPE = re.compile(
    r"\\(?:[pPNxu]\{[^}]*\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[\s\S])"
)
COUNT = re.compile(r"\{(\d+(?:,\d*)?|,\d+)\}")
NAMED_SET = re.compile(r"\[:\^?\w+:\]")
MULTILINE = re.compile(r"\(\?[a-zA-Z]*m")
VERBOSE = re.compile(r"\(\?[a-zA-Z]*x")
SET_OPERATORS = ("&&", "--", "||", "~~")

OF_THE_TEXT = {"$": r"(?![\s\S])", "^": r"(?<![\s\S])"}
# No line begins at the very end, after the last newline.
OF_A_LINE = {"$": r"(?=\n|(?![\s\S]))", "^": r"(?:(?<![\s\S])|(?<=\n)(?=[\s\S]))"}


def as_tiktoken_reads(expression: str) -> str:
    r"""Write a pattern anew so that it means here what it means to tiktoken.

    >>> as_tiktoken_reads(r"\p{N}{1,3}+|\s++$")
    '(?>\\p{N}{1,3})|\\s++(?![\\s\\S])'
    """
    return _rewritten(expression, possessive=True, ends=OF_THE_TEXT)


def as_hugging_face_reads(expression: str) -> str:
    r"""Write a pattern anew so that it means here what it means in a tokenizer.json.

    >>> as_hugging_face_reads(r"\p{N}{1,3}+")
    '(?:\\p{N}{1,3})+'
    """
    _check_length(expression)
    words = "".join(in_words_of_both(expression, list(_atoms(expression))))
    return _rewritten(words, possessive=False, ends=OF_A_LINE)


def _rewritten(expression: str, possessive: bool, ends: dict[str, str]) -> str:
    """Go through a pattern atom by atom; ValueError for what cannot be written anew.

    possessive  whether a + after {…} means: never give back
    """
    _check_length(expression)
    if VERBOSE.search(expression):
        raise ValueError(f"pattern {expression!r:.80} has the flag x (verbose): write it without")
    outside = "".join(atom for atom in _atoms(expression) if len(atom) == 1)
    if MULTILINE.search(outside) and ("$" in outside or "^" in outside):
        raise ValueError(
            f"pattern {expression!r:.80} has the flag m, under which $ and ^ mean another "
            "thing from one library to the next: write it without, as (?=\\n) and (?<=\\n)"
        )
    out: list[str] = []  # what was read so far, written anew
    opened: list[int] = []  # where in `out` the groups begin that are open
    atom = 0  # where in `out` the last atom begins: what a count counts
    i = 0
    while i < len(expression):
        character = expression[i]
        count = COUNT.match(expression, i)
        if count and out:
            i = count.end()
            i += _count(out, atom, count, expression[i : i + 1], possessive)
            continue
        if character in "*+?":
            out.append(character)
            i += 1
            continue
        text = _atom_at(expression, i)
        i += len(text)
        atom = len(out)
        if text == "(":
            opened.append(atom)
        elif text == ")" and opened:
            atom = opened.pop()
        out.append(ends.get(text, text))
    return "".join(out)


def check_alike(expression: str) -> None:
    """Raise ValueError for an expression that tiktoken and Hugging Face read in two ways."""
    found = read_otherwise(list(_atoms(expression)))
    if found:
        raise ValueError(
            f"pattern {expression!r:.120} has {found!r}, which means one thing to tiktoken and "
            "another to Hugging Face's libraries: write it as a set, such as [\\p{L}\\p{M}\\p{N}_]"
        )
    as_hugging_face_reads(expression)


def _check_length(expression: str) -> None:
    if len(expression) > LONGEST_PATTERN:
        raise ValueError(
            f"a pattern of {len(expression):,} characters is too long; {LONGEST_PATTERN:,} are "
            "allowed"
        )


def _atoms(expression: str) -> Iterator[str]:
    """The escapes, sets and characters of an expression, one after the other."""
    i = 0
    while i < len(expression):
        atom = _atom_at(expression, i)
        yield atom
        i += len(atom)


def _count(out: list[str], atom: int, count: re.Match, then: str, possessive: bool) -> int:
    """Write an atom and its count {…}; return how many characters after it are used up."""
    counted = "".join(out[atom:]) + count.group()
    del out[atom:]
    is_one_number = "," not in count.group()
    if possessive and then == "+":
        out.append(f"(?>{counted})")
        return 1
    if is_one_number and then == "?":
        out.append(counted if possessive else f"(?:{counted})?")
        return 1
    out.append(f"(?:{counted})" if then == "+" else counted)
    return 0


def _atom_at(expression: str, i: int) -> str:
    """The escape, the set or the character that begins at i."""
    escape = ESCAPE.match(expression, i)
    if escape:
        return escape.group()
    if expression[i] != "[":
        return expression[i]
    j = i + 1
    if expression[j : j + 1] == "^":
        j += 1
    if expression[j : j + 1] == "]":  # the first is one of the set
        j += 1
    while j < len(expression) and expression[j] != "]":
        inside = ESCAPE.match(expression, j) or NAMED_SET.match(expression, j)
        operator = expression[j : j + 2]
        if inside is None and (expression[j] == "[" or operator in SET_OPERATORS):
            found = operator if operator in SET_OPERATORS else "["
            raise ValueError(
                f"pattern {expression!r:.120} has {found!r} in a set: sets made from sets mean "
                "something else here than to tiktoken and Hugging Face, and are refused. Write "
                f"the set out; or, if the character itself is meant, {chr(92) + found[0]!r}"
            )
        j = inside.end() if inside else j + 1
    return expression[i : j + 1]
