"""Token scores: how well each row of the embedding table fits a vector.

    scores = x · weightᵀ

The table that turned tokens into vectors at the start of a model is read the other way at its
end: the more a vector points along a token's row, the higher that token's score (its logit).
Source: Press & Wolf, Using the Output Embedding to Improve Language Models (2016).

In training, linear_cross_entropy does this and the loss in one go; this is for looking at the
scores themselves, and for generation.
"""

from typing import Any

import numpy as np

from tricycle_autograd import cublaslt
from tricycle_autograd.arrays import as_rows, contiguous, empty, kernel_inputs
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


@token_scores.operation
def token_scores_fast(run, x, weight):
    """The operation: the vectors and the table are kept."""
    _check(x, weight)
    array, table = kernel_inputs("token_scores", x, weight)
    shape, rows = array.shape, as_rows(array)  # (N, C)
    x_node, weight_node = x.node, weight.node
    scores = run.scores(rows, table)
    result = scores.reshape(*shape[:-1], scores.shape[1])
    scores_shape = scores.shape
    if weight_node is None:
        rows = None  # only the gradient of the weight needs them

    def backward(dy):
        d_scores = contiguous(dy).reshape(scores_shape)
        dx = d_weight = None
        if x_node is not None:
            dx = run.gradient_of_vectors(d_scores, table).reshape(shape)
        if weight_node is not None:
            destination, add, d_weight = gradient_destination(weight_node, table)
            run.gradient_of_table(destination, d_scores, rows, add)
        return dx, d_weight

    return record(result, (x, weight), backward)


@token_scores.kernels("cpu")
class CPU:
    """rows (N, C); table (V, C); scores and their gradient (N, V)."""

    def scores(rows: Any, table):
        scores = np.empty((len(rows), len(table)), np.float32)
        product(scores, rows, table.T)
        return scores

    def gradient_of_vectors(d_scores: Any, table):
        """dx (N, C).

        In parts, because a product packs the smaller operand, a copy of its size: here the table,
        the largest array of parameters in a model.
        """
        N, V = d_scores.shape
        dx = np.empty((N, table.shape[1]), np.float32)
        for start in range(0, max(V, 1), TOKENS):
            part = slice(start, start + TOKENS)
            product(dx, d_scores[:, part], table[part], add=start > 0)
        return dx

    def gradient_of_table(destination: Any, d_scores, rows, add):
        """d_weight (V, C), written into a destination, or added to it."""
        product(destination, d_scores.T, rows, add)


@token_scores.kernels("cuda")
class GPU:
    """As on the CPU, by cuBLASLt."""

    def scores(rows: Any, table):
        scores = empty((len(rows), len(table)), rows.dtype, like=rows)
        cublaslt.product(scores, rows, table.T)
        return scores

    def gradient_of_vectors(d_scores: Any, table):
        dx = empty((len(d_scores), table.shape[1]), d_scores.dtype, like=d_scores)
        cublaslt.product(dx, d_scores, table)
        return dx

    def gradient_of_table(destination: Any, d_scores, rows, add):
        cublaslt.product(destination, d_scores.T, rows, add)


def _check(x, weight):
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"token_scores expected x (..., C) and weight (V, C), got {x.shape} and {weight.shape}"
        )
