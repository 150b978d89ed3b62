"""CUDA kernels: .cu files beside the Python files, compiled the first time one is launched.

    FILE = CudaFile(__file__)                           rms_norm.cu, beside rms_norm.py
    forward = FILE.get("forward", x.dtype, C=768)       constants are compiled in
    forward((blocks,), (threads,), y, x, np.int32(N))   on the current stream

A kernel takes arrays, None for an array that is not there, and numpy's numbers: a Python number has
no size.  Machine code is kept on disk beside that of CPU kernels.

On arrays of the emulated GPU (testing_device.py) a kernel runs on numpy, from the same source
(ptx_machine.py): all but the GPU itself is tested on machines that have none.  `watched_launches`
tells what was launched there, and what it cost.

In training arrays hold bfloat16 numbers, which have the first 8 of float32's 24 significant bits;
sums are float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tricycle_autograd import nvrtc

NUMBERS = {"float32": "float", "bfloat16": "bf16"}  # numpy's names, and those in numbers.cuh
WARP = 32  # threads that run together
EMULATED = "compute_80"  # what the emulator reads: it has every instruction that we use
SHARED_UNASKED = 48 << 10  # bytes: a kernel that wants more has to say so beforehand
SHARED_ATTRIBUTE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class CudaFile:
    """The kernels in the .cu file beside a Python file."""

    def __init__(self, python_file: str):
        self.path = Path(python_file).with_suffix(".cu")
        self._kernels: dict[tuple, Kernel] = {}

    def get(self, name: str, dtype: Any, **constants: int) -> "Kernel":
        """A kernel for arrays of a dtype, float32 or bfloat16, with these constants compiled in."""
        key = (name, dtype, *constants.items())
        if key not in self._kernels:
            number = NUMBERS[np.dtype(dtype).name]
            self._kernels[key] = Kernel(self.path, name, {**constants, "number": number})
        return self._kernels[key]


class Kernel:
    """One kernel of a .cu file.  Call it with a grid, a block and its arguments."""

    def __init__(self, path: Path, name: str, constants: dict[str, Any]):
        self.path, self.name, self.constants = path, name, constants

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any, shared: int = 0
    ) -> None:
        """Launch it.

        grid, block  how many blocks there are, and how many threads in each: up to three numbers
        arguments    arrays, numpy's numbers, and None for an array that is not there
        shared       bytes of shared memory, besides what the kernel declares
        """
        if 0 in grid:
            return  # nothing to do; cupy would start one block
        given = [self._checked(i, argument) for i, argument in enumerate(arguments)]
        if any(isinstance(argument, np.ndarray) for argument in given):
            self._emulate(grid, block, given, shared)
            return
        function = self._loaded
        if shared > SHARED_UNASKED:
            _allow_shared(function, shared)
        function(grid, block, given, shared)

    def _checked(self, i, argument):
        if argument is None:
            return np.uint64(0)
        if isinstance(argument, (bool, int, float)) and not isinstance(argument, np.generic):
            raise TypeError(
                f"{self.path.name}, {self.name}: argument {i} is {argument!r}, and a number of "
                "Python's has no size; give np.int32(…) or np.float32(…), as the kernel says"
            )
        if type(argument) is np.ndarray:
            raise TypeError(
                f"{self.path.name}, {self.name}: argument {i} is an array of numpy's, shape "
                f"{argument.shape}, and kernels read the GPU's memory only"
            )
        return argument

    def _emulate(self, grid, block, arguments, shared):
        from tricycle_autograd.ptx_machine import launch
        from tricycle_autograd.testing_device import row

        program = _program(self.path, tuple(sorted(self.constants.items())))[self.name]

        def run():
            report = launch(program, grid, block, arguments, shared, count=_watched is not None)
            if _watched is not None:
                _watched.append(Launch(self.name, grid, block, report))

        row.do(run)

    @cached_property
    def _loaded(self):
        return _module(self.path, tuple(sorted(self.constants.items()))).get_function(self.name)


class Launch(NamedTuple):
    """A launch on the emulated GPU, and what it did: see `ptx_memory.Report`."""

    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    report: Any


_watched: list[Launch] | None = None


@contextmanager
def watched_launches() -> Iterator[list[Launch]]:
    """Collect the launches on the emulated GPU inside a block, with what they cost."""
    global _watched
    before, _watched = _watched, []
    try:
        yield _watched
    finally:
        _watched = before


@lru_cache
def _program(path, constants):
    from tricycle_autograd.ptx import Program

    return Program(nvrtc.compiled(path, EMULATED, dict(constants)).decode())


@lru_cache
def _module(path, constants):
    """A .cu file as machine code of this GPU, loaded."""
    import cupy

    capability = cupy.cuda.Device().compute_capability  # "90"
    # From 9.0 on there are instructions that only this GPU has, and its successors have not.
    architecture = f"sm_{capability}" + ("a" if int(capability) >= 90 else "")
    module = cupy.cuda.function.Module()
    module.load(nvrtc.compiled(path, architecture, dict(constants)))
    return module


def _allow_shared(function, size):
    import cupy

    cupy.cuda.driver.funcSetAttribute(function.ptr, SHARED_ATTRIBUTE, size)


def blocks_for(items: int, in_a_block: int) -> int:
    """How many blocks of so many items it takes."""
    return -(-items // in_a_block)
