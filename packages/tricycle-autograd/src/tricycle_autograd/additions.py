"""Sums of arrays; those of bfloat16 on the GPU by a kernel of ours (additions.cu).

    added(a, b)        a + b
    add_into(a, b)     a += b

What a GPT adds up outside of its fused operations is the residual stream, positions, and gradients
that come from two sides.  cupy knows bfloat16 since version 14, in part; a model that trains in it
leaves no arithmetic to that part.
"""

from typing import Any

import numpy as np

from tricycle_autograd.arrays import contiguous, empty_like
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
    if a.dtype is not b.dtype and "V" in (a.dtype.kind, b.dtype.kind):
        b = b.astype(a.dtype, copy=False)
    if type(a) is not np.ndarray and _is_ours(a, b) and a.flags.c_contiguous:
        return _launched(a, a, b)
    a += b
    return a


def _is_ours(a, b):
    """Whether both are bfloat16 on the GPU, and b is as large as the last axes of a."""
    dtype = getattr(a, "dtype", None)
    if dtype is None or dtype.kind != "V" or getattr(b, "dtype", None) != dtype:
        return False
    return device_of(a) == device_of(b) == "cuda" and b.shape == a.shape[a.ndim - b.ndim :]


def _launched(y, a, b):
    sizes = np.int64(a.size), np.int64(max(b.size, 1))
    blocks = blocks_for(a.size, THREADS * AT_ONCE)
    kernel = FILE.get("add", a.dtype)
    kernel((blocks,), (THREADS,), y, contiguous(a), contiguous(b), *sizes)
    return y
