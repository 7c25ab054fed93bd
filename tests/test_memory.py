"""How much memory there is, how much a run takes, and that one which cannot end does not begin."""

import os
import subprocess
import sys
import types

import mrcfile
import numpy as np
import pytest

from taigs import memory, runtime
from taigs.cli.main import main
from taigs.errors import ResourceError
from taigs.io.mrc import write_stack, write_volume
from taigs.memory import available_memory, check_run, fit_memory, in_words, spa_memory, tilt_memory

# --- what there is ----------------------------------------------------------------------------------------


@pytest.fixture
def system(monkeypatch, tmp_path):
    """A /proc and control groups of our own: write(path, text)."""
    for name in ("proc", "cgroup"):
        monkeypatch.setattr(memory, name.upper(), tmp_path / name)
    groups = {2: tmp_path / "cgroup", 1: tmp_path / "cgroup/memory"}
    files = {version: (groups[version], *memory.CGROUP_FILES[version][1:]) for version in groups}
    monkeypatch.setattr(memory, "CGROUP_FILES", files)

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", "MemTotal: 32000000 kB\nMemFree: 1000 kB\nMemAvailable:   8000000 kB\n")
    return write


def test_free_memory_counts_what_the_page_cache_would_give_back(system):
    assert available_memory() == 8000000 * 1024


def test_a_control_group_of_version_2_limits_memory_and_so_do_those_above_it(system):
    system("proc/self/cgroup", "0::/slurm/job7\n")
    system("cgroup/slurm/job7/memory.max", "max\n")
    system("cgroup/slurm/job7/memory.current", "1000\n")
    assert available_memory() == 8000000 * 1024
    system("cgroup/slurm/memory.max", "6000000000\n")
    system("cgroup/slurm/memory.current", "2500000000\n")
    system("cgroup/slurm/memory.stat", "anon 1\ninactive_file 500000000\n")
    assert available_memory() == 4_000_000_000
    system("cgroup/slurm/job7/memory.max", "300000\n")
    assert available_memory() == 299_000


def test_a_control_group_of_version_1_limits_memory(system):
    system("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/x\n0::/\n")
    system("cgroup/memory/docker/x/memory.limit_in_bytes", "5000000000")
    system("cgroup/memory/docker/x/memory.usage_in_bytes", "1000000000")
    system("cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))
    system("cgroup/memory/memory.usage_in_bytes", "1000000000")
    assert available_memory() == 4_000_000_000


def test_a_limit_on_the_address_space_counts_what_is_reserved_already(system, monkeypatch):
    system("proc/self/statm", "1000 500 3 4 5 6 7\n")
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (1 << 30, 1 << 30))
    page = os.sysconf("SC_PAGE_SIZE")
    assert available_memory() == (1 << 30) - 1000 * page


def test_on_this_machine_it_is_known():
    assert 1e6 < available_memory() < 1e14


def test_what_does_not_fit_is_refused_with_both_numbers_and_a_remedy(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 6_000_000_000)
    monkeypatch.setattr(memory, "_resident", lambda: 3_200_000_000)
    check_run(9.1e9, "ts.mrc: this run", "--bin 2")
    monkeypatch.setattr(memory, "_resident", lambda: 0)
    check_run(5.9e9, "ts.mrc: this run", "--bin 2")
    expected = r"ts.mrc: this run needs about 9.1 GB, 6.0 GB are available; try --bin 2"
    with pytest.raises(ResourceError, match=expected) as refusal:
        check_run(9.1e9, "ts.mrc: this run", "--bin 2")
    assert refusal.value.exit_code == 4


def test_where_nothing_is_known_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    check_run(1e18, "this", "that")


@pytest.mark.parametrize("n_bytes, words", [(9.14e9, "9.1 GB"), (949e6, "949 MB"), (951e6, "1.0 GB"), (0, "0 MB")])
def test_sizes_in_words(n_bytes, words):
    assert in_words(n_bytes) == words


# --- what a run takes -------------------------------------------------------------------------------------

MEASURED = [  # peak of whole commands, MB: default settings, Linux, two processors
    (tilt_memory, (21, (64, 64), 32), 281),
    (tilt_memory, (41, (128, 128), 48), 334),
    (tilt_memory, (61, (256, 256), 32), 617),
    (tilt_memory, (21, (200, 200), 100), 566),
    (spa_memory, (1000, 64), 513),
    (spa_memory, (1000, 128), 1109),
    (spa_memory, (5000, 128), 1070),
    (fit_memory, ((64, 64, 64),), 211),
    (fit_memory, ((128, 128, 128),), 331),
    (fit_memory, ((256, 256, 256),), 1240),
]


