"""What `taigs info` and `taigs doctor` print, as (label, value) pairs."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taigs.errors import InputError

BACKENDS = ("cpu", "cuda", "vulkan")
PROBE_SECONDS = 120
BLOCK_VALUES, MOST_BLOCKS = 1 << 20, 64  # of an image file, to read for its statistics
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


def describe_file(path, mode0=None, allow_truncated=False):
    """Pairs that describe an MRC file, a STAR file, cryoSPARC's particles or a saved model.

    Parameters
    ----------
    path : path-like
    mode0, allow_truncated
        As in `taigs.io.mrc.read_header`; of an MRC file.

    Raises
    ------
    InputError
        The file is missing or none of these.
    """
    from taigs.io.files import existing_file, reading

    path = existing_file(path)
    if path.suffix.lower() == ".star":
        return _describe_star(path)
    if path.suffix.lower() == ".cs":
        return [("file", str(path)), *_describe_particles(path)]
    with reading(path), open(path, "rb") as file:
        is_model = file.read(4) == b"PK\x03\x04" or path.suffix.lower() in (".npz", ".ply")
    return _describe_model(path) if is_model else _describe_mrc(path, mode0, allow_truncated)


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


def _describe_mrc(path, mode0, allow_truncated):
    from taigs.io.mrc import open_sections, warn_of_sign
    from taigs.memory import fit_memory, in_words, tilt_memory

    header, sections = open_sections(path, mode0, allow_truncated)
    size = header.voxel_size
    pairs = [
        ("file", str(path)),
        ("shape", f"{' x '.join(map(str, header.shape))} (z, y, x or view, y, x)"),
        ("mode", f"{header.mode} ({header.dtype.name})"),
        ("voxel size", "not set" if size is None else " x ".join(f"{s:.4g}" for s in size) + " Å (x, y, z)"),
    ]
    needed = [in_words(n) for n in (tilt_memory(header.shape[0], header.shape[1:]), fit_memory(header.shape))]
    pairs.append(("memory", f"about {needed[0]} for tilt, as a stack; {needed[1]} for fit, as a map"))
    found = _statistics(sections)
    if header.is_sign_guessed and found.low < 0:
        warn_of_sign(path)
    return pairs + found.pairs() + [("label", label) for label in header.labels]


@dataclass
class _Statistics:
    """Of the finite ones among some values."""

    count: int = 0
    bad: int = 0
    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    squares: float = 0.0
    sampled: float = 1.0  # the share of all values that were looked at

    def add(self, values):
        finite = values[np.isfinite(values)].astype(np.float64)
        self.bad += len(values) - len(finite)
        self.count += len(finite)
        if len(finite):
            self.low, self.high = min(self.low, finite.min()), max(self.high, finite.max())
            self.total, self.squares = self.total + finite.sum(), self.squares + finite @ finite

    def pairs(self):
        of = "" if self.sampled == 1 else f" (of a sample: {self.sampled:.2%} of the values)"
        pairs = [("not finite", f"{self.bad} values{of}")] if self.bad else []
        if self.count:
            mean = self.total / self.count
            spread = np.sqrt(max(0.0, self.squares / self.count - mean**2))
            pairs += [
                ("range", f"{self.low:.6g} to {self.high:.6g}{of}"),
                ("mean", f"{mean:.6g}"),
                ("sigma", f"{spread:.6g}"),
            ]
        return pairs


def _statistics(sections):
    """Of all values, or of evenly spaced blocks of them if there are too many: a stack may be larger than memory."""
    blocks = -(-sections.size // BLOCK_VALUES)
    kept = np.unique(np.linspace(0, blocks - 1, min(blocks, MOST_BLOCKS)).astype(int)).tolist()
    spans = [(i * BLOCK_VALUES, min(BLOCK_VALUES, sections.size - i * BLOCK_VALUES)) for i in kept]
    found = _Statistics(sampled=sum(count for _, count in spans) / sections.size)
    for values in sections.values(spans):
        found.add(values)
    return found


def _describe_model(path):
    from taigs.io.clouds import read_cloud

    cloud, _ = read_cloud(path)
    masses = cloud.masses
    pairs = [
        ("file", str(path)),
        ("Gaussians", f"{len(masses):,}"),
        ("masses", f"{masses.min(initial=0):.4g} to {masses.max(initial=0):.4g}, sum {masses.sum():.6g}"),
    ]
    if len(masses):
        sigmas = np.exp(cloud.log_sigmas)
        ends = zip("xyz", cloud.positions.min(axis=0), cloud.positions.max(axis=0), strict=True)
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
