"""Fused operations, and the two functions that check operations, checked themselves."""

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
from tricycle_autograd.cpu import kernel_inputs
from tricycle_autograd.devices import EmulatedArray
from tricycle_autograd.fused import registry
from tricycle_autograd.shapes import unbroadcast
from tricycle_autograd.testing import draw


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

    @scaled_square.kernels
    def _(x, weight, power=2):
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

    return scaled_square


X, WEIGHT = draw(3, 4), draw(4)


# ---- By hand ----


def test_kernels_run_unless_definitions_are_asked_for():
    @fused
    def double(x):
        return x * 2

    @double.kernels
    def _(x):
        return record(x.array * 200, (x,), lambda dy: (dy * 200,))

    x = Tensor(1.0)
    assert double(x).item() == 200
    with definitions_only():
        assert double(x).item() == 2
        with definitions_only():
            assert double(x).item() == 2
        assert double(x).item() == 2
    assert double(x).item() == 200


def test_a_fused_operation_without_kernels_runs_its_definition():
    @fused
    def double(x):
        """Twice x."""
        return x * 2

    assert double(Tensor(1.0)).item() == 2
    assert (double.__name__, double.__doc__) == ("double", "Twice x.")
    assert registry[f"{__name__}.double"] is double


def test_kernels_refuse_what_they_cannot_do():
    op = operation()
    with pytest.raises(TypeError, match=r"scaled_square has kernels for float32, got float64;.*"):
        op(Tensor(X), Tensor(WEIGHT))
    there = Tensor(X.astype(np.float32).view(EmulatedArray))
    with pytest.raises(ValueError, match="kernels for the cpu only, and its input is on cuda"):
        op(there, there)
    with definitions_only():
        assert op(Tensor(X), Tensor(WEIGHT)).dtype == np.float64


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

    @double.kernels
    def _(x):
        # right only where the numbers of x lie one after another
        steps = [n * 4 for n in (x.shape[1], 1)]
        out = np.lib.stride_tricks.as_strided(x.array, x.shape, steps) * 2
        return record(out, (x,), lambda dy: (dy * 2,))

    with pytest.raises(AssertionError, match="double, not contiguous: kernel's value"):
        check_fused(double, X)


def test_a_kernel_that_gives_other_bits_each_time_is_caught():
    runs = iter(range(100))

    @fused
    def double(x):
        return x * 2

    @double.kernels
    def _(x):
        noise = np.float32(1 + next(runs) * 1e-6)
        return record(x.array * 2 * noise, (x,), lambda dy: (dy * 2,))

    with pytest.raises(AssertionError, match="double: two runs, different bits"):
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
