import copy
import ctypes
import gc
import os
import platform
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_autograd import Tensor, no_grad
from tricycle_autograd.memory import (
    ALIGNMENT,
    Arena,
    _arena_of,
    aligned_zeros,
    flat_zeros,
    give_back_freed_memory,
    joined,
    keep_freed_memory,
    with_zero_rows,
)
from tricycle_autograd.testing_device import EmulatedArray, emulated

SHAPES = st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), min_size=1, max_size=6)


def leaf(*shape, value=1.0):
    return Tensor(np.full(shape, value, np.float32), requires_grad=True)


# ---- By hand ----


def test_windows_start_every_sixteen_floats():
    a, b = leaf(3, value=1.0), leaf(4, 5, value=2.0)
    arena = Arena([a, b])
    assert arena.starts == [0, 16, 48]  # 3 floats take one line of 16, 20 floats take two
    expected = [1.0] * 3 + [0.0] * 13 + [2.0] * 20 + [0.0] * 12
    assert arena.values.tolist() == expected


def test_a_change_of_the_flat_array_is_a_change_of_the_tensors():
    a, b = leaf(3), leaf(2, 2)
    arena = Arena([a, b])
    arena.values *= 5
    assert a.tolist() == [5.0, 5.0, 5.0]
    assert b.tolist() == [[5.0, 5.0], [5.0, 5.0]]


def test_a_gradient_is_found_in_the_flat_array():
    a, b = leaf(3), leaf(2)
    arena = Arena([a, b])
    ((a * 3.0).sum() + (b * 4.0).sum()).backward()
    assert arena.gradients[:3].tolist() == [3.0, 3.0, 3.0]
    assert arena.gradients[16:18].tolist() == [4.0, 4.0]
    assert np.shares_memory(a.grad, arena.gradients)


def test_windows_that_follow_each_other_are_joined():
    a, b, c = leaf(3, value=1.0), leaf(4, 5, value=2.0), leaf(2, value=3.0)
    arena = Arena([a, b, c])
    outside = np.full((2, 2), 4, np.float32)
    arrays = [a.array, b.array, outside, c.array, a.array]
    flat = [array.tolist() for array in joined(arrays)]
    assert flat == [[1.0] * 3 + [0.0] * 13 + [2.0] * 20, [4.0] * 4, [3.0] * 2, [1.0] * 3]
    assert np.shares_memory(next(joined(arrays)), arena.values)


def test_a_window_that_is_left_out_is_not_joined_in():
    a, b, c = leaf(16, value=1.0), leaf(1, value=2.0), leaf(16, value=3.0)
    arena = Arena([a, b, c])
    assert [flat.size for flat in joined([a.array, c.array])] == [16, 16]
    (whole,) = joined([a.array, b.array, c.array])
    assert np.shares_memory(whole, arena.values)
    assert whole.size == arena.values.size


def test_the_first_gradient_overwrites_and_the_second_adds():
    a = leaf(2)
    arena = Arena([a])
    arena.gradients[:] = 99.0  # left over from an earlier step
    (a * 3.0).sum().backward()
    assert a.grad.tolist() == [3.0, 3.0]
    (a * 4.0).sum().backward()
    assert a.grad.tolist() == [7.0, 7.0]


def test_runs_leave_out_the_tensors_without_a_gradient():
    a, b, c = leaf(3), leaf(17), leaf(2)
    arena = Arena([a, b, c])
    assert arena.runs_with_gradient() == []
    a.grad = np.ones(3, np.float32)
    c.grad = np.ones(2, np.float32)
    assert arena.runs_with_gradient() == [(0, 16), (48, 64)]
    b.grad = np.ones(17, np.float32)
    assert arena.runs_with_gradient() == [(0, 64)]


@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("upload", [np.asarray, emulated])
def test_an_arena_has_the_dtype_and_the_device_of_its_tensors(dtype, upload):
    """But that gradients of bfloat16 are float32, and windows on a GPU start at 256 bytes."""
    a, b = [Tensor(upload(np.ones(n, dtype)), requires_grad=True) for n in (3, 20)]
    arena = Arena([a, b])
    line = (64 if upload is np.asarray else 256) // np.dtype(dtype).itemsize
    assert arena.starts[:2] == [0, line]
    exact = np.float64 if dtype is np.float64 else np.float32
    for flat, its_dtype in ((arena.values, dtype), (arena.gradients, exact)):
        assert flat.dtype == its_dtype
        assert type(flat) is type(a.array) is type(upload(np.ones(1)))
    b.grad = upload(np.full(20, 2, dtype))
    assert arena.runs_with_gradient() == [(line, arena.starts[2])]
    assert arena.gradients[line : line + 20].tolist() == [2.0] * 20
    (flat,) = joined([a.array, b.array])
    assert flat.size == line + 20


