"""Operations that turn many numbers into one: sum, mean, max and their relatives.

The arguments are numpy's: `axis` is None (all numbers), an axis, or a tuple of axes, negative
ones counted from the last; `keepdims` keeps reduced axes with length 1.

A reduction maps many numbers to one, so its gradient maps one number back to many.  Each
gradient below is `dy` stretched to the input's shape again (`_stretch`), times what the result
owes to each number: 1 for a sum, 1/n for a mean, the share of the winner for a maximum.

What is kept: nothing for sum and mean, the input (and at most the result) for the others.

float16 and bfloat16 are too short to add up in, or to count in: float16 ends at 65,504.  Such
numbers go through float32, and the result and the gradient come back in the input's dtype.

In order: sums, extremes, products and running sums, logsumexp, results without a gradient.
"""

from typing import Any

import numpy as np

from tricycle_autograd.arrays import is_floating, is_half
from tricycle_autograd.devices import array_module
from tricycle_autograd.shapes import astype
from tricycle_autograd.tensor import Tensor, as_tensor, record, wrap

Axis = int | tuple[int, ...] | None


def sum(a: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Add up; the sum of no numbers is 0."""
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(sum, a, axis=axis, keepdims=keepdims)
    x = a.array
    shape = x.shape
    out = x.sum(axis=axis, keepdims=keepdims)
    return record(out, (a,), lambda dy: (_stretch(dy, shape, axis, keepdims),))


def mean(a: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The average: the sum divided by the number of numbers."""
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(mean, a, axis=axis, keepdims=keepdims)
    x = a.array
    shape = x.shape
    out = x.mean(axis=axis, keepdims=keepdims)
    n = _how_many(x, out)
    return record(out, (a,), lambda dy: (_stretch(dy / n, shape, axis, keepdims),))


def var(a: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """The mean squared distance from the mean, the sum divided by n - ddof.

    The mean moves with the numbers, but the distances from it always add up to 0, so that its
    part of the gradient vanishes:  dx = dy · 2 (x - mean) / (n - ddof).
    """
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(var, a, axis=axis, ddof=ddof, keepdims=keepdims)
    x = a.array
    out = x.var(axis=axis, ddof=ddof, keepdims=keepdims)
    n = _how_many(x, out)

    def backward(dy):
        distance = x - x.mean(axis=axis, keepdims=True)
        return (_stretch(dy, x.shape, axis, keepdims) * (2 * distance) / (n - ddof),)

    return record(out, (a,), backward)


def std(a: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """The standard deviation, the square root of `var`.

    Where all numbers are equal it is 0, at the tip of a cone, and the gradient is taken as 0.
    """
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(std, a, axis=axis, ddof=ddof, keepdims=keepdims)
    x = a.array
    out = x.std(axis=axis, ddof=ddof, keepdims=keepdims)
    n = _how_many(x, out)

    def backward(dy):
        xp = array_module(x)
        distance = x - x.mean(axis=axis, keepdims=True)
        slope = dy / xp.where(out == 0, 1, out)
        return (_stretch(slope, x.shape, axis, keepdims) * distance / (n - ddof),)

    return record(out, (a,), backward)


# ---- extremes ----


def max(a: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest number; equal ones share the gradient equally.  ValueError for no numbers."""
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(max, a, axis=axis, keepdims=keepdims)
    x = a.array
    out = x.max(axis=axis, keepdims=keepdims)
    return record(out, (a,), lambda dy: (_share_among_winners(dy, x, out, axis, keepdims),))


def min(a: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest number; equal ones share the gradient equally.  ValueError for no numbers."""
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(min, a, axis=axis, keepdims=keepdims)
    x = a.array
    out = x.min(axis=axis, keepdims=keepdims)
    return record(out, (a,), lambda dy: (_share_among_winners(dy, x, out, axis, keepdims),))


# ---- products and running sums ----


def prod(a: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Multiply; the product of no numbers is 1.

    The gradient of each number is the product of the others.  That is the whole product divided
    by it, except around zeros: one zero among others gets the product of the others, and two
    zeros leave no number with any influence.
    """
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(prod, a, axis=axis, keepdims=keepdims)
    x = a.array
    out = x.prod(axis=axis, keepdims=keepdims)

    def backward(dy):
        xp = array_module(x)
        is_zero = x == 0
        zeros = is_zero.sum(axis=axis, keepdims=True)
        nonzero = xp.where(is_zero, 1, x)
        others = nonzero.prod(axis=axis, keepdims=True) / nonzero
        # The others multiply to 0 unless this number is the only zero, or there is none.
        others = xp.where(zeros == is_zero, others, 0)
        return (_stretch(dy, x.shape, axis, keepdims) * others,)

    return record(out, (a,), backward)


def cumsum(a: Any, axis: int | None = None) -> Tensor:
    """Running totals along an axis, or of all numbers in order for axis None (then flat).

    A number is part of its own total and of every later one, so its gradient is the sum of `dy`
    from its place to the end: a running total from the other end.
    """
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(cumsum, a, axis=axis)
    shape = a.shape
    out = a.array.cumsum(axis=axis)

    def backward(dy):
        xp = array_module(dy)
        along = 0 if axis is None else axis
        from_the_end = xp.flip(xp.cumsum(xp.flip(dy, along), axis=along), along)
        return (from_the_end.reshape(shape),)

    return record(out, (a,), backward)


def logsumexp(a: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(e^a)), finite for numbers of any size.

    The largest number is taken out first: log(sum(e^(a - m))) + m, so that nothing overflows.
    The gradient is softmax(a).  The result for numbers that are all -inf is -inf, and they get
    gradient 0.
    """
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(logsumexp, a, axis=axis, keepdims=keepdims)
    # Unsigned integers have no negative, and small ones overflow.
    x = a.array if is_floating(a.dtype) else a.array.astype(np.float64)
    xp = array_module(x)
    largest = x.max(axis=axis, keepdims=True) if x.size else xp.zeros((), x.dtype)
    largest = xp.where(xp.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):
        total = xp.log(xp.exp(x - largest).sum(axis=axis, keepdims=True)) + largest
    out = total if keepdims else total.reshape(_shape_without(total, axis))

    def backward(dy):
        softmax = xp.exp(x - xp.where(total == -np.inf, 0, total))
        return (_stretch(dy, x.shape, axis, keepdims) * softmax,)

    return record(out, (a,), backward)


# ---- results without a gradient ----


def argmax(a: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position of the first largest number; among all of them, flat, for axis None."""
    return wrap(as_tensor(a).array.argmax(axis=axis, keepdims=keepdims))


def argmin(a: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position of the first smallest number; among all of them, flat, for axis None."""
    return wrap(as_tensor(a).array.argmin(axis=axis, keepdims=keepdims))


def all(a: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether every number is true, that is not 0."""
    return wrap(as_tensor(a).array.all(axis=axis, keepdims=keepdims))


def any(a: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether at least one number is true, that is not 0."""
    return wrap(as_tensor(a).array.any(axis=axis, keepdims=keepdims))


# ---- helpers ----


def _through_float32(reduction, a, **options):
    """A reduction of half-precision numbers, calculated in float32 like its gradient."""
    return astype(reduction(astype(a, np.float32), **options), a.dtype)


def _stretch(dy, shape, axis, keepdims):
    """A reduction's gradient, repeated along the reduced axes (a view: nothing is copied)."""
    xp = array_module(dy)
    if axis is not None and not keepdims:
        dy = xp.expand_dims(dy, axis)
    return xp.broadcast_to(dy, shape)


def _how_many(x, out):
    """How many numbers of x went into each number of out (1 where there are none at all)."""
    return x.size // out.size if x.size else 1


def _share_among_winners(dy, x, out, axis, keepdims):
    best = _stretch(out, x.shape, axis, keepdims)
    won = (x == best).astype(x.dtype)
    share = won / won.sum(axis=axis, keepdims=True)
    return _stretch(dy, x.shape, axis, keepdims) * share


def _shape_without(total, axis):
    """The shape of a reduction's result whose reduced axes were kept."""
    if axis is None:
        return ()
    reduced = {i % total.ndim for i in (axis if isinstance(axis, tuple) else (axis,))}
    return tuple(n for i, n in enumerate(total.shape) if i not in reduced)
