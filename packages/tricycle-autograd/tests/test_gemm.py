import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_autograd.cpu import cpu_kernel, prange
from tricycle_autograd.gemm import _cut, multiply, multiply_in_pieces, product
from tricycle_autograd.gemm_one_row import PIECE_NUMBERS

UNTOUCHED = np.float32(-77)


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


# Every way in which an (M, N) matrix may lie in memory.
LAYOUTS = {
    "rows": lambda shape: draw(*shape),
    "columns": lambda shape: draw(*shape[::-1]).T,
    "slice of rows": lambda shape: draw(shape[0] + 3, shape[1] + 5)[2:-1, 1:-4],
    "slice of columns": lambda shape: draw(shape[1] + 3, shape[0] + 5).T[1:-4, 2:-1],
    "every second": lambda shape: draw(2 * shape[0], 3 * shape[1])[::2, ::3],
    "backwards": lambda shape: draw(*shape)[::-1, ::-1],
    "one row, repeated": lambda shape: np.broadcast_to(draw(1, shape[1]), shape),
}
layouts = st.sampled_from(sorted(LAYOUTS))
# Around the tiles' sizes, and around the parts' sizes.
sizes = st.one_of(st.integers(0, 70), st.sampled_from([95, 96, 97, 511, 512, 513, 530]))


def assert_product(run, M, N, K, a_layout, b_layout, add):
    """run(out, a, b, add) puts a @ b into a slice of an array, and touches nothing beside it."""
    a, b = LAYOUTS[a_layout]((M, K)), LAYOUTS[b_layout]((K, N))
    around = np.full((M + 4, N + 7), UNTOUCHED)
    out = around[2 : 2 + M, 3 : 3 + N]
    out[...] = 0.5
    expected = a.astype(np.float64) @ b + (0.5 if add else 0)
    run(out, a, b, add)
    # Of K roundings each is wrong by 2^-24 of the sum so far, at most, which Σ |a| |b| bounds.
    tolerance = 2**-24 * (K + 2) * (np.abs(a).astype(np.float64) @ np.abs(b) + 1)
    assert (np.abs(out - expected) <= tolerance).all()
    out[...] = UNTOUCHED
    assert (around == UNTOUCHED).all()


@cpu_kernel
def multiply_stacks(out, a, b, add):
    """The products of two stacks of matrices, one each thread: as attention calls multiply."""
    for i in prange(out.shape[0]):
        multiply(out[i], a[i], b[i], add)


@cpu_kernel(signature="void(float32[:, :], float32[:, :], float32[:, :], boolean)")
def multiply_alone(out, a, b, add):
    for _ in prange(1):
        multiply(out, a, b, add)


# ---- By hand ----


def test_a_product_by_hand():
    a = np.array([[1, 2], [3, 4]], np.float32)
    b = np.array([[10, 20, 30], [1, 2, 3]], np.float32)
    out = np.ones((2, 3), np.float32)
    product(out, a, b)
    assert out.tolist() == [[12, 24, 36], [34, 68, 102]]
    product(out, a, b, add=True)
    assert out.tolist() == [[24, 48, 72], [68, 136, 204]]


def test_a_sum_of_nothing_is_zero():
    out = np.ones((2, 3), np.float32)
    product(out, np.ones((2, 0), np.float32), np.ones((0, 3), np.float32), add=True)
    assert out.tolist() == [[1, 1, 1], [1, 1, 1]]
    product(out, np.ones((2, 0), np.float32), np.ones((0, 3), np.float32))
    assert out.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_the_columns_of_the_result_may_be_what_is_contiguous():
    a, b = draw(40, 30), draw(30, 50)
    rows, columns = np.empty((40, 50), np.float32), np.empty((50, 40), np.float32).T
    product(rows, a, b)
    product(columns, a, b)
    np.testing.assert_allclose(columns, rows, rtol=1e-4, atol=1e-5)


# ---- Properties ----


@given(sizes, sizes, sizes, layouts, layouts, st.booleans())
def test_any_shape_any_layout(M, N, K, a_layout, b_layout, add):
    assert_product(product, M, N, K, a_layout, b_layout, add)


@pytest.mark.parametrize("shape", [(300, 200, 1100), (200, 1100, 300), (1100, 300, 200)])
@pytest.mark.parametrize("a_layout", ["rows", "columns"])
@pytest.mark.parametrize("b_layout", ["rows", "columns"])
def test_several_blocks_and_depths(shape, a_layout, b_layout):
    assert _cut(*shape)[1] > 1
    assert_product(product, *shape, a_layout, b_layout, add=True)
    one_thread = lambda out, a, b, add: multiply_in_pieces(out, a, b, add, True, 1)  # noqa: E731
    assert_product(one_thread, *shape, a_layout, b_layout, add=False)


@pytest.mark.parametrize("shape", [(1, 900, 301), (1, 301, 900), (900, 1, 301), (1, 1, 900)])
@pytest.mark.parametrize("a_layout", ["rows", "columns", "slice of rows", "every second"])
@pytest.mark.parametrize("b_layout", ["rows", "columns", "slice of rows", "every second"])
@pytest.mark.parametrize("add", [False, True])
def test_a_single_row_or_column(shape, a_layout, b_layout, add):
    assert_product(product, *shape, a_layout, b_layout, add)


def test_a_row_times_a_matrix_that_is_worth_sharing():
    a, b, out = draw(1, 1500), draw(1500, 1400), np.empty((1, 1400), np.float32)
    for matrix in (b, np.asfortranarray(b)):
        assert matrix.size > 8 * PIECE_NUMBERS
        product(out, a, matrix)
        np.testing.assert_allclose(out, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-3)


