"""The tokeniser in a GGUF file, from its settings.

    `tokenizer.ggml.model`        gpt2 is byte-level BPE; other kinds are refused by name
    `tokenizer.ggml.pre`          a name for how texts are cut: smollm, qwen2, llama-bpe …
    `tokenizer.ggml.tokens`       the text of every id, in byte characters
    `tokenizer.ggml.token_type`   1 normal, 3 control (special), 4 user-defined (added) …
    `tokenizer.ggml.merges`       "a b", the oldest first
    `tokenizer.chat_template`     how a conversation is written

A name is all that the file says about cutting and normalising, so what it stands for is written
here: as in the tokenizer.json of the models it was made for, of which llama.cpp's own reading
leaves out the normalisation. A name that is not here is refused.

Which setting means what, and the names: llama.cpp (llama-vocab.cpp).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .splitting import PATTERNS
from .switches import (
    BEFORE,
    CASED,
    NEWLINES,
    NOWHERE,
    PLAIN,
    SLASHES,
    WITH_MARKS,
    Switches,
    expression,
)
from .tokenizer_json import read_document

SPECIAL, ADDED = 3, 4  # types of tokens
OTHER_MODELS = {
    "llama": "a SentencePiece",
    "t5": "a Unigram",
    "bert": "a WordPiece",
    "rwkv": "RWKV's",
    "none": "no",
    "no_vocab": "no",
}


def _split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
GPT2 = BYTES | {"use_regex": True}
CL100K, O200K = PATTERNS["cl100k-huggingface"], PATTERNS["o200k"]
QWEN2 = expression(Switches(1, PLAIN, BEFORE, NEWLINES))
QWEN35 = expression(Switches(1, WITH_MARKS, BEFORE, NEWLINES))
TEKKEN = expression(Switches(1, CASED, NOWHERE, SLASHES))
CHINESE_AND_JAPANESE = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS = {"type": "Digits", "individual_digits": True}


class Way(NamedTuple):
    """How texts are cut and normalised.

    steps         of a pre-tokeniser, as in tokenizer.json
    normaliser    a form of Unicode, or ""
    whole_pieces  whether a piece that is a token is taken whole
    adds_bos      whether a text begins with a token, where the file does not say
    """

    steps: tuple[dict[str, Any], ...]
    normaliser: str = ""
    whole_pieces: bool = False
    adds_bos: bool = False


WAYS = {
    ("gpt-2", "phi-2", "jais", "exaone4", "mellum", "modern-bert"): Way((GPT2,)),
    ("mpt", "olmo"): Way((GPT2,), "NFC"),
    ("smollm", "starcoder", "refact", "codeshell"): Way((DIGITS, GPT2)),
    ("command-r",): Way((DIGITS, GPT2), "NFC"),
    ("exaone",): Way((DIGITS, GPT2), "NFKC"),
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "lfm2"): Way(
        (_split(CL100K), BYTES), whole_pieces=True, adds_bos=True
    ),
    ("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"): Way((_split(CL100K), BYTES)),
    ("qwen2", "deepseek-r1-qwen", "megrez"): Way((_split(QWEN2), BYTES), "NFC"),
    ("qwen35",): Way((_split(QWEN35), BYTES), "NFC"),
    ("gpt-4o", "llama4"): Way((_split(O200K), BYTES), whole_pieces=True),
    ("tekken",): Way((_split(TEKKEN), BYTES), whole_pieces=True, adds_bos=True),
    ("deepseek-v3",): Way(
        (_split(r"\p{N}{1,3}"), _split(CHINESE_AND_JAPANESE), _split(DEEPSEEK), BYTES)
    ),
    ("minicpm5",): Way((_split(r"\p{N}{1,3}"), _split(CL100K.replace("{1,3}", "+")), BYTES)),
    ("default",): Way(
        (
            _split(r"[\p{P}\$\+<=>\^~\|]+"),
            _split(PATTERNS["gpt2"]),
            _split(r"\p{N}+"),
            _split("[0-9][0-9][0-9]"),
            BYTES,
        )
    ),
}
BY_NAME = {name: way for names, way in WAYS.items() for name in names}


def read_gguf_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that make a Tokeniser of a GGUF file's settings.

    raises  ValueError for other kinds, for names of pre-tokenisers that are not known, and for
            settings that do not fit together
    """
    way = _way(settings)
    tokens, types = _tokens(settings)
    merges = _list(settings, "merges")
    added = [
        {"id": i, "content": token, "special": kind == SPECIAL}
        for i, (token, kind) in enumerate(zip(tokens, types))
        if kind in (SPECIAL, ADDED)
    ]
    document = {
        "added_tokens": added,
        "normalizer": {"type": way.normaliser} if way.normaliser else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(way.steps)},
        "post_processor": _post_processor(settings, tokens, way.adds_bos),
        "model": {
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": merges,
            "ignore_merges": way.whole_pieces,
        },
    }
    template = settings.get("tokenizer.chat_template")
    return {
        **read_document(document),
        "chat_template": template if isinstance(template, str) else None,
    }


