"""Arrays as kernels want them: in order in memory, of a dtype they know, on one device.

Everything here works on any device's arrays, and on nothing but arrays; only `kernel_inputs` is
given tensors, whose arrays it hands out.

    as_dtype(name)                     a dtype by its name, bfloat16 among them
    is_floating(dtype)                 whether its numbers can have gradients
    is_half(dtype), in_float32         whether sums need more digits than it has; those digits
    exact_sum                          a sum whose last digits hold, however many numbers there are
    contiguous, rows_contiguous        a copy where the memory has another order
    as_rows                            (..., C) seen as (N, C)
    empty, empty_like                  room for a result, beside its inputs
    kernel_inputs                      what an operation hands to its kernels, or an error
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tricycle_autograd.devices import array_module, check_same_device, device_of

# What an operation's kernels can be given.  float64 is the definition's, on every device.
DTYPES = {"cpu": ("float32",), "cuda": ("float32", "bfloat16")}
FLOAT32 = np.dtype(np.float32)


def as_dtype(dtype: Any) -> np.dtype:
    """What numpy makes of a dtype or its name; and "bfloat16", a name it knows from ml_dtypes only.

    Raises ImportError for that where ml_dtypes is not installed.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError(
                "bfloat16 needs ml_dtypes, which is not installed: pip install ml-dtypes"
            ) from error
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


def is_floating(dtype: np.dtype) -> bool:
    """Whether numbers of this dtype can have gradients: floats of any width, and bfloat16.

    bfloat16 comes from the package ml_dtypes; numpy itself takes it for raw bytes, kind "V".  It
    is known by its name, so that ml_dtypes is imported only by a program that uses it.
    """
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16")


def is_half(dtype: np.dtype) -> bool:
    """Whether numbers of this dtype are float16 or bfloat16: too short to add up or count in."""
    return dtype.itemsize == 2 and is_floating(dtype)


def in_float32(array):
    """An array of float16 or bfloat16 numbers as float32; another as it is."""
    return array.astype(FLOAT32) if is_half(array.dtype) else array


def exact_sum(array: Any, axis: Any = None, keepdims: bool = False, in_a_row: int = 16) -> Any:
    """array.sum(axis), right to the last digits, in the array's own dtype.

    in_a_row   so many numbers may be added one after the other in the array's own dtype

    Where numbers lie side by side numpy adds them in pairs, pairs of pairs and so on, and its sum
    is right.  Along other axes it adds row after row, and the total of 20 million float32 ones is
    16,777,216, from where adding 1 changes nothing.  Such sums are held in float64.
    """
    if array.dtype != FLOAT32 or type(array) is not np.ndarray:
        # On the GPU cupy adds in a tree.
        total = in_float32(array).sum(axis=axis, keepdims=keepdims)
        return total.astype(array.dtype) if is_half(array.dtype) else total
    if array.size <= in_a_row or added_in_a_row(array, axis) <= in_a_row:
        return array.sum(axis=axis, keepdims=keepdims)
    return array.sum(axis=axis, keepdims=keepdims, dtype=np.float64).astype(FLOAT32)


def added_in_a_row(array: np.ndarray, axis: Any) -> int:
    """How many numbers numpy's sum over `axis` adds one after the other."""
    if axis is None:
        if array.flags.forc:
            return 1
        axis = tuple(range(array.ndim))
    axes = {i % array.ndim for i in (axis if isinstance(axis, tuple) else (axis,))}
    if array.flags.c_contiguous and axes == set(range(array.ndim - len(axes), array.ndim)):
        return 1
    reduced = math.prod([array.shape[i] for i in axes])
    long = [i for i in range(array.ndim) if array.shape[i] > 1]
    innermost = min(long, key=lambda i: abs(array.strides[i]), default=0)
    return reduced // array.shape[innermost] if innermost in axes else reduced


def contiguous(array):
    """The array with its numbers in order in memory: itself, or a copy."""
    return array if array.flags.c_contiguous else array.copy(order="C")


def rows_contiguous(array):
    """The array with the numbers of each row in order in memory: itself, or a copy."""
    # numba has another type for arrays that cannot be written; cupy's always can.
    writeable = getattr(array.flags, "writeable", True)
    in_order = array.strides[-1] == array.itemsize and writeable
    return array if in_order else array.copy(order="C")


def as_rows(array):
    """(..., C) as (N, C), also where C is 0 and reshape(-1, C) could not tell how many rows."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


def empty(shape: int | tuple[int, ...], dtype: Any, like: Any):
    """A new array with anything in it, on the device where the array `like` is."""
    return array_module(like).empty(shape, dtype)


def empty_like(array):
    """A new array of the same shape, dtype and device, in order in memory whatever the first is."""
    return array_module(array).empty(array.shape, array.dtype)


def kernel_inputs(name: str, *tensors, layout: Callable = contiguous):
    """The arrays of an operation's floating point inputs, as its kernels want them.

    layout   `contiguous`, or `rows_contiguous` for kernels that take strided views

    Returns arrays on one device, of dtypes that kernels know there: one, or a list of several.
    Each is a copy where the input has another layout.  Raises TypeError for anything but a tensor,
    for another dtype and for a mixture, and ValueError for tensors on different devices: kernels
    refuse what they cannot do fast.
    """
    arrays = []
    for tensor in tensors:
        array = getattr(tensor, "array", None)  # only tensors have one
        if array is None:
            raise TypeError(
                f"{name} works on tensors, got {type(tensor).__name__}; make one of it with "
                "Tensor(array)"
            )
        if array.dtype != FLOAT32 and not is_for_kernels(array):
            raise TypeError(no_kernels_for(name, array))
        arrays.append(layout(array))
    if len(arrays) == 1:
        return arrays[0]
    if len(set(map(type, arrays))) > 1:
        check_same_device(name, *tensors)
    if any(array.dtype is not arrays[0].dtype for array in arrays):
        _check_one_dtype(name, arrays)
    return arrays


def _check_one_dtype(name, arrays):
    if len({array.dtype for array in arrays}) > 1:
        given = ", ".join(str(array.dtype) for array in arrays)
        raise TypeError(
            f"{name} works in one dtype, got {given}; convert the others with tensor.astype(…), "
            "or the whole model with model.to(…)"
        )


def is_for_kernels(array: Any) -> bool:
    """Whether kernels know the array's dtype on the device where it is."""
    dtype = array.dtype
    return dtype.isnative and dtype.name in DTYPES[device_of(array)]


def no_kernels_for(name: str, array: Any, argument: str = "") -> str:
    """The message for an array of a dtype that an operation's kernels do not know.

    argument   its name in the operation's signature, where that is known
    """
    device = device_of(array)
    given = f"{argument} is {array.dtype}" if argument else f"got {array.dtype}"
    return (
        f"{name} has kernels for {' and '.join(DTYPES[device])} on {device}, {given}; convert "
        "it with .astype('float32'), or run the readable definition: with definitions_only(): ..."
    )
