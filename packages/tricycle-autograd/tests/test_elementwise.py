import math
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tricycle_autograd as tri
from tricycle_autograd import Tensor, check_gradients
from tricycle_autograd.elementwise import select
from tricycle_autograd.testing_device import EmulatedArray

FEWER = settings(max_examples=settings.default.max_examples // 4)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
PAIRS = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3)
SEEDS = st.integers(0, 10_000)

ANY_NUMBER = [
    tri.negative, tri.exp, tri.expm1, tri.sin, tri.cos, tri.tanh, tri.sigmoid, tri.erf,
    tri.abs, tri.sign,
]  # fmt: skip
POSITIVE = [tri.log, tri.log1p, tri.sqrt]
TWO = [
    tri.add, tri.subtract, tri.multiply, tri.divide, tri.maximum, tri.minimum,
]  # fmt: skip
COMPARISONS = [
    tri.equal, tri.not_equal, tri.less, tri.less_equal, tri.greater, tri.greater_equal,
]  # fmt: skip
KINDS = ["bool", "int8", "int32", "int64", "float32", "float64"]


def name_of(function):
    return getattr(function, "__name__", None)


def numbers(shape, seed, positive=False):
    x = np.random.default_rng(seed).standard_normal(shape)
    return np.abs(x) + 0.2 if positive else x


def backwards(tensor):
    """The same numbers in reverse order along every axis: a view with negative strides."""
    return tensor[(slice(None, None, -1),) * tensor.ndim]


def gradient_of(function, *values, dtype=np.float64):
    tensors = [Tensor(np.array(value, dtype), requires_grad=True) for value in values]
    function(*tensors).sum().backward()
    gradients = [tensor.grad.tolist() for tensor in tensors]
    return gradients if len(gradients) > 1 else gradients[0]


# ---- By hand ----


def test_the_operators_compute_what_they_say():
    x, y = Tensor([1.0, 4.0]), Tensor([2.0, 2.0])
    assert (x + y).tolist() == [3, 6]
    assert (x - y).tolist() == [-1, 2]
    assert (x * y).tolist() == [2, 8]
    assert (x / y).tolist() == [0.5, 2]
    assert (x**y).tolist() == [1, 16]
    assert (-x).tolist() == [-1, -4]
    assert (+x).tolist() == [1, 4]
    assert abs(-x).tolist() == [1, 4]
    assert (10 - x).tolist() == [9, 6]
    assert (4 / x).tolist() == [4, 1]
    assert (2**x).tolist() == [2, 16]


def test_gradients_of_a_product_are_the_other_factors():
    assert gradient_of(tri.multiply, [3.0], [5.0]) == [[5], [3]]


def test_gradients_of_a_quotient():
    # d(6/2)/da = 1/2, d(6/2)/db = -6/4
    assert gradient_of(tri.divide, [6.0], [2.0]) == [[0.5], [-1.5]]


def test_a_number_that_broadcasting_used_three_times_gets_three_gradients():
    one, three = gradient_of(tri.add, [1.0], [1.0, 2.0, 3.0])
    assert one == [3]
    assert three == [1, 1, 1]


def test_comparisons_and_logic_give_booleans_without_gradients():
    x, y = Tensor([1.0, 2.0, 3.0], requires_grad=True), Tensor([3.0, 2.0, 1.0])
    assert (x < y).tolist() == [True, False, False]
    assert (x <= y).tolist() == [True, True, False]
    assert (x == y).tolist() == [False, True, False]
    assert (x != y).tolist() == [True, False, True]
    assert (x > 1).tolist() == [False, True, True]
    assert (x <= 2).tolist() == [True, True, False]
    assert ((x > 1) & (x < 3)).tolist() == [False, True, False]
    assert ((x < 2) | (x > 2)).tolist() == [True, False, True]
    assert (~(x > 1)).tolist() == [True, False, False]
    assert (x < y).dtype == bool
    assert not (x < y).requires_grad


# ---- Values and dtypes: numpy's ----


@pytest.mark.parametrize("function", [*TWO, tri.power, *COMPARISONS], ids=name_of)
@given(shapes=PAIRS, seed=SEEDS)
@FEWER
def test_two_inputs_give_the_numbers_and_shapes_of_numpy(function, shapes, seed):
    x, y = (numbers(shape, seed + i) for i, shape in enumerate(shapes.input_shapes))
    with np.errstate(all="ignore"):
        expected = getattr(np, function.__name__)(x, y)
        result = function(Tensor(x), Tensor(y)).array
    np.testing.assert_array_equal(result, expected, strict=True)


