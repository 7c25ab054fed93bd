"""One checkpoint file: a tree of plain values and arrays, written whole or not at all, and read with suspicion.

An uncompressed ``.npz`` (its CRC-32 tells flipped bits): arrays of plain numbers, and ``header``, JSON in bytes, which
says what tree they belong to and which type and shape each has. Nothing in a file is ever executed: classes
are looked up among those that this program marked as `storable`.
"""

import json
import zipfile
import zlib
from dataclasses import fields, is_dataclass

import numpy as np

from taigs import __version__
from taigs.errors import InputError
from taigs.io.mrc import atomic_file, reading

FORMAT = "taigs-checkpoint"
VERSION = 1
LARGEST_HEADER = 1 << 28  # bytes

# What zipfile, json and NumPy raise on bytes that are not what they should be.
BROKEN = (
    zipfile.BadZipFile, KeyError, IndexError, TypeError, ValueError, AttributeError, EOFError, MemoryError,
    NotImplementedError, RecursionError, zlib.error,
)  # fmt: skip

_storable = {}


def storable(cls):
    """Let a dataclass be part of a checkpoint; its fields must be storable themselves."""
    _storable[cls.__name__] = cls
    return cls


def write_checkpoint(path, value, identity):
    """Write a tree of dicts, lists, tuples, storable dataclasses, arrays and plain values, replacing an older file.

    Parameters
    ----------
    path : path
        .npz
    value
        The tree.
    identity : dict
        Of JSON's types: what the file belongs to; see `taigs.journal`.

    Raises
    ------
    ResourceError
        The disk is full, or the folder may not be written; an older file of that name is untouched.
    """
    arrays = {}
    tree = _encode(value, arrays)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "taigs": __version__,
        "identity": identity,
        "tree": tree,
        "arrays": {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()},
    }
    with atomic_file(path, overwrite=True) as file:
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def read_checkpoint(path):
    """(value, identity) of a checkpoint; everything is checked before it is believed.

    Raises
    ------
    InputError
        Truncated, damaged, not a checkpoint, of a newer version, or made to harm.
    """
    with reading(path), open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                header = _header(path, archive, file.seek(0, 2))
                arrays = {name: _array(path, archive, name, *header["arrays"][name]) for name in header["arrays"]}
            return _decode(header["tree"], arrays), header["identity"]
        except zipfile.BadZipFile as error:
            raise _damaged(path, str(error)) from None
        except (
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            EOFError,
            MemoryError,
            NotImplementedError,
            zlib.error,
        ) as e:
            raise _damaged(path, f"{type(e).__name__}: {e}") from None


def _header(path, archive, file_size):
    """The header, once the archive's directory makes sense: nothing is read before that."""
    members = {info.filename: info for info in archive.infolist()}
    for info in members.values():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > file_size:
            raise _damaged(path, f"{info.filename} is compressed or larger than the file")
    if "header.npy" not in members or members["header.npy"].file_size > LARGEST_HEADER:
        raise InputError(f"{path}: not a checkpoint of taigs; expected one that taigs wrote")
    size = members["header.npy"].file_size
    with archive.open("header.npy") as member:
        dtype, shape, _ = _npy_header(member)
        if dtype != np.uint8 or len(shape) != 1 or shape[0] > size:
            raise _damaged(path, "its header is not text")
        header = json.loads(member.read())
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of taigs; expected one that taigs wrote")
    if header["version"] > VERSION:
        raise InputError(f"{path}: checkpoint version {header['version']}; expected {VERSION}; try a newer taigs")
    if {f"{name}.npy" for name in header["arrays"]} | {"header.npy"} != set(members):
        raise _damaged(path, "its arrays are not those that its header names")
    return header


def _array(path, archive, name, dtype, shape):
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        found, found_shape, fortran = _npy_header(member)
        n_bytes = int(np.prod(found_shape, dtype=object)) * found.itemsize
        if found.hasobject or found.str != dtype or list(found_shape) != shape:
            raise _damaged(path, f"{name} is {found.str} {found_shape}, the header says {dtype} {tuple(shape)}")
        if n_bytes != info.file_size - member.tell():
            raise _damaged(path, f"{name} claims {n_bytes} bytes, and has {info.file_size - member.tell()}")
        array = np.frombuffer(bytearray(member.read()), found).reshape(found_shape, order="F" if fortran else "C")
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        raise _damaged(path, f"{name} has non-finite values")
    return array


def _npy_header(member):
    """(dtype, shape, whether in Fortran's order) at the start of a .npy member."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    return dtype, shape, fortran


def _damaged(path, why):
    return InputError(f"{path}: damaged checkpoint ({why}); expected it as it was written")


def _encode(value, arrays):
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if is_dataclass(value):
        name = type(value).__name__
        if _storable.get(name) is not type(value):
            raise TypeError(f"{name} is not storable")
        return {"class": name, "fields": {f.name: _encode(getattr(value, f.name), arrays) for f in fields(value)}}
    if isinstance(value, dict):
        return {"dict": [[_encode(key, arrays), _encode(item, arrays)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_encode(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be stored")


def _decode(tree, arrays):
    if isinstance(tree, list):
        return [_decode(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return arrays[tree["array"]]
    if "class" in tree:
        return _storable[tree["class"]](**{name: _decode(item, arrays) for name, item in tree["fields"].items()})
    if "tuple" in tree:
        return tuple(_decode(item, arrays) for item in tree["tuple"])
    return {_decode(key, arrays): _decode(item, arrays) for key, item in tree["dict"]}
