"""Token scores: how well each row of the embedding table fits a vector.

    scores = x · weightᵀ

The table that turned tokens into vectors at the start of a model is read the other way at its
end: the more a vector points along a token's row, the higher that token's score (its logit).
Source: Press & Wolf, Using the Output Embedding to Improve Language Models (2016).

In training, linear_cross_entropy does this and the loss in one go; this is for looking at the
scores themselves, and for generation.
"""

import numpy as np

from tricycle_autograd.arrays import as_rows, contiguous, kernel_inputs
from tricycle_autograd.fused import fused
from tricycle_autograd.gemm import product
from tricycle_autograd.tape import gradient_destination
from tricycle_autograd.tensor import Tensor, record

TOKENS = 8192  # rows of a table that are packed at once


@fused
def token_scores(x: Tensor, weight: Tensor) -> Tensor:
    """The score of every token at every position.

    x        (..., C)
    weight   (V, C), an embedding table
    returns  (..., V)

    Raises ValueError if x and weight differ in C.
    """
    _check(x, weight)
    return x @ weight.swapaxes(-1, -2)


@token_scores.kernels
def _(x, weight):
    _check(x, weight)
    x_array, table = kernel_inputs("token_scores", x, weight)
    rows = as_rows(x_array)  # (N, C)
    x_node, weight_node = x.node, weight.node
    scores = np.empty((len(rows), len(table)), np.float32)
    product(scores, rows, table.T)
    shape = scores.shape

    def backward(dy):
        dy = contiguous(dy).reshape(shape)
        dx = d_weight = None
        if x_node is not None:
            dx = gradient_of_vectors(dy, table).reshape(x_array.shape)
        if weight_node is not None:
            destination, add, d_weight = gradient_destination(weight_node, table)
            product(destination, dy.T, rows, add)
        return dx, d_weight

    return record(scores.reshape(*x.shape[:-1], len(table)), (x, weight), backward)


def gradient_of_vectors(d_scores: np.ndarray, table: np.ndarray) -> np.ndarray:
    """d_scores (N, V) times the table (V, C): (N, C).

    In parts, because a product packs the smaller operand, a copy of its size: here the table,
    the largest array of parameters in a model.
    """
    N, V = d_scores.shape
    dx = np.empty((N, table.shape[1]), np.float32)
    for start in range(0, max(V, 1), TOKENS):
        part = slice(start, start + TOKENS)
        product(dx, d_scores[:, part], table[part], add=start > 0)
    return dx


def _check(x, weight):
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"token_scores expected x (..., C) and weight (V, C), got {x.shape} and {weight.shape}"
        )
