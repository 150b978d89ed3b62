"""The Tokeniser: text to ids and back, with everything a user meets.

What a tokeniser *is* fits in five values: the id of every token, the merges, the special tokens, the
pattern that splits a text into pieces, and whether a piece that is a token is taken as it stands. The
rest of this file is what can be done with them. The ideas are in `merges.py`.

Order of the file: making one, encoding, decoding, files.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import regex

from . import formats
from .splitting import compile_pattern, piece_ends, splitter


class Tokeniser:
    """A byte pair encoding: text to ids and back.

    Make one with `Tokeniser.train`, `Tokeniser.load` or `Tokeniser.characters`.

    vocab           the id of each token, by its bytes; special tokens are not in it
    merges          pairs of tokens, in the order in which they were learned; oldest first when encoding
    special_tokens  the id of each special token, by its text
    pattern         how text is split: a name in `splitting.PATTERNS`, or a regular expression
    whole_pieces    whether a piece that is a token is taken whole, without merging
    """

    def __init__(
        self,
        vocab: dict[bytes, int],
        merges: list[tuple[bytes, bytes]] | None,
        special_tokens: dict[str, int] | None = None,
        pattern: str = "gpt2",
        whole_pieces: bool = False,
    ):
        self.vocab = dict(vocab)
        self._merges = merges
        self.special_tokens = dict(special_tokens or {})
        self.pattern = pattern
        self.whole_pieces = whole_pieces
        compile_pattern(pattern)  # a broken one is an error now, not at the first text
        self._token_of = {i: token for token, i in self.vocab.items()}
        for text, i in self.special_tokens.items():
            self._token_of[i] = text.encode()

    @cached_property
    def _encoder(self):
        from .encoding import Encoder

        tokens = [self._token_of.get(i, b"") for i in range(self.n_vocab)]
        merges = self._merges and [
            (self.vocab[left], self.vocab[right], self.vocab[left + right])
            for left, right in self._merges
        ]
        return Encoder(tokens, list(self.vocab.values()), merges, self.whole_pieces)

    @cached_property
    def _split(self):
        return splitter(self.pattern)

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """Pairs of tokens, in the order in which they were learned; oldest first when encoding."""
        return self._merges

    @property
    def n_vocab(self) -> int:
        """The number of ids: one more than the largest."""
        return max(self._token_of, default=-1) + 1

    def __repr__(self) -> str:
        return f"<Tokeniser of {self.n_vocab:,} tokens, pattern {self.pattern!r:.40}>"

    # ---- making one ----

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

        texts           strings, or paths of text files and of folders of .txt files
        vocab_size      all tokens: special ones, the 256 bytes, and one for each merge
        pattern         "gpt2", "cl100k", "o200k" or any regular expression
        special_tokens  texts that get ids of their own and never come out of ordinary text
        min_frequency   a pair seen less often than this is not merged
        ties            between equally frequent pairs: "huggingface" or "bytes" decides which ids
                        bytes have, and so which pair is the smaller
        raises          ValueError
        """
        if isinstance(texts, str):
            raise ValueError(
                "texts is one string, whose items are characters; pass a list of strings or paths"
            )
        if ties not in ("huggingface", "bytes"):
            raise ValueError(f"ties must be 'huggingface' or 'bytes', got {ties!r}")
        least = 256 + len(set(special_tokens))
        if vocab_size < least:
            raise ValueError(
                f"vocab_size {vocab_size} is too small: 256 bytes and {least - 256} special tokens "
                f"need {least}"
            )
        from . import training

        words: Counter[str] = Counter()
        split_pattern = compile_pattern(pattern)
        for text in _texts(texts):
            text = _to_bytes(text).decode()
            ends = piece_ends(text, split_pattern)
            words.update(text[i:j] for i, j in zip([0, *ends], ends))
        letters = {word.encode(): n for word, n in words.items()}
        arrays = training.words_as_arrays(letters)
        vocab, merges, special_ids = training.train_on_words(
            *arrays, vocab_size, special_tokens, min_frequency, ties
        )
        return cls(vocab, merges, special_ids, pattern)

    @classmethod
    def characters(cls, text: str) -> "Tokeniser":
        """Give one id to each distinct character of `text`, in order: the simplest tokeniser.

        >>> Tokeniser.characters("hello").encode("hole")
        [1, 3, 2, 0]
        """
        characters = sorted(set(_to_bytes(text).decode()))
        vocab = {character.encode(): i for i, character in enumerate(characters)}
        return cls(vocab, [], pattern="characters", whole_pieces=True)

    # ---- encoding ----

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] | str = frozenset(),
        disallowed_special: Collection[str] | str = "all",
    ) -> list[int]:
        """Turn text into ids.

        allowed_special     special tokens that become their ids where the text spells them, or "all"
        disallowed_special  special tokens that must not occur; "all" means all that are not allowed;
                            with () what looks like one is ordinary text
        raises              ValueError if the text contains a disallowed special token
        """
        allowed = set(self.special_tokens) if allowed_special == "all" else set(allowed_special)
        allowed &= set(self.special_tokens)
        if disallowed_special == "all":
            disallowed = set(self.special_tokens) - allowed
        else:
            disallowed = set(disallowed_special)
        if disallowed and (match := _any_of(disallowed).search(text)):
            token = match.group()
            raise ValueError(
                f"the text contains the special token {token!r}, which could trick a model. To encode it "
                f"as a special token pass allowed_special={{{token!r}}}; to encode it as ordinary text "
                "pass disallowed_special=()"
            )
        if not allowed:
            return self.encode_ordinary(text)
        ids: list[int] = []
        end = 0
        for match in _any_of(allowed).finditer(text):
            ids += self.encode_ordinary(text[end : match.start()])
            ids.append(self.special_tokens[match.group()])
            end = match.end()
        return ids + self.encode_ordinary(text[end:])

    def encode_ordinary(self, text: str) -> list[int]:
        """Turn text into ids, special tokens being text like any other."""
        return self._encode(text).tolist()

    def _encode(self, text: str) -> np.ndarray:
        return self._encoder.encode(_to_bytes(text), self._split)

    def encode_to_numpy(
        self,
        text: str,
        allowed_special: Collection[str] | str = frozenset(),
        disallowed_special: Collection[str] | str = "all",
    ) -> np.ndarray:
        """Turn text into an array of ids (N,) uint32; the arguments are those of `encode`."""
        return np.array(self.encode(text, allowed_special, disallowed_special), np.uint32)

    def encode_batch(
        self,
        texts: Sequence[str],
        workers: int = 1,
        allowed_special: Collection[str] | str = frozenset(),
        disallowed_special: Collection[str] | str = "all",
    ) -> list[list[int]]:
        """Turn several texts into ids, on `workers` threads."""
        with ThreadPoolExecutor(workers) as pool:
            return list(
                pool.map(lambda text: self.encode(text, allowed_special, disallowed_special), texts)
            )

    def count(self, text: str) -> int:
        """Count the ids of a text, special tokens being text like any other."""
        return len(self.encode_ordinary(text))

    # ---- decoding ----

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn ids back into bytes.

        raises  ValueError if an id is not in the vocabulary
        """
        try:
            return b"".join([self._token_of[int(i)] for i in ids])
        except KeyError as error:
            raise ValueError(
                f"id {error.args[0]} is not in this vocabulary of {self.n_vocab} tokens"
            ) from None

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """Turn ids back into text; bytes that are not UTF-8 become U+FFFD, or as `errors` says."""
        return self.decode_bytes(ids).decode("utf-8", errors)

    def decode_batch(self, batch: Iterable[Iterable[int]], errors: str = "replace") -> list[str]:
        """Turn several lists of ids back into texts."""
        return [self.decode(ids, errors) for ids in batch]

    # ---- files ----

    def save(self, folder: str | Path) -> None:
        """Write the tokeniser to `folder`/tokenizer.json, which Hugging Face's libraries open too."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.to_huggingface(folder / "tokenizer.json")

    @classmethod
    def load(cls, folder: str | Path) -> "Tokeniser":
        """Read what `save` wrote.

        raises  FileNotFoundError, ValueError
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no tokenizer.json in {folder}; make one with Tokeniser.save({str(folder)!r})"
            )
        return cls.from_huggingface(path)

    def to_huggingface(self, path: str | Path) -> None:
        """Write Hugging Face's tokenizer.json."""
        formats.write_huggingface(
            Path(path),
            self.vocab,
            self.merges,
            self.special_tokens,
            self.pattern,
            self.whole_pieces,
        )

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
        return cls(ranks, None, special_tokens, pattern, whole_pieces=True)

    @classmethod
    def from_huggingface(cls, path: str | Path) -> "Tokeniser":
        """Read Hugging Face's tokenizer.json, if it is byte-level BPE.

        raises  ValueError
        """
        return cls(**formats.read_huggingface(Path(path)))

    def fingerprint(self) -> str:
        """Hash all that decides which ids a text gets: two tokenisers with one fingerprint are equal."""
        digest = hashlib.sha256(f"{self.pattern}\n{self.whole_pieces}\n".encode())
        for token, i in sorted(self.vocab.items()):
            digest.update(f"{token.hex()} {i}\n".encode())
        for left, right in self.merges:
            digest.update(f"{left.hex()} {right.hex()}\n".encode())
        for text, i in sorted(self.special_tokens.items()):
            digest.update(f"{text!r} {i}\n".encode())
        return digest.hexdigest()


def _to_bytes(text: str) -> bytes:
    """Write a text as UTF-8, which has no surrogates: pairs are joined, and a lone one becomes U+FFFD,
    as with tiktoken."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _any_of(tokens: Collection[str]) -> regex.Pattern:
    """Match any of these texts, the longest where several begin at one place."""
    return regex.compile("|".join(regex.escape(t) for t in sorted(tokens, key=len, reverse=True)))


def _texts(texts: Iterable[str | Path] | Path) -> Iterator[str]:
    """Go through strings, files and folders of .txt files."""
    for item in [texts] if isinstance(texts, Path) else texts:
        if isinstance(item, Path):
            for path in sorted(item.rglob("*.txt")) if item.is_dir() else [item]:
                yield path.read_bytes().decode("utf-8", "replace")
        elif isinstance(item, str):
            yield item
        else:
            raise ValueError(f"texts must hold strings or paths, found a {type(item).__name__}")
