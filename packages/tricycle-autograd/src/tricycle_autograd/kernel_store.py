"""Machine code on the disk: a file for each kernel and the types of its arguments.

    tricycle kernel 1\\n | sha256 of the rest, 32 bytes | what numba makes of the compiled function

numba has such files too, and an index of them, and believes both.  Here a file that is empty, cut
or damaged is not used, and the kernel is compiled again: numba would end in an error at every start
or, worse, run what is there.  A file is whole or not there, and no index can point to what is gone.

The digest finds accidents.  It is no signature: who can write to the folder can run code here.

tricycle_bpe has the same file: each of the two packages stands alone.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

HEADER = b"tricycle kernel 1\n"
BEGINNING = len(HEADER) + hashlib.sha256().digest_size


class KernelStore:
    """Where one function's machine code is kept, as numba asks for it: it is a dispatcher's _cache.

    place    (signature) -> its file
    trouble  is told, in a sentence, of a file that is damaged or cannot be written
    """

    def __init__(self, place: Callable[[Any], Path], trouble: Callable[[str], None]):
        self._place, self._trouble = place, trouble
        self.cache_path = ""  # of what was asked for last, for numba's statistics

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """numba's compiled function for a signature; None if there is no whole file of it."""
        from numba.core import serialize
        from numba.core.compiler import CompileResult

        target_context.refresh()
        payload = read_kernel(self._file(signature), self._trouble)
        if payload is None:
            return None
        return CompileResult._rebuild(target_context, *serialize.pickle.loads(payload))

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what numba has compiled for a signature, if it lets itself be kept."""
        from numba.core import serialize

        lifted = any(not part.can_cache for part in compiled.lifted)
        if lifted or compiled.library.has_dynamic_globals:
            return
        try:
            write_kernel(self._file(signature), serialize.dumps(compiled._reduce()))
        except OSError as error:
            self._trouble(f"a kernel could not be kept, and is compiled again next time: {error}")

    def flush(self) -> None:
        """Nothing: numba asks for it before it compiles anew, and then files are replaced."""

    def _file(self, signature):
        file = self._place(signature)
        self.cache_path = str(file.parent)
        return file


def read_kernel(file: Path, trouble: Callable[[str], None] = lambda sentence: None) -> bytes | None:
    """What write_kernel kept in a file; None if it is not there, or not as it was written."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        trouble(f"a compiled kernel cannot be read, and is compiled again: {error}")
        return None
    payload = content[BEGINNING:]
    if content[:BEGINNING] != HEADER + hashlib.sha256(payload).digest():
        trouble(f"{file} is damaged: the kernel is compiled again")
        return None
    return payload


def write_kernel(file: Path, payload: bytes) -> None:
    """Keep bytes in a file that is whole or as it was before.  OSError if it cannot be written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        new.write_bytes(HEADER + hashlib.sha256(payload).digest() + payload)
        os.replace(new, file)
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
