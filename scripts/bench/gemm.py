"""How fast is our matrix product?  Against numpy's and, where it is installed, torch's.

    hatch run bench gemm.py [--threads 1] [--rounds 9] [--small] [--blas libmkl_rt.so.3 ...]

The products of GPT training, forwards and backwards, by the letters of BLAS: N an operand as it
lies in memory, T a transposed one.  All take turns, on the same arrays; the results must be equal
up to rounding.  Printed are medians of 2·M·N·K operations a second, in thousand millions, and the
median of the rounds' ratios (above 1: ours is faster).  Other libraries that have cblas_sgemm,
such as MKL's and OpenBLAS's from PyPI's `mkl` and `scipy-openblas32`, take part by their files.

Where other programs use the machine too, threads that wait for each other suffer most: one thread
(--threads 1) is then measured by the processor time it got, which company disturbs little.
"""

import argparse
import ctypes
import os
import platform
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

SHAPES = {
    "C 384: mlp up": (4096, 1536, 384, "NN"),
    "C 384: mlp up, tied": (4096, 1536, 384, "NT"),
    "C 384: mlp down": (4096, 384, 1536, "NN"),
    "C 384: d mlp up": (4096, 384, 1536, "NT"),
    "C 384: mlp up weight": (384, 1536, 4096, "TN"),
    "C 384: mlp down weight": (1536, 384, 4096, "TN"),
    "C 384: qkv": (4096, 1152, 384, "NN"),
    "C 384: attention out": (4096, 384, 384, "NN"),
    "C 768: mlp up": (1024, 3072, 768, "NN"),
    "C 768: mlp down": (1024, 768, 3072, "NN"),
    "C 768: d mlp up": (1024, 768, 3072, "NT"),
    "C 768: mlp up weight": (768, 3072, 1024, "TN"),
    "C 128: mlp up": (768, 512, 128, "NN"),
    "C 128: mlp down": (768, 128, 512, "NN"),
    "C 128: mlp up weight": (128, 512, 768, "TN"),
    "square": (1024, 1024, 1024, "NN"),
}
SMALL = {
    "scores, T 64, D 64": (64, 64, 64, "NT"),
    "sums, T 64, D 64": (64, 64, 64, "NN"),
    "gradient of k, T 64": (64, 64, 64, "TN"),
    "scores, T 256, D 64": (32, 256, 64, "NT"),
    "sums, T 256, D 64": (32, 64, 256, "NN"),
    "gradient of k, T 256": (256, 64, 32, "TN"),
    "scores, T 256, D 128": (64, 256, 128, "NT"),
    "scores, T 1024, D 64": (64, 1024, 64, "NT"),
    "scores, T 256, D 32": (64, 256, 32, "NT"),
    "one token": (1, 1536, 384, "NN"),
    "one token, tied": (1, 1536, 384, "NT"),
}
SECONDS = 0.02  # about how long each measurement takes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each")
    parser.add_argument("--rounds", type=int, default=9, help="how often each is timed")
    parser.add_argument("--small", action="store_true", help="products of attention's size")
    parser.add_argument("--blas", nargs="*", default=[], help="shared libraries with cblas_sgemm")
    options = parser.parse_args()
    # Read by the libraries when they are imported, below.
    for name in (
        "TRICYCLE_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
    ):
        os.environ[name] = str(options.threads)
    if options.threads == 1:
        os.environ["MKL_THREADING_LAYER"] = "SEQUENTIAL"
    clock = time.thread_time if options.threads == 1 else time.perf_counter

    print(f"{describe_machine()}, {options.threads} threads")
    names = ["ours", "numpy"] + (["torch"] if find_spec("torch") else [])
    for file in options.blas:
        name = Path(file).name.removeprefix("lib").split(".")[0][-7:]
        RUNS[name] = of_library(file)
        names.append(name)
    titles = [f"{name:>7}" for name in names] + [f"{'/ ' + name:>8}" for name in names[1:]]
    print(f"{'':24}{'M':>6}{'N':>6}{'K':>6}     {''.join(titles)}")
    for title, (M, N, K, form) in (SMALL if options.small else SHAPES).items():
        speeds = measure(M, N, K, form, names, options.rounds, clock)
        numbers = [f"{median(speeds[name]):7.0f}" for name in names]
        for name in names[1:]:
            ratios = [a / b for a, b in zip(speeds["ours"], speeds[name], strict=True)]
            numbers.append(f"{median(ratios):8.2f}")
        print(f"{title:24}{M:6}{N:6}{K:6}  {form} {''.join(numbers)}", flush=True)


