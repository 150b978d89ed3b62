"""Other people's files: Hugging Face's tokenizer.json.

A file is checked before it is believed: whatever is wrong with it, the answer is a ValueError that
names the file and what was expected.
"""

import base64
import binascii
import json
import os
from pathlib import Path
from typing import Any

from .byte_characters import CHARACTER_OF, from_characters, to_characters
from .splitting import PATTERNS


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that whoever looks sees all of it or the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


# ---- Hugging Face's tokenizer.json ----


def write_huggingface(
    path: Path,
    vocab: dict[bytes, int],
    merges: list[tuple[bytes, bytes]],
    special_tokens: dict[str, int],
    pattern: str,
    whole_pieces: bool,
) -> None:
    """Write a tokenizer.json that `tokenizers` and `transformers` open as it is."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if pattern == "gpt2":
        pre_tokenizer: dict[str, Any] = {**byte_level, "use_regex": True}
    else:
        split = {
            "type": "Split",
            "pattern": {"Regex": PATTERNS.get(pattern, pattern)},
            "behavior": "Isolated",
            "invert": False,
        }
        whole = {**byte_level, "use_regex": False}
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, whole]}
    ids = {to_characters(token): i for token, i in vocab.items()} | special_tokens
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token, i in sorted(special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": whole_pieces,
            "vocab": dict(sorted(ids.items(), key=lambda item: item[1])),
            "merges": [[to_characters(left), to_characters(right)] for left, right in merges],
        },
    }
    write_atomically(path, json.dumps(document, ensure_ascii=False, indent=1).encode())


def read_huggingface(path: Path) -> dict[str, Any]:
    """Read a byte-level BPE tokenizer.json; return the arguments that make a Tokeniser of it.

    raises ValueError for other kinds of tokeniser and for broken files
    """
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    model = _field(path, document, "model", dict)
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"{path} holds a {model['type']} model; only byte-level BPE can be read")
    special_tokens = {}
    for added in _field(path, document, "added_tokens", list):
        special_tokens[_field(path, added, "content", str)] = _field(path, added, "id", int)
    merges = []
    in_use = set(CHARACTER_OF.values())
    for merge in _field(path, model, "merges", list):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        merges.append((from_characters(left), from_characters(right)))
        in_use.update((left, right, left + right))
    vocab = {}
    for characters, i in _field(path, model, "vocab", dict).items():
        # The file lists special tokens among the others; only a few are ordinary tokens as well.
        if characters in special_tokens and characters not in in_use:
            continue
        token = from_characters(characters)
        if token is None:
            raise ValueError(
                f"{path}: token {characters!r} is not written in byte-level characters"
            )
        vocab[token] = i
    return {
        "vocab": vocab,
        "merges": merges,
        "special_tokens": special_tokens,
        "pattern": _pattern_of(path, document.get("pre_tokenizer")),
        "whole_pieces": bool(model.get("ignore_merges", False)),
    }


def _field(path: Path, parent: Any, name: str, kind: type) -> Any:
    value = parent.get(name) if isinstance(parent, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{path}: expected a {kind.__name__} in {name!r}, found {value!r:.80}")
    return value


def _pattern_of(path: Path, pre_tokenizer: Any) -> str:
    """Find the split pattern in a pre-tokeniser: ByteLevel, or Split and then ByteLevel."""
    steps = [pre_tokenizer]
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "Sequence":
        steps = _field(path, pre_tokenizer, "pretokenizers", list)
    kinds = [step.get("type") if isinstance(step, dict) else None for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt2"
    if kinds == ["Split", "ByteLevel"]:
        text = _field(path, _field(path, steps[0], "pattern", dict), "Regex", str)
        return next((name for name, known in PATTERNS.items() if known == text), text)
    raise ValueError(
        f"{path}: pre-tokeniser {kinds} is not byte-level BPE; expected ByteLevel, or Split and ByteLevel"
    )


# ---- tiktoken's rank files ----


def read_tiktoken(path: Path) -> dict[bytes, int]:
    """Read the rank of every token from lines of base64 and a number.

    raises ValueError
    """
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(
                f"{path}, line {number}: expected a token in base64 and its rank, found {line!r:.60}"
            ) from None
    return ranks
