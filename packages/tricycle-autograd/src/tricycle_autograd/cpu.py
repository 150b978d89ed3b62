"""CPU kernels: ordinary Python loops, compiled by numba the first time they are called.

    @cpu_function                  a helper that kernels call, one thread
    @cpu_kernel                    called from Python; its prange loops share out the cores
    @cpu_routine("void(int64)")    a long helper, compiled once and called at its address
    @made_by_numba                 something only numba can make (an intrinsic), made on demand
    needs_numba(module, name)      the same, from a module that imports numba at its top

Decorating costs nothing: what happens at the first call stands in machine_code.py.  Compiled code
is kept on disk (kernel_cache.py), and a process never runs what it compiled itself (compiling.py).

Same bits for any number of threads: every `prange` runs over pieces whose number depends on the
shapes alone, and every piece owns what it writes.

One lock is held around each kernel: numba's thread layers break when two Python threads start
parallel code at once.  They do not survive a fork either, so a forked process that inherited
them is told to be started with "spawn".
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from tricycle_autograd.machine_code import WITHOUT_NUMBA, Compiled, MadeByNumba, Routine, prange

__all__ = [
    "WITHOUT_NUMBA",
    "cpu_function",
    "cpu_kernel",
    "cpu_routine",
    "made_by_numba",
    "needs_numba",
    "prange",
]


def cpu_kernel(function: Callable | None = None, *, signature: str | None = None):
    """A kernel called from Python, with numpy arrays; its `prange` loops run in parallel.

    signature   the numba types of its arguments, for kernels that take strided views:
                "float32[:, :]" is an array with any strides, and one compilation serves them
                all, where numba by itself compiles anew for each mixture of layouts
    """
    if function is None:
        return lambda function: Compiled(function, signature, parallel=True)
    return Compiled(function, signature, parallel=True)


def cpu_function(function: Callable) -> Compiled:
    """A function for kernels to call; one thread."""
    return Compiled(function)


def cpu_routine(signature: str) -> Callable[[Callable], Routine]:
    """A long function for kernels to call, of numbers only; one thread.  See Routine.

    signature   the numba types of its result and its arguments, "void(int64, float32)"
    """
    return lambda function: Routine(function, signature)


def made_by_numba(make: Callable) -> Any:
    """Mark a function that imports numba and returns something for kernels to use.

    Typed Any because kernels may call it or compute with it.
    """
    return MadeByNumba(make, make.__code__.co_filename)


def needs_numba(module: str, name: str) -> Any:
    """Something for kernels to use, from a module that cannot be imported without numba.

    An int becomes an int64, because numba would compile a new copy of a function for every value
    of a plain int.
    """

    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"{module} has no source file"

    def make():
        value = getattr(importlib.import_module(module), name)
        return np.int64(value) if isinstance(value, int) else value

    return MadeByNumba(make, spec.origin)
