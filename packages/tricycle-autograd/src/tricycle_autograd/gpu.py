"""The GPU of this machine: whether one works, what it is, and what it can do.

    choose_device("auto")    "cuda" where a GPU works, otherwise "cpu"
    choose_device("cuda")    "cuda", or an error that says what is missing and how to get it
    why_no_gpu()             None where one works, otherwise that sentence
    the_gpu()                its name, its memory, its driver

A GPU works where there are a driver, cupy, NVRTC and cuBLASLt, where its instructions are those
that our kernels are written in (compute capability 8.0: RTX 30, A100 and all that came later), and
where a number can be moved to it.  Nothing is asked before one of these functions is called.

A GPU runs behind the program: a launch returns before its kernel has begun.  So times are taken
after `finish()`, or between two events (profiling.py).
"""

import importlib
import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from tricycle_autograd import cublaslt, nvrtc
from tricycle_autograd.devices import DEVICES, move

LEAST_CAPABILITY = (8, 0)  # cp.async, and mma of bfloat16
ASKED = ("auto", *DEVICES)
EXTRAS = (
    "install tricycle-autograd[cuda13] for a driver of CUDA 13 (580 or newer), or "
    "tricycle-autograd[cuda12] for one of CUDA 12; nvidia-smi says which there is"
)
SIDE = 8192  # of the matrices whose product shows how fast a GPU calculates
COPIED = 256 << 20  # bytes, to see how fast it copies: more than any GPU's cache holds
RUNS = 5


class NoGPUError(RuntimeError):
    """A GPU was asked for and none works: why, and what to do."""


class GPU(NamedTuple):
    """What there is to know of a GPU.

    name        NVIDIA's
    capability  which instructions it has: (9, 0) of an H100
    memory      bytes in all, of which `free` are nobody's
    driver      the CUDA version that its driver knows: (13, 0)
    """

    name: str
    capability: tuple[int, int]
    memory: int
    free: int
    driver: tuple[int, int]

    def __str__(self) -> str:
        capability = "{}.{}".format(*self.capability)
        return f"{self.name}, {self.memory / 1e9:.1f} GB, compute capability {capability}"


def choose_device(asked: str, place: int | None = None) -> Literal["cpu", "cuda"]:
    """Where to work: "cpu" or "cuda".

    asked  "cpu"; "cuda"; or "auto" for "cuda" where a GPU works, else "cpu"
    place  which of this machine's GPUs becomes the current one, see `take_gpu`; none if not given

    Raises ValueError for another word, and NoGPUError where "cuda" is asked for and no GPU works:
    its message says why, and what to do.
    """
    if asked not in ASKED:
        raise ValueError(f"unknown device {asked!r}; there are {', '.join(ASKED)}")
    if asked == "cpu":
        return "cpu"
    reason = why_no_gpu(place)
    if reason is None:
        return "cuda"
    if asked == "cuda":
        raise NoGPUError(f"no GPU works here: {reason} (--device cpu works without one)")
    return "cpu"


def why_no_gpu(place: int | None = None) -> str | None:
    """What keeps this machine from working on a GPU, and what to do; None where nothing does.

    place  which of its GPUs to take for that, see `take_gpu`; the current one if not given
    """
    if missing := why_not_imported("cupy"):
        return f"{missing}; {EXTRAS}"
    import cupy

    driver, wanted = driver_version(), cupy.cuda.runtime.runtimeGetVersion() // 1000
    if driver is None:
        return (
            "there is no NVIDIA driver, or it finds no GPU; nvidia-smi should list one, and a "
            "container has to be started with its GPUs"
        )
    if driver[0] < wanted:
        return (
            f"the driver knows CUDA {driver[0]}.{driver[1]} and the installed cupy needs CUDA "
            f"{wanted}: update the driver, or install tricycle-autograd[cuda12] instead"
        )
    if not cupy.cuda.is_available():
        return "the driver shows no GPU; CUDA_VISIBLE_DEVICES may hide it"
    try:
        if place is not None:
            take_gpu(place)
        gpu = the_gpu()
        if gpu.capability < LEAST_CAPABILITY:
            return (
                f"{gpu} is too old: kernels need compute capability "
                f"{LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]}, that is RTX 30, A100 or newer"
            )
        move(np.zeros(1, np.float32), "cuda")
    except (MemoryError, RuntimeError) as error:  # cupy's, and CUDA's
        said = str(error).split("\n")[0]
        return f"the GPU refuses to work ({said}); nvidia-smi shows who else uses it"
    if missing := why_not_imported("ml_dtypes"):
        return f"{missing}, which has bfloat16; {EXTRAS}"
    for name, missing in (("NVRTC", why_no_nvrtc()), ("cuBLASLt", why_no_cublaslt())):
        if missing:
            return f"{name} was not found ({missing}); {EXTRAS}"
    return None


