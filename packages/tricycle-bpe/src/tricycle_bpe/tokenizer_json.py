"""Hugging Face's tokenizer.json: everything about a tokeniser in one JSON document.

    added_tokens     found before anything else, special ones among them (added_tokens.py)
    `normalizer`     the form of Unicode                                 (steps_in_json.py)
    `pre_tokenizer`  how texts are cut                                   (steps_in_json.py)
    model            ids and merges of tokens in byte characters (Ġthe)
    post_processor   what is put around a text                           (framing.py)

Byte-level BPE is read in every form in which it is published. What is beyond one pattern becomes
`Rules`; a file that says no more than a tokeniser of ours has none. Anything else is refused with
the name of what it is.
"""

import json
import warnings
from pathlib import Path
from typing import Any

from .added_tokens import Flags
from .byte_characters import CHARACTER_OF, from_characters, to_characters
from .formats import (
    Writable,
    field_of,
    ids_in_order,
    in_bytes,
    named,
    read_json,
    read_merge,
    texts_of_tokens,
)
from .framing import around_in
from .rules import Rules
from .splitting import PATTERNS, check_it_can_be_saved, kernel_for
from .steps_in_json import forms_in, pipeline_in
from .switches import LED, ONE_BY_ONE
from .whole_files import write_whole

FLAG_NAMES = ("single_word", "lstrip", "rstrip", "normalized")  # in the order of Flags

MOST_COMPARED = 4_000_000  # pairs of added tokens, and characters of beginnings and endings

# ---- writing ----


