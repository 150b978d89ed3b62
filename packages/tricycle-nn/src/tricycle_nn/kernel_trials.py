"""What this package's kernels are tried on when they are first used: tricycle_autograd.first_use.

A few rows of lengths that fill no register evenly, for every kernel; a test sees to it that none is
forgotten.
"""

from collections.abc import Callable, Iterator

import numpy as np

from tricycle_autograd.first_use import Cases

Generator = np.random.Generator

N, C = 5, 37  # rows, and numbers in each
EPS = np.float32(1e-5)
HALF = np.float32(0.5)


def numbers(rng: Generator, *shape: int) -> np.ndarray:
    """Normally distributed float32."""
    return rng.standard_normal(shape).astype(np.float32)


def zeros(*shape: int) -> np.ndarray:
    """Room for a result."""
    return np.zeros(shape, np.float32)


def elementwise(n_results: int, n_inputs: int) -> Callable[[Generator], tuple]:
    """Arguments of a kernel of flat arrays: results first."""
    return lambda rng: (
        *(zeros(N * C) for _ in range(n_results)),
        *(3 * numbers(rng, N * C) for _ in range(n_inputs)),
    )


def rows(rng: Generator) -> tuple:
    """x."""
    return (3 * numbers(rng, N, C),)


def rows_back(rng: Generator) -> tuple:
    """dy, y."""
    return numbers(rng, N, C), -np.abs(numbers(rng, N, C))


def layer_norm_back(rng: Generator) -> tuple:
    """dy, x, weight, mean, r, waiting."""
    (dy, x, waiting), means = numbers(rng, 3, N, C), numbers(rng, 2, N)
    return dy, x, numbers(rng, C), means[0], np.abs(means[1]), waiting


def rms_norm_back(rng: Generator) -> tuple:
    """dy, x, weight, r, waiting."""
    dy, x, waiting = numbers(rng, 3, N, C)
    return dy, x, numbers(rng, C), np.abs(numbers(rng, N)), waiting


TARGETS = np.array([3, 36, -1, 0, 17])


def cross_entropy(rng: Generator) -> tuple:
    """rows, answers, smoothing."""
    return 3 * numbers(rng, N, C), TARGETS, 0.1


def cross_entropy_back(rng: Generator) -> tuple:
    """rows, answers, smoothing, largest, totals, d_losses, d_rows."""
    logits = numbers(rng, N, C)
    largest, d_losses = logits.max(axis=1), numbers(rng, N)
    totals = np.exp(logits - largest[:, None]).sum(axis=1)
    return logits, TARGETS, np.float32(0.1), largest, totals, d_losses, zeros(N, C)


def linear_cross_entropy(rng: Generator) -> tuple:
    """scores, answers, smoothing, share, keep, losses."""
    return 3 * numbers(rng, N, C), TARGETS, np.float32(0.1), np.float32(0.25), True, zeros(N)


HEADS, KEY_HEADS, QUERIES, KEYS, SIZE = 2, 1, 9, 11, 5


def heads(n: int, positions: int) -> np.ndarray:
    """(1, n, positions, SIZE), that lies as a slice of a packed projection does."""
    return zeros(1, positions, 3 * n, SIZE).transpose(0, 2, 1, 3)[:, n : 2 * n]


def attention(rng: Generator, queries: int = QUERIES) -> tuple:
    """q, k, v, out, log_sums."""
    q, out = heads(HEADS, queries), heads(HEADS, queries)
    k, v = heads(KEY_HEADS, KEYS), heads(KEY_HEADS, KEYS)
    for array in (q, k, v):
        array[...] = numbers(rng, *array.shape)
    return q, k, v, out, zeros(1, HEADS, queries)


def attention_mask(rng: Generator) -> np.ndarray:
    """What is added to scores; some are never to be seen."""
    mask = numbers(rng, 1, HEADS, QUERIES, KEYS)
    mask[mask > 1] = -np.inf
    return mask


def attention_settings(rng: Generator) -> Iterator[tuple]:
    """causal, scale, mask, window: with a mask, and with a window."""
    yield True, HALF, attention_mask(rng), KEYS
    yield True, HALF, zeros(0, 0, 0, 0), 3


def attention_forth(rng: Generator) -> Iterator[tuple]:
    """q, k, v, out, log_sums, causal, scale, mask, window."""
    for settings in attention_settings(rng):
        yield *attention(rng), *settings


def attention_back(rng: Generator) -> Iterator[tuple]:
    """q, k, v, out, log_sums, dy, dq, dk, dv, causal, scale, mask, window."""
    for settings in attention_settings(rng):
        yield *attention_gradients(rng), *settings


def attention_gradients(rng: Generator) -> tuple:
    """q, k, v, out, log_sums, dy, dq, dk, dv."""
    q, k, v, out, log_sums = attention(rng)
    dy = heads(HEADS, QUERIES)
    for array in (out, dy):
        array[...] = numbers(rng, *array.shape)
    log_sums[...] = 3
    gradients = [heads(x.shape[1], x.shape[2]) for x in (q, k, v)]
    return q, k, v, out, log_sums, dy, *gradients


def embedding_gather(rng: Generator) -> tuple:
    """ids, table."""
    return np.array([3, 0, 7, 3, 1]), numbers(rng, 8, C)


