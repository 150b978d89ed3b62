"""One process, or one group of ranks, at a time in a run's folder.

Two processes that train in one folder would write each other's files: a checkpoint could hold the
weights of one and the moments of the other.  So who trains there holds a lock on the file
`run.lock`.  The system gives it back when the process ends, however it ends: nothing is left behind
by `kill -9` that a person would have to remove.  The file itself stays, and says who held it last.

Some file systems of networks have no such locks.  Then that is said, and the run goes on.
"""

import errno
import json
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tricycle_gpt.runs.distributed import Alone, Communicator, texts_of_all

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = "run.lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class RunLock:
    """A run's folder in the hands of this process, or of rank 0 of the ranks it is one of.

    folder      of the run
    descriptor  of the lock's file; None on the other ranks
    """

    def __init__(self, folder: Path, descriptor: int | None):
        self.folder, self.descriptor = folder, descriptor
        self.thread = threading.get_ident()
        self.uses = 0

    def check_place(self) -> None:
        """Raise OSError if the folder was moved, removed or replaced since it was locked.

        Without this a run whose folder gets another name would go on in a new one of the old name,
        and be in two places.
        """
        if self.descriptor is None:
            return
        ours = os.fstat(self.descriptor)
        try:
            there = os.stat(self.folder / NAME)
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise OSError(
                f"{self.folder} was moved, removed or replaced while the run was writing to it, so "
                "nothing more is written there; the checkpoints so far are where the folder is "
                "now. Put it back, and go on with --resume"
            )


HELD: dict[tuple[int, int], RunLock] = {}  # by this process: by device and number of the file


@contextmanager
def locked_run(folder: str | Path, communicator: Communicator | None = None) -> Iterator[RunLock]:
    """Hold a run's folder, which is made, for the time of a block.

    communicator  the ranks that train in it together, all of which call this: rank 0 holds it

    The thread that holds it may come in again, as `train` does in a program that prepares its data
    first.  Raises ValueError, on every rank, if another process, or another thread, is in it.
    """
    folder, communicator = Path(folder), communicator or Alone()
    lock, trouble = RunLock(folder, None), ""
    if communicator.rank == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _take(folder)
        except (OSError, ValueError) as error:
            if communicator.size == 1:
                raise
            trouble = str(error) or type(error).__name__
    if communicator.size > 1 and (trouble := texts_of_all(communicator, trouble)[0]):
        raise ValueError(trouble)
    try:
        yield lock
    finally:
        _leave(lock)


def _take(folder):
    """The lock on a folder, taken now or held by this thread already."""
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    there = os.fstat(descriptor)
    key = (there.st_dev, there.st_ino)
    if key in HELD:
        os.close(descriptor)
        if HELD[key].thread != threading.get_ident():
            raise ValueError(_in_use(folder, {"process": os.getpid()}))
        lock = HELD[key]
    else:
        try:
            _lock_file(folder, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        lock = HELD[key] = RunLock(folder, descriptor)
    lock.uses += 1
    return lock


def _lock_file(folder, descriptor):
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "this system has no such locks")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(_in_use(folder, _holder(descriptor))) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(
            f"warning: {folder} cannot be locked ({error.strerror}): see to it yourself that no "
            "other process trains in it",
            file=sys.stderr,
        )
    who = json.dumps({"process": os.getpid(), "machine": platform.node()}) + "\n"
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)  # not pwrite, which Windows lacks
    os.write(descriptor, who.encode())


def _holder(descriptor) -> dict[str, Any]:
    """What the lock's file says of who holds it; nothing if it cannot be read."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        who = json.loads(os.read(descriptor, 1000))
    except (OSError, ValueError, RecursionError):
        who = None
    return who if isinstance(who, dict) else {}


def _in_use(folder, who):
    holder = f"process {who['process']}" if "process" in who else "another process"
    if "machine" in who:
        holder += f" on {who['machine']}"
    return (
        f"{folder} is in use: {holder} trains in it. Wait until that ends, or choose another folder"
    )


def _leave(lock):
    lock.uses -= 1
    if lock.descriptor is not None and lock.uses == 0:
        for key, held in list(HELD.items()):
            if held is lock:
                del HELD[key]
        with suppress(OSError):  # a file system without locks
            if fcntl is not None:
                fcntl.flock(lock.descriptor, fcntl.LOCK_UN)
        os.close(lock.descriptor)


def _forget_in_a_forked_process():
    """A process that was forked has the parent's open file, and with it the lock: it lets go of
    the file, so that the lock ends with the parent."""
    for lock in HELD.values():
        if lock.descriptor is not None:
            os.close(lock.descriptor)
            lock.descriptor = None
    HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_a_forked_process)
