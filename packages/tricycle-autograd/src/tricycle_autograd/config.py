"""What the library found on this machine, for a glance or a bug report."""

import platform
from typing import Any

import numpy as np

from tricycle_autograd import threads
from tricycle_autograd.gpu import gpu_facts
from tricycle_autograd.kernel_cache import cache_root

FEATURES = ("avx512f", "avx2", "fma", "neon")


def show_config() -> dict[str, str]:
    """Print versions, processor, matrix product, threads, GPU and where kernels are; return them.

    Where there is no GPU that works, it says why.

    Imports numba, which takes most of a second, but compiles and starts nothing.  Raises
    ValueError for a TRICYCLE_NUM_THREADS that is not a number of threads.
    """
    number, reason = threads.number_of_threads()
    threads.prepare()
    import llvmlite.binding
    import numba

    from tricycle_autograd import gemm_tile

    if number > numba.get_num_threads():
        number, reason = numba.get_num_threads(), "numba, which was imported before"
    features = llvmlite.binding.get_host_cpu_features()
    found = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "numba": numba.__version__,
        "processor": " ".join(
            [llvmlite.binding.get_host_cpu_name(), *(f for f in FEATURES if features.get(f))]
        ),
        "matrix product": f"our own, in tiles of {gemm_tile.TILE_ROWS} x "
        f"{gemm_tile.TILE_COLUMNS} numbers, {gemm_tile.LANES} to a register",
        "small products": f"numpy's, and those in float64: {numpys_blas()}",
        "threads": f"{number}, from {reason}",
        "thread layer": threads.threading_layer(),
        **gpu_facts(),
        "kernel cache": str(cache_root()),
    }
    for name, value in found.items():
        print(f"{name:<16}{value}")
    return found


def numpys_blas() -> str:
    """The library behind numpy's matrix products, as numpy was built."""
    built: Any = np.show_config(mode="dicts")
    blas = built["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas['version']}"
