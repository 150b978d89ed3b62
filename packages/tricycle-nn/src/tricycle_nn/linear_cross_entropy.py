"""The end of a language model: a linear layer and cross entropy as one operation.

    loss = cross_entropy(x @ weightᵀ, targets), averaged

The logits are the largest array of a whole model: 4096 positions of GPT-2 times 50,257 tokens
are 823 MB, four times the model.  Done apart, they exist three times over: logits, their
gradient, and what a loss in pieces keeps.  Here there is one block of memory, which holds
first the logits and then, in place, the gradient with respect to them,

    (softmax(logits) - target) / number of rows that count

and the backward pass is two products with that block:

    dx = block · weight          d_weight = blockᵀ · x

d_weight goes straight to where the gradient is kept: the weight is usually the embedding
table, whose gradient from the other end of the model is then added to it.

Memory: N·V floats while the tape is recording.  When it is not (evaluation), rows are done in
chunks of at most 128 MB and the block is forgotten.
"""

from typing import Any

import numpy as np

from tricycle_autograd import cublaslt
from tricycle_autograd.arrays import as_rows, empty, empty_like, kernel_inputs
from tricycle_autograd.cpu import cpu_kernel, prange
from tricycle_autograd.cuda import CudaFile, blocks_for
from tricycle_autograd.fused import fused
from tricycle_autograd.gemm import product
from tricycle_autograd.memory import with_zero_rows
from tricycle_autograd.modes import is_recording
from tricycle_autograd.tape import gradient_destination
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.cross_entropy import (
    PlacedTargets,
    average,
    belief_minus_target,
    check_targets,
    cross_entropy,
    how_many_count,
    launch,
    numbered,
    sum_of_exp,
    surprise,
)
from tricycle_nn.pieces import FLAT_THREADS, numbers_at_once
from tricycle_nn.softmax import finite_maximum
from tricycle_nn.token_scores import CPU as TokenScoresCPU
from tricycle_nn.token_scores import token_scores

CHUNK = 2**25  # floats of logits at once when nothing is kept: 128 MB
ZERO = np.float32(0)


