import numpy as np
import pytest

import tricycle_autograd as tri
from tricycle_autograd import Tensor
from tricycle_autograd.testing_device import EmulatedArray

# ---- By hand ----


def test_a_tensor_is_an_array_and_perhaps_a_gradient():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    assert (x.shape, x.ndim, x.size, x.dtype, x.device) == ((2, 2), 2, 4, np.float32, "cpu")
    assert x.requires_grad
    assert x.grad is None
    (x * x).sum().backward()
    assert x.grad.tolist() == [[2, 4], [6, 8]]


def test_memory_is_shared_with_the_array_given():
    array = np.zeros(3)
    x = Tensor(array)
    array[0] = 5
    assert x.tolist() == [5, 0, 0]
    assert x.array is array
    assert x.numpy() is array


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1.5, np.float32),
        ([1.5, 2], np.float32),
        (2, np.int64),
        ([True, False], np.bool_),
        (np.float64(1), np.float64),
        (np.ones(2, np.float16), np.float16),
        (np.ones(2, np.uint8), np.uint8),
    ],
)
def test_python_floats_become_float32_and_everything_else_stays(value, dtype):
    assert Tensor(value).dtype == dtype


def test_results_with_no_axes_are_arrays_too():
    for result in (Tensor([1.0, 2.0]).sum(), Tensor(1.0) + 1, Tensor(2.0) ** 2, Tensor([1.0])[0]):
        assert type(result.array) is np.ndarray
        assert result.shape == ()


def test_a_memory_map_becomes_a_plain_array_over_the_same_memory(tmp_path):
    mapped = np.memmap(tmp_path / "numbers", np.float32, "w+", shape=3)
    x = Tensor(mapped)
    assert type(x.array) is np.ndarray
    assert np.shares_memory(x.array, mapped)


# ---- Numbers out ----


def test_numbers_come_out_as_python_knows_them():
    assert Tensor(2.5).item() == 2.5
    assert float(Tensor([2.5])[0]) == 2.5
    assert int(Tensor(7)) == 7
    assert [10, 20, 30][Tensor(1)] == 20
    assert Tensor([[1, 2]]).tolist() == [[1, 2]]
    assert len(Tensor([1, 2, 3])) == 3
    assert [row.tolist() for row in Tensor([[1, 2], [3, 4]])] == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match=r"exactly one number, this tensor has shape \(2,\)"):
        Tensor([1, 2]).item()
    with pytest.raises(TypeError, match="unsized"):
        len(Tensor(1.0))
    with pytest.raises(TypeError, match="unsized"):
        list(Tensor(1.0))


def test_truth_is_that_of_numpy():
    assert bool(Tensor(1.0)) is True
    assert bool(Tensor([0])) is False
    assert bool(Tensor([1.0]) == Tensor([1.0]))
    with pytest.raises(ValueError, match=r"ambiguous.*any\(\) or a.all\(\)"):
        bool(Tensor([1.0, 2.0]))


def test_numpy_reads_tensors():
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert np.asarray(x) is x.array
    assert np.array(x, dtype=np.int32).tolist() == [1, 2]
    assert not np.shares_memory(np.array(x), x.array)
    assert np.shares_memory(np.from_dlpack(x), x.array)
    np.testing.assert_allclose(x, [1, 2])


def test_numpys_operators_and_functions_give_tensors():
    x, array = Tensor([1.0, 2.0]), np.array([10.0, 20.0])
    assert isinstance(array + x, Tensor)
    assert isinstance(array @ x, Tensor)
    for function in (np.add, np.multiply):
        assert isinstance(function(array, x), Tensor)
    with pytest.raises(TypeError):
        array += x


def test_what_is_printed():
    assert repr(Tensor([1.0, 2.5])) == "Tensor([1. , 2.5])"
    assert repr(Tensor([1, 2])) == "Tensor([1, 2], dtype=int64)"
    assert repr(Tensor(1.0, requires_grad=True)) == "Tensor(1., requires_grad=True)"
    there = Tensor(np.ones(1, np.float32).view(EmulatedArray))
    assert "device='cuda'" in repr(there)


def test_tensors_can_be_keys_by_identity():
    a, b = Tensor([1.0]), Tensor([1.0])
    names = {a: "a", b: "b"}
    assert names[a] == "a"
    assert names[b] == "b"