@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.sampled_from([1, 15, 64, 513]),
    st.booleans(),
    st.integers(2, 9),
    st.booleans(),
)
def test_any_cut_gives_the_same_bits(M, N, K, cut_rows, n_pieces, add):
    a, b, out = draw(M, K), draw(K, N), draw(M, N)
    in_pieces, by_hand = out.copy(), out.copy()
    multiply_in_pieces(out, a, b, add, cut_rows, 1)
    multiply_in_pieces(in_pieces, a, b, add, cut_rows, n_pieces)
    assert in_pieces.tobytes() == out.tobytes()
    for i in range(0, M, 37):
        for j in range(0, N, 41):
            here = by_hand[i : i + 37, j : j + 41]
            multiply_alone(here, a[i : i + 37], b[:, j : j + 41], add)
    assert by_hand.tobytes() == out.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_reach_their_row_and_no_other(bad):
    a, b = draw(33, 40), np.abs(draw(40, 35)) + 1
    a[17, 39] = bad
    out = np.empty((33, 35), np.float32)
    product(out, a, b)
    assert np.array_equal(out[17], np.full(35, bad, np.float32), equal_nan=True)
    assert np.isfinite(np.delete(out, 17, axis=0)).all()
    columns = np.empty((35, 33), np.float32)
    product(columns, b.T, a.T)
    assert np.array_equal(columns[:, 17], np.full(35, bad, np.float32), equal_nan=True)
    assert np.isfinite(np.delete(columns, 17, axis=1)).all()


def test_heads_of_attention_are_strided_slices_of_one_array():
    B, T, H, D = 2, 50, 3, 24
    packed = draw(B, T, 3 * H * D)
    q, k, _ = (
        part.reshape(B, T, H, D).transpose(0, 2, 1, 3) for part in np.split(packed, 3, axis=-1)
    )
    scores = np.empty((B, H, T, T), np.float32)
    for head in range(H):
        multiply_stacks(scores[:, head], q[:, head], k[:, head].transpose(0, 2, 1), False)
    np.testing.assert_allclose(scores, np.einsum("bhtd,bhsd->bhts", q, k), rtol=1e-4, atol=1e-5)

    out = np.zeros((B, T, H, D), np.float32)
    for head in range(H):
        multiply_stacks(out[:, :, head], scores[:, head], q[:, head], True)
    expected = np.einsum("bhts,bhsd->bthd", scores, q)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


# ---- Other processors, other numbers of threads ----

PROGRAM = """
import hashlib, sys
import numpy as np
sys.path.insert(0, {folder!r})
from test_gemm import assert_product, draw, product
from tricycle_autograd import gemm_tile
digest = hashlib.sha256()
shapes = [(300, 130, 70), (130, 300, 70), (97, 65, 530), (3, 5, 7), (1, 700, 900), (700, 1, 900)]
for M, N, K in shapes:
    for layouts in [("rows", "columns"), ("columns", "rows"), ("every second", "backwards")]:
        assert_product(product, M, N, K, *layouts, add=True)
    out = np.empty((M, N), np.float32)
    product(out, draw(M, K), draw(K, N))
    digest.update(out)
print(gemm_tile.LANES, digest.hexdigest())
"""


def lanes_and_digest(**environment):
    """What a new process finds, which checks a few products first."""
    program = PROGRAM.format(folder=os.path.dirname(__file__))
    environment = {**os.environ, **environment}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits():
    results = [lanes_and_digest(TRICYCLE_NUM_THREADS=str(n)) for n in (1, 2, 4)]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("lanes", ["4", "8", "16"])
def test_any_width_of_vectors_is_right(lanes):
    assert lanes_and_digest(TRICYCLE_VECTOR_LANES=lanes)[0] == lanes


# ---- Errors ----


# The product has room to pack a, once the spare bytes are gone, but for no block of b.
WITHOUT_MEMORY = """
import resource
import numpy as np
from tricycle_autograd.gemm import product

a, b = np.ones((64, 256), np.float32), np.ones((256, 24576), np.float32)
out = np.empty((64, 24576), np.float32)
product(out, a, b)
spare = bytearray(100_000)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 100_000, -1))
taken = []
try:
    while True:  # what was freed before is still there to be had
        taken.append(bytearray(200_000))
except MemoryError:
    del spare
try:
    product(out, a, b)
except MemoryError as error:
    del taken
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits of memory")
def test_a_product_without_memory_to_pack_says_so():
    run = subprocess.run([sys.executable, "-c", WITHOUT_MEMORY], capture_output=True, text=True)
    expected = "there is no memory to pack the operands of a matrix product\n"
    assert run.stdout == expected, run.stderr


def test_an_impossible_width_is_refused():
    program = "import tricycle_autograd.gemm_tile"
    environment = {**os.environ, "TRICYCLE_VECTOR_LANES": "5"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert "TRICYCLE_VECTOR_LANES is 4, 8 or 16, got '5'" in run.stderr


def test_other_types_shapes_and_layouts_are_refused():
    a, b, out = draw(2, 3), draw(3, 4), np.empty((2, 4), np.float32)
    with pytest.raises(TypeError, match="float32 arrays, and b is float64"):
        product(out, a, b.astype(np.float64))
    with pytest.raises(ValueError, match=r"matrices, and a has shape \(1, 2, 3\)"):
        product(out, a[None], b)
    with pytest.raises(ValueError, match=r"got \(2, 3\) times \(4, 3\) into \(2, 4\)"):
        product(out, a, b.T)
    with pytest.raises(ValueError, match=r"got \(2, 3\) times \(3, 4\) into \(3, 4\)"):
        product(np.empty((3, 4), np.float32), a, b)
    with pytest.raises(ValueError, match=r"strides of \(32, 8\) bytes"):
        product(np.empty((2, 8), np.float32)[:, ::2], a, b)
