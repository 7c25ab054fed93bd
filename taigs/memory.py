"""How much memory a run will need, and how much there is: a run that cannot end is refused before it begins."""

import os
import sys
from pathlib import Path

from taigs.errors import ResourceError

try:
    import resource
except ImportError:  # Windows
    resource = None

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
# By which SLURM and containers limit memory. Version: (folder, limit, used, file caches, which are given back)
CGROUP_FILES = {
    2: (CGROUP, "memory.max", "memory.current", "inactive_file"),
    1: (CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory():
    """Bytes this process may still take: the least of what the system, its control group and its limits leave.

    None where none of these is known.
    """
    left = [_free(), *_left_by_cgroups(), _left_by_limit()]
    return min((n for n in left if n is not None), default=None)


def check_memory(n_bytes, what, remedy):
    """Refuse work that needs more memory than there is.

    Raises
    ------
    ResourceError
        `<what> needs about 9.1 GB, 6.0 GB are available; try <remedy>`.
    """
    available = available_memory()
    if available is not None and n_bytes > available:
        raise ResourceError(
            f"{what} needs about {in_words(n_bytes)}, {in_words(max(available, 0))} are available; try {remedy}"
        )


def in_words(n_bytes):
    """9.1 GB, or MB below one."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 0.95e9 else f"{n_bytes / 1e6:.0f} MB"


def _free():
    """What the system would give: free memory and what the page cache would give back."""
    for line in _read(PROC / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _left_by_cgroups():
    """What the control groups of this process leave, from its own up to the root."""
    for line in _read(PROC / "self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, limit, used, caches = CGROUP_FILES[1 if controllers else 2]
        own = base / group.strip("/")
        for folder in (own, *(parent for parent in own.parents if parent.is_relative_to(base))):
            most, taken = _read(folder / limit).strip(), _read(folder / used).strip()
            if most.isdigit() and taken.isdigit():
                stat = dict(row.split()[:2] for row in _read(folder / "memory.stat").splitlines())
                yield int(most) - int(taken) + int(stat.get(caches, 0))


def _left_by_limit():
    """What RLIMIT_AS leaves (`ulimit -v`)."""
    if resource is None or not sys.platform.startswith("linux"):
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _read(PROC / "self/statm").split()
    if most == resource.RLIM_INFINITY or not pages:
        return None
    return most - int(pages[0]) * os.sysconf("SC_PAGE_SIZE")


def _read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""
