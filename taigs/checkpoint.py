"""One checkpoint file: a tree of plain values and arrays, written whole or not at all, and read with suspicion.

An uncompressed ``.npz`` (its CRC-32 tells flipped bits): arrays of plain numbers, and ``header``, JSON in bytes, which
says what tree they belong to and which type and shape each has. Nothing in a file is ever executed: classes
are looked up among those that this program marked as `storable`.
"""

import json
from dataclasses import fields, is_dataclass

import numpy as np

from taigs import __version__
from taigs.errors import InputError
from taigs.io.mrc import atomic_file
from taigs.io.npy import read_npz

FORMAT = "taigs-checkpoint"
VERSION = 1

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
    arrays = read_npz(path)
    try:
        header = json.loads(bytes(arrays.pop("header")))
        if header["format"] != FORMAT:
            raise KeyError(FORMAT)
    except (KeyError, TypeError, ValueError, RecursionError):
        raise InputError(f"{path}: not a checkpoint of taigs; expected one that taigs wrote") from None
    try:
        if header["version"] > VERSION:
            raise InputError(f"{path}: checkpoint version {header['version']}; expected {VERSION}; try a newer taigs")
        if {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()} != header["arrays"]:
            raise _damaged(path, "its arrays are not those that its header names")
        for name, array in arrays.items():
            if array.dtype.kind in "fc" and not np.isfinite(array).all():
                raise _damaged(path, f"{name} has non-finite values")
        return _decode(header["tree"], {name: array.copy() for name, array in arrays.items()}), header["identity"]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


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
