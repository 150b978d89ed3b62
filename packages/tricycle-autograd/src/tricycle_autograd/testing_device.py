"""A GPU for tests on machines that have none: numpy arrays that say they are on "cuda".

    x = Tensor(emulated([1.0, 2.0]))
    x.device                             "cuda"
    array_module(x.array)                numpy's functions, as far as cupy has them

It does the arithmetic, and is as strict as cupy: an array of numpy's beside one of these is an
error, and so is a function that cupy lacks.  New arrays are full of NaN, so that what a kernel
forgets to write is seen.  CUDA kernels run on these arrays, too (cuda.py).  An operation that works
here still has to be tried on a real GPU, but what is wrong here is wrong there.
"""

import math
from typing import Any

import numpy as np

from tricycle_autograd.devices import register
from tricycle_autograd.memory import aligned_zeros

# The functions that the library may use: those that cupy 14 has under numpy's name, with the same
# arguments.  A new one is looked up in cupy's reference first, and then added here.
IN_CUPY = """
    abs absolute add all any arange argmax argmin argsort array asanyarray asarray
    ascontiguousarray bitwise_and bitwise_or broadcast_to ceil clip concatenate copyto cos
    cumprod cumsum diagonal divide dot einsum empty empty_like equal exp expand_dims expm1 eye
    flatnonzero flip float16 float32 float64 floor floor_divide full full_like greater
    greater_equal inf int32 int64 invert isfinite isinf isnan less less_equal log log1p
    logical_and logical_not logical_or matmul max maximum mean min minimum moveaxis multiply nan
    ndarray negative newaxis not_equal ones ones_like pad power prod ravel repeat reshape
    result_type rint roll sign sin split sqrt square squeeze stack std subtract sum swapaxes
    take take_along_axis tanh tensordot tile trace transpose tri tril triu true_divide uint32
    uint64 var where zeros zeros_like
"""
# What makes an array on the GPU of one that is not there yet.
UPLOADS = ("array", "asanyarray", "asarray", "ascontiguousarray")


class EmulatedArray(np.ndarray):
    """A numpy array that says it is on "cuda"."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        results = (out,) if not isinstance(out, tuple) else out
        _refuse_arrays_of_numpy(f"{ufunc.__name__}", (*inputs, *results))
        if out is not None:
            options["out"] = tuple(map(_plain, results))
        result = getattr(ufunc, method)(*map(_plain, inputs), **options)
        return out[0] if isinstance(out, tuple) and len(out) == 1 else _emulated(result)

    def __array_function__(self, function, types, arguments, options):
        # np.where(x, ...) of an array on the GPU: cupy runs its own function of that name.
        return getattr(emulated_cupy, function.__name__)(*arguments, **options)

    def __getitem__(self, index):
        return _emulated(_plain(self)[_plain(index)])

    def set(self, array: np.ndarray, stream: Any = None) -> None:
        """Copy from the processor: at once, or when a stream comes to it, from what is there then.

        stream   one of testing_streams.py
        """

        def copy():
            _plain(self)[...] = array

        copy() if stream is None else stream.do(copy)

    # Methods that ask neither of the above, and make scalars of numpy's.

    def argmax(self, *args, **options):
        return emulated_cupy.argmax(self, *args, **options)

    def argmin(self, *args, **options):
        return emulated_cupy.argmin(self, *args, **options)

    def dot(self, other):  # type: ignore[override]  # numpy also takes a place for the result
        return emulated_cupy.dot(self, other)

    def __setitem__(self, index, value):
        _refuse_arrays_of_numpy("an assignment", (value,))
        _plain(self)[_plain(index)] = _plain(value)


def emulated(array: Any) -> EmulatedArray:
    """The numbers on the emulated GPU; the memory is shared where it can be."""
    return np.asarray(array).view(EmulatedArray)


class EmulatedCupy:
    """What `array_module` gives for emulated arrays."""

    def __getattr__(self, name: str) -> Any:
        if name not in IN_CUPY.split():
            raise AttributeError(
                f"cupy may have no {name}, or another one: look for it in cupy's reference, and "
                f"write it into IN_CUPY ({__name__}) if it is there"
            )
        value = getattr(np, name)
        return value if isinstance(value, type) or not callable(value) else Function(name, value)

    def empty(self, shape: Any, dtype: Any = np.float64) -> EmulatedArray:
        """Numbers that nobody has written: NaN, or -1 of integers.

        They begin at a multiple of 64 bytes: cupy's arrays do at one of 512.
        """
        array = aligned_zeros(math.prod(np.atleast_1d(shape)), dtype)
        array.view(np.uint8)[...] = 0xFF  # these bits are a NaN in every format
        return emulated(array.reshape(shape))

    def empty_like(self, array: EmulatedArray, dtype: Any = None) -> EmulatedArray:
        return self.empty(array.shape, dtype or array.dtype)

    def asnumpy(self, array: EmulatedArray) -> np.ndarray:
        """A copy that is on the CPU."""
        return np.array(_plain(array))


class Function:
    """A function of numpy's that takes, and returns, arrays of the emulated GPU only."""

    def __init__(self, name: str, function: Any):
        self.name = name
        self.function = function

    def __call__(self, *args, **options):
        if self.name not in UPLOADS:
            _refuse_arrays_of_numpy(self.name, (*args, *options.values()))
        plain = {name: _plain(value) for name, value in options.items()}
        result = self.function(*map(_plain, args), **plain)
        out = options.get("out")
        return out if isinstance(out, EmulatedArray) else _emulated(result)

    def __getattr__(self, name: str) -> Any:
        return Function(f"{self.name}.{name}", getattr(self.function, name))  # add.at


def _refuse_arrays_of_numpy(name, values):
    for value in values:
        if isinstance(value, (list, tuple)):
            _refuse_arrays_of_numpy(name, value)
        elif type(value) is np.ndarray:
            raise TypeError(
                f"{name}: got an array of numpy's beside one on the GPU, shape {value.shape}; "
                "cupy takes its own arrays only, and plain numbers"
            )


def _plain(value):
    """The same as numpy's own array, over the same memory; also inside lists and tuples."""
    if isinstance(value, EmulatedArray):
        return value.view(np.ndarray)
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(one) for one in value)
    return value


def _emulated(value):
    """On the emulated GPU; also what numpy makes a scalar of: cupy gives an array without axes."""
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value).view(EmulatedArray)
    if isinstance(value, (list, tuple)):
        return type(value)(_emulated(one) for one in value)
    return value


emulated_cupy = EmulatedCupy()
register(EmulatedArray, "cuda", emulated_cupy)