@pytest.mark.parametrize("function", [*ANY_NUMBER, *POSITIVE], ids=name_of)
@given(shape=SHAPES, seed=SEEDS)
@FEWER
def test_one_input_gives_the_numbers_and_shapes_of_numpy(function, shape, seed):
    x = numbers(shape, seed, positive=function in POSITIVE)
    if function is tri.erf:
        expected = np.vectorize(math.erf, otypes=[float])(x)
    elif function is tri.sigmoid:
        expected = 1 / (1 + np.exp(-x))
    else:
        expected = getattr(np, function.__name__)(x)
    result = function(Tensor(x)).array
    np.testing.assert_allclose(result, expected, rtol=1e-15, atol=1e-15, strict=True)


def as_python_numbers(operands):
    """numpy's scalars as Python's numbers, unless they would change an array in kind."""
    order = "biuf"
    highest = max(order.index(x.dtype.kind) for x in operands if isinstance(x, np.ndarray))
    return [
        x.item() if isinstance(x, np.generic) and order.index(x.dtype.kind) <= highest else x
        for x in operands
    ]


def same_kind(function, *operands):
    """Ours and numpy's result have one dtype, or both refuse; numpy's scalars are weak for us."""
    ours = getattr(tri, function)
    tensors = [Tensor(x) if isinstance(x, np.ndarray) else x for x in operands]
    with np.errstate(all="ignore"):
        try:
            # numpy's own ** and np.power differ for booleans; ours is the operator
            oracle = operator.pow if function == "power" else getattr(np, function)
            expected = oracle(*as_python_numbers(operands)).dtype
        except TypeError:
            with pytest.raises(TypeError):
                ours(*tensors)
        else:
            assert ours(*tensors).dtype == expected, operands


@pytest.mark.parametrize("function", [*TWO, tri.power, *COMPARISONS], ids=name_of)
def test_dtypes_of_two_inputs_are_those_of_numpy(function):
    name = function.__name__
    weak = [True, 2, 2.5, np.float32(2), np.float64(2), np.int64(2)]
    for kind in KINDS:
        x = np.ones(3, kind)
        for other in [*[np.ones(3, other) for other in KINDS], *weak]:
            same_kind(name, x, other)
            same_kind(name, other, x)


@pytest.mark.parametrize(
    "function", [f for f in [*ANY_NUMBER, *POSITIVE] if hasattr(np, f.__name__)], ids=name_of
)
def test_dtypes_of_one_input_are_those_of_numpy(function):
    for kind in KINDS:
        same_kind(function.__name__, np.ones(3, kind))


def test_python_numbers_do_not_change_the_dtype_of_a_tensor():
    x = Tensor([1.0, 2.0])
    for result in (x * 2.0, 2.0 / x, x**2, x + 1, 1 - x, tri.where(x > 1, x, 0.0), x > 0.5):
        assert result.dtype in (np.float32, bool)


def test_scalars_of_numpy_do_not_change_it_either():
    x = Tensor([1.0, 2.0], requires_grad=True)
    two = np.float64(2)
    for y in (x / np.sqrt(64), two * x, x**two, tri.where(x > 1, x, two), tri.maximum(two, x),
              tri.clip(x, np.float64(0), two), x + np.int64(2)):  # fmt: skip
        assert y.dtype == np.float32
    y = x / np.sqrt(64)
    y.sum().backward()
    assert (y.tolist(), x.grad.tolist()) == ([0.125, 0.25], [0.125, 0.125])
    assert (Tensor(np.ones(2, np.int8)) + np.int64(2)).dtype == np.int8
    assert (Tensor(np.ones(2)) * np.float32(2)).dtype == np.float64


def test_a_scalar_of_numpy_makes_floating_point_numbers_of_integers_as_in_numpy():
    x = Tensor(np.array([1, 2], np.int8))
    assert (x * np.float32(0.5)).dtype == np.float32
    assert (x * np.float64(0.5)).dtype == np.float64


def test_an_array_without_axes_is_an_array():
    assert (Tensor([1.0]) * np.array(2.0)).dtype == np.float64


def test_scalars_that_are_not_real_numbers_are_refused():
    with pytest.raises(TypeError, match="a tensor holds numbers, got .* of dtype complex128"):
        Tensor([1.0]) * np.complex128(1j)


def test_a_condition_that_is_refilled_later_was_copied():
    x = Tensor([1.0, 2.0], requires_grad=True)
    chosen = np.array([True, False])
    y = tri.where(chosen, x, 0.0)
    chosen[:] = [False, True]
    y.sum().backward()
    assert x.grad.tolist() == [1, 0]


