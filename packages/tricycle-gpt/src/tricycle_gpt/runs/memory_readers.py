"""What the system says about memory: this process's, and what is free for it.

The processor's is read from /proc, and from the control groups that a job runs in; a GPU's is what
CUDA and cupy's pool say (tricycle_autograd.gpu).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tricycle_autograd import gpu
from tricycle_autograd.memory import give_back_freed_memory
from tricycle_autograd.threads import CGROUPS, OWN_CGROUP, control_groups

# Of control groups: the controller's own tree, if it has one, and what the files are called.
VERSIONS = (
    (None, "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class Memory(NamedTuple):
    """Questions to a device's memory.

    held        bytes that this process has now
    free        bytes that it could have besides
    give_back   what no array uses
    """

    held: Callable[[], int]
    free: Callable[[], int]
    give_back: Callable[[], None]


def memory_of(device: str) -> Memory:
    """The memory of a device, "cpu" or "cuda"."""
    if device == "cuda":
        return Memory(gpu.held_bytes, gpu.free_bytes, gpu.give_back_gpu_memory)
    return Memory(resident_bytes, free_bytes, give_back_freed_memory)


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where there is no /proc."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


def peak_bytes() -> int:
    """The most memory this process ever had; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else 0


def free_bytes(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Memory that this machine, or the narrowest control group around us, can still give.

    root, own  where those groups are, and what names ours
    """
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = [int(lines["MemAvailable"].split()[0]) * 1024]
    for controller, most, now, reclaimed in VERSIONS:
        for group in control_groups(root, own, controller):
            try:
                limit = int((group / most).read_text())
                used = int((group / now).read_text())
                stat = (group / "memory.stat").read_text()
            except (OSError, ValueError):  # no such file; or "max"
                continue
            # What was read from files counts as used, but goes where memory is wanted.
            parts = dict(line.split() for line in stat.splitlines())
            free.append(limit - used + int(parts.get(reclaimed, 0)))
    return max(min(free), 0)
