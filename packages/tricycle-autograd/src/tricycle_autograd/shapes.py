"""Shapes: the same numbers, laid out another way.

Operations here compute nothing.  They move numbers, repeat them, or leave room around them,
so their gradients only move numbers back, by two rules:

- a number that went to one place gets the gradient of that place;
- a number that went to several places gets the *sum* of their gradients.

The second rule is the whole gradient of broadcasting.  `unbroadcast` is that rule, and every
operation in the library that lets numpy stretch its inputs uses it to find the way back.

Names and arguments are numpy's.  In order: reshaping; reordering axes; repeating; joining and
splitting; dtypes.  (`repeat` chooses numbers by their places: indexing.py.)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tricycle_autograd.additions import add_into, is_half_on_gpu, sum_of_first
from tricycle_autograd.arrays import exact_sum, is_floating
from tricycle_autograd.axes import Axes, normalise_axes, normalise_axis
from tricycle_autograd.devices import array_module, check_same_device
from tricycle_autograd.tensor import Tensor, as_tensor, record


def unbroadcast(grad, shape: tuple[int, ...]):
    """Sum a gradient back to the shape an array had before it was broadcast.

    Axes that were added in front are summed away; axes that were stretched from length 1 are
    summed to length 1.
    """
    if grad.shape == shape:
        return grad
    n_added = grad.ndim - len(shape)
    if grad.shape[n_added:] == shape and is_half_on_gpu(grad):
        return sum_of_first(grad, n_added)
    stretched = [
        n_added + i for i, n in enumerate(shape) if n == 1 and grad.shape[n_added + i] != 1
    ]
    return add_up(grad, (*range(n_added), *stretched), keepdims=True).reshape(shape)


def add_up(array, axis, keepdims=False):
    """The sum of the gradients of one number that went to several places.

    Up to 128 of them are added as numpy does it, so that a step of training keeps its bits.
    """
    return exact_sum(array, axis, keepdims, in_a_row=128)


# ---- Reshaping ----


def reshape(x: Any, shape: int | Sequence[int]) -> Tensor:
    """The same numbers in the same order, in another shape; -1 stands for the length left over.

    >>> reshape(Tensor([[1, 2], [3, 4]]), (1, -1))
    Tensor([[1, 2, 3, 4]], dtype=int64)

    Raises ValueError if the sizes do not fit.
    """
    x = as_tensor(x)
    before = x.shape
    try:
        array = x.array.reshape(shape)
    except ValueError as error:
        raise ValueError(
            f"reshape: {x.size} numbers of shape {before} do not fit shape {shape}"
        ) from error
    return record(array, (x,), lambda dy: (dy.reshape(before),))


def ravel(x: Any) -> Tensor:
    """All the numbers in one row."""
    return reshape(x, -1)


def expand_dims(x: Any, axis: int | Sequence[int]) -> Tensor:
    """Put axes of length 1 where `axis` says, counted in the result."""
    x = as_tensor(x)
    n_new = len(axis) if np.iterable(axis) else 1
    # What matters is how many axes the result has; their lengths are only for a message.
    new = normalise_axes("expand_dims", axis, (*x.shape, *[1] * n_new))
    lengths = iter(x.shape)
    return reshape(x, [1 if i in new else next(lengths) for i in range(x.ndim + n_new)])


def squeeze(x: Any, axis: Axes = None) -> Tensor:
    """Drop axes of length 1: all of them, or those given.

    Raises ValueError if a given axis has another length.
    """
    x = as_tensor(x)
    if axis is None:
        return reshape(x, [n for n in x.shape if n != 1])
    gone = normalise_axes("squeeze", axis, x.shape)
    for i in gone:
        if x.shape[i] != 1:
            raise ValueError(f"squeeze: axis {i} of shape {x.shape} has length {x.shape[i]}, not 1")
    return reshape(x, [n for i, n in enumerate(x.shape) if i not in gone])


# ---- Reordering ----


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """The axes in another order: axis i of the result is axis `axes[i]` of x.

    Without `axes` the order is reversed.  Raises ValueError unless every axis is named once.
    """
    x = as_tensor(x)
    order = tuple(range(x.ndim))[::-1] if axes is None else axes
    order = normalise_axes("transpose", order, x.shape)
    if len(order) != x.ndim:
        raise ValueError(
            f"transpose: axes {order} must name each of the {x.ndim} axes of shape {x.shape}"
        )
    back = sorted(range(len(order)), key=order.__getitem__)
    return record(x.array.transpose(order), (x,), lambda dy: (dy.transpose(back),))


def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """Exchange two axes."""
    x = as_tensor(x)
    first = normalise_axis("swapaxes", axis1, x.shape)
    second = normalise_axis("swapaxes", axis2, x.shape)
    return record(x.array.swapaxes(first, second), (x,), lambda dy: (dy.swapaxes(first, second),))


def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Move axes to new places; the others keep their order."""
    x = as_tensor(x)
    leave = normalise_axes("moveaxis", source, x.shape)
    arrive = normalise_axes("moveaxis", destination, x.shape)
    if len(leave) != len(arrive):
        raise ValueError(
            f"moveaxis: source {source} and destination {destination} differ in number"
        )
    order = [i for i in range(x.ndim) if i not in leave]
    for to, axis in sorted(zip(arrive, leave)):
        order.insert(to, axis)
    return transpose(x, order)


