"""The Tokeniser: text to ids and back, with everything a user meets.

What a tokeniser *is* fits in five values: the id of every token, the merges, the special tokens,
the pattern that splits a text into pieces, and whether a piece that is a token is taken as it
stands. What can be done with them is in rooms of its own, of which this one is the door. The ideas
are in `merges.py`.

Imports inside methods are of rooms that import numba, or urllib: `import tricycle_bpe` is quick.

Order of the file: the value, making or reading one, encoding, decoding, writing files.
"""

import hashlib
import warnings
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from itertools import count as numbers
from pathlib import Path
from typing import Any

import numpy as np

from . import documents, first_use, formats, shards, tokenizer_json
from .corpus import train_on_texts
from .framing import Around, around_in
from .gguf_settings import read_gguf_settings
from .ids import row_of_ids
from .rules import Reader, Rules
from .special_tokens import allowed_tokens, check_tokens, cut_at, cut_bytes_at
from .splitting import (
    check_it_can_be_saved,
    compile_pattern,
    known_pattern,
    one_text,
    splitter,
)
from .tekken import read_tekken
from .texts import check_is_text, numbered, to_utf8

LONG_LIST = 1000  # ids; from here on it pays to make an array of a list and decode that


class Tokeniser:
    """A byte pair encoding: text to ids and back.

    Make one with `Tokeniser.train`, `.named`, `.load`, `.characters` or one of the `.from_…`
    methods.

    vocab           the id of each token, by its bytes; tokens that are only special are not in it
    merges          pairs of tokens, in the order in which they were learned; oldest first when
                    encoding. None means that any two tokens which together spell a token merge, the
                    one with the lowest id first: tiktoken's rule
    special_tokens  the id of each special token, by its text
    pattern         how text is split: a name in `splitting.PATTERNS` or of tiktoken's, or a regular
                    expression, which means what it means to tiktoken
    whole_pieces    whether a piece that is a token is taken whole, without merging
    name            what it is called in the index of a shard folder
    added_tokens    the id of each token that any text is searched for before it is split, by its
                    text: ordinary ones, such as the runs of blanks that some tokenizer.json have
    rules           what a published tokeniser does beyond this (see rules.py)
    post_processor  what it puts around a text, as its tokenizer.json says it
    chat_template   how it writes a conversation, as its files say it; kept, and not followed
    raises          ValueError if these do not fit together
    """

    def __init__(
        self,
        vocab: dict[bytes, int],
        merges: list[tuple[bytes, bytes]] | None,
        special_tokens: dict[str, int] | None = None,
        pattern: str = "gpt2",
        whole_pieces: bool = False,
        name: str = "",
        added_tokens: dict[str, int] | None = None,
        rules: Rules | None = None,
        post_processor: dict | None = None,
        chat_template: str | None = None,
    ):
        self.vocab = dict(vocab)
        self.special_tokens = dict(special_tokens or {})
        self.added_tokens = dict(added_tokens or {})
        self.pattern = known_pattern(pattern)
        self.whole_pieces = whole_pieces
        self.name = name
        self.rules = rules
        self.post_processor = post_processor
        self.chat_template = chat_template
        self._merges = merges
        self._token_of: dict[int, bytes] = {}
        decode_only = {} if rules is None else rules.decode_only
        self._check(decode_only)
        for ids in decode_only, self.special_tokens, self.added_tokens:
            self._token_of |= {i: text.encode() for text, i in ids.items()}
        self._token_of |= {i: token for token, i in self.vocab.items()}

    def _check(self, decode_only: Mapping[str, int]) -> None:
        compile_pattern(self.pattern)  # a broken one is an error now, not at the first text
        check_tokens(self.vocab, self.special_tokens, self.added_tokens, decode_only)
        for left, right in self._merges or []:
            if not (left in self.vocab and right in self.vocab and left + right in self.vocab):
                lacking = next(t for t in (left, right, left + right) if t not in self.vocab)
                raise ValueError(
                    f"a merge joins {left!r:.60} and {right!r:.60}, but {lacking!r:.60} is not in "
                    "the vocabulary: give it an id, or leave the merge out"
                )

    @cached_property
    def _encoder(self):
        from .encoding import Encoder

        first_use.encoding(by_merges=self._merges is not None)
        tokens = [self._token_of.get(i, b"") for i in range(self.n_vocab)]
        merges = None
        if self._merges is not None:
            ids = self.vocab
            merges = [(ids[left], ids[right], ids[left + right]) for left, right in self._merges]
        encoder = Encoder(tokens, list(self.vocab.values()), merges, self.whole_pieces)
        if self.rules is not None:
            encoder.drops_bytes, encoder.unknown = self.rules.drops_bytes, self.rules.unknown
        return encoder

    @cached_property
    def _split(self):
        first_use.splitting(self.pattern)
        return splitter(self.pattern)

    @cached_property
    def _reader(self) -> Reader | None:
        """Does what the rules say; None where there is no more to do than to split."""
        if self.rules is None or not self.rules.change_texts():
            return None
        first_use.splitting(self.pattern)
        return Reader(self.rules, self.pattern)

    @property
    def pattern_of_parts(self) -> str:
        """The pattern by which a long text may be encoded in parts; "" if it may not."""
        may = self.rules is None or self.rules.may_be_cut(self.pattern)
        return self.pattern if may else ""

    @property
    def around(self) -> Around:
        """The ids that a published tokeniser puts before and after a text; `encode` does not."""
        return around_in(self.post_processor)

    @cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """Pairs of tokens, in the order in which they were learned.

        A rank file does not list them. Then each token's last merge is found by encoding its bytes
        with the older tokens only.
        """
        if self._merges is None:
            return self._encoder.merges()
        return self._merges

    @cached_property
    def n_vocab(self) -> int:
        """The number of ids: one more than the largest."""
        return max(self._token_of) + 1

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<Tokeniser{name} of {self.n_vocab:,} tokens, pattern {self.pattern!r:.40}>"

    def __reduce__(self):
        # What was compiled or remembered stays in this process; another makes its own.
        fields = (self.vocab, self._merges, self.special_tokens, self.pattern)
        also = (self.whole_pieces, self.name, self.added_tokens)
        return (Tokeniser, (*fields, *also, self.rules, self.post_processor, self.chat_template))

    def fingerprint(self) -> str:
        """Hash what decides which ids a text gets: the tokens, the special and the added ones, the
        merges in their order, the pattern, whether pieces are taken whole, and the rules if any.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self.pattern.encode() + bytes([self.whole_pieces]))
        texts = self.special_tokens, self.added_tokens
        for ids in (self.vocab, *({t.encode(): i for t, i in of.items()} for of in texts)):
            in_order = sorted(ids, key=ids.__getitem__)
            ids_and_lengths = [(ids[token], len(token)) for token in in_order]
            digest.update(np.array([len(ids)], "<i8").tobytes())
            digest.update(np.array(ids_and_lengths, "<i8").tobytes() + b"".join(in_order))
        id_of = self.vocab
        digest.update(np.array([(id_of[a], id_of[b]) for a, b in self.merges], "<i8").tobytes())
        if self.rules is not None:
            digest.update(self.rules.fingerprint())
        return digest.hexdigest()

    # ---- making or reading one ----

    @classmethod
    def train(
        cls,
        texts: Iterable[str | Path],
        vocab_size: int,
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = (),
        min_frequency: int = 1,
        ties: str = "huggingface",
        workers: int = 1,
    ) -> "Tokeniser":
        """Learn a vocabulary of `vocab_size` tokens from texts.

        texts           strings, or paths (not strings) of text files and of folders of .txt files
        vocab_size      all tokens: special ones, the 256 bytes, and one for each merge. Where the
                        texts have too few pairs for so many there are fewer, and a warning
        pattern         "gpt2", "cl100k", "o200k" or a regular expression; one that tiktoken and
                        Hugging Face's libraries do not read alike cannot be saved (a warning)
        special_tokens  texts that get ids of their own and never come out of ordinary text
        min_frequency   a pair seen less often than this is not merged
        ties            between equally frequent pairs: "huggingface" or "bytes" decides which ids
                        bytes have, and so which pair is the smaller
        raises          ValueError
        """
        known = known_pattern(pattern)
        try:
            check_it_can_be_saved(known)
        except ValueError as error:  # said before hours of training, not after
            warnings.warn(f"the tokeniser can be used but not saved: {error}", stacklevel=2)
        vocab, merges, special_ids = train_on_texts(
            texts,
            vocab_size,
            pattern=known,
            special_tokens=special_tokens,
            min_frequency=min_frequency,
            ties=ties,
            workers=workers,
        )
        tokeniser = cls(vocab, merges, special_ids, pattern)
        if tokeniser.n_vocab < vocab_size:
            warnings.warn(
                f"{vocab_size:,} tokens were asked for and {tokeniser.n_vocab:,} made: no other "
                f"pair occurs {max(1, min_frequency)} times in these texts; give more of them, or "
                "ask for fewer tokens",
                stacklevel=2,
            )
        return tokeniser

    @classmethod
    def named(cls, name: str) -> "Tokeniser":
        """Fetch a tokeniser known by name, once: gpt2, r50k_base, p50k_base, cl100k_base,
        o200k_base …

        raises  ValueError for an unknown name, OSError with advice if it cannot be downloaded
        """
        from .named import fetch

        path, pattern, special_tokens = fetch(name)
        tokeniser = cls.from_tiktoken(path, pattern, special_tokens)
        tokeniser.name = name
        return tokeniser

    @classmethod
    def characters(cls, text: str) -> "Tokeniser":
        """Give one id to each distinct character of `text`, in order: the simplest tokeniser.

        >>> Tokeniser.characters("hello").encode("hole")
        [1, 3, 2, 0]
        """
        characters = sorted(set(to_utf8(text).decode()))
        vocab = {character.encode(): i for i, character in enumerate(characters)}
        return cls(vocab, [], pattern="characters", whole_pieces=True)

    @classmethod
    def load(cls, folder: str | Path) -> "Tokeniser":
        """Read what `save` wrote.

        raises  FileNotFoundError, ValueError
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            if (path.with_name("tekken.json")).is_file():
                return cls.from_tekken(path.with_name("tekken.json"))
            raise FileNotFoundError(
                f"there is no tokenizer.json in {folder}; make one with "
                f"Tokeniser.save({str(folder)!r})"
            )
        return cls.from_huggingface(path)

    @classmethod
    def open(cls, name: str | Path) -> "Tokeniser":
        """Find a tokeniser by the folder or the tokenizer.json it is in, or else by its name.

        raises  FileNotFoundError, ValueError, OSError
        """
        path = Path(name)
        if path.is_dir():
            return cls.load(path)
        if path.is_file():
            return cls.from_huggingface(path)
        return cls.named(str(name))

    @classmethod
    def from_tiktoken(
        cls, path: str | Path, pattern: str, special_tokens: dict[str, int] | None = None
    ) -> "Tokeniser":
        """Read a .tiktoken file: a line for each token, its bytes in base64 and its rank.

        pattern         "gpt2", "cl100k", "o200k" or a regular expression; it is not in the file
        special_tokens  the id of each, which are not in the file either
        raises          ValueError
        """
        ranks = formats.read_tiktoken(Path(path))
        with formats.named(path):
            return cls(ranks, None, special_tokens, pattern, whole_pieces=True)

    @classmethod
    def from_gpt2(cls, vocab_bpe: str | Path, encoder_json: str | Path) -> "Tokeniser":
        """Read GPT-2's two files: the merges, and the id of each token.

        raises  ValueError
        """
        vocab, merges, special = formats.read_gpt2(Path(vocab_bpe), Path(encoder_json))
        with formats.named(encoder_json):
            return cls(vocab, merges, special, "gpt2")

    @classmethod
    def from_huggingface(cls, path: str | Path) -> "Tokeniser":
        """Read Hugging Face's tokenizer.json, if it is byte-level BPE.

        raises  ValueError
        """
        found = tokenizer_json.read_huggingface(Path(path))
        with formats.named(path):
            return cls(**found)

    @classmethod
    def from_gguf(cls, settings: Mapping[str, Any]) -> "Tokeniser":
        """Make the tokeniser of a GGUF file out of its settings, if it is byte-level BPE.

        settings  by name, as `tricycle_gpt.read_gguf(path).settings` has them
        raises    ValueError for other kinds, and for ways of cutting texts that are not known
        """
        return cls(**read_gguf_settings(settings))

    @classmethod
    def from_tekken(cls, path: str | Path) -> "Tokeniser":
        """Read Mistral's tekken.json.

        raises  ValueError
        """
        found = read_tekken(Path(path))
        with formats.named(path):
            return cls(**found)

    # ---- encoding ----

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] | str = frozenset(),
        disallowed_special: Collection[str] | str = "all",
    ) -> list[int]:
        """Turn text into ids.

        allowed_special     special tokens that become their ids where the text spells them, or
                            "all"
        disallowed_special  special tokens that must not occur; "all" means all that are not
                            allowed; with () what looks like one is ordinary text
        raises              ValueError if the text contains a disallowed special token
        """
        return self.encode_to_numpy(text, allowed_special, disallowed_special).tolist()

    def encode_ordinary(self, text: str) -> list[int]:
        """Turn text into ids, special tokens being text like any other."""
        return self.encode_utf8(to_utf8(text)).tolist()

    def encode_to_numpy(
        self,
        text: str,
        allowed_special: Collection[str] | str = frozenset(),
        disallowed_special: Collection[str] | str = "all",
    ) -> np.ndarray:
        """Turn text into an array of ids (N,) uint32; the arguments are those of `encode`."""
        check_is_text(text)
        known = self.special_tokens.keys()
        allowed = allowed_tokens(text, known, allowed_special, disallowed_special)
        if self._reader is not None:
            text = to_utf8(text).decode()  # no halves of surrogate pairs
            return self._read(self._reader, text, allowed.union(self.added_tokens))
        if not allowed:
            return self.encode_utf8(to_utf8(text))
        ids = self.added_tokens | self.special_tokens
        parts = []
        with one_text(text[:40], len(text)):
            for ordinary, token in cut_at(allowed.union(self.added_tokens), text):
                parts.append(self.encode_utf8(to_utf8(ordinary)))
                if token is not None:
                    parts.append(np.array([ids[token]], np.uint32))
        return np.concatenate(parts)

    def _read(self, reader: Reader, text: str, tokens: frozenset[str]) -> np.ndarray:
        """Encode a text by rules, looking for these special and added tokens."""
        ids = self.added_tokens | self.special_tokens
        parts = []
        with one_text(text[:40], len(text)):
            for ordinary, token in reader.cut(text, tokens):
                parts.append(self._encoder.encode(*reader.prepare(ordinary)))
                if token is not None:
                    parts.append(np.array([ids[token]], np.uint32))
        return np.concatenate(parts)

    def encode_utf8(self, data: bytes) -> np.ndarray:
        """Turn UTF-8 into an array of ids (N,) uint32, special tokens being text like any other.

        data  must be valid: it is not looked at again. For any bytes there is `encode_bytes`
        """
        if self._reader is not None:
            return self._read(self._reader, data.decode(), frozenset(self.added_tokens))
        if not self.added_tokens:
            return self._encoder.encode(data, self._split)
        parts = []
        with one_text(data[:40].decode(errors="replace"), len(data)):
            for ordinary, token in cut_bytes_at(frozenset(self.added_tokens), data):
                parts.append(self._encoder.encode(ordinary, self._split))
                if token is not None:
                    parts.append(np.array([self.added_tokens[token]], np.uint32))
        return np.concatenate(parts)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Turn any bytes into ids.

        Where they stop being UTF-8, say because a text was cut off within a character, the ids are
        those that tiktoken gives (see cut_off.py).
        """
        try:
            data.decode()
        except UnicodeDecodeError as error:
            from .cut_off import encode_cut_off

            if self._reader is not None:  # which knows texts only: the rest is a piece
                known = self.encode_utf8(data[: error.start]).tolist()
                return known + self._encoder.encode_pieces([data[error.start :]])

            # An added token is text, and so all of them stand before the place.
            known = []
            for ordinary, token in cut_bytes_at(frozenset(self.added_tokens), data):
                if token is None:
                    n_valid = error.start - (len(data) - len(ordinary))
                    return known + encode_cut_off(self._encoder, ordinary, n_valid, self._split)
                known += [*self._encoder.encode(ordinary, self._split).tolist()]
                known.append(self.added_tokens[token])
        return self.encode_utf8(data).tolist()

    def encode_batch(
        self,
        texts: Sequence[str],
        workers: int = 1,
        allowed_special: Collection[str] | str = frozenset(),
        disallowed_special: Collection[str] | str = "all",
    ) -> list[list[int]]:
        """Turn several texts into ids, on `workers` threads; the rest as for `encode`."""
        if isinstance(texts, str):
            raise ValueError("texts is one string; pass a list of strings, or use encode")

        def encode(number: int, text: str) -> list[int]:
            with numbered("text", number):
                return self.encode(text, allowed_special, disallowed_special)

        if workers == 1:
            return [encode(number, text) for number, text in enumerate(texts)]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(encode, numbers(), texts))

    def count(self, text: str) -> int:
        """Count the ids of a text, special tokens being text like any other."""
        return len(self.encode_utf8(to_utf8(text)))

    # ---- decoding ----

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn ids, or an array or tensor of them, back into bytes.

        raises  ValueError if an id is not in the vocabulary, TypeError for anything but a row
        """
        ids = row_of_ids(ids)
        if isinstance(ids, np.ndarray):
            return self._encoder.decode(ids.astype(np.int64))
        if len(ids) > LONG_LIST:
            # array("I") takes integers from a list three times as fast as numpy; what it refuses
            # is no id, and is reported below.
            with suppress(OverflowError):
                return self.decode_bytes(np.frombuffer(array("I", ids), np.uintc))
        try:
            return b"".join(map(self._token_of.__getitem__, ids))
        except KeyError as error:
            raise ValueError(
                f"id {error.args[0]} is not in this vocabulary of {self.n_vocab} tokens; was it "
                f"made by another tokeniser? (It stands at place {ids.index(error.args[0]):,}.)"
            ) from None

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """Turn ids back into text; bytes that are not UTF-8 become U+FFFD, or as `errors` says."""
        return self.decode_bytes(ids).decode("utf-8", errors)

    def decode_batch(self, batch: Iterable[Iterable[int]], errors: str = "replace") -> list[str]:
        """Turn several lists of ids back into texts."""
        texts = []
        for number, ids in enumerate(batch):
            with numbered("list", number):
                texts.append(self.decode(ids, errors))
        return texts

    def decode_with_offsets(self, ids: Sequence[int]) -> tuple[str, list[int]]:
        """Turn ids back into text, and say at which character each of them begins.

        An id that begins within a character is said to begin where that character does.

        raises  ValueError if the bytes are not UTF-8
        """
        offsets = []
        n_characters = 0
        for i in row_of_ids(ids):
            token = self.decode_bytes([i])
            continues = 0x80 <= token[0] < 0xC0
            offsets.append(max(0, n_characters - continues))
            n_characters += sum(not 0x80 <= byte < 0xC0 for byte in token)
        return self.decode(ids, errors="strict"), offsets

    # ---- writing files ----
    # Functions whose first argument is the tokeniser, and so methods of it.

    save = tokenizer_json.save
    to_huggingface = tokenizer_json.to_huggingface
    to_tiktoken = formats.to_tiktoken
    to_gpt2 = formats.to_gpt2

    encode_file = shards.encode_file
    encode_documents = documents.encode_documents
