"""What the system says about memory: this process's, and what is free for it.

Read from /proc, and from the control groups that a job runs in.
"""

import os
from pathlib import Path

from tricycle_autograd.threads import CGROUPS, OWN_CGROUP, control_groups


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
    for group in control_groups(root, own):
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such file; or "max"
            continue
        # What was read from files counts as used, but goes where memory is wanted.
        free.append(limit - used + int(stat.get("inactive_file", 0)))
    return max(min(free), 0)
