"""CUDA kernels: found beside a Python file, compiled for constants, launched."""

import sys

import ml_dtypes
import numpy as np
import pytest

from tricycle_autograd import Tensor, nvrtc
from tricycle_autograd.cuda import CudaFile, blocks_for, watched_launches
from tricycle_autograd.ptx import Fault
from tricycle_autograd.testing_device import emulated

pytestmark = pytest.mark.skipif(not nvrtc.is_there(), reason="NVRTC is not installed")

SOURCE = """#include "numbers.cuh"
extern "C" __global__ void scale(number* y, const number* x, const float* by, int N) {
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n < N) to_number(y + n, to_float(x[n]) * (by ? by[0] : C));
}
extern "C" __global__ void reverse(number* y, const number* x) {
    extern __shared__ float s[];
    s[threadIdx.x] = to_float(x[threadIdx.x]);
    __syncthreads();
    to_number(y + threadIdx.x, s[blockDim.x - 1 - threadIdx.x]);
}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "scale.cu").write_text(SOURCE)
    return CudaFile(str(tmp_path / "scale.py"))


def on_gpu(*values, dtype=np.float32):
    return emulated(np.array(values, dtype))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_kernel_is_compiled_for_a_dtype_and_constants(file, dtype):
    x = on_gpu(*range(40), dtype=dtype)
    y = emulated(np.zeros(40, dtype))
    for constant in (2, 3):
        kernel = file.get("scale", x.dtype, C=constant)
        assert kernel is file.get("scale", x.dtype, C=constant)
        kernel((blocks_for(40, 32),), (32,), y, x, None, np.int32(40))
        assert y.tolist() == [constant * n for n in range(40)]
    kernel((2,), (32,), y, x, on_gpu(0.5), np.int32(40))
    assert y.tolist() == [n / 2 for n in range(40)]


def test_shared_memory_can_be_sized_by_the_launch(file):
    x, y = on_gpu(*range(32)), on_gpu(*[0] * 32)
    kernel = file.get("reverse", x.dtype, C=1)
    kernel((1,), (32,), y, x, shared=128)
    assert y.tolist() == list(range(31, -1, -1))
    with pytest.raises(Fault, match="writes 4 bytes outside of shared memory: at 64 of 64"):
        kernel((1,), (32,), y, x, shared=64)


def test_no_blocks_are_no_launch(file):
    nothing = on_gpu()
    with watched_launches() as launches:
        file.get("scale", nothing.dtype, C=1)((0,), (32,), nothing, nothing, None, np.int32(0))
    assert launches == []


def test_launches_can_be_watched(file):
    x = on_gpu(*range(32))
    with watched_launches() as launches:
        file.get("scale", x.dtype, C=1)((1,), (32,), on_gpu(*range(32)), x, None, np.int32(32))
    ((name, grid, block, report),) = launches
    assert (name, grid, block) == ("scale", (1,), (32,))
    assert report.asked == report.moved == {"reads": 128, "writes": 128}


def test_what_is_no_argument_is_explained(file):
    x = on_gpu(*range(32))
    kernel = file.get("scale", x.dtype, C=1)
    with pytest.raises(TypeError, match=r"scale.cu, scale: argument 3 is 32, and .* np.int32\(…\)"):
        kernel((1,), (32,), x, x, None, 32)
    with pytest.raises(TypeError, match="argument 1 is an array of numpy's, shape .32,., and kern"):
        kernel((1,), (32,), x, np.zeros(32, np.float32), None, np.int32(32))
    with pytest.raises(KeyError, match="no kernel turn, only scale, reverse; is it extern"):
        file.get("turn", x.dtype, C=1)((1,), (32,), x)


def test_blocks_are_counted_up():
    assert [blocks_for(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_asking_for_a_gpu_without_cupy_says_how_to_get_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"the GPU needs cupy, .*\[cuda12\] or tricycle-autograd"):
        Tensor([1.0]).to("cuda")
