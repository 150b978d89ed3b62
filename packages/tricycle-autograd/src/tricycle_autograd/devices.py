"""Devices: an array's type says where it lives.

numpy arrays are on the "cpu" and cupy arrays on "cuda"; there is no third device.  Nothing
else has to be stored or passed along: an operation asks `array_module(array)` for the
library that can work on its input, and writes its mathematics once for both.

cupy is imported only when "cuda" is asked for.
"""

from typing import Any

import numpy as np

DEVICES = ("cpu", "cuda")

# Each type of array that is known: its device, and the module that works on it.
homes: dict[type, tuple[str, Any]] = {np.ndarray: ("cpu", np)}


def register(array_type: type, device: str, module: Any) -> None:
    """Say of a type of array on which device it is, and which module works on it.

    module   has numpy's functions; one for "cuda" also `asnumpy`, which returns a numpy array

    Raises ValueError for an unknown device.
    """
    _check_device(device)
    homes[array_type] = (device, module)


def device_of(array) -> str:
    """Where an array lives: "cpu" or "cuda".  TypeError for anything but an array."""
    return (homes.get(type(array)) or _home(array))[0]


def array_module(array):
    """The module that works on this array: numpy, or cupy for arrays on the GPU.

    Raises TypeError for anything but an array.
    """
    return (homes.get(type(array)) or _home(array))[1]


def _home(array):
    """The device and the module of a type that is met for the first time."""
    if isinstance(array, np.generic):
        return homes[np.ndarray]
    if type(array).__module__.split(".")[0] == "cupy":
        register(type(array), "cuda", _cupy())
        return homes[type(array)]
    raise TypeError(f"expected a numpy or cupy array, got {type(array).__name__}")


def move(array, device: str):
    """The same numbers on `device` ("cpu" or "cuda"); the array itself if it is there already.

    Raises ValueError for an unknown device, ImportError without cupy, RuntimeError without a GPU.
    """
    _check_device(device)
    if device_of(array) == device:
        return array
    if device == "cuda":
        return _cupy().asarray(array)
    return array_module(array).asnumpy(array)


def _check_device(device):
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}; there are {' and '.join(DEVICES)}")


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
