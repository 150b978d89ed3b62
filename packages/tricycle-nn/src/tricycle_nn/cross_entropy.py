"""Cross entropy: how surprised the model is by the right answer.

For one row of scores (logits) z over V classes, and the right class t,

    loss = -log softmax(z)[t] = log Σ exp(z) - z[t]

It is 0 when all belief lies on t, and log V when the model knows nothing: 10.82 for GPT-2's
50,257 tokens, a good first number to look for.  Label smoothing ε asks for a little belief
everywhere, a target of 1-ε on t plus ε/V on each class (Szegedy et al. 2015):

    loss = log Σ exp(z) - (1-ε)·z[t] - ε·mean(z)

The gradient is the best bargain in deep learning: belief minus target, softmax(z) - target.

Kept for the backward pass: the logits, which are left as they are, a copy of the targets, and
for each row max z and Σ exp(z - max z).  These two are kept separately: in log Σ exp z the small
digits would be lost beside a large maximum.
Where the logits are made by a product and are the largest array of a whole model,
linear_cross_entropy.py uses their memory for the gradient too.
"""

from typing import Any, NamedTuple

import numpy as np

from tricycle_autograd import take_along_axis, where
from tricycle_autograd.arrays import as_rows, contiguous, empty, empty_like, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import exp, log, row_sum
from tricycle_autograd.cuda import WARP, CudaFile, blocks_for
from tricycle_autograd.devices import array_module
from tricycle_autograd.fused import fused
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.pieces import numbers_at_once
from tricycle_nn.softmax import finite_maximum, log_softmax

REDUCTIONS = ("mean", "sum", "none")
ZERO = np.float32(0)
ONE = np.float32(1)
AT_ONCE = 1024  # exps of a row that are summed at once: they stay in the nearest cache


