"""The tape: how gradients flow backwards.

Every differentiable operation leaves one `Node`.  A node knows the nodes its
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
  array that belongs to both a and b, so it must not be written to.  Only the tape adds in
  place, and only into sums that it allocated itself.
"""

from collections.abc import Callable
from itertools import count

import numpy as np

from tricycle_autograd.additions import add_into, added
from tricycle_autograd.devices import array_module
from tricycle_autograd.modes import Block, current

_next_number = count().__next__

# What a backward returns for an input whose gradient it has already written, or added,
# to the leaf's own buffer.
ADDED = object()


class Node:
    """One step of the computation, as the backward pass sees it.

    number         position in time; later nodes have higher numbers
    parents        the nodes of this step's inputs (None where no gradient is wanted)
    backward       maps the output's gradient to a tuple of input gradients, one for each
                   parent; None marks a leaf
    takes_waiting  whether backward is given the gradient that waits at its first input, too,
                   and returns the sum: see `record`
    grad           leaves only: the gradient so far, or None
    buffer         leaves only: an array to keep the gradient in (a parameter's place in an
                   arena), or None

    A leaf may travel, by pickle or copy.deepcopy: it arrives with its gradient, without a buffer,
    and with a new number.  Any other node raises TypeError: its backward stays here.
    """

    __slots__ = ("number", "parents", "backward", "takes_waiting", "grad", "buffer")

    def __init__(self, parents=(), backward=None, takes_waiting=False):
        self.number = _next_number()
        self.parents = parents
        self.backward = backward
        self.takes_waiting = takes_waiting
        self.grad = None
        self.buffer = None

    def __reduce__(self):
        if self.backward is not None:
            raise TypeError(
                "the result of an operation cannot be pickled or copied with its past; use "
                "tensor.detach(), which has none"
            )
        return _arrived_leaf, (self.grad,)

    def add(self, grad):
        """Add one more contribution to a leaf's gradient."""
        if self.buffer is None:
            total = grad if self.grad is None else added(self.grad, grad)
            # numpy turns results with no axes into scalars; a leaf's gradient is an array.
            self.grad = np.asarray(total) if isinstance(total, np.generic) else total
        elif self.grad is None:
            self.buffer[...] = grad
            self.grad = self.buffer
        else:
            add_into(self.buffer, grad)

    def claim(self):
        """Promise to write a contribution straight into `buffer`.

        Returns the buffer, and whether to add to what it holds (True) or to overwrite it.
        """
        add = self.grad is not None
        self.grad = self.buffer
        return self.buffer, add


def _arrived_leaf(grad):
    # Its old number comes from another process, or from before it was copied.  The walk needs a
    # number lower than those of the steps that will use it, and all of them are still to come.
    leaf = Node()
    leaf.grad = grad
    return leaf


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
    destination = array_module(array).empty(array.shape, array.dtype)
    return destination, False, destination


def on_finished_leaf(listener: Callable[[Node], None]) -> Block:
    """Run a block whose backward walks call `listener(leaf)` as soon as a leaf is complete.

    listener  takes the leaf's node, whose `grad` is what this walk leaves there

    A leaf is complete when the last node that uses it has been walked: its gradient can be sent
    away while the walk continues.  A nested walk (`recompute`) reports the leaves used inside it,
    as complete for that walk: one that is used outside of it too is reported again.
    """
    return Block(finished_leaf=listener)


def backpropagate(end: Node, grad) -> None:
    """Send `grad`, the gradient at `end`, back to every leaf that it depends on.

    Raises RuntimeError if part of the graph has been walked before: what the forward pass
    saved is freed as the walk passes.
    """
    grads = {end: grad}
    borrowed = {end}  # nodes whose gradient array we did not allocate
    order = _newest_first(end)
    listener = current().finished_leaf
    finished_by = {} if listener is None else _leaves_finished_by(order)

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
        if grad is None:
            contributions: tuple = (None,) * len(parents)
        elif node.takes_waiting:
            contributions = _with_waiting(backward, grad, parents[0], grads, borrowed)
        else:
            contributions = backward(grad)
        for parent, contribution in zip(parents, contributions, strict=True):
            if parent is None or contribution is None or contribution is ADDED:
                continue
            if parent not in grads:
                grads[parent] = contribution
                borrowed.add(parent)
            elif parent in borrowed:
                # The first contribution may be shared with another node (the gradient of
                # `a + b` is one array, handed to both), so this addition makes a new one.
                grads[parent] = added(grads[parent], contribution)
                borrowed.discard(parent)
            else:
                grads[parent] = add_into(grads[parent], contribution)
        if listener is not None:
            for leaf in finished_by.get(node, ()):
                if leaf in grads:
                    leaf.add(grads.pop(leaf))
                listener(leaf)


def _newest_first(end):
    """`end` and every node that it depends on, in the order of the backward walk."""
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


def _with_waiting(backward, grad, first, grads, borrowed):
    """A node's contributions, where the first is to include what waits at its input.

    The sum takes the place of what waited.
    """
    contributions = backward(grad, grads.get(first))
    if contributions[0] is not None and contributions[0] is not ADDED:
        grads.pop(first, None)
        borrowed.discard(first)
    return contributions


def _leaves_finished_by(order):
    """The leaves of a walk, by the node that is the last of it to use them."""
    finished_by: dict[Node, list[Node]] = {}
    seen = set()
    for node in reversed(order):  # a leaf's oldest use is the last that is walked
        for parent in node.parents:
            if parent is not None and parent.backward is None and parent not in seen:
                seen.add(parent)
                finished_by.setdefault(node, []).append(parent)
    return finished_by


def _already_freed(_):
    raise RuntimeError(
        "this graph was already walked backwards once, and its saved values were freed. "
        "Run the forward pass again before calling backward() again."
    )