def test_a_condition_of_another_type_of_array_is_copied_too():
    class Mapped(np.ndarray):
        """Stands for a memmap."""

    x, chosen = Tensor([1.0, 2.0], requires_grad=True), np.array([True, False]).view(Mapped)
    y = tri.where(chosen, x, 0.0)
    chosen[:] = False
    y.backward(np.ones(2))
    assert x.grad.tolist() == [1, 0]


def test_a_gradient_has_the_dtype_of_its_own_input():
    single = Tensor(np.ones(3, np.float32), requires_grad=True)
    double = Tensor(np.ones(3, np.float64), requires_grad=True)
    (single * double * Tensor(np.arange(3))).sum().backward()
    assert single.grad.dtype == np.float32
    assert double.grad.dtype == np.float64


def test_arrays_and_numbers_mix_with_tensors_from_both_sides():
    x = Tensor(np.array([1.0, 2.0]))
    array = np.array([10.0, 20.0])
    for result in (array + x, x + array, [10.0, 20.0] + x, tri.add(array, x)):
        assert isinstance(result, Tensor)
        assert result.tolist() == [11, 22]
    assert isinstance(np.float64(3) * x, Tensor)
    assert (array > x).tolist() == [True, True]
    assert tri.add(1.0, 2.0).item() == 3


# ---- Gradients: calculus ----


@pytest.mark.parametrize("function", [*ANY_NUMBER, *POSITIVE], ids=name_of)
@given(shape=SHAPES, seed=SEEDS)
@FEWER
def test_gradients_of_one_input(function, shape, seed):
    x = numbers(shape, seed, positive=function in POSITIVE)
    check_gradients(function, x)
    check_gradients(lambda t: function(backwards(t)).T, x)


@pytest.mark.parametrize("function", TWO, ids=name_of)
@given(shapes=PAIRS, seed=SEEDS)
@FEWER
def test_gradients_of_two_inputs(function, shapes, seed):
    x, y = (numbers(shape, seed + i) for i, shape in enumerate(shapes.input_shapes))
    y = y + 0.3 * np.sign(y)  # away from division by 0
    check_gradients(function, x, y)
    check_gradients(lambda a, b: function(backwards(a), backwards(b)).T, x, y)
    check_gradients(lambda a: function(a, a * 0.3 + 0.1), numbers(x.shape, seed, positive=True))


@given(shapes=PAIRS, seed=SEEDS)
@FEWER
def test_gradients_of_powers(shapes, seed):
    x, y = (numbers(shape, seed + i) for i, shape in enumerate(shapes.input_shapes))
    check_gradients(tri.power, np.abs(x) + 0.2, y)
    for exponent in (0, 1, 2, 3, -1, 0.0, 2.0):
        check_gradients(lambda a, n=exponent: a**n, x + 0.3 * np.sign(x))
    check_gradients(lambda a: 1.5**a, x)


@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3), seed=SEEDS)
@FEWER
def test_gradients_of_where(shapes, seed):
    condition, x, y = (numbers(shape, seed + i) for i, shape in enumerate(shapes.input_shapes))
    check_gradients(lambda a, b: tri.where(condition > 0, a, b), x, y)
    check_gradients(lambda a: tri.where(Tensor(condition > 0), a, -1.0), x)
    check_gradients(lambda b: tri.where(Tensor(condition > 0), 0, b), y)
    expected = np.where(condition > 0, x, y)
    np.testing.assert_array_equal(tri.where(condition > 0, x, y).array, expected, strict=True)


@given(shape=SHAPES, seed=SEEDS)
@FEWER
def test_gradients_of_clip(shape, seed):
    x = numbers(shape, seed)
    for low, high in ((-0.5, 0.5), (None, 0.3), (-0.3, None), (np.full(3, -0.2)[:, None], 0.7)):
        if np.ndim(low) and shape not in ((), (3, 1)):
            continue
        check_gradients(lambda a, low=low, high=high: tri.clip(a, low, high), x)
        np.testing.assert_array_equal(tri.clip(x, low, high).array, np.clip(x, low, high))
    assert Tensor(x).clip(max=0.0).tolist() == np.clip(x, None, 0.0).tolist()


# ---- Corners ----


def test_ties_of_maximum_and_minimum_share_the_gradient():
    for function in (tri.maximum, tri.minimum):
        assert gradient_of(function, [2.0], [2.0], dtype=np.float32) == [[0.5], [0.5]]
    assert gradient_of(tri.maximum, [2.0], [3.0]) == [[0], [1]]
    assert gradient_of(lambda a: tri.maximum(a, 0), [-1.0, 0.0, 1.0]) == [0, 0.5, 1]


