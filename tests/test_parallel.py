"""Several processes of MPI make the result of one; what goes wrong in one of them ends all, and is said once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faults import BOX, good_particles, patched

from taigs import parallel
from taigs.io.mrc import read_volume
from taigs.io.particles import read_particles
from taigs.journal import Journal
from taigs.parallel import Alone, launched
from taigs.particle_data import gather
from taigs.progress import NoProgress

TESTS = Path(__file__).parent
QUIETLY = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "PYTHONPATH": str(TESTS),
}  # fmt: skip
SMALL = """
from taigs import particle_fit
particle_fit.FEWEST_GAUSSIANS = 100
particle_fit.SCHEDULES = {"volume": (("volume", ((0.5, 1.0, 8, 1.0),)),)}
particle_fit.COARSE_TO_FINE = particle_fit.SCHEDULES["volume"][0][1]
from taigs.cli.main import main
main()
"""


def start(ranks, script, *arguments, cwd):
    """A process of the launcher, or without it for one rank, that runs a script with the arguments."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    command = ["mpirun", "-n", str(ranks), *command] if ranks > 1 else command
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=os.environ | QUIETLY, text=True, **pipes)


def end(process):
    """(exit code, stdout, stderr)"""
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, out, err


# --- the command -------------------------------------------------------------------------------------


@pytest.mark.mpi
def test_two_ranks_write_the_bits_of_one_process_and_speak_once(tmp_path):
    star = good_particles(tmp_path)
    both = [start(n, SMALL, "spa", star, "-o", f"run{n}", "--arch", "cpu", cwd=tmp_path) for n in (1, 2)]
    (code, _, err), (code2, out2, err2) = map(end, both)
    assert (code, code2) == (0, 0), err + err2
    for name in ("map", "half1", "half2", "direct"):
        expected, found = (read_volume(tmp_path / run / f"{name}.mrc")[0] for run in ("run1", "run2"))
        assert expected.any()
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert out2 == "run2/map.mrc\n"
    assert err2.count("note: half-sets") == err2.count("fitting all particles\n") == 1
    assert "processes (MPI): 2" in (tmp_path / "run2" / "run.log").read_text()
    assert "MPI" not in (tmp_path / "run1" / "run.log").read_text()


@pytest.mark.mpi
def test_bad_images_of_one_rank_end_all_with_their_own_exit_code(tmp_path):
    star = good_particles(tmp_path)
    patched(tmp_path / "p.mrcs", 1024 + 4 * BOX**2, "<f", np.nan)  # the second particle is of half-set 2
    code, out, err = end(start(2, SMALL, "spa", star, "-o", "run", "--arch", "cpu", cwd=tmp_path))
    assert (code, out) == (3, "")
    assert err.count("error: ") == 1 and "NaN or infinite pixels" in err


@pytest.mark.mpi
def test_what_rank_0_refuses_is_said_once_and_ends_all(tmp_path):
    star = good_particles(tmp_path)
    before = set(tmp_path.iterdir())
    waiting = [
        start(2, SMALL, "spa", star, "-o", "run", "--objective", "views", cwd=tmp_path),
        start(2, SMALL, "spa", "q.star", "-o", "run2", cwd=tmp_path),
    ]
    (code, _, err), (code2, _, err2) = map(end, waiting)
    assert (code, code2) == (2, 3)
    assert err.count("--objective views runs as one process") == 1
    assert err2.count("error: q.star: no such file") == 1
    assert set(tmp_path.iterdir()) == before


# --- sums and parts ----------------------------------------------------------------------------------

GATHER = """
import sys
import numpy as np
from taigs import parallel, runtime
from taigs.io.particles import read_particles
from taigs.journal import Journal
from taigs.particle_data import gather
from taigs.progress import NoProgress
parallel.CHUNK = 999
with parallel.join() as ranks:
    runtime.init("cpu")
    views = read_particles("p.star")
    sets, dark = gather(views, views.half_sets, np.eye(3)[None], "auto", NoProgress(), Journal(), ranks)
    np.savez(f"{ranks.rank}.npz", *[a for s in sets or () for a in (s.direct, s.seed, s.data.noise)], dark=dark is True)
"""


@pytest.mark.mpi
def test_sums_of_three_ranks_are_those_of_one_to_rounding(tmp_path, cpu32):
    views = read_particles(good_particles(tmp_path, rlnRandomSubset=np.where(np.arange(24) < 11, 1, 2)))
    sets, dark = gather(views, views.half_sets, np.eye(3)[None], "auto", NoProgress(), Journal(), Alone())
    expected = [array for one in sets for array in (one.direct, one.seed, one.data.noise)]
    code, _, err = end(start(3, GATHER, cwd=tmp_path))
    assert code == 0, err
    for rank in (0, 1):
        with np.load(tmp_path / f"{rank}.npz") as found:
            assert found["dark"] == dark
            for i, array in enumerate(expected):
                difference = np.linalg.norm(found[f"arr_{i}"] - array)
                assert difference < 1e-5 * np.linalg.norm(array), f"rank {rank}, array {i}"
    with np.load(tmp_path / "2.npz") as found:
        assert found.files == ["dark"], "a rank that does not lead has nothing more to do"


