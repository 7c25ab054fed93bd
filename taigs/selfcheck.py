"""`taigs doctor --self-check`: does the mathematics come out right on this machine and backend?

Every check compares what the kernels compute with plain NumPy in float64, or with a truth that is known. It takes
seconds, and its lines are what a bug report needs.
"""

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from taigs.baseline import TiltGeometry, weighted_back_projection
from taigs.cloud import GaussianCloud
from taigs.demo import simulate_views
from taigs.errors import NumericalError, TaigsError
from taigs.geometry import quaternion_to_matrix
from taigs.io.mrc import read_volume, write_volume
from taigs.memory import available_memory
from taigs.metrics import ncc
from taigs.render import project, project_vjp, voxelize, voxelize_vjp
from taigs.tilt import reconstruct_tilt_series
from taigs.views import Grid

PIXEL_SIZE = 1.7  # A
CUTOFF = 8.5  # sigmas: the whole Gaussian, as the formulas have it
IMAGE, VOLUME = (21, 30), (9, 14, 19)
EPSILON = 1e-5  # step of the finite differences
PARAMETERS = ("positions", "log_sigmas", "quaternions", "masses")
LEAST_NCC, LEAST_GAIN = 0.7, 0.05  # .90 and .33 where all is well
LEAST_MEMORY = 1e9  # bytes


@dataclass(frozen=True)
class Check:
    """What was measured, and the number it must stay below (`least`: above)."""

    name: str
    measured: float
    bound: float
    least: bool = False
    unit: str = ""

    @property
    def ok(self):
        return bool(self.measured >= self.bound if self.least else self.measured <= self.bound)

    def __str__(self):
        sign = ">=" if self.least else "<="
        return f"{self.name}: {self.measured:.3g}{self.unit} ({sign} {self.bound:.3g}{self.unit}) " + (
            "ok" if self.ok else "FAILED"
        )


def check_all(say, folder=None):
    """Say every check in a line, as it ends.

    Raises
    ------
    NumericalError
        Some failed.
    """
    checks = []
    for check in run_checks(folder):
        say(str(check))
        checks.append(check)
    if failed := [check.name for check in checks if not check.ok]:
        names = "; ".join(failed)
        raise NumericalError(f"{len(failed)} of {len(checks)} checks failed: {names}; please report the lines above")


def run_checks(folder=None):
    """Yield a Check after the other, on the running backend; `folder` is where files are written, a temporary one."""
    rng = np.random.default_rng(0)
    cloud = _random_cloud(rng, 9)
    rotation = quaternion_to_matrix(rng.normal(size=(1, 4)))[0]
    yield from _images(cloud, rotation, rng)
    yield from _volumes(cloud, rng)
    yield _back_projection(rng)
    yield from _reconstruction()
    yield _disk(folder)
    available = available_memory()
    if available is not None:
        yield Check("memory available", available / 1e9, LEAST_MEMORY / 1e9, least=True, unit=" GB")


def _images(cloud, rotation, rng):
    """Images against the formula, their gradient against finite differences of it, and the pair's adjointness."""
    M, centre = rotation[:2] / PIXEL_SIZE, (np.array(IMAGE[::-1]) - 1) / 2
    y, x = np.indices(IMAGE)
    points = np.stack([x, y], axis=-1)

    def drawn(changed):
        return _gaussians(points, changed.positions @ M.T + centre, M @ changed.covariances() @ M.T, changed.masses)

    image = project(cloud, rotation, IMAGE, PIXEL_SIZE, cutoff=CUTOFF)
    yield Check("images against float64", _difference(image, drawn(cloud).sum(axis=0)), 1e-5)
    v_image = rng.normal(size=IMAGE).astype(np.float32).astype(np.float64)
    v = project_vjp(cloud, rotation, v_image, PIXEL_SIZE, cutoff=CUTOFF)
    yield Check("gradients of images against finite differences", _worst(v, cloud, drawn, v_image), 1e-3)
    yield _adjointness("images", np.vdot(image, v_image), cloud.masses @ v["masses"], image)


def _volumes(cloud, rng):
    """The same of volumes."""
    grid = Grid(VOLUME, PIXEL_SIZE)
    z, y, x = np.indices(VOLUME)
    points = np.stack([x, y, z], axis=-1) * PIXEL_SIZE + grid.lower

    def drawn(changed):
        return _gaussians(points, changed.positions, changed.covariances(), changed.masses)

    volume = voxelize(cloud, grid, cutoff=CUTOFF)
    yield Check("volumes against float64", _difference(volume, drawn(cloud).sum(axis=0)), 1e-5)
    v_volume = rng.normal(size=VOLUME).astype(np.float32).astype(np.float64)
    v = voxelize_vjp(cloud, grid, v_volume, cutoff=CUTOFF)
    yield Check("gradients of volumes against finite differences", _worst(v, cloud, drawn, v_volume), 1e-3)
    yield _adjointness("volumes", np.vdot(volume, v_volume), cloud.masses @ v["masses"], volume)


