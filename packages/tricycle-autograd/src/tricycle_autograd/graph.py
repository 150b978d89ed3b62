"""CUDA graphs: the launches of a function, written down once and then started all together.

    step = CapturedStep(forward_and_backward)
    loss = step(ids, targets)                       arrays of numpy's in, arrays on the GPU out
    loss = step(ids, targets, variant="adding")     another row of launches

A launch takes Python some microseconds, and a small batch's kernels take no longer than that.  A
graph is started in one call, however many launches it holds.  The price: a replay uses the very
memory that the capture did, and no line of Python is run.  So

- the function works on *slots*, arrays on the GPU that stay where they are; each call fills them
- it runs on a stream of its own, with a pool of memory of its own, which nobody else is given
- its first call of a variant is run plainly, for products are planned and kernels loaded there; the
  second is captured, which runs nothing, and replayed; all others are replayed
- what it returns stays where it is, and holds the numbers of the last call: copy what is to last
- what differs from call to call otherwise, such as overwriting gradients first and adding to them
  later, or a number that Python gives to a kernel, is a variant with a graph of its own; there are
  a few, and what comes after them is run plainly
- of what Python did besides only this is repeated: the `grad` of `leaves` is set

*The way of the inputs.*  They are copied to pinned memory, from which the GPU fetches them while
Python goes on.  It may fetch late: so there are two such buffers, written in turn, and one is
written again only when the GPU has fetched what was in it.

With `plainly=True` nothing is captured, and all else is the same: for looking for mistakes.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from tricycle_autograd.devices import move
from tricycle_autograd.tensor import Tensor

BUFFERS = 2  # in which an input is written in turn
MOST = 8  # graphs


class Slot:
    """Where an input lies on the GPU, and the pinned buffers through which it gets there."""

    def __init__(self, array: np.ndarray):
        import cupy

        self.array = move(np.zeros_like(array, order="C"), "cuda")
        pinned = [cupy.cuda.alloc_pinned_memory(max(array.nbytes, 1)) for _ in range(BUFFERS)]
        self.buffers = [
            np.frombuffer(memory, array.dtype, array.size).reshape(array.shape) for memory in pinned
        ]


class CapturedStep:
    """A function whose launches are captured, and replayed.

    function  takes arrays on the GPU and returns such arrays, one or a tuple: launches, and no
              copies to or from the processor
    leaves    tensors whose gradients it finds; they keep them in an arena
    plainly   run it each time, and capture nothing
    """

    def __init__(
        self, function: Callable[..., Any], leaves: Sequence[Tensor] = (), plainly: bool = False
    ):
        import cupy

        self.function, self.leaves, self.plainly = function, leaves, plainly
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.pool = cupy.cuda.MemoryPool()
        self.slots: list[Slot] = []
        # By variant, with what it returns and the leaves' gradients.
        self.graphs: dict[Any, tuple[Any, Any, list[Any]]] = {}
        self._run_once: set[Any] = set()
        self._fetched: list[Any] = [None] * BUFFERS  # events: when a buffer may be written again
        self._turn = 0

    def __call__(self, *arrays: np.ndarray, variant: Any = None) -> Any:
        """Run it on these inputs: arrays of numpy's, of the shapes and dtypes of the first call.

        Launches that follow on the caller's stream wait for it.  Raises ValueError for another
        shape, dtype or number of inputs: what was captured fits the first ones only.
        """
        import cupy

        arrays = tuple(np.asarray(array) for array in arrays)
        if not self.slots:
            self.slots = [Slot(array) for array in arrays]
        self._check(arrays)
        caller = cupy.cuda.get_current_stream()
        self.stream.wait_event(caller.record())  # the weights it reads have moved by then
        self._fill(arrays)
        with self.stream, cupy.cuda.using_allocator(self.pool.malloc):
            results = self._run(variant)
        caller.wait_event(self.stream.record())
        return results

    def _run(self, variant):
        inputs = [slot.array for slot in self.slots]
        is_new = variant not in self.graphs
        if self.plainly or variant not in self._run_once or (is_new and len(self.graphs) >= MOST):
            self._run_once.add(variant)
            return self.function(*inputs)
        if is_new:
            self.stream.begin_capture()
            try:
                results = self.function(*inputs)
            except BaseException:
                # What was captured is of no use, but a stream that captures is of none either.
                with suppress(RuntimeError):
                    self.stream.end_capture()
                raise
            gradients = [leaf.grad for leaf in self.leaves]
            self.graphs[variant] = self.stream.end_capture(), results, gradients
        graph, results, gradients = self.graphs[variant]
        graph.launch(self.stream)
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            if gradient is not None and leaf.node is not None:
                leaf.node.grad = gradient
        return results

    def _fill(self, arrays):
        """Have the GPU fetch the inputs, when it comes to it."""
        turn = self._turn
        if self._fetched[turn] is not None:
            self._fetched[turn].synchronize()
        for slot, array in zip(self.slots, arrays, strict=True):
            slot.buffers[turn][...] = array
            slot.array.set(slot.buffers[turn], stream=self.stream)
        self._fetched[turn] = self.stream.record()
        self._turn = (turn + 1) % BUFFERS

    def _check(self, arrays):
        given = [(array.shape, array.dtype.name) for array in arrays]
        wanted = [(slot.array.shape, slot.array.dtype.name) for slot in self.slots]
        if given != wanted:
            raise ValueError(
                f"a captured step was made for inputs {wanted} and got {given}; make another one "
                "for those"
            )