def test_a_matrix_on_the_gpu_has_zero_rows_behind_it():
    table, vector = [Tensor(emulated(np.ones(shape)), requires_grad=True) for shape in ((67, 3), 5)]
    arena = Arena([table, vector])
    whole = with_zero_rows(table.array)
    assert whole.shape == (128, 3)
    assert whole[:67].tolist() == table.array.tolist()
    assert not whole[67:].any()
    assert np.shares_memory(np.asarray(whole), np.asarray(arena.values))
    assert with_zero_rows(arena.gradient_windows[0]).shape == (128, 3)
    assert arena.starts[1] == 128 * 3
    for other in (vector.array, emulated(np.ones((3, 2))), np.ones((3, 2))):
        assert with_zero_rows(other) is other
    here = Tensor(np.ones((67, 3)), requires_grad=True)
    assert Arena([here]).starts[1] == 208  # on the CPU there is room for what is there
    assert with_zero_rows(here.array) is here.array


def test_windows_are_forgotten_with_their_arena():
    a = leaf(3)
    arena = Arena([a])
    (window,) = arena.windows(arena.values)
    places = set(arena.places)
    assert places <= set(_arena_of.keys())
    del arena
    gc.collect()
    assert not places & set(_arena_of.keys())
    assert [flat.tolist() for flat in joined([a.array, window])] == [[1.0] * 3] * 2


def test_flat_zeros_are_where_the_other_array_is():
    assert flat_zeros(3, np.float32, np.ones(1)).tolist() == [0.0] * 3
    assert type(flat_zeros(3, np.float32, emulated(np.ones(1)))) is EmulatedArray


# ---- Coming home ----


def test_adopting_keeps_the_numbers_and_the_gradient_a_tensor_had():
    a = leaf(3)
    (a * 2.0).sum().backward()
    arena = Arena([a])
    assert a.tolist() == [1.0, 1.0, 1.0]
    assert a.grad.tolist() == [2.0, 2.0, 2.0]
    assert np.shares_memory(a.array, arena.values)
    assert np.shares_memory(a.grad, arena.gradients)


def test_a_tensor_with_a_new_array_is_brought_back():
    a = leaf(3)
    arena = Arena([a])
    a.array = np.array([7.0, 8.0, 9.0], np.float32)
    arena.adopt()
    assert a.array is arena.value_windows[0]
    assert arena.values[:3].tolist() == [7.0, 8.0, 9.0]


def test_a_tensor_goes_back_and_forth_between_two_arenas():
    a = leaf(2)
    first, second = Arena([a]), Arena([a])
    assert a.array is second.value_windows[0]
    (a * 3.0).sum().backward()
    second.values[:2] = 5.0
    first.adopt()
    assert a.array is first.value_windows[0]
    assert a.tolist() == [5.0, 5.0]
    assert np.shares_memory(a.grad, first.gradients)
    assert a.grad.tolist() == [3.0, 3.0]


def test_an_array_that_was_given_is_left_behind_unchanged():
    array = np.ones(3, np.float32)
    arena = Arena([Tensor(array, requires_grad=True)])
    arena.values[:] = 5.0
    assert array.tolist() == [1.0, 1.0, 1.0]


# ---- Properties ----


@given(shapes=SHAPES)
def test_every_window_is_aligned_apart_and_of_its_tensors_shape(shapes):
    tensors = [leaf(*shape, value=i + 1.0) for i, shape in enumerate(shapes)]
    arena = Arena(tensors)
    owners = np.zeros(arena.values.size, int)
    for tensor, start in zip(tensors, arena.starts, strict=False):
        owners[start : start + tensor.size] += 1
    assert owners.max(initial=0) <= 1
    for i, (window, shape) in enumerate(zip(arena.value_windows, shapes, strict=True)):
        assert window.shape == shape
        assert (window == i + 1.0).all()
        assert window.size == 0 or window.ctypes.data % ALIGNMENT == 0
    assert arena.values.sum() == sum((i + 1.0) * t.size for i, t in enumerate(tensors))


@given(shapes=SHAPES)
def test_the_padding_stays_zero_through_a_backward_pass(shapes):
    tensors = [leaf(*shape) for shape in shapes]
    arena = Arena(tensors)
    sum((tensor.sum() for tensor in tensors), Tensor(0.0)).backward()
    assert arena.gradients.sum() == sum(tensor.size for tensor in tensors)


