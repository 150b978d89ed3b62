"""Floating point dtypes: float32 and float64 throughout, float16 and bfloat16 with float32 sums."""

import operator

import ml_dtypes
import numpy as np
import pytest

import tricycle_autograd as tri
from tricycle_autograd import Tensor, check_gradients, no_grad

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = [np.dtype(np.float16), BFLOAT16]
KINDS = [*HALVES, np.dtype(np.float32), np.dtype(np.float64)]
half = pytest.mark.parametrize("dtype", HALVES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", KINDS, ids=str)

# Each operation by a name, on a matrix of numbers from 0.5 to 2.
OPERATIONS = {
    **{f.__name__: f for f in (
        tri.negative, tri.exp, tri.expm1, tri.log, tri.log1p, tri.sqrt, tri.sin, tri.cos, tri.tanh,
        tri.sigmoid, tri.erf, tri.abs, tri.sign, tri.sum, tri.mean, tri.var, tri.std, tri.max,
        tri.min, tri.prod, tri.cumsum, tri.logsumexp, tri.transpose, tri.tril, tri.triu,
        tri.diagonal, tri.trace, tri.flip, tri.ravel,
    )},
    "add a float": lambda x: x + 0.5,
    "subtract from a float": lambda x: 1.5 - x,
    "times a float": lambda x: x * 2.5,
    "times a scalar of numpy": lambda x: np.float64(2.5) * x,
    "divide by a float": lambda x: x / 3.0,
    "a float divided": lambda x: 3.0 / x,
    "square": lambda x: x**2,
    "square root": lambda x: x**0.5,
    "exponent": lambda x: 2.0**x,
    "times itself": lambda x: x * x,
    "power of itself": lambda x: x**x,
    "clip": lambda x: tri.clip(x, 0.75, np.float64(1.5)),
    "maximum": lambda x: tri.maximum(x, 1.0),
    "minimum": lambda x: tri.minimum(1.0, x * 1.5),
    "where": lambda x: tri.where(x > 1, x, 0.0),
    "sum of rows": lambda x: x.sum(axis=0),
    "mean of columns": lambda x: x.mean(axis=1, keepdims=True),
    "broadcast": lambda x: x * x[0] + x[:, :1],
    "slice": lambda x: x[1:, ::2],
    "ids": lambda x: x[[0, 2, 0, 0]],
    "single numbers": lambda x: x.ravel()[[5, 5, 1]],
    "mask": lambda x: x[np.arange(12).reshape(3, 4) % 2 == 0],
    "take_along_axis": lambda x: tri.take_along_axis(x, [[1], [0], [3]], axis=1),
    "split": lambda x: tri.split(x, 2, axis=1)[1],
    "concatenate": lambda x: tri.concatenate([x, x * 2], axis=1),
    "stack": lambda x: tri.stack([x, x * 2]),
    "tile": lambda x: tri.tile(x, 2),
    "repeat": lambda x: x.repeat(3, axis=0),
    "pad": lambda x: tri.pad(x, 1),
    "roll": lambda x: tri.roll(x, 1, axis=1),
    "product": lambda x: x @ x.T,
    "product with a vector": lambda x: x @ x[0],
    "product of stacks": lambda x: tri.stack([x, x]) @ tri.stack([x.T, x.T * 2]),
    "einsum": lambda x: tri.einsum("ij,kj->ik", x, x),
    "recompute": lambda x: tri.recompute(lambda x: tri.tanh(x) * x, x),
}  # fmt: skip
operations = pytest.mark.parametrize("name", OPERATIONS)
NUMBERS = np.random.default_rng(0).uniform(0.5, 2, (3, 4)).astype(BFLOAT16).astype(np.float64)
OF_ONE_NUMBER = [
    "negative", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh", "sigmoid", "erf",
    "abs", "sign", "sum", "mean", "max", "prod", "logsumexp", "add a float", "times a float",
    "a float divided", "square", "exponent", "times itself", "power of itself", "clip", "maximum",
    "where",
]  # fmt: skip


def result_and_gradient(function, x):
    """A result in float64 and the gradient of all its numbers, and both dtypes."""
    x = Tensor(x, requires_grad=True)
    y = function(x)
    y.backward(np.ones(y.shape))
    dtypes = y.dtype, x.grad.dtype
    return y.array.astype(np.float64), x.grad.astype(np.float64), dtypes


# ---- Every operation ----


@operations
@every_dtype
def test_results_and_gradients_have_the_dtype_of_the_input(name, dtype):
    precision = {"float16": 1e-2, "bfloat16": 6e-2, "float32": 1e-5, "float64": 1e-12}[dtype.name]
    exact = result_and_gradient(OPERATIONS[name], NUMBERS)
    actual = result_and_gradient(OPERATIONS[name], NUMBERS.astype(dtype))
    assert actual[2] == (dtype, dtype)
    for ours, right in zip(actual[:2], exact[:2], strict=True):
        np.testing.assert_allclose(ours, right, rtol=precision, atol=precision, strict=True)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"recompute"}))
def test_gradients_in_float64_are_those_of_calculus(name):
    check_gradients(OPERATIONS[name], NUMBERS + 0.001)


@half
@pytest.mark.parametrize("name", OF_ONE_NUMBER)
def test_a_single_number_is_as_good_as_an_array(name, dtype):
    exact = result_and_gradient(OPERATIONS[name], np.array(1.25))
    actual = result_and_gradient(OPERATIONS[name], np.array(1.25, dtype))
    assert actual[2] == (dtype, dtype)
    for ours, right in zip(actual[:2], exact[:2], strict=True):
        np.testing.assert_allclose(ours, right, rtol=3e-2, strict=True)


