import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tricycle_autograd as tri
from tricycle_autograd import Tensor, check_gradients

FEWER = settings(max_examples=settings.default.max_examples // 2)
SEEDS = st.integers(0, 10_000)
OF_ANY_LENGTH = [tri.sum, tri.mean, tri.var, tri.std, tri.prod, tri.logsumexp]
DIFFERENTIABLE = [*OF_ANY_LENGTH, tri.max, tri.min]
KINDS = ["bool", "int8", "int32", "int64", "float32", "float64"]


def name_of(function):
    return getattr(function, "__name__", None)


@st.composite
def shapes_and_axes(draw, min_side=1):
    """A shape, and an axis argument for it: None, one axis, or several, from either end."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=min_side, max_side=3))
    several = hnp.valid_tuple_axes(len(shape))
    one = st.integers(-len(shape), len(shape) - 1) if shape else st.none()
    return shape, draw(st.none() | one | several)


def numbers(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


def gradient_of(function, values):
    x = Tensor(np.array(values, float), requires_grad=True)
    function(x).sum().backward()
    return x.grad.tolist()


def logsumexp(x, axis=None, keepdims=False):
    return np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))


# ---- By hand ----


def test_reductions_of_four_numbers():
    x = Tensor([[1.0, 2.0], [3.0, 6.0]])
    assert x.sum().item() == 12
    assert x.sum(axis=0).tolist() == [4, 8]
    assert x.sum(axis=1, keepdims=True).tolist() == [[3], [9]]
    assert x.mean(axis=-1).tolist() == [1.5, 4.5]
    assert x.var().item() == 3.5  # distances from 3: 2, 1, 0, 3; squares 4 + 1 + 0 + 9 over 4
    assert x.var(axis=1, ddof=1).tolist() == [0.5, 4.5]
    assert x.std(axis=0).tolist() == [1, 2]
    assert x.max(axis=(0, 1)).item() == 6
    assert x.min(axis=0).tolist() == [1, 2]
    assert x.prod(axis=1).tolist() == [2, 18]
    assert x.cumsum(axis=1).tolist() == [[1, 3], [3, 9]]
    assert x.cumsum().tolist() == [1, 3, 6, 12]
    assert x.argmax(axis=1).tolist() == [1, 1]
    assert x.argmin().item() == 0
    assert (x > 2).all(axis=1).tolist() == [False, True]
    assert (x > 5).any().item() is True
    assert tri.logsumexp(Tensor([0.0, 0.0])).item() == pytest.approx(np.log(2))


def test_gradients_of_the_simple_ones():
    assert gradient_of(tri.sum, [1.0, 2.0]) == [1, 1]
    assert gradient_of(tri.mean, [1.0, 2.0]) == [0.5, 0.5]
    assert gradient_of(tri.max, [1.0, 2.0]) == [0, 1]
    assert gradient_of(tri.prod, [2.0, 3.0, 5.0]) == [15, 10, 6]
    assert gradient_of(tri.cumsum, [1.0, 1.0, 1.0]) == [3, 2, 1]
    assert gradient_of(tri.logsumexp, [0.0, 0.0]) == [0.5, 0.5]


# ---- Values and dtypes: numpy's ----


@pytest.mark.parametrize("function", [*DIFFERENTIABLE, tri.all, tri.any], ids=name_of)
@given(shape_and_axis=shapes_and_axes(), seed=SEEDS, keepdims=st.booleans())
@FEWER
def test_values_and_shapes_are_those_of_numpy(function, shape_and_axis, seed, keepdims):
    shape, axis = shape_and_axis
    x = numbers(shape, seed)
    oracle = logsumexp if function is tri.logsumexp else getattr(np, function.__name__)
    expected = np.asarray(oracle(x, axis=axis, keepdims=keepdims))
    result = function(Tensor(x), axis=axis, keepdims=keepdims).array
    np.testing.assert_allclose(result, expected, rtol=1e-14, atol=1e-15, strict=True)


@pytest.mark.parametrize("function", [tri.argmax, tri.argmin], ids=name_of)
@given(shape=hnp.array_shapes(min_dims=1, max_dims=3, max_side=3), seed=SEEDS, data=st.data())
@FEWER
def test_positions_are_those_of_numpy(function, shape, seed, data):
    x = np.random.default_rng(seed).integers(0, 3, shape)
    axis = data.draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    expected = np.asarray(getattr(np, function.__name__)(x, axis=axis))
    np.testing.assert_array_equal(function(Tensor(x), axis).array, expected, strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_are_those_of_numpy(kind):
    x = np.ones((2, 3), kind)
    for name in ["sum", "mean", "var", "std", "max", "min", "prod", "cumsum", "argmax", "all"]:
        assert getattr(tri, name)(Tensor(x), axis=0).dtype == getattr(np, name)(x, axis=0).dtype


def test_reductions_of_nothing_are_those_of_numpy():
    nothing = Tensor(np.zeros((2, 0, 3)), requires_grad=True)
    assert nothing.sum(axis=1).tolist() == [[0] * 3] * 2
    assert nothing.prod(axis=1).tolist() == [[1] * 3] * 2
    assert tri.logsumexp(nothing, axis=1).tolist() == [[-np.inf] * 3] * 2
    assert nothing.max(axis=0).shape == (0, 3)
    for function in (tri.max, tri.min, tri.argmax):
        with pytest.raises(ValueError, match="empty sequence|no identity"):
            function(nothing, axis=1)
    with pytest.warns(RuntimeWarning):
        assert np.isnan(nothing.mean(axis=1).array).all()


@pytest.mark.parametrize("function", OF_ANY_LENGTH, ids=name_of)
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_gradients_of_nothing_have_its_shape(function):
    for axis in (None, 0, 1, (0, 2)):
        nothing = Tensor(np.zeros((2, 0, 3)), requires_grad=True)
        function(nothing, axis=axis).sum().backward()
        assert nothing.grad.shape == (2, 0, 3)


# ---- Gradients: calculus ----


@pytest.mark.parametrize("function", DIFFERENTIABLE, ids=name_of)
@given(shape_and_axis=shapes_and_axes(), seed=SEEDS, keepdims=st.booleans())
@FEWER
def test_gradients(function, shape_and_axis, seed, keepdims):
    shape, axis = shape_and_axis
    x = numbers(shape, seed)
    if function is tri.std and np.any(x.std(axis=axis) == 0):
        return  # a corner: one number alone has no spread, whatever it is
    check_gradients(lambda a: function(a, axis=axis, keepdims=keepdims), x)
    # the same through a transposed input, and with a gradient that is a transposed view
    check_gradients(lambda a: function(a.T, axis=axis, keepdims=keepdims).T, x.T)


@given(shape=hnp.array_shapes(max_dims=3, min_side=2, max_side=3), seed=SEEDS, data=st.data())
@FEWER
def test_gradients_of_sample_variance_and_of_running_sums(shape, seed, data):
    axis = data.draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    x = numbers(shape, seed)
    check_gradients(lambda a: tri.var(a, axis, ddof=1), x)
    check_gradients(lambda a: tri.std(a, axis, ddof=1), x)
    check_gradients(lambda a: tri.cumsum(a, axis), x)
    np.testing.assert_array_equal(tri.cumsum(x, axis).array, np.cumsum(x, axis), strict=True)


# ---- Corners ----


def test_equal_extremes_share_the_gradient():
    for function in (tri.max, tri.min):
        assert gradient_of(function, [1.0, 1.0, 1.0, 1.0]) == [0.25] * 4
    rows = [[3.0, 1.0, 3.0], [1.0, 2.0, 0.0]]
    assert gradient_of(lambda a: tri.max(a, axis=1), rows) == [[0.5, 0, 0.5], [0, 1, 0]]
    assert gradient_of(lambda a: tri.max(a, axis=(0, 1)), rows) == [[0.5, 0, 0.5], [0, 0, 0]]


def test_products_around_zeros():
    assert gradient_of(tri.prod, [2.0, 0.0, 5.0]) == [0, 10, 0]
    assert gradient_of(tri.prod, [2.0, 0.0, 0.0]) == [0, 0, 0]
    rows = [[2.0, 0.0], [0.0, 0.0], [2.0, 3.0]]
    with np.errstate(all="raise"):
        assert gradient_of(lambda a: tri.prod(a, axis=1), rows) == [[0, 2], [0, 0], [3, 2]]
    check_gradients(tri.prod, np.array([2.0, 0.0, 5.0]))
    check_gradients(lambda a: tri.prod(a, axis=0), np.array(rows))


def test_the_deviation_of_equal_numbers_has_gradient_zero():
    with np.errstate(all="raise"):
        assert gradient_of(tri.std, [2.0, 2.0]) == [0, 0]


def test_logsumexp_of_numbers_of_any_size():
    with np.errstate(all="raise", under="ignore"):
        big = Tensor(np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]]), requires_grad=True)
        result = tri.logsumexp(big, axis=1)
        result.sum().backward()
    np.testing.assert_allclose(result.array, [1e4, -1e4 + np.log(3)], rtol=1e-15)
    np.testing.assert_allclose(big.grad, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_logsumexp_of_a_row_that_is_masked_out():
    with np.errstate(all="raise", under="ignore"):
        x = Tensor([[-np.inf, -np.inf], [-np.inf, 0.0]], requires_grad=True)
        result = tri.logsumexp(x, axis=-1)
        result.backward(np.ones(2))
    assert result.tolist() == [-np.inf, 0]
    assert x.grad.tolist() == [[0, 0], [0, 1]]
    assert tri.logsumexp(Tensor([np.inf, 0.0])).item() == np.inf
    assert np.isnan(tri.logsumexp(Tensor([np.nan, 0.0])).item())


def test_half_a_gradient_stays_float32():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    for function in DIFFERENTIABLE:
        x.grad = None
        out = function(x, axis=0)
        out.sum().backward()
        assert (out.dtype, x.grad.dtype) == (np.float32, np.float32), function


# ---- Errors ----


def test_an_axis_that_is_not_there_is_named():
    for function in (tri.sum, tri.max, tri.var, tri.logsumexp, tri.cumsum, tri.argmax):
        with pytest.raises(np.exceptions.AxisError, match="axis 2 is out of bounds"):
            function(Tensor(np.ones((2, 3))), axis=2)
    with pytest.raises(ValueError, match="duplicate"):
        tri.sum(Tensor(np.ones((2, 3))), axis=(0, -2))


# ---- Sums whose last digits hold ----


@pytest.mark.parametrize("axis", [0, (0, 2), 1, None])
@pytest.mark.parametrize("function", [tri.sum, tri.mean, tri.var, tri.std], ids=name_of)
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_float32_is_added_up_to_its_last_digits_along_every_axis(function, axis, order):
    x = np.random.default_rng(0).random((3000, 7, 3), np.float32)
    x = x[::2] if order == "strided" else np.array(x, order=order)
    ours = function(Tensor(x), axis=axis).array
    assert ours.dtype == np.float32
    right = getattr(np, function.__name__)(x.astype(float), axis=axis)
    np.testing.assert_allclose(ours, right, rtol=3e-7)


def test_seventeen_million_ones_are_more_than_sixteen():
    x = Tensor(np.ones((17_000_000, 1), np.float32))
    assert x.sum(axis=0).tolist() == [17_000_000]
    assert x.cumsum(axis=0).array[-1].tolist() == [17_000_000]
    assert x.mean(axis=0).tolist() == [1]


def test_gradients_of_what_was_stretched_are_added_up_to_their_last_digits():
    row = Tensor(np.ones(2, np.float32), requires_grad=True)
    many = np.full((100_000, 2), 0.1, np.float32)
    (row * many).sum().backward()
    np.testing.assert_allclose(row.grad, 100_000 * float(np.float32(0.1)), rtol=3e-7)
    table = Tensor(np.ones((3, 2), np.float32), requires_grad=True)
    (table[np.zeros(100_000, int)] * 0.1).sum().backward()
    np.testing.assert_allclose(table.grad[0], 100_000 * float(np.float32(0.1)), rtol=3e-7)


def test_equal_numbers_vary_by_nothing():
    x = Tensor(np.full((768, 3), 1000.7, np.float32))
    for axis in (0, 1, None):
        assert not x.var(axis=axis).array.any()
        assert not x.std(axis=axis).array.any()


# ---- Products, norms ----


def test_a_product_has_the_gradient_of_the_others_whatever_their_size():
    with np.errstate(over="ignore"):
        x = Tensor([1e30, 1e30, 1e-30], requires_grad=True)
        x.prod().backward()
    assert x.grad.tolist() == [pytest.approx(1), pytest.approx(1), np.inf]
    assert gradient_of(tri.prod, [np.inf, 2.0]) == [2, np.inf]
    assert gradient_of(tri.prod, [0.0, 3.0, 2.0]) == [6, 0, 0]
    assert gradient_of(tri.prod, [0.0, 3.0, 0.0]) == [0, 0, 0]


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_running_products_are_numpys(axis):
    x = numbers((3, 4, 2), 0)
    np.testing.assert_allclose(tri.cumprod(Tensor(x), axis).array, np.cumprod(x, axis))
    x[1, 1] = 0
    check_gradients(lambda x: tri.cumprod(x, axis), x)


def test_a_running_product_by_hand():
    assert tri.cumprod(Tensor([2.0, 3.0, 4.0])).tolist() == [2, 6, 24]
    assert gradient_of(tri.cumprod, [2.0, 3.0, 4.0]) == [1 + 3 + 12, 2 + 8, 6]
    assert gradient_of(tri.cumprod, [2.0, 0.0, 4.0]) == [1, 2 + 8, 0]


def test_a_length_by_hand():
    assert tri.norm(Tensor([3.0, 4.0])).item() == 5
    assert gradient_of(tri.norm, [3.0, 4.0]) == [pytest.approx(0.6), pytest.approx(0.8)]
    assert gradient_of(tri.norm, [0.0, 0.0]) == [0, 0]
    assert gradient_of(lambda x: tri.norm(x, 3), [0.0, 0.0]) == [0, 0]
    assert tri.norm(Tensor([1e30, 0.0])).item() == pytest.approx(1e30)


@pytest.mark.parametrize("ord", [None, 1, 2, 3, 0.5, np.inf, -np.inf])
def test_lengths_of_vectors_are_numpys(ord):
    x = numbers((3, 5), 0)
    for axis, keepdims in ((0, False), (-1, True)):
        ours = tri.norm(Tensor(x), ord, axis, keepdims)
        np.testing.assert_allclose(ours.array, np.linalg.norm(x, ord, axis, keepdims))
    check_gradients(lambda x: tri.norm(x, ord, 1), x)


@pytest.mark.parametrize("ord", [None, "fro", 1, -1, np.inf, -np.inf])
def test_norms_of_matrices_are_numpys(ord):
    x = numbers((2, 3, 5), 0)
    for axis, keepdims in (((1, 2), False), ((2, 0), True)):
        ours = tri.norm(Tensor(x), ord, axis, keepdims)
        np.testing.assert_allclose(ours.array, np.linalg.norm(x, ord, axis, keepdims))
    check_gradients(lambda x: tri.norm(x, ord, (0, 1)), x)


def test_lengths_of_integers_are_of_the_numbers_they_stand_for():
    assert tri.norm(Tensor(np.array([3_000_000])), 3).item() == pytest.approx(3e6)
    assert tri.norm(Tensor(np.array([-128, 10], np.int8)), np.inf).item() == 128
    assert tri.norm(Tensor(np.array([-128, 10], np.int8)), 1).item() == 138
    assert tri.norm(Tensor([1, 2]), -1).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("ord", [0.5, -1])
def test_where_the_slope_of_a_length_is_infinite_it_is_taken_as_zero(ord):
    norm = lambda x: tri.norm(x, ord)  # noqa: E731
    assert gradient_of(norm, [0.0, 0.0]) == [0, 0]
    assert gradient_of(norm, [0.0, 1.0]) == [0, 1 if ord > 0 else 0]
    assert norm(Tensor([0.0, 1.0])).item() == (1 if ord > 0 else 0)


def test_norms_that_there_are_not():
    with pytest.raises(ValueError, match="ord 2 of a matrix needs its singular values"):
        tri.norm(Tensor([[1.0]]), 2)
    with pytest.raises(ValueError, match="ord 'nuc' of 2 axes is not known"):
        tri.norm(Tensor([[1.0]]), "nuc")
