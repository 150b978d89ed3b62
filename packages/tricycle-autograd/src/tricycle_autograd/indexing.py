"""Indexing: choosing numbers by their places.

    x[2:5]          slices, integers, None and ... choose each number at most once, so the
                    gradient is zeros with dy written into those places
    x[ids]          integer arrays may choose a number several times (a word that occurs
                    twice in a text), and then its gradients add up
    x[mask]         boolean arrays choose each number at most once

Adding up is the only hard part.  `scatter_add` sorts the places, so that equal ones become
neighbours, and sums each run of neighbours, float32 in float64: the order of the sum is fixed,
and nothing is done a number at a time.

In order: indexing, the sum over repeated places, numpy's other ways to choose.
"""

from typing import Any

import numpy as np

from tricycle_autograd.arrays import FLOAT32, in_float32
from tricycle_autograd.axes import normalise_axis
from tricycle_autograd.devices import array_module, device_of
from tricycle_autograd.shapes import add_up, ravel
from tricycle_autograd.tensor import Tensor, as_tensor, record


def getitem(x: Any, index: Any) -> Tensor:
    """x[index], with everything numpy allows as an index, and tensors of integers or booleans.

    Raises IndexError if an integer is out of range or there are more indices than axes.
    """
    x = as_tensor(x)
    array = x.array
    parts, repeats = ((index, ...), False) if _is_simple(index) else _parts(index)
    parts = tuple([_own(part) for part in parts])
    if type(array) is not np.ndarray and device_of(array) == "cuda":
        _check_bounds(parts, array.shape)

    shape = array.shape  # not the array: it may be the largest of a model

    def backward(dy):
        xp = array_module(dy)
        if not repeats:
            dx = xp.zeros(shape, dy.dtype)
            dx[parts] = dy
            return (dx,)
        sums = in_float32(dy)
        dx = xp.zeros(shape, sums.dtype)
        _add_at(dx, parts, sums)
        return (dx.astype(dy.dtype, copy=False),)

    return record(array[parts], (x,), backward)


def _is_simple(index):
    """Whether an index is one slice or one number: the usual case, quickly."""
    return type(index) is slice or type(index) is int


def _parts(index):
    """The parts of an index as numpy knows them, and whether it may choose a number twice."""
    parts = tuple([_plain(part) for part in (index if isinstance(index, tuple) else (index,))])
    if not any(part is Ellipsis for part in parts):
        parts = (*parts, ...)  # so that a single number comes out as an array too
    advanced = [part for part in parts if not _is_basic(part)]
    # Repeats need integer arrays: a mask, like a slice, chooses each number at most once.
    return parts, len(advanced) > 1 or any(part.dtype.kind != "b" for part in advanced)


def _plain(part):
    """One part of an index as numpy knows it: tensors, lists and ranges become arrays."""
    if isinstance(part, Tensor):
        part = part.array
    is_array = hasattr(part, "dtype") and not isinstance(part, np.generic)
    if isinstance(part, bool) or not (is_array or _is_basic(part)):
        part = np.asarray(part)
        part = part if part.size else part.astype(np.intp)
    if isinstance(part, np.ndarray) and part.dtype.kind not in "iub":
        raise IndexError(
            f"an index must be integers or booleans, got an array of dtype {part.dtype}; "
            "convert it with .astype(int)"
        )
    return part


def _own(part):
    """A copy of an array in an index: the caller may fill it anew before the backward pass, and
    another thread while numpy looks numbers up by what it has checked."""
    return part.copy() if hasattr(part, "dtype") else part


def _is_basic(part):
    return part is None or part is Ellipsis or isinstance(part, (slice, int, np.integer))


def _n_axes(part):
    """How many axes of the array one part of an index (not an Ellipsis) uses up."""
    if part is None:
        return 0
    return part.ndim if hasattr(part, "dtype") and part.dtype.kind == "b" else 1


