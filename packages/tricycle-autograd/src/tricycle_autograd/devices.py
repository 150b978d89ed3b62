"""Devices: an array's type says where it lives.

numpy arrays are on the "cpu" and cupy arrays on "cuda"; there is no third device.  Nothing
else has to be stored or passed along: an operation asks `array_module(array)` for the
library that can work on its input, and writes its mathematics once for both.

cupy is imported only when somebody asks for "cuda".
"""

import numpy as np

DEVICES = ("cpu", "cuda")


class EmulatedArray(np.ndarray):
    """A numpy array that claims to be on "cuda", so that GPU code paths run in tests
    on machines that have no GPU."""

    def __array_function__(self, function, types, arguments, options):
        # np.where and a few others would return plain arrays, back on the "cpu".
        result = super().__array_function__(function, types, arguments, options)
        return result.view(EmulatedArray) if type(result) is np.ndarray else result


def device_of(array) -> str:
    """Where an array lives: "cpu" or "cuda"."""
    if type(array) is np.ndarray or isinstance(array, np.generic):
        return "cpu"
    if isinstance(array, EmulatedArray) or type(array).__module__.split(".")[0] == "cupy":
        return "cuda"
    raise TypeError(f"expected a numpy or cupy array, got {type(array).__name__}")


def array_module(array):
    """The module that works on this array: numpy, or cupy for arrays on the GPU."""
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    return _cupy()


def move(array, device: str):
    """The same numbers on `device` ("cpu" or "cuda"); the array itself if it is there already.

    Raises ValueError for an unknown device, ImportError without cupy, RuntimeError without a GPU.
    """
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}; there are {' and '.join(DEVICES)}")
    if device_of(array) == device:
        return array
    if device == "cuda":
        return _cupy().asarray(array)
    if isinstance(array, EmulatedArray):
        return np.array(array)
    return _cupy().asnumpy(array)


def check_same_device(name: str, *tensors) -> None:
    """Raise ValueError if the tensors given to operation `name` are on different devices."""
    kinds = {type(tensor.array) for tensor in tensors}
    if len(kinds) > 1:
        devices = [device_of(tensor.array) for tensor in tensors]
        if len(set(devices)) > 1:
            raise ValueError(
                f"{name}: its inputs are on different devices ({', '.join(devices)}); "
                'move them to one with tensor.to("cpu"), tensor.to("cuda") or model.to(...)'
            )


def _cupy():
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "the GPU needs cupy, which is not installed; install it with the extra that fits your "
            "driver: tricycle-autograd[cuda12] or tricycle-autograd[cuda13]"
        ) from error
    if not cupy.cuda.is_available():
        raise RuntimeError("cupy is installed but finds no usable GPU; see cupy.show_config()")
    return cupy
