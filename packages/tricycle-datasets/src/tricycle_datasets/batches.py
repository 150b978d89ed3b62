"""Batches of windows, cut from one long row of token ids.

A language model learns to say the next token.  So a window of T + 1 tokens gives T lessons: the
inputs are all of them but the last, the targets all but the first.

    tokens     5 1 4 2 9 3 ...
    inputs     5 1 4 2                  (T = 4)
    targets      1 4 2 9

`Batches` is for training.  Each epoch cuts the row into windows that touch but do not overlap, and
visits each once, in an order of its own.

- *Phase.*  Every epoch starts cutting at a different offset below T, so that no token is always the
  first of its window, with nothing before it to be guessed from.  The price: fewer than T tokens at
  either end of the row sit out an epoch, other ones each time.
- *Position.*  The order is a function of (seed, epoch, index), and `position` is (epoch, index):
  how many windows of that epoch were given out.  That is all a checkpoint has to keep.
- *Epochs run into each other.*  Where an epoch ends inside a batch, the batch is filled up from the
  next epoch; nothing is dropped and every batch has B windows.

`windows` is for validation: all tokens, in order, from a fixed place, nothing left out.

This file, top to bottom: Batches, windows, the checks that both make before the first step.
"""

import operator
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from tricycle_datasets.permutation import secrets, shuffled

LARGEST_ID = np.iinfo(np.int64).max


class Batches:
    """Shuffled windows of tokens for training, for ever; each window once an epoch.

    tokens          (N,) of any integer dtype, not copied; np.memmap and np.load(mmap_mode="r") are
                    fine, and only the windows in use are read.  N is at least T + 1
    batch_size      B, windows in a batch
    context_window  T, tokens in a window
    seed            any integer; the same seed gives the same batches
    position        (epoch, index) as read from another `Batches` over the same tokens; continuing
                    there gives exactly the batches that the other would have given next

    yields  inputs (B, T) and targets (B, T), int64, contiguous, new arrays each time
    raises  ValueError or TypeError before the first batch, for anything that would go wrong later
    """

    def __init__(
        self,
        tokens: ArrayLike,
        batch_size: int,
        context_window: int,
        *,
        seed: int,
        position: tuple[int, int] = (0, 0),
    ):
        self.batch_size = _integer("batch_size", batch_size, least=1)
        self.context_window = _integer("context_window", context_window, least=1)
        self.seed = _integer("seed", seed)
        self.tokens = _as_tokens(tokens, least=self.context_window + 1)
        self._epoch, self._index = self._checked(position)

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, index) of the next window: two plain integers, for a checkpoint.

        May be set, to go on from there; raises ValueError for a place that these tokens lack.
        """
        return self._epoch, self._index

    @position.setter
    def position(self, position: tuple[int, int]) -> None:
        self._epoch, self._index = self._checked(position)

    def windows_in(self, epoch: int) -> int:
        """How many windows an epoch has; it may differ by one between epochs."""
        return (len(self.tokens) - 1 - self._phase(epoch)) // self.context_window

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        starts = self._next_starts()  # (B,)
        block = self.tokens[starts[:, None] + np.arange(self.context_window + 1)]  # (B, T + 1)
        return _inputs_and_targets(block)

    def _next_starts(self) -> np.ndarray:
        """Where the next B windows start; moves the position past them."""
        parts, missing = [], self.batch_size
        while missing:
            n_windows = self.windows_in(self._epoch)
            end = min(self._index + missing, n_windows)
            order = shuffled(np.arange(self._index, end), n_windows, self._key(self._epoch))
            parts.append(self._phase(self._epoch) + order * self.context_window)
            missing -= end - self._index
            self._index = end
            if end == n_windows:
                self._epoch, self._index = self._epoch + 1, 0
        return np.concatenate(parts)

    def _phase(self, epoch: int) -> int:
        """Where the first window of an epoch starts; at least one window must fit behind it."""
        phases = min(self.context_window, len(self.tokens) - self.context_window)
        return int(secrets(f"phase {self._key(epoch)}", 1)[0]) % phases

    def _key(self, epoch: int) -> str:
        return f"seed {self.seed} epoch {epoch}"

    def _checked(self, position: tuple[int, int]) -> tuple[int, int]:
        if np.shape(position) != (2,):
            raise ValueError(f"position must be a pair (epoch, index), got {position!r}")
        epoch = _integer("the epoch of position", position[0], least=0)
        index = _integer("the index of position", position[1], least=0)
        if index >= self.windows_in(epoch):
            raise ValueError(
                f"position {position} lies beyond the {self.windows_in(epoch):,} windows of epoch "
                f"{epoch}: it was saved with other tokens, another context_window or another seed"
            )
        return epoch, index


def windows(
    tokens: ArrayLike, context_window: int, batch_size: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All tokens in order, in windows that touch but do not overlap: for evaluation.

    Every token but the first is a target exactly once.  N - 1 targets seldom divide by T; the
    fewer than T that remain come last, as a batch of one shorter window.  So weigh each batch by
    its number of targets:

        total = sum(loss(inputs, targets) * targets.size for inputs, targets in windows(...))
        nats_per_token = total / (len(tokens) - 1)

    tokens          (N,) of any integer dtype, N at least 2
    context_window  T
    batch_size      B; the last full batch may have fewer rows

    yields  inputs and targets, (B, T) each, int64, contiguous; at the very end perhaps (1, t)
            with t < T
    raises  ValueError or TypeError at once, before the first batch
    """
    T = _integer("context_window", context_window, least=1)
    B = _integer("batch_size", batch_size, least=1)
    return _windows(_as_tokens(tokens, least=2), T, B)


