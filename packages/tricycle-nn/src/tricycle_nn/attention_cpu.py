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
are worked on where they are.  Results are made as (batch, position, head, number) and seen as
the others are, so that joining the heads is a reshape without a copy.

A window hides all but the last keys of what a query may see: its block compares only with the keys
from the first that its first query sees on, so the time grows with T·window instead of T².

A mask is added to the scores, -inf where a query must not look.  A query that may look nowhere
reads zeros: its log_sum is inf, from which its weights come out as 0 again.

Forward, each block of queries is a piece of work of its own.  Backward, the queries of a head
all add to the same keys, so a piece is a key head with all the query heads that read it, and
their sums are made in a fixed order.
"""

import numpy as np

from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import dot, exp, log, row_maximum, row_sum, side_by_side
from tricycle_autograd.gemm import multiply
from tricycle_nn.softmax import exp_or_zero

QUERIES = 64  # in a block: 32 is as fast, 128 and 256 leave the cache or waste work on the future
ZERO = np.float32(0)
ONE = np.float32(1)
INFINITE = np.float32(np.inf)
VIEW = "float32[:, :, :, :]"  # with any strides
SUMS = "float32[:, :, ::1]"
NO_MASK = np.zeros((0, 0, 0, 0), np.float32)


def forward(q, k, v, causal, scale, mask=None, window=None):
    """out (B, H, T, E) and log_sums (B, H, T).

    q (B, H, T, D)    k (B, G, S, D)    v (B, G, S, E)    mask (B, H, T, S), is added, or None
    window            of a causal one without a mask, the keys that each query sees at most, or None
    """
    B, H, T, _ = q.shape
    out, log_sums = empty_heads(B, H, T, v.shape[3]), np.empty((B, H, T), np.float32)
    look_back(q, k, v, out, log_sums, *_settings(k, causal, scale, mask, window))
    return out, log_sums


def backward(dy, q, k, v, out, log_sums, causal, scale, mask=None, window=None):
    """dq, dk and dv from dy (B, H, T, E), and what `forward` was given and made."""
    dq, dk, dv = (empty_heads(*array.shape) for array in (q, k, v))
    more = _settings(k, causal, scale, mask, window)
    send_back(q, k, v, out, log_sums, dy, dq, dk, dv, *more)
    return dq, dk, dv


def _settings(k, causal, scale, mask, window):
    """As kernels want them: a window of all keys hides none."""
    window = k.shape[2] if window is None else window
    return causal, np.float32(scale), NO_MASK if mask is None else mask, window


def packed_backward(dy, q, k, v, out, log_sums, causal, scale):
    """dq, dk and dv side by side, as packed_attention is given q, k and v: (B, T, (H + 2G)·D)."""
    B, H, T, D = q.shape
    G = k.shape[1]
    heads = empty_heads(B, H + 2 * G, T, D)
    dq, dk, dv = heads[:, :H], heads[:, H : H + G], heads[:, H + G :]
    more = _settings(k, causal, scale, None, None)
    send_back(q, k, v, out, log_sums, dy, dq, dk, dv, *more)
    return heads.transpose(0, 2, 1, 3).reshape(B, T, (H + 2 * G) * D)


def empty_heads(B, H, T, D):
    """Room for (B, H, T, D) that lies in memory as (B, T, H, D)."""
    return np.empty((B, T, H, D), np.float32).transpose(0, 2, 1, 3)


@cpu_kernel(signature=f"({VIEW}, {VIEW}, {VIEW}, {VIEW}, {SUMS}, boolean, float32, {VIEW}, int64)")
def look_back(q, k, v, out, log_sums, causal, scale, mask, window):
    """Writes out and log_sums."""
    B, H, T, _ = q.shape
    n_blocks = (T + QUERIES - 1) // QUERIES
    for piece in prange(B * H * n_blocks):
        b, h, block = piece // n_blocks // H, piece // n_blocks % H, piece % n_blocks
        start = np.int64(block * QUERIES)
        _block_looks_back(b, h, start, q, k, v, out, log_sums, causal, scale, mask, window)


@cpu_kernel(
    signature=f"({VIEW}, {VIEW}, {VIEW}, {VIEW}, {SUMS}, {VIEW}, {VIEW}, {VIEW}, {VIEW}, "
    f"boolean, float32, {VIEW}, int64)"
)
def send_back(q, k, v, out, log_sums, dy, dq, dk, dv, causal, scale, mask, window):
    """Writes dq, dk and dv."""
    B, G = k.shape[:2]
    for piece in prange(B * G):
        b, g = piece // G, piece % G
        more = causal, scale, mask, window
        _key_head_sends_back(b, g, q, k, v, out, log_sums, dy, dq, dk, dv, *more)


@cpu_function
def _block_looks_back(b, h, start, q, k, v, out, log_sums, causal, scale, mask, window):
    """The block of queries of one head that begins at `start`."""
    T, D, S = q.shape[2], q.shape[3], k.shape[2]
    g, stop = h // (q.shape[1] // k.shape[1]), min(T, start + QUERIES)
    M, low, high = stop - start, _first(start, T, S, window), _seen(stop - 1, T, S, causal)
    scaled, scores = np.empty((M, D), np.float32), np.empty((M, high - low), np.float32)
    shares = np.empty(M, np.float32)

    _scale(scaled, q[b, h, start:stop], scale)
    multiply(scores, scaled, k[b, g, low:high].T, False)
    for i in range(M):
        hidden = _first(start + i, T, S, window) - low
        seen = _seen(start + i, T, S, causal) - low
        row = scores[i]
        if mask.size:
            log_sums[b, h, start + i], shares[i] = _masked_weights(
                row[:seen], mask[b, h, start + i, :seen]
            )
            row[seen:] = ZERO
            continue
        largest = row_maximum(row[hidden:seen])
        total = _exponentials(row[hidden:seen], largest)
        row[:hidden] = ZERO
        row[seen:] = ZERO
        log_sums[b, h, start + i] = largest + log(total)
        shares[i] = ONE / total
    out = out[b, h, start:stop]
    multiply(out, scores, v[b, g, low:high], False)
    # Divided by the total only now, when D numbers are left of each row of scores.
    for i in range(M):
        rescale_row(side_by_side(out[i]), shares[i])


@cpu_function
def _key_head_sends_back(b, g, q, k, v, out, log_sums, dy, dq, dk, dv, causal, scale, mask, window):
    """All blocks of queries that read one key head; their additions to dk and dv go in order."""
    H, T, D = q.shape[1:]
    G, S = k.shape[1], k.shape[2]
    k, v, dk, dv = k[b, g], v[b, g], dk[b, g], dv[b, g]
    for j in range(S):
        side_by_side(dk[j])[:] = ZERO
        side_by_side(dv[j])[:] = ZERO
    scaled = np.empty((QUERIES, D), np.float32)
    most = min(S, window + QUERIES - 1)
    all_weights = np.empty((QUERIES, most), np.float32)
    all_d_scores = np.empty((QUERIES, most), np.float32)
    for h in range(g * (H // G), (g + 1) * (H // G)):
        for start in range(0, T, QUERIES):
            stop = min(T, start + QUERIES)
            low, high = _first(start, T, S, window), _seen(stop - 1, T, S, causal)
            M, n_keys = stop - start, high - low
            q_scaled, mine = scaled[:M], slice(start, stop)
            weights, d_scores = all_weights[:M, :n_keys], all_d_scores[:M, :n_keys]

            _scale(q_scaled, q[b, h, mine], scale)
            multiply(weights, q_scaled, k[low:high].T, False)
            multiply(d_scores, dy[b, h, mine], v[low:high].T, False)
            for i in range(M):
                t = start + i
                hidden = _first(t, T, S, window) - low
                seen = _seen(t, T, S, causal) - low
                mean = dot(side_by_side(out[b, h, t]), side_by_side(dy[b, h, t]))
                row, d_row = all_weights[i], all_d_scores[i]
                if mask.size:
                    masked = mask[b, h, t, :seen]
                    _masked_softmax_back(row[:seen], d_row[:seen], masked, log_sums[b, h, t], mean)
                else:
                    _softmax_back(row[hidden:seen], d_row[hidden:seen], log_sums[b, h, t], mean)
                row[:hidden] = ZERO
                d_row[:hidden] = ZERO
                row[seen:n_keys] = ZERO
                d_row[seen:n_keys] = ZERO
            multiply(dv[low:high], weights.T, dy[b, h, mine], True)
            multiply(dk[low:high], d_scores.T, q_scaled, True)
            multiply(dq[b, h, mine], d_scores, k[low:high], False)
            for t in range(start, stop):
                rescale_row(side_by_side(dq[b, h, t]), scale)


@cpu_function
def _seen(t, T, S, causal):
    """How many of S keys the query t of T sees."""
    return S - T + t + 1 if causal else S


@cpu_function
def _first(t, T, S, window):
    """The first of S keys that the query t of T sees: 0 where the window is all of them."""
    return max(0, S - T + t + 1 - window)


@cpu_function
def _exponentials(row, largest):
    """Each number x of the row becomes exp(x - largest); returns their sum."""
    for j in range(row.size):
        row[j] = exp(row[j] - largest)
    return row_sum(row)


@cpu_function
def _masked_weights(row, mask):
    """Scores become exp(score + mask - the largest); returns their log_sum, and 1 / their sum."""
    for j in range(row.size):
        row[j] += mask[j]
    largest = row_maximum(row)
    if largest == -INFINITE:
        row[:] = ZERO
        return INFINITE, ZERO
    for j in range(row.size):
        row[j] = exp_or_zero(row[j] - largest)
    total = row_sum(row)
    return largest + log(total), ONE / total


@cpu_function
def _masked_softmax_back(weights, d_scores, mask, log_sum, mean):
    """As _softmax_back, for scores to which a mask is to be added."""
    for j in range(weights.size):
        weight = exp_or_zero(weights[j] + mask[j] - log_sum)
        weights[j] = weight
        d_scores[j] = weight * (d_scores[j] - mean)


@cpu_function
def _softmax_back(weights, d_scores, log_sum, mean):
    """Scores become weights; their gradients turn from the weights' into the scores'."""
    for j in range(weights.size):
        weight = exp(weights[j] - log_sum)
        weights[j] = weight
        d_scores[j] = weight * (d_scores[j] - mean)


@cpu_function
def _scale(out, x, factor):
    """out = factor · x, where the numbers of each row of x lie side by side."""
    for i in range(x.shape[0]):
        _scale_row(out[i], side_by_side(x[i]), factor)


@cpu_function
def _scale_row(out, x, factor):
    for j in range(x.size):
        out[j] = x[j] * factor


@cpu_function
def rescale_row(x, factor):
    """In place.  _scale_row would be slow here: its two arguments would overlap, which prevents
    vectorising."""
    for j in range(x.size):
        x[j] *= factor
