"""Fused operations: one definition to read, fast kernels to run.

A fused operation is written twice, on purpose.  Its *definition* is composed of ordinary
tensor operations: short, readable, differentiable for free, right for every dtype.  Its
*kernels* compute the same thing in fewer passes over memory, and each device has its own.
Between them is the *operation*, which is written once for all devices: it checks shapes, lets
the kernels run, says what is kept for the way back, and ends in record(..., backward).

    @fused
    def rms_norm(x, weight, eps=1e-5): ...              the definition: tensors in, tensor out
    @rms_norm.operation
    def rms_norm_fast(run, x, weight, eps=1e-5): ...    the operation; `run` are the kernels to use
    @rms_norm.kernels("cpu")
    class CPU: ...                                      arrays in, new arrays out: run.forward(...)
    @rms_norm.kernels("cuda")
    class GPU: ...                                      the same names

A kernel function allocates what it returns, and returns finished gradients: how work is cut, and
where partial sums are kept, is its own business.  A module of functions will do for a class.

The definition is what `help(rms_norm)` shows, what `definitions_only()` runs, what the tests hold
the kernels to, and how float64 runs, also where only one of the inputs is (numpy's default dtype
beside a layer's float32): kernels are for float32 (on the GPU also for bfloat16).  Any other dtype,
and a device without kernels, is an error.  So where all inputs are float32 the definition never
runs unasked, and a profile shows where it does.

An optimiser's update has the same three parts.  It works on arrays, in place:

    @fused_update
    def adamw_update(w, g, m, v, ...): ...              the definition: w, m and v are changed
    @adamw_update.operation
    def adamw_fast(run, w, g, m, v, ...): ...
    @adamw_update.kernels("cpu")
    class CPU: ...
"""

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from tricycle_autograd.arrays import FLOAT32, is_floating, is_for_kernels, no_kernels_for
from tricycle_autograd.devices import DEVICES, device_of
from tricycle_autograd.modes import Block, current
from tricycle_autograd.tensor import Tensor

FLOAT64 = np.dtype(np.float64)
ON_GPU = "__cuda_array_interface__"  # what every array on a GPU has

# By module and name, so that a test can find one that is not checked.
registry: dict[str, "Fused"] = {}


class WithDefinition:
    """The docstring of a class; on its objects their definition's docstring, and its source.

    So `help(rms_norm)` shows what is calculated.
    """

    def __init__(self, of_class: str | None):
        self.of_class = of_class

    def __get__(self, operation: Any, owner: type) -> str | None:
        if operation is None:
            return self.of_class
        documentation = inspect.getdoc(operation.definition) or ""
        try:
            source = inspect.getsource(operation.definition)
        except OSError:  # typed into a console
            return documentation
        function: Any = ast.parse(textwrap.dedent(source)).body[0]
        first = function.body[1 if ast.get_docstring(function) and function.body[1:] else 0]
        body = textwrap.dedent("\n".join(source.splitlines()[first.lineno - 1 :]))
        return f"{documentation}\n\nDefinition:\n\n{textwrap.indent(body, '    ')}\n"


