"""Mini-batches: views in random order, of which those that do harm are left out."""

import logging

import numpy as np

from taigs.errors import NumericalError

log = logging.getLogger("taigs")
LEFT_OUT = 0.001  # of the views, at most


class Batches:
    """Endless mini-batches of views.

    Parameters
    ----------
    picked : (V,) array of int
        The views.
    names : sequence of str
        Of all views, for messages; may be empty.
    rng : numpy.random.Generator
        Order of the views.
    """

    def __init__(self, picked, names, rng):
        self.picked, self.names, self.rng = np.asarray(picked, int), names, rng
        self.allowed = int(LEFT_OUT * len(self.picked))
        self.queue, self.last = [], self.picked[:0]

    def draw(self, n):
        """Indices of the next n views, or of all if there are fewer."""
        n = min(n, len(self.picked))
        if len(self.queue) < n:
            self.queue += self.rng.permutation(self.picked).tolist()
        self.last, self.queue = np.array(self.queue[:n]), self.queue[n:]
        return self.last

    def leave_out(self, is_bad):
        """Leave out those views of the last batch for which `is_bad(index)`.

        Raises
        ------
        NumericalError
            No view is bad by itself, or more are than a fit should do without.
        """
        bad = [view for view in self.last.tolist() if is_bad(view)]
        named = ", ".join(self.names[view] if self.names else f"view {view + 1}" for view in bad)
        if not bad:
            raise NumericalError("no view is to blame alone; is the cloud or its scale extreme?")
        if len(bad) > self.allowed:
            raise NumericalError(f"{named}: loss or gradient is not finite; try leaving it out")
        self.allowed -= len(bad)
        self.picked = np.setdiff1d(self.picked, bad)
        self.queue = [view for view in self.queue if view not in bad]
        log.warning("left out, since loss or gradient is not finite: %s", named)

    def state(self):
        return {
            "picked": self.picked,
            "queue": list(self.queue),
            "allowed": self.allowed,
            "rng": self.rng.bit_generator.state,
        }

    def set_state(self, state):
        self.picked, self.queue, self.allowed = state["picked"], list(state["queue"]), state["allowed"]
        self.rng.bit_generator.state = state["rng"]


class InBatches:
    """An objective that sees some views at a time, by its `batches` and `loss_and_gradient(picked=None)`."""

    def state(self):
        """What later steps depend on, for `set_state`."""
        return self.batches.state()

    def set_state(self, state):
        self.batches.set_state(state)

    def leave_out_bad(self, is_finite):
        """Leave out the views of the last batch whose loss alone, or its gradient, is not finite; see `Batches`."""
        self.batches.leave_out(lambda view: not is_finite(self.loss_and_gradient(np.array([view]))))


class InOneSum:
    """An objective whose data are one sum: nothing changes from step to step, and no view can be taken out."""

    def state(self):
        return {}

    def set_state(self, state):
        pass

    def leave_out_bad(self, is_finite):
        """Always raises NumericalError."""
        raise NumericalError("the objective is not finite; are the data or their weights extreme?")
