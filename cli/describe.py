"""What `taigs info` and `taigs doctor` print, as (label, value) pairs."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from taigs.errors import InputError

BACKENDS = ("cpu", "cuda", "vulkan")
PROBE_SECONDS = 120
# In a process of its own: a broken driver may crash, and Taichi runs one backend at a time.
PROBE = """
import sys
from taigs import runtime
from taigs.errors import TaigsError
try:
    runtime.init(sys.argv[1], cache_dir=sys.argv[2])
except TaigsError:
    sys.exit(3)
field = runtime.ti.field(float, 1000)
field.fill(1)
sys.exit(0 if field.to_numpy().sum() == 1000 else 4)
"""
OUTCOMES = {0: "works", 3: "not on this machine", 4: "starts, but computes wrong numbers"}


def describe_file(path):
    """Pairs that describe an MRC file, a STAR file, cryoSPARC's particles or a saved model.

    Raises
    ------
    InputError
        The file is missing or none of these.
    """
    from taigs.io.mrc import existing_file, reading

    path = existing_file(path)
    if path.suffix.lower() == ".star":
        return _describe_star(path)
    if path.suffix.lower() == ".cs":
        return [("file", str(path)), *_describe_particles(path)]
    with reading(path), open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    return _describe_model(path) if is_zip else _describe_mrc(path)


def _describe_star(path):
    from taigs.io.star import read_star

    tables = read_star(path)
    pairs = [("file", str(path))]
    pairs += [(f"data_{name}", f"{len(table):,} rows, {len(table.columns)} columns") for name, table in tables.items()]
    of_particles = any("rlnImageName" in table for table in tables.values())
    return pairs + (_describe_particles(path) if of_particles else [])


def _describe_particles(path):
    """What `taigs spa` would read; the reason, if it could not."""
    import warnings

    from taigs.io.particles import read_particles_with_notes
    from taigs.memory import in_words, spa_memory

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            views, notes = read_particles_with_notes(path)
        except InputError as error:
            return [("for taigs spa", f"not usable: {error}")]
    pairs = [
        ("images", f"{len(views):,} of {views.image_shape[1]} x {views.image_shape[0]} px"),
        ("pixel size", f"{views.pixel_size:.4g} Å"),
    ]
    if views.ctf is not None:
        defocus = (views.ctf.defocus_u + views.ctf.defocus_v) / 2e4
        pairs.append(("defocus", f"{defocus.min():.2f} to {defocus.max():.2f} µm"))
    pairs.append(("memory for spa", f"about {in_words(spa_memory(len(views), views.image_shape[0]))}"))
    pairs += [("note", note) for note in notes]
    return pairs + [("warning", str(warning.message)) for warning in heard]


def _describe_mrc(path):
    from taigs.io.mrc import open_stack, read_header, read_volume
    from taigs.memory import fit_memory, in_words, tilt_memory

    header = read_header(path)
    size = header.voxel_size
    pairs = [
        ("file", str(path)),
        ("shape", f"{' x '.join(map(str, header.shape))} (z, y, x or view, y, x)"),
        ("mode", f"{header.mode} ({header.dtype.name})"),
        ("voxel size", "not set" if size is None else " x ".join(f"{s:.4g}" for s in size) + " Å (x, y, z)"),
    ]
    needed = [in_words(n) for n in (tilt_memory(header.shape[0], header.shape[1:]), fit_memory(header.shape))]
    pairs.append(("memory", f"about {needed[0]} for tilt, as a stack; {needed[1]} for fit, as a map"))
    # A stack is read section by section: it may be larger than memory.
    sections = open_stack(path)[1] if header.axes == (1, 2, 3) else read_volume(path)[0]
    return pairs + _statistics(sections) + [("label", label) for label in header.labels]


def _statistics(sections):
    low, high, total, squares, bad = np.inf, -np.inf, 0.0, 0.0, 0
    for section in sections:
        values = np.asarray(section, np.float64).ravel()
        finite = values[np.isfinite(values)]
        bad += len(values) - len(finite)
        if len(finite):
            low, high = min(low, finite.min()), max(high, finite.max())
            total, squares = total + finite.sum(), squares + finite @ finite
    count = sections.size - bad
    pairs = [("not finite", f"{bad} values")] if bad else []
    if count:
        mean = total / count
        spread = np.sqrt(max(0.0, squares / count - mean**2))
        pairs += [("range", f"{low:.6g} to {high:.6g}"), ("mean", f"{mean:.6g}"), ("sigma", f"{spread:.6g}")]
    return pairs


def _describe_model(path):
    names = ("positions", "log_sigmas", "masses")
    try:
        with np.load(path, allow_pickle=False) as archive:
            positions, log_sigmas, masses = (archive[name] for name in names)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a taigs model ({error}); expected model.npz of a run") from error
    pairs = [
        ("file", str(path)),
        ("Gaussians", f"{len(masses):,}"),
        ("masses", f"{masses.min(initial=0):.4g} to {masses.max(initial=0):.4g}, sum {masses.sum():.6g}"),
    ]
    if len(masses):
        sigmas = np.exp(log_sigmas)
        ends = zip("xyz", positions.min(axis=0), positions.max(axis=0), strict=True)
        pairs += [(axis, f"{low:.1f} to {high:.1f} Å") for axis, low, high in ends]
        pairs += [("sigma", f"{sigmas.min():.3g} to {sigmas.max():.3g} Å, median {np.median(sigmas):.3g} Å")]
    return pairs


def describe_system():
    """Pairs that describe this installation and machine: the first thing a bug report needs."""
    from taigs import runtime
    from taigs.report import environment

    found = environment()
    pairs = list(found["versions"].items())
    pairs += [("python", found["python"]), ("platform", found["platform"])]
    pairs += [(f"backend {name}", _probe(name)) for name in BACKENDS]
    pairs += [("threads", str(runtime.available_threads())), ("memory", _memory())]
    return [*pairs, ("cache", str(runtime._writable_cache(None)))]


def _probe(arch):
    """Start a backend in another process and let it add up a field."""
    with tempfile.TemporaryDirectory() as cache:
        try:
            code = subprocess.run(
                [sys.executable, "-c", PROBE, arch, cache], capture_output=True, timeout=PROBE_SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            return f"no answer within {PROBE_SECONDS} s"
    return OUTCOMES.get(code, f"crashes (exit code {code})")


def _memory():
    """Installed and free, where the system says so."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
        free = page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):  # counts what the page cache would give back
            free = int(line.split()[1]) * 1024
    return f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB available"