class Fused:
    """A function with a definition to read and, for some devices, kernels to run.

    definition   what was decorated
    by_device    the kernels, by the name of their device
    """

    __doc__ = WithDefinition(__doc__)
    __name__: str

    def __init__(self, definition: Callable):
        named = [name for name in functools.WRAPPER_ASSIGNMENTS if name != "__doc__"]
        functools.update_wrapper(self, definition, assigned=named)
        self.definition = definition
        self.by_device: dict[str, Any] = {}
        self._operation: Callable | None = None
        registry[f"{definition.__module__}.{definition.__name__}"] = self

    def __repr__(self) -> str:
        devices = " and ".join(self.by_device) or "no device"
        signature = inspect.signature(self.definition)
        plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        return f"<fused {self.__name__}{inspect.Signature(plain)}, kernels for {devices}>"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        # As functions have it: in a class it is a method, and help() shows it as a function.
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> str:
        # Pickled and copied by its name, as functions are.
        return self.__name__

    def operation(self, function: Callable) -> Callable:
        """Attach the operation, which all devices share.

        function   takes the kernels to run, and then the definition's arguments

        Returns the function as it was.  Raises ValueError if there is one already.
        """
        if self._operation is not None:
            raise ValueError(
                f"{self.__name__} has its operation already, {self._operation.__name__}; there is "
                "one for all devices, which calls what differs through its first argument"
            )
        self._operation = function
        return function

    def kernels(self, device: str) -> Callable:
        """Attach what the operation runs on one device, "cpu" or "cuda".

        Returns a decorator for a class of functions, which may also be given a module.  Raises
        ValueError for an unknown device, and for one whose kernels are attached already.
        """
        if device not in DEVICES:
            raise ValueError(f"unknown device {device!r}; there are {' and '.join(DEVICES)}")

        def attach(functions):
            if device in self.by_device:
                raise ValueError(
                    f"{self.__name__} has kernels for {device} already, "
                    f"{self.by_device[device].__name__}; a device has one set of them"
                )
            self.by_device[device] = functions
            return functions

        return attach

    def __call__(self, *args, **kwargs):
        if self._operation is None and not self.by_device:
            return self.definition(*args, **kwargs)
        if current().definitions:
            run = None
        else:
            run = self._kernels_for(self._arrays(args, kwargs), args, kwargs)
        if run is None:
            return _observed(f"{self.__name__} (definition)", self.definition, args, kwargs)
        return _observed(self.__name__, self._operation, (run, *args), kwargs)

    def _arrays(self, args, kwargs):
        """The arrays of the tensors among the arguments: they decide what runs."""
        arrays = [x.array for x in args if isinstance(x, Tensor)]
        if kwargs:
            arrays += [x.array for x in kwargs.values() if isinstance(x, Tensor)]
        return arrays

    def _kernels_for(self, arrays, args, kwargs):
        """The kernels for these arrays, or None if the definition runs; an error if neither."""
        device = kind = None
        precise = False
        for array in arrays:
            if type(array) is not kind:
                kind = type(array)
                device = self._same_device(device, device_of(array))
            dtype = array.dtype
            if dtype is FLOAT32 or not is_floating(dtype):
                continue
            if dtype == FLOAT64:
                precise = True
            elif not is_for_kernels(array):
                argument = self._name(array, args, kwargs)
                raise TypeError(no_kernels_for(self.__name__, array, argument))
        if precise:
            self._check_float64(arrays, args, kwargs)
            return None
        run = self.by_device.get(device or "cpu")
        if run is None or self._operation is None:
            raise ValueError(self._what_is_missing(device))
        return run

    def _same_device(self, first, second):
        if first is not None and first != second:
            raise ValueError(
                f"{self.__name__}: its inputs are on different devices ({first}, {second}); "
                'move them to one with tensor.to("cpu"), tensor.to("cuda") or model.to(...)'
            )
        return second

    def _check_float64(self, arrays, args, kwargs):
        """float64 beside float32 is right for a definition, as it is for numpy."""

    def _name(self, array, args, kwargs):
        """What the definition calls the argument that an array came from, for messages."""
        given = inspect.signature(self.definition).bind(*args, **kwargs).arguments
        return next(
            name for name, value in given.items() if getattr(value, "array", value) is array
        )

    def _what_is_missing(self, device):
        if self._operation is None:
            return (
                f"{self.__name__} has kernels but no operation that runs them; attach one with "
                f"@{self.__name__}.operation"
            )
        there = " and ".join(self.by_device) or "no device"
        return (
            f"{self.__name__} has kernels for {there} only, and its inputs are on {device}; move "
            'them with .to("cpu") or .to("cuda"), or run the readable definition: '
            "with definitions_only(): ..."
        )


class FusedUpdate(Fused):
    """A fused operation on arrays, some of which it changes; nothing is recorded."""

    def _arrays(self, args, kwargs):
        given = (*args, *kwargs.values())
        return [x for x in given if isinstance(x, np.ndarray) or hasattr(x, ON_GPU)]

    def _check_float64(self, arrays, args, kwargs):
        """What is changed in place keeps its dtype, so all that goes into it has the same."""
        floating = [array for array in arrays if is_floating(array.dtype)]
        if any(array.dtype != FLOAT64 for array in floating):
            given = [f"{self._name(array, args, kwargs)} is {array.dtype}" for array in floating]
            raise TypeError(
                f"{self.__name__} works in one dtype, and {', '.join(given)}; convert the others, "
                "with .astype('float32') to run kernels, with .astype('float64') to run the "
                "definition"
            )


def fused(definition: Callable) -> Fused:
    """Decorate a definition made of tensor operations, so that kernels can be attached."""
    return Fused(definition)


def fused_update(definition: Callable) -> FusedUpdate:
    """Decorate a definition that changes arrays in place, so that kernels can be attached.

    An optimiser's step, say; or a sum over a model's gradients, which changes nothing and returns
    a number.
    """
    return FusedUpdate(definition)


def _observed(name, function, args, kwargs):
    """Call a function; where an observer is told of operations, under this name."""
    observer = current().observer
    if observer is not None:
        return observer.call(name, function, args, kwargs)
    return function(*args, **kwargs)


def definitions_only() -> Block:
    """Run every fused operation by its definition: slow, readable, open to a debugger.

    For this thread only: a thread that is started inside the block runs kernels.  Also works as a
    decorator; in a generator see no_grad.
    """
    return Block(definitions=True)
