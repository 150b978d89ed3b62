"""Fused operations, and the two functions that check operations, checked themselves."""

import functools
import pydoc
import threading

import ml_dtypes
import numpy as np
import pytest

import tricycle_autograd as tri
from tricycle_autograd import (
    Tensor,
    check_fused,
    check_gradients,
    definitions_only,
    fused,
    record,
)
from tricycle_autograd.arrays import kernel_inputs
from tricycle_autograd.fused import Fused, fused_update, registry
from tricycle_autograd.profiling import profile
from tricycle_autograd.shapes import unbroadcast
from tricycle_autograd.testing import check_on_cuda, check_update, draw, kept_by
from tricycle_autograd.testing_device import emulated


@pytest.fixture(autouse=True)
def operations_made_here_are_not_registered():
    before = dict(registry)
    yield
    registry.clear()
    registry.update(before)


def operation(value_error=1.0, x_error=1.0, weight_error=1.0, dtype=None):
    """x² · weight, fused, with kernels that are wrong by the factors given."""

    @fused
    def scaled_square(x, weight, power=2):
        """x to the power, times weight."""
        return x**power * weight

    @scaled_square.operation
    def scaled_square_fast(run, x, weight, power=2):
        a, w = kernel_inputs("scaled_square", x, weight)
        out = (a**power * w * np.float32(value_error)).astype(dtype or np.float32)
        return record(
            out,
            (x, weight),
            lambda dy: (
                (dy * power * a ** (power - 1) * w * np.float32(x_error)).astype(np.float32),
                unbroadcast(dy * a**power, w.shape) * np.float32(weight_error),
            ),
        )

    scaled_square.kernels("cpu")(KERNELS)
    return scaled_square


class KERNELS:
    """Of operations here that calculate by themselves."""


X, WEIGHT = draw(3, 4), draw(4)


# ---- By hand ----


def doubling(factor=2):
    """Twice x, with kernels for two devices that multiply by something else."""

    @fused
    def double(x):
        """Twice x."""
        return x * 2

    @double.operation
    def double_fast(run, x):
        array = kernel_inputs("double", x)
        return record(run.forward(array), (x,), lambda dy: (run.backward(dy),))

    @double.kernels("cpu")
    class CPU:
        def forward(x):
            return x * np.float32(factor)

        def backward(dy):
            return dy * np.float32(factor)

    @double.kernels("cuda")
    class GPU:
        def forward(x):
            return x * np.float32(10 * factor)

        def backward(dy):
            return dy * np.float32(10 * factor)

    return double


def test_kernels_run_unless_definitions_are_asked_for():
    double = doubling(200)
    x = Tensor(1.0)
    assert double(x).item() == 200
    with definitions_only():
        assert double(x).item() == 2
        with definitions_only():
            assert double(x).item() == 2
        assert double(x).item() == 2
    assert double(x).item() == 200


def test_the_device_of_the_inputs_chooses_the_kernels():
    double = doubling(200)
    for array, expected in ((np.ones(2, np.float32), 200), (emulated(np.float32([1, 1])), 2000)):
        x = Tensor(array, requires_grad=True)
        y = double(x)
        y.backward(y.array)
        assert y.tolist() == [expected] * 2
        assert x.grad.tolist() == [expected**2] * 2
        assert y.device == x.device


def test_a_fused_operation_without_kernels_runs_its_definition():
    @fused
    def double(x):
        """Twice x."""
        return x * 2

    assert double(Tensor(1.0)).item() == 2
    assert double.__name__ == "double"
    assert double.__doc__.startswith("Twice x.")
    assert registry[f"{__name__}.double"] is double


def test_definitions_are_asked_for_by_one_thread_only():
    double, seen = doubling(200), []
    with definitions_only():
        thread = threading.Thread(target=lambda: seen.append(double(Tensor(1.0)).item()))
        thread.start()
        thread.join()
        assert double(Tensor(1.0)).item() == 2
    assert seen == [200]


def test_a_traceback_names_the_operation():
    with pytest.raises(TypeError) as error:
        doubling()(np.ones(2))
    assert "double_fast" in [frame.name for frame in error.traceback]


# ---- Dtypes ----


def test_float64_runs_the_definition_gradients_included():
    double = doubling(200)
    x = Tensor(X, requires_grad=True)
    y = double(x)
    y.backward(X)
    assert y.dtype == x.grad.dtype == np.float64
    np.testing.assert_array_equal(y.array, 2 * X)
    np.testing.assert_array_equal(x.grad, 2 * X)
    assert double(Tensor(emulated(X))).dtype == np.float64


