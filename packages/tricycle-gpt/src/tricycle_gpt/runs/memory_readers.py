"""What the system says about memory: this process's, and what is free for it.

Read from /proc, and from the control groups that a job runs in.
"""

import os
from pathlib import Path

from tricycle_autograd.threads import CGROUPS, OWN_CGROUP, control_groups

# Of control groups: the controller's own tree, if it has one, and what the files are called.
VERSIONS = (
    (None, "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


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
