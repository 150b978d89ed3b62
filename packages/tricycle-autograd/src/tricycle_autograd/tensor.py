"""The tensor: an array that remembers how it was made.

A `Tensor` is two things: `array`, the numbers, and `node`, its place on the tape if it can
be differentiated.  Every operation ends in `record`, which makes both at once.

Tensors are values: nothing writes into one.  There are no in-place operations and no views
whose changes would show elsewhere, so what a backward saved is what it will find.

The operators and numpy's methods (`x + y`, `x.sum(axis=0)`) are listed in methods.py; numpy's own
functions (`np.exp(x)`) come to ours too (numpy_calls.py).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tricycle_autograd import tape
from tricycle_autograd.arrays import is_floating
from tricycle_autograd.devices import array_module, device_of, homes, move
from tricycle_autograd.methods import NumpyMethods
from tricycle_autograd.modes import current


class Tensor(NumpyMethods):
    """An array plus, if it can be differentiated, its place on the tape.

    array          a numpy or cupy array (its memory is shared, not copied: change it only where no
                   backward pass is to come), a number, or nested lists of numbers.  Python floats
                   become float32; integers and booleans stay what they are, and so do arrays of
                   any floating point dtype
    requires_grad  whether gradients with respect to this tensor are wanted

    Raises TypeError for anything but numbers, for integers that should have a gradient, and for a
    list of tensors that have one: stack() and concatenate() join tensors.
    """

    __slots__ = ("array", "node", "__weakref__")

    def __init__(self, array: Any, requires_grad: bool = False):
        self.array = as_array(array)
        self.node = None
        if requires_grad:
            if not is_floating(self.array.dtype):
                raise TypeError(
                    f"only floating point tensors have gradients, and this one is "
                    f"{self.array.dtype}; convert it first: Tensor(array.astype('float32'), ...)"
                )
            self.node = tape.Node()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def size(self) -> int:
        return int(self.array.size)

    @property
    def device(self) -> str:
        """Where the numbers are: "cpu" or "cuda"."""
        return device_of(self.array)

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow through this tensor."""
        return self.node is not None

    @property
    def grad(self):
        """The gradient of a leaf: an array shaped like this one, or None before `backward()`.

        It is this tensor's own.  For a parameter that an optimiser looks after it is a window on
        the optimiser's memory, and the next backward pass overwrites it.
        """
        return None if self.node is None else self.node.grad

    @grad.setter
    def grad(self, grad) -> None:
        if self.node is None:
            raise RuntimeError("a tensor without requires_grad=True has no gradient to set")
        self.node.grad = None
        if grad is not None:
            self.node.add(_gradient_like(self, grad))

    def backward(self, grad=None) -> None:
        """Find the gradients of this tensor with respect to every leaf that it depends on.

        grad   the gradient at this tensor, of its shape; only a single number can do without,
               for which it is 1

        Gradients are added to what the leaves' `.grad` holds already.  Raises RuntimeError if
        there is nothing to differentiate, if `grad` is missing, or if this graph was walked
        before; ValueError if `grad` has another shape.
        """
        if self.node is None:
            raise RuntimeError(
                "backward() was called on a tensor that depends on nothing with "
                "requires_grad=True (or it was computed under no_grad())"
            )
        if grad is None:
            if self.array.size != 1:
                raise RuntimeError(
                    f"backward() of a tensor of shape {self.shape} needs the gradient at that "
                    "tensor: reduce it to one number first (.sum(), .mean()) or pass grad="
                )
            grad = array_module(self.array).ones_like(self.array)
        tape.backpropagate(self.node, _gradient_like(self, grad))

    def detach(self) -> "Tensor":
        """The same numbers (the same memory), without a past: gradients stop here."""
        return wrap(self.array)

    def numpy(self) -> np.ndarray:
        """The numbers as a numpy array: the same memory on the CPU, a copy from the GPU.

        numpy by itself does not know bfloat16: those come as float32, a copy.
        """
        array = np.asarray(move(self.array, "cpu"))
        return array.astype(np.float32) if array.dtype.kind == "V" else array

    def to(self, device: str) -> "Tensor":
        """The same numbers on another device, "cpu" or "cuda"; gradients flow back across."""
        source = self.device
        if source == device:
            return self
        return record(move(self.array, device), (self,), lambda dy: (move(dy, source),))

    def item(self) -> float | int | bool:
        """The one number in this tensor, as a Python number.  ValueError for any other size."""
        if self.array.size != 1:
            raise ValueError(f"item() needs exactly one number, this tensor has shape {self.shape}")
        return self.array.item()

    def tolist(self):
        """The numbers as nested Python lists."""
        return self.array.tolist()

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __bool__(self) -> bool:
        return bool(self.array)

    def __float__(self) -> float:
        return float(self.array)

    def __int__(self) -> int:
        return int(self.array)

    def __index__(self) -> int:
        return self.array.__index__()

    def __len__(self) -> int:
        return len(self.array)

    def __format__(self, spec: str) -> str:
        """One number as Python formats it, f"{loss:.3f}"; any size without a format."""
        if not spec:
            return str(self)
        if self.array.size != 1:
            raise TypeError(
                f"the format {spec!r} is for one number, and this tensor has shape {self.shape}; "
                "reduce it to one first (.mean()), or print it without a format"
            )
        return format(self.item(), spec)

    def __setitem__(self, index, value):
        raise TypeError(
            "tensors are values and cannot be written into; build a new one with where(), "
            "concatenate() or pad(), or write to the array before it becomes a tensor"
        )

    def __repr__(self) -> str:
        numbers = np.array2string(self.numpy(), separator=", ", threshold=100, prefix="Tensor(")
        notes = [f"dtype={self.dtype}"] if self.dtype != np.float32 else []
        notes += [f"device={self.device!r}"] if self.device != "cpu" else []
        notes += ["requires_grad=True"] if self.requires_grad else []
        return f"Tensor({', '.join([numbers, *notes])})"


