"""Where a step's batches come from: any source of them, made into arrays of our own.

A source that knows its position (`tricycle_datasets.Batches`) lets a run that is resumed go on to
the same bits.  Any other iterable trains too: a list, a generator, a loader of another library's
tensors.  Such a run is resumed with its batches from wherever they then begin.
"""

import operator
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tricycle_gpt.config import GPTConfig
from tricycle_gpt.evaluation import IGNORED
from tricycle_gpt.runs.interruption import Postponed
from tricycle_gpt.runs.step import Batch

END = object()  # in place of a batch
WANTED = "a batch is a pair (inputs, targets) of whole numbers, (B, T) each"


@runtime_checkable
class BatchSource(Protocol):
    """Batches without end that know their position, such as tricycle_datasets.Batches."""

    position: tuple[int, int]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yields (inputs, targets), (B, T) integers each."""
        ...


class BatchFeed:
    """The batches of a run, checked, a step at a time.

    source  an iterable of (inputs, targets): arrays, or what turns into them by `__dlpack__` or
            `__array__`, as torch's tensors do
    config  of the model that they are for

    position  of the source after the batches taken last; None if it does not know any
    failed    keeps an error that came instead of a batch
    """

    def __init__(self, source: BatchSource | Iterable[tuple[Any, Any]], config: GPTConfig):
        if isinstance(source, str | bytes | dict) or not isinstance(source, Iterable):
            raise TypeError(
                f"batches come from an iterable, {WANTED}; got {type(source).__name__}. "
                "tricycle_datasets.Batches(ids, batch_size, context_window) makes one"
            )
        self._source, self._config = source, config
        self._stream = iter(source)
        self._first: list[Batch] = []
        self.failed = Postponed()
        self.position: tuple[int, int] | None = None
        if isinstance(source, BatchSource) and source.position is not None:
            self.position = as_position(source.position)
        self._before = self.position

    @property
    def knows_its_position(self) -> bool:
        """Whether a run can go on exactly, with the batches that would have come."""
        return isinstance(self._source, BatchSource)

    def check(self) -> None:
        """Look at the first batch before anything is done with it.

        Raises ValueError, TypeError or IndexError, saying what was given, if it does not fit, or if
        there is none; and whatever the source raises.
        """
        self._first = self.take(1) or []
        self.give_back()
        self.failed.raise_it()
        if not self._first:
            raise ValueError("there is no batch to train on: the iterable is empty")

    def take(self, n: int) -> list[Batch] | None:
        """The next n batches, or None if there are not so many any more, or one `failed`."""
        self._before = self.position
        batches, self._first = self._first[:n], self._first[n:]
        with self.failed:
            while len(batches) < n:
                given = next(self._stream, END)
                if given is END:
                    return None
                batches.append(as_batch(given, self._config))
            if isinstance(self._source, BatchSource):
                self.position = as_position(self._source.position)
        return None if self.failed.error else batches

    def give_back(self) -> None:
        """Be at the position before the batches taken last: no step was made of them.

        Another rank may have none for it.  The batches themselves do not come again.
        """
        self.position = self._before


def as_position(given: Any) -> tuple[int, int]:
    """A source's position, as a checkpoint holds it.  TypeError for anything but two numbers."""
    try:
        pass_number, batch_number = (operator.index(number) for number in given)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "a source's position is two whole numbers, (pass, batch in it), from which a run can "
            f"go on; got {given!r:.80}. Without the attribute it trains, and cannot be resumed"
        ) from error
    return pass_number, batch_number


def as_batch(given: Any, config: GPTConfig) -> Batch:
    """Inputs and targets as arrays of our own: a source may fill its arrays anew.

    Raises TypeError for anything but a pair of integers, ValueError for shapes that do not fit, and
    IndexError for ids that are not in the vocabulary.
    """
    if isinstance(given, str | bytes | dict) or not hasattr(given, "__len__") or len(given) != 2:
        names = f" with {', '.join(map(str, given))}" if isinstance(given, dict) else ""
        raise TypeError(f"{WANTED}; got {type(given).__name__}{names}")
    inputs, targets = (_as_array(part) for part in given)
    for name, part in (("inputs", inputs), ("targets", targets)):
        if part.dtype.kind not in "iu":
            raise TypeError(f"{WANTED}; got {name} of {part.dtype}")
    if inputs.shape != targets.shape or inputs.ndim != 2 or inputs.size == 0:
        raise ValueError(
            f"{WANTED}; got inputs of shape {inputs.shape} and targets of shape {targets.shape}"
        )
    if inputs.shape[1] > config.context_window:
        raise ValueError(
            f"a batch has windows of {inputs.shape[1]} tokens, and the model looks at "
            f"{config.context_window} at most: make shorter ones, or a model with that "
            "context_window"
        )
    for name, ids in (("inputs", inputs), ("targets", targets[targets != IGNORED])):
        if ids.size and not (ids.min() >= 0 and ids.max() < config.vocab_size):
            wrong = ids[(ids < 0) | (ids >= config.vocab_size)][0]
            raise IndexError(
                f"the {name} of a batch hold id {wrong}; this model knows ids 0 to "
                f"{config.vocab_size - 1}"
            )
    return inputs, targets


def _as_array(part):
    """A copy as a numpy array, of whatever knows one of the two ways to become one."""
    if not isinstance(part, np.ndarray) and hasattr(part, "__dlpack__"):
        try:
            part = np.from_dlpack(part)
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(
                f"a batch's tensors must be in the memory of the CPU, to be copied from there: "
                f"{type(part).__name__} says {error}"
            ) from error
    return np.array(np.asarray(part))  # in two steps: an __array__ need not make a copy
