import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from tricycle_autograd import Tensor
from tricycle_autograd.arrays import (
    as_dtype,
    as_rows,
    contiguous,
    empty,
    empty_like,
    in_float32,
    is_floating,
    is_half,
    kernel_inputs,
    rows_contiguous,
)
from tricycle_autograd.testing_device import EmulatedArray, emulated


def test_bfloat16_has_a_name_though_numpy_may_not_know_it(monkeypatch):
    assert as_dtype("bfloat16") == ml_dtypes.bfloat16
    assert as_dtype(ml_dtypes.bfloat16) == ml_dtypes.bfloat16
    assert as_dtype("float32") == np.float32
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="bfloat16 needs ml_dtypes.* pip install ml-dtypes"):
        as_dtype("bfloat16")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_floats_of_every_width_are_floating(dtype):
    assert is_floating(np.dtype(dtype))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool, "V2", "S2", complex])
def test_nothing_else_is_floating(dtype):
    assert not is_floating(np.dtype(dtype))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_are_widened(dtype):
    x = np.ones(2, dtype)
    assert is_half(x.dtype)
    assert (in_float32(x).dtype, in_float32(x).tolist()) == (np.float32, [1, 1])


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_other_numbers_are_not_widened(dtype):
    x = np.ones(2, dtype)
    assert not is_half(x.dtype)
    assert in_float32(x) is x


def test_bfloat16_is_known_without_importing_it():
    code = "import sys, tricycle_autograd; print('ml_dtypes' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_arrays_are_copied_only_where_their_memory_has_another_order():
    x = np.ones((2, 3), np.float32)
    assert contiguous(x) is x
    assert contiguous(x.T).flags.c_contiguous
    assert rows_contiguous(x) is x
    wide = np.ones((2, 6), np.float32)[:, :3]
    assert rows_contiguous(wide) is wide
    assert rows_contiguous(x.T).flags.c_contiguous
    never_written = np.broadcast_to(np.float32(1), (2, 3))
    assert rows_contiguous(never_written).flags.writeable


def test_rows_are_counted_also_where_they_are_empty():
    assert as_rows(np.ones((2, 3, 4))).shape == (6, 4)
    assert as_rows(np.ones((2, 3, 0))).shape == (6, 0)
    assert as_rows(np.ones(4)).shape == (1, 4)


@pytest.mark.parametrize("like", [np.ones(1), emulated(np.ones(1))], ids=["cpu", "cuda"])
def test_room_for_a_result_is_where_its_inputs_are(like):
    made = empty((2, 3), np.float32, like=like)
    assert (type(made), made.shape, made.dtype) == (type(like), (2, 3), np.float32)


def test_room_like_an_array_is_in_order_whatever_the_array_is():
    x = emulated(np.ones((2, 3), np.float32)).T
    made = empty_like(x)
    assert (type(made), made.shape, made.dtype) == (EmulatedArray, (3, 2), np.float32)
    assert made.flags.c_contiguous


def test_a_copy_stays_on_its_device():
    x = emulated(np.ones((2, 3), np.float32))
    for copy in (contiguous(x.T), rows_contiguous(x.T), as_rows(x)):
        assert type(copy) is EmulatedArray
    assert contiguous(emulated(np.float32(1))).shape == ()


# ---- Inputs of kernels ----


def test_inputs_come_out_as_kernels_want_them():
    x = np.ones((2, 3), np.float32)
    assert kernel_inputs("double", Tensor(x)) is x
    first, second = kernel_inputs("double", Tensor(x), Tensor(x.T))
    assert first is x
    assert second.flags.c_contiguous
    wide = np.ones((2, 6), np.float32)[:, :3]
    assert kernel_inputs("double", Tensor(wide), layout=rows_contiguous).base is wide.base


def test_inputs_may_be_on_the_gpu():
    there = emulated(np.ones(2, np.float32))
    assert kernel_inputs("double", Tensor(there)) is there


def test_inputs_that_kernels_cannot_take_are_refused():
    with pytest.raises(TypeError, match=r"double works on tensors, got ndarray; .*Tensor\(array\)"):
        kernel_inputs("double", np.ones(2, np.float32))
    message = r"double has kernels for float32 on cpu, got {}; convert it with .astype"
    for dtype in ("float64", "float16", "int64", ">f4"):
        with pytest.raises(TypeError, match=message.format(dtype)):
            kernel_inputs("double", Tensor(np.ones(2, dtype)))
    there = Tensor(emulated(np.ones(2)))
    with pytest.raises(TypeError, match="kernels for float32 and bfloat16 on cuda, got float64"):
        kernel_inputs("double", there)


def test_inputs_on_two_devices_are_refused():
    here, there = Tensor(np.float32([1])), Tensor(emulated(np.float32([1])))
    with pytest.raises(ValueError, match=r"double: .*different devices \(cpu, cuda\); move them"):
        kernel_inputs("double", here, there)
