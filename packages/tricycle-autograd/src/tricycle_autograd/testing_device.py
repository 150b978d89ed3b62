"""A GPU for tests on machines that have none: numpy arrays that say they are on "cuda".

    x = Tensor(emulated([1.0, 2.0]))
    x.device                             "cuda"
    array_module(x.array)                numpy's functions, as far as cupy has them

It does the arithmetic, and is as strict as cupy: an array of numpy's beside one of these is an
error, and so is a function that cupy lacks.  New arrays are full of NaN, so that what a kernel
forgets to write is seen.  CUDA kernels run on these arrays, too (cuda.py).  An operation that works
here still has to be tried on a real GPU, but what is wrong here is wrong there.

While a stream captures (testing_streams.py), operations are written down instead: each will fill
the array that it has returned.  What CUDA refuses then is refused here: numbers from the processor,
and a look at what is in an array.
"""

import math
from collections.abc import Callable
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
IN_PLACE = ("copyto", "add.at")
# What makes an array on the GPU of one that is not there yet.
UPLOADS = ("array", "asanyarray", "asarray", "ascontiguousarray")


class Row:
    """Where operations go: they are done at once, after what waits on their stream, or captured.

    captured  those that a capture has written down so far; None while none goes on
    catch_up  does what waits on the current stream
    """

    def __init__(self) -> None:
        self.captured: list[Callable[[], object]] | None = None
        self.catch_up: Callable[[], object] = lambda: None

    def do(self, action: Callable[[], object]) -> None:
        """Something that writes into arrays that are there."""
        if self.captured is None:
            self.catch_up()
            action()
        else:
            self.captured.append(action)

    def made(self, operation: Callable[[], Any], inputs: Any) -> Any:
        """An operation's result on the GPU: a view on an input, or an array that it fills."""
        if self.captured is None:
            self.catch_up()
            return _emulated(operation())
        result = _emulated(operation())  # for its shape; what is in it comes when it is replayed
        given = [_plain(array) for array in _flat(inputs) if isinstance(array, np.ndarray)]
        for i, array in enumerate(_flat([result])):
            if isinstance(array, np.ndarray) and not any(
                np.may_share_memory(_plain(array), x) for x in given
            ):

                def fill(i=i, array=array):
                    _plain(array)[...] = _flat([operation()])[i]

                self.captured.append(fill)
        return result

    def look(self) -> None:
        """The processor is to see what is in an array."""
        if self.captured is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: a look at an array in a capture")
        self.catch_up()


row = Row()


class EmulatedArray(np.ndarray):
    """A numpy array that says it is on "cuda"."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        results = (out,) if not isinstance(out, tuple) else out
        _refuse_arrays_of_numpy(f"{ufunc.__name__}", (*inputs, *results))
        if out is not None:
            options["out"] = tuple(map(_plain, results))

        def operation():
            return getattr(ufunc, method)(*map(_plain, inputs), **options)

        if out is None and method != "at":
            return row.made(operation, inputs)
        row.do(operation)
        return out[0] if isinstance(out, tuple) and len(out) == 1 else out

    def __array_function__(self, function, types, arguments, options):
        # np.where(x, ...) of an array on the GPU: cupy runs its own function of that name.
        return getattr(emulated_cupy, function.__name__)(*arguments, **options)

    def __getitem__(self, index):
        return row.made(lambda: _plain(self)[_plain(index)], [self])

    def set(self, array: np.ndarray, stream: Any = None) -> None:
        """Copy from the processor: at once, or when a stream comes to it, from what is there then.

        stream   one of testing_streams.py
        """

        def copy():
            _plain(self)[...] = array

        row.do(copy) if stream is None else stream.do(copy)

    # Methods that ask neither of the above, and make scalars of numpy's.

    def argmax(self, *args, **options):
        return emulated_cupy.argmax(self, *args, **options)

    def argmin(self, *args, **options):
        return emulated_cupy.argmin(self, *args, **options)

    def dot(self, other):  # type: ignore[override]  # numpy also takes a place for the result
        return emulated_cupy.dot(self, other)

    def astype(self, *args, **options):
        return row.made(lambda: _plain(self).astype(*args, **options), [self])

    def copy(self, *args, **options):
        return row.made(lambda: _plain(self).copy(*args, **options), [])

    def reshape(self, *args, **options):
        return row.made(lambda: _plain(self).reshape(*args, **options), [self])

    def item(self, *args):
        row.look()
        return _plain(self).item(*args)

    def tolist(self):
        row.look()
        return _plain(self).tolist()

    def __bool__(self):
        row.look()
        return bool(_plain(self))

    def __int__(self):
        return int(self.item())

    def __float__(self):
        return float(self.item())

    def __setitem__(self, index, value):
        _refuse_arrays_of_numpy("an assignment", (value,))

        def assign():
            _plain(self)[_plain(index)] = _plain(value)

        row.do(assign)


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
        row.look()
        return np.array(_plain(array))


class Function:
    """A function of numpy's that takes, and returns, arrays of the emulated GPU only."""

    def __init__(self, name: str, function: Any):
        self.name = name
        self.function = function

    def __call__(self, *args, **options):
        if self.name not in UPLOADS:
            _refuse_arrays_of_numpy(self.name, (*args, *options.values()))
        elif row.captured is not None and not isinstance(args[0], EmulatedArray):
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: a copy to the GPU in a capture")
        plain = {name: _plain(value) for name, value in options.items()}

        def operation():
            return self.function(*map(_plain, args), **plain)

        out = options.get("out")
        if self.name in IN_PLACE or out is not None:
            row.do(operation)
            return out
        return row.made(operation, (*args, *options.values()))

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


def _flat(values):
    """What stands in lists and tuples of any depth, in a row."""
    for_lists = (_flat(v) if isinstance(v, (list, tuple)) else [v] for v in values)
    return [one for some in for_lists for one in some]


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
