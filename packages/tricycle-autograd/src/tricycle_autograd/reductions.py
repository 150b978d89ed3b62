"""Operations that turn many numbers into one: sum, mean, max and their relatives.

The arguments are numpy's: `axis` is None (all numbers), an axis, or a tuple of axes, negative
ones counted from the last; `keepdims` keeps reduced axes with length 1.

A reduction maps many numbers to one, so its gradient maps one number back to many.  Each
gradient below is `dy` stretched to the input's shape again (`_stretch`), times what the result
owes to each number: 1 for a sum, 1/n for a mean, the share of the winner for a maximum.

What is kept: nothing for sum and mean, the input (and at most the result) for the others.

float16 and bfloat16 are too short to add up in, or to count in: float16 ends at 65,504.  Such
numbers go through float32, and the result and the gradient come back in the input's dtype.
Sums of float32 are held in float64 where numpy would add many numbers one after the other.

In order: sums, extremes, products and running sums, norms, logsumexp, results without a gradient.
"""

import builtins
import math
from typing import Any

import numpy as np

from tricycle_autograd import elementwise
from tricycle_autograd.arrays import FLOAT32, exact_sum, is_floating, is_half
from tricycle_autograd.axes import normalise_axes
from tricycle_autograd.devices import array_module, device_of
from tricycle_autograd.elementwise import where
from tricycle_autograd.shapes import astype, squeeze
from tricycle_autograd.tensor import Tensor, as_tensor, record, wrap

Axis = int | tuple[int, ...] | None


