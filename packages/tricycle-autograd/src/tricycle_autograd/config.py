"""What the library found on this machine, for a glance or a bug report."""

import os
import platform

import numpy as np

from tricycle_autograd.cpu import cache_root

# llvm's names of processor features, and the bits of the vectors they bring, widest first
VECTORS = {"avx512f": 512, "avx2": 256, "sse2": 128, "neon": 128}


def show_config() -> dict[str, str]:
    """Print versions, processor, threads and where compiled kernels are kept; return them too.

    Imports numba, which takes most of a second, but compiles and starts nothing.
    """
    import llvmlite.binding as llvm
    import numba

    features = llvm.get_host_cpu_features()
    vectors = next((f"{bits}-bit" for name, bits in VECTORS.items() if features.get(name)), "no")
    found = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "numba": numba.__version__,
        "processor": f"{llvm.get_host_cpu_name()}, {vectors} vectors",
        "threads": f"{numba.config.NUMBA_NUM_THREADS} on {_allowed_cores()} cores",
        "thread layer": numba.config.THREADING_LAYER,
        "kernel cache": str(cache_root()),
    }
    for name, value in found.items():
        print(f"{name:<14}{value}")
    return found


def _allowed_cores():
    """How many cores this process may use, which in a container is not how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
