"""What every test may ask for: the shared data folder, a backend, a renderer, random numbers.

Taichi is one backend and one precision per process, and starting it again kills every field, so tests
are ordered by the backend they ask for. What cannot run here is deselected and counted at the end.
"""

import functools
import os
import platform
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TAIGS_SHARED") or ROOT.parent / "shared")
LAVAPIPE = Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")
VULKAN_DRIVERS = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")
CHOSEN_DRIVERS = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")

if LAVAPIPE.exists() and not any(name in os.environ for name in CHOSEN_DRIVERS):
    os.environ["VK_ICD_FILENAMES"] = str(LAVAPIPE)


def has_vulkan():
    driver = any(os.environ.get(name) for name in CHOSEN_DRIVERS) or any(
        any(Path(folder).glob("*.json")) for folder in VULKAN_DRIVERS
    )
    return bool(driver and find_library("vulkan"))


GPU = os.environ.get("TAIGS_GPU", "vulkan")  # or cuda: where the tests marked vulkan run
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def has_mpi():
    """Whether there are a launcher and mpi4py, with a library of MPI; asked in a process that may fail."""
    command = [sys.executable, "-c", "from mpi4py import MPI"]
    return bool(shutil.which("mpirun")) and not subprocess.run(command, capture_output=True).returncode


# marker: (whether its tests can run here, why not)
NEEDS = {
    "shared": (SHARED.is_dir(), "no shared data folder"),
    "vulkan": (GPU != "vulkan" or has_vulkan(), "no Vulkan loader and driver"),
    "chromium": (CHROMIUM is not None, "no Chromium"),
    "mpi": (has_mpi(), "no mpirun, or no mpi4py with a library of MPI"),
    "x86": (platform.machine().lower() in ("x86_64", "amd64"), "not an x86 processor"),
    "linux": (sys.platform == "linux", "not Linux"),
}
# Bounds checks in every kernel that these fixtures start (commands have them with TAIGS_DEBUG only). Vulkan has none,
# so that what a GPU runs is then compiled for the CPU.
DEBUG = any(map(os.environ.get, ("TAIGS_TEST_BOUNDS", "TAIGS_DEBUG")))
BACKENDS = ("cpu32", "cpu64", "gpu64", "vulkan")  # fixtures, in the order in which their tests run; others come first
DESELECTED = pytest.StashKey()


def pytest_collection_modifyitems(config, items):
    reasons = Counter()
    kept, deselected = [], []
    for item in items:
        missing = [why for mark, (here, why) in NEEDS.items() if not here and item.get_closest_marker(mark)]
        reasons.update(missing[:1])
        (deselected if missing else kept).append(item)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
    config.stash[DESELECTED] = reasons
    if hasattr(config, "workeroutput"):  # a process of pytest-xdist: what is left out is for the main one to tell
        config.workeroutput["deselected"] = dict(reasons)
    items[:] = sorted(kept, key=backend_order)
    for item in items:  # the tests of a file share what they compile
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {backend_order(item)}"))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    node.config.stash[DESELECTED] = getattr(node, "workeroutput", {}).get("deselected", {})


def backend_order(item):
    asked = {*item.fixturenames, getattr(item, "callspec", None) and item.callspec.params.get("backend")}
    return max((1 + i for i, name in enumerate(BACKENDS) if name in asked), default=0)


def pytest_terminal_summary(terminalreporter, config):
    for why, n in config.stash.get(DESELECTED, {}).items():
        terminalreporter.write_line(f"{n} tests deselected: {why}", yellow=True)


@pytest.fixture
def shared():
    """Folder of the shared data; for tests marked `shared`."""
    return SHARED


STARTED = []  # which start of Taichi was the last one here: a test may have started another since


@pytest.fixture(scope="module", autouse=True)
def fresh_start():
    """Kernels are in the cache for fields with the numbers that Taichi gives them: every file begins to count anew."""
    STARTED.clear()


