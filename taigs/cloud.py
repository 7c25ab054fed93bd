"""The model: a cloud of anisotropic 3D Gaussians, on the host as NumPy arrays and on the device as fields."""

from dataclasses import dataclass

import numpy as np

from taigs import runtime
from taigs.errors import InputError
from taigs.kernels import transfer
from taigs.kernels.densify import NOWHERE
from taigs.kernels.fields import CloudFields

FLOOR = 1e-4  # smallest mass, in units of the cloud's mean, that softplus can still bring back


@dataclass(frozen=True)
class GaussianCloud:
    """N Gaussians; density at x: mass / ((2 pi)^(3/2) |S|^(1/2)) exp(-(x - mu)^T S^-1 (x - mu) / 2).

    Parameters
    ----------
    positions : (N, 3) array
        mu, x y z in Angstrom relative to the volume centre.
    log_sigmas : (N, 3) array
        Logarithms of the standard deviations (Angstrom) along the Gaussian's own axes.
    quaternions : (N, 4) array
        w x y z; rotation R from the Gaussian's axes to the volume's, S = R diag(sigma^2) R^T.
    masses : (N,) array
        Integral of the density of each Gaussian.
    signed : bool
        Whether masses may be negative.
    """

    positions: np.ndarray
    log_sigmas: np.ndarray
    quaternions: np.ndarray
    masses: np.ndarray
    signed: bool = False

    def __post_init__(self):
        n = len(self.masses)
        for name, shape in (("positions", (n, 3)), ("log_sigmas", (n, 3)), ("quaternions", (n, 4)), ("masses", (n,))):
            value = np.asarray(getattr(self, name), np.float64)
            if value.shape != shape:
                raise InputError(f"cloud.{name} has shape {value.shape}; expected {shape}")
            if not np.isfinite(value).all():
                raise InputError(f"cloud.{name} has non-finite values; expected finite numbers")
            object.__setattr__(self, name, value)

    def __len__(self):
        return len(self.masses)

    def covariances(self):
        """(N, 3, 3) covariance matrices in A^2."""
        w, x, y, z = (self.quaternions / np.linalg.norm(self.quaternions, axis=1, keepdims=True)).T
        R = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        ).transpose(2, 0, 1)
        M = R * np.exp(self.log_sigmas)[:, None, :]
        return M @ M.transpose(0, 2, 1)

    def subset(self, selection):
        """The Gaussians picked by an index or boolean array."""
        return GaussianCloud(
            self.positions[selection],
            self.log_sigmas[selection],
            self.quaternions[selection],
            self.masses[selection],
            self.signed,
        )

    @classmethod
    def merge(cls, clouds, weights=None):
        """All Gaussians of several clouds, masses times the cloud's weight: its density is the weighted sum."""
        weights = np.ones(len(clouds)) if weights is None else weights
        join = lambda name: np.concatenate([getattr(c, name) for c in clouds])  # noqa: E731
        masses = np.concatenate([w * c.masses for c, w in zip(clouds, weights, strict=True)])
        return cls(
            join("positions"), join("log_sigmas"), join("quaternions"), masses, any(c.signed for c in clouds)
        )


def raw_parameters(cloud, unit):
    """(11, N) raw parameters; mass = unit * softplus(raw), or unit * raw if signed."""
    ratio = cloud.masses / unit
    if not cloud.signed:
        ratio = np.maximum(ratio, FLOOR)
        ratio = ratio + np.log(-np.expm1(-ratio))  # inverse of softplus
    return np.concatenate([cloud.positions.T, cloud.log_sigmas.T, cloud.quaternions.T, ratio[None]])


def upload(cloud, fields: CloudFields):
    """Write a cloud into device memory; unused slots are empty Gaussians far outside. Returns the number of chunks."""
    if len(cloud) > fields.capacity:
        raise InputError(f"{len(cloud)} Gaussians; expected at most the capacity of {fields.capacity}")
    if cloud.signed != fields.signed:
        raise InputError("a signed cloud needs signed device memory")
    unit = float(np.abs(cloud.masses).mean()) if len(cloud) else 1.0
    fields.unit[None] = unit = unit or 1.0
    raw = np.zeros((11, fields.capacity), float_type())
    raw[:, : len(cloud)] = raw_parameters(cloud, unit)
    raw[:3, len(cloud) :] = NOWHERE
    raw[6, len(cloud) :] = 1
    raw[10, len(cloud) :] = 0 if cloud.signed else -50
    for field, values in zip(fields.raw, raw, strict=True):
        transfer.load_scalars(field, values, fields.capacity)


def download(fields: CloudFields, n):
    """The first n Gaussians in device memory as a GaussianCloud (empty slots left out)."""
    raw = read_scalars(fields.raw, n).astype(np.float64)
    unit = fields.unit[None]
    masses = unit * (raw[10] if fields.signed else np.logaddexp(0, raw[10]))
    quaternions = raw[6:10].T / np.linalg.norm(raw[6:10].T, axis=1, keepdims=True)
    cloud = GaussianCloud(raw[:3].T.copy(), raw[3:6].T.copy(), quaternions, masses, fields.signed)
    return cloud.subset(np.abs(raw[0]) < NOWHERE / 2)


def read_scalars(fields, n):
    """(len(fields), n) array of the first n entries of scalar fields."""
    out = np.empty((len(fields), n), float_type())
    for field, row in zip(fields, out, strict=True):
        transfer.store_scalars(field, row, n)
    return out


def float_type():
    """NumPy type of the fields."""
    return np.dtype(runtime.current().precision)
