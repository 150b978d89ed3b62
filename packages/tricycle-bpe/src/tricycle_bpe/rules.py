"""What a published tokeniser does to a text before its pieces are merged, beyond one pattern.

    added tokens      found in the text as it is, and again once it is normalised
    normalisation     NFC, NFD, NFKC, NFKD of Unicode: é is one character, or e and an accent
    steps             several cuts, one after the other; the last is the tokeniser's pattern
    missing bytes     what becomes of bytes that the vocabulary lacks: left out, or a token

`Rules` is what is said of these, and nothing but data: the JSON of a tokenizer.json, so that it is
written again as it was read. `Reader` does what they say. A tokeniser with one pattern and nothing
else has no rules, and the shorter way of `Tokeniser.encode_utf8`.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .added_tokens import Flags, cut_in_two_passes
from .byte_characters import from_characters
from .splitting import Splitter, kernel_for, splitter, splitter_within
from .steps import split
from .steps_in_json import WHOLE_TEXT, Pipeline, forms_in, pipeline_in
from .texts import to_utf8

NO_STEPS = Pipeline((), WHOLE_TEXT, False, True)


@dataclass(frozen=True)
class Rules:
    """What a published file says beyond the pattern.

    normaliser     the part `normalizer` of a tokenizer.json, as JSON
    pre_tokeniser  likewise `pre_tokenizer`; "null" if the tokeniser's pattern says all
    flags          conditions of added and special tokens that have any, by their text
    drops_bytes    whether bytes that the vocabulary lacks are left out; else they are an error
    unknown        the id that stands for each of them instead
    decode_only    the ids of entries that no text gets, because they are not written in bytes

    >>> Rules(normaliser='{"type": "NFC"}').may_be_cut("gpt2")
    True
    """

    normaliser: str = "null"
    pre_tokeniser: str = "null"
    flags: Mapping[str, Flags] = field(default_factory=dict)
    drops_bytes: bool = False
    unknown: int | None = None
    decode_only: Mapping[str, int] = field(default_factory=dict)

    def change_texts(self) -> bool:
        """Whether any of this decides which ids a text gets, if no byte is missing."""
        return (self.normaliser, self.pre_tokeniser) != ("null", "null") or bool(self.flags)

    def may_be_cut(self, pattern: str) -> bool:
        """Whether a long text may be encoded in parts, cut between a letter or digit and a newline.

        pattern  of the tokeniser
        """
        by_character = self.pipeline().by_character
        swallows = (text for text, flags in self.flags.items() if flags.rstrip)
        if kernel_for(pattern) is None or not by_character:
            return False
        return not any(text[-1].isalnum() for text in swallows)

    def pipeline(self) -> Pipeline:
        """The steps, and what of them is the tokeniser's pattern."""
        if self.pre_tokeniser == "null":
            return NO_STEPS
        return pipeline_in(json.loads(self.pre_tokeniser))

    def fingerprint(self) -> bytes:
        """What decides which ids a text gets, as bytes to be hashed."""
        said: list[Any] = [self.normaliser, self.pre_tokeniser, sorted(self.flags.items())]
        said += [self.drops_bytes, self.unknown]
        return json.dumps(said).encode()


class Reader:
    """Does to texts what rules say.

    pattern  of the tokeniser: the last of the steps
    """

    def __init__(self, rules: Rules, pattern: str):
        self.rules = rules
        self.forms: tuple[Any, ...] = forms_in(json.loads(rules.normaliser))
        pipeline = rules.pipeline()
        self.steps = [make() for make in pipeline.steps]
        self.in_characters = pipeline.in_characters
        self.pattern, self.split = pattern, splitter(pattern)
        if self.steps and kernel_for(pattern) is None and pattern != WHOLE_TEXT:
            self.steps.append(split(pattern))

    def normalise(self, text: str) -> str:
        """The forms of Unicode that are asked for, one after the other."""
        for form in self.forms:
            text = unicodedata.normalize(form, text)
        return text

    def cut(self, text: str, tokens: frozenset[str]) -> Iterator[tuple[str, str | None]]:
        """Cut a text at these tokens: (normalised ordinary text, the token after it)."""
        return cut_in_two_passes(text, tokens, self.rules.flags, self.normalise)

    def prepare(self, text: str) -> tuple[bytes, Splitter]:
        """What an Encoder takes: the UTF-8 of a normalised text, and how it is split."""
        if not self.steps:
            return to_utf8(text), self.split
        pieces = [text] if text else []
        for step in self.steps:
            pieces = [part for piece in pieces for part in step(piece)]
        encoded = [self._bytes_of(piece) for piece in pieces]
        ends = np.cumsum([len(piece) for piece in encoded], dtype=np.int64)
        return b"".join(encoded), self._within(ends)

    def _bytes_of(self, piece: str) -> bytes:
        if not self.in_characters:
            return to_utf8(piece)
        written = from_characters(piece)
        assert written is not None, "a step after ByteLevel made characters of its own"
        return written

    def _within(self, ends: np.ndarray) -> Splitter:
        """Split each piece by the pattern as if it were a text of its own."""
        if kernel_for(self.pattern):
            return splitter_within(self.pattern, ends)
        blocks = [ends] if len(ends) else []
        return lambda _text, _n, _room: iter(blocks)
