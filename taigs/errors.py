"""Errors a user can cause, and the exit code the command line ends with for each.

Message form: ``<file>[:line]: <what is wrong>; expected <what>; try <what>``.
"""


class TaigsError(Exception):
    """Base of all errors that are reported as one line without a traceback."""

    exit_code = 1


class InputError(TaigsError):
    """A file or value handed to taigs cannot be used."""

    exit_code = 3


class ResourceError(TaigsError):
    """Disk, memory, permission or backend is missing."""

    exit_code = 4


class NumericalError(TaigsError):
    """The computation diverged or produced non-finite numbers."""

    exit_code = 5


class RefusedError(TaigsError):
    """Going on would destroy something: an existing output, another run's folder."""

    exit_code = 6


class StoppedError(TaigsError):
    """A signal asked the run to stop, and it did, with its state on disk."""

    def __init__(self, number, where):
        super().__init__(f"stopped by {number.name} {where}")
        self.exit_code = 128 + number


class InputWarning(UserWarning):
    """Something about an input was guessed or left out; the message says what and how to decide it."""


REPORTED_PROBLEMS = 10


class Problems(list):
    """Collects what is wrong with an input, so that all of it can be reported at once."""

    def attempt(self, function, *args, **settings):
        """What `function` returns, or None if it raises an InputError, which is kept."""
        try:
            return function(*args, **settings)
        except InputError as error:
            # A report of several counts as these: nested lists would hide how many there are.
            self.extend(getattr(error, "problems", [str(error)]))

    def report(self, source):
        """Raise what was found, as `raise_problems`."""
        raise_problems(source, self)


def raise_problems(source, problems):
    """Raise one InputError of all problems, the first ten in full; nothing if there is none."""
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:REPORTED_PROBLEMS])
        hidden = len(problems) - REPORTED_PROBLEMS
        rest = f"\n  and {hidden} more" if hidden > 0 else ""
        error = InputError(f"{source}: {len(problems)} problems:{shown}{rest}")
        error.problems = list(problems)
        raise error
