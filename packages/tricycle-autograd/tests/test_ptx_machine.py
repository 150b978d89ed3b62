"""The GPU made of numpy: it computes what a GPU computes, and finds what a kernel must not do."""

import ml_dtypes
import numpy as np
import pytest

from tricycle_autograd import nvrtc
from tricycle_autograd.ptx import Fault, Program
from tricycle_autograd.ptx_machine import launch

pytestmark = pytest.mark.skipif(not nvrtc.is_there(), reason="NVRTC is not installed")


@pytest.fixture
def run(tmp_path):
    """Compile a kernel called k and launch it: run(source, grid, block, *arguments)."""

    def compile_and_launch(source, grid, block, *arguments, shared=0, count=False):
        path = tmp_path / "k.cu"
        path.write_text(source)
        program = Program(nvrtc.compile_cuda(path, "compute_80", {})[0].decode())
        return launch(program["k"], (grid,), (block,), list(arguments), shared, count)

    return compile_and_launch


def kernel(parameters, body):
    head = '#include "tiles.cuh"\nextern "C" __global__ void k(' + parameters + ") {\n"
    return head + "    int i = threadIdx.x;\n" + body + "}\n"


def floats(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


# ---- Known results ----


def test_one_thread_for_each_number(run):
    y, x = np.full(64, np.nan, np.float32), floats(64)
    body = "int n = blockIdx.x * blockDim.x + i; if (n < N) y[n] = 2 * x[n] + 1;\n"
    run(kernel("float* y, const float* x, int N", body), 2, 32, y, x, np.int32(50))
    assert y[:50].tolist() == (2 * x + 1)[:50].tolist()
    assert np.isnan(y[50:]).all()


def test_integers_divide_shift_and_turn_as_in_c(run):
    y, x = np.zeros((6, 32), np.int32), np.arange(-16, 16, dtype=np.int32)
    body = """int a = x[i]; unsigned u = (unsigned)a;
    y[i] = a / 5; y[32 + i] = a % 5; y[64 + i] = a >> 2; y[96 + i] = u >> 28;
    y[128 + i] = __popc(u); y[160 + i] = (int)(((long long)a * 1000000007) >> 7);\n"""
    run(kernel("int* y, const int* x", body), 1, 32, y, x)
    assert y[0].tolist() == [int(a / 5) for a in x.tolist()]
    assert y[1].tolist() == np.fmod(x, 5).tolist()
    assert y[2].tolist() == (x >> 2).tolist()
    assert y[3].tolist() == (x.view(np.uint32) >> 28).tolist()
    assert y[4].tolist() == [bin(a & 0xFFFFFFFF).count("1") for a in x.tolist()]
    wide = (x.astype(np.int64) * 1000000007) >> 7
    assert y[5].tolist() == wide.astype(np.int32).tolist()


def test_functions_of_a_float(run):
    y, x = np.zeros((5, 32), np.float32), np.linspace(0.1, 4, 32, dtype=np.float32)
    body = """float a = x[i];
    y[i] = sqrtf(a); y[32 + i] = rsqrtf(a); y[64 + i] = power_of_two(a);
    y[96 + i] = (int)(a * 10); y[128 + i] = fmaxf(a, 2.0f);\n"""
    run(kernel("float* y, const float* x", body), 1, 32, y, x)
    wanted = [np.sqrt(x), 1 / np.sqrt(x), np.exp2(x), (x * 10).astype(int), np.maximum(x, 2)]
    np.testing.assert_allclose(y, wanted, rtol=1e-6)


def test_bfloat16_is_rounded_as_ml_dtypes_rounds_it(run):
    bits = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint32)
    bits[:64] = 0x3F800000 + 0x4000 * np.arange(64, dtype=np.uint32)  # every second one a tie
    x = bits.view(np.float32)
    y = np.zeros(4096, np.uint16)
    run(kernel("bf16* y, const float* x", "to_number(y + blockIdx.x * 128 + i, "
               "x[blockIdx.x * 128 + i]);\n"), 32, 128, y, x)  # fmt: skip
    is_number = ~np.isnan(x)
    with np.errstate(invalid="ignore"):
        wanted = x.astype(ml_dtypes.bfloat16)
    assert (y == wanted.view(np.uint16))[is_number].all()
    assert np.isnan(y.view(ml_dtypes.bfloat16)[~is_number].astype(np.float32)).all()


