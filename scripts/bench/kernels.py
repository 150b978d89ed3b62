"""Are the kernels worth reading?  Every fused operation, by its definition and by its kernels.

    hatch run bench kernels.py [name ...]

Where other programs use the machine too, TRICYCLE_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 in front
compares one thread with one thread: threads that wait for each other suffer most from company.

For each operation: the time of a forward and a backward pass, once by the definition (ordinary
tensor operations, in float32) and once by the kernels, one after the other in turn, so that
whatever else the machine does hits both.  Printed are the medians and their ratio.

Below them stand the kernels that no gradient flows through (optimisers, writing a text), beside
their definitions in numpy.

A kernel has to be at least 1.5 times as fast as its definition, or be there for another reason,
which stands in REASONS.  Where one is slower and has none, the exit status is 1.  Before timing,
values and gradients are compared.
"""

import itertools
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np

import tricycle_nn as nn
from tricycle_autograd import Tensor, definitions_only, no_grad
from tricycle_autograd.fused import registry
from tricycle_autograd.gemm import product
from tricycle_nn.activated_linear import gelu_linear, swiglu_linear
from tricycle_nn.adamw import adamw_update
from tricycle_nn.muon import Place, muon_update
from tricycle_nn.optimiser import Scalars
from tricycle_nn.quantised import QuantisedMatrix
from tricycle_nn.sgd import sgd_update

N, C, V = 4096, 384, 1024  # rows, channels, vocabulary
B, H, T, D = 4, 6, 256, 64  # batch, heads, time, head size
ROUNDS = 15
WANTED = 1.5
# Why a kernel stays that is not so much faster.
REASONS = {
    "linear": "a matrix product: the same bits for any number of threads",
    "gelu_linear": "memory: what lies between the layers is not kept",
    "swiglu_linear": "memory: what lies between the layers is not kept",
    "token_scores": "a matrix product: the same bits for any number of threads",
    "linear_cross_entropy": "memory: the scores and their gradient share one array",
    "attention": "memory: grows with the time, not with its square",
    "packed_attention": "memory: grows with the time, not with its square",
    "muon": "matrix products: the same bits for any number of threads",
    "matrix product": "a matrix product: the same bits for any number of threads",
    "one row, matrix": "a matrix product: the same bits for any number of threads",
}

Case = tuple[Callable, list[np.ndarray]]
Pair = tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def cases() -> dict[str, Case]:
    """Each operation as a function of tensors alone, and the arrays to give it."""
    rows, ids = draw(N, C), np.random.default_rng(0).integers(0, V, N)
    heads = [draw(B, H, T, D) for _ in range(3)]
    fixed = {"p": 0.1, "seed": 1, "step": 2, "stream": 3}
    return {
        "linear": (nn.linear, [rows, draw(C, C), draw(C)]),
        "gelu_linear": (gelu_linear, [rows, draw(C, C), draw(C)]),
        "swiglu_linear": (swiglu_linear, [rows, draw(C, N).T.copy(), draw(C, C)]),
        "token_scores": (nn.token_scores, [rows, draw(V, C)]),
        "embedding": (lambda table: nn.embedding(ids, table), [draw(V, C)]),
        "dropout": (lambda x: nn.dropout(x, **fixed), [rows]),
        "layer_norm": (nn.layer_norm, [rows, draw(C), draw(C)]),
        "rms_norm": (nn.rms_norm, [rows, draw(C)]),
        "gelu": (nn.gelu, [rows]),
        "gelu, exact": (partial(nn.gelu, approximate="none"), [rows]),
        "relu": (nn.relu, [rows]),
        "relu_squared": (nn.relu_squared, [rows]),
        "silu": (nn.silu, [rows]),
        "swiglu": (nn.swiglu, [rows, draw(C, N).T.copy()]),
        "softmax": (nn.softmax, [rows]),
        "log_softmax": (nn.log_softmax, [rows]),
        "rotary": (lambda x: nn.rotary(x, np.arange(T)), heads[:1]),
        "attention": (nn.attention, heads),
        "packed_attention": (partial(nn.packed_attention, n_heads=H), [draw(B, T, 3 * H * D)]),
        "cross_entropy": (lambda x: nn.cross_entropy(x, ids), [draw(N, V)]),
        "linear_cross_entropy": (
            lambda x, weight: nn.linear_cross_entropy(x, weight, ids),
            [rows, draw(V, C)],
        ),
    }


