"""NVRTC: CUDA C++ in, machine code out."""

import sys

import pytest

from tricycle_autograd import nvrtc
from tricycle_autograd.kernel_store import read_kernel, write_kernel
from tricycle_autograd.nvrtc import CompilerError, assembled, compile_cuda, compiled, headers_of

needs_nvrtc = pytest.mark.skipif(not nvrtc.is_there(), reason="NVRTC is not installed")

SOURCE = """#include "numbers.cuh"
extern "C" __global__ void k(float* y) {
    y[threadIdx.x] = C;
}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "k.cu"
    path.write_text(SOURCE)
    return path


@needs_nvrtc
def test_a_source_becomes_ptx_or_machine_code(file):
    ptx, report = compile_cuda(file, "compute_80", {"C": 7})
    assert b".entry k(" in ptx
    assert b"1088421888" in ptx, "the bits of 7, as a float"
    assert report == ""
    code, _ = compile_cuda(file, "sm_90a", {"C": 7})
    assert code[:4] == b"\x7fELF"


@needs_nvrtc
def test_a_mistake_is_shown_with_its_line(file):
    file.write_text(SOURCE.replace("= C;", "= D;"))
    with pytest.raises(CompilerError, match=r'k\.cu\(3\): error: identifier "D" is undefined'):
        compile_cuda(file, "compute_80", {"C": 7})
    with pytest.raises(CompilerError, match="invalid value for --gpu-architecture"):
        compile_cuda(file, "sm_1", {"C": 7})


@needs_nvrtc
def test_the_assembler_tells_of_registers_and_of_what_spills(file):
    found = assembled(file, "sm_80", {"C": 7})
    assert set(found) == {"k"}
    assert 0 < found["k"].registers < 32
    assert (found["k"].spilled, found["k"].shared) == (0, 0)
    many = "float a[256]; for (int i = 0; i < 256; i++) a[i] = y[i * 7];\n__syncthreads();\n"
    many += "    for (int i = 0; i < 256; i++) y[i * 3] = a[255 - i];\n"
    file.write_text(SOURCE.replace("    y[", "    #pragma unroll\n    " + many + "    y["))
    assert assembled(file, "sm_80", {"C": 7})["k"].spilled > 0


def test_headers_are_looked_for_beside_the_source_and_then_here(file, tmp_path):
    assert list(headers_of(file)) == ["numbers.cuh"]
    (tmp_path / "mine.cuh").write_text('#include "tiles.cuh"\n')
    file.write_text('#include "mine.cuh"\n')
    assert list(headers_of(file)) == ["mine.cuh", "tiles.cuh", "numbers.cuh"]
    (tmp_path / "numbers.cuh").write_text("// another\n")
    assert headers_of(file)["numbers.cuh"] == "// another\n"


@needs_nvrtc
def test_what_was_compiled_is_kept_until_something_it_was_made_from_changes(
    file, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRICYCLE_CACHE", str(tmp_path))
    folder = tmp_path / "tricycle" / "kernels" / "cuda"
    first = compiled(file, "compute_80", {"C": 7})
    (kept,) = folder.iterdir()
    assert read_kernel(kept, pytest.fail) == first
    write_kernel(kept, b"from the disk")
    assert compiled(file, "compute_80", {"C": 7}) == b"from the disk"
    compiled(file, "compute_80", {"C": 8})
    (tmp_path / "numbers.cuh").write_text("// another\n")
    compiled(file, "compute_80", {"C": 7})
    file.write_text(SOURCE + "// another\n")
    compiled(file, "compute_80", {"C": 7})
    assert len(list(folder.iterdir())) == 4


def test_without_nvrtc_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    nvrtc.library.cache_clear()
    with pytest.raises(
        ImportError, match=r"compiled by NVRTC, which was not found; install it with"
    ):
        nvrtc.library()
    assert not nvrtc.is_there()
    nvrtc.library.cache_clear()
