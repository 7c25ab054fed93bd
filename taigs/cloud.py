"""The model: a cloud of anisotropic 3D Gaussians as NumPy arrays."""

from dataclasses import dataclass

import numpy as np

from taigs.checkpoint import storable
from taigs.errors import InputError
from taigs.geometry import quaternion_to_matrix


@storable
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
        for name, shape in (
            ("positions", (n, 3)),
            ("log_sigmas", (n, 3)),
            ("quaternions", (n, 4)),
            ("masses", (n,)),
        ):
            value = np.asarray(getattr(self, name), np.float64)
            if value.shape != shape:
                raise InputError(f"cloud.{name} has shape {value.shape}; expected {shape}")
            if not np.isfinite(value).all():
                raise InputError(f"cloud.{name} has non-finite values; expected finite numbers")
            if name == "masses" and not self.signed and (value < 0).any():
                raise InputError("cloud.masses has negative values; expected a cloud with signed=True for those")
            object.__setattr__(self, name, value)

    def __len__(self):
        return len(self.masses)

    def covariances(self):
        """(N, 3, 3) covariance matrices in A^2."""
        R = quaternion_to_matrix(self.quaternions)
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
    def merge(cls, clouds):
        """All Gaussians of several clouds: its density is the sum of theirs."""
        names = ("positions", "log_sigmas", "quaternions", "masses")
        return cls(*(np.concatenate([getattr(c, n) for c in clouds]) for n in names), any(c.signed for c in clouds))
