"""One process, or one group of ranks, at a time in a run's folder.

Two processes that train in one folder would write each other's files: a checkpoint could hold the
weights of one and the moments of the other.  So who trains there holds a lock on the file
`run.lock`.  The system gives it back when the process ends, however it ends: nothing is left behind
by `kill -9` that a person would have to remove.  The file itself stays, and says who held it last.
If it is removed during the run, it is made and locked again before the next save.

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
    place       device and number of the folder itself, by which it is known again
    opened      a descriptor of the folder: while it is open no other folder gets that number; None
                where a folder cannot be opened (Windows)
    """

    def __init__(self, folder: Path, descriptor: int | None = None):
        self.folder, self.descriptor = folder, descriptor
        self.place: tuple[int, int] | None = None
        self.opened: int | None = None
        self.thread = threading.get_ident()
        self.uses = 0

    def check_place(self) -> None:
        """Raise OSError if the folder was moved, removed or replaced since it was locked.

        Without this a run whose folder gets another name would go on in a new one of the old name,
        and be in two places.  A run.lock that alone was removed or replaced is locked again;
        ValueError if another process was faster.
        """
        if self.descriptor is None:
            return
        if _identity(self.folder) != self.place:
            raise OSError(
                f"{self.folder} was moved, removed or replaced while the run was writing to it, so "
                "nothing more is written there; the checkpoints so far are where the folder is "
                "now. Put it back, and go on with --resume"
            )
        if _identity(self.folder / NAME) != _identity(self.descriptor):
            descriptor = _locked_file(self.folder)
            os.close(self.descriptor)
            self.descriptor = descriptor


HELD: dict[tuple[int, int], RunLock] = {}  # by this process: by the folder's device and number


@contextmanager
def locked_run(folder: str | Path, communicator: Communicator | None = None) -> Iterator[RunLock]:
    """Hold a run's folder, which is made, for the time of a block.

    communicator  the ranks that train in it together, all of which call this: rank 0 holds it

    The thread that holds it may come in again, as `train` does in a program that prepares its data
    first.  Raises ValueError, on every rank, if another process, or another thread, is in it.
    """
    folder, communicator = Path(folder), communicator or Alone()
    lock, trouble = RunLock(folder), ""
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
    lock = HELD.get(_identity(folder))
    if lock is None:
        lock = RunLock(folder, _locked_file(folder))
        if os.name == "posix":
            lock.opened = os.open(folder, os.O_RDONLY)
        lock.place = _identity(folder)
        HELD[lock.place] = lock
    elif lock.thread != threading.get_ident():
        raise ValueError(_in_use(folder, {"process": os.getpid()}))
    lock.uses += 1
    return lock


def _identity(place):
    """By what a file or a folder, or an open one, is known again; None if it is not there."""
    try:
        found = os.stat(place)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _locked_file(folder):
    """A descriptor of the lock's file, locked.  ValueError if another process has it."""
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock_file(folder, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


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
    os.lseek(descriptor, 0, os.SEEK_SET)  # not pwrite, which Windows lacks
    os.write(descriptor, who.encode())  # before the rest goes: who reads now finds a whole line
    os.ftruncate(descriptor, len(who))


def _holder(descriptor) -> dict[str, Any]:
    """What the lock's file says of who holds it; nothing if it cannot be read."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        who = json.loads(os.read(descriptor, 1000).partition(b"\n")[0])
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
        place = lock.place
        if HELD.get(place) is lock:
            del HELD[place]
        with suppress(OSError):  # a file system without locks
            if fcntl is not None:
                fcntl.flock(lock.descriptor, fcntl.LOCK_UN)
        _close(lock)


def _close(lock):
    for descriptor in (lock.descriptor, lock.opened):
        if descriptor is not None:
            os.close(descriptor)
    lock.descriptor = lock.opened = None


def _forget_in_a_forked_process():
    """A process that was forked has the parent's open file, and with it the lock: it lets go of
    the file, so that the lock ends with the parent."""
    for lock in HELD.values():
        _close(lock)
    HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_a_forked_process)
