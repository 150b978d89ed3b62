"""Attention of a single query, which is how a text is written: one new token, many old ones.

With one query there is nothing to share: every key and every value is read once, and the time is
that of reading them.  So here are no matrix products and no packing, only two passes of plain
loops,

    scores[s] = scale · q · k[s]            out = Σ softmax(scores)[s] · v[s]

A piece of work is one key head with the queries that read it: its keys and values are read from
memory once for all of them.
"""

import numpy as np

from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import (
    dot,
    exp,
    log,
    row_maximum,
    row_sum,
    side_by_side,
)
from tricycle_autograd.gemm_one_row import add_scaled
from tricycle_nn.attention_cpu import SUMS, VIEW, empty_heads, rescale_row

ZERO = np.float32(0)
ONE = np.float32(1)


def forward(q, k, v, scale):
    """out (B, H, 1, E) and log_sums (B, H, 1).

    q (B, H, 1, D)    k (B, G, S, D)    v (B, G, S, E)
    """
    B, H, T, _ = q.shape
    out, log_sums = empty_heads(B, H, T, v.shape[3]), np.empty((B, H, T), np.float32)
    look_once(q, k, v, out, log_sums, np.float32(scale))
    return out, log_sums


@cpu_kernel(signature=f"({VIEW}, {VIEW}, {VIEW}, {VIEW}, {SUMS}, float32)")
def look_once(q, k, v, out, log_sums, scale):
    """Writes out and log_sums."""
    B, G = k.shape[:2]
    group = q.shape[1] // G
    for piece in prange(B * G):
        b, g = piece // G, piece % G
        scores = np.empty(k.shape[2], np.float32)
        for h in range(g * group, (g + 1) * group):
            log_sums[b, h, 0] = _look(
                side_by_side(q[b, h, 0]),
                k[b, g],
                v[b, g],
                side_by_side(out[b, h, 0]),
                scores,
                scale,
            )


@cpu_function
def _look(q, k, v, out, scores, scale):
    """One query: out (E,) from q (D,), k (S, D) and v (S, E); returns log Σ exp(scores)."""
    for s in range(scores.size):
        scores[s] = dot(q, side_by_side(k[s])) * scale
    largest = row_maximum(scores)
    for s in range(scores.size):
        scores[s] = exp(scores[s] - largest)
    total = row_sum(scores)
    out[:] = ZERO
    for s in range(scores.size):
        add_scaled(out, scores[s], side_by_side(v[s]))
    rescale_row(out, ONE / total)
    return largest + log(total)
