"""What a run has computed so far, kept on disk: so that one that was stopped or killed goes on to the same bits.

A run is a sequence of named parts. `Journal.part` computes one, or hands out what an earlier process computed;
within a long part `Journal.tick` keeps its state from time to time, and `Journal.restore` hands it out. What is
neither kept nor restored is computed again, which is why every part has its own random numbers.
"""

import logging
import re
import shutil
import signal
import threading
import time
from pathlib import Path

from taigs.checkpoint import read_checkpoint, write_checkpoint
from taigs.errors import InputError, RefusedError, ResourceError, StoppedError, TaigsError
from taigs.lock import Lock, check_free

log = logging.getLogger("taigs")
MINUTES = 5.0  # between checkpoints
WORTH = 0.1  # of that interval: a part that took less is computed again rather than kept
KEPT = 2  # states of a part
FAILURES = 3  # checkpoints in a row that cannot be written end the run


class Journal:
    """The checkpoints of a run.

    As a context manager it minds signals: SIGINT and SIGTERM let the step end, keep its state and stop (a second one
    stops at once); SIGUSR1 keeps the state and goes on. When the run is complete, its checkpoints are removed.

    Parameters
    ----------
    folder : path, optional
        Without it nothing is kept, and signals do what they usually do.
    identity : dict
        What the result depends on, by name: see `taigs.identity`.
    minutes : float
        Between checkpoints.
    resume : bool
        Go on with the checkpoints in the folder; otherwise they are removed.

    Raises
    ------
    InputError
        There is nothing to resume, or it is damaged.
    RefusedError
        The checkpoints are of a run with other settings or data, or another process is at work on them.
    """

    def __init__(self, folder=None, identity=None, minutes=MINUTES, resume=False):
        self.folder = None if folder is None else Path(folder)
        self.identity, self.interval = identity, 60 * minutes
        self.stop = self.save_now = None
        self._failures, self._last = 0, time.monotonic()
        if self.folder is None:
            return
        self._lock = Lock(f"{folder}.lock")
        try:
            if resume:
                _check_identity(self.folder, identity)
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir()
                write_checkpoint(self.folder / "begun.npz", {}, identity)
        except BaseException:
            self._lock.release()
            raise

    def part(self, name, compute, started=None):
        """The value of a part: as an earlier process kept it, or else `compute()`.

        `started` (of `time.monotonic`) says since when it has been at work, if not since now.
        """
        if self.folder is None:
            return compute()
        path = self._path(name)
        if path.exists():
            log.info("resumed: %s as computed before", name)
            return self._read(path)[0]
        self.check()
        started = time.monotonic() if started is None else started
        value = compute()
        if time.monotonic() - started >= WORTH * self.interval and self._write(path, value):
            for state in self.folder.glob(f"{_slug(name)}[.-]*step-*.npz"):
                state.unlink()
        return value

    def holds(self, name):
        """Whether an earlier process kept the value of a part."""
        return self.folder is not None and self._path(name).exists()

    def tick(self, name, step, make_state):
        """After every step of a part: keep its state if it is time to, and stop if that was asked for.

        Raises
        ------
        StoppedError
            On a signal; the state is on disk.
        ResourceError
            Several checkpoints in a row could not be written.
        """
        if self.folder is None:
            return
        if self.stop or self.save_now or time.monotonic() - self._last >= self.interval:
            self.save(name, step, make_state())
        if self.stop:
            raise StoppedError(self.stop, f"at step {step} of {name}")

    def save(self, name, step, state):
        """Keep the state of a part now; the two last ones stay."""
        if self.folder is not None and self._write(self.folder / f"{_slug(name)}.step-{step:08d}.npz", state):
            for old in self._states(name)[KEPT:]:
                old.unlink()

    def restore(self, name):
        """The newest sound state of a part, or None if there is none to go on from.

        Raises
        ------
        InputError
            There are states, but none is sound: a part is never begun again in silence.
        """
        states = self._states(name) if self.folder is not None else []
        problems = []
        for path in states:
            try:
                state = self._read(path)[0]
            except InputError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                log.warning("%s; going on from %s", problem, path.name)
            log.info("resumed: %s from %s", name, path.name)
            return state
        if problems:
            raise InputError(f"{problems[0]}; remove the checkpoints of this part to begin it again")
        return None

    def check(self):
        """Stop here if that was asked for: between steps that keep nothing."""
        if self.stop:
            raise StoppedError(self.stop, "between checkpoints")

    def __enter__(self):
        self._before = {}
        if self.folder is not None and threading.current_thread() is threading.main_thread():
            for name, handler in (("SIGINT", self._stop), ("SIGTERM", self._stop), ("SIGUSR1", self._save_now)):
                if number := getattr(signal, name, None):  # Windows has no SIGUSR1
                    self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, kind, error, trace):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.folder is not None:
            kept = len(list(self.folder.iterdir())) > 1
            refused = isinstance(error, TaigsError) and not isinstance(error, StoppedError)
            if error is None or (refused and not kept):
                shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.release()
            if kept and type(error) is ResourceError:
                raise ResourceError(f"{error}; what was computed is kept: make room and try --resume") from None

    def _stop(self, number, _frame):
        if self.stop:
            raise KeyboardInterrupt
        self.stop = signal.Signals(number)
        log.info("%s: stopping after this step", self.stop.name)

    def _save_now(self, *_):
        self.save_now = True

    def watch(self, progress):
        """A Progress that also stops the run, if asked to, where parts without steps of their own report."""
        return _Watching(self, progress)

    def _path(self, name):
        return self.folder / f"{_slug(name)}.npz"

    def _states(self, name):
        """Newest first."""
        return sorted(self.folder.glob(f"{_slug(name)}.step-*.npz"), reverse=True)

    def _read(self, path):
        value, identity = read_checkpoint(path)
        if identity != self.identity:
            raise InputError(f"{path}: checkpoint of another run; expected one of this run")
        return value, identity

    def _write(self, path, value):
        """Whether it could be written; if not, older checkpoints are as they were."""
        try:
            write_checkpoint(path, value, self.identity)
        except ResourceError as error:
            self._failures += 1
            log.warning("no checkpoint: %s", error)
            if self._failures >= FAILURES:
                raise ResourceError(f"{error}: {FAILURES} checkpoints in a row") from None
            return False
        finally:
            self.save_now, self._last = None, time.monotonic()
        self._failures = 0
        return True


def check_journal(folder, identity, resume):
    """Refuse what a `Journal` of these would refuse, and touch nothing."""
    check_free(f"{folder}.lock")
    if resume:
        _check_identity(Path(folder), identity)


def _check_identity(folder, identity):
    begun = folder / "begun.npz"
    if not begun.exists():
        raise InputError(f"{folder}: no checkpoints; expected those of a run that was stopped; try without --resume")
    _, found = read_checkpoint(begun)
    if differences := list(_differences(found, identity)):
        lines = "".join(f"\n  {line}" for line in differences)
        raise RefusedError(
            f"{folder.parent}: begun with other settings or data; expected the same:{lines}\n"
            "try another folder without --resume"
        )


class _Watching:
    def __init__(self, journal, progress):
        self._journal, self._progress = journal, progress

    def stage(self, name):
        self._journal.check()
        self._progress.stage(name)

    def update(self, *args, **kwargs):
        self._journal.check()
        self._progress.update(*args, **kwargs)

    def close(self):
        self._progress.close()


def _differences(there, here):
    for name in dict.fromkeys([*there, *here]):
        if there.get(name) != here.get(name):
            yield f"{name}: {there.get(name)} there, {here.get(name)} here"


def _slug(name):
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
