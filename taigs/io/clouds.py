"""model.npz: a cloud as plain arrays, without pickle; and the grid of the map it was made for."""

import json
from pathlib import Path

import numpy as np

from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.io.files import existing_file
from taigs.io.mrc import atomic_file
from taigs.io.npy import read_npz
from taigs.views import Grid

FORMAT = "taigs-model"
VERSION = 1
BYTES_PER_GAUSSIAN, BYTES_BESIDES = 44, 2000  # of a file: 11 float32 numbers each, and headers
ARRAYS = ("positions", "log_sigmas", "quaternions", "masses")
UNITS = ("per A", "per voxel")
# Beyond these, products of single precision overflow; nothing in a microscope comes near them.
LARGEST = 1e18
LARGEST_LOG = 80.0
LARGEST_SIZE = 2**20  # of a map's axis, voxels
SHORTEST_QUATERNION = 1e-12


def write_cloud(
    path, cloud, pixel_size, shape=None, overwrite=False, centre=None, unit="per A", origin=(0.0, 0.0, 0.0)
):
    """Write a cloud with what is needed to draw it at its own resolution.

    Parameters
    ----------
    path : path
        .npz; float32 arrays positions (N, 3) and log_sigmas (N, 3) in A, quaternions (N, 4) w x y z,
        masses (N,), and `header`, JSON in bytes.
    pixel_size : float
        Angstrom, of the data.
    shape : (nz, ny, nx), optional
        Of the volume the cloud was made for.
    centre : (x, y, z), optional
        Voxel of that volume at which the cloud's origin is; default (n - 1) / 2.
    unit : {"per A", "per voxel"}
        What the volume holds: the density (image units per A), or the density times the voxel size (image
        units per voxel, as particle maps do: the sum along a ray is then the image).
    origin : (x, y, z)
        Angstrom; MRC origin of that volume.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "signed": cloud.signed,
        "pixel_size_A": float(pixel_size),
        "shape_zyx": None if shape is None else [int(n) for n in shape],
        "centre_xyz": None if centre is None else [float(c) for c in centre],
        "map_unit": unit,
        "map_origin_A": [float(o) for o in origin],
    }
    check_header(path, header)
    arrays = {name: getattr(cloud, name).astype(np.float32) for name in ARRAYS}
    with atomic_file(path, overwrite) as file:
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def read_cloud(path):
    """(GaussianCloud, header dict) from model.npz, or from a .ply as `taigs.io.ply.read_ply` reads it.

    Raises
    ------
    InputError
        Not a model of taigs, damaged, or written by a newer version.
    """
    path = existing_file(path)
    kind = Path(path).suffix.lower()
    if kind == ".ply":
        from taigs.io.ply import read_ply  # which needs this module

        return read_ply(path)
    if kind != ".npz":
        raise InputError(f'{path}: unknown kind of model "{kind}"; expected .npz or .ply')
    arrays = read_npz(path)
    try:
        header = json.loads(bytes(arrays["header"]))
        check_header(path, header)
        return checked_cloud(path, *(arrays[name] for name in ARRAYS), header["signed"]), header
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable model ({error}); expected model.npz") from None


def checked_cloud(path, positions, log_sigmas, quaternions, masses, signed):
    """GaussianCloud of a file's arrays.

    Raises
    ------
    InputError
        With the row of the first Gaussian that cannot be drawn in single precision.
    """
    arrays = {"positions": positions, "log_sigmas": log_sigmas, "quaternions": quaternions, "masses": masses}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise InputError(f"{path}: {name} are {array.dtype}; expected numbers")
    try:
        with np.errstate(invalid="ignore"):  # signalling NaN, which are refused
            cloud = GaussianCloud(*arrays.values(), signed)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    lengths = np.linalg.norm(cloud.quaternions, axis=1)
    for what, bad in (
        ("a quaternion of length 0", lengths < SHORTEST_QUATERNION),
        (f"a position beyond {LARGEST:g} A", (np.abs(cloud.positions) > LARGEST).any(axis=1)),
        (f"a log sigma beyond +-{LARGEST_LOG:g}", (np.abs(cloud.log_sigmas) > LARGEST_LOG).any(axis=1)),
        (f"a mass beyond {LARGEST:g}", np.abs(cloud.masses) > LARGEST),
    ):
        if bad.any():
            raise InputError(f"{path}: Gaussian {np.argmax(bad) + 1} of {len(cloud)} has {what}; expected a real one")
    return cloud


def check_header(path, header):
    """Refuse the header of something else, of a newer version, or without sense."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path}: not a model of taigs; expected model.npz")
    if not isinstance(header.get("version"), int) or header["version"] > VERSION:
        raise InputError(f"{path}: model version {header.get('version')}; expected {VERSION}; try a newer taigs")
    if header.get("map_unit", UNITS[0]) not in UNITS:
        raise InputError(f'{path}: map unit "{header["map_unit"]}"; expected one of {", ".join(UNITS)}')
    for name, n, expected in (
        ("shape_zyx", 3, "z, y, x"),
        ("centre_xyz", 3, "x, y, z"),
        ("map_origin_A", 3, "x, y, z"),
        ("pixel_size_A", 1, "a positive number of Angstrom"),
    ):
        value = header.get(name)
        if value is not None and not _are_numbers(value if n > 1 else [value], n):
            raise InputError(f"{path}: {name} of its map is {str(value)[:60]}; expected {expected}")
    shape = header.get("shape_zyx") or [1]
    if not all(type(n) is int and 1 <= n <= LARGEST_SIZE for n in shape):
        raise InputError(f"{path}: shape_zyx of its map is {shape}; expected three sizes of at least 1")
    if not isinstance(header.get("signed", False), bool):
        raise InputError(f"{path}: signed is {str(header['signed'])[:60]}; expected true or false")
    map_grid(header)


def _are_numbers(values, n):
    """Whether these are n numbers of a size that can be meant."""
    return (
        isinstance(values, (list, tuple))
        and len(values) == n
        and all(type(value) in (int, float) and abs(value) < LARGEST for value in values)
    )


def map_grid(header):
    """Grid of the map a model was made for; None if the header names none."""
    if header.get("shape_zyx") is None or header.get("pixel_size_A") is None:
        return None
    centre = header.get("centre_xyz")  # files of the first versions have none
    return Grid(tuple(header["shape_zyx"]), header["pixel_size_A"], None if centre is None else tuple(centre))


def map_position(header):
    """Where a model's origin lies in the frame of its map (A, x y z), in which MRC origins and atoms are given.

    Programs put voxel 0 of a map at the header's origin; without a map the two frames are one.
    """
    grid = map_grid(header)
    return np.zeros(3) if grid is None else np.asarray(header.get("map_origin_A", (0.0, 0.0, 0.0))) - grid.lower


def values_per_density(header, voxel_size):
    """Factor from density (mass / A^3) to the values of a model's maps at a voxel size (A)."""
    return voxel_size if header.get("map_unit") == "per voxel" else 1.0