def pairs() -> dict[str, Pair]:
    """Kernels without a gradient: a definition in numpy, and what the library does instead."""
    weights, matrix, rows, row = draw(N, C), draw(C, V), draw(N, C), draw(1, C)
    out, row_out = np.empty((N, V), np.float32), np.empty((1, V), np.float32)
    small, smaller = (QuantisedMatrix(matrix.T, bits) for bits in (8, 4))
    query, keys, values = draw(1, 2 * H, 1, D), draw(1, 2 * H, 4 * T, D), draw(1, 2 * H, 4 * T, D)

    def one_query():
        with no_grad():
            return nn.attention(Tensor(query), Tensor(keys), Tensor(values)).array

    def one_query_defined():
        with definitions_only():
            return one_query()

    parameter = with_gradient(weights)
    return {
        "adamw": (adamw_defined(weights), stepping(nn.AdamW, weights)),
        "sgd": (sgd_defined(weights), stepping(partial(nn.SGD, momentum=0.9), weights)),
        "muon": (muon_defined(draw(C, 4 * C)), stepping(nn.Muon, draw(C, 4 * C))),
        "gradient_norm": (
            lambda: np.sqrt(np.square(parameter.grad, dtype=np.float64).sum()),
            lambda: np.float64(nn.gradient_norm([parameter])),
        ),
        "matrix product": (lambda: rows @ matrix, lambda: product(out, rows, matrix) or out),
        "one row, matrix": (lambda: row @ matrix, lambda: product(row_out, row, matrix) or row_out),
        "one row, 8 bits": (lambda: row @ small.rows().T, lambda: small.outputs(row)),
        "one row, 4 bits": (lambda: row @ smaller.rows().T, lambda: smaller.outputs(row)),
        "rows, 8 bits": (lambda: rows @ small.rows().T, lambda: small.outputs(rows)),
        "rows, 4 bits": (lambda: rows @ smaller.rows().T, lambda: smaller.outputs(rows)),
        "one query": (one_query_defined, one_query),
    }


def with_gradient(weights: np.ndarray) -> nn.Parameter:
    parameter = nn.Parameter(weights.copy())
    parameter.grad = np.cos(weights)
    return parameter


def stepping(kind: Callable, weights: np.ndarray) -> Callable[[], np.ndarray]:
    """A function that takes one more step of an optimiser."""
    parameter = with_gradient(weights)
    optimiser = kind([parameter], learning_rate=1e-3, weight_decay=0.1)

    def step():
        optimiser.step()
        return parameter.array

    return step


def adamw_defined(weights: np.ndarray) -> Callable[[], np.ndarray]:
    w, g, step = weights.copy(), np.cos(weights), itertools.count(1)
    m, v = np.zeros_like(w), np.zeros_like(w)

    def step_by_definition():
        scalars = Scalars(1e-3, step=next(step))
        adamw_update.definition(w, g, m, v, scalars, 0.9, 0.999, 1e-8, 0.1)
        return w

    return step_by_definition


def sgd_defined(weights: np.ndarray) -> Callable[[], np.ndarray]:
    w, g = weights.copy(), np.cos(weights)
    u = np.zeros_like(w)

    def step_by_definition():
        sgd_update.definition(w, g, u, Scalars(1e-3), momentum=0.9, weight_decay=0.1)
        return w

    return step_by_definition


def muon_defined(weights: np.ndarray) -> Callable[[], np.ndarray]:
    w, g = weights.copy(), np.cos(weights)
    u = np.zeros_like(w)
    rows, columns = w.shape
    places = [Place(0, 0, 0, rows, columns, 0, columns)]

    def step_by_definition():
        flat = w.reshape(-1), g.reshape(-1), u.reshape(-1)
        muon_update.definition(*flat, Scalars(1e-3), places, 0.95, 0.1)
        return w

    return step_by_definition


def measure_pair(definition: Callable, kernel: Callable) -> tuple[float, float]:
    """Median seconds: (definition, kernel).  They must agree."""
    expected, actual = definition(), kernel()
    assert abs(expected - actual).max() <= 1e-4 * abs(expected).max(), "they differ"

    def seconds(function):
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    both = [(seconds(definition), seconds(kernel)) for _ in range(2 * ROUNDS)]
    return median(slow for slow, _ in both), median(fast for _, fast in both)


def measure(function: Callable, arrays: list[np.ndarray]) -> tuple[float, float]:
    """Median seconds of forward and backward: (definition, kernels).  They must agree."""

    dy = draw(*function(*map(Tensor, arrays)).shape)

    def step():
        tensors = [Tensor(array, requires_grad=True) for array in arrays]
        start = time.perf_counter()
        y = function(*tensors)
        y.backward(dy)
        return time.perf_counter() - start, [y.array, *(tensor.grad for tensor in tensors)]

    def step_by_definition():
        with definitions_only():
            return step()

    for expected, actual in zip(step_by_definition()[1], step()[1], strict=True):
        scale = abs(expected).max()
        assert abs(expected - actual).max() <= 1e-4 * scale, "kernel and definition differ"
    both = [(step_by_definition()[0], step()[0]) for _ in range(ROUNDS)]
    return median(slow for slow, _ in both), median(fast for _, fast in both)


def main(names: list[str]) -> int:
    """Print the table; how many kernels are too slow to be kept."""
    every = cases()
    of_nn = {op.__name__ for name, op in registry.items() if name.startswith("tricycle_nn.")}
    unlisted = of_nn - {name.split(",")[0] for name in every}
    assert not unlisted, f"add cases for {sorted(unlisted)}"
    measured = {name: partial(measure, *case) for name, case in every.items()}
    measured |= {name: partial(measure_pair, *pair) for name, pair in pairs().items()}
    too_slow = 0
    print(f"{'operation':22}{'definition':>12}{'kernels':>12}{'ratio':>8}")
    for name in names or measured:
        slow, fast = measured[name]()
        ratio = slow / fast
        note = REASONS.get(name, f"too slow: below {WANTED}") if ratio < WANTED else ""
        too_slow += ratio < WANTED and name not in REASONS
        line = f"{name:22}{slow * 1e3:>9.2f} ms{fast * 1e3:>9.2f} ms{ratio:>8.2f}  {note}"
        print(line.rstrip(), flush=True)
    return too_slow


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