def save(tokeniser: Writable, folder: str | Path) -> None:
    """Write `folder`/tokenizer.json, which Hugging Face's libraries open too."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    to_huggingface(tokeniser, folder / "tokenizer.json")


def to_huggingface(tokeniser: Writable, path: str | Path) -> None:
    """Write Hugging Face's tokenizer.json, which `tokenizers` and `transformers` open as it is.

    A special token that is written like a byte, such as ¶, has an id of its own here and, with a
    warning, that of the byte there.
    """
    _warn_of_tokens_like_others(tokeniser)
    check_it_can_be_saved(tokeniser.pattern)
    rules = tokeniser.rules or Rules()
    texts = texts_of_tokens(tokeniser)
    added_tokens = [
        {
            "id": i,
            "content": token,
            **dict(zip(FLAG_NAMES, rules.flags.get(token, Flags()))),
            "special": token in tokeniser.special_tokens,
        }
        for token, i in sorted(texts.items(), key=lambda item: item[1])
    ]
    ids = ids_in_order(tokeniser)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": json.loads(rules.normaliser),
        "pre_tokenizer": json.loads(rules.pre_tokeniser) or _node_of(tokeniser.pattern),
        "post_processor": tokeniser.post_processor,
        "decoder": {**BYTE_LEVEL, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": next((text for text, i in ids.items() if i == rules.unknown), None),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokeniser.whole_pieces,
            "vocab": ids,
            "merges": [[to_characters(half) for half in merge] for merge in tokeniser.merges],
        },
    }
    write_whole(Path(path), json.dumps(document, ensure_ascii=False, indent=1).encode())


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def _node_of(pattern: str) -> dict[str, Any]:
    """The node of a pattern: GPT-2's is ByteLevel's own, others are a Split before it."""
    kernel = kernel_for(pattern)
    if kernel is not None and kernel.name == "gpt2":
        digits, byte_level = kernel.switches[0], {**BYTE_LEVEL, "use_regex": True}
        if digits == LED:
            return byte_level
        apart = {"type": "Digits", "individual_digits": digits == ONE_BY_ONE}
        return {"type": "Sequence", "pretokenizers": [apart, byte_level]}
    split = {
        "type": "Split",
        "pattern": {"Regex": PATTERNS.get(pattern, pattern)},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, {**BYTE_LEVEL, "use_regex": False}]}


def _warn_of_tokens_like_others(tokeniser: Writable) -> None:
    for text, i in texts_of_tokens(tokeniser).items():
        spelling = from_characters(text)
        other = None if spelling is None else tokeniser.vocab.get(spelling)
        if other not in (None, i):
            warnings.warn(
                f"special token {text!r} is written in a file as the token {spelling!r} is: "
                f"Tokeniser.load tells them apart, and Hugging Face's libraries give both the id "
                f"{other}. Choose a longer one, such as {'<|' + text + '|>'!r}",
                stacklevel=4,
            )


# ---- reading ----

# What these say must be empty or false, or the ids here would not be the ids there.
MODEL_MUST_NOT_HAVE = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
)


def read_huggingface(path: Path) -> dict[str, Any]:
    """Read a byte-level BPE tokenizer.json; return the arguments that make a Tokeniser of it.

    raises  ValueError for other kinds of tokeniser and for broken files
    """
    document = read_json(path)
    with named(path):
        return read_document(document)


def read_document(document: Any) -> dict[str, Any]:
    """As `read_huggingface`, for what stands in the file."""
    model = field_of(document, "model", dict)
    _refuse_other_kinds(document, model)
    ids = field_of(model, "vocab", dict)
    special_tokens, added_tokens, flags = _read_added(document, ids)
    texts = special_tokens | added_tokens
    merges = [read_merge(merge) for merge in field_of(model, "merges", list)]
    special = {text for text, i in texts.items() if ids.get(text, i) == i}
    vocab, merge_list, decode_only = in_bytes(ids, merges, special)
    normaliser, pre_tokeniser = document.get("normalizer"), document.get("pre_tokenizer")
    pipeline = pipeline_in(pre_tokeniser)
    normalises = bool(forms_in(normaliser))
    rules = Rules(
        normaliser=json.dumps(normaliser) if normalises else "null",
        pre_tokeniser=json.dumps(pre_tokeniser) if pipeline.steps else "null",
        flags=flags if normalises or _flags_matter(flags, texts) else {},
        drops_bytes=_lacks_bytes(vocab) and pipeline.pattern != "characters",
        unknown=_read_unknown(model, ids, vocab, merges),
        decode_only=decode_only,
    )
    post_processor = document.get("post_processor")
    known = {*ids.values(), *texts.values()}
    lacking = [i for side in around_in(post_processor) for i in side if i not in known]
    if lacking:
        raise ValueError(
            f"its `post_processor` puts the id {lacking[0]} around a text, which no token has"
        )
    return {
        "vocab": vocab,
        "merges": merge_list,
        "special_tokens": special_tokens,
        "added_tokens": added_tokens,
        "pattern": pipeline.pattern,
        "whole_pieces": bool(model.get("ignore_merges", False)),
        "rules": None if rules == Rules() else rules,
        "post_processor": post_processor,
    }


def _refuse_other_kinds(document: dict, model: dict) -> None:
    """Raise ValueError for models other than byte-level BPE, and for padding and truncation."""
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"it holds a {model['type']!r:.40} model; only byte-level BPE can be read")
    for name in MODEL_MUST_NOT_HAVE:
        if model.get(name):
            whose = " (it is a SentencePiece tokeniser's)" if name == "byte_fallback" else ""
            raise ValueError(
                f"the model has {name} {model[name]!r:.40}; byte-level BPE has none{whose}"
            )
    for name in ("truncation", "padding"):
        if document.get(name) is not None:
            raise ValueError(
                f"its `{name}` gives every text the same number of ids, which is not done "
                f'here; with "{name}": null in that file it can be read'
            )


def _lacks_bytes(vocab: dict[bytes, int]) -> bool:
    return any(bytes([byte]) not in vocab for byte in CHARACTER_OF)


def _read_unknown(
    model: dict, ids: dict[str, int], vocab: dict[bytes, int], merges: list[tuple[str, str]]
) -> int | None:
    """The id that stands for a byte which the vocabulary lacks; None where none is lacking."""
    token = model.get("unk_token")
    if token is None or not _lacks_bytes(vocab):
        return None
    known = isinstance(token, str) and token in ids
    if not known or model.get("fuse_unk") or any(token in pair for pair in merges):
        raise ValueError(
            f"its unk_token {token!r:.40} is not in the vocabulary, is joined with others "
            "(fuse_unk), or is merged, which is not done here"
        )
    return ids[token]


def _read_added(
    document: dict, ids: dict[str, int]
) -> tuple[dict[str, int], dict[str, int], dict[str, Flags]]:
    """The ids of the special tokens, and of the other added ones; and the flags of all."""
    special_tokens: dict[str, int] = {}
    added_tokens: dict[str, int] = {}
    flags: dict[str, Flags] = {}
    last = -1  # the largest id so far
    document["added_tokens"] = document.get("added_tokens") or []  # may be null, or left out
    for added in field_of(document, "added_tokens", list):
        content = field_of(added, "content", str)
        said = field_of(added, "id", int)
        kind = special_tokens if added.get("special", True) else added_tokens
        if type(ids.get(content, 0)) is not int:
            raise ValueError(f"token {content!r:.80} has the id {ids[content]!r:.80}")
        like_a_byte = content in ids and _is_byte(content)  # as ¶, | and é are written in a file
        if like_a_byte and kind is special_tokens:
            kind[content] = said  # with an id of its own: only `to_huggingface` does that
        elif like_a_byte and not content.isascii():
            raise ValueError(
                f"added token {content!r} is written like the byte that has id "
                f"{ids[content]}, and cannot be told from it; take it out of "
                "added_tokens"
            )
        else:
            kind[content] = _id_of_added(content, ids, last)
        last = max(last, kind[content])
        has = Flags(*(added.get(name) is True for name in FLAG_NAMES))
        if has != Flags():
            flags[content] = has
    return special_tokens, added_tokens, flags


def _is_byte(content: str) -> bool:
    """Whether a token is written like a single byte in byte characters."""
    return len(from_characters(content) or b"") == 1


def _id_of_added(content: str, ids: dict[str, int], last: int) -> int:
    """The id of an added token: Hugging Face's libraries take that of the model's vocabulary, or
    else the next that is free, whatever the file says.
    """
    if content in ids:
        return ids[content]
    return last + 1 if last >= len(ids) else len(ids)


def _flags_matter(flags: dict[str, Flags], texts: dict[str, int]) -> bool:
    """Whether the tokens cannot simply be looked for all at once, in texts that stay as they are.

    Those marked `normalized` are looked for in what the others leave, which matters where one
    may begin in the other.
    """
    if any(kind._replace(normalised=False) != Flags() for kind in flags.values()):
        return True
    others = texts.keys() - flags.keys()
    if not flags:
        return False
    pairs, letters = len(flags) * len(others), sum(len(text) ** 2 for text in texts)
    if pairs + letters > MOST_COMPARED:
        return True  # which is right for any tokens, and slower
    beginnings = {text[:n] for text in others for n in range(1, len(text) + 1)}
    endings = {text[-n:] for text in others for n in range(1, len(text) + 1)}
    for text in flags:
        inside = any(text in other or other in text for other in others)
        ends_in_other = any(text[k:] in beginnings for k in range(len(text)))
        begins_in_other = any(text[:k] in endings for k in range(1, len(text) + 1))
        if inside or ends_in_other or begins_in_other:
            return True
    return False