def embedding_scatter(rng: Generator) -> tuple:
    """d_table, add, ids, dy."""
    return numbers(rng, 8, C), True, np.array([3, 0, 7, 3, 1]), numbers(rng, N, C)


def dropout(rng: Generator) -> tuple:
    """y, x, seed, step, stream, threshold, scale."""
    settings = np.uint64(2**40 + 7), np.uint32(3), np.uint32(5), np.uint32(2**31), np.float32(2)
    return zeros(150), numbers(rng, 150), *settings


def rotary(rng: Generator) -> tuple:
    """x, cos, sin, interleaved."""
    return numbers(rng, 6, 22), numbers(rng, 3, 11), numbers(rng, 3, 11), False


def quantised(rng: Generator) -> Iterator[tuple]:
    """out, x, numbers, scales, least, n_pieces: of 8 bits, and of 4."""
    for width in (32, 16):
        whole = rng.integers(0, 256, (2, C, width)).astype(np.uint8)
        scales, least = rng.uniform(-1e-4, 1e-3, (2, 2, 2, 32)).astype(np.float16).view(np.uint16)
        least = least if width == 16 else np.zeros((0, 0, 0), np.uint16)
        yield zeros(N, 64), numbers(rng, N, C), whole, scales, least, 2


def adamw(rng: Generator) -> tuple:
    """w, g, m, v, grad_scale, new1, new2, shrink, rate, correction, eps."""
    w, g, m, v = numbers(rng, 4, C)
    settings = (0.5, 0.1, 0.01, 0.001, 0.02, 1.5, 1e-8)
    return w, g, m, np.abs(v), *(np.float32(x) for x in settings)


def sgd(rng: Generator) -> tuple:
    """w, g, u, grad_scale, learning_rate, momentum, decay, nesterov."""
    return *numbers(rng, 3, C), HALF, np.float32(0.01), np.float32(0.9), np.float32(0.1), True


def muon(rng: Generator) -> tuple:
    """w, g, u, places, grad_scale, momentum, shrink, rate."""
    places = np.array([(0, 0, 0, 4, 10, 0, 5), (0, 0, 0, 4, 10, 5, 5), (40, 40, 40, 7, 3, 0, 3)])
    settings = HALF, np.float32(0.95), np.float32(0.001), np.float32(0.02)
    return *numbers(rng, 3, 61), places, *settings


TRIALS: dict[str, Callable[[Generator], tuple] | Cases] = {
    "adamw.CPU.step": adamw,
    "attention_cpu.look_back": Cases(attention_forth),
    "attention_cpu.send_back": Cases(attention_back),
    "attention_one_query.look_once": lambda rng: (*attention(rng, 1), HALF),
    "clipping.CPU.sums_of_chunks": lambda rng: (numbers(rng, C),),
    "cross_entropy.CPU.forward": cross_entropy,
    "cross_entropy.beliefs_minus_targets": cross_entropy_back,
    "dropout.drop_pieces": dropout,
    "embedding.CPU.gather": embedding_gather,
    "embedding.CPU.scatter": embedding_scatter,
    "gelu.exact_pieces": elementwise(1, 1),
    "gelu.exact_pieces_backward": elementwise(1, 2),
    "gelu.tanh_pieces": elementwise(1, 1),
    "gelu.tanh_pieces_again": elementwise(1, 2),
    "gelu.tanh_pieces_backward": elementwise(1, 2),
    "layer_norm.CPU.backward": layer_norm_back,
    "layer_norm.add_and_normalise_rows": lambda rng: (
        *numbers(rng, 2, N, C),
        *numbers(rng, 2, C),
        EPS,
    ),
    "layer_norm.normalise_rows": lambda rng: (numbers(rng, N, C), *numbers(rng, 2, C), EPS),
    "linear.fill_rows": lambda rng: (zeros(N, C), numbers(rng, C)),
    "linear.sum_chunks": lambda rng: (numbers(rng, 40, C),),
    "linear_cross_entropy.scores_to_gradient": linear_cross_entropy,
    "muon.CPU.move_matrices": muon,
    "quantised.few_rows": Cases(quantised),
    "quantised.many_rows": Cases(quantised),
    "relu.relu_pieces": elementwise(1, 1),
    "relu.relu_pieces_backward": elementwise(1, 2),
    "relu.relu_squared_pieces": elementwise(1, 1),
    "relu.relu_squared_pieces_backward": elementwise(1, 2),
    "rms_norm.CPU.add_forward": lambda rng: (*numbers(rng, 2, N, C), numbers(rng, C), EPS),
    "rms_norm.CPU.forward": lambda rng: (numbers(rng, N, C), numbers(rng, C), EPS),
    "rms_norm.CPU.backward": rms_norm_back,
    "rotary.CPU.turn": rotary,
    "sgd.CPU.step": sgd,
    "softmax.CPU.forward": rows,
    "softmax.CPU.backward": rows_back,
    "softmax.LogCPU.forward": rows,
    "softmax.LogCPU.backward": rows_back,
    "swiglu.silu_pieces": elementwise(1, 1),
    "swiglu.silu_pieces_backward": elementwise(1, 2),
    "swiglu.swiglu_pieces": elementwise(1, 2),
    "swiglu.swiglu_pieces_again": elementwise(2, 3),
    "swiglu.swiglu_pieces_backward": elementwise(2, 3),
}
