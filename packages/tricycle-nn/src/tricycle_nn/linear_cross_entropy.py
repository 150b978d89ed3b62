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

from tricycle_autograd.arrays import as_rows, kernel_inputs
from tricycle_autograd.cpu import cpu_kernel, prange
from tricycle_autograd.fused import fused
from tricycle_autograd.gemm import product
from tricycle_autograd.modes import is_recording
from tricycle_autograd.tape import gradient_destination
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.cross_entropy import (
    belief_minus_target,
    check_targets,
    cross_entropy,
    numbered,
    sum_of_exp,
    surprise,
)
from tricycle_nn.softmax import finite_maximum
from tricycle_nn.token_scores import gradient_of_vectors, token_scores

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


def _check(x, weight):
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            "linear_cross_entropy expected x (..., C) and weight (V, C), got "
            f"{x.shape} and {weight.shape}"
        )
    if weight.shape[0] == 0:
        raise ValueError("linear_cross_entropy expected at least one class, got a weight of none")


@linear_cross_entropy.kernels
def _(x, weight, targets, ignore_index=-100, label_smoothing=0.0):
    _check(x, weight)
    targets = check_targets(targets, x.shape[:-1], len(weight.array), ignore_index, label_smoothing)
    x_array, weight_array = kernel_inputs("linear_cross_entropy", x, weight)
    rows, targets = as_rows(x_array), numbered(targets, ignore_index)
    N, V = len(rows), len(weight_array)
    x_node, weight_node = x.node, weight.node
    keep = is_recording() and not (x_node is None and weight_node is None)
    chunk = N if keep else max(1, min(N, CHUNK // V))
    share = np.float32(1 / max(int(np.count_nonzero(targets >= 0)), 1))
    losses = np.empty(N, np.float32)
    block = np.empty((chunk, V), np.float32)
    for start in range(0, N, max(chunk, 1)):
        part = slice(start, start + chunk)
        logits = block[: len(rows[part])]
        product(logits, rows[part], weight_array.T)
        smoothing = np.float32(label_smoothing)
        CPU.logits_to_gradient(logits, targets[part], smoothing, share, keep, losses[part])

    def backward(dy):
        dx = d_weight = None
        if x_node is not None:
            dx = gradient_of_vectors(block, weight_array)
            dx *= dy
            dx = dx.reshape(x_array.shape)
        if weight_node is not None:
            destination, add, d_weight = gradient_destination(weight_node, weight_array)
            product(destination, block.T, rows * dy, add)
        return dx, d_weight

    return record(losses.sum() * share, (x, weight), backward)


class CPU:
    """logits (N, V); targets (N,) with -1 for ignored rows; losses (N,)."""

    @staticmethod
    @cpu_kernel
    def logits_to_gradient(logits, targets, smoothing, share, keep, losses):
        """The loss of each row; and where they lie, if `keep`, the gradient of share · Σ losses."""
        for i in prange(logits.shape[0]):
            if targets[i] < 0:
                losses[i] = ZERO
                logits[i] = ZERO
                continue
            z = logits[i]
            largest = finite_maximum(z)
            total = sum_of_exp(z, largest)
            losses[i] = surprise(z, targets[i], smoothing, largest, total)
            if keep:
                belief_minus_target(z, targets[i], smoothing, largest, total, share, z)