HALVES = """
import json, sys, time
from pathlib import Path
import numpy as np
from taigs import parallel
from taigs.errors import InputError
from taigs.journal import Journal
from taigs.progress import NoProgress
computed = []
def compute(half):
    computed.append(half)
    if sys.argv[1] == "fail" and ranks.rank == 2:
        raise InputError("rank 2 cannot")
    own = np.array(ranks.share(np.arange(5) + 10 * half)).sum() * np.ones(3)
    ranks.add_up(own)
    return own
ranks = parallel.join()
journal = Journal() if ranks.rank else Journal("kept", {}, 0.0, resume=sys.argv[1] == "resume")
with ranks:
    found = ranks.halves(["a 1", "a 2"], compute, NoProgress(), journal)
    found = found and [one.tolist() for one in found]
    Path(f"{ranks.rank}.json").write_text(json.dumps([computed, found]))
"""


@pytest.mark.mpi
def test_halves_are_computed_side_by_side_and_what_is_kept_is_handed_out(tmp_path):
    expected = [[10.0] * 3, [60.0] * 3]

    def run(how):
        code, _, err = end(start(3, HALVES, how, cwd=tmp_path))
        assert code == 0, err
        return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]

    assert run("begin") == [[[0], expected], [[1], expected], [[0], None]]
    (tmp_path / "kept" / "a-2.npz").unlink()
    assert run("resume") == [[[], expected], [[1], expected], [[], None]]
    assert run("resume") == [[[], expected], [[], expected], [[], None]]


@pytest.mark.mpi
def test_an_error_of_a_rank_that_others_wait_for_ends_them(tmp_path):
    code, _, err = end(start(3, HALVES, "fail", cwd=tmp_path))
    assert code == 3
    assert err.count("InputError: rank 2 cannot") == 1


# --- how it begins -----------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch):
    """A function that sets the launcher's variables."""
    for name in {*os.environ}:
        if name.startswith(("OMPI_", "PMI", "SLURM_", "CUDA_VISIBLE")):
            monkeypatch.delenv(name)
    return lambda **variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, (1, 0)),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, (4, 3)),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, (2, 1)),
        ({"PMIX_RANK": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}, (8, 5)),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, (1, 0)),  # a batch script that starts taigs without srun
    ],
)
def test_launchers_are_known_by_their_environment(environment, variables, expected):
    environment(**variables)
    assert launched() == expected


def test_processors_that_ranks_share_are_divided_among_them():
    everything, left, right = set(range(8)), {0, 1, 2, 3}, {4, 5, 6, 7}
    assert parallel._threads([everything, everything, everything], 1) == 2
    assert parallel._threads([left, right], 0) == 4
    assert parallel._threads([left, left, right], 2) == 4
    assert parallel._threads([{0}, {0}], 0) == 1


@pytest.mark.parametrize(
    "visible, place, expected",
    [("0,1,2,3", 2, "2"), ("4,5", 3, "5"), ("GPU-ab,GPU-cd", 1, "GPU-cd"), ("3", 2, "3"), ("", 1, "")],
)
def test_a_rank_sees_one_device(environment, visible, place, expected):
    environment(CUDA_VISIBLE_DEVICES=visible)
    parallel._choose_device(place)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def run_spa(tmp_path, **variables):
    """(exit code, stderr) of `taigs spa` on a file that is not there, where mpi4py cannot be imported."""
    (tmp_path / "mpi4py.py").write_text("raise ImportError('is not installed')")
    command = [sys.executable, "-m", "taigs.cli.main", "spa", "q.star", "-o", "run"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)} | variables
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_a_launcher_without_mpi4py_is_told_by_one_line_of_rank_0(environment, tmp_path):
    line = (
        'error: MPI started 2 processes, but mpi4py cannot be used (is not installed); try pip install "taigs[mpi]"\n'
    )
    assert run_spa(tmp_path, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0") == (4, line)
    assert run_spa(tmp_path, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="1") == (0, "")


def test_mpi4py_is_not_asked_for_without_a_launcher_or_with_one_process(environment, tmp_path):
    for variables in ({}, {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}):
        code, err = run_spa(tmp_path, **variables)
        assert code == 3 and "q.star: no such file" in err