def test_threads_that_loop_for_different_times_meet_again(run):
    steps, x = np.zeros(64, np.int32), np.arange(1, 65, dtype=np.int32)
    body = """int a = x[i], n = 0;
    while (a != 1) { if (a % 2) a = 3 * a + 1; else a /= 2; n++; }
    steps[i] = n;\n"""
    run(kernel("int* steps, const int* x", body), 1, 64, steps, x)

    def collatz(a):
        return 0 if a == 1 else 1 + collatz(3 * a + 1 if a % 2 else a // 2)

    assert steps.tolist() == [collatz(a) for a in x.tolist()]


def test_sums_of_warps_and_of_blocks(run):
    y, x = np.zeros((3, 128), np.float32), floats(128)
    body = "y[i] = warp_sum(x[i]); y[128 + i] = block_sum(x[i]); y[256 + i] = block_max(x[i]);\n"
    run(kernel("float* y, const float* x", body), 1, 128, y, x)
    assert y[0].tolist() == np.repeat(x.reshape(4, 32).sum(1), 32).tolist()
    assert set(y[1]) == {x.sum()}
    assert set(y[2]) == {127}


PRODUCT = """
    __shared__ __align__(16) bf16 a[16 * 16], b[16 * 16];  // b (8, 16) twice
    for (int j = i; j < 256; j += 32) a[j] = left[j], b[j] = right[j % 128];
    __syncwarp();
    Left l; unsigned r[4]; Result c = {};
    load_matrices<false>(l, a + i % 16 * 16 + i / 16 * 8);
    load_matrices<false>(r, b + (i / 16 * 8 + i % 8) * 16 + i / 8 % 2 * 8);
    MULTIPLY;
    for (int j = 0; j < 4; j++) y[row_of(j) * 8 + column_of(0, j)] = c[j];
"""
BF16 = [np.random.default_rng(i).standard_normal(n).astype(ml_dtypes.bfloat16)
        for i, n in enumerate(((16, 16), (8, 16)))]  # fmt: skip


def product(run, multiply):
    y = np.full((16, 8), np.nan, np.float32)
    parameters = "float* y, const bf16* left, const bf16* right"
    run(kernel(parameters, PRODUCT.replace("MULTIPLY", multiply)), 1, 32, y, *BF16)
    left, right = [array.astype(np.float32) for array in BF16]
    return abs(y - left @ right.T).max()


def test_a_product_of_tiles(run):
    assert product(run, "multiply_add(c, l, r)") < 1e-5


@pytest.mark.parametrize(
    "multiply",
    [
        "unsigned s[2] = {r[1], r[0]}; multiply_add(c, l, s)",
        "Left s = {l[0], l[2], l[1], l[3]}; multiply_add(c, s, r)",
    ],
)
def test_swapped_operands_of_a_product_give_other_numbers(run, multiply):
    assert product(run, multiply) > 0.1


def test_what_a_kernel_forgets_to_write_stays_as_it_was(run):
    y = np.full(32, np.nan, np.float32)
    run(kernel("float* y", "if (i != 7) y[i] = 1;\n"), 1, 32, y)
    assert np.flatnonzero(np.isnan(y)).tolist() == [7]


def test_views_with_gaps_are_the_memory_around_them(run):
    whole = np.zeros((32, 3), np.float32)
    run(kernel("float* y", "y[3 * i] = i;\n"), 1, 32, whole[:, 1])
    assert whole[:, 1].tolist() == list(range(32))
    assert not whole[:, [0, 2]].any()


# ---- What is allowed ----


ALLOWED = {
    "a barrier between writing and reading": (
        "__shared__ float s[64]; s[i] = x[i]; __syncthreads(); y[i] = s[63 - i];"
    ),
    "a warp's barrier inside a warp": (
        "__shared__ float s[64]; s[i] = x[i]; __syncwarp(); y[i] = s[i ^ 1];"
    ),
    "all read, a barrier, each reads and writes its own": (
        "__shared__ float s[64]; s[i] = x[i]; __syncthreads(); float a = s[0] + s[63];"
        "__syncthreads(); s[i] += a; y[i] = s[i];"
    ),
    "the same in the GPU's memory": (
        "float a = x[0] + x[63]; __syncthreads(); x[i] += a; y[i] = x[i];"
    ),
    "a copy that is waited for": (
        "__shared__ float s[64]; copy_later<4>(s + i, x + i, true); end_of_copies();"
        "wait_for_copies<0>(); __syncthreads(); y[i] = s[63 - i];"
    ),
    "a copy of nothing from outside of the array": (
        "__shared__ float s[64]; copy_later<4>(s + i, x + i + 1000, false); end_of_copies();"
        "wait_for_copies<0>(); y[i] = s[i];"
    ),
}


@pytest.mark.parametrize("body", ALLOWED.values(), ids=ALLOWED)
def test_what_is_right_passes(run, body):
    y = np.full(64, np.nan, np.float32)
    run(kernel("float* y, float* x", body + "\n"), 1, 64, y, floats(64))
    assert np.isfinite(y).all()


# ---- Planted faults ----

SHARED = "__shared__ __align__(16) float s[64];\n"
COPY = "copy_later<4>(s + i, x + i, true); end_of_copies();\n"
FAULTS = {  # a body, and what is said; the line that is named ends in //!
    "no barrier between writing and reading": (
        SHARED + "s[i] = x[i];\ny[i] = s[63 - i];  //!",
        "a race: reads shared memory that thread 63 of block 0 has written, with no barrier",
    ),
    "a warp's barrier between two warps": (
        SHARED + "s[i] = x[i]; __syncwarp();\ny[i] = s[63 - i];  //!",
        "a race: reads shared memory",
    ),
    "no barrier before a place is used again": (
        SHARED + "s[i] = x[i]; __syncthreads(); y[i] = s[63 - i];\ns[i] = 0;  //!",
        "a race: writes shared memory that thread 63 of block 0 has read",
    ),
    "several readers, then a writer": (
        SHARED + "s[i] = x[i]; __syncthreads(); y[i] = s[5];\nif (i == 40) s[5] = 0;  //!",
        "a race: writes shared memory that threads of block 0 has read",
    ),
    "all threads write one place": (
        SHARED + "s[0] = i;  //!\n__syncthreads(); y[i] = s[0];",
        "a race: writes shared memory at the same time as thread 63",
    ),
    "shared memory that nobody has written": (
        SHARED + "if (i < 63) s[i] = x[i];\n__syncthreads();\ny[i] = s[i];  //!",
        "reads shared memory that nobody has written",
    ),
    "beyond shared memory": (
        SHARED + "s[i] = x[i];\ny[i] = ((volatile float*)s)[i + 32];  //!",
        "reads 4 bytes outside of shared memory: at 256 of 256",
    ),
    "no wait for a copy": (
        SHARED + COPY + "y[i] = ((volatile float*)s)[i];  //!\nwait_for_copies<0>();",
        "reads what an asynchronous copy brings, which was not waited for",
    ),
    "a wait for one group too few": (
        SHARED + COPY + "wait_for_copies<1>();\ny[i] = ((volatile float*)s)[i];  //!",
        "which was not waited for",
    ),
    "a copy that only its sender waited for": (
        SHARED + COPY + "wait_for_copies<0>();\ny[i] = s[63 - i];  //!",
        "a race: reads shared memory that thread 63 of block 0 has written",
    ),
    "writing where a copy is on its way": (
        SHARED + COPY + "((volatile float*)s)[i] = 0;  //!",
        "writes where an asynchronous copy is on its way",
    ),
    "a read beyond an array": (
        "y[i] = x[i + 1];  //!",
        "reads 4 bytes outside of the arrays: 256 bytes into argument 1, which has 256",
    ),
    "a write beyond an array": (
        "y[i + 1] = x[i];  //!",
        "writes 4 bytes outside of the arrays: 256 bytes into argument 0",
    ),
    "a copy from beyond an array": (
        SHARED + "copy_later<4>(s + i, x + i + 1, true); end_of_copies();  //!",
        "copies 4 bytes outside of the arrays",
    ),
    "16 bytes at an odd place": (
        "float4 a = *(const float4*)(x + i % 32 + 1);  //!\ny[i] = a.x + a.y + a.z + a.w;",
        "reads 16 bytes at an address that is not a multiple of 16",
    ),
    "16 bytes of shared memory at an odd place": (
        SHARED + "s[i] = x[i]; __syncthreads();\n"
        "float4 a = *(const float4*)(s + i % 32 + 1);  //!\ny[i] = a.x + a.y + a.z + a.w;",
        "reads 16 bytes of shared memory at 4, no multiple of 16",
    ),
    "a thread that writes what another has read": (
        "float a = x[63 - i];\nx[i] = a;  //!",
        "a race: writes memory (argument 1) that thread 63 of block 0 has read",
    ),
    "a barrier that half the threads reach": (
        "if (i < 32) __syncthreads();\ny[i] = x[i];",
        "a thread ends while others of its block wait at a barrier|a barrier after other threads",
    ),
    "a shuffle that half a warp takes": (
        "float a = x[i];\nif (i % 32 < 16) a = warp_sum(a);\ny[i] = a;",
        "threads wait for others that never come",
    ),
    "a product that half a warp takes": (
        "Left l = {}; unsigned r[2] = {}; Result c = {};\n"
        "if (i % 32 < 16) multiply_add(c, l, r);\ny[i] = c[0];",
        "threads wait for others that never come",
    ),
    "a part of a copy": (
        'asm volatile("cp.async.cg.shared.global [%0], [%1], 16, 8;" :: "r"(0), "l"(x));  //!',
        "an asynchronous copy of a part",
    ),
    "atomics": (
        "atomicAdd(y, x[i]);  //!",
        "the emulated GPU does not know",
    ),
    "giving up": ("if (x[i] == 5) __trap();  //!", "the kernel gives up"),
}


@pytest.mark.parametrize(("body", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found_and_its_line_named(run, body, said):
    source = kernel("float* y, float* x", body + "\n")
    with pytest.raises(Fault) as error:
        run(source, 1, 64, np.zeros(64, np.float32), floats(64))
    assert any(part in str(error.value) for part in said.split("|")), error.value
    marked = [n for n, line in enumerate(source.splitlines(), 1) if line.endswith("//!")]
    if marked:
        assert f"k.cu:{marked[0]}" in str(error.value)
    assert str(error.value).startswith("k, ")


def test_blocks_that_meet_at_one_number_are_found(run):
    y, x = np.zeros(64, np.float32), floats(64)
    with pytest.raises(Fault, match=r"k.cu:4: a race: writes memory \(argument 0\) .*of block"):
        run(kernel("float* y, float* x", "y[i] = blockIdx.x;\n"), 2, 64, y, x)
    body = "if (blockIdx.x) y[i] = x[i];\nelse x[i] = 0;\n"
    with pytest.raises(Fault, match=r"a race: (reads|writes) memory \(argument 1\) .*of block"):
        run(kernel("float* y, float* x", body), 2, 64, y, x)


def test_copies_that_nobody_waits_for_are_found(run):
    source = kernel("float* y, float* x", SHARED + COPY)
    with pytest.raises(Fault, match="k ends with asynchronous copies that nobody waited for"):
        run(source, 1, 64, np.zeros(64, np.float32), floats(64))


def test_arguments_are_held_to_the_kernels_parameters(run):
    source = kernel("float* y, int n, float a", "y[i] = n * a;\n")
    y, n, a = np.zeros(32, np.float32), np.int32(2), np.float32(1.5)
    run(source, 1, 32, y, n, a)
    assert set(y) == {3}
    with pytest.raises(
        Fault, match="k: argument 1 should be a numpy number of 4 bytes, got np.int"
    ):
        run(source, 1, 32, y, np.int64(2), a)
    with pytest.raises(Fault, match="argument 2 should be a numpy number of 4 bytes, got 1.5"):
        run(source, 1, 32, y, n, 1.5)
    with pytest.raises(Fault, match="argument 1 should be a numpy number of 4 bytes, got an array"):
        run(source, 1, 32, y, y, a)
    with pytest.raises(Fault, match="k takes 3 arguments, got 2"):
        run(source, 1, 32, y, n)


def test_blocks_are_held_to_what_a_kernel_takes(run):
    source = kernel("float* y", "y[i] = 1;\n").replace("void k", "void __launch_bounds__(64) k")
    for threads in (33, 96, 0):
        with pytest.raises(Fault, match=f"k: {threads} threads in a block; it takes whole warps"):
            run(source, 1, threads, np.zeros(96, np.float32))


def test_arrays_that_do_not_stay_in_registers_are_refused(run):
    body = "float a[8]; for (int j = 0; j < 8; j++) a[j] = y[j]; y[i] = a[(int)y[0]];\n"
    with pytest.raises(Fault, match="k: an array in local memory, which is slow; index arrays by"):
        run(kernel("float* y", body), 1, 32, np.zeros(32, np.float32))


# ---- What a launch costs ----


def test_bytes_are_counted_that_had_to_be_moved(run):
    x, y = floats(128 * 8), np.zeros(128 * 8, np.float32)
    side_by_side = run(kernel("float* y, float* x", "y[i] = x[i];\n"), 1, 128, y, x, count=True)
    assert side_by_side.asked["reads"] == side_by_side.moved["reads"] == 512
    apart = run(kernel("float* y, float* x", "y[i] = x[8 * i];\n"), 1, 128, y, x, count=True)
    assert (apart.asked["reads"], apart.moved["reads"]) == (512, 512 * 8)
    assert "memory reads: 512 bytes asked for, 4,096 moved (12%)" in str(apart)


@pytest.mark.parametrize(("pitch", "turns"), [(32, 32), (33, 1), (34, 2)])
def test_turns_at_the_banks_are_counted(run, pitch, turns):
    body = f"__shared__ float s[32 * {pitch}]; s[i * {pitch}] = i; y[i] = s[i * {pitch}];\n"
    report = run(kernel("float* y", body), 1, 32, np.zeros(32, np.float32), count=True)
    assert report.turns["writes"] == turns
    assert report.accesses["writes"] == 1
    assert f"1 accesses took {turns} turns" in str(report)


def test_instructions_are_counted_by_warps(run):
    body = "if (i < 32) y[i] = warp_sum(y[i]);\n"
    report = run(kernel("float* y", body), 1, 64, np.zeros(64, np.float32), count=True)
    assert report.instructions["shfl"] == 5
