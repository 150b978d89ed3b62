"""Is the automatic differentiation itself as fast as other people's?

    hatch run compat:bench autograd.py [--rounds 7] [--only NAME ...]

First what an operation costs besides its arithmetic: forward and backward through a chain of
operations on four numbers, beside PyTorch and HIPS autograd (the numpy library that showed the
way).  Ours must not take longer than PyTorch.

Then the primitives on arrays of a thousand to ten million numbers, forward and backward, with a
table of how many times as fast as PyTorch (2 threads) and as HIPS autograd each is.  Everybody's
values and gradients are compared first.  Where a line is below 0.8 of PyTorch's speed, PyTorch is
measured on one thread as well, for numpy has only one: in training, the time goes to the layers'
kernels, which take all cores.  What is still below 0.8 needs an entry in EXPLANATIONS; where one
is missing, the exit status is 1.

Each library's turn follows the other's in each round; printed are medians of the ratios of the
rounds, theirs ÷ ours: above 1, ours is faster.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import numpy as np
import torch

import tricycle_autograd as tri
from tricycle_autograd import Tensor
from tricycle_autograd.memory import keep_freed_memory

# This file has the name of the library: look for that one elsewhere than beside it.
sys.path.pop(0)
sys.modules.pop("autograd", None)
hips = importlib.import_module("autograd.numpy")
hips_logsumexp = importlib.import_module("autograd.scipy.special").logsumexp
make_vjp = importlib.import_module("autograd.core").make_vjp

SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)
WANTED = 0.8
LEAST_SECONDS = 0.02  # one turn of a library
THREADS = 2

ONE_CORE = "numpy takes one core, PyTorch two"
# Why a primitive may be slower than 0.8 of PyTorch on one core, too.
EXPLANATIONS = {
    "sigmoid": "seven passes of numpy for two of PyTorch's; silu and swiglu have kernels",
    "abs": "numpy has no vector instructions for sign(): 0.3 ns a number, as long as exp()",
    "sum": "numpy adds in pairs of pairs, for the smaller error",
    "sum of rows": "numpy begins anew for each row of a hundred",
    "cumsum": "numpy adds one number after another, at 2.7 ns each; PyTorch works on many rows "
    "at once",
    "take rows": "rows that were taken twice are added in order, by reduceat(), which is 4/5 of "
    "the time; the layer for this, embedding(), has a kernel",
}


@dataclass
class Line:
    """The same calculation in three libraries.

    each takes arrays (tensors, for PyTorch and ours) and returns one of them
    shapes   of the inputs, for about n numbers
    """

    ours: Callable
    torch: Callable
    hips: Callable | None
    shapes: Callable[[int], list[tuple[int, ...]]]
    positive: bool = False


def flat(count):
    return lambda n: [(n,)] * count


def rows(n):
    """n numbers in rows of a hundred."""
    return [(n // 100, 100)]


def square(n):
    """Two matrices whose product takes about as many multiplications as 100 for each of n."""
    side = round(n**0.5)
    return [(side, side), (side, side)]


@lru_cache
def places(n):
    """Which of n rows to take: as many, with repeats."""
    return np.random.default_rng(0).integers(0, n, n)


def primitives() -> dict[str, Line]:
    return {
        "add": Line(lambda x, y: x + y, lambda x, y: x + y, lambda x, y: x + y, flat(2)),
        "multiply": Line(lambda x, y: x * y, lambda x, y: x * y, lambda x, y: x * y, flat(2)),
        "divide": Line(lambda x, y: x / y, lambda x, y: x / y, lambda x, y: x / y, flat(2), True),
        "times a number": Line(lambda x: x * 3.0, lambda x: x * 3.0, lambda x: x * 3.0, flat(1)),
        "square": Line(lambda x: x**2, lambda x: x**2, lambda x: x**2, flat(1)),
        "add a row": Line(
            lambda x, y: x + y,
            lambda x, y: x + y,
            lambda x, y: x + y,
            lambda n: [(n // 100, 100), (100,)],
        ),
        "exp": Line(tri.exp, torch.exp, hips.exp, flat(1)),
        "log": Line(tri.log, torch.log, hips.log, flat(1), True),
        "sqrt": Line(tri.sqrt, torch.sqrt, hips.sqrt, flat(1), True),
        "tanh": Line(tri.tanh, torch.tanh, hips.tanh, flat(1)),
        "sin": Line(tri.sin, torch.sin, hips.sin, flat(1)),
        "sigmoid": Line(tri.sigmoid, torch.sigmoid, None, flat(1)),
        "abs": Line(tri.abs, torch.abs, hips.abs, flat(1)),
        "maximum": Line(tri.maximum, torch.maximum, hips.maximum, flat(2)),
        "where": Line(
            lambda x, y: tri.where(x > y, x, y),
            lambda x, y: torch.where(x > y, x, y),
            lambda x, y: hips.where(x > y, x, y),
            flat(2),
        ),
        "clip": Line(
            lambda x: tri.clip(x, -1.0, 1.0),
            lambda x: torch.clip(x, -1.0, 1.0),
            lambda x: hips.clip(x, -1.0, 1.0),
            flat(1),
        ),
        "sum": Line(lambda x: x.sum(), lambda x: x.sum(), hips.sum, flat(1)),
        "sum of rows": Line(
            lambda x: x.sum(axis=1), lambda x: x.sum(1), lambda x: hips.sum(x, axis=1), rows
        ),
        "sum of columns": Line(
            lambda x: x.sum(axis=0), lambda x: x.sum(0), lambda x: hips.sum(x, axis=0), rows
        ),
        "mean": Line(lambda x: x.mean(), lambda x: x.mean(), hips.mean, flat(1)),
        "max of rows": Line(
            lambda x: x.max(axis=1), lambda x: x.amax(1), lambda x: hips.max(x, axis=1), rows
        ),
        "logsumexp of rows": Line(
            lambda x: tri.logsumexp(x, axis=1),
            lambda x: torch.logsumexp(x, 1),
            lambda x: hips_logsumexp(x, axis=1),
            rows,
        ),
        "cumsum": Line(
            lambda x: tri.cumsum(x, axis=1),
            lambda x: torch.cumsum(x, 1),
            lambda x: hips.cumsum(x, axis=1),
            rows,
        ),
        "reshape": Line(
            lambda x: x.reshape(-1), lambda x: x.reshape(-1), lambda x: hips.reshape(x, -1), rows
        ),
        "transpose": Line(lambda x: x.T, lambda x: x.T, lambda x: x.T, rows),
        "slice": Line(lambda x: x[1:-1], lambda x: x[1:-1], lambda x: x[1:-1], rows),
        "concatenate": Line(
            lambda x, y: tri.concatenate([x, y]),
            lambda x, y: torch.cat([x, y]),
            lambda x, y: hips.concatenate([x, y]),
            flat(2),
        ),
        "take rows": Line(
            lambda x: x[places(len(x))],
            lambda x: x[torch.from_numpy(places(len(x)))],
            lambda x: x[places(len(x))],
            rows,
        ),
        "matmul": Line(lambda x, y: x @ y, lambda x, y: x @ y, lambda x, y: x @ y, square),
        "einsum": Line(
            lambda x, y: tri.einsum("ij,kj->ik", x, y),
            lambda x, y: torch.einsum("ij,kj->ik", x, y),
            lambda x, y: hips.einsum("ij,kj->ik", x, y),
            square,
        ),
    }


# ---- three libraries, one way to ask them ----


def draw(shape, positive):
    array = np.random.default_rng(shape).standard_normal(shape, np.float32)
    return np.abs(array) + np.float32(0.5) if positive else array


def ours(function, arrays, dy):
    leaves = [Tensor(array, requires_grad=True) for array in arrays]

    def step():
        for leaf in leaves:
            leaf.grad = None
        out = function(*leaves)
        out.backward(dy)
        return [out.array, *(leaf.grad for leaf in leaves)]

    return step


def torchs(function, arrays, dy):
    leaves = [torch.from_numpy(array).requires_grad_() for array in arrays]
    upstream = torch.from_numpy(dy)

    def step():
        for leaf in leaves:
            leaf.grad = None
        out = function(*leaves)
        out.backward(upstream)
        return [out.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]

    return step


def hipss(function, arrays, dy):
    def step():
        backward, out = make_vjp(lambda leaves: function(*leaves), list(arrays))
        return [out, *backward(dy)]

    return step


def compare(name, steps):
    """Everybody's value and gradients are the same, up to rounding."""
    expected = steps[1]()
    for step in (steps[0], *steps[2:]):
        for one, other in zip(step(), expected, strict=True):
            assert np.shape(one) == np.shape(other), name
            largest = max(float(np.abs(other).max()), 1e-6)
            difference = float(np.abs(np.asarray(one) - other).max())
            assert difference <= 1e-4 * largest, f"{name}: results differ by {difference}"


