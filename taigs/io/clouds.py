"""model.npz: a cloud as plain arrays, without pickle; and the grid of the map it was made for."""

import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.io.mrc import atomic_file, existing_file
from taigs.views import Grid

FORMAT = "taigs-model"
VERSION = 1
ARRAYS = ("positions", "log_sigmas", "quaternions", "masses")
UNITS = ("per A", "per voxel")


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
    try:
        with open(path, "rb") as opened:  # np.load would leave a damaged archive open
            file = np.load(opened, allow_pickle=False)
            header = json.loads(bytes(file["header"]))
            check_header(path, header)
            return GaussianCloud(*(file[name] for name in ARRAYS), header["signed"]), header
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        EOFError,
        MemoryError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(f"{path}: not a readable model ({error}); expected model.npz") from None


def check_header(path, header):
    """Refuse the header of something else, of a newer version, or without sense."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path}: not a model of taigs; expected model.npz")
    if header["version"] > VERSION:
        raise InputError(f"{path}: model version {header['version']}; expected {VERSION}; try a newer taigs")
    if header.get("map_unit", UNITS[0]) not in UNITS:
        raise InputError(f'{path}: map unit "{header["map_unit"]}"; expected one of {", ".join(UNITS)}')
    if not (len(header.get("centre_xyz") or (0, 0, 0)) == len(header.get("map_origin_A", (0, 0, 0))) == 3):
        raise InputError(f"{path}: centre or origin of its map has not three numbers; expected x, y, z")
    map_grid(header)


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
