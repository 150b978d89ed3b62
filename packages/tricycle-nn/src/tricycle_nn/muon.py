"""Muon: a matrix moves in all its directions by the same amount.

A gradient of a matrix is a sum of a few strong directions and many weak ones: its singular values
differ by factors of thousands, and plain descent hears the strong ones only.  Muon keeps each
direction and makes all of them equally strong: where the averaged gradient is U S Vᵀ, the step
is U Vᵀ.

    u  ←  momentum · u + g
    m  =  g + momentum · u                      Nesterov's look ahead
    w  ←  w − lr · decay · w − lr · 0.2 √max(rows, columns) · orthogonalise(m)

U Vᵀ needs no singular values to be found.  An odd polynomial of X acts on the singular values
alone, U p(S) Vᵀ, so a polynomial that drives every number in (0, 1] towards 1 does it, in
products of matrices only:

    X  ←  m / ‖m‖                               all singular values are at most 1 now
    X  ←  a X + b (X Xᵀ) X + c (X Xᵀ)² X         four times

Each round has the a, b, c that bring the interval in which singular values may be, [0.003, 1] at
first, as close to 1 as a polynomial of this degree can: to [0.8, 1.2] in the end, which does as
well as 1.  What was smaller than 0.003 has grown nearly 300 times.

Each round multiplies X from the left by a polynomial of G = X Xᵀ, and all of these are symmetric
and commute.  So X, the long one, can wait to the end:

    G  ←  X Xᵀ,   Q  ←  1
    P  ←  a + b G + c G²;   Q  ←  P Q;   G  ←  P G P         four times
    U Vᵀ  ≈  Q X

and of a symmetric product only what lies up to the diagonal has to be computed.

An orthogonal matrix has root-mean-square 1 / √max(rows, columns).  The factor makes that 0.2,
about what AdamW's steps have, so that one learning rate serves both.

Muon is for the matrices inside a network.  Tables (embeddings, the head) and vectors have no
directions to make equal: give them to AdamW, and both to `Combined`.

Sources: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024) for the
method; Amsel et al., The Polar Express (2025) for choosing a, b, c round by round; Liu et al.,
Muon is scalable for LLM training (2025) for decay and the factor.
"""

from typing import Any, NamedTuple

import numpy as np

from tricycle_autograd import cublaslt
from tricycle_autograd.arrays import empty, empty_like, in_float32
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import sum_of_squares
from tricycle_autograd.cuda import CudaFile, blocks_for
from tricycle_autograd.devices import array_module
from tricycle_autograd.fused import fused_update
from tricycle_autograd.gemm import multiply
from tricycle_nn.optimiser import MASTER, Optimiser, Parameters, check_share

# a, b, c of each round: what a linear programme finds for the least |1 - (a s + b s³ + c s⁵)| on a
# grid over the interval in which the round before has left s.
ROUNDS = (
    (8.37543, -24.69226, 18.26597),
    (4.04439, -3.01209, 0.56959),
    (3.50901, -2.62917, 0.52601),
    (2.49442, -1.83794, 0.43724),
)
COEFFICIENTS = np.array(ROUNDS, np.float32)
TINY = 1e-7  # keeps the division finite where there is no gradient at all
LIKE_ADAMW = 0.2
BLOCK = 56  # rows of a symmetric product computed at once: four of the product's strips


class Muon(Optimiser):
    """Momentum, made orthogonal.

    parameters     matrices, or groups {"parameters": …, "weight_decay": …, "parts": …}
    learning_rate  five times the typical change of a number
    momentum       how much of the old sum of gradients each step keeps, below 1
    weight_decay   how much of itself, times the learning rate, a weight loses each step
    parts          matrices side by side in each parameter, each made orthogonal by itself: 3 for
                   a packed projection to queries, keys and values

    Errors as for Optimiser; ValueError for anything but a matrix of equal parts.
    """

    moment_names = ("velocity",)
    bytes_per_parameter = 4
    one_by_one = False

    def __init__(
        self,
        parameters: Parameters,
        learning_rate: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        parts: int = 1,
    ):
        check_share("momentum", momentum)
        super().__init__(parameters, learning_rate, weight_decay=weight_decay, parts=parts)
        self.momentum = momentum
        for group in self.groups:
            for tensor in group.arena.tensors:
                _check_matrix(tensor, group.settings["parts"])

    def update_group(self, group, scalars):
        runs = list(group.runs())
        if not runs:
            return
        for run in runs:
            group.exact(*run)
        muon_update(
            group.moments.get(MASTER, group.arena.values),
            in_float32(group.arena.gradients),
            group.moments["velocity"],
            scalars,
            places=[place for run in runs for place in _places(group, *run)],
            momentum=self.momentum,
            weight_decay=group.settings["weight_decay"],
        )
        for run in runs:
            group.round_masters(*run)