def take_turns(steps, rounds):
    """Seconds of one step: for each round, one of each library."""
    repeats = []
    for step in steps:
        step()
        start = time.perf_counter()
        step()
        repeats.append(max(1, int(LEAST_SECONDS / (time.perf_counter() - start))))
    results = []
    for _ in range(rounds):
        line = []
        for step, n in zip(steps, repeats, strict=True):
            start = time.perf_counter()
            for _ in range(n):
                step()
            line.append((time.perf_counter() - start) / n)
        results.append(line)
    return results


def ratio(times, other):
    return median(line[other] / line[0] for line in times)


# ---- the two questions ----

CHAIN = 50


def chain_of(operation):
    def chain(x, y):
        for _ in range(CHAIN):
            x = operation(x, y)
        return x

    return chain


TINY = {
    "add": lambda x, y: x + y,
    "multiply": lambda x, y: x * y,
    "matmul": lambda x, y: x @ y,
    "times a number": lambda x, y: x * 0.5,
    "reshape": lambda x, y: x.reshape(2, 2),
    "slice": lambda x, y: x[:2],
}


def overhead(rounds):
    """Microseconds for each operation of a chain; how many are slower than PyTorch's."""
    slower = 0
    print(f"{'on 2 x 2 numbers':<20}{'ours':>9}{'torch':>9}{'autograd':>9}   torch ÷ ours")
    for name, operation in TINY.items():
        arrays = [draw((2, 2), True) * np.float32(0.5) for _ in range(2)]
        if name == "times a number":
            arrays[1] = arrays[1] * 0
        function = chain_of(operation)
        dy = np.ones((2, 2), np.float32)
        steps = [ours(function, arrays, dy), torchs_chain(function, arrays, dy)]
        steps.append(hipss(function, arrays, dy))
        times = take_turns(steps, rounds)
        each = [1e6 / CHAIN * median(line[i] for line in times) for i in range(3)]
        found = ratio(times, 1)
        slower += found < 1
        note = "" if found >= 1 else "   slower than PyTorch"
        print(
            f"{name:<20}" + "".join(f"{m:>6.2f} µs" for m in each) + f"{found:>14.2f}{note}",
            flush=True,
        )
    return slower