def flip(x: Any, axis: Axes = None) -> Tensor:
    """Reverse the order along every axis, or along those given."""
    x = as_tensor(x)
    axes = normalise_axes("flip", range(x.ndim) if axis is None else axis, x.shape)
    xp = array_module(x.array)
    return record(xp.flip(x.array, axes), (x,), lambda dy: (xp.flip(dy, axes),))


def roll(x: Any, shift: int | Sequence[int], axis: Axes = None) -> Tensor:
    """Shift along axes; what falls off one end comes back at the other.

    Without `axis` the numbers are shifted as if they were in one row.
    """
    x = as_tensor(x)
    if axis is not None:
        for one in axis if np.iterable(axis) else (axis,):
            normalise_axis("roll", one, x.shape)
    xp = array_module(x.array)
    back = tuple([-n for n in shift]) if np.iterable(shift) else -shift
    return record(xp.roll(x.array, shift, axis), (x,), lambda dy: (xp.roll(dy, back, axis),))


# ---- Repeating, and leaving room ----


def broadcast_to(x: Any, shape: int | Sequence[int]) -> Tensor:
    """Stretch axes of length 1, and put new ones in front, until x has `shape`; no copy is made.

    Raises ValueError if an axis of another length would have to stretch.
    """
    x = as_tensor(x)
    before = x.shape
    try:
        array = array_module(x.array).broadcast_to(x.array, shape)
    except ValueError as error:
        raise ValueError(
            f"broadcast_to: shape {before} does not stretch to {shape}; read from the right, "
            "each axis must be equal or 1"
        ) from error
    return record(array, (x,), lambda dy: (unbroadcast(dy, before),))


def tile(x: Any, reps: int | Sequence[int]) -> Tensor:
    """Lay copies of the whole of x side by side, `reps` of them along each axis.

    With fewer counts than axes they are for the last axes; with more, x gets new first axes.
    """
    x = as_tensor(x)
    before = x.shape
    counts = tuple(reps) if np.iterable(reps) else (reps,)
    ndim = max(len(counts), x.ndim)
    counts = (1,) * (ndim - len(counts)) + counts
    lengths = (1,) * (ndim - x.ndim) + before
    # Each axis of the result is a grid: which copy, then where in the copy.
    grid = [n for pair in zip(counts, lengths) for n in pair]
    copies = tuple(range(0, 2 * ndim, 2))

    def backward(dy):
        return (add_up(dy.reshape(grid), copies).reshape(before),)

    return record(array_module(x.array).tile(x.array, counts), (x,), backward)


def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: float = 0) -> Tensor:
    """Put a border of one constant around x.

    pad_width  how many entries to add: a number for every side, a pair (before, after) for
               every axis, or one such pair for each axis

    Raises ValueError for numpy's other modes.
    """
    x = as_tensor(x)
    if mode != "constant":
        raise ValueError(f"pad: mode {mode!r} is not supported, only 'constant' is")
    pad_width = np.asarray(pad_width)
    if pad_width.dtype.kind not in "iu":
        raise TypeError(f"pad: pad_width counts entries in whole numbers, got {pad_width}")
    try:
        pairs = np.broadcast_to(pad_width, (x.ndim, 2))
    except ValueError as error:
        raise ValueError(
            f"pad: pad_width {pad_width.tolist()} does not give a pair (before, after) for each of "
            f"the {x.ndim} axes of shape {x.shape}"
        ) from error
    widths = [(int(before), int(after)) for before, after in pairs]
    if min([n for pair in widths for n in pair], default=0) < 0:
        raise ValueError(f"pad: pad_width must not be negative, got {pad_width}")
    inside = tuple([slice(before, before + n) for (before, _), n in zip(widths, x.shape)])
    array = array_module(x.array).pad(x.array, widths, constant_values=constant_values)
    return record(array, (x,), lambda dy: (dy[inside],))


# ---- Joining and splitting ----


