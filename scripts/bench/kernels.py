"""Are the kernels worth reading?  Every fused operation, by its definition and by its kernels.

    hatch run bench kernels.py [name ...]

Where other programs use the machine too, NUMBA_NUM_THREADS=1 in front compares one thread with
one thread: threads that wait for each other suffer most from company.

For each operation: the time of a forward and a backward pass, once by the definition (ordinary
tensor operations, in float32) and once by the kernels, one after the other in turn, so that
whatever else the machine does hits both.  Printed are the medians and their ratio.

A kernel has to be at least 1.5 times as fast as its definition, or be there for another
reason: less memory (attention, linear_cross_entropy), or the same bits on any number of threads
(matrix products: linear, token_scores).  Before timing, values and gradients are compared.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np

import tricycle_nn as nn
from tricycle_autograd import Tensor, definitions_only
from tricycle_autograd.fused import registry

N, C, V = 4096, 384, 1024  # rows, channels, vocabulary
B, H, T, D = 4, 6, 256, 64  # batch, heads, time, head size
ROUNDS = 15
WANTED = 1.5
EXEMPT = ("linear", "token_scores", "linear_cross_entropy", "attention", "packed_attention")

Case = tuple[Callable, list[np.ndarray]]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def cases() -> dict[str, Case]:
    """Each operation as a function of tensors alone, and the arrays to give it."""
    rows, ids = draw(N, C), np.random.default_rng(0).integers(0, V, N)
    heads = [draw(B, H, T, D) for _ in range(3)]
    fixed = {"p": 0.1, "seed": 1, "step": 2, "stream": 3}
    return {
        "linear": (nn.linear, [rows, draw(C, C), draw(C)]),
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


def main(names: list[str]) -> None:
    every = cases()
    of_nn = {op.__name__ for name, op in registry.items() if name.startswith("tricycle_nn.")}
    unlisted = of_nn - {name.split(",")[0] for name in every}
    assert not unlisted, f"add cases for {sorted(unlisted)}"
    print(f"{'operation':22}{'definition':>12}{'kernels':>12}{'ratio':>8}")
    for name in names or every:
        slow, fast = measure(*every[name])
        ratio = slow / fast
        note = "" if ratio >= WANTED or name in EXEMPT else f"  below {WANTED}"
        print(f"{name:22}{slow * 1e3:>9.2f} ms{fast * 1e3:>9.2f} ms{ratio:>8.2f}{note}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
