"""The contrast transfer function in RELION's form and sign: CTF(0) = +amplitude contrast, protein bright.

    lambda = 12.2643247 / sqrt(V (1 + 0.978466e-6 V))                                 V in volts, lambda in A
    gamma  = -pi lambda df(k) k^2 + pi/2 Cs lambda^3 k^4 - phase shift - atan(w / sqrt(1 - w^2))
    df(k)  = (U + V)/2 + (U - V)/2 cos 2(phi - angle)                                  phi = direction of k from +x
    CTF    = -sin(gamma) scale exp(-B k^2 / 4) exp(-N / (2 Ne(k)))

The last factor is the loss of signal after a dose N (Grant & Grigorieff 2015; imaging/dose.py).
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from taigs.errors import InputError
from taigs.imaging.dose import dose_weight


@dataclass(frozen=True)
class Ctf:
    """CTF parameters of V images; each a (V,) array, or a number for all of them.

    Parameters
    ----------
    voltage_kv, cs_mm, amplitude_contrast : array
    defocus_u, defocus_v : array
        Angstrom, underfocus positive.
    defocus_angle : array
        Degrees from +x to the direction of U.
    phase_shift : array
        Degrees (phase plate).
    bfactor : array
        A^2.
    scale : array
        Factor on the whole CTF.
    dose : array
        e/A^2 that the specimen had received before the image.
    """

    voltage_kv: np.ndarray
    cs_mm: np.ndarray
    amplitude_contrast: np.ndarray
    defocus_u: np.ndarray
    defocus_v: np.ndarray
    defocus_angle: np.ndarray
    phase_shift: np.ndarray = 0.0
    bfactor: np.ndarray = 0.0
    scale: np.ndarray = 1.0
    dose: np.ndarray = 0.0

    def __post_init__(self):
        arrays = {f.name: np.atleast_1d(np.asarray(getattr(self, f.name), float)) for f in fields(self)}
        n = max(array.size for array in arrays.values())
        for name, array in arrays.items():
            if array.shape not in ((1,), (n,)) or not np.isfinite(array).all():
                raise InputError(f"ctf.{name} of shape {array.shape}; expected a finite number for each of {n} images")
            object.__setattr__(self, name, np.broadcast_to(array, n))
        if not (self.voltage_kv > 0).all():
            raise InputError(f"voltage {self.voltage_kv.min():g} kV; expected a positive number")
        if not (np.abs(self.amplitude_contrast) <= 1).all():
            worst = self.amplitude_contrast[np.abs(self.amplitude_contrast).argmax()]
            raise InputError(f"amplitude contrast {worst:g}; expected a fraction, such as 0.1")

    def __len__(self):
        return len(self.defocus_u)

    def __getitem__(self, indices):
        """The entries of the images picked by an index array or slice."""
        return replace(self, **{f.name: getattr(self, f.name)[indices] for f in fields(self)})

    def coefficients(self):
        """(V, 8) table: gamma(k) = a kx^2 + b kx ky + c ky^2 + d k^4 - e, then B / 4, scale and dose; in A and rad.

        Everything that a kernel needs of an image: five numbers make the phase, three the envelope.
        """
        volts = self.voltage_kv * 1e3
        wavelength = 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))
        mean, half = (self.defocus_u + self.defocus_v) / 2, (self.defocus_u - self.defocus_v) / 2
        angle = 2 * np.radians(self.defocus_angle)
        # df(k) k^2 = mean k^2 + half (cos(2 angle) (kx^2 - ky^2) + sin(2 angle) 2 kx ky)
        quadratic = -np.pi * wavelength
        return np.stack(
            [
                quadratic * (mean + half * np.cos(angle)),
                quadratic * 2 * half * np.sin(angle),
                quadratic * (mean - half * np.cos(angle)),
                np.pi / 2 * self.cs_mm * 1e7 * wavelength**3,
                np.radians(self.phase_shift) + np.arcsin(self.amplitude_contrast),
                self.bfactor / 4,
                self.scale,
                self.dose,
            ],
            axis=1,
        )

    def __call__(self, kx, ky):
        """CTF of every image at frequencies kx, ky (1/A, arrays of one shape): (V, *shape) float64."""
        kx, ky = np.broadcast_arrays(np.asarray(kx, float), np.asarray(ky, float))
        k2 = kx**2 + ky**2
        cells = (slice(None), *[None] * kx.ndim)
        a, b, c, d, e, quarter_b, scale, dose = (column[cells] for column in self.coefficients().T)
        gamma = a * kx**2 + b * kx * ky + c * ky**2 + d * k2**2 - e
        fading = dose_weight(dose, np.sqrt(k2), self.voltage_kv[cells])
        return -np.sin(gamma) * scale * np.exp(-quarter_b * k2) * fading