def _way(settings: Mapping[str, Any]) -> Way:
    model = settings.get("tokenizer.ggml.model")
    if model != "gpt2":
        kind = OTHER_MODELS.get(model) if isinstance(model, str) else None
        raise ValueError(
            f"its `tokenizer.ggml.model` is {str(model)[:40]!r}: it has {kind or 'another'} "
            "tokeniser, and only byte-level BPE (gpt2) can be read"
        )
    name = settings.get("tokenizer.ggml.pre", "default")
    if not isinstance(name, str) or name not in BY_NAME:
        raise ValueError(
            f"its `tokenizer.ggml.pre` {str(name)[:40]!r} is not known here; "
            f"{', '.join(BY_NAME)} are"
        )
    return BY_NAME[name]


def _tokens(settings: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """The text and the type of every id; no two texts are alike."""
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(_list(settings, "tokens"))]
    given = settings.get("tokenizer.ggml.token_type", [1] * len(tokens))
    types = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(types, list) or any(type(kind) is not int for kind in types):
        raise ValueError(
            f"expected whole numbers in `tokenizer.ggml.token_type`, got {given!r:.60}"
        )
    if len(types) != len(tokens):
        raise ValueError(f"it has {len(tokens)} tokens and {len(types)} types of tokens")
    if len(set(tokens)) != len(tokens):
        first: dict[str, int] = {}
        twice = next(i for i, token in enumerate(tokens) if first.setdefault(token, i) != i)
        raise ValueError(f"its token {tokens[twice]!r:.60} has two ids, the second is {twice}")
    return tokens, types


def _list(settings: Mapping[str, Any], name: str) -> list[str]:
    key = f"tokenizer.ggml.{name}"
    found = settings.get(key)
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise ValueError(f"expected a list of texts in {key}, found {found!r:.60}")
    texts = list(found)
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"expected texts in {key}, found {text!r:.60}")
    return texts


def _post_processor(
    settings: Mapping[str, Any], tokens: list[str], adds_bos: bool
) -> dict[str, Any] | None:
    """What is put around a text, as in tokenizer.json."""
    sides: list[list[str]] = []
    for end, adds in (("bos", adds_bos), ("eos", False)):
        sides.append([])
        if settings.get(f"tokenizer.ggml.add_{end}_token", adds) is True:
            key = f"tokenizer.ggml.{end}_token_id"
            i = settings.get(key)
            if type(i) is not int or not 0 <= i < len(tokens):
                raise ValueError(f"its {key} {i!r:.40} is not one of its ids")
            sides[-1].append(tokens[i])
    if not any(sides):
        return None
    ids = {token: i for i, token in enumerate(tokens)}
    before, after = ([{"SpecialToken": {"id": t, "type_id": 0}} for t in side] for side in sides)
    single = [*before, {"Sequence": {"id": "A", "type_id": 0}}, *after]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]}
            for side in sides
            for token in side
        },
    }