# ---- Half precision ----


@half
def test_counts_are_held_in_float32(dtype):
    for function in (tri.mean, tri.max, tri.min):
        x = Tensor(np.ones(70_000, dtype), requires_grad=True)
        y = function(x)
        y.backward()
        assert y.item() == 1
        np.testing.assert_allclose(x.grad.astype(float), np.full(70_000, 1.43e-5), rtol=4e-3)


@half
def test_sums_are_held_in_float32(dtype):
    x = Tensor(np.ones((4096, 3), dtype), requires_grad=True)
    assert x.sum(axis=0).tolist() == [4096] * 3
    assert (x.T @ x).tolist() == [[4096] * 3] * 3
    row = Tensor(np.ones(3, dtype), requires_grad=True)
    (row + Tensor(np.zeros((4096, 3), dtype))).backward(np.ones((4096, 3)))
    assert row.grad.tolist() == [4096] * 3
    table = Tensor(np.ones((2, 3), dtype), requires_grad=True)
    table[np.ones(4096, int)].backward(np.ones((4096, 3)))
    assert table.grad.tolist() == [[0] * 3, [4096] * 3]
    for repeated in (tri.tile(row, (4096, 1)), row[None].repeat(4096, axis=0)):
        row.grad = None
        repeated.backward(np.ones((4096, 3)))
        assert row.grad.tolist() == [4096] * 3


def test_sums_that_float16_cannot_hold_are_infinite_and_their_mean_is_not():
    x = Tensor(np.full(70_000, 100, np.float16))
    assert x.mean().item() == 100
    with np.errstate(over="ignore"):
        assert x.sum().item() == np.inf


# ---- bfloat16 ----


def test_bfloat16_comes_out_as_numbers_that_numpy_knows():
    x = Tensor(np.array([1.5, -2], BFLOAT16), requires_grad=True)
    assert x.dtype == BFLOAT16
    assert x.numpy().dtype == np.asarray(x).dtype == np.float32
    assert x.numpy().tolist() == x.tolist() == [1.5, -2]
    one = x[0]
    assert (one.item(), float(one), int(one), type(one.item())) == (1.5, 1.5, 1, float)
    assert repr(x) == "Tensor([ 1.5, -2. ], dtype=bfloat16, requires_grad=True)"
    assert repr(x.sum()) == "Tensor(-0.5, dtype=bfloat16, requires_grad=True)"


def test_bfloat16_stays_beside_numbers_and_widens_beside_arrays():
    x = Tensor(np.ones(2, BFLOAT16))
    for operation in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow):
        for number in (2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), BFLOAT16.type(2)):
            assert operation(x, number).dtype == operation(number, x).dtype == BFLOAT16
    assert (x + np.ones(2, np.float32)).dtype == np.float32
    assert (Tensor(np.ones(2, np.float32)) * BFLOAT16.type(2)).dtype == np.float32


def test_a_conversion_and_its_gradient():
    x = Tensor([1.0, 1 + 2**-10], requires_grad=True)
    y = x.astype(BFLOAT16)
    assert (y.dtype, y.tolist()) == (BFLOAT16, [1, 1])
    (y * 3).sum().backward()
    assert (x.grad.dtype, x.grad.tolist()) == (np.float32, [3, 3])
    back = y.detach().astype(np.float32)
    assert (back.dtype, back.tolist()) == (np.float32, [1, 1])


def test_other_dtypes_of_one_byte_are_refused():
    with pytest.raises(TypeError, match="a tensor holds numbers, got an array of dtype float8_e4m"):
        Tensor(np.ones(2, ml_dtypes.float8_e4m3fn))
    with pytest.raises(TypeError, match="a tensor holds numbers"):
        Tensor([1.0]).astype("datetime64[s]")


def test_integers_have_no_gradient_and_every_floating_dtype_has():
    for dtype in KINDS:
        assert Tensor(np.ones(2, dtype), requires_grad=True).requires_grad
    with pytest.raises(TypeError, match="only floating point tensors have gradients.*int16"):
        Tensor(np.ones(2, np.int16), requires_grad=True)


# ---- float64 ----


def test_the_default_dtype_of_numpy_simply_works():
    rng = np.random.default_rng(0)
    x, w = (Tensor(rng.standard_normal((5, 5)), requires_grad=True) for _ in range(2))
    loss = (tri.tanh(x @ w + 0.5) / np.sqrt(64)).mean()
    loss.backward()
    assert loss.dtype == x.grad.dtype == w.grad.dtype == np.float64


def test_a_gradient_given_in_python_numbers_keeps_its_digits():
    x = Tensor(np.ones(2), requires_grad=True)
    (x * 1).backward([0.1, 0.2])
    assert x.grad.tolist() == [0.1, 0.2]


@every_dtype
def test_nothing_changes_where_nothing_is_recorded(dtype):
    x = Tensor(NUMBERS.astype(dtype), requires_grad=True)
    with no_grad():
        y = tri.logsumexp(x * 2.0, axis=1).sum()
    assert (y.dtype, y.requires_grad) == (dtype, False)


def test_one_half_times_another_is_float32():
    a = Tensor(np.full((2, 3), 2, np.float16))
    b = Tensor(np.full((3, 2), 3, ml_dtypes.bfloat16))
    product = a @ b
    assert product.dtype == np.float32
    assert product.tolist() == [[18, 18], [18, 18]]
