"""Which device is chosen, what is said where there is no GPU, and what is known of one."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from tricycle_autograd import choose_device, cublaslt, gpu, nvrtc, show_config
from tricycle_autograd.devices import device_of, move
from tricycle_autograd.testing_streams import emulated_gpu


@pytest.fixture
def cupy(monkeypatch):
    """A machine with a GPU, made of numpy, and with everything that one needs."""
    monkeypatch.setattr(gpu, "why_no_nvrtc", lambda: None)
    monkeypatch.setattr(gpu, "why_no_cublaslt", lambda: None)
    with emulated_gpu() as cupy:
        yield cupy


@pytest.fixture
def no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)


# ---- Which device ----


def test_auto_takes_the_gpu_where_one_works(cupy):
    assert gpu.why_no_gpu() is None
    assert [choose_device(asked) for asked in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    assert device_of(move(np.ones(2), "cuda")) == "cuda"


def test_auto_takes_the_processor_where_none_works(no_cupy):
    assert [choose_device(asked) for asked in ("auto", "cpu")] == ["cpu", "cpu"]


def test_asking_for_a_gpu_without_cupy_says_what_to_install(no_cupy):
    with pytest.raises(gpu.NoGPUError, match="no GPU works here: cupy is not installed") as error:
        choose_device("cuda")
    for part in ("tricycle-autograd[cuda12]", "tricycle-autograd[cuda13]", "580", "--device cpu"):
        assert part in str(error.value)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="unknown device 'gpu'; there are auto, cpu, cuda"):
        choose_device("gpu")


def why(cupy):
    """The reason, and that it is the same one that asking for "cuda" gives."""
    reason = gpu.why_no_gpu()
    with pytest.raises(gpu.NoGPUError) as error:
        choose_device("cuda")
    assert reason in str(error.value)
    assert choose_device("auto") == "cpu"
    return reason


def test_a_machine_without_a_driver(cupy):
    cupy.cuda.runtime.driver = 0
    assert "no NVIDIA driver" in why(cupy)


def test_a_driver_older_than_cupy(cupy):
    cupy.cuda.runtime.driver = 12040
    assert "knows CUDA 12.4 and the installed cupy needs CUDA 13" in why(cupy)


def test_a_driver_that_shows_no_gpu(cupy):
    cupy.cuda.is_there = False
    assert "CUDA_VISIBLE_DEVICES" in why(cupy)


def test_a_gpu_that_is_too_old(cupy):
    cupy.cuda.runtime.capability = (7, 5)
    assert "compute capability 7.5 is too old" in why(cupy)


@pytest.mark.parametrize("name", ["nvrtc", "cublaslt"])
def test_a_missing_library(cupy, monkeypatch, name):
    monkeypatch.setattr(gpu, f"why_no_{name}", lambda: "no such file")
    assert "was not found (no such file); install tricycle-autograd[cuda13]" in why(cupy)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cudaErrorDevicesUnavailable: busy or unavailable"),  # in exclusive use
        MemoryError("Out of memory allocating 512 bytes\nand more"),  # cupy's own
    ],
    ids=["busy", "full"],
)
def test_a_gpu_that_refuses_to_work(cupy, monkeypatch, error):
    def refuse(array, device):
        raise error

    said = str(error).split("\n")[0]
    reason = f"the GPU refuses to work ({said}); nvidia-smi shows who else uses it"
    cupy.cuda.runtime.refusal = error  # where it is first asked
    assert why(cupy) == reason
    cupy.cuda.runtime.refusal = None
    monkeypatch.setattr(gpu, "move", refuse)  # or only where it is to hold a number
    assert why(cupy) == reason


def test_a_package_that_is_there_and_cannot_be_imported_is_not_called_missing(
    monkeypatch, tmp_path
):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "cupy.py").write_text("raise ImportError('libcudart.so.13: no such file')")
    reason = gpu.why_no_gpu()
    assert reason.startswith(
        "cupy is installed and cannot be imported (libcudart.so.13: no such file); install"
    )
    (tmp_path / "cupy.py").write_text("import no_such_module")
    assert "cannot be imported (No module named 'no_such_module')" in gpu.why_no_gpu()


def test_a_thread_begins_with_the_first_gpu_whatever_another_took(cupy):
    cupy.cuda.runtime.gpus, seen = 3, []
    gpu.take_gpu(5)
    thread = threading.Thread(target=lambda: seen.append(gpu.current_gpu().id))
    thread.start()
    thread.join()
    assert (gpu.current_gpu().id, seen) == (2, [0])


def test_why_a_library_cannot_be_used_is_one_line(monkeypatch):
    def missing():
        raise ImportError("it is not there; install it\nand more")

    monkeypatch.setattr(nvrtc, "library", missing)
    monkeypatch.setattr(cublaslt, "library", missing)
    assert gpu.why_no_nvrtc() == gpu.why_no_cublaslt() == "it is not there"


# ---- What is known of it ----


def test_a_gpu_says_what_it_is(cupy):
    cupy.cuda.pool.total, cupy.cuda.pool.unused = 5 << 20, 2 << 20
    found = gpu.the_gpu()
    assert found == ("a GPU made of numpy", (8, 0), 8 << 30, (6 << 30) + (2 << 20), (13, 0))
    assert str(found) == "a GPU made of numpy, 8.6 GB, compute capability 8.0"
    assert gpu.held_bytes() == 5 << 20
    gpu.give_back_gpu_memory()
    assert gpu.held_bytes() == 3 << 20


def test_the_roof_is_that_of_the_best_run(cupy, monkeypatch):
    seconds = iter([2e-3, 1e-3])
    monkeypatch.setattr(gpu, "_shortest", lambda function: function() or next(seconds))
    monkeypatch.setattr(gpu, "SIDE", 64)
    monkeypatch.setattr(gpu, "COPIED", 1000)
    assert gpu.gpu_roof.__wrapped__() == (2 * 64**3 / 2e-3, 2 * 1000 / 1e-3)


def test_a_time_is_the_shortest_of_several(cupy):
    times = []
    assert 0 <= gpu._shortest(lambda: times.append(1)) < 1
    assert len(times) == 1 + gpu.RUNS


def test_the_configuration_names_gpu_driver_and_libraries(cupy, monkeypatch, capsys):
    monkeypatch.setattr(nvrtc, "version", lambda: (13, 5))
    library = type("Library", (), {"cublasLtGetVersion": lambda self: 131000})
    monkeypatch.setattr(cublaslt, "library", library)
    found = show_config()
    assert found["GPU"].startswith("a GPU made of numpy, 8.6 GB")
    assert (found["driver"], found["NVRTC"], found["cuBLASLt"]) == ("CUDA 13.0", "13.5", "131000")
    assert "CUDA 13.0" in capsys.readouterr().out


def test_the_configuration_says_why_there_is_none(no_cupy, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "why_no_nvrtc", lambda: "not installed")
    monkeypatch.setattr(gpu, "why_no_cublaslt", lambda: "not installed")
    found = show_config()
    assert found["GPU"].startswith("none: cupy is not installed")
    assert (found["driver"], found["NVRTC"]) == ("none", "none: not installed")
    assert found["cuBLASLt"] == "none: not installed"


def test_importing_asks_for_no_gpu():
    code = "import sys, tricycle_autograd; print('cupy' in sys.modules, 'cuda' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
