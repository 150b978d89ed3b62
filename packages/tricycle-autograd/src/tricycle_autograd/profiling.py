"""Where the time goes: every operation of a stretch of code, and how near it came to the roof.

    with profile():
        loss = model.loss(ids, targets)
        loss.backward()

prints a table when the block ends: how often each operation ran, forward and backward, how long
it took, how much it calculated and moved, and what share that is of what this machine can do.

The roof.  A processor can do a limited number of additions and multiplications a second (GFLOP/s)
and read a limited number of bytes a second from memory (GB/s).  An operation that needs F of the
one and M of the other cannot take less than

    the larger of  F / GFLOP/s  and  M / GB/s

and "of roof" is that time divided by the time it took.  Both limits are measured here, once in a
process: with the library's own matrix product, and by reading more than fits into a cache.  An
operation whose arrays are in a cache already may come out above 100 %.

Williams, Waterman & Patterson, Roofline: an insightful visual performance model (2009).
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any

import numpy as np

from tricycle_autograd.modes import current, observed_by
from tricycle_autograd.tape import ADDED

BETWEEN = "(between operations)"
LONG_ENOUGH = 0.3  # seconds, for measuring a limit of the machine
SIDES = (1024, 512, 384)  # of the matrices whose product shows how fast it calculates


@dataclass
class Row:
    """How often one operation ran, in one direction, and what it took.

    calls    how often it ran
    seconds  in all
    flops    multiplications and additions inside matrix products; 0 where there were none
    bytes    of the arrays that went in and came out
    """

    calls: int = 0
    seconds: float = 0.0
    flops: int = 0
    bytes: int = 0


class Profile:
    """What `profile()` measures.

    rows     by (operation, "forward" | "backward" | ""), in the order of their first call
    seconds  from the start to the end of the block

    `print(profile)` shows the table.
    """

    def __init__(self):
        self.rows: dict[tuple[str, str], Row] = {}
        self.seconds = 0.0
        self.flops = 0  # counted since the last change of `_running`
        self._running = [(BETWEEN, "")]  # the innermost last: the one whose time passes now
        self._started = self._mark = time.perf_counter()

    # ---- what the library tells: see modes.Observer ----

    def call(self, name: str, run: Callable, args: tuple, kwargs: dict) -> Any:
        """Run a fused operation's kernels, and note what they took."""
        with self.part(name, "forward"):
            return run(*args, **kwargs)

    def recorded(self, array: Any, inputs: Any, backward: Callable) -> Callable:
        """Note an operation's result; returns its backward, which will be noted too."""
        arrays = [tensor.array for tensor in inputs]
        moved = 0 if _is_view(array, arrays) else _bytes(array) + sum(map(_bytes, arrays))
        name, direction = self._running[-1]
        if direction != "forward":
            # A primitive reports its end only: it is taken to start where the last one ended.
            name = name_of_primitive()
            self._running.append((name, "forward"))
            self._change()
            self._running.pop()
            self._row(name, "forward").calls += 1
        self._row(name, "forward").bytes += moved
        gradients = sum(_bytes(tensor.array) for tensor in inputs if tensor.requires_grad)

        def noted(*dy):
            with self.part(name, "backward"):
                results = backward(*dy)
                if not all(_is_view(result, dy) for result in results):
                    self._row(name, "backward").bytes += moved + gradients
                return results

        return noted

    @contextmanager
    def part(self, name: str, direction: str = "") -> Iterator[None]:
        """Note what runs in this block; what is noted inside it counts there, and not here."""
        self._change()
        self._running.append((name, direction))
        self._row(name, direction).calls += 1
        try:
            yield
        finally:
            self._change()
            self._running.pop()

    def end(self) -> None:
        """Stop measuring."""
        self._change()
        self.seconds = self._mark - self._started

    def _change(self):
        """Give the time and the products since the last change to the one that was running."""
        now = time.perf_counter()
        row = self._row(*self._running[-1])
        row.seconds += now - self._mark
        row.flops += self.flops
        self._mark, self.flops = now, 0

    def _row(self, name, direction):
        return self.rows.setdefault((name, direction), Row())

    # ---- what a person reads ----

    def __repr__(self) -> str:
        calls = sum(row.calls for row in self.rows.values())
        return f"<Profile of {calls} calls in {self.seconds * 1e3:.1f} ms; print() shows its table>"

    def __str__(self) -> str:
        fastest, widest = roof()
        lines = [
            f"{'operation':<24}{'':<9}{'calls':>6}{'ms':>10}{'share':>7}"
            f"{'GFLOP/s':>9}{'GB/s':>7}{'of roof':>9}"
        ]
        by_time = sorted(self.rows.items(), key=lambda item: -item[1].seconds)
        for (name, direction), row in by_time:
            if row.seconds:
                lines.append(self._line(name, direction, row, fastest, widest))
        lines.append(
            f"{self.seconds * 1e3:.1f} ms in all. The roof of this machine: "
            f"{fastest / 1e9:.0f} GFLOP/s, {widest / 1e9:.0f} GB/s"
        )
        return "\n".join(lines)

    def _line(self, name, direction, row, fastest, widest):
        share = row.seconds / self.seconds if self.seconds else 0.0
        rate = f"{row.flops / row.seconds / 1e9:.0f}" if row.flops else ""
        width = f"{row.bytes / row.seconds / 1e9:.1f}" if row.bytes else ""
        least = max(row.flops / fastest, row.bytes / widest)
        of_roof = f"{least / row.seconds:.0%}" if least else ""
        calls = row.calls or ""
        return (
            f"{name:<24}{direction:<9}{calls:>6}{row.seconds * 1e3:>10.2f}{share:>7.0%}"
            f"{rate:>9}{width:>7}{of_roof:>9}"
        )


