"""model.npz: a cloud as plain arrays, without pickle."""

import json
import zipfile
import zlib

import numpy as np

from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.io.mrc import atomic_file, existing_file

FORMAT = "taigs-model"
VERSION = 1
ARRAYS = ("positions", "log_sigmas", "quaternions", "masses")


def write_cloud(path, cloud, pixel_size, shape=None, overwrite=False):
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
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "signed": cloud.signed,
        "pixel_size_A": float(pixel_size),
        "shape_zyx": None if shape is None else [int(n) for n in shape],
    }
    arrays = {name: getattr(cloud, name).astype(np.float32) for name in ARRAYS}
    with atomic_file(path, overwrite) as file:
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def read_cloud(path):
    """(GaussianCloud, header dict) from model.npz.

    Raises
    ------
    InputError
        Not a model of taigs, damaged, or written by a newer version.
    """
    path = existing_file(path)
    try:
        with open(path, "rb") as opened:  # np.load would leave a damaged archive open
            file = np.load(opened, allow_pickle=False)
            header = json.loads(bytes(file["header"]))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise InputError(f"{path}: not a model of taigs; expected model.npz")
            if header["version"] > VERSION:
                raise InputError(f"{path}: model version {header['version']}; expected {VERSION}; try a newer taigs")
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
