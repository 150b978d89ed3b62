"""Where compiled kernels are kept, and what this process has to remember about them.

Machine code lies in a folder whose name is a hash of all that it was made from: the sources of a
kernel and of its helpers, the numbers from outside that it holds, the files that make machine code
of it, and numba.  numba's own cache notices a change in the kernel's file, but not one in a file it
imports from.
"""

import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

# How a kernel is made decides its machine code too: flags, symbols, what is linked.
MAKERS = [str(Path(__file__).with_name(name)) for name in ("machine_code.py", "linking.py")]


class ProcessState:
    """What holds for this process, and is never true of one that was forked from it.

    used            whether a kernel was made ready in it
    compiles        whether it is the process that compiles for others
    forked          whether it was forked from one that had used kernels
    """

    def __init__(self) -> None:
        self.used = False
        self.compiles = False
        self.forked = False
        self._announced = False
        # Held while a kernel runs.  Its thread may take it again: a signal's handler, or a __del__,
        # that calls a kernel runs in the middle of whatever Python was doing.
        self.lock = threading.RLock()

    def announce_compilation(self) -> None:
        """Say it, once, when code has to be compiled that is not on the disk."""
        if not self._announced:
            self._announced = True
            print(
                "tricycle: compiling kernels for this machine; this happens once "
                f"(they are kept in {cache_root()})",
                file=sys.stderr,
                flush=True,
            )

    def check_not_forked(self) -> None:
        """Raise RuntimeError in a process that cannot run kernels."""
        if self.forked:
            raise RuntimeError(
                "this process was forked from one that had used kernels, whose threads do not "
                'survive that; start processes with multiprocessing.get_context("spawn")'
            )

    def after_fork(self) -> None:
        """Note, in a new process, that it was forked."""
        self.forked = self.used


process = ProcessState()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=process.after_fork)


def cache_root() -> Path:
    """Where compiled kernels are kept: TRICYCLE_CACHE, else the user's cache folder."""
    chosen = os.environ.get("TRICYCLE_CACHE") or os.environ.get("XDG_CACHE_HOME")
    root = Path(chosen) if chosen else Path.home() / ".cache"
    return root / "tricycle" / "kernels"


def cache_folder(files: set[str], constants: set[str]) -> Path:
    """The folder for machine code made from these source files and constants by this numba."""
    import numba

    from tricycle_autograd.gemm_tile import LANES, TILE_ROWS  # as found on this machine

    made_by = f"numba {numba.__version__} python {sys.version} lanes {LANES} rows {TILE_ROWS}"
    digest = hashlib.sha256("\n".join([made_by, *sorted(constants)]).encode())
    for file in [*sorted(files, key=os.path.basename), *MAKERS]:
        digest.update(Path(file).read_bytes())
    return writable_folder(digest.hexdigest()[:16])


def kept_file(name: str, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, kept on disk under this name; from there, if it was made before."""
    path = cache_root() / name
    if path.is_file():
        return path.read_bytes()
    data = make()
    folder = writable_folder(os.path.dirname(name))
    # Another process may make the same file, or read it: it is there whole, or not at all.
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(data)
    os.replace(file.name, folder / path.name)
    return data


def writable_folder(name: str) -> Path:
    """A folder of this name where compiled kernels are kept, or in a new place if need be."""
    folder = cache_root() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # One that is there may be read-only.  numba would then keep the machine code beside the
        # sources, where it does not notice a change in a helper.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        # A home that cannot be written to: a new folder for this process, and for the one that
        # compiles for it.  One with a known name could hold what another user put there.
        os.environ["TRICYCLE_CACHE"] = tempfile.mkdtemp(prefix="tricycle-")
        folder = cache_root() / name
        folder.mkdir(parents=True)
    return folder
