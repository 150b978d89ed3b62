"""Matrix products, the workhorse: a neural network spends nearly all of its time here.

    z = x @ y          z[i, j] = sum over k of x[i, k] · y[k, j]

Nudge x[i, k], and every z[i, j] of row i moves by y[k, j].  Add those up over j, and likewise
for y, and the gradients are matrix products themselves:

    dx = dz @ yᵀ       d_y = xᵀ @ dz

So a backward pass costs twice the forward pass, and runs on the same fast routine: our own for
large float32 matrices on the cpu (gemm.py), else the one behind numpy or cupy.

Stacks of matrices (more than two axes) multiply one by one, and the axes in front broadcast;
where one side was stretched its gradient is summed, as for any broadcasting.  The common case
is a stack times one matrix, activations (B, T, C) times a weight (C, D): then the stack is one
tall matrix, forwards and backwards, and the sum over the stack happens inside the product.
"""

import math
from typing import Any

import numpy as np

from tricycle_autograd import cublaslt
from tricycle_autograd.arrays import empty, in_float32, is_half
from tricycle_autograd.axes import normalise_axes
from tricycle_autograd.devices import array_module, check_same_device, device_of
from tricycle_autograd.elementwise import multiply
from tricycle_autograd.gemm import product
from tricycle_autograd.indexing import diagonal
from tricycle_autograd.modes import count_flops
from tricycle_autograd.reductions import sum as sum_over
from tricycle_autograd.shapes import ravel, reshape, transpose, unbroadcast
from tricycle_autograd.tensor import Tensor, as_tensor, record

# Multiplications: from here on our own product is the faster one, and numpy's library would start
# to use several threads, whose number would decide the last bits.
OURS_FROM = 2**18


def matmul(x: Any, y: Any) -> Tensor:
    """Matrix product, `x @ y`, by numpy's rules.

    x        (..., I, K), or a vector (K)
    y        (..., K, J), or a vector (K)
    returns  (..., I, J), without the axis of a vector; the axes in front broadcast

    Raises ValueError naming both shapes if they do not fit.
    """
    x, y = as_tensor(x), as_tensor(y)
    a, b = x.array, y.array
    if type(a) is not type(b):
        check_same_device("matmul", x, y)
    if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0]:
        return _product_of_two(x, y)
    _check_shapes(a.shape, b.shape)
    # A vector is a matrix of one row on the left, and of one column on the right.
    rows = a[None, :] if a.ndim == 1 else a
    columns = b[:, None] if b.ndim == 1 else b
    product = stacked_product(rows, columns)
    shape, rows_shape, columns_shape = product.shape, rows.shape, columns.shape
    x_shape, x_dtype, y_shape, y_dtype = a.shape, a.dtype, b.shape, b.dtype
    if a.ndim == 1 or b.ndim == 1:
        dropped = [-2] * (a.ndim == 1) + [-1] * (b.ndim == 1)
        product = product.squeeze(tuple(dropped))
    # Each is kept for the gradient of the other.
    rows = rows if y.node is not None else None
    columns = columns if x.node is not None else None

    def backward(dz):
        dz = dz.reshape(shape)
        dx = dy = None
        if columns is not None:
            dx = unbroadcast(stacked_product(dz, columns.swapaxes(-1, -2)), rows_shape)
            dx = dx.reshape(x_shape).astype(x_dtype, copy=False)
        if rows is not None:
            dy = _right_gradient(rows, dz, columns_shape)
            dy = dy.reshape(y_shape).astype(y_dtype, copy=False)
        return dx, dy

    return record(product, (x, y), backward)


def _product_of_two(x, y):
    """matmul of two matrices: no axes in front to broadcast, no vectors to turn into matrices."""
    x_dtype, y_dtype = x.dtype, y.dtype
    # Each is kept for the gradient of the other.
    a = x.array if y.node is not None else None
    b = y.array if x.node is not None else None

    def backward(dz):
        dx = None if b is None else stacked_product(dz, b.T).astype(x_dtype, copy=False)
        dy = None if a is None else stacked_product(a.T, dz).astype(y_dtype, copy=False)
        return dx, dy

    return record(stacked_product(x.array, y.array), (x, y), backward)


