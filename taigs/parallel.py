"""One run on several processes, the ranks of MPI: each reads particles of its own, and the halves are fitted together.

Even ranks read the first half-set, odd ones the second. Ranks 0 and 1 lead: they get the sums of both halves, and fit
one half each. Rank 0 then fits all particles; it alone has a journal, writes and prints. With two ranks every sum is
made in the order of a single process, to the same bits; with more, the sums are the same to rounding.

A run without a launcher never imports mpi4py. Ranks do not wait inside MPI, which would keep a core busy and signals
unheard.
"""

import atexit
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from taigs.errors import InputError, ResourceError

CHUNK = 1 << 28  # elements in a message: counts of MPI are 32-bit
PAUSE = 0.02  # seconds between two looks at whether the others have come
IGNORED = ("SIGINT", "SIGTERM", "SIGUSR1")  # by all but rank 0, which ends the others when its state is on disk


class Alone:
    """The only process."""

    rank, size, threads = 0, 1, None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def broadcast(self, value):
        """What rank 0 calls this with, on every rank."""
        return value

    def share(self, items):
        """The items of this rank, of those of its half."""
        return items

    def add_up(self, *arrays):
        """Add the arrays of all ranks of a half, in place, on its leader; elsewhere they are void afterwards."""

    def halves(self, names, compute, progress, journal):
        """[`compute(0)`, `compute(1)`], parts of a journal, by their names; None on ranks that do not lead."""
        values = []
        for half, name in enumerate(names):
            progress.stage(name)
            values.append(journal.part(name, partial(compute, half)))
        return values

    def leaders(self):
        """The ranks that have got the values of `halves`."""
        return self


class Ranks(Alone):
    """The ranks of a communicator; as a context manager, an error of one ends all of them.

    Parameters
    ----------
    comm : mpi4py.util.pkl5.Intracomm
        Two ranks or more.
    threads : int, optional
        CPU threads for this rank.
    """

    def __init__(self, comm, threads=None):
        from mpi4py import MPI

        self._comm, self._sum_here, self.threads = comm, MPI.IN_PLACE, threads
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        half = comm.Split(self.rank % 2, self.rank)
        self._half, self._place, self._places = half, half.Get_rank(), half.Get_size()
        self._leaders = self
        if self.size > 2:
            pair = comm.Split(0 if self.rank < 2 else MPI.UNDEFINED, self.rank)
            self._leaders = Ranks(pair, threads) if self.rank < 2 else None

    def __exit__(self, kind, error, trace):
        if error is None:
            self._meet(self._comm)
        else:  # at the exit of the process: first the command line says what happened
            code = 130 if kind is KeyboardInterrupt else getattr(error, "exit_code", 1)
            atexit.register(_abort, self._comm, code)

    def broadcast(self, value):
        return self._from(0, value)

    def share(self, items):
        return np.array_split(items, self._places)[self._place]

    def add_up(self, *arrays):
        if self._places == 1:
            return
        self._meet(self._half)
        for array in arrays:
            flat = array.reshape(-1)
            for start in range(0, flat.size, CHUNK):
                part = flat[start : start + CHUNK]
                self._half.Reduce(*((part, None) if self._place else (self._sum_here, part)))

    def halves(self, names, compute, progress, journal):
        started = time.monotonic()
        kept = self.broadcast([journal.holds(name) for name in names])
        own, value = self.rank % 2, None
        if not kept[own]:
            progress.stage(names[own])
            value = compute(own)
        pair = self._leaders
        return pair and [pair._value(*one, value, started, journal) for one in enumerate(zip(names, kept, strict=True))]

    def leaders(self):
        return self._leaders

    def _value(self, half, named, value, started, journal):
        """The value of one half's part, on both leaders: from the one who has it. Rank 0 sees that it is kept."""
        name, kept = named
        owner = 0 if kept else half
        if owner == 0 == self.rank:
            value = journal.part(name, lambda: value, started)
        found = self._from(owner, value, journal.check)
        return found if owner == 0 or self.rank else journal.part(name, lambda: found, started)

    def _from(self, owner, value, check=lambda: None):
        self._meet(self._comm, check)
        return self._comm.bcast(value, owner)

    @staticmethod
    def _meet(comm, check=lambda: None):
        """Wait for the other ranks of a communicator."""
        request = comm.Ibarrier()
        while not request.Test():
            check()
            time.sleep(PAUSE)


def join():
    """The ranks of this run: `Alone` unless a launcher of MPI (mpirun, mpiexec, srun --mpi=...) started several.

    Takes for this process its share of the node's processors, and one of its CUDA devices.

    Raises
    ------
    ResourceError
        mpi4py is missing, or belongs to another MPI than the launcher does.
    InputError
        The ranks were started with different arguments.
    """
    size, rank = launched()
    if size < 2:
        return Alone()
    try:
        from mpi4py import MPI
        from mpi4py.util import pkl5
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library
        why = " ".join(str(error).split())
        message = f'MPI started {size} processes, but mpi4py cannot be used ({why}); try pip install "taigs[mpi]"'
        _refuse(rank, ResourceError(message))
    comm = pkl5.Intracomm(MPI.COMM_WORLD)
    if comm.Get_size() != size:
        library, found = MPI.Get_library_version().split(",")[0], comm.Get_size()
        message = f"MPI started {size} processes, but mpi4py's {library} finds {found}; expected one MPI for both"
        _refuse(rank, ResourceError(message))
    if any(argv != sys.argv for argv in comm.allgather(sys.argv)):
        _refuse(rank, InputError(f"MPI started {size} processes with different arguments; expected the same for all"))
    if comm.Get_rank():
        for name in IGNORED:
            if number := getattr(signal, name, None):
                signal.signal(number, signal.SIG_IGN)
    node = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.Get_rank())
    _choose_device(node.Get_rank())
    return Ranks(comm, _threads(node.allgather(_processors()), node.Get_rank()))


def launched():
    """(number of processes that a launcher of MPI started, which of them this one is), from its environment."""
    for size, rank in (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK")):
        if size in os.environ:
            return int(os.environ[size]), int(os.environ.get(rank, 0))
    if "PMIX_RANK" in os.environ:  # srun --mpi=pmix
        return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)), int(os.environ["PMIX_RANK"])
    return 1, 0


def _refuse(rank, error):
    """Raise an error on rank 0; if another failed first, its launcher would end rank 0 before the error is said."""
    if rank:
        sys.exit(0)
    raise error


def _processors():
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _threads(processors, place):
    """Threads for one of the ranks on a node, each with a set of processors that others may share."""
    own = processors[place]
    return max(1, len(own) // sum(not own.isdisjoint(others) for others in processors))


def _choose_device(place):
    """Let CUDA see one device, by the place of this rank on its node; one that the launcher chose stays."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = (
        [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))] if visible is None else visible.split(",")
    )
    if len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]


def _abort(comm, code):
    sys.stdout.flush()
    sys.stderr.flush()
    comm.Abort(code)
