"""A corpus becomes a vocabulary: what `Tokeniser.train` does.

The texts are read and their pieces counted (`counting.py`), then pairs are merged (`training.py`).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from . import first_use
from .progress import Progress
from .splitting import splitter
from .texts import texts_of

LARGEST_ID = (1 << 22) - 1


def train_on_texts(
    texts: Iterable[str | Path],
    vocab_size: int,
    pattern: str,
    special_tokens: Sequence[str],
    min_frequency: int,
    ties: str,
    workers: int,
) -> tuple[dict[bytes, int], list[tuple[bytes, bytes]], dict[str, int]]:
    """Learn a vocabulary from texts; the arguments are those of `Tokeniser.train`.

    returns  the id of every token, the merges in the order learned, the ids of the special tokens
    raises   ValueError
    """
    if isinstance(texts, str):
        raise ValueError(
            "texts is one string, whose items are characters; pass a list of strings or paths"
        )
    if ties not in ("huggingface", "bytes"):
        raise ValueError(f"ties must be 'huggingface' or 'bytes', got {ties!r}")
    if isinstance(special_tokens, str):
        raise ValueError(f"special_tokens must be a list, got the string {special_tokens!r}")
    for token in special_tokens:
        if not isinstance(token, str) or not token:
            raise ValueError(f"a special token is a text (str) of a character at least: {token!r}")
    check_size(vocab_size, len(set(special_tokens)))
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")

    from . import counting, training  # they import numba

    first_use.splitting(pattern)
    first_use.training()
    split = splitter(pattern)
    with Progress("reading", None, "B") as progress:
        counter = counting.count_all(texts_of(texts, pattern, progress), split, workers)
    return training.train_on_words(
        *counter.pieces(), vocab_size, special_tokens, min_frequency, ties
    )


def check_size(vocab_size: int, n_special: int) -> None:
    """Raise ValueError unless so large a vocabulary can be: not too large, and not too small for
    256 bytes and the special tokens.
    """
    if vocab_size > LARGEST_ID + 1:
        raise ValueError(f"vocab_size {vocab_size} is too large: ids go up to {LARGEST_ID}")
    least = 256 + n_special
    if vocab_size < least:
        raise ValueError(
            f"vocab_size {vocab_size} is too small: 256 bytes and {n_special} special tokens "
            f"need {least}"
        )
