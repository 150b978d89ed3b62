"""Other people's files: tiktoken's ranks, GPT-2's two files; and what all readers share.

All hold the same thing, a vocabulary and its merges, written in different ways:

    name.tiktoken             a line for each token: base64 and a rank, which is also its id
    vocab.bpe, encoder.json   the merges, one a line; the id of every token; in byte characters
                              (Ġthe). Hugging Face calls them merges.txt and vocab.json

A tokenizer.json says more, and has a room of its own (`tokenizer_json.py`).

A file is checked before it is believed. Whatever is wrong with it, the answer is a ValueError that
names the file and says what was expected; a kind of tokeniser that would give other ids here than
where it comes from is refused rather than nearly read.
"""

import base64
import binascii
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from .byte_characters import CHARACTER_OF, from_characters, to_characters
from .rules import Rules
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
    rules: Rules | None
    post_processor: dict | None

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


def read_whole(path: Path) -> bytes:
    """All of a file, unless it is larger than any vocabulary."""
    with open(path, "rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError(f"{path} has more than {LARGEST_FILE:,} bytes, and is no vocabulary")
    return data


def read_json(path: Path) -> Any:
    """What a JSON file says; ValueError, with its name, if it is none."""
    data = read_whole(path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def field_of(parent: Any, name: str, kind: type) -> Any:
    """A field of a JSON object; ValueError unless it is there and of this kind."""
    value = parent.get(name) if isinstance(parent, dict) else None
    if type(value) is not kind:
        raise ValueError(f"expected a {kind.__name__} in {name!r}, found {value!r:.80}")
    return value


def read_merge(merge: Any) -> tuple[str, str]:
    """The two tokens of a merge, which is a list of them or one string with a blank between."""
    halves = merge.split(" ") if isinstance(merge, str) else merge
    if (
        not isinstance(halves, list)
        or len(halves) != 2
        or not all(isinstance(half, str) and half for half in halves)
    ):
        raise ValueError(f"expected a merge of two tokens, found {merge!r:.80}")
    return halves[0], halves[1]


def in_bytes(
    ids: dict[str, int], merges: list[tuple[str, str]], special: Collection[str]
) -> tuple[Vocab, MergeList, dict[str, int]]:
    """Turn tokens in byte characters into bytes, leaving out those that are only special.

    returns  the ids, the merges, and the ids of tokens that are not written in byte characters
    """
    in_merges = {half for pair in merges for half in pair}
    in_merges.update(left + right for left, right in merges)
    in_use = in_merges.union(CHARACTER_OF.values())
    vocab, spelled, apart = {}, {}, {}
    for token in in_use.union(ids):
        spelled[token] = from_characters(token)
        if not spelled[token] and token in in_merges:
            raise ValueError(f"token {token!r:.80} is not written in byte-level characters")
    for token, i in ids.items():
        if type(i) is not int:
            raise ValueError(f"token {token!r:.80} has the id {i!r:.80}, not a number")
        if token in special and token not in in_use:
            continue
        if spelling := spelled[token]:
            vocab[spelling] = i
        else:
            apart[token] = i
    merge_list = [(spelled[left] or b"", spelled[right] or b"") for left, right in merges]
    return vocab, merge_list, apart


# ---- tiktoken's rank files ----


def read_tiktoken(path: Path) -> Vocab:
    """Read the rank of every token from lines of base64 and a number.

    raises  ValueError
    """
    ranks: Vocab = {}
    for number, line in enumerate(read_whole(path).splitlines(), 1):
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
        lines = read_whole(vocab_bpe).decode().split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{vocab_bpe} is not text: {error}") from error
    if lines and lines[0].startswith("#version"):
        del lines[0]
    with named(vocab_bpe):
        merges = [read_merge(line) for line in lines if line]
    ids = read_json(encoder_json)
    if not isinstance(ids, dict):
        raise ValueError(f"{encoder_json}: expected the id of each token, found {ids!r:.80}")
    made = {*CHARACTER_OF.values(), *(left + right for left, right in merges)}
    special_tokens = {token: i for token, i in ids.items() if token not in made}
    with named(encoder_json):
        vocab, merge_list, _ = in_bytes(ids, merges, special_tokens.keys())
    return vocab, merge_list, special_tokens


def to_gpt2(tokeniser: Writable, vocab_bpe: str | Path, encoder_json: str | Path) -> None:
    """Write GPT-2's two files: the merges, and the ids, special tokens among them. The pattern is
    not in them.
    """
    lines = [" ".join(to_characters(half) for half in merge) + "\n" for merge in tokeniser.merges]
    write_whole(Path(vocab_bpe), "".join(["#version: 0.2\n", *lines]).encode())
    write_whole(Path(encoder_json), json.dumps(ids_in_order(tokeniser)).encode())


def ids_in_order(tokeniser: Writable) -> dict[str, int]:
    """The id of every token in byte characters, special tokens among them, the lowest first."""
    ids = {to_characters(token): i for token, i in tokeniser.vocab.items()}
    others = {} if tokeniser.rules is None else tokeniser.rules.decode_only
    # Where a text is written like a token the token goes first; `added_tokens` has the text too.
    every = texts_of_tokens(tokeniser) | dict(others) | ids
    return dict(sorted(every.items(), key=lambda item: item[1]))


def texts_of_tokens(tokeniser: Writable) -> dict[str, int]:
    """The ids of the tokens that are looked for in a text as they stand."""
    return tokeniser.added_tokens | tokeniser.special_tokens