def concatenate(tensors: Sequence[Any], axis: int | None = 0) -> Tensor:
    """Join tensors along an axis they all have; without one (None), as rows, end to end.

    Raises ValueError if there are none, or if they differ in another axis.
    """
    tensors = _several("concatenate", tensors)
    if axis is None:
        tensors, axis = [ravel(x) for x in tensors], 0
    shape = tensors[0].shape
    axis = normalise_axis("concatenate", axis, shape)
    for x in tensors:
        if x.shape[:axis] + x.shape[axis + 1 :] != shape[:axis] + shape[axis + 1 :]:
            shapes = ", ".join([str(x.shape) for x in tensors])
            raise ValueError(f"concatenate: shapes {shapes} differ outside axis {axis}")
    dtypes = [x.dtype for x in tensors]
    ends = np.cumsum([x.shape[axis] for x in tensors])[:-1].tolist()
    xp = array_module(tensors[0].array)

    def backward(dy):
        pieces = xp.split(dy, ends, axis)
        return tuple([dx.astype(dtype, copy=False) for dx, dtype in zip(pieces, dtypes)])

    return record(xp.concatenate([x.array for x in tensors], axis), tensors, backward)


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    tensors = _several("stack", tensors)
    for x in tensors:
        if x.shape != tensors[0].shape:
            shapes = ", ".join([str(x.shape) for x in tensors])
            raise ValueError(f"stack: shapes {shapes} are not all the same")
    axis = normalise_axis("stack", axis, (len(tensors), *tensors[0].shape))
    dtypes = [x.dtype for x in tensors]
    xp = array_module(tensors[0].array)

    def backward(dy):
        pieces = xp.moveaxis(dy, axis, 0)
        return tuple([dx.astype(dtype, copy=False) for dx, dtype in zip(pieces, dtypes)])

    return record(xp.stack([x.array for x in tensors], axis), tensors, backward)


def hstack(tensors: Sequence[Any]) -> Tensor:
    """Join tensors side by side: along the second axis, vectors along their only one."""
    tensors = [atleast_1d(x) for x in _several("hstack", tensors)]
    return concatenate(tensors, axis=0 if tensors[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Any]) -> Tensor:
    """Join tensors under each other, along the first axis; vectors are rows."""
    return concatenate([atleast_2d(x) for x in _several("vstack", tensors)])


def column_stack(tensors: Sequence[Any]) -> Tensor:
    """Join tensors along the second axis; vectors are columns."""
    tensors = [atleast_1d(x) for x in _several("column_stack", tensors)]
    return concatenate([reshape(x, (-1, 1)) if x.ndim == 1 else x for x in tensors], axis=1)


def atleast_1d(x: Any) -> Tensor:
    """x itself, or a single number as a vector of one."""
    x = as_tensor(x)
    return x if x.ndim else reshape(x, 1)


def atleast_2d(x: Any) -> Tensor:
    """x itself, or a vector as a matrix of one row."""
    x = atleast_1d(x)
    return x if x.ndim > 1 else reshape(x, (1, -1))


def split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Cut x along an axis: into that many equal pieces, or before each of the given indices.

    Raises ValueError if the axis does not divide into equal pieces.
    """
    x = as_tensor(x)
    axis = normalise_axis("split", axis, x.shape)
    n, sections = x.shape[axis], indices_or_sections
    if not np.iterable(sections):
        if sections <= 0 or n % sections:
            raise ValueError(
                f"split: axis {axis} of shape {x.shape} does not divide into {sections} "
                "equal pieces"
            )
        cuts = [i * (n // sections) for i in range(1, sections)]
    else:
        cuts = [int(i) for i in sections]
    places = [
        (slice(None),) * axis + (slice(start, stop),)
        for start, stop in zip([None, *cuts], [*cuts, None])
    ]
    return _cut(x, places)


def _cut(x, places):
    """The parts of x at some places, each a tensor.

    A part alone would answer with zeros everywhere but in its own place, and summing those
    answers would cost a whole array for each part.  So the parts write into one array, which
    the first of them hands to the node they share; that node is older than all of them, so
    the tape does not read it before the last has written.  It keeps nothing, and so the parts of
    a leaf may also be walked one by one.
    """
    array, shape = x.array, x.shape
    shared: list[Any] = []

    def hand_over(dx):
        shared.clear()
        return (dx,)

    whole = record(array, (x,), hand_over)
    if whole.node is not None:
        whole.node.lasting = True

    def part(place):
        def backward(dy):
            if shared:
                add_into(shared[0][place], dy)  # added: indices out of order cut parts that overlap
                return (None,)
            shared.append(array_module(dy).zeros_like(dy, shape=shape))
            shared[0][place] = dy
            return (shared[0],)

        return record(array[place], (whole,), backward)

    return [part(place) for place in places]


def _several(name, tensors):
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence) or not len(tensors):
        raise ValueError(f"{name}: needs a list of at least one tensor, got {tensors!r}")
    tensors = [as_tensor(x) for x in tensors]
    check_same_device(name, *tensors)
    return tensors


# ---- Dtypes ----


def astype(x: Any, dtype: Any) -> Tensor:
    """The same numbers as another dtype.

    Between floating point dtypes the gradient is converted back on its way; integers and
    booleans have no gradient, so a conversion to them leaves the tape.  Raises TypeError for a
    dtype that is not numbers.
    """
    x = as_tensor(x)
    before = x.dtype
    array = x.array.astype(dtype, copy=False)
    if not is_floating(array.dtype):
        return Tensor(array)
    return record(array, (x,), lambda dy: (dy.astype(before, copy=False),))
