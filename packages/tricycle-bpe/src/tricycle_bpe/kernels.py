"""How the fast paths are compiled: numba, lazily, into a cache of our own.

A *kernel* is a function that numba compiles to machine code the first time it is called. That takes
seconds, so the result is kept on disk, and the next process loads it in milliseconds.

numba's own cache looks only at the file in which a kernel stands: change a helper in another file
and the stale kernel is used. So our cache folder's name contains a hash of every source file of
this package and of numba's version. Any edit leads to a new, empty folder. How a kernel lies in it,
and what happens to a file that is damaged, stands in kernel_store.py.

This is the only module that knows about numba's cache, and importing it is what imports numba:
the rest of the package does so inside the functions that are about to use a kernel.
"""

import atexit
import functools
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import event

from .kernel_store import KernelStore
from .linking import link_before_lowering


def source_hash(folder: Path) -> str:
    """Hash every Python source in `folder`, by name and content, together with numba's version."""
    digest = hashlib.sha256(f"numba {numba.__version__}".encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Choose where compiled kernels are kept: TRICYCLE_CACHE, else the user's cache folder.

    Where that cannot be written to, or there is no home, it is a new temporary folder, for this
    process only, which is removed at its end: one that is shared might hold what another user put
    there.
    """
    chosen = os.environ.get("TRICYCLE_CACHE") or os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(chosen) if chosen else Path.home() / ".cache"
        folder = base / "tricycle" / f"bpe-kernels-{source_hash(Path(__file__).parent)}"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # RuntimeError: neither HOME nor a name for this user
        folder = Path(tempfile.mkdtemp(prefix="tricycle_bpe-"))
        atexit.register(remove_folder, folder, os.getpid())
    return folder


def remove_folder(folder: Path, process: int) -> None:
    """Remove a folder and what is in it, in the process that made it alone."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def in_trouble(sentence: str) -> None:
    """Tell the user of the first trouble with the cache."""
    if not TROUBLES:
        print(f"tricycle_bpe: {sentence}", file=sys.stderr, flush=True)
    TROUBLES.append(sentence)


def place_of(function: Callable, signature: Any) -> Path:
    """The file of a kernel for arguments of some types, on this processor."""
    made_for = numba.core.registry.cpu_target.target_context.codegen().magic_tuple()
    parts = function.__module__, function.__qualname__, signature, made_for
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    return CACHE_FOLDER / f"{function.__name__}-{digest}.stored"


def kernel(function: Callable) -> Callable:
    """Compile `function` at its first call, and keep the result; it runs beside other threads."""
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    compiled._cache = KernelStore(functools.partial(place_of, function), in_trouble)
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
TROUBLES: list[str] = []  # with the cache, of which the first is said
CACHE_FOLDER = cache_folder()
event.register("numba:compile", _SayWhenCompiling())
