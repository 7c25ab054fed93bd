"""How much memory a run will need, and how much there is: a run that cannot end is refused before it begins."""

import math
import os
from pathlib import Path

from taigs.errors import ResourceError
from taigs.io.clouds import BYTES_PER_GAUSSIAN
from taigs.schedule import SHARE_OF_VOXELS, FitConfig, tilt_stages

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


def memory_for_run():
    """Bytes that a run in this process may take in all; None where that is not known."""
    available = available_memory()
    return None if available is None else max(available + _resident(), 0)


def fits(n_bytes):
    """Whether `check_run` would let a run begin."""
    there = memory_for_run()
    return there is None or n_bytes <= there


def check_run(n_bytes, what, remedy):
    """Refuse a run that needs more memory than there is, with what this process has of it already.

    Raises
    ------
    ResourceError
        `<what> needs about 9.1 GB, 6.0 GB are available; try <remedy>`.
    """
    if not fits(n_bytes):
        there = in_words(memory_for_run())
        raise ResourceError(f"{what} needs about {in_words(n_bytes)}, {there} are available; try {remedy}")


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
    """What RLIMIT_AS leaves (`ulimit -v`), which also counts what is reserved only."""
    if resource is None or not _pages():
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if most == resource.RLIM_INFINITY else most - _pages()[0] * os.sysconf("SC_PAGE_SIZE")


def _resident():
    """Bytes this process holds; 0 where that is not known."""
    return _pages()[1] * os.sysconf("SC_PAGE_SIZE") if _pages() else 0


def _pages():
    """(reserved, resident) pages of this process; nothing where the system does not say."""
    return [int(number) for number in _read(PROC / "self/statm").split()[:2]]


def _read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""


# --- what a run needs, in bytes at its peak; the numbers are measured (tests/test_memory.py) ------------------

STARTED = 210e6  # Python, the libraries and the compiled kernels
REPORTING = 70e6  # Matplotlib and its figures
FIELDS, DRAWN, VOXELISED = 256, 60, 52  # a Gaussian's parameters and gradients; its ellipse in a view; in voxel units
TILT_IMAGES, TILT_VOLUMES = 14, 10  # copies of float32 size: filtered in float64 for WBP; SIRT, its steps and seeds
CHUNK = 170e6  # images, transforms and slices of particles that are read at a time
FOURIER_SUMS = 48  # a padded grid of n + 1 planes of (2 n)^2 cells of three float32, per voxel of the box
SPA_GRIDS = 6.3  # both halves, one being read, and the direct map of another with its weights
PER_PARTICLE = 2000  # a row of the star file, and what is derived from it
FIT_VOXEL = 60  # the map, the cloud's, their difference, and their transforms


def tilt_memory(n_views, image_shape, thickness=None):
    """Bytes that `taigs tilt` needs for so many images (H, W) and a thickness, in pixels as they are fitted."""
    height, width = image_shape
    pixels = height * width
    voxels = pixels * (thickness or max(1, min(image_shape) // 2))
    gaussians = tilt_stages((voxels,), 1)[-1].n_gaussians
    batch = FitConfig.batch
    cloud = gaussians * (2 * FIELDS + batch * DRAWN + 2 * VOXELISED)
    drawn = 4 * batch * pixels  # two private images of each view, what was measured, and the residual
    copies = TILT_IMAGES * n_views * pixels + TILT_VOLUMES * voxels + drawn
    return STARTED + REPORTING + cloud + 4 * copies


def spa_memory(n_views, box):
    """Bytes that `taigs spa` needs for so many images of a box; their number hardly matters."""
    return STARTED + REPORTING + CHUNK + PER_PARTICLE * n_views + SPA_GRIDS * FOURIER_SUMS * box**3


def fit_memory(shape, gaussians=None, megabytes=None):
    """Bytes that `taigs fit` needs for a map (nz, ny, nx) and a budget, if one is given."""
    return STARTED + FIT_VOXEL * math.prod(shape) + (FIELDS + VOXELISED) * largest_cloud(shape, gaussians, megabytes)


def largest_cloud(shape, gaussians=None, megabytes=None):
    """Most Gaussians that `taigs fit` makes of a map (nz, ny, nx) with a budget, if one is given."""
    n_bytes = SHARE_OF_VOXELS * 4 * math.prod(shape) if megabytes is None else 1e6 * megabytes
    return gaussians or n_bytes / BYTES_PER_GAUSSIAN