def test_a_profile_shows_a_definition_as_one(capsys):
    with profile() as measured:
        doubling()(Tensor(X, requires_grad=True)).sum().backward()
        doubling()(Tensor(X.astype(np.float32)))
    assert ("double (definition)", "forward") in measured.rows
    assert ("double (definition)", "backward") in measured.rows
    assert ("double", "forward") in measured.rows


def test_float64_beside_float32_runs_the_definition_by_numpys_rules():
    x, weight = Tensor(X, requires_grad=True), Tensor(WEIGHT.astype(np.float32), requires_grad=True)
    y = operation()(x, weight=weight)
    assert y.dtype == np.float64
    y.backward(np.ones(y.shape))
    assert (x.grad.dtype, weight.grad.dtype) == (np.float64, np.float32)
    ids = Tensor(np.arange(4))  # integers are beside the point
    assert operation()(Tensor(X), ids).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_other_dtypes_are_refused_by_name(dtype):
    x, weight = X.astype(np.float32), WEIGHT.astype(dtype)
    message = f"scaled_square has kernels for float32 on cpu, weight is {weight.dtype}; "
    with pytest.raises(TypeError, match=message + r"convert it with .astype\('float32'\)"):
        operation()(Tensor(x), tensor_of(weight))


def tensor_of(array):
    """A tensor of any dtype, also of one that Tensor does not take."""
    tensor = Tensor(0)
    tensor.array = array
    return tensor


# ---- What is attached twice, and what is missing ----


def test_a_second_operation_is_refused():
    with pytest.raises(ValueError, match="double has its operation already, double_fast"):
        doubling().operation(lambda run, x: x)


def test_a_second_set_of_kernels_for_a_device_is_refused():
    with pytest.raises(ValueError, match="double has kernels for cuda already, GPU; a device has"):
        doubling().kernels("cuda")(KERNELS)
    with pytest.raises(ValueError, match="unknown device 'tpu'; there are cpu and cuda"):
        doubling().kernels("tpu")


def test_a_device_without_kernels_is_an_error():
    x = Tensor(emulated(X.astype(np.float32)))
    message = r"scaled_square has kernels for cpu only, and its inputs are on cuda; move them"
    with pytest.raises(ValueError, match=message):
        operation()(x, x)
    with definitions_only():
        assert operation()(x, x).device == "cuda"


def test_inputs_on_different_devices_are_an_error():
    x = X.astype(np.float32)
    with pytest.raises(ValueError, match=r"scaled_square: .*different devices \(cpu, cuda\); move"):
        operation()(Tensor(x), Tensor(emulated(x)))


def test_kernels_without_an_operation_are_an_error():
    @fused
    def double(x):
        return x * 2

    double.kernels("cpu")(KERNELS)
    with pytest.raises(ValueError, match=r"double has kernels but no operation.*@double.operation"):
        double(Tensor(1.0))


# ---- check_gradients ----


def wrong(x, which, factor):
    """x itself, with a gradient that is wrong by a factor."""
    return record(x.array, (x,), lambda dy: (dy * factor,)) if which else x


def test_right_gradients_pass():
    check_gradients(lambda a, b: (a * b).sum(), X, WEIGHT)
    check_gradients(tri.exp, np.float64(0.3))
    check_gradients(lambda a: a[:0], X)


@pytest.mark.parametrize("argument", [0, 1])
def test_a_wrong_gradient_is_caught_and_its_argument_named(argument):
    def function(a, b):
        return wrong(a, argument == 0, 1.01) * wrong(b, argument == 1, 1.01)

    with pytest.raises(AssertionError, match=f"gradient of argument {argument}"):
        check_gradients(function, X, WEIGHT)


def test_a_missing_gradient_is_caught():
    with pytest.raises(AssertionError, match="gradient of argument 1"):
        check_gradients(lambda a, b: a * b.detach(), X, WEIGHT)


def test_a_gradient_of_the_wrong_shape_is_caught():
    def forgets_broadcasting(a, b):
        return record(a.array + b.array, (a, b), lambda dy: (dy, dy))

    with pytest.raises(AssertionError, match=r"argument 1: .*has shape \(3, 4\), it has \(4,\)"):
        check_gradients(forgets_broadcasting, X, WEIGHT)