@fused
def cross_entropy(
    logits: Tensor,
    targets: Any,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """The surprise, in nats, at the right answers: -log softmax(logits)[target].

    logits           (..., V)
    targets          (...) integers: ids from 0 to V-1, or `ignore_index` for rows to leave out
    label_smoothing  from 0 to 1: how much of each target is spread over all classes
    reduction        "mean" over the rows that count (0 if there are none), "sum", or "none"
                     for the surprise of each row, (...), 0 where it is ignored

    Raises ValueError for shapes that do not fit and ids that are out of range, TypeError for
    targets that are not integers.
    """
    targets = _check(logits, targets, ignore_index, label_smoothing, reduction)
    counts = targets != ignore_index
    surprises = -log_softmax(logits)  # (..., V)
    chosen = where(counts, targets, 0)[..., None]
    losses = take_along_axis(surprises, chosen, axis=-1)[..., 0]
    if label_smoothing:
        losses = (1 - label_smoothing) * losses + label_smoothing * surprises.mean(axis=-1)
    losses = where(counts, losses, 0)
    if reduction == "none":
        return losses
    return losses.sum() / (max(int(counts.sum()), 1) if reduction == "mean" else 1)


def check_targets(x, targets, n_classes, ignore_index, label_smoothing):
    """A copy of the targets as integers, one for each row of x and on its device, or an error.

    A copy, which is what is checked: the caller may fill an array of targets anew at any time.
    """
    targets = targets.array if isinstance(targets, Tensor) else targets
    targets = array_module(x.array).array(targets)
    rows = x.shape[:-1]
    if targets.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy expected integer targets, got {targets.dtype}")
    if targets.shape != rows:
        raise ValueError(
            f"cross_entropy expected one target for each row, of shape {rows}, got {targets.shape}"
        )
    wrong = ((targets < 0) | (targets >= n_classes)) & (targets != ignore_index)
    if wrong.any():
        raise ValueError(
            f"target {int(targets[wrong][0])} is not one of {n_classes} classes, 0 to "
            f"{n_classes - 1} (rows to leave out are marked by ignore_index={ignore_index})"
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing lies between 0 and 1, got {label_smoothing}")
    return targets


def _check(logits, targets, ignore_index, label_smoothing, reduction):
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"cross_entropy expected logits (..., V), got {logits.shape}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return check_targets(logits, targets, logits.shape[-1], ignore_index, label_smoothing)


@cross_entropy.operation
def cross_entropy_fast(
    run, logits, targets, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    """The operation: largest and sum of exps of each row are kept, beside logits and targets."""
    targets = _check(logits, targets, ignore_index, label_smoothing, reduction)
    array = kernel_inputs("cross_entropy", logits)
    shape, smoothing = array.shape, float(label_smoothing)
    rows, answers = as_rows(array), numbered(targets, ignore_index)
    losses, largest, totals = run.forward(rows, answers, smoothing)
    count = how_many_count(answers) if reduction == "mean" else 1

    def backward(dy):
        dy = dy.reshape(-1)  # one number, or one for each row
        d_rows = run.backward(dy, rows, answers, smoothing, largest, totals, count)
        return (d_rows.reshape(shape),)

    result = losses.reshape(shape[:-1]) if reduction == "none" else run.average(losses, count)
    return record(result, (logits,), backward)


class PlacedTargets(NamedTuple):
    """Targets that lie on the GPU already: for a step that is captured, which copies nothing there.

    answers  what `numbered` gives for them, on the GPU
    n        how many are not ignored, at least 1
    """

    answers: Any
    n: int


def numbered(targets, ignore_index):
    """Targets for the kernels, in one row: int64, and -1 where a row is to be ignored."""
    where = array_module(targets).where
    return where(targets == ignore_index, -1, targets.astype(np.int64)).reshape(-1)


def how_many_count(answers):
    """The number of rows that are not ignored, as a divisor: at least 1."""
    return max(int((answers >= 0).sum()), 1)


@cross_entropy.kernels("cpu")
class CPU:
    """rows (N, V); answers (N,) with -1 for ignored rows; losses, largest and totals (N,)."""

    @cpu_kernel
    def forward(rows: Any, answers, smoothing):
        """losses, largest, totals."""
        N, share = len(rows), np.float32(smoothing)
        losses = np.zeros(N, np.float32)
        largest, totals = np.zeros(N, np.float32), np.zeros(N, np.float32)
        for i in prange(N):
            if answers[i] >= 0:
                largest[i] = finite_maximum(rows[i])
                totals[i] = sum_of_exp(rows[i], largest[i])
                losses[i] = surprise(rows[i], answers[i], share, largest[i], totals[i])
        return losses, largest, totals

    def average(losses: Any, count):
        """Σ losses / count, one number."""
        return losses.sum() / np.float32(count)

    def backward(dy: Any, rows, answers, smoothing, largest, totals, count):
        """The gradient of the rows; dy is that of each loss (N,), or of their average (1,)."""
        d_losses, d_rows = np.empty(len(rows), np.float32), np.empty_like(rows)
        d_losses[:] = dy / np.float32(count)
        beliefs_minus_targets(
            rows, answers, np.float32(smoothing), largest, totals, d_losses, d_rows
        )
        return d_rows


@cross_entropy.kernels("cuda")
class GPU:
    """A block of threads takes a row; losses are float32, whatever the rows are."""

    FILE = CudaFile(__file__)

    def forward(rows: Any, answers, smoothing):
        """As on the CPU."""
        N = len(rows)
        results = [empty(N, np.float32, like=rows) for _ in range(3)]
        launch(GPU.FILE, "forward", rows, *results, rows, answers, np.float32(smoothing))
        return results

    def average(losses: Any, count):
        """As on the CPU."""
        return average(GPU.FILE, losses, 1 / count)

    def backward(dy: Any, rows, answers, smoothing, largest, totals, count):
        """As on the CPU."""
        d_rows, of_average = empty_like(rows), dy.size == 1
        given = (contiguous(dy), rows, answers, largest, totals)
        numbers = np.float32(smoothing), np.float32(1 / count), np.int32(of_average)
        launch(GPU.FILE, "backward", rows, d_rows, *given, *numbers)
        return d_rows


def launch(file, name, rows, *arguments, classes=None):
    """Run a kernel that has scores.cuh on rows (N, V), a block for each."""
    V = classes or rows.shape[1]
    threads = threads_for(V, rows.dtype)
    file.get(name, rows.dtype, V=V, THREADS=threads)((len(rows),), (threads,), *arguments)


def threads_for(V, dtype):
    """How many hold a row of V scores: whole warps, as many as it fills, 1024 at most."""
    return min(1024, WARP * blocks_for(V, WARP * numbers_at_once(dtype)))


def average(file, losses, factor):
    """factor · Σ losses, one number on the GPU."""
    total = empty((), np.float32, like=losses)
    kernel = file.get("average", losses.dtype, V=1, THREADS=WARP)
    kernel((1,), (1024,), total, losses, np.float32(factor), np.int32(losses.size))
    return total


@cpu_kernel
def beliefs_minus_targets(rows, answers, smoothing, largest, totals, d_losses, d_rows):
    """Writes d_rows."""
    for i in prange(len(rows)):
        if answers[i] >= 0:
            z, dz, m = rows[i], d_rows[i], largest[i]
            belief_minus_target(z, answers[i], smoothing, m, totals[i], d_losses[i], dz)
        else:
            d_rows[i] = ZERO


@cpu_function
def sum_of_exp(z, largest):
    """Σ exp(z - largest); with the largest of z taken out no exp overflows.

    One of the exps is then 1, unless all z are -inf: belief in nothing, as softmax has it.
    """
    total, exps = ZERO, np.empty(AT_ONCE, np.float32)
    for start in range(0, z.size, AT_ONCE):
        part = z[start : start + AT_ONCE]
        for j in range(part.size):
            exps[j] = exp(part[j] - largest)
        total += row_sum(exps[: part.size])
    return ONE if total < ONE else total


@cpu_function
def surprise(z, target, smoothing, largest, total):
    """log Σ exp(z) - (1-ε)·z[target] - ε·mean(z), with all z taken relative to the largest."""
    loss = log(total) - (ONE - smoothing) * (z[target] - largest)
    if smoothing != ZERO:
        loss -= smoothing * sum_below(z, largest) / np.float32(z.size)
    return loss


@cpu_function
def sum_below(z, largest):
    """Σ (z - largest)."""
    total, below = ZERO, np.empty(AT_ONCE, np.float32)
    for start in range(0, z.size, AT_ONCE):
        part = z[start : start + AT_ONCE]
        for j in range(part.size):
            below[j] = part[j] - largest
        total += row_sum(below[: part.size])
    return total


@cpu_function
def belief_minus_target(z, target, smoothing, largest, total, d_loss, dz):
    """dz = d_loss · (softmax(z) - target); dz may be z itself."""
    share = d_loss / total
    everywhere = d_loss * smoothing / np.float32(z.size)
    for j in range(z.size):
        dz[j] = share * exp(z[j] - largest) - everywhere
    dz[target] -= d_loss * (ONE - smoothing)