def test_clip_passes_the_gradient_at_its_bounds():
    assert gradient_of(lambda a: tri.clip(a, 0, 1), [-1.0, 0.0, 0.5, 1.0, 2.0]) == [0, 1, 1, 1, 0]
    assert gradient_of(tri.clip, [-1.0, 2.0]) == [1, 1]


def test_abs_and_sign_are_flat_at_zero():
    assert gradient_of(tri.abs, [-2.0, 0.0, 2.0]) == [-1, 0, 1]
    assert gradient_of(tri.sign, [-2.0, 0.0, 2.0]) == [0, 0, 0]


def test_powers_at_zero_have_the_gradients_of_calculus():
    with np.errstate(all="raise"):
        assert gradient_of(lambda a: a**0, [0.0, 3.0]) == [0, 0]
        assert gradient_of(lambda a: a**1, [0.0, 3.0]) == [1, 1]
        assert gradient_of(lambda a: a**2, [0.0, 3.0]) == [0, 6]
        # d(0^b)/db = 0 for b > 0; at b = 0 we take 0 too
        base, exponent = gradient_of(tri.power, [0.0, 0.0, 0.0], [0.0, 1.0, 2.0])
        assert base == [0, 1, 0]
        assert exponent == [0, 0, 0]


def test_negative_bases_are_as_in_numpy():
    with np.errstate(invalid="ignore"):
        assert (Tensor([-2.0]) ** 3).tolist() == [-8]
        assert math.isnan((Tensor([-2.0]) ** 0.5).item())
        assert gradient_of(lambda a: a**3, [-2.0]) == [12]
        # only the base is asked about, so the missing logarithm does no harm
        assert gradient_of(lambda a: a ** Tensor([3.0]), [-2.0]) == [12]


def test_integers_to_negative_powers_are_refused_as_in_numpy():
    with pytest.raises(ValueError, match="Integers to negative integer powers"):
        Tensor([2]) ** Tensor([-1])


def test_erf_is_exact_to_the_last_bits():
    x = np.concatenate([np.linspace(-7, 7, 20_001), np.logspace(-300, 300, 601)])
    expected = np.vectorize(math.erf)(x)
    with np.errstate(all="raise", under="ignore"):
        result = tri.erf(Tensor(x)).array
    np.testing.assert_allclose(result, expected, rtol=1e-15)
    single = tri.erf(Tensor(x[:20_001].astype(np.float32)))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single.array, expected[:20_001], atol=5e-7)


def test_erf_and_sigmoid_at_the_ends():
    ends = Tensor([-np.inf, -0.0, 0.0, np.inf, np.nan])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(tri.erf(ends).array, [-1, 0, 0, 1, np.nan])
        np.testing.assert_array_equal(tri.sigmoid(ends).array, [0, 0.5, 0.5, 1, np.nan])
        np.testing.assert_array_equal(tri.sigmoid(Tensor([-1e4, 1e4])).array, [0, 1])
    # exact far out too, where 1 - tanh would give 0
    assert tri.sigmoid(Tensor(np.array(-50.0))).item() == pytest.approx(math.exp(-50), rel=1e-14)


# ---- Errors ----


