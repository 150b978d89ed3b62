"""Which function each operator and method of a tensor calls.

`x + y` is add(x, y), and `x.sum(axis=0)` is sum(x, axis=0): the methods are numpy's, and each is
one line.  The functions live in elementwise, derivatives, reductions, sorting, shapes, indexing,
matmul and einsum.  Those need Tensor, and Tensor needs this class: so this module imports none of
them, and the package puts them into `functions` once it has imported them all.  numpy's own
functions (`np.exp(x)`) find ours through numpy_calls.

There is no `+=` in place: Python turns `x += y` into `x = x + y`, a new tensor.  Comparisons
compare numbers, so `x == y` is a tensor; as keys of dictionaries tensors go by identity.  Beside
what has no numbers, `x == None` is False as it is for any object.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tricycle_autograd.tensor import Tensor

Axis = int | tuple[int, ...] | None

# The package: its names are those of the functions.
functions: Any = None


class NumpyMethods:
    """The operators and numpy methods of Tensor."""

    __slots__ = ()
    __hash__ = object.__hash__

    # ---- numpy's functions: np.exp(x) and array + x ----

    def __array__(self, dtype=None, copy=None):
        if getattr(self, "node", None) is not None:
            functions.numpy_calls.check_caller(sys._getframe(1))
        return np.array(functions.Tensor.numpy(self), dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return functions.numpy_calls.call_ufunc(functions, ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return functions.numpy_calls.call_function(functions, function, args, options)

    # ---- arithmetic ----

    def __add__(self, other: Any) -> "Tensor":
        return functions.add(self, other)

    def __radd__(self, other: Any) -> "Tensor":
        return functions.add(other, self)

    def __sub__(self, other: Any) -> "Tensor":
        return functions.subtract(self, other)

    def __rsub__(self, other: Any) -> "Tensor":
        return functions.subtract(other, self)

    def __mul__(self, other: Any) -> "Tensor":
        return functions.multiply(self, other)

    def __rmul__(self, other: Any) -> "Tensor":
        return functions.multiply(other, self)

    def __truediv__(self, other: Any) -> "Tensor":
        return functions.divide(self, other)

    def __rtruediv__(self, other: Any) -> "Tensor":
        return functions.divide(other, self)

    def __pow__(self, other: Any) -> "Tensor":
        return functions.power(self, other)

    def __rpow__(self, other: Any) -> "Tensor":
        return functions.power(other, self)

    def __mod__(self, other: Any) -> "Tensor":
        return functions.remainder(self, other)

    def __rmod__(self, other: Any) -> "Tensor":
        return functions.remainder(other, self)

    def __floordiv__(self, other: Any) -> "Tensor":
        return functions.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> "Tensor":
        return functions.floor_divide(other, self)

    def __matmul__(self, other: Any) -> "Tensor":
        return functions.matmul(self, other)

    def __rmatmul__(self, other: Any) -> "Tensor":
        return functions.matmul(other, self)

    def __neg__(self) -> "Tensor":
        return functions.negative(self)

    def __pos__(self) -> "Tensor":
        return functions.multiply(self, 1)

    def __abs__(self) -> "Tensor":
        return functions.abs(self)

    def __round__(self, digits: int | None = None) -> Any:
        """One number as Python's round() gives it; several as a tensor."""
        if self.ndim:  # type: ignore[attr-defined]
            return functions.round(self, digits or 0)
        return round(self.item(), digits)  # type: ignore[attr-defined]

    def round(self, decimals: int = 0) -> "Tensor":
        return functions.round(self, decimals)

    def dot(self, other: Any) -> "Tensor":
        return functions.dot(self, other)

    def argsort(self, axis: int | None = -1) -> "Tensor":
        return functions.argsort(self, axis)

    # ---- comparisons and logic ----

    def __eq__(self, other: Any) -> "Tensor":  # type: ignore[override]
        return functions.equal(self, other) if _has_numbers(other) else NotImplemented

    def __ne__(self, other: Any) -> "Tensor":  # type: ignore[override]
        return functions.not_equal(self, other) if _has_numbers(other) else NotImplemented

    def __lt__(self, other: Any) -> "Tensor":
        return functions.less(self, other)

    def __le__(self, other: Any) -> "Tensor":
        return functions.less_equal(self, other)

    def __gt__(self, other: Any) -> "Tensor":
        return functions.greater(self, other)

    def __ge__(self, other: Any) -> "Tensor":
        return functions.greater_equal(self, other)

    def __and__(self, other: Any) -> "Tensor":
        return functions.bitwise_and(self, other)

    def __rand__(self, other: Any) -> "Tensor":
        return functions.bitwise_and(other, self)

    def __or__(self, other: Any) -> "Tensor":
        return functions.bitwise_or(self, other)

    def __ror__(self, other: Any) -> "Tensor":
        return functions.bitwise_or(other, self)

    def __invert__(self) -> "Tensor":
        return functions.invert(self)

    # ---- many numbers to one ----

    def sum(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return functions.sum(self, axis, keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return functions.mean(self, axis, keepdims)

    def var(self, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> "Tensor":
        return functions.var(self, axis, ddof, keepdims)

    def std(self, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> "Tensor":
        return functions.std(self, axis, ddof, keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return functions.max(self, axis, keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return functions.min(self, axis, keepdims)

    def prod(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return functions.prod(self, axis, keepdims)

    def cumprod(self, axis: int | None = None) -> "Tensor":
        return functions.cumprod(self, axis)

    def cumsum(self, axis: int | None = None) -> "Tensor":
        return functions.cumsum(self, axis)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> "Tensor":
        return functions.argmax(self, axis, keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> "Tensor":
        return functions.argmin(self, axis, keepdims)

    def all(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return functions.all(self, axis, keepdims)

    def any(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return functions.any(self, axis, keepdims)

    def trace(self, offset: int = 0) -> "Tensor":
        return functions.trace(self, offset)

    # ---- each number by itself ----

    def clip(self, min: Any = None, max: Any = None) -> "Tensor":
        return functions.clip(self, min, max)

    def astype(self, dtype: Any) -> "Tensor":
        return functions.astype(self, dtype)

    # ---- shapes ----

    @property
    def T(self) -> "Tensor":
        return functions.transpose(self)

    def transpose(self, *axes: Any) -> "Tensor":
        return functions.transpose(self, _one_or_many(axes) if axes else None)

    def reshape(self, *shape: Any) -> "Tensor":
        return functions.reshape(self, _one_or_many(shape))

    def ravel(self) -> "Tensor":
        return functions.ravel(self)

    def flatten(self) -> "Tensor":
        return functions.ravel(self)

    def squeeze(self, axis: Axis = None) -> "Tensor":
        return functions.squeeze(self, axis)

    def swapaxes(self, axis1: int, axis2: int) -> "Tensor":
        return functions.swapaxes(self, axis1, axis2)

    def repeat(self, repeats: Any, axis: int | None = None) -> "Tensor":
        return functions.repeat(self, repeats, axis)

    # ---- parts ----

    def __getitem__(self, index: Any) -> "Tensor":
        return functions.getitem(self, index)

    def __iter__(self) -> "Iterator[Tensor]":
        # A plain list of rows, so that a 0-d tensor complains here as numpy's does.
        return iter([self[i] for i in range(len(self))])  # type: ignore[arg-type]

    def take(self, indices: Any, axis: int | None = None) -> "Tensor":
        return functions.take(self, indices, axis)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> "Tensor":
        return functions.diagonal(self, offset, axis1, axis2)


def _has_numbers(other):
    """Whether it can be compared number by number: not None, say, or a word."""
    return isinstance(other, (int, float, list, tuple)) or hasattr(other, "__array__")


def _one_or_many(arguments):
    """The axes of x.transpose(0, 2, 1) or x.transpose((0, 2, 1)), and the like."""
    return arguments[0] if len(arguments) == 1 and not isinstance(arguments[0], int) else arguments
