"""How to check an operation: against calculus, and a kernel against its definition.

A derivative is a slope, and slopes can be measured: move one input number up and down a
little, see how much the result changes (central differences, in float64).  `check_gradients`
compares every gradient of any function of tensors with that.

A fused operation is checked by `check_fused`: the definition's gradients against measured slopes;
the kernels' value, and every gradient, against the definition's, on each device; inputs that are
not contiguous; the same bits on a second run; and how many arrays are kept for the way back.
`check_update` holds an optimiser's kernels to their definition.

`check_on_cuda` does it for CUDA kernels, in float32 and in bfloat16: on a GPU, and where there is
none on the emulated one, which runs the same sources on numpy and looks at every step.
"""

import functools
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any
from unittest import SkipTest

import numpy as np

from tricycle_autograd import nvrtc
from tricycle_autograd.arrays import empty, is_floating, is_half
from tricycle_autograd.devices import homes, move
from tricycle_autograd.fused import Fused, FusedUpdate, definitions_only
from tricycle_autograd.tape import Node
from tricycle_autograd.tensor import Tensor
from tricycle_autograd.testing_device import emulated


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
            if not is_floating(array.dtype):
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
    tensors = [_leaf(array) for array in arrays]
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
    operation: Fused,
    *arrays: Any,
    rtol: float = 2e-5,
    atol: float = 2e-5,
    keeps: int | None = None,
    **options: Any,
) -> None:
    """Hold a fused operation's kernels to its definition, and the definition to calculus.

    arrays    the operation's tensor arguments, in order (None for one left out); floating
              point ones are checked for their gradients
    options   its other arguments, by name
    rtol, atol  how far float32 kernels may be from the definition in float64; `atol` is
              measured in units of the largest entry of what is compared
    keeps     how many arrays its backward may hold on to, inputs included; None for any number

    Kernels for the CPU, that is; `check_on_cuda` checks those for "cuda".

    Raises AssertionError naming what differs: definition or kernel, value or which gradient; and
    for a backward that holds another number of arrays, or a tensor.
    """
    call, given, present = _without_none(operation, arrays, options)
    check_gradients(call, *given)
    dy, expected = _expected(call, given)
    single = [_as_float32(array) for array in given]
    scattered = [_scattered(array) for array in single]
    name = operation.__name__
    for layout, inputs, gradient in (
        ("contiguous", single, dy),
        ("not contiguous", scattered, _scattered(dy)),
    ):
        what = f"{name}, {layout}"
        _check_kernels(what, call, inputs, gradient, expected, present, rtol, atol)
    if keeps is not None:
        _check_what_is_kept(name, call, single, keeps)


def check_on_cuda(
    operation: Fused,
    *arrays: Any,
    within: dict[str, float] | None = None,
    value_in_float32: bool = False,
    **options: Any,
) -> None:
    """Hold a fused operation's CUDA kernels to its definition: value and every gradient.

    arrays    the operation's tensor arguments, in order (None for one left out)
    options   its other arguments, by name
    within    how far results may be from the definition in float64, in units of the largest entry
              of what is compared, by dtype; {"float32": 2e-5, "bfloat16": 0.01} if not said.
              Inputs are rounded to that dtype first, for the definition too
    value_in_float32  whether the result is float32 whatever the inputs are, as losses are

    On a GPU, if there is one, otherwise on the emulated one; skipped where NVRTC, which the latter
    needs, is not installed either.  Raises AssertionError naming what differs; for a result of
    another dtype; and where two runs differ in a bit.  On the emulated GPU everything wrong that a
    kernel does is a `Fault`: see ptx_machine.py.
    """
    import ml_dtypes

    upload, place = _gpu()
    call, given, present = _without_none(operation, arrays, options)
    for dtype in (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)):
        near = {"float32": 2e-5, "bfloat16": 0.01, **(within or {})}[dtype.name]
        rounded = [array.astype(dtype) if is_floating(array.dtype) else array for array in given]
        value_dtype = np.dtype(np.float32) if value_in_float32 else dtype
        dy, expected = _expected(call, rounded, value_dtype)
        what = f"{operation.__name__} on {place} in {dtype}"
        inputs, gradient = [upload(array) for array in rounded], upload(dy)
        _check_kernels(what, call, inputs, gradient, expected, present, near, near)
        scattered = [upload(_scattered(array)) for array in rounded]
        results = value_and_gradients(call, scattered, upload(_scattered(dy)))
        name = f"{what}, not contiguous"
        _check_results(name, results, expected, inputs, present, near, near, value_dtype)


