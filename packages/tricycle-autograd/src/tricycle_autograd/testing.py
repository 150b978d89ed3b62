"""How to check an operation: against calculus, and a kernel against its definition.

A derivative is a slope, and slopes can be measured: move one input number up and down a
little, see how much the result changes (central differences, in float64).  `check_gradients`
compares every gradient of any function of tensors with that.

A fused operation is checked in five ways by `check_fused`: the definition's gradients against
measured slopes; the kernels' value, and every gradient, against the definition's; inputs that
are not contiguous; and the same bits on a second run.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tricycle_autograd.fused import Fused, definitions_only
from tricycle_autograd.tensor import Tensor


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Normally distributed numbers of a shape, the same ones for the same seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def check_gradients(
    function: Callable[..., Tensor],
    *arrays: Any,
    step: float = 1e-6,
    rtol: float = 1e-3,
    atol: float = 1e-5,
) -> None:
    """Compare the gradients of `function` with measured slopes.

    function  takes one tensor for each array and returns a tensor (of any shape)
    arrays    its inputs; floating point ones are used in float64 and checked, integer ones
              are passed on as they are
    step      how far each number is moved up and down

    Raises AssertionError naming the argument whose gradient is wrong.  Points where the
    function has a corner (abs at 0, ties in max) have no slope: leave them out.  Fused
    operations run by their definitions here, for the kernels are float32; `check_fused`
    checks the kernels.
    """
    with definitions_only():
        inputs = [_as_float64(array) for array in arrays]
        shape = function(*[Tensor(x) for x in inputs]).shape
        # A random gradient at the result, so that errors in its parts cannot cancel.
        dy = draw(*shape, seed=1)
        _, gradients = value_and_gradients(function, inputs, dy)
        for i, (array, gradient) in enumerate(zip(inputs, gradients, strict=True)):
            if array.dtype.kind != "f":
                continue
            if gradient is None:
                gradient = np.zeros_like(array)
            slopes = measured_slopes(function, inputs, i, dy, step)
            assert gradient.shape == array.shape, (
                f"argument {i}: its gradient has shape {gradient.shape}, it has {array.shape}"
            )
            np.testing.assert_allclose(
                gradient, slopes, rtol, atol, err_msg=f"gradient of argument {i}"
            )


def value_and_gradients(function, arrays, dy):
    """function's result, and its gradients for the floating point arrays, given `dy` at it."""
    tensors = [Tensor(array, requires_grad=array.dtype.kind == "f") for array in arrays]
    out = function(*tensors)
    if out.requires_grad:
        out.backward(dy.astype(out.dtype))
    return out.array, [tensor.grad for tensor in tensors]


def measured_slopes(function, arrays, which, dy, step):
    """d(sum of function · dy) / d(each number of one array), by central differences."""
    slopes = np.zeros_like(arrays[which])
    for index in np.ndindex(slopes.shape):
        up, down = arrays[which].copy(), arrays[which].copy()
        up[index] += step
        down[index] -= step
        higher = function(*[Tensor(up if i == which else x) for i, x in enumerate(arrays)])
        lower = function(*[Tensor(down if i == which else x) for i, x in enumerate(arrays)])
        slopes[index] = ((higher.array - lower.array) * dy).sum() / (2 * step)
    return slopes


def check_fused(
    operation: Fused, *arrays: Any, rtol: float = 2e-5, atol: float = 2e-5, **options: Any
) -> None:
    """Hold a fused operation's kernels to its definition, and the definition to calculus.

    arrays    the operation's tensor arguments, in order (None for one left out); floating
              point ones are checked for their gradients
    options   its other arguments, by name
    rtol, atol  how far float32 kernels may be from the definition in float64; `atol` is
              measured in units of the largest entry of what is compared

    Raises AssertionError naming what differs: definition or kernel, value or which gradient.
    """
    present = [i for i, array in enumerate(arrays) if array is not None]
    given = [np.asarray(arrays[i]) for i in present]
    name = operation.__name__

    def call(*tensors):
        full = [None] * len(arrays)
        for i, tensor in zip(present, tensors, strict=True):
            full[i] = tensor
        return operation(*full, **options)

    check_gradients(call, *given)

    precise = [_as_float64(array) for array in given]
    with definitions_only():
        shape = call(*[Tensor(array) for array in precise]).shape
        dy = draw(*shape, seed=1)
        value, gradients = value_and_gradients(call, precise, dy)

    single = [array.astype(np.float32) if array.dtype.kind == "f" else array for array in given]
    for layout, inputs, gradient_at_result in (
        ("contiguous", single, dy),
        ("not contiguous", [_scattered(array) for array in single], _scattered(dy)),
    ):
        results = value_and_gradients(call, inputs, gradient_at_result)
        _assert_near(results[0], value, rtol, atol, f"{name}, {layout}: kernel's value")
        for i, actual, expected in zip(present, results[1], gradients, strict=True):
            if expected is not None:
                what = f"{name}, {layout}: kernel's gradient of argument {i}"
                assert actual is not None, f"{what} is missing"
                _assert_near(actual, expected, rtol, atol, what)
        again = value_and_gradients(call, inputs, gradient_at_result)
        for first, second in zip([results[0], *results[1]], [again[0], *again[1]], strict=True):
            if first is not None:
                assert first.tobytes() == second.tobytes(), f"{name}: two runs, different bits"


def _assert_near(actual, expected, rtol, atol, what):
    assert actual.dtype == np.float32, f"{what} is {actual.dtype}, not float32"
    assert actual.shape == expected.shape, f"{what} has shape {actual.shape}, not {expected.shape}"
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    np.testing.assert_allclose(actual, expected, rtol, atol * scale, err_msg=what)


def _as_float64(array):
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _scattered(array):
    """The same numbers, every second one in a larger block of memory: not contiguous."""
    if array.ndim == 0:
        return array
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]
