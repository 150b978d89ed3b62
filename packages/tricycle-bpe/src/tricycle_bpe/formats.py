"""Other people's files: Hugging Face's tokenizer.json, tiktoken's ranks, GPT-2's two files.

All hold the same thing, a vocabulary and its merges, written in different ways:

    tokenizer.json            everything in one JSON document; tokens in byte characters (Ġthe)
    name.tiktoken             a line for each token: base64 and a rank, which is also its id
    vocab.bpe, encoder.json   the merges, one a line; the id of every token; in byte characters

A file is checked before it is believed. Whatever is wrong with it, the answer is a ValueError that
names the file and says what was expected; a kind of tokeniser that would give other ids here than
where it comes from is refused rather than nearly read.
"""

import base64
import binascii
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from .byte_characters import CHARACTER_OF, from_characters, to_characters
from .splitting import PATTERNS, pattern_in_json
from .whole_files import write_whole

Vocab = dict[bytes, int]
MergeList = list[tuple[bytes, bytes]]

LARGEST_FILE = 1 << 28  # bytes; of known vocabularies the largest file has 34 million
LONGEST_RANKED_TOKEN = 1024  # bytes; the ways to cut a token in two are all tried


class Writable(Protocol):
    """What files hold of a tokeniser: `Tokeniser` has all of it."""

    vocab: Vocab
    special_tokens: dict[str, int]
    added_tokens: dict[str, int]
    pattern: str
    whole_pieces: bool

    @property
    def merges(self) -> MergeList:
        """Pairs of tokens, in the order in which they were learned."""
        ...


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Say in the message of a ValueError which file it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    """All of a file, unless it is larger than any vocabulary."""
    with open(path, "rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError(f"{path} has more than {LARGEST_FILE:,} bytes, and is no vocabulary")
    return data


def _read_json(path: Path) -> Any:
    data = _read(path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _field(path: Path, parent: Any, name: str, kind: type) -> Any:
    value = parent.get(name) if isinstance(parent, dict) else None
    if type(value) is not kind:
        raise ValueError(f"{path}: expected a {kind.__name__} in {name!r}, found {value!r:.80}")
    return value


def _read_merge(path: Path, merge: Any) -> tuple[str, str]:
    halves = merge.split(" ") if isinstance(merge, str) else merge
    if (
        not isinstance(halves, list)
        or len(halves) != 2
        or not all(isinstance(half, str) and half for half in halves)
    ):
        raise ValueError(f"{path}: expected a merge of two tokens, found {merge!r:.80}")
    return halves[0], halves[1]


def _from_characters(
    path: Path, ids: dict[str, int], merges: list[tuple[str, str]], special
) -> tuple[Vocab, MergeList]:
    """Turn tokens in byte characters into bytes, leaving out those that are only special."""
    in_use = {*CHARACTER_OF.values(), *(half for pair in merges for half in pair)}
    in_use.update(left + right for left, right in merges)
    spelled = {}
    for token in in_use | (ids.keys() - special):
        spelling = from_characters(token)
        if not spelling:
            raise ValueError(f"{path}: token {token!r:.80} is not written in byte-level characters")
        spelled[token] = spelling
    vocab = {}
    for token, i in ids.items():
        if type(i) is not int:
            raise ValueError(f"{path}: token {token!r:.80} has the id {i!r:.80}, not a number")
        if token in spelled:
            vocab[spelled[token]] = i
    return vocab, [(spelled[left], spelled[right]) for left, right in merges]


# ---- Hugging Face's tokenizer.json ----


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
    pattern = tokeniser.pattern
    _warn_of_tokens_like_others(tokeniser)
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
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added_tokens = [
        {"id": i, "content": token, **flags, "special": token in tokeniser.special_tokens}
        for token, i in sorted(_texts(tokeniser).items(), key=lambda item: item[1])
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
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
            "ignore_merges": tokeniser.whole_pieces,
            "vocab": _ids_in_order(tokeniser),
            "merges": [[to_characters(half) for half in merge] for merge in tokeniser.merges],
        },
    }
    write_whole(Path(path), json.dumps(document, ensure_ascii=False, indent=1).encode())


def _texts(tokeniser: Writable) -> dict[str, int]:
    """The ids of the tokens that are looked for in a text as they stand."""
    return tokeniser.added_tokens | tokeniser.special_tokens


def _warn_of_tokens_like_others(tokeniser: Writable) -> None:
    for text, i in _texts(tokeniser).items():
        spelling = from_characters(text)
        other = None if spelling is None else tokeniser.vocab.get(spelling)
        if other not in (None, i):
            warnings.warn(
                f"special token {text!r} is written in a file as the token {spelling!r} is: "
                f"Tokeniser.load tells them apart, and Hugging Face's libraries give both the id "
                f"{other}. Choose a longer one, such as {'<|' + text + '|>'!r}",
                stacklevel=4,
            )


# What these say must be empty or false, or the ids here would not be the ids there.
MODEL_MUST_NOT_HAVE = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
)
ADDED_TOKEN_MUST_NOT_HAVE = ("single_word", "lstrip", "rstrip")


