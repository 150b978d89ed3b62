"""Modes: what a thread does with the operations it runs.

    recording      whether they go on the tape: see no_grad
    observer       an object that is told of each of them, or None: see Observer
    finished_leaf  a function that is called with each leaf whose gradient is complete, or None:
                   see tape.on_finished_leaf
    definitions    whether fused operations run by their definitions: see fused.definitions_only
    met            a dictionary for what operations find on the tape while nothing is recorded, or
                   None: see meeting

Every thread and every asyncio task has modes of its own, in one context variable: a thread that
writes text under no_grad() does not switch off the tape of a thread that trains.

A block changes modes while it runs, and its end takes away that change and no other.  So blocks
may end in any order, as they do where one of them is inside a generator.
"""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

Function = TypeVar("Function", bound=Callable)


class Observer(Protocol):
    """An object that is told of every operation of a thread while it runs.

    flops  multiplications and additions inside matrix products are added to it
    """

    flops: int

    def call(self, name: str, run: Callable, args: tuple, kwargs: dict) -> Any:
        """Run the kernels of the fused operation `name`; returns run(*args, **kwargs)."""

    def recorded(self, array: Any, inputs: Any, backward: Callable) -> Callable:
        """See an operation's result and the tensors it was computed from.

        Returns the backward to put on the tape in place of `backward`.  It takes the same
        arguments: dy, and for some operations the gradient that waits at the first input.
        """

    def part(self, name: str, direction: str = "") -> AbstractContextManager[None]:
        """A block around a stretch of code that is not an operation."""


class Modes:
    """A thread's modes: the defaults, changed by every block that it is inside of.

    blocks  the blocks, the outermost first
    """

    __slots__ = ("blocks", "recording", "observer", "finished_leaf", "definitions", "met")

    def __init__(self, blocks: "tuple[Block, ...]" = ()):
        self.blocks = blocks
        self.recording = True
        self.observer: Observer | None = None
        self.finished_leaf: Callable[[Any], None] | None = None
        self.definitions = False
        self.met: dict[Any, Any] | None = None
        for block in blocks:
            for name, value in block.changes.items():
                setattr(self, name, value)


# Modes are replaced, never changed, so that all threads can start with the same ones.
_modes: ContextVar[Modes] = ContextVar("modes", default=Modes())  # noqa: B039

# The modes of the thread that calls it.
current = _modes.get


class Block:
    """Changes of modes, for a `with` block or, as a decorator, for a function.

    changes  new values by the names of the modes
    """

    def __init__(self, **changes: Any):
        self.changes = changes

    def __enter__(self) -> None:
        _modes.set(Modes((*current().blocks, self)))

    def __exit__(self, *error: object) -> None:
        blocks = list(current().blocks)
        for i in reversed(range(len(blocks))):
            if blocks[i] is self:
                del blocks[i]
                break
        # Not found: a generator that began in another thread is closed by this one.
        _modes.set(Modes(tuple(blocks)))

    def __call__(self, function: Function) -> Function:
        """`function`, in a block of its own at each call."""
        if inspect.isgeneratorfunction(function) or _is_asynchronous(function):
            raise TypeError(
                f"{function.__name__} runs later than it is called, and a decorator would change "
                "the modes of the call only; put a with block into it, around what it computes"
            )

        @functools.wraps(function)
        def within(*args, **kwargs):
            with self:
                return function(*args, **kwargs)

        return within  # type: ignore[return-value]


def _is_asynchronous(function):
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def is_recording() -> bool:
    """Whether this thread's operations are being put on the tape."""
    return current().recording


def no_grad() -> Block:
    """Run a block without recording: nothing computed in it can be differentiated.

    Also works as a decorator.  The block concerns its own thread or asyncio task.  In a generator
    close it before each `yield`: left open, it holds for the code that asks for the next value
    too.

    Raises TypeError where it decorates a generator or an async function.
    """
    return Block(recording=False)


def recording() -> Block:
    """Run a block with the tape on, also inside `no_grad()`."""
    return Block(recording=True)


def meeting(met: dict[Any, Any]) -> Block:
    """Run a block that notes in `met` the tensors on the tape that unrecorded operations use.

    met   tensors by their nodes
    """
    return Block(met=met)


def observed_by(observer: Observer) -> Block:
    """Run a block whose operations, forward and backward, are shown to `observer`."""
    return Block(observer=observer)


def count_flops(flops: int) -> None:
    """Tell this thread's observer, if there is one, what a matrix product takes.

    flops  its multiplications and additions: 2 for each step
    """
    observer = current().observer
    if observer is not None:
        observer.flops += flops
