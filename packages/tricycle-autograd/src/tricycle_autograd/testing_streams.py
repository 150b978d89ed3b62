"""cupy's memory, streams and events, for tests on machines without a GPU.

    with emulated_gpu():
        choose_device("auto")     "cuda"
        move(array, "cuda")       an EmulatedArray (testing_device.py)

Inside the block `import cupy` gives a stand-in.  It has one GPU, whose memory is this process's,
whose clock is the processor's, and on which all is done as soon as it is asked for.  What it tells
of itself can be changed, to see what happens with another one.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tricycle_autograd.testing_device import EmulatedCupy


class Event:
    """A moment on a stream."""

    def record(self, stream: Any = None) -> None:
        self.moment = time.perf_counter()


def get_elapsed_time(one: Event, other: Event) -> float:
    """Milliseconds from one moment to another."""
    return (other.moment - one.moment) * 1e3


class Stream:
    """A row of things to do, which are done as soon as they are asked for."""

    ptr = 0

    def __init__(self, non_blocking: bool = False):
        self.non_blocking = non_blocking


WAITING = "synchronize"  # cupy's name of it
for kind in (Event, Stream):
    setattr(kind, WAITING, lambda self: None)  # nothing to wait for: it is done


class Pool:
    """cupy's pool of memory: says how much it has."""

    def __init__(self):
        self.total, self.unused = 0, 0

    def total_bytes(self) -> int:
        return self.total

    def free_bytes(self) -> int:
        return self.unused

    def free_all_blocks(self) -> None:
        self.total, self.unused = self.total - self.unused, 0


class Runtime:
    """What CUDA tells of itself: versions as 1000 · major + 10 · minor."""

    def __init__(self):
        self.driver, self.runtime = 13000, 13020
        self.name, self.capability = b"a GPU made of numpy", (8, 0)
        self.memory, self.free = 8 << 30, 6 << 30

    def driverGetVersion(self) -> int:
        return self.driver

    def runtimeGetVersion(self) -> int:
        return self.runtime

    def memGetInfo(self) -> tuple[int, int]:
        return self.free, self.memory

    def getDeviceProperties(self, number: int) -> dict[str, Any]:
        major, minor = self.capability
        return {"name": self.name, "major": major, "minor": minor}


class Device:
    """The only one."""

    id = 0


class Cuda:
    """cupy.cuda, as far as it is used."""

    Device = Device
    Event = Event
    Stream = Stream
    get_elapsed_time = staticmethod(get_elapsed_time)

    def __init__(self):
        self.runtime, self.pool, self.stream = Runtime(), Pool(), Stream()
        self.is_there = True

    def is_available(self) -> bool:
        return self.is_there

    def get_current_stream(self) -> Any:
        return self.stream


class CupyWithStreams(EmulatedCupy):
    """What `import cupy` gives while a GPU is emulated."""

    def __init__(self):
        self.cuda = Cuda()

    def get_default_memory_pool(self) -> Pool:
        return self.cuda.pool


@contextmanager
def emulated_gpu() -> Iterator[CupyWithStreams]:
    """Have this machine seem to have a GPU inside a block; gives what `import cupy` gives there."""
    before, cupy = sys.modules.get("cupy"), CupyWithStreams()
    sys.modules["cupy"] = cupy  # type: ignore[assignment]  # it is not a module, and serves as one
    try:
        yield cupy
    finally:
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
