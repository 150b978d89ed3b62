"""Recomputation: forget what the forward pass made, and make it again when it is needed.

A backward pass needs the arrays of the forward pass, so they all wait in memory until then.

    y = recompute(block, x)      instead of      y = block(x)

keeps only x.  When the gradient arrives at y, the block is run once more, with the tape on, and
walked back at once.  So of a chain of blocks only the inputs wait, and one block's arrays at a
time.  The price is a second forward pass: a third more time, as backward costs two forward passes.

The numbers are the same, bit for bit: kernels are, and what a function draws at random is drawn
once and handed to it again (`same_again`).

Chen et al., Training Deep Nets with Sublinear Memory Cost (2016).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tricycle_autograd.modes import is_recording, meeting, no_grad, recording
from tricycle_autograd.tape import backpropagate, now
from tricycle_autograd.tensor import Tensor, record

Value = TypeVar("Value")

# The draws of the function that runs now, each thread's and task's own: kept the first time it
# runs, repeated when it runs again.
_keeping: ContextVar[list | None] = ContextVar("keeping", default=None)
_repeating: ContextVar[Iterator | None] = ContextVar("repeating", default=None)


def recompute(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), whose inner results are computed again when the gradient comes.

    function  makes one tensor of the inputs; it may use parameters too, and must do the same
              when it is called a second time
    inputs    tensors, of which at least one needs a gradient

    Raises TypeError for inputs that are not tensors, ValueError if none needs a gradient while
    the tape is recording (parameters inside the function would then get none, silently).
    """
    for value in inputs:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"recompute keeps tensors, got {type(value).__name__}; hand over the rest inside "
                "the function: recompute(lambda x: block(x, mask), x)"
            )
    if not is_recording():
        return function(*inputs)
    if not any(tensor.requires_grad for tensor in inputs):
        raise ValueError(
            "recompute needs an input that requires a gradient, or nothing would flow back into "
            "the function; call the function itself"
        )
    arrays = [tensor.array for tensor in inputs]
    wanted = [tensor.requires_grad for tensor in inputs]
    drawn: list = []
    met: dict = {}
    since = now()
    with no_grad(), meeting(met), _keep_draws(drawn):
        y = function(*_apart(arrays, wanted))
    # Results from outside that the function uses: the walk that is under way goes on from them.
    captured = [x for node, x in met.items() if node.backward is not None]
    nodes = [x.node for x in captured]

    def backward(dy):
        again_inputs = _apart(arrays, wanted)
        with recording(), _repeat_draws(drawn):
            again = function(*again_inputs)
        ends = [*[x.node for x in again_inputs], *nodes]
        found = {} if again.node is None else backpropagate(again.node, dy, ends, since)
        return tuple(map(found.get, ends))

    return record(y.array, (*inputs, *captured), backward)


def _apart(arrays, wanted):
    """Tensors of the same arrays without their past, as the function is given them."""
    return [Tensor(a, requires_grad=w) for a, w in zip(arrays, wanted, strict=True)]


def same_again(draw: Callable[[], Value]) -> Value:
    """What `draw()` returns; in a function that is run again, what it returned the first time.

    For what must not differ between the two runs: the number of a random draw, say.
    """
    repeating, keeping = _repeating.get(), _keeping.get()
    value = draw() if repeating is None else next(repeating)
    if keeping is not None:
        keeping.append(value)
    return value


@contextmanager
def _keep_draws(drawn):
    """Keep what is drawn, also for a function around this one that keeps its draws too."""
    outer = _keeping.get()
    token = _keeping.set(drawn)
    try:
        yield
    finally:
        _keeping.reset(token)
        if outer is not None:
            outer += drawn


@contextmanager
def _repeat_draws(drawn):
    token = _repeating.set(iter(drawn))
    try:
        yield
    finally:
        _repeating.reset(token)
