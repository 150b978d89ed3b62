"""How many threads kernels use, on what they run, and how they wait for each other.

*How many.*  As many as this process may have cores: its affinity, and in a container its quota
(cgroups), both of which may be fewer than the machine has.  TRICYCLE_NUM_THREADS overrides that.
The number decides nothing but the time: the same bits come out for any.  numba settles how many
threads it starts when it is imported.  Where other code did that before the first kernel was used,
there cannot be more, and fewer are used by kernels from the thread that calls the first one.

*On what.*  numba starts its threads through a "threading layer".  OpenMP's takes 3 to 6
microseconds to start a kernel, TBB's about as much, numba's own ("workqueue") 100.  numba's
package brings neither of the first two: OpenMP's library is in nearly every Linux (libgomp1), and
PyPI's `tbb` has the other.  But where pip puts that no program looks, so it is loaded from there.

*How they wait.*  At the end of a parallel loop, threads wait for the last one.  OpenMP lets them
spin, asking again and again, for about a millisecond.  That is fast while every thread has a core
to itself.  Where another program uses the core, the one that is waited for cannot run while the
others spin.  Measured, on 2 cores: a training step of nanoGPT's small model takes 23 ms alone, and
beside two busy programs 400 ms; with a hundredth of the spinning 23 ms and 55 ms.
"""

import ctypes
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

VARIABLE = "TRICYCLE_NUM_THREADS"
SPINS = "10000"  # libgomp's own number is 300,000: see above
LAYERS = ["omp", "tbb", "workqueue"]
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@lru_cache
def number_of_threads() -> tuple[int, str]:
    """How many threads kernels are to use, and what said so.

    Raises ValueError if TRICYCLE_NUM_THREADS is not a whole number from 1 up.
    """
    for variable in (VARIABLE, "NUMBA_NUM_THREADS"):
        chosen = os.environ.get(variable)
        if chosen is not None:
            if not chosen.isdecimal() or int(chosen) < 1:
                raise ValueError(f"{variable} is a number of threads, 1 or more, got {chosen!r}")
            return int(chosen), variable
    return allowed_cores()


def allowed_cores(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> tuple[int, str]:
    """How many cores this process may use, and what sets that limit.

    root, own  as for control_groups (Linux)
    """
    cores, limit = os.cpu_count() or 1, "the machine's cores"
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < cores:
        cores, limit = len(os.sched_getaffinity(0)), "the process's affinity"
    quota = cgroup_quota(root, own)
    if quota is not None and math.ceil(quota) < cores:
        cores, limit = math.ceil(quota), f"a quota of {quota:g} cores (cgroup)"
    return cores, limit


def control_groups(
    root: Path = CGROUPS, own: Path = OWN_CGROUP, controller: str | None = None
) -> list[Path]:
    """The folders of the control groups that limit this process, its own first.

    root        where groups are mounted
    own         what names the process's group, "0::/job_12/step_0"
    controller  "cpu" or "memory" of version 1, where each has a tree of its own below root and a
                line in `own`, "4:cpu,cpuacct:/job_12"; version 2 has one for all

    The limits of each of them hold: a job of SLURM or systemd is a group inside others.  In a
    container its group is at the root, whatever it is called outside.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    path = ""
    for line in lines:
        _, controllers, named = [*line.split(":", 2), "", ""][:3]
        if controllers == "" if controller is None else controller in controllers.split(","):
            path = named.strip("/")
    root = root if controller is None else root / controller
    group = root / path
    return [group, *list(group.parents)[: len(Path(path).parts)]]


def cgroup_quota(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> float | None:
    """How many cores' worth of time the control groups allow; None if there is no limit.

    Version 2 has it in cpu.max ("150000 100000": microseconds in each period, and that period),
    version 1 in two files.
    """
    files: list[tuple[Path, Path | None]] = [
        (group / "cpu.max", None) for group in control_groups(root, own)
    ]
    files += [
        (group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")
        for group in control_groups(root, own, "cpu")
    ]
    found = []
    for quota_file, period_file in files:
        try:
            words = quota_file.read_text().split()
            words += period_file.read_text().split() if period_file else []
            quota, period = (float(word) for word in words)
        except (OSError, ValueError):  # no such file; or "max"
            continue
        if quota > 0 and period > 0:  # version 1 writes -1 for no limit
            found.append(quota / period)
    return min(found, default=None)


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Let Ctrl-C wait for the end of a block: a package that is half imported stays broken.

    Signals come to the main thread alone, so in another one there is nothing to do; nor where the
    handler is not Python's.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


@lru_cache
def prepare() -> None:
    """Settle the threads before the first kernel starts them."""
    threads, _ = number_of_threads()
    if "numba" not in sys.modules:
        os.environ["NUMBA_NUM_THREADS"] = str(threads)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    import numba

    if os.environ.get("NUMBA_THREADING_LAYER_PRIORITY") is None:
        numba.config.THREADING_LAYER_PRIORITY = LAYERS
    if sys.platform == "linux" and threading_layer() == "workqueue":
        _say_that_starting_is_slow()
    if threads < numba.config.NUMBA_NUM_THREADS:  # other code imported numba before us
        numba.set_num_threads(threads)


@lru_cache
def threading_layer() -> str:
    """The threading layer that kernels will run on: "omp", "tbb" or "workqueue"."""
    chosen = os.environ.get("NUMBA_THREADING_LAYER", "default")
    if chosen in LAYERS:
        return chosen
    if sys.platform != "linux":
        return "omp" if sys.platform == "win32" else "workqueue"
    if _loads("libgomp.so.1"):
        return "omp"
    pip_puts_it_here = Path(sys.prefix, "lib", "libtbb.so.12")
    return "tbb" if _loads("libtbb.so.12") or _loads(str(pip_puts_it_here)) else "workqueue"


def _loads(library):
    """Load a shared library, for everybody in this process; False if it is not there."""
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _say_that_starting_is_slow():
    print(
        "tricycle: neither OpenMP nor TBB was found, so that starting a kernel takes 0.1 ms "
        'instead of 0.005; install the system\'s libgomp1, or pip install "tricycle-autograd[tbb]"',
        file=sys.stderr,
        flush=True,
    )
