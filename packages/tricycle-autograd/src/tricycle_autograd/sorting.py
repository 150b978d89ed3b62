"""Sorting: the same numbers in their order, and what is chosen by it.

Sorting moves numbers, so the gradient moves back to where each came from: `take_along_axis` of
the order, whose gradient that is.
"""

import math
from typing import Any

from tricycle_autograd.axes import normalise_axes, normalise_axis
from tricycle_autograd.elementwise import where
from tricycle_autograd.indexing import getitem, take_along_axis
from tricycle_autograd.reductions import Axis, mean
from tricycle_autograd.shapes import ravel, reshape, transpose
from tricycle_autograd.tensor import Tensor, as_tensor, wrap


def sort(a: Any, axis: int | None = -1) -> Tensor:
    """The numbers along an axis in rising order, NaN last; of all of them for axis None."""
    a = as_tensor(a)
    if axis is None:
        a, axis = ravel(a), 0
    return take_along_axis(a, argsort(a, axis), axis)


def argsort(a: Any, axis: int | None = -1) -> Tensor:
    """The places of the numbers along an axis in rising order; equal ones keep theirs."""
    a = as_tensor(a)
    if axis is None:
        a, axis = ravel(a), 0
    axis = normalise_axis("argsort", axis, a.shape)
    return wrap(a.array.argsort(axis=axis, kind="stable"))


def median(a: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The number in the middle, or the mean of the two there, which share the gradient.

    NaN among the numbers makes it NaN.  Raises ValueError for no numbers.
    """
    a = as_tensor(a)
    axes = range(a.ndim) if axis is None else normalise_axes("median", axis, a.shape)
    kept = [i for i in range(a.ndim) if i not in axes]
    n = math.prod(a.shape[i] for i in axes)
    rows = reshape(transpose(a, [*kept, *axes]), [*[a.shape[i] for i in kept], n])
    if n == 0:
        raise ValueError(f"median needs at least one number, got shape {a.shape}")
    in_order = sort(rows)
    middle = mean(getitem(in_order, (..., slice((n - 1) // 2, n // 2 + 1))), axis=-1)
    last = getitem(in_order, (..., n - 1))
    middle = where(last != last, last, middle)
    if keepdims:
        middle = reshape(middle, [1 if i in axes else a.shape[i] for i in range(a.ndim)])
    return middle