def on_a_gpu(array: Any) -> Any:
    """A copy on a GPU, or on the emulated one; skips the test where NVRTC is missing there."""
    there = _gpu()[0](np.asarray(array))
    copy = empty(there.shape, there.dtype, like=there)  # begins where the GPU's arrays begin
    copy[...] = there
    return copy


def _gpu() -> tuple[Callable, str]:
    """What takes an array to a GPU, or to the emulated one, and what that is called."""
    if gpu_is_there():
        return lambda array: move(array, "cuda"), "cuda"
    if not nvrtc.is_there():
        raise SkipTest(nvrtc.MISSING)
    return emulated, "an emulated GPU"


def _without_none(operation, arrays, options):
    """The operation as a function of the arrays that are there, those, and which ones they are."""
    present = [i for i, array in enumerate(arrays) if array is not None]

    def call(*tensors):
        full = [None] * len(arrays)
        for i, tensor in zip(present, tensors, strict=True):
            full[i] = tensor
        return operation(*full, **options)

    return call, [np.asarray(arrays[i]) for i in present], present


def _expected(call, arrays, dtype=np.float64):
    """A gradient for the result, rounded to a dtype; what the definition makes of it in float64."""
    precise = [_as_float64(array) for array in arrays]
    with definitions_only():
        shape = call(*[Tensor(array) for array in precise]).shape
        dy = draw(*shape, seed=1).astype(dtype)
        return dy, value_and_gradients(call, precise, dy.astype(np.float64))


def check_update(
    update: FusedUpdate, *arrays: Any, rtol: float = 2e-5, atol: float = 2e-5, **options: Any
) -> None:
    """Hold the kernels of a fused update to its definition.

    arrays    its arguments that are arrays, in order; those that the definition changes are to be
              changed by kernels in the same way, and the others left alone
    options   its other arguments, by name
    rtol, atol  how far the change that a float32 kernel makes, and what it returns, may be from
              the definition's in float64; `atol` in units of the largest change in an array

    Raises AssertionError naming the argument that differs, or the result, and where two runs
    differ in a bit.
    """
    single = [_as_float32(array) for array in arrays]
    expected = [_as_float64(array) for array in single]
    with definitions_only():
        value = update(*expected, **options)
    for device, upload in devices_for(update):
        name = update.__name__ if device == "cpu" else f"{update.__name__} on {device}"
        runs = []
        for _ in range(2):
            inputs = [upload(array.copy()) for array in single]
            result = update(*inputs, **options)
            runs.append([*map(_on_cpu, inputs)] + ([] if result is None else [_on_cpu(result)]))
        for i, (before, actual, wanted) in enumerate(zip(single, runs[0], expected)):
            _assert_same_change(before, actual, wanted, rtol, atol, f"{name}: argument {i}")
        if value is not None:
            np.testing.assert_allclose(runs[0][-1], value, rtol, err_msg=f"{name}: its result")
        for first, second in zip(*runs, strict=True):
            assert first.tobytes() == second.tobytes(), f"{name}: two runs, different bits"


def devices_for(operation: Fused) -> list[tuple[str, Callable]]:
    """The devices on which an operation's kernels can run here, and what takes an array there."""
    found: list[tuple[str, Callable]] = []
    if "cpu" in operation.by_device or not operation.by_device:
        found.append(("cpu", np.asarray))
    if "cuda" in operation.by_device:
        if nvrtc.is_there():
            found.append(("an emulated GPU", emulated))
        if gpu_is_there():
            found.append(("cuda", lambda array: move(array, "cuda")))
    return found


def gpu_is_there() -> bool:
    """Whether arrays can be moved to "cuda"."""
    try:
        move(np.zeros(1, np.float32), "cuda")
    except (ImportError, RuntimeError):
        return False
    return True


def kept_by(result: Tensor) -> tuple[list[Any], list[Tensor]]:
    """What is held in memory for a result's way back, from the leaves on: arrays, and tensors.

    Arrays that share memory count once, and are given whole: a view keeps all of what it is a view
    of.  Found are those in closures, in lists, tuples and dictionaries there, and in functions
    that those mention.  Tensors should not be among them: a tensor holds its past, too.
    """
    arrays: dict[int, Any] = {}
    tensors: list[Tensor] = []
    seen: set[int] = set()
    waiting: list[Any] = [result.node]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            tensors.append(value)
        elif type(value) in homes:
            while type(value.base) in homes:
                value = value.base
            arrays[id(value)] = value
        else:
            waiting += _mentioned_in(value)
    return list(arrays.values()), tensors


