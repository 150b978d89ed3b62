"""The tape: how gradients flow backwards.

Every differentiable operation leaves one `Node` behind.  A node knows the nodes its
inputs came from, and holds one function, `backward`, that turns the gradient of its
output into the gradients of its inputs: the chain rule, one step of it.
`backpropagate` visits the nodes from newest to oldest and takes that step at each.

Why newest to oldest is enough.  A value can only be used after it has been made.  So if
nodes are numbered as they are made, every node has a higher number than the nodes it
depends on, and walking down the numbers guarantees that a node's gradient is complete
before it is used.  No recursion, no depth limit, no search for an order.

Three habits keep it right and small:

- Edges join nodes, not tensors.  An array lives on only if some backward mentions it.
- Gradients live in a dictionary during the walk; only leaves keep theirs.
- **A gradient array is read-only once handed over.**  The gradient of `a + b` is one
  array that belongs to both a and b, so nobody may write into it.  Only the tape adds in
  place, and only into sums that it allocated itself.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np

_next_number = count().__next__
_recording = True

# Whoever wants to hear of every operation while it runs: see profiling.py.
watcher: Any = None

# Whoever wants to hear of every leaf whose gradient is complete: see hearing_of_finished_leaves.
_hear_of_finished: Any = None

# What a backward returns for an input whose gradient it has already written, or added,
# to the leaf's own buffer.
ADDED = object()


class Node:
    """One step of the computation, as the backward pass sees it.

    number    position in time; later nodes have higher numbers
    parents   the nodes of this step's inputs (None where no gradient is wanted)
    backward  maps the output's gradient to a tuple of input gradients, one for each
              parent; None marks a leaf
    grad      leaves only: the gradient so far, or None
    buffer    leaves only: an array to keep the gradient in (a parameter's place in an
              arena), or None
    """

    __slots__ = ("number", "parents", "backward", "grad", "buffer")

    def __init__(self, parents=(), backward=None):
        self.number = _next_number()
        self.parents = parents
        self.backward = backward
        self.grad = None
        self.buffer = None

    def add(self, grad):
        """Add one more contribution to a leaf's gradient."""
        if self.buffer is None:
            total = grad if self.grad is None else self.grad + grad
            # numpy turns results with no axes into scalars; a leaf's gradient is an array.
            self.grad = np.asarray(total) if isinstance(total, np.generic) else total
        elif self.grad is None:
            self.buffer[...] = grad
            self.grad = self.buffer
        else:
            self.buffer += grad

    def claim(self):
        """Promise to write a contribution straight into `buffer`.

        Returns the buffer, and whether to add to what it holds (True) or to overwrite it.
        """
        add = self.grad is not None
        self.grad = self.buffer
        return self.buffer, add


def gradient_destination(node, array):
    """Where a backward should write the gradient of an input.

    node    the input's node, as it was during the forward pass
    array   the input's array: its shape and dtype are the gradient's

    Returns (destination, add, result): write into `destination`, adding to it if `add`,
    and let the backward return `result` for this input.  A leaf that has a buffer gets its
    gradient there, without a copy in between; anything else gets a new array.
    """
    if node.backward is None and node.buffer is not None:
        destination, add = node.claim()
        return destination, add, ADDED
    from tricycle_autograd.devices import array_module

    destination = array_module(array).empty(array.shape, array.dtype)
    return destination, False, destination


def is_recording() -> bool:
    """Whether operations are being put on the tape."""
    return _recording


@contextmanager
def no_grad() -> Iterator[None]:
    """Run a block without recording: nothing computed in it can be differentiated.

    Also works as a decorator.  The switch belongs to the process, not to the thread.
    """
    global _recording
    before, _recording = _recording, False
    try:
        yield
    finally:
        _recording = before


@contextmanager
def recording() -> Iterator[None]:
    """Run a block with the tape on, also inside `no_grad()`."""
    global _recording
    before, _recording = _recording, True
    try:
        yield
    finally:
        _recording = before


@contextmanager
def hearing_of_finished_leaves(listener: Callable[[Node], None]) -> Iterator[None]:
    """Run a block whose backward walks call `listener(leaf)` as soon as a leaf is complete.

    A leaf is complete when the last node that uses it has been walked: its gradient can be sent
    away while the walk goes on.  A walk inside a walk (`recompute`) speaks for the leaves that are
    used inside of it.
    """
    global _hear_of_finished
    before, _hear_of_finished = _hear_of_finished, listener
    try:
        yield
    finally:
        _hear_of_finished = before


def backpropagate(end: Node, grad) -> None:
    """Send `grad`, the gradient at `end`, back to every leaf behind it.

    Raises RuntimeError if part of the graph has been walked before: what the forward pass
    saved is freed as the walk passes.
    """
    grads = {end: grad}
    borrowed = {end}  # nodes whose gradient array we did not allocate
    order = _newest_first(end)
    uses = _uses_of_leaves(order) if _hear_of_finished else {}

    for node in order:
        # A leaf whose gradients all went straight to its buffer has none waiting here, and
        # neither has a node that was reached only through inputs without a gradient.
        grad = grads.pop(node, None)
        borrowed.discard(node)
        backward, parents = node.backward, node.parents
        if backward is None:
            if grad is not None:
                node.add(grad)
            continue
        # Free what the forward pass saved: each step is walked back only once.
        node.backward, node.parents = _already_freed, ()
        contributions = backward(grad) if grad is not None else [None] * len(parents)
        for parent, contribution in zip(parents, contributions, strict=True):
            if parent is None or contribution is None or contribution is ADDED:
                continue
            if parent not in grads:
                grads[parent] = contribution
                borrowed.add(parent)
            elif parent in borrowed:
                # The first contribution may be shared with another node (the gradient of
                # `a + b` is one array, handed to both), so this addition makes a new one.
                grads[parent] = grads[parent] + contribution
                borrowed.discard(parent)
            else:
                grads[parent] += contribution
        if uses:
            _count_down(uses, parents, grads)


def _newest_first(end):
    """Every node behind `end`, itself included, in the order of the backward walk."""
    seen, stack = {end}, [end]
    while stack:
        node = stack.pop()
        if node.backward is _already_freed:
            _already_freed(None)
        for parent in node.parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return sorted(seen, key=lambda node: node.number, reverse=True)


def _uses_of_leaves(nodes):
    """How many times each leaf is an input among these nodes."""
    return Counter(p for node in nodes for p in node.parents if p and p.backward is None)


def _count_down(uses, parents, grads):
    """A node was walked: give the leaves whose last use it was what waits for them, and tell."""
    for parent in parents:
        if parent not in uses:
            continue
        uses[parent] -= 1
        if not uses[parent]:
            if parent in grads:
                parent.add(grads.pop(parent))
            _hear_of_finished(parent)


def _already_freed(_):
    raise RuntimeError(
        "this graph was already walked backwards once, and its saved values were freed. "
        "Run the forward pass again before calling backward() again."
    )
