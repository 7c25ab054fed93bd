"""taigs: 3D structure from cryo-EM images as a cloud of Gaussians.

Names are loaded on first use, so that ``import taigs`` starts neither Taichi nor SciPy.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "taigs.runtime": ("init",),
    "taigs.errors": ("TaigsError", "InputError", "ResourceError", "NumericalError", "RefusedError"),
    "taigs.views": ("Views", "Grid"),
    "taigs.cloud": ("GaussianCloud",),
    "taigs.render": ("project", "project_vjp", "voxelize", "voxelize_vjp"),
    "taigs.projector": ("Projector",),
    "taigs.io.tilt_series": ("read_tilt_series",),
    "taigs.tilt": ("reconstruct_tilt_series",),
    "taigs.io.particles": ("read_particles",),
    "taigs.spa": ("reconstruct_particles",),
    "taigs.volume_fit": ("fit_volume",),
    "taigs.evaluate": ("evaluate_run",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'taigs' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__():
    return __all__