def read_huggingface(path: Path) -> dict[str, Any]:
    """Read a byte-level BPE tokenizer.json; return the arguments that make a Tokeniser of it.

    A post-processor, which puts special tokens around a text, is not followed.

    raises  ValueError for other kinds of tokeniser and for broken files
    """
    document = _read_json(path)
    model = _field(path, document, "model", dict)
    if model.get("type", "BPE") != "BPE":
        raise ValueError(
            f"{path} holds a {model['type']!r:.40} model; only byte-level BPE can be read"
        )
    for name in MODEL_MUST_NOT_HAVE:
        if model.get(name):
            raise ValueError(
                f"{path}: the model has {name} {model[name]!r:.40}; byte-level BPE has none"
            )
    if _changes_texts(document.get("normalizer")):
        raise ValueError(
            f"{path}: its `normalizer` changes texts before they are encoded, which is not done "
            "here; only a tokeniser without one can be read"
        )
    for name in ("truncation", "padding"):
        if document.get(name) is not None:
            raise ValueError(
                f"{path}: its `{name}` gives every text the same number of ids, which is not done "
                f'here; with "{name}": null in that file it can be read'
            )
    ids = _field(path, model, "vocab", dict)
    special_tokens, added_tokens = _read_added(path, document, ids)
    merges = [_read_merge(path, merge) for merge in _field(path, model, "merges", list)]
    special = {text for text, i in (special_tokens | added_tokens).items() if ids.get(text, i) == i}
    vocab, merge_list = _from_characters(path, ids, merges, special)
    return {
        "vocab": vocab,
        "merges": merge_list,
        "special_tokens": special_tokens,
        "added_tokens": added_tokens,
        "pattern": _read_pattern(path, document.get("pre_tokenizer")),
        "whole_pieces": bool(model.get("ignore_merges", False)),
    }