def describe_machine() -> str:
    import llvmlite.binding

    from tricycle_autograd import gemm_tile

    core = llvmlite.binding.get_host_cpu_name()
    rows, columns, lanes = gemm_tile.TILE_ROWS, gemm_tile.TILE_COLUMNS, gemm_tile.LANES
    return f"{platform.machine()} {core}, vectors of {lanes}, tiles of {rows} x {columns}"


def measure(M, N, K, form, names, rounds, clock):
    """Thousand million operations a second: a list for each name, one number a round."""
    import numpy as np

    rng = np.random.default_rng(0)
    a = rng.standard_normal((M, K) if form[0] == "N" else (K, M), np.float32)
    b = rng.standard_normal((K, N) if form[1] == "N" else (N, K), np.float32)
    a, b = a if form[0] == "N" else a.T, b if form[1] == "N" else b.T
    runs = {name: RUNS[name](a, b) for name in names}

    expected = a.astype(np.float64) @ b
    for name, (run, out) in runs.items():
        run()
        np.testing.assert_allclose(out, expected, atol=1e-5 * K, rtol=1e-4, err_msg=name)

    operations = 2 * M * N * K
    repeats = max(1, round(SECONDS * 1e11 / operations))
    speeds = {name: [] for name in names}
    for _ in range(rounds):
        for name, (run, _out) in runs.items():
            start = clock()
            for _ in range(repeats):
                run()
            speeds[name].append(operations * repeats / (clock() - start) / 1e9)
    return speeds


def ours(a, b):
    import numpy as np

    from tricycle_autograd.gemm import product

    out = np.empty((a.shape[0], b.shape[1]), np.float32)
    return lambda: product(out, a, b), out


def numpys(a, b):
    import numpy as np

    out = np.empty((a.shape[0], b.shape[1]), np.float32)
    return lambda: np.matmul(a, b, out=out), out


def torchs(a, b):
    import torch

    a, b = torch.from_numpy(a), torch.from_numpy(b)
    out = torch.empty((a.shape[0], b.shape[1]))
    return lambda: torch.mm(a, b, out=out), out.numpy()


def of_library(file):
    """Products by the cblas_sgemm of a shared library with integers of 32 bits."""
    library = ctypes.CDLL(file)
    prefix = "scipy_" if hasattr(library, "scipy_cblas_sgemm") else ""
    sgemm = getattr(library, prefix + "cblas_sgemm")
    integer, number, pointer = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    sgemm.argtypes = [integer] * 6 + [number] + [pointer, integer] * 2 + [number, pointer, integer]
    by_rows, as_it_is, transposed = 101, 111, 112  # CBLAS's names for its arguments

    def run_of(a, b):
        import numpy as np

        out = np.empty((a.shape[0], b.shape[1]), np.float32)
        operands, forms = [], []
        for array in (a, b):
            forms.append(as_it_is if array.flags.c_contiguous else transposed)
            stored = array if array.flags.c_contiguous else array.T
            operands += [stored.ctypes.data, stored.shape[1]]
        sizes = (a.shape[0], b.shape[1], a.shape[1])
        arguments = (by_rows, *forms, *sizes, 1, *operands, 0, out.ctypes.data, b.shape[1])
        return lambda: sgemm(*arguments), out

    return run_of


RUNS = {"ours": ours, "numpy": numpys, "torch": torchs}

if __name__ == "__main__":
    main()