def test_every_method_of_numpy_calls_its_function():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    calls = {
        "sum": (1,), "mean": (0,), "var": (0,), "std": (1,), "max": (0,), "min": (1,),
        "prod": (0,), "cumsum": (1,), "argmax": (0,), "argmin": (1,), "all": (0,), "any": (1,),
        "trace": (1,), "clip": (1.0, 2.0), "astype": (np.int8,), "transpose": (1, 0),
        "reshape": (3, 2), "ravel": (), "flatten": (), "squeeze": (), "swapaxes": (0, 1),
        "repeat": (2, 1), "take": ([0, 2], 1), "diagonal": (1,),
    }  # fmt: skip
    for name, arguments in calls.items():
        expected = getattr(x.array, name)(*arguments)
        np.testing.assert_array_equal(getattr(x, name)(*arguments).array, expected, err_msg=name)
    assert x.T.shape == (3, 2)
    assert x.transpose().shape == x.transpose((1, 0)).shape == (3, 2)
    assert x.reshape(-1).shape == x.reshape((6,)).shape == (6,)
    assert x[1, ::2].tolist() == [3, 5]
    assert (x @ x.T).tolist() == [[5, 14], [14, 50]]
    assert (np.ones((1, 2)) @ x).tolist() == [[3, 5, 7]]


# ---- Errors ----


def test_integers_cannot_have_gradients():
    with pytest.raises(TypeError, match=r"only floating point tensors.*this one is int64.*astype"):
        Tensor([1, 2], requires_grad=True)


@pytest.mark.parametrize("value", ["text", None, 1j, [1, "two"], object()])
def test_what_is_not_numbers_is_refused(value):
    with pytest.raises(TypeError, match="a tensor holds numbers, got an array of dtype"):
        Tensor(value)


def test_a_tensor_of_a_tensor_is_refused():
    with pytest.raises(TypeError, match="a Tensor already.*detach"):
        Tensor(Tensor(1.0))


def test_tensors_cannot_be_written_into():
    x = Tensor([1.0, 2.0])
    with pytest.raises(TypeError, match=r"cannot be written into.*where\(\)"):
        x[0] = 5
    before = x
    x += 1  # a new tensor
    assert x is not before
    assert before.tolist() == [1, 2]


def test_backward_needs_a_gradient_unless_there_is_one_number():
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match=r"shape \(2,\) needs the gradient.*pass grad="):
        (x * 2).backward()
    (x * 2).backward(np.array([1.0, 10.0]))
    assert x.grad.tolist() == [2, 20]
    x.grad = None
    (x * 2)[:1].backward()  # one number, whatever its axes
    assert x.grad.tolist() == [2, 0]


def test_a_gradient_of_another_shape_or_device_is_refused():
    y = Tensor([1.0, 2.0], requires_grad=True) * 2
    with pytest.raises(ValueError, match=r"the tensor's shape \(2,\), got \(3,\)"):
        y.backward(np.ones(3))
    with pytest.raises(ValueError, match="the gradient is on cuda, its tensor on cpu"):
        y.backward(np.ones(2, np.float32).view(EmulatedArray))
    y.backward(Tensor([1.0, 1.0]))


def test_gradients_can_be_set():
    x = Tensor([1.0, 2.0], requires_grad=True)
    x.grad = [3.0, 4.0]
    assert x.grad.dtype == np.float32
    x.sum().backward()
    assert x.grad.tolist() == [4, 5]
    with pytest.raises(RuntimeError, match="has no gradient to set"):
        Tensor([1.0]).grad = [1.0]
    with pytest.raises(ValueError, match=r"the tensor's shape \(2,\), got \(1,\)"):
        x.grad = [1.0]


def test_backward_of_a_constant_is_refused():
    with pytest.raises(RuntimeError, match="depends on nothing with requires_grad=True"):
        tri.exp(Tensor(1.0)).backward()


def test_a_list_of_tensors_with_gradients_is_refused():
    x = Tensor(2.0, requires_grad=True)
    for value in ([x * x, x], [[1.0], [x]], (x,)):
        with pytest.raises(TypeError, match=r"list of tensors with gradients.*stack\(\)"):
            Tensor(value)
    assert Tensor([x.detach(), 3.0]).tolist() == [2, 3]


# ---- What Python does with numbers ----


def test_one_number_is_formatted_and_rounded_as_pythons_are():
    loss = Tensor(2.34567)
    assert f"{loss:.3f}" == "2.346"
    assert f"{Tensor([7]):>3d}" == "  7"
    assert f"{Tensor([1.0, 2.0])}" == "Tensor([1., 2.])"
    assert round(loss, 2) == 2.35
    assert round(Tensor(2.5)) == 2
    assert round(Tensor([1.26, 2.0]), 1).tolist() == pytest.approx([1.3, 2.0])
    with pytest.raises(
        TypeError, match=r"'.2f' is for one number, and this tensor has shape \(2,\)"
    ):
        f"{Tensor([1.0, 2.0]):.2f}"


def test_what_has_no_numbers_is_never_equal():
    x = Tensor([1.0])
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert (x == "one") is False
    assert x in [None, x]
    assert (x == [1.0]).tolist() == [True]