def torchs_chain(function, arrays, dy):
    """As `torchs`, where not every leaf needs to have been used."""
    leaves = [torch.from_numpy(array).requires_grad_() for array in arrays]
    upstream = torch.from_numpy(dy)

    def step():
        for leaf in leaves:
            leaf.grad = None
        function(*leaves).backward(upstream)

    return step


def side_by_side(names, rounds):
    """The table of primitives; how many lines are slow without an explanation."""
    unexplained, lines = 0, primitives()
    print(f"\n{'forward and backward':<20}" + "".join(f"{f'{n:.0e}':>14}" for n in SIZES))
    print(f"{'times the speed of':<20}" + "  torch   HIPS" * len(SIZES))
    for name in names or lines:
        line, cells, notes = lines[name], "", []
        for n in SIZES:
            arrays = [draw(shape, line.positive) for shape in line.shapes(n)]
            dy = draw(line.ours(*map(Tensor, arrays)).shape, False)
            steps = [ours(line.ours, arrays, dy), torchs(line.torch, arrays, dy)]
            if line.hips is not None:
                steps.append(hipss(line.hips, arrays, dy))
            compare(name, steps)
            times = take_turns(steps, rounds)
            beside = ratio(times, 1)
            cells += f"{beside:>7.2f}" + (f"{ratio(times, 2):>7.2f}" if line.hips else " " * 7)
            if beside < WANTED:
                alone = beside_one_thread(steps, rounds)
                reason = ONE_CORE if alone >= WANTED else EXPLANATIONS.get(name)
                unexplained += reason is None
                notes.append(f"{n:.0e}: {alone:.2f} of one thread's: {reason or 'not explained'}")
        print(f"{name:<20}{cells}", flush=True)
        for note in notes:
            print(f"    {note}")
    return unexplained


def beside_one_thread(steps, rounds):
    """The ratio to PyTorch where it, too, has one core."""
    torch.set_num_threads(1)
    found = ratio(take_turns(steps[:2], rounds), 1)
    torch.set_num_threads(THREADS)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    keep_freed_memory()  # for all three: they share this process
    slower = 0 if options.only else overhead(options.rounds)
    unexplained = side_by_side(options.only, options.rounds)
    print(f"\n{slower} operations cost more than PyTorch's, {unexplained} lines are unexplained")
    return slower + unexplained


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
