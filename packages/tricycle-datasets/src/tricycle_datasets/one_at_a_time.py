"""One process at a time: who comes second waits until the first has done the work.

The lock is the system's, on a file that stays: it is given back when a process ends, however it
ends.  Where there are no such locks (Windows, some file systems of networks) nobody waits.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def one_at_a_time(path: Path, what: str) -> Iterator[None]:
    """Run a block while no other process, and no other thread, runs one with the same file.

    path    the file that is locked, made if it is not there
    what    is being done, to say what is waited for
    raises  OSError if the file cannot be made
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _wait_for(descriptor, what)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _wait_for(descriptor, what):
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "this system has no such locks")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process {what}: waiting until it ends", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