@given(size=st.integers(0, 300), dtype=st.sampled_from([np.float32, np.float64, np.uint8]))
def test_aligned_zeros_are_zeros_on_a_cache_line(size, dtype):
    array = aligned_zeros(size, dtype)
    assert array.shape == (size,) and array.dtype == dtype
    assert not array.any()
    assert size == 0 or array.ctypes.data % 64 == 0


# ---- Errors ----


def test_a_tensor_listed_twice_is_refused():
    a = leaf(2)
    with pytest.raises(ValueError, match="a parameter is listed twice; give each one to"):
        Arena([a, a])


def test_the_result_of_an_operation_is_refused():
    with pytest.raises(TypeError, match="looks after leaves: Parameters, or Tensors made with"):
        Arena([leaf(2) * 2.0])
    with no_grad(), pytest.raises(TypeError, match="looks after leaves"):
        Arena([Tensor([1.0])])


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"Parameters, got a tuple; pass model\.parameters\(\)"):
        Arena([("weight", leaf(2))])


def test_another_dtype_is_refused_with_the_way_out():
    for array in (np.ones(2, np.float16), np.ones(2, ">f4")):
        tensor = Tensor(array, requires_grad=True)
        with pytest.raises(TypeError, match=r'float16 on cpu|>f4 on cpu; .*\("cpu", "float32"\)'):
            Arena([tensor])


def test_tensors_that_differ_in_dtype_or_device_are_refused():
    wide = Tensor(np.ones(2), requires_grad=True)
    message = "one dtype and one device, got float32 on cpu and float64 on cpu; bring the model"
    with pytest.raises(TypeError, match=message):
        Arena([leaf(2), wide])
    there = Tensor(emulated(np.ones(2, np.float32)), requires_grad=True)
    with pytest.raises(TypeError, match="got float32 on cpu and float32 on cuda"):
        Arena([leaf(2), there])


def test_a_tensor_that_became_float64_is_refused_when_it_should_come_home():
    a = leaf(2)
    arena = Arena([a])
    a.array = a.array.astype(np.float64)
    message = (
        r'of float32 parameters on cpu got float64 on cpu; .* model.to\("cpu", "float32"\), or'
    )
    with pytest.raises(TypeError, match=message):
        arena.adopt()


def test_a_tensor_that_changed_its_shape_is_refused():
    a = leaf(3)
    arena = Arena([a])
    a.array = np.ones(1, np.float32)  # would be repeated three times if nobody looked
    with pytest.raises(ValueError, match=r"shape \(3,\) was given an array of shape \(1,\)"):
        arena.adopt()


def test_the_memory_of_freed_arrays_is_used_again():
    """On glibc: making and freeing 20 MB again and again touches no new pages (16 KB or so)."""
    code = """
import resource
import numpy as np
from tricycle_autograd.memory import keep_freed_memory

keep_freed_memory()
def step():
    return [np.ones(250_000, np.float32) for _ in range(20)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True)
    if platform.libc_ver()[0] == "glibc":
        assert int(done.stdout) < 500  # without it about 49,000: 200 MB in pages of 4 KB
    assert done.returncode == 0, done.stderr


def test_who_has_settings_of_his_own_keeps_them(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("the C library was asked"))
    assert keep_freed_memory() is None


def test_giving_memory_back_takes_nothing_that_is_in_use():
    array = np.arange(100_000)
    give_back_freed_memory()
    assert array.sum() == 4_999_950_000


@given(SHAPES, st.sets(st.integers(0, 5)))
def test_joined_windows_hold_the_numbers_of_each_in_order_and_zeros(shapes, left_out):
    tensors = [leaf(*shape, value=i + 1.0) for i, shape in enumerate(shapes)]
    arena = Arena(tensors)
    chosen = [t.array for i, t in enumerate(tensors) if i not in left_out and t.size]
    stretches = list(joined(chosen))
    assert all(flat.base is arena.values.base for flat in stretches)
    found = [number for flat in stretches for number in flat.tolist() if number]
    assert found == [number for array in chosen for number in array.reshape(-1).tolist()]


def test_a_shallow_copy_of_an_arena_takes_no_tensor_away():
    a = Tensor(np.ones(3, np.float32), requires_grad=True)
    arena = Arena([a])
    assert copy.copy(arena) is arena
    assert np.shares_memory(a.array, arena.values)
