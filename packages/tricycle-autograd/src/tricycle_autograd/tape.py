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
  place, and only into sums that it allocated itself.  What a leaf keeps is its own.
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from tricycle_autograd.additions import add_into, added, assign
from tricycle_autograd.arrays import in_float32, is_half
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
    exact          leaves only: a sum of float16 or bfloat16 gradients in float32, or None
    moved          leaves only: the number of the last time that its array was changed in place
    lasting        whether it keeps nothing, and may be walked more than once

    A leaf may travel, by pickle or copy.deepcopy: it arrives with its gradient, without a buffer,
    and with a new number.  Any other node raises TypeError: its backward stays here.
    """

    __slots__ = (
        *("number", "parents", "backward", "takes_waiting", "lasting"),
        *("grad", "buffer", "exact", "moved"),
    )

    def __init__(self, parents=(), backward=None, takes_waiting=False):
        self.number = _next_number()
        self.parents = parents
        self.backward = backward
        self.takes_waiting = takes_waiting
        self.lasting = False
        self.grad = None
        self.buffer = None
        self.exact = None
        self.moved = 0

    def __reduce__(self):
        if self.backward is not None:
            raise TypeError(
                "the result of an operation cannot be pickled or copied with its past; use "
                "tensor.detach(), which has none"
            )
        return _arrived_leaf, (self.grad,)

    def add(self, grad, is_ours=False):
        """Add one more contribution to a leaf's gradient.

        is_ours   whether no one else has this array
        """
        if self.buffer is not None:
            if self.grad is None:
                assign(self.buffer, grad)
                self.grad = self.buffer
            else:
                add_into(self.buffer, grad)
        elif self.grad is None:
            # This array may be another leaf's too, or belong to the caller.
            kept = grad if is_ours else grad.copy()
            self.grad = np.asarray(kept) if _is_scalar(kept) else kept
        elif _is_short(grad):
            self._add_in_float32(grad)
        else:
            total = added(self.grad, grad)
            # numpy turns results with no axes into scalars; a leaf's gradient is an array.
            self.grad = np.asarray(total) if _is_scalar(total) else total

    def _add_in_float32(self, grad):
        """So that many small contributions are not rounded away; what was set by hand counts."""
        before: Any = self.grad
        if self.exact is not None and (self.exact.astype(before.dtype) == before).all():
            before = self.exact
        self.exact = in_float32(before) + in_float32(grad)
        self.grad = np.asarray(self.exact.astype(grad.dtype))

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


def _is_scalar(value):
    return isinstance(value, np.generic)


def _is_short(grad):
    """Whether gradients of this dtype are added up in float32: on the CPU; see additions.py."""
    on_the_cpu = type(grad) is np.ndarray or isinstance(grad, np.generic)
    return on_the_cpu and is_half(grad.dtype)


def now() -> int:
    """The number of this moment: above those of all nodes so far, below those to come."""
    return _next_number()


def note_that_it_moved(leaf: Node | None) -> None:
    """Say that a leaf's array was changed in place.

    What was computed from the old numbers can no longer be walked backwards: it would find the
    new ones.  `backpropagate` then says so.
    """
    if leaf is not None:
        leaf.moved = _next_number()


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


def backpropagate(
    end: Node, grad, stops: Sequence[Node] = (), since: int | None = None
) -> dict[Node, Any]:
    """Send `grad`, the gradient at `end`, back to every leaf that it depends on.

    stops   nodes at which the walk ends, as it does at leaves
    since   the number of the moment when `end` was first computed, if that was another time

    Returns the gradients at `stops`, of those that were reached.  Raises RuntimeError if part of
    the graph has been walked before, because what the forward pass saved is freed as the walk
    passes, and if a parameter has been moved since the forward pass.
    """
    grads = {end: grad}
    borrowed = {end}  # nodes whose gradient array we did not allocate
    handed_over = set()  # leaves whose gradient array was made for them alone
    halves: dict[Node, np.dtype] = {}  # nodes whose float16 gradients are summed in float32
    stopped: dict[Node, Any] = {}
    order = _newest_first(end, stops, since)
    listener = current().finished_leaf
    finished_by = {} if listener is None else _leaves_finished_by(order, stops)

    for node in order:
        # A leaf whose gradients all went straight to its buffer has none waiting here, and
        # neither has a node that was reached only through inputs without a gradient.
        grad = grads.pop(node, None)
        is_ours = node not in borrowed or node in handed_over
        borrowed.discard(node)
        if halves and node in halves:
            grad = grad.astype(halves.pop(node))
        if stops and node in stops:
            stopped[node] = grad
            continue
        backward, parents = node.backward, node.parents
        if backward is None:
            if grad is not None:
                node.add(grad, is_ours)
            continue
        # Free what the forward pass saved: each step is walked back only once.
        if not node.lasting:
            node.backward, node.parents = _already_freed, ()
        if grad is None:
            contributions: tuple = (None,) * len(parents)
        elif node.takes_waiting:
            contributions = _with_waiting(backward, grad, parents[0], grads, borrowed, halves)
        else:
            contributions = backward(grad)
        for parent, contribution in zip(parents, contributions, strict=True):
            if parent is None or contribution is None or contribution is ADDED:
                continue
            if parent not in grads:
                grads[parent] = contribution
                borrowed.add(parent)
                if parent.backward is None and _is_new(contribution, grad, contributions):
                    handed_over.add(parent)
            elif parent in borrowed:
                # The first contribution may be shared with another node (the gradient of
                # `a + b` is one array, handed to both), so this addition makes a new one.
                if _is_short(contribution):
                    halves[parent] = contribution.dtype
                    contribution = in_float32(contribution)
                grads[parent] = added(grads[parent], contribution)
                borrowed.discard(parent)
            else:
                grads[parent] = add_into(grads[parent], contribution)
        if listener is not None:
            for leaf in finished_by.get(node, ()):
                if leaf in grads:
                    total = grads.pop(leaf)
                    leaf.add(total.astype(halves.pop(leaf)) if leaf in halves else total)
                listener(leaf)
    return stopped


def _is_new(contribution, grad, contributions):
    """Whether a backward made an array for one input: no view, and given to no other."""
    shared = contribution is grad or contribution.base is not None
    return not shared and len([x for x in contributions if x is contribution]) == 1


def _newest_first(end, stops=(), since=None):
    """`end` and every node that it depends on, in the order of the backward walk."""
    seen, stack = {end}, [end]
    while stack:
        node = stack.pop()
        if stops and node in stops:
            continue
        if node.backward is _already_freed:
            _already_freed(None)
        for parent in node.parents:
            if parent is not None:
                if parent.moved and parent.moved > (node.number if since is None else since):
                    _moved_since()
                if parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
    return sorted(seen, key=lambda node: node.number, reverse=True)


def _with_waiting(backward, grad, first, grads, borrowed, halves):
    """A node's contributions, where the first is to include what waits at its input.

    The sum takes the place of what waited.
    """
    waiting = grads.get(first)
    if first in halves:
        waiting = waiting.astype(halves[first])
    contributions = backward(grad, waiting)
    if contributions[0] is not None and contributions[0] is not ADDED:
        grads.pop(first, None)
        borrowed.discard(first)
        halves.pop(first, None)
    return contributions


def _leaves_finished_by(order, stops):
    """The leaves of a walk, by the node that is the last of it to use them."""
    finished_by: dict[Node, list[Node]] = {}
    seen = set(stops)
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


def _moved_since():
    raise RuntimeError(
        "a parameter was moved (by an optimiser's step, or by loading weights) after the forward "
        "pass that is walked backwards now, whose gradient would mix old numbers with new ones. "
        "Call every backward() of a forward pass before step(), or run the forward pass again."
    )
