"""Products on the GPU, as far as they can be known without one and without NVIDIA's library.

What needs the library is in tests/cuda, and runs in an environment of its own: hatch run cuda:test.
"""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_autograd import product_choices
from tricycle_autograd.cublaslt import DEFAULT, Operand, Problem, problem_of, product
from tricycle_autograd.devices import move
from tricycle_autograd.testing import draw
from tricycle_autograd.testing_device import emulated

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def on_gpu(array, dtype=np.float32):
    return emulated(np.array(array, dtype))


def precise(array):
    return move(array, "cpu").astype(np.float64)


def test_two_products_by_hand():
    a, b, out = on_gpu([[1, 2], [3, 4]]), on_gpu([[5, 6], [7, 8]]), on_gpu([[0, 0], [0, 0]])
    product(out, a, b)
    np.testing.assert_array_equal(precise(out), [[19, 22], [43, 50]])
    product(out, a, b.T, add=True)
    np.testing.assert_array_equal(precise(out), [[19 + 17, 22 + 23], [43 + 39, 50 + 53]])


def test_a_bias_is_added_to_every_row():
    out = on_gpu([[0, 0], [0, 0]])
    product(out, on_gpu([[1, 2], [3, 4]]), on_gpu([[1, 0], [0, 1]]), bias=on_gpu([10, 20]))
    np.testing.assert_array_equal(precise(out), [[11, 22], [13, 24]])


sizes = st.integers(1, 9)


