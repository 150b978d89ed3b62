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
    X  ←  a X + b (X Xᵀ) X + c (X Xᵀ)² X         five times

with a, b, c chosen to grow small values fast (3.4 times each round): they end between 0.7 and
1.2 rather than at 1, which does as well and takes few rounds.

An orthogonal matrix has root-mean-square 1 / √max(rows, columns).  The factor makes that 0.2,
about what AdamW's steps have, so that one learning rate serves both.

Muon is for the matrices inside a network.  Tables (embeddings, the head) and vectors have no
directions to make equal: give them to AdamW, and both to `Combined`.

Sources: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024) for the
method and a, b, c; Liu et al., Muon is scalable for LLM training (2025) for decay and the factor.
"""

import numpy as np

from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.gemm import multiply
from tricycle_nn.optimiser import Optimiser, Parameters, check_share

A, B, C = np.float32(3.4445), np.float32(-4.7750), np.float32(2.0315)
ROUNDS = 5
TINY = 1e-7  # keeps the division finite where there is no gradient at all
LIKE_ADAMW = 0.2


class Muon(Optimiser):
    """Momentum, made orthogonal.

    parameters     matrices, or groups {"parameters": …, "weight_decay": …, "parts": …}
    learning_rate  five times the typical change of a number
    momentum       how much of the old sum of gradients each step keeps, below 1
    weight_decay   how much of itself, times the learning rate, a weight loses each step
    parts          matrices side by side in each parameter, each made orthogonal by itself: 3 for
                   a packed projection to queries, keys and values

    Errors as for Optimiser; ValueError for what is no matrix, or not of equal parts.
    """

    moment_names = ("velocity",)

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

    def update_group(self, group, grad_scale):
        parts = group.settings["parts"]
        places = [
            (start, *tensor.shape, column, tensor.shape[1] // parts)
            for start, tensor in zip(group.arena.starts, group.arena.tensors, strict=False)
            if tensor.grad is not None
            for column in range(0, tensor.shape[1], tensor.shape[1] // parts)
        ]
        if not places:
            return
        muon_kernel(
            group.arena.values,
            group.arena.gradients,
            group.moments["velocity"],
            np.array(places, np.int64),
            np.float32(grad_scale),
            np.float32(self.momentum),
            np.float32(self.learning_rate * group.settings["weight_decay"]),
            np.float32(self.learning_rate * LIKE_ADAMW),
        )


def muon_update(w, g, u, learning_rate, momentum, weight_decay, grad_scale=1.0):
    """One step of one matrix in array language: what the kernel computes.

    w, g, u   (rows, columns): weights, gradient, velocity; w and u are changed in place
    """
    g = g * grad_scale
    u *= momentum
    u += g
    step = LIKE_ADAMW * max(w.shape) ** 0.5 * orthogonalise(g + momentum * u)
    w -= learning_rate * (weight_decay * w + step)


def orthogonalise(matrix: np.ndarray) -> np.ndarray:
    """The matrix with its singular values brought to between 0.7 and 1.2, about: (M, N)."""
    x = matrix if len(matrix) <= len(matrix.T) else matrix.T  # the smaller X Xᵀ
    x = x / (np.linalg.norm(x) + TINY)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = A * x + (B * square + C * square @ square) @ x
    return x if len(matrix) <= len(matrix.T) else x.T


@cpu_kernel
def muon_kernel(w, g, u, places, grad_scale, momentum, shrink, rate):
    """`muon_update` of many matrices, each by one thread.

    w, g, u  (N,): weights, gradients and velocities of all of them
    places   (matrices, 5): where the parameter starts, its rows and columns, and of the matrix in
             it the first column and how many there are
    shrink   lr · decay;  rate = 0.2 · lr
    """
    for k in prange(len(places)):
        start, rows, width, first, columns = places[k]
        end = start + rows * width
        mine = slice(first, first + columns)
        move_matrix(
            w[start:end].reshape(rows, width)[:, mine],
            g[start:end].reshape(rows, width)[:, mine],
            u[start:end].reshape(rows, width)[:, mine],
            grad_scale,
            momentum,
            shrink,
            rate,
        )


@cpu_function
def move_matrix(w, g, u, grad_scale, momentum, shrink, rate):
    rows, columns = w.shape
    wide = rows <= columns
    x = np.empty((rows, columns) if wide else (columns, rows), np.float32)
    ahead = x if wide else x.T
    total = 0.0
    for i in range(rows):
        for j in range(columns):
            gradient = g[i, j] * grad_scale
            u[i, j] = momentum * u[i, j] + gradient
            ahead[i, j] = gradient + momentum * u[i, j]
            total += np.float64(ahead[i, j]) * np.float64(ahead[i, j])
    x *= np.float32(1 / (np.sqrt(total) + TINY))
    y = orthogonalise_in_place(x)
    step = y if wide else y.T
    rate *= np.float32(np.sqrt(max(rows, columns)))
    for i in range(rows):
        for j in range(columns):
            w[i, j] -= shrink * w[i, j] + rate * step[i, j]


@cpu_function
def orthogonalise_in_place(x):
    """The rounds of `orthogonalise`, for x (M, N) with M <= N and ‖x‖ <= 1."""
    M, N = x.shape
    y = np.empty((M, N), np.float32)
    square, polynomial = np.empty((M, M), np.float32), np.empty((M, M), np.float32)
    for _ in range(ROUNDS):
        multiply(square, x, x.T, False)
        multiply(polynomial, square, square, False)
        for i in range(M):
            for j in range(M):
                polynomial[i, j] = B * square[i, j] + C * polynomial[i, j]
            polynomial[i, i] += A
        multiply(y, polynomial, x, False)
        x, y = y, x
    return x


def _check_matrix(tensor, parts):
    if tensor.ndim != 2 or tensor.size == 0:
        raise ValueError(
            f"Muon moves matrices, got a parameter of shape {tensor.shape}; give vectors and "
            "tables to AdamW, and both optimisers to Combined"
        )
    if parts != int(parts) or parts < 1 or tensor.shape[1] % parts:
        raise ValueError(
            f"parts must divide the columns of every matrix in its group, got {parts} parts and "
            f"the shape {tensor.shape}"
        )
