"""numpy's functions on tensors: ours answer, on the tape."""

import numpy as np
import pytest

import tricycle_autograd as tri
from tricycle_autograd import Tensor

X = np.array([[0.5, 0.25, 0.125], [0.75, 0.5, 0.375]])


def leaf(values=X):
    return Tensor(np.array(values), requires_grad=True)


UFUNCS = """
    exp exp2 expm1 log log2 log10 log1p sqrt square cbrt reciprocal sin cos tan arcsin arccos arctan
    sinh cosh tanh arcsinh arctanh absolute fabs negative sign floor ceil trunc rint
"""
OF_TWO = """
    add subtract multiply divide power maximum minimum arctan2 hypot logaddexp remainder mod fmod
    floor_divide
"""
CALLS = {
    "sum": lambda x: np.sum(x, axis=0),
    "mean": lambda x: np.mean(x, 1, keepdims=True),
    "var": lambda x: np.var(x, axis=0, ddof=1),
    "std": np.std,
    "max": lambda x: np.max(x, axis=-1),
    "min": lambda x: np.amin(x, axis=0),
    "prod": lambda x: np.prod(x, axis=(0, 1)),
    "cumsum": lambda x: np.cumsum(x, 0),
    "cumprod": np.cumprod,
    "median": lambda x: np.median(x, axis=0),
    "sort": np.sort,
    "norm": lambda x: np.linalg.norm(x, axis=1),
    "concatenate": lambda x: np.concatenate([x, X], axis=1),
    "stack": lambda x: np.stack((x, x)),
    "hstack": lambda x: np.hstack([x, x]),
    "vstack": lambda x: np.vstack([x, x[0]]),
    "column_stack": lambda x: np.column_stack([x, X[:, 0]]),
    "where": lambda x: np.where(X > 0.4, x, 0.0),
    "reshape": lambda x: np.reshape(x, (3, 2)),
    "transpose": np.transpose,
    "swapaxes": lambda x: np.swapaxes(x, 0, 1),
    "moveaxis": lambda x: np.moveaxis(x, 0, -1),
    "expand_dims": lambda x: np.expand_dims(x, 1),
    "squeeze": lambda x: np.squeeze(x[:1]),
    "ravel": np.ravel,
    "tile": lambda x: np.tile(x, (2, 1)),
    "repeat": lambda x: np.repeat(x, 2, axis=1),
    "pad": lambda x: np.pad(x, 1, constant_values=2.0),
    "flip": lambda x: np.flip(x, 0),
    "roll": lambda x: np.roll(x, 1, axis=1),
    "broadcast_to": lambda x: np.broadcast_to(x, (2, 2, 3)),
    "take": lambda x: np.take(x, [1, 0], axis=1),
    "take_along_axis": lambda x: np.take_along_axis(x, np.array([[1], [2]]), axis=1),
    "tril": lambda x: np.tril(x, -1),
    "diagonal": np.diagonal,
    "trace": np.trace,
    "clip": lambda x: np.clip(x, 0.2, 0.6),
    "round": lambda x: np.round(x, 1),
    "nan_to_num": np.nan_to_num,
    "dot": lambda x: np.dot(x, X.T),
    "inner": lambda x: np.inner(x, X),
    "vdot": lambda x: np.vdot(x, X),
    "outer": lambda x: np.outer(x, X),
    "kron": lambda x: np.kron(x, X),
    "tensordot": lambda x: np.tensordot(x, X, axes=([0], [0])),
    "einsum": lambda x: np.einsum("ij,ij->i", x, X),
    "atleast_2d": lambda x: np.atleast_2d(x[0]),
}


@pytest.mark.parametrize("name", UFUNCS.split())
def test_numpys_functions_of_numbers_stay_on_the_tape(name):
    x = leaf()
    y = getattr(np, name)(x)
    assert type(y) is Tensor
    np.testing.assert_array_equal(y.array, getattr(np, name)(X))
    y.sum().backward()
    assert x.grad.shape == X.shape


@pytest.mark.parametrize("name", OF_TWO.split())
def test_an_array_beside_a_tensor_gives_a_tensor(name):
    x = leaf()
    function = getattr(np, name)
    np.testing.assert_allclose(function(X, x).array, function(X, X))
    (function(x, X) + function(X, x)).sum().backward()
    assert x.grad.shape == X.shape


@pytest.mark.parametrize("name", CALLS)
def test_numpys_other_functions_stay_on_the_tape_too(name):
    x = leaf()
    y = CALLS[name](x)
    assert type(y) is Tensor
    np.testing.assert_allclose(y.array, CALLS[name](X), rtol=1e-14)
    y.sum().backward()
    assert x.grad.shape == X.shape


def test_operators_of_arrays_and_numbers_of_numpys():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    assert type(np.ones(2) * x) is Tensor
    assert (np.float64(2) * x).dtype == np.float32
    assert (np.array([1.0, 2.0]) == x).tolist() == [True, False]
    assert (np.eye(2, dtype=np.float32) @ x).requires_grad


def test_what_has_no_gradient_at_all_is_numpys_own():
    x = leaf()
    assert np.shape(x) == (2, 3)
    assert np.ndim(x) == 2
    assert np.allclose(x, X)
    assert np.array_equal(x, x)
    assert type(np.zeros_like(x)) is np.ndarray
    assert np.argmax(x) == 3
    assert np.isfinite(x).array.all()
    assert np.logical_and(x > 0.3, x < 0.6).sum() == 3


