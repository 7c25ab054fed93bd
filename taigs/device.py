"""A cloud between NumPy arrays and device memory: raw parameters and physical ones."""

import logging

import numpy as np

from taigs import runtime
from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.kernels import transfer
from taigs.kernels.densify import NOWHERE
from taigs.kernels.fields import CloudFields, lend, roomy
from taigs.kernels.layout import LAYOUT, round_up
from taigs.morton import morton_order

log = logging.getLogger("taigs")
ROWS = 35  # of numbers for each Gaussian; see `read_rows`
UNITS = (1e-20, 1e20)  # mean mass that leaves float32 room for the masses and their squares
FLOOR = 1e-4  # smallest mass, in units of the cloud's mean, that softplus can still bring back


class DeviceCloud:
    """A cloud of up to `capacity` Gaussians in device memory."""

    def __init__(self, capacity, signed=False):
        self.cloud = lend(self, CloudFields, roomy(capacity), signed)
        self.n = 0

    @property
    def n_chunks(self):
        return round_up(self.n, LAYOUT.chunk) // LAYOUT.chunk

    def set_cloud(self, cloud: GaussianCloud):
        upload(cloud, self.cloud)
        self.n = len(cloud)

    def get_cloud(self):
        return download(self.cloud, self.n)

    def sort(self, half_width):
        """Order the Gaussians in space; `half_width` (A) is that of the box."""
        rows = read_rows(self.cloud, self.n)
        write_rows(self.cloud, rows[:, morton_order(rows[:3].T, half_width)])

    def state(self):
        """All that later steps of a fit depend on, exactly, for `set_state`."""
        rows = read_rows(self.cloud, self.n_chunks * LAYOUT.chunk)
        return {"n": int(self.n), "unit": float(self.cloud.unit[None]), "rows": rows}

    def set_state(self, state):
        self.n = state["n"]
        self.cloud.unit[None] = state["unit"]
        write_rows(self.cloud, state["rows"])


def raw_parameters(cloud, unit):
    """(11, N) raw parameters; mass = unit * softplus(raw), or unit * raw if signed."""
    ratio = cloud.masses / unit
    if not cloud.signed:
        ratio = np.maximum(ratio, FLOOR)
        ratio = ratio + np.log(-np.expm1(-ratio))  # inverse of softplus
    return np.concatenate([cloud.positions.T, cloud.log_sigmas.T, cloud.quaternions.T, ratio[None]])


def upload(cloud, fields: CloudFields):
    """Write a cloud into device memory; Adam starts anew."""
    if len(cloud) > fields.capacity:
        raise InputError(f"{len(cloud)} Gaussians; expected at most the capacity of {fields.capacity}")
    if cloud.signed != fields.signed:
        raise InputError("a signed cloud needs signed device memory")
    unit = (float(np.abs(cloud.masses).mean()) if len(cloud) else 1.0) or 1.0
    if not UNITS[0] < unit < UNITS[1]:
        raise InputError(f"masses of {unit:.3g} on average; expected {UNITS[0]:g} to {UNITS[1]:g}; try other units")
    fields.unit[None] = unit
    rows = np.zeros((ROWS, len(cloud)), float_type())
    with np.errstate(over="ignore"):  # infinite ones are left out by the kernels
        rows[:11] = raw_parameters(cloud, unit)
    write_rows(fields, rows)


def read_rows(fields: CloudFields, n):
    """(35, n) array of the first n Gaussians: raw parameters, Adam's two moments (11 rows each), score, mass."""
    rows = np.empty((ROWS, n), float_type())
    transfer.store_cloud(fields, rows, n)
    return rows


def write_rows(fields: CloudFields, rows):
    """What `read_rows` reads into device memory; the other slots become empty Gaussians far outside."""
    transfer.load_cloud(fields, rows, rows.shape[1], fields.capacity)


def download(fields: CloudFields, n):
    """The first n Gaussians in device memory as a GaussianCloud.

    Empty slots are left out; so are, with a warning in the log, those that hold no Gaussian any more.
    """
    raw = read_rows(fields, n)[:11].astype(np.float64)
    sound = np.isfinite(raw).all(axis=0) & raw[6:10].any(axis=0)
    if not sound.all():
        log.warning("%d of %d Gaussians are no numbers any more and were left out", n - sound.sum(), n)
        raw = raw[:, sound]
    unit = fields.unit[None]
    masses = unit * (raw[10] if fields.signed else np.logaddexp(0, raw[10]))
    quaternions = raw[6:10].T / np.linalg.norm(raw[6:10].T, axis=1, keepdims=True)
    cloud = GaussianCloud(raw[:3].T.copy(), raw[3:6].T.copy(), quaternions, masses, fields.signed)
    return cloud.subset(np.abs(raw[0]) < NOWHERE / 2)


def read_scalars(fields, n, dtype=None):
    """(len(fields), n) array of the first n entries of scalar fields, which are floats unless a type is given."""
    out = np.empty((len(fields), n), dtype or float_type())
    transfer.store_scalars(tuple(fields), out, n)
    return out


def float_type():
    """NumPy type of the fields."""
    return np.dtype(runtime.current().precision)
