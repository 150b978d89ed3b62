"""The steps of a tokenizer.json: its `normalizer` and `pre_tokenizer`, read without trust.

What is there is checked, put in one row, and given as functions of `steps.py`. The last cut is
kept apart where it can be: it is the tokeniser's pattern, for which there may be a kernel. A kind
of step that is not known here is refused by its name.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import regex

from .splitting import compile_pattern, kernel_for, not_a_name, pattern_in_json
from .steps import (
    BEHAVIOURS,
    Step,
    blank_in_front,
    bytes_as_characters,
    digits,
    punctuation,
    split,
)
from .switches import AFTER_DIGITS, IN_RUNS, ONE_BY_ONE

WHOLE_TEXT = r"[\s\S]+"
GPT2 = (split, "gpt2", "Isolated", False)
FORMS = ("NFC", "NFD", "NFKC", "NFKD")
MOST_STEPS, DEEPEST = 32, 8  # more than any published tokeniser has
OTHER_KINDS = {  # of normalisers and pre-tokenisers that belong to other kinds of tokeniser
    "Metaspace": "SentencePiece",
    "Prepend": "SentencePiece",
    "Replace": "SentencePiece",
    "Precompiled": "SentencePiece or Unigram",
    "BertNormalizer": "WordPiece",
    "BertPreTokenizer": "WordPiece",
}


class Pipeline(NamedTuple):
    """What comes before the merges.

    steps          what makes each step but the last, in their order
    pattern        the last: a name in PATTERNS, or an expression; WHOLE_TEXT if all is cut
    in_characters  whether the pieces are bytes written as characters
    by_character   whether each step looks at one character at a time
    """

    steps: tuple[Callable[[], Step], ...]
    pattern: str
    in_characters: bool
    by_character: bool


# ---- normalisers ----


def forms_in(node: Any) -> tuple[Any, ...]:
    """The forms of Unicode that a normaliser gives to texts, in their order.

    raises  ValueError for any other kind, by its name

    >>> forms_in({"type": "Sequence", "normalizers": [{"type": "NFC"}]})
    ('NFC',)
    """
    nodes = _in_a_row(node, "normalizers", "normalizer")
    for each in nodes:
        if each["type"] not in FORMS:
            raise ValueError(
                f"its `normalizer` {each['type']!r:.40} changes texts in a way that is not known "
                f"here{_other_kind(each)}; {', '.join(FORMS)} are"
            )
    return tuple(each["type"] for each in nodes)


# ---- pre-tokenisers ----


def pipeline_in(node: Any) -> Pipeline:
    """The steps of a pre-tokeniser.

    raises  ValueError for kinds of steps that are not known, and where none writes bytes
    """
    nodes = _in_a_row(node, "pretokenizers", "pre-tokeniser")
    kinds = [each["type"] for each in nodes]
    unknown = [each for each in nodes if each["type"] not in READERS]
    if unknown or kinds.count("ByteLevel") != 1:
        raise ValueError(
            f"its pre-tokeniser {kinds!r:.80} cannot be followed here"
            f"{_other_kind(*unknown)}; expected one ByteLevel, and {', '.join(READERS)} before or "
            "after it"
        )
    cuts: list[tuple[Any, ...]] = []
    for k, each in enumerate(nodes):
        cuts += READERS[each["type"]](each)
        if each["type"] == "ByteLevel" and k + 1 < len(nodes):
            cuts.append((lambda: bytes_as_characters,))
    in_characters = kinds[-1] != "ByteLevel"
    pattern = WHOLE_TEXT
    if len(cuts) > 1 and cuts[-2][0] is digits and cuts[-1] == GPT2:
        together = AFTER_DIGITS[ONE_BY_ONE if cuts[-2][1] else IN_RUNS]
        cuts[-2:] = [(split, together, "Isolated", False)]
    if cuts and cuts[-1][0] is split and _only_cuts(*cuts[-1][1:]) and not in_characters:
        pattern = cuts.pop()[1]
    return Pipeline(
        tuple(partial(each[0], *each[1:]) for each in cuts),
        pattern,
        in_characters,
        all(each[0] is digits for each in cuts),
    )


def _only_cuts(pattern: str, behaviour: str, invert: bool) -> bool:
    """Whether a split is a pattern of ours: pieces are the matches, and what lies between them."""
    if (behaviour, invert) == ("Removed", True):  # of a known one, nothing lies between
        return kernel_for(pattern) is not None
    return (behaviour, invert) == ("Isolated", False)


def _read_split(node: dict) -> list[tuple[Any, ...]]:
    pattern = node.get("pattern")
    written = pattern if isinstance(pattern, dict) else {}
    if isinstance(written.get("Regex"), str):
        expression = pattern_in_json(written["Regex"])
    elif isinstance(written.get("String"), str):
        expression = not_a_name(regex.escape(written["String"]))
    else:
        raise ValueError(f"expected a Regex or a String in 'pattern', found {pattern!r:.80}")
    compile_pattern(expression)  # a broken one is an error now, not at the first text
    return [(split, expression, _behaviour(node), _flag(node, "invert", False))]


def _read_digits(node: dict) -> list[tuple[Any, ...]]:
    return [(digits, _flag(node, "individual_digits", False))]


def _read_punctuation(node: dict) -> list[tuple[Any, ...]]:
    return [(punctuation, _behaviour(node))]


def _read_byte_level(node: dict) -> list[tuple[Any, ...]]:
    cuts: list[tuple[Any, ...]] = []
    if _flag(node, "add_prefix_space", True):
        cuts.append((lambda: blank_in_front,))
    if _flag(node, "use_regex", True):
        cuts.append(GPT2)
    return cuts


READERS: dict[str, Callable[[dict], list[tuple[Any, ...]]]] = {
    "Split": _read_split,
    "Digits": _read_digits,
    "Punctuation": _read_punctuation,
    "ByteLevel": _read_byte_level,
}


def _behaviour(node: dict) -> str:
    name = "behavior"
    behaviour = node.get(name, "Isolated")
    if behaviour not in BEHAVIOURS:
        raise ValueError(
            f"expected one of {', '.join(BEHAVIOURS)} in {name!r}, found {behaviour!r:.40}"
        )
    return behaviour


def _flag(node: dict, name: str, otherwise: bool) -> bool:
    value = node.get(name, otherwise)
    if type(value) is not bool:
        raise ValueError(f"expected true or false in {name!r}, found {value!r:.40}")
    return value


# ---- what both share ----


def _in_a_row(node: Any, children: str, what: str, depth: int = 0) -> list[dict]:
    """The nodes of a tree of sequences, in their order; each has a type."""
    if node is None:
        return []
    kind = node.get("type") if isinstance(node, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"expected a {what} with a type, found {node!r:.80}")
    if kind != "Sequence":
        return [node]
    inside = node.get(children)
    if not isinstance(inside, list) or depth == DEEPEST:
        raise ValueError(f"expected a list in {children!r}, found {inside!r:.80}")
    row = [each for child in inside for each in _in_a_row(child, children, what, depth + 1)]
    if len(row) > MOST_STEPS:
        raise ValueError(f"its {what} has more than {MOST_STEPS} steps")
    return row


def _other_kind(*nodes: dict) -> str:
    """To whose files such a step belongs, as the end of a sentence."""
    kinds = [OTHER_KINDS[node["type"]] for node in nodes if node["type"] in OTHER_KINDS]
    return f" (it is of a {kinds[0]} tokeniser)" if kinds else ""