def _mentioned_in(value):
    """What a value of another kind leads to."""
    if isinstance(value, Node):
        return [*value.parents, value.backward] if value.backward is not None else []
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, FunctionType):
        return [*(cell.cell_contents for cell in value.__closure__ or ()), value.__defaults__]
    return [value.__self__] if isinstance(value, MethodType) else []


def _check_what_is_kept(name, call, inputs, keeps):
    arrays, tensors = kept_by(call(*[_leaf(array) for array in inputs]))
    shapes = ", ".join([str(tensor.shape) for tensor in tensors])
    assert not tensors, f"{name}: its backward holds tensors, of shape {shapes}; keep arrays"
    shapes = ", ".join([str(array.shape) for array in arrays])
    assert len(arrays) == keeps, f"{name}: its backward keeps {len(arrays)} arrays ({shapes})"


def _check_kernels(name, call, inputs, dy, expected, present, rtol, atol):
    """Value and gradients against those expected, and a second run, bit by bit."""
    dtype = dy.dtype if is_half(dy.dtype) else np.dtype(np.float32)
    results = value_and_gradients(call, inputs, dy)
    _check_results(name, results, expected, inputs, present, rtol, atol, dtype)
    again = value_and_gradients(call, inputs, dy)
    for first, second in zip([results[0], *results[1]], [again[0], *again[1]], strict=True):
        if first is not None:
            same = _on_cpu(first).tobytes() == _on_cpu(second).tobytes()
            assert same, f"{name}: two runs, different bits"


def _check_results(name, results, expected, inputs, present, rtol, atol, dtype):
    """A value in this dtype, and gradients in their input's or in float32, near those expected."""
    _assert_near(results[0], expected[0], rtol, atol, {dtype}, f"{name}: kernel's value")
    triples = zip(results[1], expected[1], inputs, strict=True)
    for i, (actual, wanted, given) in zip(present, triples, strict=True):
        if wanted is not None:
            what = f"{name}: kernel's gradient of argument {i}"
            assert actual is not None, f"{what} is missing"
            dtypes = {given.dtype, np.dtype(np.float32)}
            _assert_near(actual, wanted, rtol, atol, dtypes, what)


def _assert_same_change(before, actual, expected, rtol, atol, what):
    assert actual.dtype == before.dtype, f"{what} became {actual.dtype}"
    if not is_floating(before.dtype):
        np.testing.assert_array_equal(actual, expected, err_msg=what)
        return
    change, wanted = actual.astype(np.float64) - before, expected - before
    rounding = np.finfo(np.float32).eps * np.abs(expected)  # of the number, not of its change
    allowed = rtol * np.abs(wanted) + atol * np.abs(wanted).max(initial=0.0) + rounding
    worst = np.argmax(np.abs(change - wanted) - allowed)
    assert (np.abs(change - wanted) <= allowed).all(), (
        f"{what} changed by {change.flat[worst]}, not {wanted.flat[worst]}"
    )


def _on_cpu(value):
    return np.asarray(move(value, "cpu") if type(value) in homes else value)


def _assert_near(actual, expected, rtol, atol, dtypes, what):
    actual = _on_cpu(actual)
    wanted = " or ".join(sorted(dtype.name for dtype in dtypes))
    assert actual.dtype in dtypes, f"{what} is {actual.dtype}, not {wanted}"
    assert actual.shape == expected.shape, f"{what} has shape {actual.shape}, not {expected.shape}"
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    actual = actual.astype(np.float64)
    np.testing.assert_allclose(actual, expected, rtol, atol * scale, err_msg=what)


def _as_float64(array):
    array = np.asarray(array)
    return array.astype(np.float64) if is_floating(array.dtype) else array


def _as_float32(array):
    array = np.asarray(array)
    return array.astype(np.float32) if is_floating(array.dtype) else array


def _leaf(array):
    return Tensor(array, requires_grad=is_floating(array.dtype))


def _scattered(array):
    """The same numbers, every second one in a larger block of memory: not contiguous."""
    if array.ndim == 0:
        return array
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]