def _back_projection(rng):
    shape, angles = (7, 12, 18), np.array([-60.0, -21.0, 0.0, 33.0])
    tilts = TiltGeometry(angles, (shape[1], 20), shape)
    volume, images = rng.normal(size=shape), rng.normal(size=(len(angles), shape[1], 20))
    drawn, back = tilts.project(volume), tilts.back_project(images)
    return _adjointness("back-projection", np.vdot(drawn, images), np.vdot(volume, back), drawn)


def _reconstruction():
    """A tilt series with a known truth: correlation with it, beside weighted back-projection's."""
    grid = Grid((16, 48, 48), 14.0)
    views, truth = simulate_views(grid, 21, np.random.default_rng(0))
    name = "correlation of a small reconstruction with its truth"
    try:
        found = ncc(reconstruct_tilt_series(views, thickness=grid.shape[0]).volume, truth)
    except TaigsError as error:  # the other checks tell why
        yield Check(f"{name} ({error})", np.nan, LEAST_NCC, least=True)
        return
    baseline = ncc(weighted_back_projection(views, grid), truth)
    yield Check(name, found, LEAST_NCC, least=True)
    yield Check("as far above weighted back-projection's", found - baseline, LEAST_GAIN, least=True)


def _disk(folder):
    """Bytes that differ after a file was written, replaced and read again; other files left behind count too."""
    volume = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    with tempfile.TemporaryDirectory(dir=folder) as here:
        path = Path(here) / "check.mrc"
        for written in (volume * 0, volume):
            write_volume(path, written, PIXEL_SIZE, overwrite=True)
        wrong = np.count_nonzero(read_volume(path)[0] != volume) + len(os.listdir(here)) - 1
    return Check("values wrong after writing and replacing a file", wrong, 0)


def _random_cloud(rng, n):
    extent = np.array([VOLUME[2], VOLUME[1], VOLUME[0]]) * PIXEL_SIZE
    return GaussianCloud(
        rng.uniform(-0.3, 0.3, (n, 3)) * extent,
        np.log(PIXEL_SIZE * rng.uniform(0.8, 2.0, (n, 3))),
        rng.normal(size=(n, 4)),
        rng.uniform(0.5, 2, n),
    )


def _gaussians(points, means, covariances, masses):
    """(N, *shape) normal densities times masses at points (*shape, d), in float64."""
    d = points.shape[-1]
    offsets = points - means.reshape(-1, *[1] * (points.ndim - 1), d)
    precisions = np.linalg.inv(covariances)
    exponents = np.einsum("n...i,nij,n...j->n...", offsets, precisions, offsets)
    peaks = masses * np.sqrt(np.linalg.det(precisions) / (2 * np.pi) ** d)
    return peaks.reshape(-1, *[1] * (points.ndim - 1)) * np.exp(-0.5 * exponents)


def _difference(actual, expected):
    """Largest, as a part of the largest value."""
    return np.abs(actual - expected).max() / np.abs(expected).max()


def _worst(v, cloud, drawn, weights):
    """Largest relative difference of a gradient of sum(weights * drawn) among the kinds of parameters."""
    return max(_difference(v[name], _finite_differences(cloud, name, drawn, weights)) for name in PARAMETERS)


def _finite_differences(cloud, name, drawn, weights):
    """Gradient of sum(weights * drawn(cloud)); Gaussians do not act on one another, so all move at once."""
    values = getattr(cloud, name)
    gradient = np.empty(values.shape)
    for entry in np.ndindex(values.shape[1:]):
        sides = []
        for step in (EPSILON, -EPSILON):
            moved = values.copy()
            moved[(slice(None), *entry)] += step
            shares = drawn(replace(cloud, **{name: moved})) * weights
            sides.append(shares.reshape(len(cloud), -1).sum(axis=1))
        gradient[(slice(None), *entry)] = (sides[0] - sides[1]) / (2 * EPSILON)
    return gradient


def _adjointness(what, one, other, drawn):
    """The Check of two scalar products: their difference, as a part of what noise makes of `drawn`."""
    mismatch = abs(float(one) - float(other)) / max(float(np.linalg.norm(drawn)), 1e-30)
    return Check(f"adjointness of {what}", mismatch, 1e-5)
