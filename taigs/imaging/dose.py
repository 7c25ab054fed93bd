"""Radiation damage: how much of the signal is left after a dose (Grant & Grigorieff, eLife 2015)."""

import numpy as np


def critical_exposure(k, voltage_kv=300.0):
    """Dose in e/A^2 after which the signal at spatial frequency `k` has fallen to 1/e in power.

    Ne(k) = 0.245 k^-1.665 + 2.81 as measured at 300 kV; 0.8 times that at 200 kV, the ratio in
    between and beyond being interpolated linearly and held between 0.8 and 1.

    Parameters
    ----------
    k : array_like
        Spatial frequency, 1/Angstrom. At k = 0 the exposure is infinite.
    voltage_kv : float
        Acceleration voltage, kV.
    """
    k = np.asarray(k, float)
    with np.errstate(divide="ignore"):
        exposure = 0.245 * k**-1.665 + 2.81
    return exposure * np.clip(0.8 + 0.2 * (voltage_kv - 200) / 100, 0.8, 1.0)


def dose_weight(dose, k, voltage_kv=300.0):
    """Amplitude left at spatial frequency `k` after `dose`: exp(-dose / (2 Ne(k))), between 0 and 1.

    Parameters
    ----------
    dose : array_like
        Accumulated dose before the exposure, e/A^2; broadcast against `k`.
    k : array_like
        Spatial frequency, 1/Angstrom.
    voltage_kv : float
        Acceleration voltage, kV.
    """
    return np.exp(-np.asarray(dose, float) / (2 * critical_exposure(k, voltage_kv)))