@fused
def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Any,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The mean surprise, in nats, of a linear classifier without a bias.

    x        (..., C)
    weight   (V, C), one row for each class: an embedding table as it is
    targets  (...) integers: ids from 0 to V-1, or `ignore_index` for rows to leave out

    The other arguments, and the errors for targets, are those of cross_entropy.  Raises
    ValueError if x and weight differ in C.
    """
    _check(x, weight)
    return cross_entropy(token_scores(x, weight), targets, ignore_index, label_smoothing)


@linear_cross_entropy.operation
def linear_cross_entropy_fast(run, x, weight, targets, ignore_index=-100, label_smoothing=0.0):
    """The operation: one block (N, V), of scores and then of their gradient, is kept."""
    _check(x, weight)
    if not isinstance(targets, PlacedTargets):
        targets = check_targets(x, targets, weight.shape[0], ignore_index, label_smoothing)
        answers = numbered(targets, ignore_index)
        targets = PlacedTargets(answers, how_many_count(answers))
    array, table = kernel_inputs("linear_cross_entropy", x, weight)
    shape, rows, answers = array.shape, as_rows(array), targets.answers
    x_node, weight_node = x.node, weight.node
    keep = is_recording() and not (x_node is None and weight_node is None)
    share = 1 / targets.n
    loss, d_scores = run.loss(rows, table, answers, float(label_smoothing), share, keep)
    if weight_node is None:
        rows = None  # only the gradient of the weight needs them

    def backward(dy):
        dx = d_weight = None
        if x_node is not None:
            dx = run.gradient_of_vectors(dy, d_scores, table).reshape(shape)
        if weight_node is not None:
            destination, add, d_weight = gradient_destination(weight_node, table)
            run.gradient_of_table(destination, dy, d_scores, rows, add)
        return dx, d_weight

    return record(loss, (x, weight), backward)


@linear_cross_entropy.kernels("cpu")
class CPU:
    """rows (N, C); table (V, C); answers (N,) with -1 for ignored rows; d_scores (N, V)."""

    def loss(rows: Any, table, answers, smoothing, share, keep):
        """share · Σ losses; and its gradient for the scores if `keep`, else None."""
        N, V = len(rows), len(table)
        chunk = N if keep else max(1, min(N, CHUNK // V))
        smoothing, share = np.float32(smoothing), np.float32(share)
        losses, block = np.empty(N, np.float32), np.empty((chunk, V), np.float32)
        for start in range(0, N, max(chunk, 1)):
            part = slice(start, start + chunk)
            scores = block[: len(rows[part])]
            product(scores, rows[part], table.T)
            scores_to_gradient(scores, answers[part], smoothing, share, keep, losses[part])
        return losses.sum() * share, block if keep else None

    def gradient_of_vectors(dy: Any, d_scores, table):
        """dx (N, C), times dy, the gradient of the loss."""
        dx = TokenScoresCPU.gradient_of_vectors(d_scores, table)
        dx *= dy
        return dx

    def gradient_of_table(destination: Any, dy, d_scores, rows, add):
        """d_weight (V, C), written into a destination, or added to it."""
        product(destination, d_scores.T, rows * dy, add)


@linear_cross_entropy.kernels("cuda")
class GPU:
    """The same, but that rows of scores are a multiple of 64 numbers apart.

    An odd number of classes is no good distance: rows would begin anywhere, and cuBLASLt would have
    to read and write number by number.  What lies between is zeros; products take it for classes,
    too, where the table has zero rows for them (`with_zero_rows`).
    """

    FILE = CudaFile(__file__)
    ROW = 64  # scores: what their distance is a multiple of

    def loss(rows: Any, table, answers, smoothing, share, keep):
        """As on the CPU; the loss is float32."""
        N, V = len(rows), len(table)
        whole, step = with_zero_rows(table), GPU.ROW * blocks_for(V, GPU.ROW)
        chunk = N if keep else max(1, min(N, CHUNK // step))
        losses = empty(N, np.float32, like=rows)
        block = empty((chunk, step), rows.dtype, like=rows)
        numbers = np.float32(smoothing), np.float32(share), np.int32(keep), np.int32(step)
        for start in range(0, N, max(chunk, 1)):
            part = slice(start, start + chunk)
            scores = block[: len(rows[part])]
            cublaslt.product(scores[:, : len(whole)], rows[part], whole.T)
            given = (scores, losses[part], answers[part], *numbers)
            launch(GPU.FILE, "scores_to_gradient", scores, *given, classes=V)
        return average(GPU.FILE, losses, share), block if keep else None

    def gradient_of_vectors(dy: Any, d_scores, table):
        """As on the CPU."""
        table = with_zero_rows(table)
        dx = empty((len(d_scores), table.shape[1]), table.dtype, like=table)
        cublaslt.product(dx, d_scores[:, : len(table)], table)
        return GPU._scale(dx, dx, dy)

    def gradient_of_table(destination: Any, dy, d_scores, rows, add):
        """As on the CPU; the destination may be float32 where rows are bfloat16."""
        destination = with_zero_rows(destination)
        scaled = GPU._scale(empty_like(rows), rows, dy)
        cublaslt.product(destination, d_scores[:, : len(destination)].T, scaled, add)

    def _scale(y: Any, x, dy):
        blocks = blocks_for(x.size, FLAT_THREADS * numbers_at_once(x.dtype))
        kernel = GPU.FILE.get("scaled", x.dtype, V=1, THREADS=FLAT_THREADS)
        kernel((blocks,), (FLAT_THREADS,), y, x, dy, np.int64(x.size))
        return y


@cpu_kernel
def scores_to_gradient(scores, answers, smoothing, share, keep, losses):
    """The loss of each row; and where they lie, if `keep`, the gradient of share · Σ losses."""
    for i in prange(len(scores)):
        if answers[i] < 0:
            losses[i] = ZERO
            scores[i] = ZERO
            continue
        z = scores[i]
        largest = finite_maximum(z)
        total = sum_of_exp(z, largest)
        losses[i] = surprise(z, answers[i], smoothing, largest, total)
        if keep:
            belief_minus_target(z, answers[i], smoothing, largest, total, share, z)


def _check(x, weight):
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            "linear_cross_entropy expected x (..., C) and weight (V, C), got "
            f"{x.shape} and {weight.shape}"
        )
    if weight.shape[0] == 0:
        raise ValueError("linear_cross_entropy expected at least one class, got a weight of none")
