"""Is a kernel's machine code right on this machine?  Tried once, when it is loaded first.

Compilers make mistakes, for one kind of processor and not for others (linking.py tells of one),
and no one can test on all of them.  So before a kernel is used on a processor for the first time
it is run on a few small arrays, and so is the Python that it was made from, by numpy's numbers.
Where the two differ there is an error that says so, and no training that ends in NaN.

What to try a kernel on stands in the room `kernel_trials` of its package:

    TRIALS = {"softmax.CPU.backward": lambda rng: (numbers(rng, 3, 37), numbers(rng, 3, 37)), ...}

by the module's name in the package and the kernel's in the module.  The arrays are made of the
types that the kernel was just loaded for, so that no other machine code has to be compiled for
it, and of kernels that a program does not need none is.  It takes milliseconds, and that it was
right is kept beside the machine code, in a file named after the kernel, its types and the
processor: no other process does it again.
"""

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

UNFIT = object()  # an argument that cannot be made of another type
WITHIN = 1e-3  # of the largest number of an array: rounding is far below, garbage far above


class Cases:
    """Several sets of arguments to try a kernel on.

    arguments  (rng) -> the sets
    python     what to compare with, where the kernel's own Python cannot run; same arguments
    """

    def __init__(self, arguments: Callable[..., Iterable[tuple]], python: Callable | None = None):
        self.arguments = arguments
        self.python = python


def try_once(kernel: Any, run: Callable, types_of_arguments: Any, mark: Path) -> None:
    """Try machine code that was just loaded, unless the mark says that it was found right.

    kernel              the Compiled
    run                 its machine code
    types_of_arguments  numba's, that it was loaded for; None where it takes any view
    mark                the file that says so, made here where it can be

    Raises RuntimeError where a result is wrong.
    """
    if mark.exists():
        return
    cases = cases_for(kernel)
    if cases is None:
        return
    python = cases.python or in_python(kernel)
    for arguments in cases.arguments(np.random.default_rng(0)):
        adapted = as_types(arguments, types_of_arguments)
        if adapted is None:
            return
        wanted_of = [x.copy(order="K") if isinstance(x, np.ndarray) else x for x in adapted]
        with np.errstate(all="ignore"):
            wanted = python(*wanted_of)
        found = run(*adapted)
        if not agree([*_flat(found), *adapted], [*_flat(wanted), *wanted_of]):
            raise RuntimeError(_sentence(kernel))
    with contextlib.suppress(OSError):  # a cache that cannot be written to: tried again next time
        mark.touch()


def cases_for(kernel: Any) -> Cases | None:
    """What to try a kernel on; None if its package does not say."""
    package, _, module = kernel.__module__.partition(".")
    entry = trials_of(package).get(f"{module}.{kernel.function.__qualname__}")
    return entry if entry is None or isinstance(entry, Cases) else Cases(lambda rng: [entry(rng)])


@functools.lru_cache
def trials_of(package: str) -> dict[str, Any]:
    """The TRIALS in the room `kernel_trials` of a package; none where there is no such room."""
    is_package = hasattr(sys.modules.get(package), "__path__")
    if not is_package or importlib.util.find_spec(f"{package}.kernel_trials") is None:
        return {}
    return importlib.import_module(f"{package}.kernel_trials").TRIALS


def in_python(kernel: Any) -> Callable:
    """A kernel or a helper as plain Python, whose helpers are plain Python too."""
    function = getattr(kernel, "function", None)
    if kernel.plain is not function:  # attached to it, because what numba runs is not Python
        return kernel.plain
    namespace = dict(function.__globals__)
    for name, value in kernel._mentioned().items():
        namespace[name] = _helper_in_python(value)
    return types.FunctionType(
        function.__code__, namespace, function.__name__, function.__defaults__
    )


def _helper_in_python(value):
    if value is range:  # prange
        return value
    if value.plain is None:
        return value.dispatcher  # a number that is known once numba is there: gemm's LANES
    return in_python(value)


def as_types(arguments: Iterable[Any], wanted: Any) -> list[Any] | None:
    """The same numbers as arguments of numba's types; None where they do not fit.

    wanted   numba's types; None: as they are
    """
    if wanted is None:
        return list(arguments)
    arguments = list(arguments)
    if len(arguments) != len(wanted):
        return None
    adapted = [_as_type(value, t) for value, t in zip(arguments, wanted, strict=True)]
    return None if any(value is UNFIT for value in adapted) else adapted


def _as_type(value, wanted):
    from numba import types
    from numba.np.numpy_support import as_dtype

    if isinstance(wanted, types.NoneType):
        return None  # an argument that was left out
    if isinstance(wanted, types.Number | types.Boolean) and np.ndim(value) == 0:
        return as_dtype(wanted).type(value)
    if not isinstance(wanted, types.Array) or np.ndim(value) != wanted.ndim:
        return UNFIT
    array = np.array(value, as_dtype(wanted.dtype), order="F" if wanted.layout == "F" else "C")
    if wanted.layout == "A":
        apart = np.empty([2 * n for n in array.shape], array.dtype)
        apart = apart[(slice(None, None, 2),) * array.ndim]
        apart[...] = array
        array = apart
    array.flags.writeable = wanted.mutable
    return array


def agree(found: list[Any], wanted: list[Any]) -> bool:
    """Whether arrays and numbers are near each other: NaN where NaN is wanted."""
    for x, y in zip(found, wanted, strict=True):
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype.kind != "f":
            if not np.array_equal(x, y):
                return False
            continue
        finite = np.isfinite(y)
        scale = np.abs(y[finite]).max(initial=1e-30)
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
            return False
        if not (np.abs(x[finite] - y[finite]) <= WITHIN * scale).all():  # NaN: not near
            return False
    return True


def _flat(result):
    """What a kernel returned, as a list of arrays and numbers."""
    if result is None:
        return []
    return list(result) if isinstance(result, tuple) else [result]


@functools.lru_cache
def processor() -> str:
    """What machine code depends on here: the processor, and the one that code is made for."""
    from llvmlite import binding
    from numba.core.registry import cpu_target

    made_for = cpu_target.target_context.codegen().magic_tuple()
    features = binding.get_host_cpu_features()
    here = binding.get_host_cpu_name(), sorted(name for name, has in features.items() if has)
    return repr((made_for, here))


def _sentence(kernel):
    from llvmlite import binding
    from numba.core import config

    processor = config.CPU_NAME or binding.get_host_cpu_name()
    return (
        f"the kernel {kernel.__module__}.{kernel.function.__qualname__} computes wrong numbers on "
        f"this machine (processor {processor}), so it is not used. Its machine code may be "
        "damaged: set TRICYCLE_CACHE to an empty folder, and it is compiled anew. Where that is "
        "wrong too, so is the compiler: NUMBA_CPU_NAME=generic makes slower code that may be "
        "right; and please report it, with what tricycle_autograd.show_config() prints"
    )
