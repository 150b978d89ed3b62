"""Where compiled kernels are kept, and what this process has to remember about them.

Machine code lies in a folder whose name is a hash of all that it was made from: the sources of a
kernel and of its helpers, the numbers from outside that it holds, the files that make machine code
of it, and numba.  numba's own cache notices a change in the kernel's file, but not one in a file it
imports from.

Where nothing can be written, or the disk is full, the folder is a new one elsewhere, for this
process and those that compile for it, and goes with this process.
"""

import atexit
import functools
import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from tricycle_autograd.kernel_store import read_kernel, write_kernel

# How a kernel is made decides its machine code too: flags, symbols, what is linked.
MAKERS = [str(Path(__file__).with_name(name)) for name in ("machine_code.py", "linking.py")]
ROOM = 4_000_000  # bytes that must find room where kernels are to be kept


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
        self._said: set[str] = set()
        self._temporary: tuple[int, str] | None = None  # the process that made the folder
        # Held while a kernel runs.  Its thread may take it again: a signal's handler, or a __del__,
        # that calls a kernel runs in the middle of whatever Python was doing.
        self.lock = threading.RLock()

    def announce_compilation(self) -> None:
        """Say it, once, when code has to be compiled that is not on the disk."""
        self.say_once(
            "compiling kernels for this machine; this happens once "
            f"(they are kept in {cache_root()})",
            "compiling",
        )

    def say_once(self, sentence: str, about: str) -> None:
        """Say a sentence on standard error, unless one about the same was said; not in a process
        that compiles for another one, which says it itself."""
        if about not in self._said and not self.compiles:
            self._said.add(about)
            print(f"tricycle: {sentence}", file=sys.stderr, flush=True)

    def say_trouble(self, sentence: str) -> None:
        """Say, once, that a file of the cache is damaged or cannot be written."""
        self.say_once(sentence, "trouble")

    def keep_elsewhere(self, why: str) -> bool:
        """From now on keep kernels in a new folder, for the time of this process.

        A folder with a known name could hold what another user put there.  /dev/shm is memory.
        Returns False, and says so, if there is no room anywhere.
        """
        for place in (None, "/dev/shm"):  # None: the system's folder for temporary files
            try:
                folder = tempfile.mkdtemp(prefix="tricycle-", dir=place)
            except OSError:
                continue
            if has_room(Path(folder)):
                os.environ["TRICYCLE_CACHE"] = folder
                self._temporary = os.getpid(), folder
                self.say_once(f"{why}, so kernels are kept in {folder} until the end", "elsewhere")
                return True
            shutil.rmtree(folder, ignore_errors=True)
        self.say_once(f"{why}, so kernels are kept in memory: the next process compiles", "trouble")
        return False

    def remove_temporary(self) -> None:
        """Remove the folder that this process made."""
        if self._temporary is not None and self._temporary[0] == os.getpid():
            shutil.rmtree(self._temporary[1], ignore_errors=True)

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
atexit.register(process.remove_temporary)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=process.after_fork)


def cache_root() -> Path:
    """Where compiled kernels are kept: TRICYCLE_CACHE, else the user's cache folder."""
    chosen = os.environ.get("TRICYCLE_CACHE") or os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(chosen) if chosen else Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor a name for this user
        process.keep_elsewhere("this user has no home")
        root = Path(os.environ.get("TRICYCLE_CACHE", os.devnull))  # where nothing can be written
    return root / "tricycle" / "kernels"


def has_room(folder: Path) -> bool:
    """Whether files can be written to a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM))
            file.flush()
    except OSError:
        return False
    return True


@functools.lru_cache
def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made if need be; asked once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@functools.lru_cache
def source_of(file: str) -> bytes:
    """A source file as it was when the first kernel made from it was asked for."""
    return Path(file).read_bytes()


def cache_folder(files: set[str], constants: set[str]) -> Path:
    """The folder for machine code made from these source files and constants by this numba."""
    import llvmlite
    import numba

    from tricycle_autograd.gemm_tile import LANES, TILE_ROWS  # as found on this machine

    made_by = (
        f"numba {numba.__version__} llvmlite {llvmlite.__version__} python {sys.version} "
        f"lanes {LANES} rows {TILE_ROWS}"
    )
    digest = hashlib.sha256("\n".join([made_by, *sorted(constants)]).encode())
    for file in [*sorted(files, key=os.path.basename), *MAKERS]:
        digest.update(source_of(file))
    return writable_folder(digest.hexdigest()[:16])


def kept_file(name: str, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, kept on disk under this name; from there, if it was made before."""
    found = read_kernel(cache_root() / name, process.say_trouble)
    if found is not None:
        return found
    data = make()
    try:
        write_kernel(writable_folder(os.path.dirname(name)) / os.path.basename(name), data)
    except OSError as error:
        process.say_trouble(f"a kernel could not be kept, and is compiled again next time: {error}")
    return data


def writable_folder(name: str) -> Path:
    """A folder of this name where compiled kernels are kept, or in a new place if need be."""
    folder = cache_root() / name
    if not is_writable(folder) and process.keep_elsewhere(f"{folder} cannot be written to"):
        folder = cache_root() / name
        folder.mkdir(parents=True)
    return folder
