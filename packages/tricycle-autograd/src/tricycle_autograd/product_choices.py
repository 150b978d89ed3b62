"""Algorithms for products that a measurement chose, in a file: by GPU, library and problem.

    choices = {"NVIDIA H100 80GB HBM3, 131000": {"M=… N=… …": "00ff…"}}

cuBLASLt's own first proposal is what runs, unless the file has another one.  The file is written by
a measurement of its own (`write`), and only read in a run: the same file gives the same
algorithms, and with them the same bits.  It lies beside the compiled kernels, in the user's cache
folder, or where TRICYCLE_PRODUCT_CHOICES says.

An algorithm is 64 bytes, which cuBLASLt promises to understand in the same version only: hence the
version.  It is looked at by the library before it is used (MatmulAlgoCheck).
"""

import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from tricycle_autograd.kernel_cache import cache_root

SIZE = 64  # bytes of an algorithm


def path() -> Path:
    """Where the file is, or would be."""
    chosen = os.environ.get("TRICYCLE_PRODUCT_CHOICES")
    return Path(chosen) if chosen else cache_root().parent / "product-choices.json"


def read(version: int, problem: Any, gpu: str | None = None) -> bytes | None:
    """The algorithm chosen for a Problem, or None.

    version  of cuBLASLt, as its GetVersion gives it
    gpu      the GPU's name; of the current one if None

    Raises ValueError, naming the file, for one that holds something else.
    """
    file = path()
    if not file.is_file():
        return None
    return _all_of(file, file.stat().st_mtime_ns).get((_machine(version, gpu), repr(problem)))


def write(version: int, chosen: dict[Any, bytes], gpu: str | None = None) -> Path:
    """Write down algorithms by their Problem, beside what the file holds already.

    Returns the file.
    """
    file = path()
    everything = json.loads(file.read_text()) if file.is_file() else {}
    mine = everything.setdefault(_machine(version, gpu), {})
    mine |= {repr(problem): data.hex() for problem, data in chosen.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(descriptor, "w") as new:
        json.dump(everything, new, indent=1)
    os.replace(name, file)  # whole, or not at all
    return file


@lru_cache(maxsize=1)
def _all_of(file, _changed):
    """(machine, problem) to algorithm, for everything in the file."""
    try:
        return {
            (machine, problem): _algorithm(data)
            for machine, problems in json.loads(file.read_text()).items()
            for problem, data in problems.items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{file} should hold algorithms for matrix products, and does not ({error}); delete "
            "it, and have it written again"
        ) from error


def _algorithm(text):
    data = bytes.fromhex(text)
    if len(data) != SIZE:
        raise ValueError(f"an algorithm has {SIZE} bytes, this one {len(data)}")
    return data


def _machine(version, gpu):
    if gpu is None:
        import cupy

        gpu = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return f"{gpu}, {version}"