def _read_added(
    path: Path, document: dict, ids: dict[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """The ids of the special tokens, and of the other added ones."""
    special_tokens: dict[str, int] = {}
    added_tokens: dict[str, int] = {}
    apart: set[str] = set()  # those that are looked for when the others were found
    document["added_tokens"] = document.get("added_tokens") or []  # may be null, or left out
    for added in _field(path, document, "added_tokens", list):
        content = _field(path, added, "content", str)
        for name in ADDED_TOKEN_MUST_NOT_HAVE:
            if added.get(name):
                raise ValueError(
                    f"{path}: added token {content!r:.40} has {name}, which is not done here; "
                    "only tokens that are looked for as they stand can be read"
                )
        said = _field(path, added, "id", int)
        known = {**special_tokens, **added_tokens}
        kind = special_tokens if added.get("special", True) else added_tokens
        if type(ids.get(content, 0)) is not int:
            raise ValueError(f"{path}: token {content!r:.80} has the id {ids[content]!r:.80}")
        like_a_byte = content in ids and _is_byte(content)  # as ¶, | and é are written in a file
        if like_a_byte and kind is special_tokens:
            kind[content] = said  # with an id of its own: only `to_huggingface` does that
        elif like_a_byte and not content.isascii():
            raise ValueError(
                f"{path}: added token {content!r} is written like the byte that has id "
                f"{ids[content]}, and cannot be told from it; take it out of "
                "added_tokens"
            )
        else:
            kind[content] = _id_of_added(content, ids, known)
        if added.get("normalized"):
            apart.add(content)
    _refuse_overlaps(path, apart, {*special_tokens, *added_tokens} - apart)
    return special_tokens, added_tokens


def _is_byte(content: str) -> bool:
    """Whether a token is written like a single byte in byte characters."""
    return len(from_characters(content) or b"") == 1


def _id_of_added(content: str, ids: dict[str, int], known: dict[str, int]) -> int:
    """The id of an added token: Hugging Face's libraries take that of the model's vocabulary, or
    else the next that is free, whatever the file says.
    """
    if content in ids:
        return ids[content]
    last = max(known.values(), default=-1)
    return last + 1 if last >= len(ids) else len(ids)


def _changes_texts(steps: Any) -> bool:
    """Whether a normaliser does anything: a sequence of none does not."""
    if isinstance(steps, dict) and steps.get("type") == "Sequence":
        return steps.get("normalizers") != []
    return steps is not None


def _refuse_overlaps(path: Path, apart: set[str], others: set[str]) -> None:
    """Raise ValueError where it matters that Hugging Face looks for some tokens only in what the
    others leave: where one may begin in the other. Here all are looked for at once.
    """
    beginnings = {text[:n]: text for text in others for n in range(1, len(text) + 1)}
    ends = {text[-n:]: text for text in others for n in range(1, len(text) + 1)}
    for text in apart:
        inside = next((other for other in others if text in other), None)
        parts = [text[k:] for k in range(len(text))], [text[:k] for k in range(1, len(text) + 1)]
        meets = next((beginnings[part] for part in parts[0] if part in beginnings), None)
        meets = meets or next((ends[part] for part in parts[1] if part in ends), None)
        if other := inside or meets or next((other for other in others if other in text), None):
            raise ValueError(
                f"{path}: added tokens {text!r:.40} (`normalized`) and {other!r:.40} (not) may "
                "overlap, and are looked for one after the other, which is not done here"
            )


WHOLE_TEXT = r"[\s\S]+"


def _read_pattern(path: Path, pre_tokenizer: Any) -> str:
    """Find the split pattern in a pre-tokeniser: ByteLevel, or Split and then ByteLevel."""
    steps = [pre_tokenizer]
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "Sequence":
        steps = _field(path, pre_tokenizer, "pretokenizers", list)
    kinds = [step.get("type") if isinstance(step, dict) else None for step in steps]
    if kinds and kinds[-1] == "ByteLevel":
        if steps[-1].get("add_prefix_space", True):
            raise ValueError(
                f"{path}: its pre-tokeniser puts a blank before each text (add_prefix_space), "
                "which is not done here"
            )
        uses_gpt2 = steps[-1].get("use_regex", True)
        if kinds == ["ByteLevel"]:
            return "gpt2" if uses_gpt2 else WHOLE_TEXT
        if kinds == ["Split", "ByteLevel"] and not uses_gpt2:
            expression = _field(path, _field(path, steps[0], "pattern", dict), "Regex", str)
            try:
                pattern = pattern_in_json(expression)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            how = steps[0].get("behavior"), bool(steps[0].get("invert"))
            # Of a known pattern nothing lies between two matches, so nothing is removed.
            if how == ("Isolated", False) or (how == ("Removed", True) and pattern in PATTERNS):
                return pattern
    raise ValueError(
        f"{path}: its pre-tokeniser {kinds!r:.80} cannot be followed here; expected ByteLevel, "
        "or Split (isolated, by Regex) and ByteLevel"
    )


# ---- tiktoken's rank files ----


def read_tiktoken(path: Path) -> Vocab:
    """Read the rank of every token from lines of base64 and a number.

    raises  ValueError
    """
    ranks: Vocab = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line:
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
            ranks[token] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(
                f"{path}, line {number}: expected a token in base64 and its rank, "
                f"found {line!r:.60}"
            ) from None
        if len(token) > LONGEST_RANKED_TOKEN:
            raise ValueError(f"{path}, line {number}: a token of {len(token)} bytes is too long")
    return ranks


def to_tiktoken(tokeniser: Writable, path: str | Path) -> None:
    """Write a .tiktoken file: the id of every token as its rank. The pattern and special tokens
    are not in it.

    tiktoken joins any two tokens that spell a token. A tokeniser that joins listed pairs only
    may for rare texts give other ids than tiktoken does with this file.
    """
    in_order = sorted(tokeniser.vocab.items(), key=lambda item: item[1])
    lines = (base64.b64encode(token) + b" %d\n" % i for token, i in in_order)
    write_whole(Path(path), b"".join(lines))


# ---- GPT-2's vocab.bpe and encoder.json ----


def read_gpt2(vocab_bpe: Path, encoder_json: Path) -> tuple[Vocab, MergeList, dict[str, int]]:
    """Read the merges and ids of GPT-2's files; a token that no merge makes is a special one.

    raises  ValueError
    """
    try:
        lines = _read(vocab_bpe).decode().split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{vocab_bpe} is not text: {error}") from error
    if lines and lines[0].startswith("#version"):
        del lines[0]
    merges = [_read_merge(vocab_bpe, line) for line in lines if line]
    ids = _read_json(encoder_json)
    if not isinstance(ids, dict):
        raise ValueError(f"{encoder_json}: expected the id of each token, found {ids!r:.80}")
    made = {*CHARACTER_OF.values(), *(left + right for left, right in merges)}
    special_tokens = {token: i for token, i in ids.items() if token not in made}
    vocab, merge_list = _from_characters(encoder_json, ids, merges, special_tokens.keys())
    return vocab, merge_list, special_tokens


def to_gpt2(tokeniser: Writable, vocab_bpe: str | Path, encoder_json: str | Path) -> None:
    """Write GPT-2's two files: the merges, and the ids, special tokens among them. The pattern is
    not in them.
    """
    lines = [" ".join(to_characters(half) for half in merge) + "\n" for merge in tokeniser.merges]
    write_whole(Path(vocab_bpe), "".join(["#version: 0.2\n", *lines]).encode())
    write_whole(Path(encoder_json), json.dumps(_ids_in_order(tokeniser)).encode())


def _ids_in_order(tokeniser: Writable) -> dict[str, int]:
    """The id of every token in byte characters, special tokens among them, the lowest first."""
    ids = {to_characters(token): i for token, i in tokeniser.vocab.items()}
    # Where a text is written like a token the token goes first; `added_tokens` has the text too.
    return dict(sorted((_texts(tokeniser) | ids).items(), key=lambda item: item[1]))