def _windows(tokens: np.ndarray, T: int, B: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    full = (len(tokens) - 1) // T
    for first in range(0, full, B):
        starts = np.arange(first, min(first + B, full)) * T
        yield _inputs_and_targets(tokens[starts[:, None] + np.arange(T + 1)])
    if full * T < len(tokens) - 1:
        yield _inputs_and_targets(tokens[None, full * T :])


def _inputs_and_targets(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, T + 1) to (B, T) twice, as int64: numpy indexes with it, so nobody converts again."""
    return block[:, :-1].astype(np.int64, order="C"), block[:, 1:].astype(np.int64, order="C")


def check_ids(ids: ArrayLike, vocab_size: int) -> None:
    """Raise unless every id is in range(vocab_size): the check to make before kernels see them.

    ids     integers of any shape
    raises  TypeError for a dtype that is not integer; ValueError that names the first wrong id
    """
    ids = _as_integers("ids", ids)
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        flat = ids.reshape(-1)
        where = int(np.argmax((flat < 0) | (flat >= vocab_size)))
        raise ValueError(
            f"id {flat[where]} at position {where:,} does not fit a vocabulary of {vocab_size:,}: "
            f"ids go from 0 to {vocab_size - 1:,}; were they made with another tokeniser?"
        )


def _as_tokens(tokens: ArrayLike, least: int) -> np.ndarray:
    """Tokens as a plain array that shares their memory, or an error that says what is wrong."""
    tokens = np.asarray(tokens)
    if tokens.ndim != 1:
        raise ValueError(f"tokens must be one row of ids, got shape {tokens.shape}")
    if len(tokens) < least:
        raise ValueError(
            f"one window of inputs and targets needs at least {least:,} tokens, got "
            f"{len(tokens):,}: give a longer text or a shorter context_window"
        )
    tokens = _as_integers("tokens", tokens)
    # A large file of uint16 need not be read through: only these dtypes can hold what is no id.
    doubtful = tokens.dtype.kind == "i" or tokens.dtype == np.uint64
    if doubtful and (tokens.min() < 0 or tokens.max() > LARGEST_ID):
        where = int(np.argmax((tokens < 0) | (tokens > LARGEST_ID)))
        raise ValueError(
            f"token ids go from 0 to {LARGEST_ID:,}, got {tokens[where]} at position {where:,}"
        )
    return tokens


def _as_integers(name: str, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must be integers, got {values.dtype}; encode the text with a tokeniser first"
        )
    return values


def _integer(name: str, number: int, least: int | None = None) -> int:
    try:
        value = operator.index(number)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {number!r}") from None
    if least is not None and value < least:
        raise ValueError(f"{name} must be {least} or more, got {value}")
    return value