def stacked_product(a, b):
    """The product of arrays of matrices; a stack times one matrix is done as one tall matrix.

    a  (..., I, K)    b  (..., K, J)    returns  (..., I, J)

    float16 and bfloat16 on the cpu are multiplied and summed in float32, which is what one times
    the other gives.  bfloat16 on "cuda" goes to cuBLASLt, which adds up in float32 too.
    """
    dtype = a.dtype
    if dtype.kind == "V" and dtype == b.dtype and device_of(a) == "cuda":
        return _product_on_gpu(a, b)
    if is_half(dtype) and is_half(b.dtype) and isinstance(a, np.ndarray):
        product = stacked_product(in_float32(a), in_float32(b))
        return product.astype(dtype) if dtype == b.dtype else product
    if a.shape[-1] == 1:
        return a * b  # a column times a row: nothing to sum, and BLAS is slow at it
    if b.ndim == 2 and a.ndim > 2:
        return stacked_product(_tall(a), b).reshape(*a.shape[:-1], b.shape[-1])
    if _is_for_our_own(a, b):
        return _our_own_product(a, b)
    # For two matrices dot() is the same, and half a microsecond faster: it checks less.
    out = a.dot(b) if a.ndim == b.ndim == 2 else array_module(a).matmul(a, b)
    count_flops(2 * out.size * a.shape[-1])
    return out


def _is_for_our_own(a, b):
    """Whether the product of gemm.py takes this: large matrices of float32 on the cpu.

    It is faster there than the library behind numpy, has the same bits for any number of threads,
    and leaves no threads that keep spinning when the next kernel needs the cores.
    """
    return (
        type(a) is np.ndarray
        and a.dtype == b.dtype == np.float32
        and a.shape[-2] * a.shape[-1] * b.shape[-1] >= OURS_FROM
    )


def _our_own_product(a, b):
    """The product of two large matrices, or of each pair in two stacks of them."""
    if a.ndim == b.ndim == 2:
        out = np.empty((len(a), b.shape[1]), np.float32)
        product(out, a, b)
        return out
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = np.empty((*stack, a.shape[-2], b.shape[-1]), np.float32)
    a = np.broadcast_to(a, stack + a.shape[-2:])
    b = np.broadcast_to(b, stack + b.shape[-2:])
    for place in np.ndindex(stack):
        product(out[place], a[place], b[place])
    return out


def _product_on_gpu(a, b):
    """The product of two matrices of bfloat16 on the GPU, or of each pair in two stacks of them."""
    if b.ndim == 2 and a.ndim > 2:
        return _product_on_gpu(_tall(a), b).reshape(*a.shape[:-1], b.shape[-1])
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = empty((*stack, a.shape[-2], b.shape[-1]), a.dtype, like=a)
    xp = array_module(a)
    a, b = (xp.broadcast_to(_in_order(x), stack + x.shape[-2:]) for x in (a, b))
    for place in np.ndindex(stack):
        cublaslt.product(out[place], a[place], b[place])
    return out


def _in_order(x):
    """The array, or a copy: with neighbours in memory along its rows or its columns."""
    return x if x.itemsize in x.strides[-2:] else x.copy(order="C")


def _right_gradient(a, dz, shape):
    """aᵀ @ dz, summed over the stack where one matrix of `shape` served it all."""
    if len(shape) == 2:
        return stacked_product(_tall(a).T, _tall(dz))
    return unbroadcast(stacked_product(a.swapaxes(-1, -2), dz), shape)