@pytest.mark.parametrize("estimate, sizes, peak", MEASURED)
def test_estimates_agree_with_what_was_measured(estimate, sizes, peak):
    assert peak / 1.2 < estimate(*sizes) / 1e6 < 2 * peak


def test_more_of_anything_takes_more_memory():
    assert tilt_memory(41, (512, 512)) == tilt_memory(41, (512, 512), 256)
    assert tilt_memory(41, (512, 512), 300) > tilt_memory(41, (512, 512), 256) > tilt_memory(40, (512, 512), 256)
    assert spa_memory(2000, 96) > spa_memory(1000, 96) > spa_memory(1000, 64)
    assert fit_memory((64, 64, 64), 10**6) > fit_memory((64, 64, 64)) > fit_memory((64, 64, 64), 10)
    assert fit_memory((64, 64, 64), megabytes=44) == fit_memory((64, 64, 64), 10**6)


# Between this process and the command: Linux counts what a process held before it became another program.
BETWEEN = """
import resource, subprocess, sys
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
code = subprocess.run([sys.executable, "-m", "taigs.cli.main", *sys.argv[2:]]).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def run(*arguments, limit=0):
    """(exit code, stderr, peak in bytes) of a command with a limit on its address space."""
    command = [sys.executable, "-c", BETWEEN, str(limit), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    code, kilobytes = map(int, done.stdout.splitlines()[-1].split())
    return code, done.stderr, kilobytes * 1024


def test_the_peak_of_a_small_fit_is_what_is_estimated(tmp_path, rng):
    write_volume(tmp_path / "map.mrc", rng.random((20, 24, 28)) ** 8, 3.0)
    code, err, peak = run("fit", tmp_path / "map.mrc", "-o", tmp_path / "model.npz", "--gaussians", 50, "-q")
    assert code == 0, err
    estimate = fit_memory((20, 24, 28), 50)
    assert peak / 1.2 < estimate < 2 * peak


def test_a_map_that_does_not_fit_under_a_limit_is_refused_in_one_line_before_it_is_read(tmp_path):
    with mrcfile.new_mmap(tmp_path / "map.mrc", (512, 512, 512), mrc_mode=2) as file:  # sparse: 0.5 GB of nothing
        file.voxel_size = 2.0
    code, err, peak = run("fit", tmp_path / "map.mrc", "-o", tmp_path / "model.npz", limit=6 * 10**9)
    assert code == 4, err
    assert "map.mrc: the fit needs about 9.0 GB, " in err and "GB are available; try a map of coarser voxels" in err
    assert len(err.splitlines()) == 1
    assert peak < 300e6
    assert not (tmp_path / "model.npz").exists()


# --- who asks ---------------------------------------------------------------------------------------------


@pytest.fixture
def taigs(monkeypatch, capsys):
    """Run a command in this process, with hardly any memory and no backend; (exit code, stderr)."""
    monkeypatch.setattr(memory, "available_memory", lambda: 10_000_000)
    monkeypatch.setattr(memory, "_resident", lambda: 1_000_000)
    monkeypatch.setattr(runtime, "init", lambda *_, **__: types.SimpleNamespace(arch="cpu"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["taigs", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, capsys.readouterr().err

    return run


def test_a_tilt_series_that_does_not_fit_is_refused_and_binning_proposed(taigs, tmp_path, rng):
    stack = rng.normal(size=(5, 24, 32)) + np.hypot(*np.mgrid[-12:12, -16:16])
    write_stack(tmp_path / "ts.mrc", stack, 8.0)
    np.savetxt(tmp_path / "ts.tlt", np.linspace(-40, 40, 5))
    code, err = taigs("tilt", tmp_path / "ts.mrc", "--angles", tmp_path / "ts.tlt", "--bin", 2, "-o", tmp_path / "run")
    assert code == 4
    assert "ts.mrc: this run needs about 28" in err and " MB, 11 MB are available; try --bin 4" in err
    assert not (tmp_path / "run" / "tomogram.mrc").exists()


def test_particles_that_do_not_fit_are_refused_and_a_smaller_box_proposed(taigs, tmp_path):
    from test_spa_command import particles

    path, _ = particles(tmp_path)
    code, err = taigs("spa", path, "-o", tmp_path / "run")
    assert code == 4
    assert "p.star: this run needs about 4" in err and " MB, 11 MB are available; try --box-crop 16" in err


def test_info_says_what_a_run_would_take(monkeypatch, capsys, tmp_path, rng):
    write_volume(tmp_path / "map.mrc", rng.random((20, 24, 28)), 3.0)
    monkeypatch.setattr(sys, "argv", ["taigs", "info", str(tmp_path / "map.mrc")])
    with pytest.raises(SystemExit):
        main()
    fit = in_words(fit_memory((20, 24, 28)))
    assert f"for tilt, as a stack; {fit} for fit, as a map" in capsys.readouterr().out