@contextmanager
def profile() -> Iterator[Profile]:
    """Measure every operation of this thread in a block, and print the table when it ends.

    Kernels that have to be compiled or loaded first count too: run a step before the one that
    is measured.  While it measures, an operation takes some microseconds longer; while no
    profile is running, nothing.  Raises RuntimeError inside another profile.
    """
    if current().observer is not None:
        raise RuntimeError("a profile is running already, and would be measured by this one")
    measured = Profile()
    try:
        with observed_by(measured):
            yield measured
    finally:
        measured.end()
    print(measured)


@contextmanager
def profiled(name: str) -> Iterator[None]:
    """Give a stretch of code that is not an operation a line in the table of a profile."""
    observer = current().observer
    if observer is None:
        yield
    else:
        with observer.part(name):
            yield


@lru_cache
def roof() -> tuple[float, float]:
    """What this machine can do, measured: additions and multiplications, and bytes, a second.

    The best of some matrix products, and of some passes over 128 MB.
    """
    from tricycle_autograd.gemm import product

    large = np.ones((4096, 8192), np.float32)
    row, sums = np.ones((1, 4096), np.float32), np.empty((1, 8192), np.float32)
    fastest = measured_peak_flops()
    widest = _shortest(lambda: product(sums, row, large))
    return fastest, large.nbytes / widest


def measured_peak_flops(seconds: float = LONG_ENOUGH) -> float:
    """Additions and multiplications a second in a float32 matrix product: the best of many.

    seconds  to go on trying, for each size of product

    On a busy machine a product of 1024 x 1024 never has the cores to itself for as long as it
    takes, but one of 384 x 384 does now and then.
    """
    from tricycle_autograd.gemm import product

    best = 0.0
    for side in SIDES:
        a, out = np.ones((side, side), np.float32), np.empty((side, side), np.float32)
        shortest = _shortest(lambda out=out, a=a: product(out, a, a), seconds)
        best = max(best, 2 * side**3 / shortest)
    return best


def _shortest(function, long_enough=LONG_ENOUGH):
    function()  # loads its kernel
    # Threads that have just been started may share a core for the first tenths of a second.
    seconds: list[float] = []
    while sum(seconds) < long_enough:
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _is_view(result, sources):
    """Whether a result shows the numbers of another array, or is nothing: no number was moved."""
    if result is None or result is ADDED:
        return result is None
    arrays = [x for x in (result, *sources) if isinstance(x, np.ndarray)]
    return any(arrays[0] is x or np.may_share_memory(arrays[0], x) for x in arrays[1:])


def _bytes(array):
    return getattr(array, "nbytes", 0)  # an operand may be a plain number


def name_of_primitive() -> str:
    """The name of the operation that called `record`, for an observer's method `recorded`.

    It is the public function that was called: the outermost of this package's on the stack.
    """
    frame: FrameType | None = sys._getframe(2)
    name = "record"
    while frame is not None and frame.f_globals.get("__name__", "").startswith(__package__ + "."):
        if not frame.f_code.co_name.startswith(("_", "<")):
            name = frame.f_code.co_name
        frame = frame.f_back
    return name
