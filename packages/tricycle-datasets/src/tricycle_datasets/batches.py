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
- *Ranks share.*  Where `world` processes train together, each takes its B windows of the next
  world·B, in the order of their ranks.  The position is that of all of them, so 12 windows for one
  process, 6 for each of two and 3 for each of four are the same batch, and continue each other.
- *Documents.*  A window may hold the end of one document and the beginning of the next, as in
  GPT-2, or, with packing=False, never: see cuts.py.

`windows` is for validation: all tokens, in order, from a fixed place, nothing left out.

This file, top to bottom: Batches, windows, the checks that both make before the first step.
"""

import operator
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from tricycle_datasets.cuts import IGNORED, DocumentCut, PackedCut
from tricycle_datasets.permutation import shuffled
from tricycle_datasets.token_shards import TokenShards

LARGEST_ID = np.iinfo(np.int64).max


class Batches:
    """Shuffled windows of tokens for training, for ever; each window once an epoch.

    tokens          (N,) of any integer dtype, not copied; TokenShards, np.memmap and
                    np.load(mmap_mode="r") are fine, and only the windows in use are read.
                    N is at least T + 1
    batch_size      B, windows in a batch: those of this rank
    context_window  T, tokens in a window
    seed            any integer; the same seed gives the same batches
    position        (epoch, index) as read from another `Batches` over the same tokens; continuing
                    there gives exactly the batches that the other would have given next, even if
                    it had another batch_size or world
    rank, world     which of how many processes this is; together they get the windows that one
                    process would with world times the batch_size
    packing         windows may run across documents.  False, for TokenShards: each lies within one,
                    and where a document ends early, inputs are 0 and targets -100
    counted         (N,) booleans: which tokens are targets; the others are read, and -100 where
                    they would be one.  None for all

    yields  inputs (B, T) and targets (B, T), int64, contiguous, new arrays each time
    raises  ValueError or TypeError before the first batch, for anything that would go wrong later;
            but ShardError, a ValueError, if files of TokenShards change in between
    """

    def __init__(
        self,
        tokens: ArrayLike | TokenShards,
        batch_size: int,
        context_window: int,
        *,
        seed: int,
        position: tuple[int, int] = (0, 0),
        rank: int = 0,
        world: int = 1,
        packing: bool = True,
        counted: ArrayLike | None = None,
    ):
        self.batch_size = _integer("batch_size", batch_size, least=1)
        self.context_window = _integer("context_window", context_window, least=1)
        self.seed = _integer("seed", seed)
        self.world = _integer("world", world, least=1)
        self.rank = _integer("rank", rank, least=0)
        if self.rank >= self.world:
            raise ValueError(f"rank must be below world, got rank {rank} in a world of {world}")
        self.tokens = _as_tokens(tokens, least=self.context_window + 1 if packing else 2)
        self._cut: PackedCut | DocumentCut
        if packing:
            self._cut = PackedCut(len(self.tokens), self.context_window, self.seed)
        else:
            self._cut = _by_document(self.tokens, self.context_window)
        self._epoch, self._index = self._checked(position)
        self._counted = None if counted is None else np.asarray(counted, bool)
        if self._counted is not None and self._counted.shape != (len(self.tokens),):
            raise ValueError(
                f"counted says of each token whether it is a target: expected shape "
                f"({len(self.tokens)},), got {self._counted.shape}"
            )

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, index) of the next window of all ranks: two plain integers, for a checkpoint.

        May be set, to continue there; raises ValueError for a position outside these tokens.
        """
        return self._epoch, self._index

    @position.setter
    def position(self, position: tuple[int, int]) -> None:
        self._epoch, self._index = self._checked(position)

    def windows_in(self, epoch: int) -> int:
        """How many windows an epoch has; packed, it may differ by one between epochs."""
        return self._cut.windows_in(epoch)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        mine = self._after(self.position, self.rank * self.batch_size)
        starts, counts = self._places(mine, self.batch_size)
        batch = _lessons(self.tokens, starts, counts, self.context_window, self._counted)
        self._epoch, self._index = self._after(self.position, self.world * self.batch_size)
        return batch

    def _after(self, position: tuple[int, int], count: int) -> tuple[int, int]:
        """The position `count` windows later."""
        epoch, index = position[0], position[1] + count
        while index >= (n_windows := self.windows_in(epoch)):
            epoch, index = epoch + 1, index - n_windows
        return epoch, index

    def _places(self, position: tuple[int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the next `count` windows start, and how many targets each has: (count,) both."""
        parts = []
        while count:
            epoch, index = position
            n_windows = self.windows_in(epoch)
            here = min(count, n_windows - index)
            order = shuffled(np.arange(index, index + here), n_windows, self._key(epoch))
            parts.append(self._cut.place(epoch, order))
            count -= here
            position = self._after(position, here)
        starts, counts = zip(*parts, strict=True)
        return np.concatenate(starts), np.concatenate(counts)

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
                f"{epoch}: it was saved with other tokens, another context_window, another seed or "
                "another packing"
            )
        return epoch, index


def windows(
    tokens: ArrayLike | TokenShards,
    context_window: int,
    batch_size: int = 1,
    *,
    packing: bool = True,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All tokens in order, in windows that touch but do not overlap: for evaluation.

    Every token but the first is a target exactly once.  N - 1 targets seldom divide by T; the
    fewer than T that remain come last, as a batch of one shorter window.  So weigh each batch by
    its number of targets:

        total = sum(loss(inputs, targets) * targets.size for inputs, targets in windows(...))
        nats_per_token = total / (len(tokens) - 1)

    tokens          (N,) of any integer dtype, N at least 2; or TokenShards
    context_window  T
    batch_size      B; the last full batch may have fewer rows
    packing         False, for TokenShards: each window lies within one document.  Every token but
                    the first of each document is a target once; all windows have T tokens, filled
                    up with inputs 0 and targets -100: weigh each batch by (targets != -100).sum()

    yields  inputs and targets, (B, T) each, int64, contiguous; packed, at the very end perhaps
            (1, t) with t < T
    raises  ValueError or TypeError at once, before the first batch
    """
    T = _integer("context_window", context_window, least=1)
    B = _integer("batch_size", batch_size, least=1)
    tokens = _as_tokens(tokens, least=2)
    if packing:
        return _packed_windows(tokens, T, B)
    cut = _by_document(tokens, T)
    numbers = (np.arange(i, min(i + B, cut.windows_in(0))) for i in range(0, cut.windows_in(0), B))
    return (_lessons(tokens, *cut.place(0, some), T) for some in numbers)


def _packed_windows(
    tokens: np.ndarray | TokenShards, T: int, B: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    full, rest = divmod(len(tokens) - 1, T)
    for first in range(0, full, B):
        starts = np.arange(first, min(first + B, full)) * T
        yield _lessons(tokens, starts, np.full(len(starts), T), T)
    if rest:
        yield _lessons(tokens, np.array([full * T]), np.array([rest]), rest)


def _by_document(tokens: np.ndarray | TokenShards, T: int) -> DocumentCut:
    if not isinstance(tokens, TokenShards):
        raise TypeError(
            "packing=False needs to know where documents begin: give TokenShards, got "
            f"{type(tokens).__name__}"
        )
    cut = DocumentCut(tokens.document_starts, len(tokens), T)
    if cut.windows_in(0) == 0:
        raise ValueError(
            "packing=False needs a document of two tokens or more, and none has them: "
            f"{len(tokens):,} tokens lie in {len(tokens.document_starts):,} documents"
        )
    return cut


def _lessons(
    tokens: np.ndarray | TokenShards,
    starts: np.ndarray,
    counts: np.ndarray,
    T: int,
    counted: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, (n, T) each, of windows that start at `starts` with `counts` targets.

    As int64: numpy indexes with it, so they need not be converted again.
    """
    inputs = np.zeros((len(starts), T), np.int64)
    targets = np.full((len(starts), T), IGNORED, np.int64)
    for row, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
        ids = tokens[start : start + count + 1]
        inputs[row, :count], targets[row, :count] = ids[:-1], ids[1:]
        if counted is not None:
            targets[row, :count][~counted[start + 1 : start + count + 1]] = IGNORED
    return inputs, targets


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


def _as_tokens(tokens: ArrayLike | TokenShards, least: int) -> np.ndarray | TokenShards:
    """Tokens as a plain array that shares their memory, or an error that says what is wrong."""
    if not isinstance(tokens, TokenShards):
        tokens = np.asarray(tokens)
    if tokens.ndim != 1:
        raise ValueError(f"tokens must be one row of ids, got shape {tokens.shape}")
    if len(tokens) < least:
        raise ValueError(
            f"one window of inputs and targets needs at least {least:,} tokens, got "
            f"{len(tokens):,}: give a longer text or a shorter context_window"
        )
    if isinstance(tokens, TokenShards):
        return tokens  # whose ids are looked at when they are read
    tokens = _as_integers("tokens", tokens)
    # A large file of uint16 need not be read through: only these dtypes can hold a number that is
    # not an id.
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