def _check_bounds(parts, shape):
    """IndexError for integer arrays out of range: cupy would wrap them around silently."""
    used = sum([_n_axes(part) for part in parts if part is not Ellipsis])
    axis = 0
    for part in parts:
        if part is Ellipsis:
            axis += len(shape) - used
            continue
        if hasattr(part, "dtype") and part.dtype.kind in "iu" and part.size and axis < len(shape):
            low, high, n = int(part.min()), int(part.max()), shape[axis]
            if low < -n or high >= n:
                wrong = low if low < -n else high
                raise IndexError(f"index {wrong} is out of bounds for axis {axis} with size {n}")
        axis += _n_axes(part)


def _add_at(dx, parts, dy):
    """dx[parts] += dy, where places chosen several times receive every contribution.

    Axes after the last one that is indexed are carried along whole.  So dx is seen as
    (places, row), and the index says which place each row of dy came from.
    """
    xp = array_module(dx)
    parts = list(parts)
    while parts and (parts[-1] is Ellipsis or _is_full_slice(parts[-1])):
        parts.pop()
    has_ellipsis = any(part is Ellipsis for part in parts)
    n_lead = dx.ndim if has_ellipsis else sum([_n_axes(part) for part in parts])
    lead = dx.shape[:n_lead]
    n_places = int(np.prod(lead))
    places = xp.arange(n_places).reshape(lead)[tuple(parts)].reshape(-1)
    if dy.size:
        scatter_add(dx.reshape(n_places, -1), places, dy.reshape(places.size, -1))


def _is_full_slice(part):
    return isinstance(part, slice) and part == slice(None)


def scatter_add(destination, places, rows) -> None:
    """destination[places[i]] += rows[i] for every i, in order.

    destination  (N, C)    rows  (M, C)    places  (M,) integers from 0 to N - 1; M > 0
    """
    xp = array_module(destination)
    wide = {"dtype": np.float64} if xp is np and rows.dtype == FLOAT32 else {}
    if destination.shape[1] == 1:  # fast for single numbers only
        if wide:
            destination[:, 0] += np.bincount(places, rows[:, 0], len(destination))
        else:
            xp.add.at(destination[:, 0], places, rows[:, 0])
        return
    order = xp.argsort(places, kind="stable")
    places = places[order]
    starts = xp.flatnonzero(xp.concatenate([places[:1] >= 0, places[1:] != places[:-1]]))
    destination[places[starts]] += xp.add.reduceat(rows[order], starts, axis=0, **wide)


# ---- numpy's other ways to choose ----


def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """The entries at `indices` along an axis; without one, of x as one row.

    indices  integers, of any shape, which replaces the axis in the result

    Raises IndexError if one is out of range.
    """
    x = as_tensor(x)
    if axis is None:
        x, axis = ravel(x), 0
    axis = normalise_axis("take", axis, x.shape)
    indices = _integers("take", x, indices)
    return getitem(x, (slice(None),) * axis + (indices,))


