"""Fused operations: one definition to read, fast kernels to run.

A fused operation is written twice, on purpose.  Its *definition* is composed of ordinary
tensor operations: short, readable, differentiable for free, right for float32 and float64.
Its *kernels* compute the same thing in fewer passes over memory.

    @fused
    def rms_norm(x, weight, eps=1e-5): ...        the mathematics
    @rms_norm.kernels
    def _(x, weight, eps=1e-5): ...               the fast path; ends in record(..., backward)

The decorated body is what `help(rms_norm)` shows, what `definitions_only()` runs, and what
the tests hold the kernels to.  The kernels may refuse an input (another dtype, another
device) with an error; they never fall back to the definition silently.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tricycle_autograd import tape

_use_kernels = True

# By module and name, so that a test can find one that nobody checks.
registry: dict[str, "Fused"] = {}


class Fused:
    """A function with two bodies: `.definition` to read and `.fast` to run."""

    __name__: str

    def __init__(self, definition: Callable):
        functools.update_wrapper(self, definition)
        self.definition = definition
        self.fast: Callable | None = None
        registry[f"{definition.__module__}.{definition.__name__}"] = self

    def kernels(self, fast: Callable) -> Callable:
        """Attach the fast path; it takes the same arguments as the definition."""
        self.fast = fast
        return fast

    def __call__(self, *args, **kwargs):
        if not _use_kernels or self.fast is None:
            return self.definition(*args, **kwargs)
        if tape.watcher is not None:
            return tape.watcher.call(self.__name__, self.fast, args, kwargs)
        return self.fast(*args, **kwargs)


def fused(definition: Callable) -> Fused:
    """Decorate a definition made of tensor operations, so that kernels can be attached."""
    return Fused(definition)


@contextmanager
def definitions_only() -> Iterator[None]:
    """Run every fused operation by its definition: slow, readable, open to a debugger.

    This is also how fused operations run in float64, which the kernels refuse.
    """
    global _use_kernels
    before, _use_kernels = _use_kernels, False
    try:
        yield
    finally:
        _use_kernels = before