@given(M=sizes, N=sizes, K=sizes, turned=st.tuples(st.booleans(), st.booleans()), gap=sizes)
def test_matrices_may_lie_in_rows_or_columns_with_gaps(M, N, K, turned, gap):
    def lying(rows, columns, in_columns):
        if in_columns:
            return on_gpu(draw(columns, rows + gap))[:, :rows].T
        return on_gpu(draw(rows, columns + gap))[:, :columns]

    a, b, out = lying(M, K, turned[0]), lying(K, N, turned[1]), lying(M, N, False)
    before = precise(out)
    product(out, a, b, add=True)
    np.testing.assert_allclose(precise(out), before + precise(a) @ precise(b), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_added_up_in_float32_and_rounded_once():
    ones, out = on_gpu(np.ones((1, 1000)), BFLOAT16), on_gpu([[0]], BFLOAT16)
    product(out, ones, ones.T)
    assert float(out[0, 0]) == 1000  # a sum in bfloat16 would stop at 256
    third = on_gpu(np.full((1, 3), 1 / 3), BFLOAT16)
    product(out, third, third.T)
    assert out[0, 0] == np.float32(3 * float(third[0, 0]) ** 2).astype(BFLOAT16)


def test_float32_results_of_bfloat16_lose_nothing_over_micro_batches():
    a, total = on_gpu(draw(4, 3), BFLOAT16), on_gpu(np.zeros((4, 4)))
    for _ in range(300):
        product(total, a, a.T, add=True)
    np.testing.assert_allclose(
        precise(total), 300 * precise(a) @ precise(a).T, rtol=1e-4, atol=1e-4
    )


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_gelu_with_what_the_way_back_needs():
    a, b, bias = on_gpu(draw(5, 4)), on_gpu(draw(4, 8)), on_gpu(draw(8))
    out, x = on_gpu(np.zeros((5, 8))), on_gpu(np.zeros((5, 8)))
    product(out, a, b, bias=bias, gelu_of=x)
    wanted = precise(a) @ precise(b) + precise(bias)
    np.testing.assert_allclose(precise(x), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(precise(out), gelu(wanted), rtol=1e-5, atol=1e-5)


def test_a_product_times_the_slope_of_gelu():
    dy, w, x = on_gpu(draw(5, 4)), on_gpu(draw(8, 4)), on_gpu(draw(5, 8))
    out, step = on_gpu(np.zeros((5, 8))), 1e-6
    product(out, dy, w.T, d_gelu_at=x)
    slope = (gelu(precise(x) + step) - gelu(precise(x) - step)) / (2 * step)
    np.testing.assert_allclose(
        precise(out), precise(dy) @ precise(w).T * slope, rtol=1e-4, atol=1e-4
    )


def test_sums_of_nothing_are_zero_and_nothing_is_written_into_nothing():
    out = on_gpu([[7, 7]])
    product(out, on_gpu(np.zeros((1, 0))), on_gpu(np.zeros((0, 2))))
    np.testing.assert_array_equal(precise(out), [[0, 0]])
    product(on_gpu(np.zeros((0, 2))), on_gpu(np.zeros((0, 3))), on_gpu(np.zeros((3, 2))))


def test_the_library_is_told_how_memory_is_aligned_and_no_more():
    block = on_gpu(np.zeros((64, 64)), BFLOAT16)
    block = block[block.ctypes.data % 256 // 2 :] if block.ctypes.data % 256 == 0 else block
    start = block.ctypes.data
    for offset in range(5):
        part = block[:8, offset : offset + 8]
        known = problem_of(part, part, part).out.aligned
        assert (start + 2 * offset) % known == 0
        assert known == 256 or (start + 2 * offset) % (2 * known)


def test_problems_of_one_kind_share_a_plan_and_others_do_not():
    same = {"types": ("float32",) * 2, "out": Operand(4, False, 256), "a": Operand(3, False, 256)}
    first, second = (Problem(2, 4, 3, b=Operand(4, False, 64), **same) for _ in range(2))
    assert first == second and hash(first) == hash(second)
    assert first != Problem(2, 4, 3, b=Operand(4, False, 2), **same)
    assert first.epilogue == DEFAULT


# ---- Choices ----


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("TRICYCLE_PRODUCT_CHOICES", str(tmp_path / "folder" / "choices.json"))
    return tmp_path / "folder" / "choices.json"


def a_problem(M):
    operand = Operand(8, False, 256)
    return Problem(M, 8, 8, ("bfloat16", "bfloat16"), operand, operand, operand)


def test_a_choice_is_found_for_its_gpu_version_and_problem_only(file):
    assert product_choices.read(131000, a_problem(1), "H100") is None
    product_choices.write(131000, {a_problem(1): bytes(range(64))}, "H100")
    product_choices.write(131000, {a_problem(2): bytes(64)}, "H100")
    assert product_choices.read(131000, a_problem(1), "H100") == bytes(range(64))
    assert product_choices.read(131000, a_problem(2), "H100") == bytes(64)
    assert product_choices.read(131000, a_problem(3), "H100") is None
    assert product_choices.read(120900, a_problem(1), "H100") is None
    assert product_choices.read(131000, a_problem(1), "A100") is None


@pytest.mark.parametrize("text", ["{", "[1]", '{"H100, 1": {"a": "00"}}', '{"H100, 1": 7}'])
def test_a_file_that_holds_something_else_says_so(file, text):
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(ValueError, match=r"choices\.json should hold algorithms .* delete it,"):
        product_choices.read(131000, a_problem(1), "H100")


# ---- Errors ----


def test_shapes_that_do_not_fit_are_named():
    x = on_gpu(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"\(M, N\), \(M, K\), \(K, N\), got \(2, 3\), \(2, 3\)"):
        product(x, x, x)
    with pytest.raises(
        ValueError, match=r"a bias of shape \(2,\) and out's dtype float32, got \(3"
    ):
        product(on_gpu(np.zeros((2, 2))), x, x.T, bias=x[0])


def test_dtypes_that_do_not_fit_are_named():
    half, single = on_gpu(np.zeros((2, 2)), BFLOAT16), on_gpu(np.zeros((2, 2)))
    with pytest.raises(TypeError, match="got out bfloat16, a float32, b float32"):
        product(half, single, single)
    with pytest.raises(TypeError, match="got out float32, a float32, b bfloat16"):
        product(single, single, half)


def test_memory_that_lies_in_neither_rows_nor_columns_is_refused():
    good, block = on_gpu(np.zeros((2, 2))), on_gpu(np.zeros((4, 4)))
    with pytest.raises(
        ValueError, match=r"wants a with neighbours .* strides \(32, 8\): pass a copy"
    ):
        product(good, block[::2, ::2], good)
    with pytest.raises(ValueError, match="wants b with neighbours"):
        product(good, good, np.broadcast_to(good[0], (2, 2)))
    with pytest.raises(ValueError, match="product writes rows"):
        product(block.T, block, block)


def test_what_gelu_cannot_do_is_refused():
    x, narrow = on_gpu(np.zeros((4, 4))), on_gpu(np.zeros((4, 12)))[:, :4]
    with pytest.raises(ValueError, match="a multiple of 8 numbers apart, got .* 12 apart"):
        product(x, x, x, d_gelu_at=narrow)
    with pytest.raises(ValueError, match="gelu_of with a bias, and d_gelu_at without one"):
        product(x, x, x, gelu_of=x)
    with pytest.raises(ValueError, match="GELU's input in out's shape and a's dtype"):
        product(x, x, x, d_gelu_at=x[:2])
