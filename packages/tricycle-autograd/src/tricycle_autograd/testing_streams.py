"""cupy's memory, streams and events, for tests on machines without a GPU.

    with emulated_gpu():
        choose_device("auto")     "cuda"
        move(array, "cuda")       an EmulatedArray (testing_device.py)

Inside the block `import cupy` gives a stand-in.  It has one GPU, whose memory is this process's,
whose clock is the processor's, and whose arrays work as soon as they are asked to, after what waits
on the current stream.  Copies to it that name a stream, and what a test puts into one, wait as long
as CUDA may let them.  What it tells
of itself can be changed, to see what happens with another one.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tricycle_autograd.testing_device import EmulatedCupy, row

_running = 0  # streams that are doing what waits on them: an operation of theirs is in order


class Stream:
    """A row of things to do.  What is put into it waits, as late as CUDA may let it wait: until the
    stream, or an event after it, is waited for.  While it captures, it is written down instead.
    """

    ptr = 0

    def __init__(self, non_blocking: bool = False):
        self.non_blocking = non_blocking
        self.waiting: list[Callable[[], object]] = []
        self.captured: list[Callable[[], object]] | None = None

    def do(self, action: Callable[[], object]) -> None:
        """Put something into the row, as a launch does."""
        (self.waiting if self.captured is None else self.captured).append(action)

    def run(self, most: int | None = None) -> None:
        """Do what waits, the first of it."""
        global _running
        left = len(self.waiting) if most is None else most
        _running += 1
        try:
            while left and self.waiting:  # doing one may do others
                self.waiting.pop(0)()
                left -= 1
        finally:
            _running -= 1

    def record(self, event: "Event | None" = None) -> "Event":
        """A moment that has come when all that waits now is done."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        """Go on only when it has come."""
        self.do(event.wait)

    def begin_capture(self) -> None:
        if self.captured is not None:
            raise RuntimeError("the stream captures already")
        self.captured = row.captured = []

    def end_capture(self) -> "Graph":
        assert self.captured is not None
        graph, self.captured, row.captured = Graph(self.captured), None, None
        return graph

    def __enter__(self) -> "Stream":
        self.before = sys.modules["cupy"].cuda.stream
        sys.modules["cupy"].cuda.stream = self
        return self

    def __exit__(self, *error: object) -> None:
        sys.modules["cupy"].cuda.stream = self.before


class Event:
    """A moment on a stream."""

    stream: Stream | None = None

    def record(self, stream: Stream | None = None) -> None:
        self.moment, self.has_come = time.perf_counter(), False
        self.stream = stream
        if stream is not None:
            stream.do(self.come)

    def come(self) -> None:
        """It has."""
        self.has_come = True

    def wait(self) -> None:
        """Have its stream do all that comes before it."""
        while self.stream is not None and not self.has_come:
            self.stream.run(1)


class Graph:
    """Things to do, to be put into a stream together."""

    def __init__(self, actions: list[Callable[[], object]]):
        self.actions = actions

    def launch(self, stream: Stream) -> None:
        for action in self.actions:
            stream.do(action)


WAITING = "synchronize"  # cupy's name of it
setattr(Stream, WAITING, lambda self: self.run())
setattr(Event, WAITING, Event.wait)


def get_elapsed_time(one: Event, other: Event) -> float:
    """Milliseconds from one moment to another."""
    return (other.moment - one.moment) * 1e3


class Pool:
    """cupy's pool of memory: says how much it has."""

    def __init__(self):
        self.total, self.unused = 0, 0

    def total_bytes(self) -> int:
        return self.total

    def free_bytes(self) -> int:
        return self.unused

    def malloc(self, size: int) -> None:
        """What an allocator is made of."""

    def free_all_blocks(self) -> None:
        self.total, self.unused = self.total - self.unused, 0


class Runtime:
    """What CUDA tells of itself: versions as 1000 · major + 10 · minor."""

    def __init__(self):
        self.driver, self.runtime = 13000, 13020
        self.name, self.capability = b"a GPU made of numpy", (8, 0)
        self.memory, self.free = 8 << 30, 6 << 30
        self.gpus = 1
        self.refusal: Exception | None = None  # of a GPU that is there and lets nobody work

    def driverGetVersion(self) -> int:
        return self.driver

    def runtimeGetVersion(self) -> int:
        return self.runtime

    def memGetInfo(self) -> tuple[int, int]:
        if self.refusal:
            raise self.refusal
        return self.free, self.memory

    def getDeviceCount(self) -> int:
        return self.gpus

    def getDeviceProperties(self, number: int) -> dict[str, Any]:
        major, minor = self.capability
        return {"name": self.name, "major": major, "minor": minor}


class Device:
    """A GPU, by its number; of the current one if that is not given.

    Each thread has a current one of its own, and begins with the first.
    """

    taken = threading.local()

    def __init__(self, number: int | None = None):
        self.id = getattr(Device.taken, "id", 0) if number is None else number

    def use(self) -> None:
        Device.taken.id = self.id


class Cuda:
    """cupy.cuda, as far as it is used."""

    Device = Device
    Event = Event
    Stream = Stream
    MemoryPool = Pool
    get_elapsed_time = staticmethod(get_elapsed_time)

    def __init__(self):
        self.runtime, self.pool, self.stream = Runtime(), Pool(), Stream()
        self.is_there = True
        self.allocators: list[Any] = []  # in use, the innermost last

    def is_available(self) -> bool:
        return self.is_there

    def alloc_pinned_memory(self, size: int) -> bytearray:
        return bytearray(size)

    @contextmanager
    def using_allocator(self, allocator: Any) -> Iterator[None]:
        self.allocators.append(allocator)
        try:
            yield
        finally:
            self.allocators.pop()

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

    def run_what_waits() -> None:
        if not _running:
            cupy.cuda.stream.run()

    catch_up, row.catch_up = row.catch_up, run_what_waits
    try:
        yield cupy
    finally:
        Device(0).use()
        row.catch_up, row.captured = catch_up, None
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
