"""Matrix products, and two things made of them."""

import os
import subprocess
import sys
import weakref

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tricycle_autograd as ours
from tricycle_autograd import Tensor
from tricycle_autograd.testing import check_gradients, draw
from tricycle_autograd.testing_device import EmulatedArray, emulated

lengths = st.integers(0, 3)
fronts = st.lists(st.integers(0, 3), max_size=3).map(tuple)


def test_a_product_and_its_gradients_by_hand():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = Tensor([[5.0, 6.0], [7.0, 8.0]], requires_grad=True)
    z = x @ y
    assert z.tolist() == [[1 * 5 + 2 * 7, 1 * 6 + 2 * 8], [3 * 5 + 4 * 7, 3 * 6 + 4 * 8]]
    z.backward([[1.0, 0.0], [0.0, 10.0]])
    assert x.grad.tolist() == [[5, 7], [60, 80]]  # dz @ yᵀ
    assert y.grad.tolist() == [[1, 30], [2, 40]]  # xᵀ @ dz


def test_two_vectors_by_hand():
    x, y = Tensor([1.0, 2.0], requires_grad=True), Tensor([10.0, 20.0], requires_grad=True)
    z = ours.matmul(x, y)
    assert z.shape == ()
    assert z.item() == 50
    z.backward()
    assert x.grad.tolist() == [10, 20]
    assert y.grad.tolist() == [1, 2]


def test_outer_and_trace_by_hand():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    assert ours.trace(x).item() == 5
    ours.trace(x).backward()
    assert x.grad.tolist() == [[1, 0], [0, 1]]
    assert ours.outer([1.0, 2.0], [3.0, 4.0, 5.0]).tolist() == [[3, 4, 5], [6, 8, 10]]


@pytest.mark.parametrize(
    "x, y",
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 2)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((5, 2, 3), (3,)),
        ((3,), (5, 3, 2)),
        ((2, 3), (5, 3, 4)),
        ((5, 1, 2, 3), (4, 3, 2)),
        ((1, 2, 3), (5, 3, 2)),
        ((5, 2, 3), (1, 3, 2)),
        ((5, 2, 1), (5, 1, 4)),
        ((2, 1), (1, 4)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
        ((0, 2, 3), (3, 2)),
        ((2, 2, 0), (0, 3)),
        ((2, 3, 0), (2, 0, 3)),
        ((0,), (0,)),
    ],
)
def test_every_combination_of_ranks(x, y):
    agrees(draw(*x), draw(*y, seed=1))


@given(lengths, lengths, lengths, fronts, st.data())
def test_stacks_broadcast_as_numpys_do(n_rows, n_inner, n_columns, front, data):
    fronts = []
    for _ in range(2):
        stretched = data.draw(st.lists(st.booleans(), min_size=len(front), max_size=len(front)))
        some = tuple([1 if small else n for n, small in zip(front, stretched)])
        fronts.append(some[data.draw(st.integers(0, len(some))) :])
    agrees(draw(*fronts[0], n_rows, n_inner), draw(*fronts[1], n_inner, n_columns, seed=1))


def agrees(x, y):
    """ours.matmul equals numpy's, in several layouts, and its gradients are measured slopes."""
    for layout in (
        np.ascontiguousarray,
        np.asfortranarray,
        lambda x: np.repeat(x, 2, -1)[..., ::2],
    ):
        expected = np.asarray(layout(x) @ layout(y))
        result = ours.matmul(Tensor(layout(x)), Tensor(layout(y)))
        assert result.shape == expected.shape
        np.testing.assert_allclose(result.array, expected, rtol=1e-12, atol=1e-12)
    check_gradients(ours.matmul, x, y)


@given(st.integers(-4, 4), st.permutations(range(3)))
def test_any_trace(offset, axes):
    x = draw(2, 3, 4)
    expected = np.trace(x, offset, *axes[:2])
    np.testing.assert_allclose(ours.trace(Tensor(x), offset, *axes[:2]).array, expected)
    check_gradients(lambda x: ours.trace(x, offset, *axes[:2]), x)


@pytest.mark.parametrize("x, y", [((2, 2), (3,)), ((), (3,)), ((0,), (2,))])
def test_outer_takes_any_shapes_as_rows(x, y):
    x, y = draw(*x), draw(*y)
    np.testing.assert_allclose(ours.outer(Tensor(x), Tensor(y)).array, np.outer(x, y))
    check_gradients(ours.outer, x, y)