class Place(NamedTuple):
    """Where a matrix is.

    weight, gradient, velocity  where its parameter starts in each of the flat arrays
    rows, width                 the parameter's shape
    first, columns              of the parameter's columns those that are the matrix's
    """

    weight: int
    gradient: int
    velocity: int
    rows: int
    width: int
    first: int
    columns: int

    def matrix(self, flat: Any, start: int) -> Any:
        """The matrix (rows, columns), seen in a flat array in which its parameter starts there."""
        parameter = flat[start : start + self.rows * self.width].reshape(self.rows, self.width)
        return parameter[:, self.first : self.first + self.columns]


def _places(group, first, last, place):
    """The place of every matrix in a run of a group."""
    parts = group.settings["parts"]
    for start, tensor in zip(group.arena.starts, group.arena.tensors, strict=False):
        if first <= start < last:
            rows, width = tensor.shape
            velocity = place + start - first
            weight = velocity if MASTER in group.moments else start
            for column in range(0, width, width // parts):
                yield Place(weight, start, velocity, rows, width, column, width // parts)


@fused_update
def muon_update(w, g, u, scalars, places, momentum, weight_decay):
    """One step of many matrices; w and u are changed in place.

    w, g, u   flat arrays: weights, gradients, velocities
    scalars   see Scalars
    places    a Place for each matrix
    """
    learning_rate, grad_scale, _ = scalars
    for place in places:
        matrix, velocity = place.matrix(w, place.weight), place.matrix(u, place.velocity)
        gradient = place.matrix(g, place.gradient) * grad_scale
        velocity *= momentum
        velocity += gradient
        step = LIKE_ADAMW * max(matrix.shape) ** 0.5 * orthogonalise(gradient + momentum * velocity)
        matrix -= learning_rate * (weight_decay * matrix + step)


@muon_update.operation
def muon_update_fast(run, w, g, u, scalars, places, momentum, weight_decay):
    learning_rate, grad_scale, _ = scalars
    run.step(
        *(w, g, u),
        places,
        np.float32(grad_scale),
        np.float32(momentum),
        np.float32(learning_rate * weight_decay),
        np.float32(learning_rate * LIKE_ADAMW),
    )


def orthogonalise(matrix: Any) -> Any:
    """The matrix with its singular values brought to between 0.8 and 1.2, about: (M, N)."""
    x = matrix if len(matrix) <= len(matrix.T) else matrix.T  # the smaller X Xᵀ
    xp = array_module(x)
    x = x / (xp.sqrt((x * x).sum()) + TINY)
    gram = x @ x.T
    one = q = xp.eye(len(x), dtype=x.dtype)
    for a, b, c in ROUNDS:
        p = a * one + b * gram + c * gram @ gram
        q = p @ q
        gram = p @ gram @ p
    x = q @ x
    return x if len(matrix) <= len(matrix.T) else x.T


@muon_update.kernels("cpu")
class CPU:
    """Each matrix by one thread."""

    def step(w: Any, g, u, places, *numbers):
        CPU.move_matrices(w, g, u, np.array(places, np.int64), *numbers)

    @cpu_kernel
    def move_matrices(w: Any, g, u, places, grad_scale, momentum, shrink, rate):
        """shrink = lr · decay;  rate = 0.2 · lr;  places (matrices, 7), see Place"""
        for k in prange(len(places)):
            w_start, g_start, u_start, rows, width, first, columns = places[k]
            size = rows * width
            mine = slice(first, first + columns)
            move_matrix(
                w[w_start : w_start + size].reshape(rows, width)[:, mine],
                g[g_start : g_start + size].reshape(rows, width)[:, mine],
                u[u_start : u_start + size].reshape(rows, width)[:, mine],
                grad_scale,
                momentum,
                shrink,
                rate,
            )


@cpu_function
def move_matrix(w, g, u, grad_scale, momentum, shrink, rate):
    """One step of one matrix w (M, N), with its gradient g and its momentum u."""
    rows, columns = w.shape
    wide = rows <= columns
    x = np.empty((rows, columns) if wide else (columns, rows), np.float32)
    ahead = x if wide else x.T
    for i in range(rows):
        for j in range(columns):
            gradient = g[i, j] * grad_scale
            u[i, j] = momentum * u[i, j] + gradient
            ahead[i, j] = gradient + momentum * u[i, j]
    total = 0.0
    for i in range(len(x)):
        total += sum_of_squares(x[i])
    x *= np.float32(1 / (np.sqrt(total) + TINY))
    y = orthogonalised(x)
    step = y if wide else y.T
    rate *= np.float32(np.sqrt(max(rows, columns)))
    for i in range(rows):
        for j in range(columns):
            w[i, j] -= shrink * w[i, j] + rate * step[i, j]


@cpu_function
def orthogonalised(x):
    """`orthogonalise`, for x (M, N) with M <= N and ‖x‖ <= 1."""
    M, N = x.shape
    gram, p, q, spare = np.empty((4, M, M), np.float32)
    multiply_symmetric(gram, x, x.T)
    for k in range(len(COEFFICIENTS)):
        a, b, c = COEFFICIENTS[k]
        multiply_symmetric(p, gram, gram)
        for i in range(M):
            for j in range(M):
                p[i, j] = b * gram[i, j] + c * p[i, j]
            p[i, i] += a
        if k == 0:
            q[:] = p
        else:
            multiply_symmetric(spare, p, q)
            q, spare = spare, q
        if k < len(COEFFICIENTS) - 1:
            multiply_symmetric(spare, p, gram)
            multiply_symmetric(gram, spare, p)
    y = np.empty((M, N), np.float32)
    multiply(y, q, x, False)
    return y


@cpu_function
def multiply_symmetric(out, a, b):
    """out = a @ b, (M, M), known to be symmetric."""
    for first in range(0, len(out), BLOCK):
        end = min(first + BLOCK, len(out))
        multiply(out[first:end, :end], a[first:end], b[:, :end], False)
        for other in range(0, end, BLOCK):
            for j in range(other, min(other + BLOCK, end)):
                for i in range(max(first, j + 1), end):
                    out[j, i] = out[i, j]


@muon_update.kernels("cuda")
class GPU:
    """One matrix after another: products by cuBLASLt, the rest by muon.cu; all of it in float32.

    bfloat16 would not do for the products: it rounds G's small numbers, the squares of the weak
    directions, to nothing beside its large ones.
    """

    FILE = CudaFile(__file__)
    THREADS, CHUNK = 256, 4096  # of a block, as muon.cu has them

    def step(w: Any, g, u, places, *numbers):
        for place in places:
            matrices = place.matrix(w, place.weight), place.matrix(g, place.gradient)
            GPU.move_matrix(*matrices, place.matrix(u, place.velocity), place.width, *numbers)

    def move_matrix(w: Any, g, u, width, grad_scale, momentum, shrink, rate):
        """One step of one matrix w (M, N) in rows of this width, its gradient and its momentum."""
        size, columns, width = np.int64(w.size), np.int32(w.shape[1]), np.int64(width)
        blocks = blocks_for(w.size, GPU.CHUNK)
        x, sums = empty(w.shape, np.float32, like=w), empty(blocks, np.float64, like=w)
        GPU.launch("look_ahead", size, x, sums, u, g, grad_scale, momentum, columns, width, size)
        GPU.launch("normalise", size, x, sums, np.int32(blocks), size)
        step = GPU.orthogonalised(x)
        rate *= np.float32(np.sqrt(max(w.shape)))
        GPU.launch("move", size, w, step, shrink, rate, columns, width, size)

    def orthogonalised(x: Any):
        """As on the CPU, for x (M, N) with ‖x‖ <= 1; it may be high, too."""
        wide = x.shape[0] <= x.shape[1]
        short = x if wide else x.T
        M = len(short)
        gram, p, q, spare = (empty((M, M), np.float32, like=x) for _ in range(4))
        cublaslt.product(gram, short, short.T)
        for k, (a, b, c) in enumerate(COEFFICIENTS):
            cublaslt.product(p, gram, gram)
            GPU.launch("polynomial", M * M, p, gram, a, b, c, np.int32(M))
            if k < len(COEFFICIENTS) - 1:
                cublaslt.product(spare, p, gram)
                cublaslt.product(gram, spare, p)
            if k == 0:
                p, q = q, p
            else:
                cublaslt.product(spare, p, q)
                q, spare = spare, q
        y = empty_like(x)
        cublaslt.product(y, *((q, x) if wide else (x, q)))  # q is its own transpose
        return y

    def launch(name: Any, size, *arguments):
        kernel = GPU.FILE.get(name, np.float32)
        kernel((blocks_for(size, GPU.CHUNK),), (GPU.THREADS,), *arguments)


def _check_matrix(tensor, parts):
    if tensor.ndim != 2 or tensor.size == 0:
        raise ValueError(
            f"Muon moves matrices, got a parameter of shape {tensor.shape}; give vectors and "
            "tables to AdamW, and both optimisers to Combined"
        )
    if not isinstance(parts, int) or parts < 1 or tensor.shape[1] % parts:
        raise ValueError(
            f"parts must divide the columns of every matrix in its group, got {parts} parts and "
            f"the shape {tensor.shape}"
        )