def driver_version() -> tuple[int, int] | None:
    """The CUDA version that the driver knows; None without a driver."""
    import cupy

    try:
        version = cupy.cuda.runtime.driverGetVersion()
    except RuntimeError:
        return None
    return (version // 1000, version % 1000 // 10) if version else None


def the_gpu() -> GPU:
    """The current GPU.  Raises RuntimeError, CUDA's own, where there is none."""
    import cupy

    found = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    free, memory = cupy.cuda.runtime.memGetInfo()
    # What cupy's pool holds and nothing uses is free for us.
    free += cupy.get_default_memory_pool().free_bytes()
    capability = (found["major"], found["minor"])
    driver = driver_version()
    assert driver is not None  # it has just answered
    return GPU(found["name"].decode(), capability, memory, free, driver)


def why_no_nvrtc() -> str | None:
    """What keeps NVRTC from being used; None where it is there."""
    return _why_not(nvrtc.library)


def why_no_cublaslt() -> str | None:
    """What keeps cuBLASLt from being used; None where it is there."""
    return _why_not(cublaslt.library)


def why_not_imported(name: str) -> str | None:
    """What keeps a package from being imported; None where nothing does."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return f"{name} is not installed"
        return f"{name} is installed and cannot be imported ({error})"
    except (ImportError, OSError) as error:  # OSError: a library of it is damaged
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"{name} is installed and cannot be imported ({why})"
    return None


def _why_not(load):
    try:
        load()
    except (ImportError, OSError, RuntimeError) as error:  # the finder's own is a RuntimeError
        return str(error).split("\n")[0].split(";")[0]
    return None


def gpu_facts() -> dict[str, str]:
    """GPU, driver, NVRTC and cuBLASLt, each as a line, or "none" and why."""
    reason = why_no_gpu()
    facts = {"GPU": f"none: {reason}", "driver": "none"}
    if why_not_imported("cupy") is None and (driver := driver_version()):
        facts["driver"] = "CUDA {}.{}".format(*driver)
    if reason is None:
        facts["GPU"] = str(the_gpu())
    without = why_no_nvrtc()
    facts["NVRTC"] = f"none: {without}" if without else "{}.{}".format(*nvrtc.version())
    without = why_no_cublaslt()
    version = "" if without else str(cublaslt.library().cublasLtGetVersion())
    facts["cuBLASLt"] = f"none: {without}" if without else version
    return facts


def take_gpu(place: int) -> None:
    """Make one of this machine's GPUs the current one: number `place`, counted round and round.

    Of this thread: another one begins with the first GPU, whatever this one has taken.
    """
    import cupy

    cupy.cuda.Device(place % n_gpus()).use()


def n_gpus() -> int:
    """How many GPUs this process may use."""
    import cupy

    return cupy.cuda.runtime.getDeviceCount()


def current_gpu() -> Any:
    """The current GPU as cupy has it: its `use()` makes it the current one of another thread."""
    import cupy

    return cupy.cuda.Device()


def current_stream() -> int:
    """The address of the stream on which this thread's launches go."""
    import cupy

    return cupy.cuda.get_current_stream().ptr


def nccl_library() -> Any:
    """cupy's module nccl.  Raises ImportError, saying what to install, without NCCL."""
    try:
        from cupy.cuda import nccl
    except ImportError as error:
        raise ImportError(
            "GPUs of several ranks talk by NCCL, which is not installed; install it with the extra "
            "that fits your driver: tricycle-autograd[nccl12] or tricycle-autograd[nccl13]"
        ) from error
    return nccl


# ---- Memory and time ----


def finish() -> None:
    """Wait until all that was started on the current stream is done."""
    import cupy

    cupy.cuda.get_current_stream().synchronize()


def held_bytes() -> int:
    """Bytes of the GPU's memory that this process has taken for its arrays, free again or not."""
    import cupy

    return cupy.get_default_memory_pool().total_bytes()


def free_bytes() -> int:
    """Bytes of the GPU's memory that this process could have besides."""
    return the_gpu().free


def give_back_gpu_memory() -> None:
    """Give memory back that no array uses."""
    import cupy

    finish()
    cupy.get_default_memory_pool().free_all_blocks()


@lru_cache
def gpu_roof() -> tuple[float, float]:
    """What this GPU can do, measured: operations in a bfloat16 product, and bytes, a second.

    The best of some products of 8,192 x 8,192, and of some copies of 256 MB, which read and write
    as much.  It takes 0.9 GB for a moment.
    """
    rates = _product_rate(), _copy_rate()
    give_back_gpu_memory()
    return rates


def _product_rate():
    import cupy
    import ml_dtypes

    # Random numbers: with zeros a GPU needs less power, and is faster than it will be in training.
    noise = np.random.default_rng(0).standard_normal(999_983).astype(ml_dtypes.bfloat16)
    a = move(np.resize(noise, (SIDE, SIDE)), "cuda")
    out = cupy.empty_like(a)
    return 2 * SIDE**3 / _shortest(lambda: cublaslt.product(out, a, a))


def _copy_rate():
    import cupy

    one, other = cupy.empty(COPIED, np.uint8), cupy.empty(COPIED, np.uint8)
    return 2 * COPIED / _shortest(lambda: cupy.copyto(other, one))


def _shortest(function):
    """Seconds of the shortest of some runs, by the GPU's own clock."""
    import cupy

    function()  # whatever has to be loaded is loaded
    best = math.inf
    for _ in range(RUNS):
        began, ended = cupy.cuda.Event(), cupy.cuda.Event()
        began.record()
        function()
        ended.record()
        ended.synchronize()
        best = min(best, cupy.cuda.get_elapsed_time(began, ended) / 1e3)
    return best
