"""How the fast paths are compiled: numba, lazily, into a cache of our own.

A *kernel* is a function that numba compiles to machine code the first time it is called. That takes
seconds, so the result is kept on disk, and the next process loads it in milliseconds.

numba's own cache looks only at the file in which a kernel stands: change a helper in another file
and the stale kernel is used. So our cache folder's name contains a hash of every source file of
this package and of numba's version. Any edit leads to a new, empty folder. The folder is set for
our kernels alone while each is being decorated; numba's global setting is put back at once.

This is the only module that knows about numba's cache, and importing it is what imports numba:
the rest of the package does so inside the functions that are about to use a kernel.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import event

from .linking import link_before_lowering


def source_hash(folder: Path) -> str:
    """Hash every Python source in `folder`, by name and content, together with numba's version."""
    digest = hashlib.sha256(f"numba {numba.__version__}".encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Choose where compiled kernels are kept: TRICYCLE_CACHE, else the user's cache folder.

    Where that cannot be written to it is a new temporary folder, for this process only: one that is
    shared might hold what another user put there.
    """
    chosen = os.environ.get("TRICYCLE_CACHE") or os.environ.get("XDG_CACHE_HOME")
    base = Path(chosen) if chosen else Path.home() / ".cache"
    folder = base / "tricycle" / f"bpe-kernels-{source_hash(Path(__file__).parent)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="tricycle_bpe-"))
    return folder


def kernel(function: Callable) -> Callable:
    """Compile `function` at its first call, and keep the result; it runs beside other threads."""
    previous = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(CACHE_FOLDER)
    try:
        compiled = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = previous
    OURS.add(compiled)
    return compiled


def helper(function: Callable) -> Callable:
    """Compile `function` into the kernels that call it. It has no cache of its own."""
    return numba.njit(forceinline=True, error_model="numpy")(function)


class _SayWhenCompiling(event.Listener):
    """Tell the user, once, what the first calls are waiting for."""

    said = False

    def on_start(self, event):
        if event.data["dispatcher"] in OURS and not self.said:
            self.said = True
            print(
                "tricycle_bpe: compiling kernels for this machine; this happens once "
                f"(they are kept in {CACHE_FOLDER})",
                file=sys.stderr,
                flush=True,
            )

    def on_end(self, event):
        pass


link_before_lowering()  # linking.py is in the hash: what was made before is not used again
OURS: set[Any] = set()  # numba's dispatchers
CACHE_FOLDER = cache_folder()
event.register("numba:compile", _SayWhenCompiling())