def _tall(a):
    """A stack of matrices as one, under each other: (..., I, K) becomes (N, K)."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def _check_shapes(x, y):
    if not x or not y:
        raise ValueError(
            f"matmul: shapes {x} and {y} do not fit: a single number has no rows; use * instead"
        )
    inner = x[-1], y[0] if len(y) == 1 else y[-2]
    if inner[0] != inner[1]:
        raise ValueError(
            f"matmul: shapes {x} and {y} do not fit: the last axis of the first has length "
            f"{inner[0]}, the {'only' if len(y) == 1 else 'second last'} axis of the second "
            f"{inner[1]}"
        )
    for n, m in zip(x[:-2][::-1], y[:-2][::-1]):
        if n != m and n != 1 and m != 1:
            raise ValueError(
                f"matmul: shapes {x} and {y} do not fit: the axes in front of the matrices, "
                f"{x[:-2]} and {y[:-2]}, do not broadcast"
            )


def outer(x: Any, y: Any) -> Tensor:
    """Every number of x times every number of y: (N, M), each taken as one row."""
    return matmul(reshape(x, (-1, 1)), reshape(y, (1, -1)))


def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The sum of the diagonal of the matrices in two axes of x; `offset` as for diagonal."""
    return sum_over(diagonal(x, offset, axis1, axis2), -1)


# ---- Other products, by numpy's names ----


def tensordot(a: Any, b: Any, axes: Any = 2) -> Tensor:
    """Products of a and b, summed over some axes of each.

    axes      how many: the last of a with the first of b; or two lists of axes that go together
    returns   the other axes of a, then the other axes of b

    Raises ValueError for axes of different lengths.
    """
    a, b = as_tensor(a), as_tensor(b)
    if np.iterable(axes):
        of_a, of_b = axes
    else:
        of_a, of_b = range(a.ndim - axes, a.ndim), range(axes)
    of_a = normalise_axes("tensordot", of_a, a.shape)
    of_b = normalise_axes("tensordot", of_b, b.shape)
    if [a.shape[i] for i in of_a] != [b.shape[i] for i in of_b]:
        raise ValueError(
            f"tensordot: axes {of_a} of shape {a.shape} and {of_b} of {b.shape} differ in length"
        )
    left = [i for i in range(a.ndim) if i not in of_a]
    right = [i for i in range(b.ndim) if i not in of_b]
    summed = math.prod([a.shape[i] for i in of_a])
    rows, columns = [a.shape[i] for i in left], [b.shape[i] for i in right]
    x = reshape(transpose(a, [*left, *of_a]), (math.prod(rows), summed))
    y = reshape(transpose(b, [*of_b, *right]), (summed, math.prod(columns)))
    return reshape(matmul(x, y), [*rows, *columns])


def dot(a: Any, b: Any) -> Tensor:
    """numpy's dot: products summed over the last axis of a and the second last, or only, of b.

    Of two single numbers, or one and an array, it is the product.
    """
    a, b = as_tensor(a), as_tensor(b)
    if not a.ndim or not b.ndim:
        return multiply(a, b)
    return tensordot(a, b, (-1, 0 if b.ndim == 1 else -2))


def inner(a: Any, b: Any) -> Tensor:
    """Products summed over the last axes of both; of single numbers the product."""
    a, b = as_tensor(a), as_tensor(b)
    return tensordot(a, b, (-1, -1)) if a.ndim and b.ndim else multiply(a, b)


def vdot(a: Any, b: Any) -> Tensor:
    """The sum of all products of two arrays of one size, each taken as one row."""
    return inner(ravel(a), ravel(b))


def kron(a: Any, b: Any) -> Tensor:
    """Kronecker's product: every number of a replaced by itself times the whole of b."""
    a, b = as_tensor(a), as_tensor(b)
    ndim = max(a.ndim, b.ndim)
    outer_shape = (1,) * (ndim - a.ndim) + a.shape
    inner_shape = (1,) * (ndim - b.ndim) + b.shape
    # Axis by axis: first which number of a, then which number of b.
    x = reshape(a, [n for side in outer_shape for n in (side, 1)])
    y = reshape(b, [n for side in inner_shape for n in (1, side)])
    return reshape(multiply(x, y), [n * m for n, m in zip(outer_shape, inner_shape)])