def sum(a: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Add up; the sum of no numbers is 0."""
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(sum, a, axis=axis, keepdims=keepdims)
    x = a.array
    shape = x.shape
    out = exact_sum(x, axis, keepdims)
    return record(out, (a,), lambda dy: (_stretch(dy, shape, axis, keepdims),))


def mean(a: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The average: the sum divided by the number of numbers."""
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(mean, a, axis=axis, keepdims=keepdims)
    x = a.array
    shape = x.shape
    out = _narrow(x.mean(axis=axis, keepdims=keepdims, **_wide(x)), x)
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
    out = _narrow(x.var(axis=axis, ddof=ddof, keepdims=keepdims, **_wide(x)), x)
    n = _how_many(x, out)

    def backward(dy):
        distance = _narrow(x - x.mean(axis=axis, keepdims=True, **_wide(x)), x)
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
    out = _narrow(x.std(axis=axis, ddof=ddof, keepdims=keepdims, **_wide(x)), x)
    n = _how_many(x, out)

    def backward(dy):
        xp = array_module(x)
        distance = _narrow(x - x.mean(axis=axis, keepdims=True, **_wide(x)), x)
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

    The gradient of each number is the product of the others: of those before it times those
    after it.  (The whole product divided by the number itself would be 0/0 for a zero, and
    inf/inf for an infinity.)  float32 is multiplied in float64, where 1e30 · 1e30 · 1e-30 is no
    infinity on the way.
    """
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(prod, a, axis=axis, keepdims=keepdims)
    x = a.array
    out = _narrow(x.prod(axis=axis, keepdims=keepdims, **_wide(x)), x)

    def backward(dy):
        rows, back = _as_rows(x, axis)  # (N, n): what is multiplied lies along the last axis
        others = _products_before(rows) * _products_before(rows[:, ::-1])[:, ::-1]
        return (_stretch(dy, x.shape, axis, keepdims) * back(_narrow(others, x)),)

    return record(out, (a,), backward)


def cumsum(a: Any, axis: int | None = None) -> Tensor:
    """Running totals along an axis, or of all numbers in order for axis None (then flat).

    A number is part of its own total and of every later one, so its gradient is the sum of `dy`
    from its place to the end: a running total from the other end.
    """
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(cumsum, a, axis=axis)
    x = a.array
    shape = x.shape
    out = _narrow(x.cumsum(axis=axis, **_wide(x)), x)

    def backward(dy):
        xp = array_module(dy)
        along = 0 if axis is None else axis
        from_the_end = xp.flip(xp.flip(dy, along).cumsum(axis=along, **_wide(dy)), along)
        return (_narrow(from_the_end, dy).reshape(shape),)

    return record(out, (a,), backward)


def cumprod(a: Any, axis: int | None = None) -> Tensor:
    """Running products along an axis, or of all numbers in order for axis None (then flat).

    A number is in its own product and in every later one, each time beside all before it.  So its
    gradient is the product of those before it, times Σ dy · product of those between: a sum that
    is made from the end, S[i] = dy[i] + x[i + 1] · S[i + 1], without dividing by anything.
    """
    a = as_tensor(a)
    if a.array.itemsize == 2 and is_half(a.dtype):
        return _through_float32(cumprod, a, axis=axis)
    x = a.array
    out = _narrow(x.cumprod(axis=axis, **_wide(x)), x)

    def backward(dy):
        rows, back = _as_rows(x, axis)  # (N, n)
        sums = _as_rows(dy, axis)[0].copy()
        for i in reversed(range(rows.shape[1] - 1)):
            sums[:, i] += rows[:, i + 1] * sums[:, i + 1]
        return (back(_narrow(_products_before(rows) * sums, x)),)

    return record(out, (a,), backward)


def norm(
    x: Any, ord: float | str | None = None, axis: Axis = None, keepdims: bool = False
) -> Tensor:
    """The length of vectors, as numpy.linalg.norm: (Σ |x|^ord)^(1/ord), √Σ x² without `ord`.

    ord   a number other than 0; inf and -inf are the largest and smallest |x|
    axis  the axis of the vectors; two axes are of matrices, for which `ord` is "fro" (√Σ x²), 1
          or inf (the largest sum of a column, of a row) or their opposites; None is all axes

    Where a length is 0 the gradient is taken as 0.  Raises ValueError for the norms of matrices
    that need their singular values (2, -2, "nuc"), and for other words.
    """
    x = as_tensor(x)
    if not is_floating(x.dtype):
        x = astype(x, np.float64)  # as numpy does: powers of integers would not fit
    axes = range(x.ndim) if axis is None else normalise_axes("norm", axis, x.shape)
    if ord is None or (ord == "fro" and len(axes) == 2) or (ord == 2 and len(axes) == 1):
        return _euclidean_norm(x, tuple(axes), keepdims)
    if isinstance(ord, str) or ord == 0 or len(axes) not in (1, 2):
        raise ValueError(f"norm: ord {ord!r} of {len(axes)} axes is not known; see help(norm)")
    if len(axes) == 2:
        if ord not in (1, -1, math.inf, -math.inf):
            raise ValueError(
                f"norm: ord {ord} of a matrix needs its singular values, of which there is no "
                "gradient here; give one axis for vectors, or take the numbers alone: "
                "np.linalg.norm(tensor.numpy(), ord)"
            )
        rows, columns = axes
        summed, other = (rows, columns) if builtins.abs(ord) == 1 else (columns, rows)
        sums = sum(elementwise.abs(x), axis=summed, keepdims=True)
        largest = (max if ord > 0 else min)(sums, axis=other, keepdims=True)
        return largest if keepdims else squeeze(largest, tuple(axes))
    size = elementwise.abs(x)
    if math.isinf(ord):
        return (max if ord > 0 else min)(size, axis=axis, keepdims=keepdims)
    if ord == 1:
        return sum(size, axis=axis, keepdims=keepdims)
    if ord < 1:
        # The slope of such a power is infinite at 0, where that of |x| is taken as 0.
        none = size.array == 0
        powers = where(none, 0.0 if ord > 0 else math.inf, where(none, 1.0, size) ** ord)
    else:
        powers = size**ord
    total = sum(powers, axis=axis, keepdims=keepdims)
    # The slope of the root is infinite where a length is 0.
    nothing = total.array == (0 if ord > 0 else math.inf)
    return where(nothing, 0.0, where(nothing, 1.0, total) ** (1 / ord))


def _euclidean_norm(x, axes, keepdims):
    """√Σ x², whose gradient is x / √Σ x²; float32 squared and added up in float64."""
    a = x.array
    xp = array_module(a)
    wide = a if a.dtype.itemsize == 16 else a.astype(np.float64)
    total = xp.sqrt((wide * wide).sum(axis=axes, keepdims=True))
    dtype = a.dtype if is_floating(a.dtype) else np.float64
    out = total if keepdims else total.reshape(_shape_without(total, axes))

    def backward(dy):
        share = wide / xp.where(total == 0, 1, total)
        return ((dy.reshape(total.shape) * share).astype(a.dtype),)

    return record(out.astype(dtype), (x,), backward)


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
        total = xp.log(exact_sum(xp.exp(x - largest), axis, keepdims=True)) + largest
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


def _wide(x):
    """The dtype in which float32 numbers are added up or multiplied, as an option for numpy."""
    return {"dtype": np.float64} if x.dtype == FLOAT32 and device_of(x) == "cpu" else {}


def _narrow(result, x):
    """A result in the dtype of the float32 numbers that it was made of."""
    return result.astype(FLOAT32) if x.dtype == FLOAT32 else result


def _as_rows(x, axis):
    """x as (N, n), the axes that are reduced as the last; and a function that undoes it."""
    axes = range(x.ndim) if axis is None else normalise_axes("prod", axis, x.shape)
    order = [*[i for i in range(x.ndim) if i not in axes], *axes]
    moved = x.transpose(order)
    n = math.prod([x.shape[i] for i in axes])
    rows = moved.reshape(x.size // n if n else 0, n).astype(np.float64, copy=False)

    def back(rows):
        return rows.reshape(moved.shape).transpose(sorted(range(x.ndim), key=order.__getitem__))

    return rows, back


def _products_before(rows):
    """For each number of each row the product of those before it; 1 for the first."""
    xp = array_module(rows)
    ones = xp.ones((len(rows), 1), rows.dtype)
    return xp.cumprod(xp.concatenate([ones, rows[:, :-1]], axis=1), axis=1)


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
