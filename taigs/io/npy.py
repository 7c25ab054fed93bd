"""NumPy's .npy and .npz: plain arrays only, and none that is larger than the file that claims it.

`numpy.load` makes room for what a header claims before it looks at the data, and unpacks whatever an archive holds;
here every size is compared with the bytes that are there first.
"""

import io
import os
import tokenize
import warnings
import zipfile
import zlib

import numpy as np

from taigs.errors import InputError
from taigs.io.files import existing_file, reading

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 100_000  # characters; of .cs files with many columns
DAMAGE = (
    ValueError, TypeError, KeyError, EOFError, OverflowError, SyntaxError, RecursionError, MemoryError,
    tokenize.TokenError,
)  # fmt: skip


def read_npy(path):
    """The array of a .npy file (cryoSPARC's .cs up to version 4).

    Raises
    ------
    InputError
        If it is damaged, holds Python objects, or claims more than there is.
    """
    path = existing_file(path)
    with reading(path), open(path, "rb") as file:
        dtype, shape, fortran = _header(path, file)
        start = file.tell()
        size = file.seek(0, io.SEEK_END) - start
        _check_size(path, dtype, shape, size)
        file.seek(start)
        values = np.fromfile(file, dtype, _count(shape))
    if len(values) != _count(shape):
        raise InputError(f"{path}: changed while it was read; try again when it is complete")
    return values.reshape(shape, order="F" if fortran else "C")


def read_npz(path):
    """{name: array} of an .npz file that is not compressed, as `numpy.savez` writes it. Raises as `read_npy`."""
    path = existing_file(path)
    with reading(path), open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
                if (
                    sum(info.file_size for info in infos) > os.fstat(file.fileno()).st_size
                ):  # compressed, or they overlap
                    raise ValueError("it would unpack to more than it is")
                return {info.filename.removesuffix(".npy"): _member(path, archive, info) for info in infos}
        except InputError:
            raise
        except (*DAMAGE, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise InputError(f"{path}: a damaged archive ({error}); expected an .npz of plain arrays") from error


def _member(path, archive, info):
    name = f"{path}: {info.filename}"
    # A stored member is as long in the file as in memory, so nothing can be larger than the file is.
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise InputError(f"{name}: compressed; expected plain arrays, as numpy.savez writes them")
    content = archive.read(info)  # which checks the CRC
    file = io.BytesIO(content)
    dtype, shape, fortran = _header(name, file)
    _check_size(name, dtype, shape, len(content) - file.tell())
    return np.frombuffer(content, dtype, _count(shape), file.tell()).reshape(shape, order="F" if fortran else "C")


def _header(name, file):
    """(dtype, shape, whether in Fortran's order) that a .npy says; the data follow in `file`."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy tries Python 2's way of writing it, too, and says so
            shape, fortran, dtype = read(file, max_header_size=LONGEST_HEADER)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        if not dtype.itemsize or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"shape {shape}, type {dtype}")
    except DAMAGE as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: no plain array ({text}); expected one of numbers") from error
    return dtype, shape, fortran


def _count(shape):
    count = 1
    for n in shape:  # of any size: NumPy's product would wrap around
        count *= n
    return count


def _check_size(name, dtype, shape, available):
    claimed = _count(shape) * dtype.itemsize
    if claimed != available:
        sizes = f"shape {shape} of {dtype.itemsize} bytes = {claimed:,} bytes, the file has {available:,}"
        raise InputError(f"{name}: header says {sizes}: truncated copy?")
