"""What cuBLASLt promises of a product, done by numpy: for emulated arrays, in tests.

    run(problem, out, a, b, add, bias, aux)

The matrices are read from memory as the library would read them, columns first, from the sizes and
steps that the Problem gives it (cublaslt.py): a mistake there is a wrong number here.  Sums of
bfloat16 numbers are float32, rounded once at the end.  In which order they are added up is numpy's
secret, as it is the library's.
"""

from typing import Any

import numpy as np

from tricycle_autograd.cublaslt import D_GELU, GELU_AUX_BIAS, Problem
from tricycle_autograd.testing_device import EmulatedArray

CUBE = 0.044715


def run(problem: Problem, out: Any, a: Any, b: Any, add: bool, bias: Any, aux: Any) -> None:
    """Do the product of a Problem; arguments as for `product`."""
    A, B, D = problem.matrices()
    left = columns_first(b, A).astype(np.float32)
    right = columns_first(a, B).astype(np.float32)
    left = left.T if problem.b.transposed else left
    right = right.T if problem.a.transposed else right
    result = left @ right  # (N, M): the transpose of ours
    if bias is not None:
        result += plain(bias).astype(np.float32)[:, None]
    if problem.epilogue == GELU_AUX_BIAS:
        plain(aux)[...] = result.T
        result = gelu(result)
    if problem.epilogue == D_GELU:
        result *= gelu_slope(plain(aux).T.astype(np.float32))
    place = columns_first(out, D)
    place[...] = result + place.astype(np.float32) if add else result


def columns_first(array: EmulatedArray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """The memory that starts where an array does, as the library's matrix: type, rows, columns,
    step."""
    _, rows, columns, step = matrix
    size = array.itemsize
    return np.lib.stride_tricks.as_strided(plain(array), (rows, columns), (size, step * size))


def plain(array: EmulatedArray) -> np.ndarray:
    """The same memory as numpy's own array."""
    return array.view(np.ndarray)


def gelu(x: np.ndarray) -> np.ndarray:
    """GPT-2's approximation of GELU."""
    return 0.5 * x * (1 + np.tanh(angle(x)))


def gelu_slope(x: np.ndarray) -> np.ndarray:
    """Its derivative."""
    t = np.tanh(angle(x))
    turn = np.float32(np.sqrt(2 / np.pi)) * (1 + 3 * CUBE * x * x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * turn


def angle(x: np.ndarray) -> np.ndarray:
    """√(2/π) · (x + 0.044715 x³)."""
    return np.float32(np.sqrt(2 / np.pi)) * (x + CUBE * x * x * x)