def test_integers_are_passed_on_and_not_checked():
    check_gradients(lambda a, ids: a[ids], X, np.array([0, 2, 2]))


# ---- check_fused ----


def test_a_right_kernel_passes():
    check_fused(operation(), X, WEIGHT)
    check_fused(operation(), X, X)
    check_fused(operation(), X, WEIGHT, power=3)


def test_a_kernel_that_is_wrong_by_one_percent_is_caught():
    with pytest.raises(AssertionError, match="scaled_square, contiguous: kernel's value"):
        check_fused(operation(value_error=1.01), X, WEIGHT)
    with pytest.raises(AssertionError, match="kernel's gradient of argument 0"):
        check_fused(operation(x_error=1.01), X, WEIGHT)
    with pytest.raises(AssertionError, match="kernel's gradient of argument 1"):
        check_fused(operation(weight_error=1.01), X, WEIGHT)


def test_a_kernel_that_changes_the_dtype_is_caught():
    with pytest.raises(AssertionError, match="value is float64, not float32"):
        check_fused(operation(dtype=np.float64), X, WEIGHT)


def test_a_wrong_definition_is_caught():
    @fused
    def half_learning(x):
        return x * x.detach()

    with pytest.raises(AssertionError, match="gradient of argument 0"):
        check_fused(half_learning, X)


def test_a_kernel_that_reads_memory_in_the_wrong_order_is_caught():
    @fused
    def double(x):
        return x * 2

    @double.operation
    def double_fast(run, x):
        # right only where the numbers of x lie one after another
        steps = [n * 4 for n in (x.shape[1], 1)]
        out = np.lib.stride_tricks.as_strided(x.array, x.shape, steps) * 2
        return record(out, (x,), lambda dy: (dy * 2,))

    double.kernels("cpu")(KERNELS)

    with pytest.raises(AssertionError, match="double, not contiguous: kernel's value"):
        check_fused(double, X)


def test_a_kernel_that_gives_other_bits_each_time_is_caught():
    runs = iter(range(100))

    @fused
    def double(x):
        return x * 2

    @double.operation
    def double_fast(run, x):
        noise = np.float32(1 + next(runs) * 1e-6)
        return record(x.array * 2 * noise, (x,), lambda dy: (dy * 2,))

    double.kernels("cpu")(KERNELS)

    with pytest.raises(AssertionError, match="double, contiguous: two runs, different bits"):
        check_fused(double, X)


def test_arguments_can_be_left_out():
    @fused
    def affine(x, weight, bias=None):
        return x * weight if bias is None else x * weight + bias

    check_fused(affine, X, WEIGHT, None)
    check_fused(affine, X, WEIGHT, WEIGHT)


def test_numbers_drawn_are_the_same_every_time():
    assert draw(2, 3).tobytes() == draw(2, 3).tobytes()
    assert draw(2, 3).tobytes() != draw(2, 3, seed=1).tobytes()
    assert draw(2, 3).shape == (2, 3)


def test_kernels_for_cuda_are_checked_in_both_dtypes():
    check_on_cuda(doubling_right(), X)
    wrong = r"double on an emulated GPU in float32: kernel's value"
    with pytest.raises(AssertionError, match=wrong):
        check_on_cuda(doubling(), X)


def doubling_right():
    double = doubling()

    class GPU:
        def forward(x):
            return x + x

        backward = forward

    double.by_device["cuda"] = GPU
    return double


def test_a_result_of_another_dtype_is_noticed():
    double = doubling()
    double.by_device["cuda"] = double.by_device["cpu"]  # bfloat16 times a float32 is one
    with pytest.raises(AssertionError, match="kernel's value is float32, not bfloat16"):
        check_on_cuda(double, X)


# ---- What a backward keeps ----


def keeping(make):
    """Twice x, whose operation keeps for its backward what `make` makes of x."""

    @fused
    def double(x):
        return x * 2

    @double.operation
    def double_fast(run, x):
        kept = make(x)
        return record(x.array * 2, (x,), lambda dy: (dy * 2, kept)[:1])

    double.kernels("cpu")(KERNELS)
    return double


