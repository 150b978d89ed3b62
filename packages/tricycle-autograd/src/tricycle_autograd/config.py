"""What the library found on this machine, for a glance or a bug report."""

import os
import platform

import numpy as np

from tricycle_autograd.cpu import cache_root


def show_config() -> dict[str, str]:
    """Print versions, processor, threads and where compiled kernels are kept; return them too.

    Imports numba, which takes most of a second, but compiles and starts nothing.
    """
    import llvmlite.binding
    import numba

    from tricycle_autograd import gemm_tile

    found = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "numba": numba.__version__,
        "processor": llvmlite.binding.get_host_cpu_name(),
        "matrix product": f"tiles of {gemm_tile.TILE_ROWS} x {gemm_tile.TILE_COLUMNS} numbers, "
        f"{gemm_tile.LANES} to a register",
        "threads": f"{numba.config.NUMBA_NUM_THREADS} on {_allowed_cores()} cores",
        "kernel cache": str(cache_root()),
    }
    for name, value in found.items():
        print(f"{name:<16}{value}")
    return found


def _allowed_cores():
    """How many cores this process may use, which in a container is not how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
