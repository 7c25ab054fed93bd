"""The only place that starts Taichi: backend, precision, threads, cache folder, quiet banner.

Kernel modules import ``ti`` from here, so that nothing is ever printed to stdout and no kernel can
run before a backend has been chosen.
"""

import contextlib
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from taigs.errors import InputError, ResourceError

ARCHES = ("auto", "cpu", "cuda", "vulkan")
MAX_ELEMENTS = 2**31 - 1  # Taichi silently miscounts loops and arrays from 2^31 elements on


@contextlib.contextmanager
def _silent_stdout():
    """Taichi writes its banner to file descriptor 1 from C++, whatever its log level; results alone may go there."""
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:  # stdout is closed: nothing to protect
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


os.environ.setdefault("ENABLE_TAICHI_HEADER_PRINT", "0")
with _silent_stdout():
    import taichi as ti
    from taichi.lang.ast.ast_transformer_utils import ASTTransformerContext


@dataclass(frozen=True)
class Runtime:
    """What Taichi really started with."""

    arch: str
    precision: str
    threads: int
    cache_dir: str
    software: bool = False  # Vulkan drawn by the processor (Mesa's lavapipe)

    @property
    def is_cpu(self):
        return self.arch == "cpu"


_current: Runtime | None = None
thread_count = None  # a field with the number of threads, for the loops of the kernels; see kernels/layout.py
_generation = 0


def current():
    """The running backend; starts the default one on first use."""
    return _current if _current is not None else init()


def generation():
    """Counts the starts of Taichi: fields made before the last one are dead."""
    return _generation


def init(arch="auto", precision="float32", threads=None, cache_dir=None, debug=None):
    """Start Taichi on a backend and check that it really runs there.

    Parameters
    ----------
    arch : {"auto", "cpu", "cuda", "vulkan"}
        "auto" takes CUDA, then a Vulkan GPU, then the CPU, whichever starts first.
    precision : {"float32", "float64"}
        Number type of every field; float64 is meant for tests and gradient checks.
    threads : int, optional
        CPU threads; default: the processors this process may use. Results do not depend on it.
    cache_dir : path, optional
        Folder of compiled kernels; default ``$XDG_CACHE_HOME/taigs`` or ``~/.cache/taigs``,
        a temporary folder where that is not writable.
    debug : bool, optional
        Bounds checks in every kernel (slow); default: whether the variable ``TAIGS_DEBUG`` is set.

    Returns
    -------
    Runtime

    Raises
    ------
    InputError
        Unknown backend or precision, or fewer than one thread.
    ResourceError
        The backend asked for does not exist on this machine.
    """
    global _current, _generation, thread_count
    if arch not in ARCHES:
        raise InputError(f'--arch "{arch}" is unknown; expected one of {", ".join(ARCHES)}')
    if precision not in ("float32", "float64"):
        raise InputError(f'precision "{precision}" is unknown; expected float32 or float64')
    threads = available_threads() if threads is None else threads
    debug = bool(os.environ.get("TAIGS_DEBUG")) if debug is None else debug
    if threads < 1:
        raise InputError(f"--threads {threads}: expected at least 1")
    cache_dir = str(_writable_cache(cache_dir))
    for name in ("cuda", "vulkan", "cpu") if arch == "auto" else (arch,):
        if arch == "auto" and name == "vulkan" and _software_vulkan_only():
            continue
        if _start(name, precision, threads, cache_dir, debug):
            _current = Runtime(name, precision, threads, cache_dir, name == "vulkan" and _software_vulkan_only())
            _generation += 1
            thread_count = ti.field(ti.i32, shape=())
            thread_count[None] = threads
            return _current
    raise ResourceError(
        f"the {arch} backend did not start on this machine; expected a working driver; try --arch auto or --arch cpu"
    )


def _place(context, node):
    return f'File "{context.file}", line {node.lineno + context.lineno_offset}, in {context.func.func.__name__}:\n'


# Taichi draws the source of every expression it compiles, underlined, for messages about faulty kernels: half of the
# time that a warm start spends on kernels. The line's number is enough.
ASTTransformerContext.get_pos_info = _place


def _start(name, precision, threads, cache_dir, debug):
    """True if Taichi runs on `name` afterwards (it falls back to the CPU without an error)."""
    before = _threads_of_this_process()
    with _silent_stdout():
        try:
            ti.init(
                arch=getattr(ti, name),
                default_fp=ti.f32 if precision == "float32" else ti.f64,
                cpu_max_num_threads=threads,
                offline_cache_file_path=cache_dir,
                random_seed=0,
                debug=debug,
                log_level=ti.ERROR,
            )
        except RuntimeError:
            return False
        if name == "cpu":
            _pin(sorted(_threads_of_this_process() - before)[-threads:])
        return ti.cfg.arch == (getattr(ti, name) if name != "cpu" else ti.x64) or (
            name == "cpu" and ti.cfg.arch == ti.arm64
        )


def _threads_of_this_process():
    """Their numbers in the system; none where it does not tell."""
    try:
        return set(map(int, os.listdir("/proc/self/task")))
    except OSError:
        return set()


def _pin(workers):
    """Tie each worker to a processor of its own, if they use all that this process may use.

    Taichi wakes its workers for every kernel, and the scheduler often lets two of them wait for one processor
    until the next balancing, which is longer than most kernels take.
    """
    processors = sorted(os.sched_getaffinity(0)) if workers else []
    if len(workers) == len(processors):
        with contextlib.suppress(OSError):  # where that is forbidden, threads are only slower
            for worker, processor in zip(workers, processors, strict=True):
                os.sched_setaffinity(worker, {processor})


def _software_vulkan_only():
    """Vulkan through lavapipe is far slower than the CPU backend: "auto" never takes it."""
    folders = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")
    forced = os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES")
    names = forced.split(":") if forced else [p for d in folders for p in map(str, Path(d).glob("*.json"))]
    if any("lvp" not in Path(p).name for p in names) and not forced:
        # Mesa installs files for every GPU vendor; a GPU is there only if its device node is.
        return not list(Path("/dev").glob("dri/render*")) and not Path("/dev/nvidia0").exists()
    return all("lvp" in Path(p).name for p in names) and sys.platform.startswith("linux")


def available_threads():
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _writable_cache(cache_dir):
    """A folder Taichi can write to: with an unwritable one it crashes at exit."""
    if cache_dir is None:
        base = os.environ.get("XDG_CACHE_HOME")
        cache_dir = Path(base) / "taigs" if base else Path(os.path.expanduser("~")) / ".cache" / "taigs"
    try:
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache_dir):
            return cache_dir
    except OSError:
        return tempfile.mkdtemp(prefix="taigs-cache-")


def check_size(n_elements, what, remedy="--bin 2 or a smaller box"):
    """Refuse arrays whose elements Taichi cannot count.

    Raises
    ------
    ResourceError
        `n_elements` is 2^31 or more.
    """
    if n_elements > MAX_ELEMENTS:
        raise ResourceError(f"{what} has {n_elements} elements; expected fewer than 2^31; try {remedy}")