def take_along_axis(x: Any, indices: Any, axis: int | None = -1) -> Tensor:
    """One entry, or several, from each row: the rows run along `axis`.

    indices  integers of x's shape, except along `axis`; axes of length 1 stretch
    axis     None takes x as one row, and one row of indices

    >>> take_along_axis(Tensor([[1, 2, 3], [4, 5, 6]]), [[2], [0]], axis=1)
    Tensor([[3],
            [4]], dtype=int64)
    """
    x = as_tensor(x)
    if axis is None:
        x, axis = ravel(x), 0
    axis = normalise_axis("take_along_axis", axis, x.shape)
    indices = _integers("take_along_axis", x, indices)
    pairs = enumerate(zip(x.shape, indices.shape))
    fits = indices.ndim == x.ndim and all(i == axis or 1 in (n, m) or n == m for i, (n, m) in pairs)
    if not fits:
        raise ValueError(
            f"take_along_axis: indices of shape {indices.shape} do not match {x.shape} "
            f"outside axis {axis}"
        )
    xp = array_module(x.array)
    index = [
        indices if i == axis else xp.arange(n).reshape([-1 if i == j else 1 for j in range(x.ndim)])
        for i, n in enumerate(x.shape)
    ]
    return getitem(x, tuple(index))


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Tensor:
    """Repeat each entry along an axis: `repeats` times, or its own number of times.

    repeats  an integer, or one for each entry along the axis
    axis     without it, x is taken as one row

    >>> repeat(Tensor([5, 7]), [1, 2])
    Tensor([5, 7, 7], dtype=int64)
    """
    x = as_tensor(x)
    if axis is None:
        x, axis = ravel(x), 0
    axis = normalise_axis("repeat", axis, x.shape)
    xp = array_module(x.array)
    before, n = x.shape, x.shape[axis]
    counts = np.array(repeats.array if isinstance(repeats, Tensor) else repeats)  # a copy, checked
    if counts.dtype.kind not in "iu" or counts.min(initial=0) < 0:
        raise ValueError(f"repeat: repeats must be integers from 0 up, got {repeats}")
    if counts.size != 1:
        if counts.shape != (n,):
            raise ValueError(
                f"repeat: axis {axis} of shape {before} needs {n} counts, got {counts.size}"
            )
        return take(x, xp.asarray(np.repeat(np.arange(n), counts)), axis)
    count = int(counts.reshape(()))

    def backward(dy):
        return (add_up(dy.reshape(*before[: axis + 1], count, *before[axis + 1 :]), axis + 1),)

    return record(xp.repeat(x.array, count, axis), (x,), backward)


def _integers(name, x, indices):
    indices = indices.array if isinstance(indices, Tensor) else indices
    indices = array_module(x.array).asarray(indices)
    if indices.size == 0:
        indices = indices.astype(np.intp)
    if indices.dtype.kind not in "iu":
        raise IndexError(f"{name}: indices must be integers, got dtype {indices.dtype}")
    return indices


def tril(x: Any, k: int = 0) -> Tensor:
    """The lower triangle of each matrix, zeros above diagonal `k` (0 is the main one)."""
    x = _matrices("tril", x)
    xp = array_module(x.array)
    return record(xp.tril(x.array, k), (x,), lambda dy: (xp.tril(dy, k),))


def triu(x: Any, k: int = 0) -> Tensor:
    """The upper triangle of each matrix, zeros below diagonal `k` (0 is the main one)."""
    x = _matrices("triu", x)
    xp = array_module(x.array)
    return record(xp.triu(x.array, k), (x,), lambda dy: (xp.triu(dy, k),))


def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The diagonal of the matrices in two axes of x, as a new last axis.

    offset  0 is the main diagonal, positive ones lie above it
    """
    x = _matrices("diagonal", x)
    axis1 = normalise_axis("diagonal", axis1, x.shape)
    axis2 = normalise_axis("diagonal", axis2, x.shape)
    if axis1 == axis2:
        raise ValueError(
            f"diagonal: needs two different axes of shape {x.shape}, got {axis1} twice"
        )
    shape = x.shape

    def backward(dy):
        dx = array_module(dy).zeros_like(dy, shape=shape)
        _put_diagonal(dx, dy, offset, axis1, axis2)
        return (dx,)

    return record(x.array.diagonal(offset, axis1, axis2), (x,), backward)


def _put_diagonal(array, values, offset, axis1, axis2):
    """Write values into the diagonal that `diagonal` reads."""
    xp = array_module(array)
    matrices = xp.moveaxis(array, (axis1, axis2), (-2, -1))
    n_rows, n_columns = matrices.shape[-2:]
    first_row, first_column = max(-offset, 0), max(offset, 0)
    along = xp.arange(max(min(n_rows - first_row, n_columns - first_column), 0))
    matrices[..., first_row + along, first_column + along] = values


def _matrices(name, x):
    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(f"{name}: needs at least two axes, got shape {x.shape}")
    return x