def as_array(value: Any):
    """The array behind a tensor's argument: shared where it is one, made where it is numbers."""
    if isinstance(value, np.ndarray):
        # Subclasses such as memmap become plain arrays over the same memory.
        array = value if type(value) in homes else np.asarray(value)
    elif isinstance(value, Tensor):
        raise TypeError(
            "this is a Tensor already; use it, or tensor.detach() for one without a past"
        )
    elif _holds_gradients(value):
        raise TypeError(
            "this is a list of tensors with gradients, which a new tensor would lose; join them "
            "with stack() or concatenate(), or give it tensor.detach() of each"
        )
    elif type(value).__module__.split(".")[0] == "cupy":
        return value
    else:
        array = np.asarray(value)
        if array.dtype == np.float64 and not isinstance(value, np.generic):
            array = array.astype(np.float32)
    if array.dtype.kind not in "fiub" and not is_floating(array.dtype):
        raise TypeError(f"a tensor holds numbers, got an array of dtype {array.dtype}")
    return array


def _holds_gradients(value):
    """Whether a list, or one of the lists in it, holds a tensor through which gradients flow."""
    if isinstance(value, Tensor):
        return value.node is not None
    return isinstance(value, (list, tuple)) and any(map(_holds_gradients, value))


def as_tensor(value: Any) -> Tensor:
    """`value` itself if it is a tensor, else a tensor made of it.

    While the tape is recording, an array is copied: it is the caller's, who may fill it anew
    before the backward pass.
    """
    if isinstance(value, Tensor):
        return value
    return Tensor(value.copy() if hasattr(value, "dtype") and current().recording else value)


def wrap(array: Any) -> Tensor:
    """A tensor around an array, without checks and without a past: for results of operations."""
    tensor = Tensor.__new__(Tensor)
    # numpy turns results with no axes into scalars; ours stay arrays.
    tensor.array = np.asarray(array) if isinstance(array, np.generic) else array
    tensor.node = None
    return tensor


def record(
    array: Any, inputs: Sequence[Tensor], backward: Callable, takes_waiting: bool = False
) -> Tensor:
    """Wrap an operation's result, putting it on the tape if any input is there.

    array          the operation's result
    inputs         the tensors it was computed from
    backward       given the gradient at the result, returns a tuple with one gradient for each
                   input, each of that input's shape: None for an input that has no gradient
                   (integer ids, say), ADDED for one already written to its leaf's buffer
    takes_waiting  whether backward adds for itself what waits at its first input.  It is then
                   called with two arguments: the gradient at the result, and the gradient that
                   other uses of the first input have left there in this walk, or None.  What it
                   returns for that input is the sum of both.  It does not write into either

    `backward` has no default: an operation without a gradient cannot be written by accident.
    """
    out = wrap(array)
    modes = current()
    if modes.observer is not None:
        backward = modes.observer.recorded(out.array, inputs, backward)
    if modes.recording:
        parents = tuple([tensor.node for tensor in inputs])
        for parent in parents:
            if parent is not None:
                out.node = tape.Node(parents, backward, takes_waiting)
                break
    elif modes.met is not None:
        modes.met.update({x.node: x for x in inputs if x.node is not None})
    return out


def _gradient_like(tensor, grad):
    """`grad` as an array of the tensor's shape, dtype and device, or a clear error."""
    given = grad.array if isinstance(grad, Tensor) else grad
    # np.asarray: as_array would round Python's floats to float32, whatever the tensor's dtype.
    array = as_array(given if hasattr(given, "dtype") else np.asarray(given))
    if array.shape != tensor.shape:
        raise ValueError(
            f"the gradient at a tensor has the tensor's shape {tensor.shape}, got {array.shape}"
        )
    if device_of(array) != tensor.device:
        raise ValueError(f"the gradient is on {device_of(array)}, its tensor on {tensor.device}")
    return array.astype(tensor.dtype, copy=False)