def start(arch, precision, on_cpu=DEBUG):
    """Start a backend; with `on_cpu` what it runs is compiled for the CPU."""
    from taigs import runtime

    running = runtime._current
    if STARTED != [runtime.generation()] or (running.arch, running.precision) != (arch, precision):
        running = runtime.init("cpu" if on_cpu else arch, precision, debug=DEBUG)
        STARTED[:] = [runtime.generation()]
        if on_cpu:
            runtime._current = running = replace(running, arch=arch)
    assert (running.arch, running.precision) == (arch, precision)
    return running


@pytest.fixture
def cpu32():
    return start("cpu", "float32")


@pytest.fixture
def cpu64():
    return start("cpu", "float64")


@pytest.fixture
def gpu64():
    """The kernels of a GPU in float64, compiled for the CPU."""
    return start("vulkan", "float64", on_cpu=True)


@pytest.fixture
def started(request, backend):
    """The backend that a parameter `backend` names, by which tests are ordered too."""
    return request.getfixturevalue(backend)


@pytest.fixture
def restart():
    """A function that starts Taichi on the CPU, float32, with a number of threads."""
    from taigs import runtime

    return lambda threads: runtime.init("cpu", "float32", threads=threads, debug=DEBUG)


@pytest.fixture
def vulkan():
    """For tests marked `vulkan`; of another GPU's backend if TAIGS_GPU names one."""
    return start(GPU, "float32")


@pytest.fixture(scope="session")
def renderers():
    return {}


@pytest.fixture
def renderer(renderers):
    """Renderers on the running backend; equal ones are shared, since each compiles its own kernels."""

    def get(cutoff=4.0, signed=False, capacity=300, n_views=3, shape=(48, 64)):
        from taigs import runtime
        from taigs.render import Renderer

        runtime.current()
        key = (runtime.generation(), cutoff, signed, capacity, n_views, shape)
        if key not in renderers:
            renderers[key] = Renderer(capacity, n_views, shape, signed, cutoff, with_pose=True)
        return renderers[key]

    return get


class Volumes:
    """Voxelises clouds on any grid, and pulls gradients back, as taigs.voxelize does, with a cut-off for all."""

    def __init__(self, cutoff):
        self.cutoff, self.most_planes = cutoff, None

    def held(self, cloud, grid):
        from taigs.device import DeviceCloud
        from taigs.render import Voxelizer

        gaussians = DeviceCloud(len(cloud), cloud.signed)
        gaussians.set_cloud(cloud)
        voxelizer = Voxelizer(gaussians, grid, self.cutoff)
        voxelizer.planes = min(voxelizer.planes, self.most_planes or voxelizer.planes)
        return voxelizer

    def voxelize(self, cloud, grid):
        return self.held(cloud, grid).add(len(cloud), np.zeros(grid.shape), grid.voxel_size**-3)

    def vjp(self, cloud, grid, v_volume):
        from taigs.render import cloud_gradient

        voxelizer = self.held(cloud, grid)
        voxelizer.prepare(len(cloud))
        voxelizer.vjp(v_volume * grid.voxel_size**-3)
        return cloud_gradient(voxelizer.fields, len(cloud))


@pytest.fixture
def volumes():
    """As `renderer`, for volumes."""
    return functools.cache(lambda cutoff=4.0: Volumes(cutoff))


@pytest.fixture
def rng(request):
    """Random numbers that are the same in every run of a test; the seed is shown if it fails."""
    name = request.node.nodeid.split("/")[-1].removesuffix("@" + request.node.get_closest_marker("xdist_group").args[0])
    seed = int(os.environ.get("TAIGS_SEED") or zlib.crc32(name.encode()))
    print(f"seed {seed} (TAIGS_SEED={seed} repeats it)")
    return np.random.default_rng(seed)


@pytest.fixture
def checkpoints(tmp_path):
    return tmp_path / "run" / "checkpoints"


@pytest.fixture
def open_journal(checkpoints):
    """A function that opens the journal; it is closed, as by the end of its process, before the next is opened."""
    checkpoints.parent.mkdir()
    from taigs.journal import Journal

    held = []

    def make(resume=False, minutes=60.0, identity=None, kind=Journal):
        for journal in held:
            journal._lock.release()
        held[:] = [kind(checkpoints, identity or {}, minutes, resume)]
        return held[0]

    yield make
    for journal in held:
        journal._lock.release()
