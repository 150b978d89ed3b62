"""Sums of arrays, and copies; those of bfloat16 on the GPU by kernels of ours (additions.cu).

    added(a, b)        a + b
    add_into(a, b)     a += b
    assign(a, b)       a[...] = b
    sum_of_first(x, n) the sum over x's first n axes

What a GPT adds up outside of its fused operations is the residual stream, positions, and gradients
that come from two sides.  cupy knows bfloat16 since version 14, in part; a model that trains in it
leaves no arithmetic to that part, and no change from one dtype to the other.
"""

from typing import Any

import numpy as np

from tricycle_autograd.arrays import contiguous, empty, empty_like
from tricycle_autograd.cuda import CudaFile, blocks_for
from tricycle_autograd.devices import device_of

FILE = CudaFile(__file__)
THREADS = 256  # in a block
AT_ONCE = 8  # numbers of bfloat16 that a thread adds


def added(a: Any, b: Any) -> Any:
    """a + b, in a new array; either may be a number."""
    if type(a) is np.ndarray:  # on the CPU: no time is lost there
        return a + b
    if _is_ours(a, b):
        return _launched(empty_like(a), a, b)
    if _is_ours(b, a):
        return _launched(empty_like(b), b, a)
    return a + b


def add_into(a: Any, b: Any) -> Any:
    """a += b; b is rounded to a's dtype if it has another, and one of them is bfloat16.

    Returns a, or the sum where a is a scalar of numpy's, which cannot be changed.
    """
    if _changes_width(a, b) and a.dtype == np.float32:
        return _copied("widen", a, b, np.int32(1))
    if a.dtype is not b.dtype and "V" in (a.dtype.kind, b.dtype.kind):
        b = b.astype(a.dtype, copy=False)
    if type(a) is np.ndarray or not _is_ours(a, b):
        a += b
        return a
    if a.flags.c_contiguous:
        return _launched(a, a, b)
    a[...] = added(a, b)
    return a


def assign(a: Any, b: Any) -> None:
    """a[...] = b, rounded to a's dtype if that is shorter."""
    if not _changes_width(a, b):
        a[...] = b
    elif a.dtype == np.float32:
        _copied("widen", a, b, np.int32(0))
    else:
        _copied("narrow", a, b)


def sum_of_first(x: Any, n: int) -> Any:
    """The sum over the first n axes of x, of bfloat16 on the GPU: in float32, and rounded once."""
    y = empty(x.shape[n:], x.dtype, like=x)
    kernel = FILE.get("add_rows", x.dtype)
    rows = np.int32(x.size // max(y.size, 1))
    kernel(_grid(y.size), (THREADS,), y, contiguous(x), rows, np.int64(y.size))
    return y


def is_half_on_gpu(array: Any) -> bool:
    """Whether an array is of bfloat16 numbers on the GPU."""
    return array.dtype.kind == "V" and device_of(array) == "cuda"


def _changes_width(a, b):
    """Whether a and b are alike but that one is bfloat16, the other float32, both on the GPU."""
    if type(a) is np.ndarray or type(a) is not type(b) or a.shape != b.shape:
        return False
    kinds = {a.dtype.kind, b.dtype.kind}
    return kinds == {"V", "f"} and {a.itemsize, b.itemsize} == {2, 4} and a.flags.c_contiguous


def _copied(name, y, x, *numbers):
    half = y.dtype if y.dtype.kind == "V" else x.dtype
    kernel = FILE.get(name, half)
    kernel(_grid(y.size), (THREADS,), y, contiguous(x), *numbers, np.int64(y.size))
    return y


def _grid(size):
    return (blocks_for(size, THREADS * AT_ONCE),)


def _is_ours(a, b):
    """Whether both are bfloat16 on the GPU, and b is as large as the last axes of a."""
    dtype = getattr(a, "dtype", None)
    if dtype is None or dtype.kind != "V" or getattr(b, "dtype", None) != dtype:
        return False
    return device_of(a) == device_of(b) == "cuda" and b.shape == a.shape[a.ndim - b.ndim :]


def _launched(y, a, b):
    sizes = np.int64(a.size), np.int64(max(b.size, 1))
    kernel = FILE.get("add", a.dtype)
    kernel(_grid(a.size), (THREADS,), y, contiguous(a), contiguous(b), *sizes)
    return y