def test_what_would_leave_the_tape_says_so():
    x = leaf()
    with pytest.raises(TypeError, match=r"numpy.cov has no gradient here.*tensor.numpy\(\)"):
        np.cov(x)
    with pytest.raises(TypeError, match=r"numpy.linalg.inv has no gradient here"):
        np.linalg.inv(x[:, :2])
    with pytest.raises(TypeError, match=r"numpy.spacing has no gradient here"):
        np.spacing(x)
    with pytest.raises(TypeError, match=r"np.sum of tensors has no argument dtype; it is sum\("):
        np.sum(x, 0, np.float32)
    with pytest.raises(TypeError, match=r"np.add.reduce has no gradient here: sum\(\), prod"):
        np.add.reduce(x)
    with pytest.raises(TypeError, match=r"np.add.at has no gradient here: there is no such"):
        np.add.at(x, [0], 1.0)


@pytest.mark.parametrize(
    "call",
    [
        np.linalg.trace,  # of the last two axes; ours is of the first two
        np.linalg.diagonal,
        np.unique,
        lambda x: np.bincount([0, 1], weights=x[0, :2]),
        lambda x: np.full_like(np.ones(2), x[0, 0]),
        lambda x: np.copyto(x, 0.0),
    ],
)
def test_functions_that_mean_another_thing_or_have_a_gradient_are_refused(call):
    with pytest.raises(TypeError, match="has no gradient here, and would leave the tape"):
        call(leaf())


def test_arguments_that_change_no_number_are_taken():
    x = leaf()
    assert np.sort(x, kind="stable").tolist() == np.sort(x.numpy()).tolist()
    assert np.argsort(x, stable=True).tolist() == np.argsort(x.numpy()).tolist()
    assert np.median(x, overwrite_input=True).item() == np.median(x.numpy())
    assert np.nan_to_num(x, copy=True).requires_grad
    assert np.around(x, 1).tolist() == np.around(x.numpy(), 1).tolist()
    flat = np.take_along_axis(x, np.array([5, 0, 5]), None)
    assert flat.tolist() == x.numpy().ravel()[[5, 0, 5]].tolist()
    flat.sum().backward()
    assert x.grad.tolist() == [[1, 0, 0], [0, 0, 2]]


def test_nothing_is_written_into_an_array_by_a_tensor():
    array = np.ones((2, 3))
    with pytest.raises(TypeError, match=r"goes without out=.*write x = x \+ y"):
        array += leaf()
    with pytest.raises(TypeError, match="goes without out="):
        np.add(leaf(), 1.0, out=array)
    assert (array == 1).all()


def test_every_function_of_ours_that_numpy_has_is_reached_from_there():
    ours = {name for name in tri.__all__ if callable(getattr(np, name, None))}
    assert len(ours) > 90
    assert {"exp", "sum", "median", "kron", "where"} <= ours


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("sum", np.sum),
        ("mean", np.mean),
        ("max", np.max),
        ("prod", np.prod),
        ("var", np.var),
        ("median", np.median),
        ("norm", np.linalg.norm),
        ("cumsum", np.cumsum),
        ("allclose", lambda tensors: np.allclose(tensors, 1.0)),
    ],
)
def test_a_list_of_tensors_does_not_leave_the_tape_without_a_word(name, call):
    with pytest.raises(TypeError, match=rf"np.{name} of a list with a tensor .*: join tensors by"):
        call([leaf(), leaf()])
    call([Tensor(X), Tensor(X)])  # of constants nothing is lost
    w1, w2 = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    np.sum(np.stack([w1, w2]) * [[5.0], [7.0]]).backward()
    assert (w1.grad.tolist(), w2.grad.tolist()) == ([5.0, 5.0], [7.0, 7.0])


def test_ways_out_of_the_tape_are_open():
    x = leaf()
    for array in (np.asarray(x), np.array(x), np.array([x, x])[1], x.numpy()):
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(array, X)
    np.testing.assert_array_equal(x, X)  # numpy's own tests look at numbers


def test_einsum_takes_numpys_word_on_how_to_find_it():
    x = leaf()
    for choice in (True, False, "greedy", ["einsum_path", (0, 1)]):
        assert np.einsum("ij,ij->", x, X, optimize=choice).item() == pytest.approx((X * X).sum())
    np.einsum("ij,ij->", x, X, optimize=True).backward()
    np.testing.assert_array_equal(x.grad, X)


def test_clip_knows_its_bounds_by_both_their_names():
    x = leaf([0.5, 1.5, 2.5])
    out = np.clip(x, min=1.0, max=2.0)
    assert out.tolist() == np.clip(x, 1.0, 2.0).tolist() == x.clip(1.0, 2.0).tolist() == [1, 1.5, 2]
    assert tri.clip(x, max=2.0).tolist() == [0.5, 1.5, 2.0]
    assert np.clip(x, a_min=1.0, max=2.0).tolist() == [1.0, 1.5, 2.0]
    out.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(TypeError, match="a bound under one name: a_min or min"):
        tri.clip(x, 1.0, min=2.0)