@pytest.mark.parametrize(
    "function", [tri.add, tri.power, tri.maximum, tri.less, operator.mul], ids=name_of
)
def test_shapes_that_do_not_fit_are_named(function):
    name = "multiply" if function is operator.mul else function.__name__
    with pytest.raises(ValueError, match=rf"{name}: shapes \(2, 3\) and \(4,\) do not fit"):
        function(Tensor(np.ones((2, 3))), Tensor(np.ones(4)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_select_is_numpys_where_to_the_last_bit(dtype):
    special = [0.0, -0.0, 1.5, np.inf, -np.inf, np.nan] if dtype[0] == "f" else [0, -3, 7]
    x = np.array(special, dtype)
    y = x[::-1, None]
    for chosen in (x > 0, np.arange(len(x)) % 2 == 0, np.True_, np.bool_(False)):
        for one, other in ((x, y), (y, x), (x, 0), (0, y)):
            actual = select(np, chosen, one, other)
            expected = np.where(chosen, one, other)
            assert actual.dtype == expected.dtype
            assert actual.tobytes() == expected.tobytes()


def test_what_where_did_not_choose_gets_no_gradient_not_even_a_broken_one():
    x = Tensor(np.array([4.0, 0.0], np.float32), requires_grad=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        safe = tri.where(x > 0, x, 0.0)
        tri.where(x > 0, tri.sqrt(safe), 0.0).sum().backward()
    assert x.grad.tolist() == [0.25, 0]  # of sqrt at 0 comes 0 / 0, and stops at `safe`


def test_where_names_all_three_shapes():
    with pytest.raises(ValueError, match=r"where: shapes \(2,\) and \(3,\) and \(\) do not fit"):
        tri.where(np.ones(2, bool), Tensor(np.ones(3)), 0)


def test_mixing_devices_is_refused():
    here = Tensor(np.ones(3, np.float32))
    there = Tensor(np.ones(3, np.float32).view(EmulatedArray))
    message = r"different devices \(cpu, cuda\).*tensor.to"
    for function in (tri.add, tri.maximum, tri.less):
        with pytest.raises(ValueError, match=f"{function.__name__}: .*{message}"):
            function(here, there)
    with pytest.raises(ValueError, match="add: .*different devices"):
        there + np.ones(3)
    with pytest.raises(ValueError, match="where: .*different devices"):
        tri.where(here > 0, there, 0)
    for fine in (there * 2, there + np.float32(1), 1 / there, tri.where(there > 0, there, 0)):
        assert fine.device == "cuda"


def test_what_is_not_a_number_is_refused():
    for other in ("two", None, 1j):
        with pytest.raises(TypeError, match="a tensor holds numbers, got an array of dtype"):
            Tensor([1.0]) + other


def test_bounds_of_clip_have_no_gradient():
    with pytest.raises(TypeError, match="use maximum"):
        tri.clip(Tensor([1.0]), Tensor(0.0, requires_grad=True), 1)
    assert tri.clip(Tensor([-1.0]), Tensor(0.0), 1).tolist() == [0]


def test_the_gradient_of_clip_has_the_dtype_of_its_input():
    x = Tensor(np.array([-1, 1], np.float32), requires_grad=True)
    tri.clip(x, np.zeros(2), None).sum().backward()  # float64 bounds, a float64 result
    assert (x.grad.dtype, x.grad.tolist()) == (np.float32, [0, 1])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int64])
def test_sigmoid_and_logsumexp_of_integers_of_any_kind(dtype):
    x = np.array([0, 1, 100]).astype(dtype)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(tri.sigmoid(Tensor(x)).array, 1 / (1 + np.exp(-exact)), rtol=1e-12)
    total = tri.logsumexp(Tensor(x)).item()
    assert total == pytest.approx(math.log(np.exp(exact).sum()), rel=1e-12)


# ---- Arrays of the caller's ----


KEPT = {
    "multiply": lambda x, array: x * array,
    "divide": lambda x, array: x / array,
    "power": lambda x, array: x**array,
    "base": lambda x, array: array**x,
    "maximum": tri.maximum,
    "clip": lambda x, array: tri.clip(x, 0.5, array),
    "matmul": lambda x, array: x @ array,
    "einsum": lambda x, array: tri.einsum("i,i->", x, array),
    "hypot": tri.hypot,
    "where": lambda x, array: tri.where(array > 1.5, x, array),
    "numpy": lambda x, array: np.multiply(array, x),
}


@pytest.mark.parametrize("name", KEPT)
def test_an_array_that_the_caller_fills_anew_does_not_change_a_gradient(name):
    def gradient(refill):
        x = Tensor(np.full(3, 1.25), requires_grad=True)
        array = np.array([1.0, 2.0, 3.0])
        y = KEPT[name](x, array).sum()
        if refill:
            array[...] = 100
        y.backward()
        return x.grad.tolist()

    assert gradient(refill=True) == gradient(refill=False)


def test_masks_and_places_are_copied_too():
    x = Tensor(np.ones(3), requires_grad=True)
    mask, places = np.array([True, False, True]), np.array([0, 0, 2])
    y = tri.where(mask, x, 0.0) + tri.where(Tensor(mask), x, 0.0)
    y = y.sum() + x[mask].sum() + x[places].sum() + tri.take(x, Tensor(places)).sum()
    y = y + tri.take_along_axis(x, places, 0).sum()
    mask[...], places[...] = False, 1
    y.backward()
    assert x.grad.tolist() == [3 + 6, 0, 3 + 3]


# ---- Powers at their ends ----


def test_to_the_power_nought_nothing_has_influence():
    for base in (np.inf, -np.inf, np.nan, 0.0):
        assert gradient_of(lambda x: x**0, base) == 0
        with np.errstate(invalid="ignore"):  # log(-inf), for the exponent
            assert gradient_of(lambda x, y: x**y, base, 0.0)[0] == 0
    assert gradient_of(lambda x, y: x**y, np.inf, -1.0)[1] == 0
    with np.errstate(divide="ignore"):
        assert gradient_of(lambda x, y: x**y, 0.0, -1.0)[1] == 0