def test_an_input_may_be_an_array():
    x = Tensor(np.eye(2), requires_grad=True)
    y = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal((x @ y).array, y)
    np.testing.assert_array_equal((y @ x).array, y)


def test_a_gradient_that_was_broadcast_is_multiplied_as_any_other():
    # The gradient of a sum is one number seen many times: an array whose strides are 0.
    x, y = Tensor(draw(3, 4), requires_grad=True), Tensor(draw(4, 2), requires_grad=True)
    (x @ y).sum().backward()
    np.testing.assert_allclose(x.grad, np.ones((3, 2)) @ y.array.T)
    np.testing.assert_allclose(y.grad, x.array.T @ np.ones((3, 2)))


def test_dtypes_are_numpys_and_gradients_have_their_inputs():
    whole = Tensor(np.arange(4).reshape(2, 2))
    assert (whole @ whole).dtype == np.int64
    single = Tensor(np.ones((2, 2), np.float32), requires_grad=True)
    product = single @ Tensor(np.ones((2, 2), np.float64))
    assert product.dtype == np.float64
    product.sum().backward()
    assert single.grad.dtype == np.float32


@pytest.mark.parametrize(
    "x, y, message",
    [
        ((2, 3), (4, 5), r"shapes \(2, 3\) and \(4, 5\) do not fit: .* 3, the second last .* 4"),
        (
            (2, 3),
            (4,),
            r"shapes \(2, 3\) and \(4,\) do not fit: .* 3, the only axis of the second 4",
        ),
        ((), (3,), r"shapes \(\) and \(3,\) do not fit: a single number has no rows; use \*"),
        (
            (2, 1, 3),
            (5, 3, 1),
            r".* axes in front of the matrices, \(2,\) and \(5,\), do not broadcast",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(x, y, message):
    with pytest.raises(ValueError, match="matmul: " + message):
        ours.matmul(Tensor(np.zeros(x)), Tensor(np.zeros(y)))


def test_matrices_on_different_devices_are_refused():
    with pytest.raises(ValueError, match="matmul: its inputs are on different devices"):
        ours.matmul(Tensor(np.eye(2)), Tensor(np.eye(2).view(EmulatedArray)))


def test_trace_of_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"diagonal: needs at least two axes, got shape \(3,\)"):
        ours.trace(Tensor(np.zeros(3)))


# ---- Large ones, by our own product ----


@pytest.mark.parametrize(
    "x, y",
    [
        ((70, 80), (80, 90)),
        ((2, 1, 70, 80), (3, 80, 90)),
        ((3, 70, 80), (80, 90)),
        ((600,), (600, 500)),
    ],
)
def test_large_matrices_and_stacks_of_them_are_right_too(x, y):
    x, y = draw(*x).astype(np.float32), draw(*y, seed=1).astype(np.float32)
    a, b = Tensor(x, requires_grad=True), Tensor(y, requires_grad=True)
    z = a @ b
    dz = draw(*z.shape, seed=2).astype(np.float32)
    z.backward(dz)
    precise = [Tensor(one.astype(np.float64), requires_grad=True) for one in (x, y)]
    exact = precise[0] @ precise[1]
    exact.backward(dz.astype(np.float64))
    for found, wanted in (
        (z.array, exact.array),
        (a.grad, precise[0].grad),
        (b.grad, precise[1].grad),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


MANY_SIZES = """
import hashlib
import numpy as np
from tricycle_autograd import Tensor, einsum

rng = np.random.default_rng(0)
found = hashlib.sha256()
for n in (3, 20, 63, 64, 65, 80, 100, 130, 260):
    one, two = (n, n + 1), (2, n, n)
    for shapes in ((one, (n + 1, n + 2)), (two, (n, n)), (two, two), ((n,), (n, n))):
        x, y = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        a, b = Tensor(x, requires_grad=True), Tensor(y, requires_grad=True)
        z = a @ b
        z.sum().backward()
        found.update(z.array.tobytes() + a.grad.tobytes() + b.grad.tobytes())
    x = Tensor(rng.standard_normal((2, n, 50)).astype(np.float32))
    found.update(np.ascontiguousarray(einsum("btd,bsd->bts", x, x).array).tobytes())
print(found.hexdigest())
"""


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits_be_it_ours_or_the_blas():
    results = set()
    for n in ("1", "2", "4"):
        threads = {"TRICYCLE_NUM_THREADS": n, "OPENBLAS_NUM_THREADS": n}
        run = subprocess.run(
            [sys.executable, "-c", MANY_SIZES],
            env={**os.environ, **threads},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        results.add(run.stdout)
    assert len(results) == 1


@pytest.mark.parametrize("stack", [(), (3,)])
def test_an_operand_is_kept_only_for_the_gradient_of_the_other(stack):
    x = Tensor(np.ones((*stack, 2, 2), np.float32), requires_grad=True)
    frozen = Tensor(np.ones((2, 2), np.float32))
    h = x * 1
    array = weakref.ref(h.array)
    y = (h @ frozen).sum()
    del h
    assert array() is None
    y.backward()
    assert x.grad.sum() == 2 * x.size


@pytest.mark.parametrize(
    ("x", "y"), [((5, 3), (3, 8)), ((2, 5, 3), (3, 8)), ((2, 1, 5, 3), (4, 3, 8)), ((3,), (3, 8))]
)
def test_bfloat16_on_a_gpu_is_added_up_in_float32(x, y):
    a, b = (draw(*shape).astype(ml_dtypes.bfloat16) for shape in (x, y))
    x, y = (Tensor(emulated(array), requires_grad=True) for array in (a, b))
    z = x @ y
    dz = draw(*z.shape, seed=1).astype(ml_dtypes.bfloat16)
    z.backward(emulated(dz))
    there = [Tensor(array).numpy() for array in (z.array, x.grad, y.grad)]
    here = [Tensor(array.astype(np.float32), requires_grad=True) for array in (a, b)]
    product = here[0] @ here[1]
    product.backward(dz.astype(np.float32))
    for actual, wanted in zip(there, (product.array, here[0].grad, here[1].grad), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0.01, atol=0.01 * np.abs(wanted).max())


def test_a_matrix_that_lies_anyhow_on_a_gpu_is_copied_for_the_product():
    x = emulated(draw(6, 8).astype(ml_dtypes.bfloat16))[::2, ::2]
    product = Tensor(x) @ Tensor(x).T
    wanted = Tensor(x).numpy() @ Tensor(x).numpy().T
    np.testing.assert_allclose(product.numpy(), wanted, rtol=0.01, atol=0.01)


# ---- Other products ----


SHAPES_OF_TWO = {
    "dot": [((3,), (3,)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((2, 3), (5, 3, 4)), ((), (2, 2))],
    "inner": [((3,), (3,)), ((2, 3), (4, 3)), ((2, 1, 3), (4, 3)), ((2,), ())],
    "vdot": [((3,), (3,)), ((2, 3), (3, 2)), ((), ())],
    "kron": [((3,), (2,)), ((2, 3), (2, 2)), ((2,), (3, 1, 2)), ((), (2,))],
}


@pytest.mark.parametrize("name", SHAPES_OF_TWO)
def test_products_by_numpys_names_are_numpys(name):
    function = getattr(ours, name)
    for left, right in SHAPES_OF_TWO[name]:
        x, y = draw(*left), draw(*right, seed=1)
        np.testing.assert_allclose(function(Tensor(x), Tensor(y)).array, getattr(np, name)(x, y))
        check_gradients(function, x, y)


@pytest.mark.parametrize("axes", [0, 1, 2, ([0, 2], [2, 1]), (2, 0), ([], [])])
def test_tensordot_is_numpys(axes):
    x, y = draw(2, 3, 2), draw(3, 2, 2, seed=1)
    if axes == 2:
        x = draw(4, 3, 2)
    if axes == 1:
        y = draw(2, 5, seed=1)
    if axes == (2, 0):
        y = draw(2, 3, seed=1)
    function = lambda x, y: ours.tensordot(x, y, axes)  # noqa: E731
    np.testing.assert_allclose(function(Tensor(x), Tensor(y)).array, np.tensordot(x, y, axes))
    check_gradients(function, x, y)


def test_kronecker_by_hand():
    assert ours.kron(Tensor([1.0, 2.0]), Tensor([1.0, 10.0])).tolist() == [1, 10, 2, 20]


def test_axes_that_do_not_meet_are_named():
    with pytest.raises(ValueError, match=r"tensordot: axes \(1,\) of shape \(2, 3\) and \(0,\)"):
        ours.dot(Tensor(np.ones((2, 3))), Tensor(np.ones(2)))
