"""Attention's CPU kernels: blocks of queries against all the keys they may see.

A block of 64 queries takes one piece of scratch memory, small enough to stay in the cache:
scores by one matrix product, softmax in place, and a second product with the values.  The
T×T table of weights never exists, neither here nor for the backward pass, which needs only
one number for each query: log Σ exp(scores).  From that it makes the weights again,

    p = exp(score - log_sum)

and then follows the chain rule through out = p·v, p = softmax(s), s = scale·q·kᵀ:

    dv += pᵀ·dy        dp = dy·vᵀ        ds = p · (dp - Σ_keys p·dp)
    dq  = scale·ds·k   dk += ds·(scale·q)ᵀ             and Σ_keys p·dp = Σ_D out·dy

All arrays are four-dimensional views, (batch, head, position, number), of any strides except
that the numbers of one head lie side by side: slices of a packed projection and of a cache
are worked on where they are.

Forward, each block of queries is a piece of work of its own.  Backward, the queries of a head
all add to the same keys, so a piece is a key head with all the query heads that read it, and
their sums are made in a fixed order.
"""

import numpy as np

from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import exp, row_maximum
from tricycle_autograd.gemm import multiply

QUERIES = 64  # in a block: 32 is as fast, 128 and 256 leave the cache or waste work on the future
ZERO = np.float32(0)
ONE = np.float32(1)
VIEW = "float32[:, :, :, :]"  # with any strides
SUMS = "float32[:, :, ::1]"


@cpu_kernel(signature=f"({VIEW}, {VIEW}, {VIEW}, {VIEW}, {SUMS}, boolean, float32)")
def forward(q, k, v, out, log_sums, causal, scale):
    """out (B, H, T, D), log_sums (B, H, T), from q (B, H, T, D) and k, v (B, G, S, D)."""
    B, H, T, D = q.shape
    G, S = k.shape[1], k.shape[2]
    n_blocks = (T + QUERIES - 1) // QUERIES
    for piece in prange(B * H * n_blocks):
        scores = np.empty((QUERIES, S), np.float32)
        scaled = np.empty((QUERIES, D), np.float32)
        shares = np.empty(QUERIES, np.float32)
        b, h, start = piece // n_blocks // H, piece // n_blocks % H, piece % n_blocks * QUERIES
        g, mine = h // (H // G), slice(start, min(T, start + QUERIES))
        sees, more = (S - T + start + 1, 1) if causal else (S, 0)
        _look_back(
            *(q[b, h, mine], k[b, g], v[b, g], out[b, h, mine], log_sums[b, h, mine]),
            *(sees, more, scale, scores, scaled, shares),
        )


@cpu_kernel(
    signature=f"({VIEW}, {VIEW}, {VIEW}, {VIEW}, {SUMS}, {VIEW}, {VIEW}, {VIEW}, {VIEW}, "
    "boolean, float32)"
)
def backward(q, k, v, out, log_sums, dy, dq, dk, dv, causal, scale):
    """dq, dk and dv from what the forward pass was given and made, and dy (B, H, T, D)."""
    B, H, T, D = q.shape
    G, S = k.shape[1], k.shape[2]
    group = H // G
    for piece in prange(B * G):
        weights = np.empty((QUERIES, S), np.float32)
        d_scores = np.empty((QUERIES, S), np.float32)
        scaled = np.empty((QUERIES, D), np.float32)
        b, g = piece // G, piece % G
        dk[b, g] = ZERO
        dv[b, g] = ZERO
        for h in range(g * group, g * group + group):
            for start in range(0, T, QUERIES):
                mine = slice(start, min(T, start + QUERIES))
                sees, more = (S - T + start + 1, 1) if causal else (S, 0)
                _send_back(
                    *(q[b, h, mine], k[b, g], v[b, g], out[b, h, mine], log_sums[b, h, mine]),
                    *(dy[b, h, mine], dq[b, h, mine], dk[b, g], dv[b, g]),
                    *(sees, more, scale, weights, d_scores, scaled),
                )


@cpu_function
def _look_back(q, k, v, out, log_sums, sees, more, scale, scores, scaled, shares):
    """One block: q, out (M, D); k, v (S, D).  The first query sees the first `sees` keys, and
    each one after it sees `more` (0 or 1) than the one before."""
    M, D = q.shape
    n_keys = sees + (M - 1) * more
    _scale(scaled, q, scale)
    multiply(scores[:M, :n_keys], scaled[:M], k[:n_keys].T, False)
    for i in range(M):
        seen = sees + i * more
        row = scores[i]
        largest = row_maximum(row[:seen])
        total = _exponentials(row[:seen], largest)
        row[seen:n_keys] = ZERO
        log_sums[i] = largest + np.log(total)
        shares[i] = ONE / total
    multiply(out, scores[:M, :n_keys], v[:n_keys], False)
    # Divided by the total only now, when D numbers are left of each row of n_keys.
    for i in range(M):
        _scale_row(out[i], out[i], shares[i])


@cpu_function
def _send_back(
    q, k, v, out, log_sums, dy, dq, dk, dv, sees, more, scale, weights, d_scores, scaled
):
    """One block backwards: dq is written; dk and dv, which other blocks share, are added to."""
    M, D = q.shape
    n_keys = sees + (M - 1) * more
    _scale(scaled, q, scale)
    multiply(weights[:M, :n_keys], scaled[:M], k[:n_keys].T, False)
    multiply(d_scores[:M, :n_keys], dy, v[:n_keys].T, False)
    for i in range(M):
        seen = sees + i * more
        mean = _dot(out[i], dy[i])
        _softmax_back(weights[i, :seen], d_scores[i, :seen], log_sums[i], mean)
        weights[i, seen:n_keys] = ZERO
        d_scores[i, seen:n_keys] = ZERO
    multiply(dv[:n_keys], weights[:M, :n_keys].T, dy, True)
    multiply(dk[:n_keys], d_scores[:M, :n_keys].T, scaled[:M], True)
    multiply(dq, d_scores[:M, :n_keys], k[:n_keys], False)
    _scale(dq, dq, scale)


@cpu_function
def _exponentials(row, largest):
    """Each number x of the row becomes exp(x - largest); returns their sum."""
    total = ZERO
    for j in range(row.size):
        e = exp(row[j] - largest)
        row[j] = e
        total += e
    return total


@cpu_function
def _softmax_back(weights, d_scores, log_sum, mean):
    """Scores become weights; their gradients turn from the weights' into the scores'."""
    for j in range(weights.size):
        weight = exp(weights[j] - log_sum)
        weights[j] = weight
        d_scores[j] = weight * (d_scores[j] - mean)


@cpu_function
def _dot(a, b):
    total = ZERO
    for j in range(a.size):
        total += a[j] * b[j]
    return total


@cpu_function
def _scale(out, x, factor):
    for i in range(x.shape[0]):
        _scale_row(out[i], x[i], factor)


@cpu_function
def _scale_row(out, x, factor):
    for j in range(x.size):
        out[j] = x[j] * factor