@pytest.mark.parametrize(
    ("make", "arrays"),
    [
        (lambda x: x.shape, 0),
        (lambda x: x.array, 1),
        (lambda x: [x.array, (x.array.copy(), {"y": x.array.copy()})], 3),
        (lambda x: (x.array, x.array[:1], x.array.T), 1),
        (lambda x: functools.partial(np.add, x.array), 1),
        (lambda x: (lambda y: lambda: y)(x.array.copy()), 1),
    ],
)
def test_arrays_kept_are_counted_where_they_are_distinct(make, arrays):
    check_fused(keeping(make), X, keeps=arrays)
    with pytest.raises(AssertionError, match=f"double: its backward keeps {arrays} arrays"):
        check_fused(keeping(make), X, keeps=arrays + 1)


def test_a_backward_that_keeps_a_tensor_is_caught():
    with pytest.raises(AssertionError, match=r"its backward holds tensors, of shape \(3, 4\)"):
        check_fused(keeping(lambda x: [x]), X, keeps=1)


def test_what_is_kept_by_all_steps_of_an_operation_is_found():
    x = Tensor(X, requires_grad=True)
    arrays, tensors = kept_by(tri.exp(x) * tri.exp(x))
    assert (len(arrays), tensors) == (2, [])
    assert kept_by(Tensor(X)) == ([], [])


# ---- Updates ----


def descent(error=1.0, touches=False, noise=lambda: 0.0, returns=None):
    """w -= rate · g, in place, with kernels that can be wrong."""

    @fused_update
    def descend(w, g, rate):
        w -= rate * g
        return (g * g).sum() if returns else None

    @descend.operation
    def descend_fast(run, w, g, rate):
        return run.descend(w, g, np.float32(rate))

    @descend.kernels("cpu")
    class CPU:
        def descend(w, g, rate):
            w -= rate * g * np.float32(error) + np.float32(noise())
            if touches:
                g[0] = 0
            return (g * g).sum() * returns if returns else None

    return descend


def test_an_update_changes_arrays_in_place():
    w, g = np.ones(2, np.float32), np.ones(2, np.float32)
    descend = descent(error=2.0)
    descend(w, g, rate=0.25)
    assert w.tolist() == [0.5, 0.5]
    with definitions_only():
        descend(w, g, rate=0.25)
    assert w.tolist() == [0.25, 0.25]
    w = np.ones(2)
    descend(w, np.ones(2), rate=0.25)
    assert w.tolist() == [0.75, 0.75], "float64 runs the definition"


def test_an_update_refuses_what_it_has_no_kernels_for():
    w = np.ones(2, np.float32)
    with pytest.raises(TypeError, match="w is float32, g is float64"):
        descent()(w, np.ones(2), rate=0.25)
    with pytest.raises(ValueError, match="descend has kernels for cpu only, and its inputs are on"):
        descent()(emulated(w), emulated(w), rate=0.25)


def test_right_updates_pass():
    check_update(descent(), X, X, rate=1e-3)
    check_update(descent(returns=1), X, X, rate=1e-3)


def test_a_step_that_is_wrong_by_one_percent_is_caught():
    with pytest.raises(AssertionError, match="descend: argument 0 changed by"):
        check_update(descent(error=1.01), X, X, rate=1e-3)
    with pytest.raises(AssertionError, match="descend: argument 1 changed by"):
        check_update(descent(touches=True), X[0], X[0], rate=1e-3)
    with pytest.raises(AssertionError, match="descend: its result"):
        check_update(descent(returns=1.01), X, X, rate=1e-3)


def test_an_update_that_gives_other_bits_each_time_is_caught():
    runs = iter(range(100))
    with pytest.raises(AssertionError, match="descend: two runs, different bits"):
        check_update(descent(noise=lambda: next(runs) * 1e-6), X, X, rate=1.0)


def test_help_shows_signature_definition_and_what_it_runs_on():
    @fused
    def doubled(x: Tensor, by: float = 2.0) -> Tensor:
        """Twice x."""
        return x * by

    text = pydoc.plain(pydoc.render_doc(doubled))
    assert "doubled(x: " in text
    assert "by: float = 2.0)" in text
    assert "Twice x." in text
    assert "return x * by" in text
    assert repr(doubled) == "<fused doubled(x, by=2.0), kernels for no device>"
    assert Fused.__doc__.startswith("A function with a definition to read")


def test_a_fused_operation_in_a_class_is_a_method():
    class Doubler:
        doubled = fused(lambda self, x: x * 2)

    assert Doubler().doubled(Tensor([1.0])).tolist() == [2]
