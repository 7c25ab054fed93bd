"""Pickles of arrays, without executing anything that they ask for.

A pickle is a program: it names functions to call, and may make room without end for what it never fills. Here it gets
stand-ins for the few functions that arrays are pickled with, even NumPy's own being too trusting (a type can be told
to hold pointers), and its steps are looked at before any is taken.
"""

import io
import pickle
import pickletools
import re

import numpy as np

from taigs.errors import InputError
from taigs.io.files import existing_file, reading

MOST_STEPS = 10_000  # a pair of arrays takes about 60
KINDS = re.compile(r"[<>|=]?[biuf](1|2|4|8|16)")


class _Stand:
    """Stands for a function or class; a pickle can call it, but not change it."""

    __slots__ = ("_call",)

    def __init__(self, call):
        self._call = call

    def __call__(self, *arguments):
        return self._call(*arguments)

    def __setstate__(self, state):
        raise ValueError("it changes a function")


class _Type:
    """numpy.dtype of numbers."""

    def __init__(self, kind, *_):
        if not (isinstance(kind, str) and KINDS.fullmatch(kind)):
            raise ValueError(f"an array of {kind!r}; expected numbers")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state):
        order, fields = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or any(field is not None for field in fields):
            raise ValueError("an array of records; expected numbers")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """numpy.ndarray, made empty and filled by its state."""

    value = None

    def __setstate__(self, state):
        _, shape, kind, is_fortran, content = state
        self.value = _values(content, kind, shape, "F" if is_fortran else "C")


def _values(content, kind, shape, order="C"):
    if not isinstance(kind, _Type) or not isinstance(content, (bytes, bytearray)):
        raise ValueError("an array of Python objects; expected numbers")
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order).copy()


def _frombuffer(content, kind, shape, order):
    array = _Array()
    array.value = _values(content, kind, shape, order)
    return array


def _scalar(kind, content):
    array = _Array()
    array.value = _values(content, kind, ())[()]
    return array


def _encode(text, encoding):
    """Bytes, in protocols that have none."""
    if encoding != "latin1":
        raise ValueError(f"text in {encoding}")
    return text.encode("latin-1")


# What pickles of arrays name, under the names that different versions of NumPy have for it.
_FUNCTIONS = {"_reconstruct": lambda *_: _Array(), "scalar": _scalar, "_frombuffer": _frombuffer}
_ALLOWED = {
    ("numpy", "ndarray"): _Stand(None),
    ("numpy", "dtype"): _Stand(_Type),
    ("_codecs", "encode"): _Stand(_encode),
}
_ALLOWED |= {
    (f"numpy.{core}.{module}", name): _Stand(function)
    for core in ("core", "_core")
    for module in ("multiarray", "numeric")
    for name, function in _FUNCTIONS.items()
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise InputError(
                f"the pickle asks for {module}.{name}, which taigs refuses to execute; expected arrays only"
            )
        return _ALLOWED[module, name]


def read_pickle(path):
    """Arrays of a pickle, or a tuple or list of them, without executing anything.

    Raises
    ------
    InputError
        If it holds anything else, or is damaged.
    """
    path = existing_file(path)
    with reading(path), open(path, "rb") as file:
        content = file.read()
    try:
        _check_steps(content)
        found = _ArrayUnpickler(io.BytesIO(content)).load()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(f"{path}: no pickle of arrays ({error}); expected one as cryoDRGN writes it") from error
    if isinstance(found, (tuple, list)):
        return type(found)(_plain(value) for value in found)
    return _plain(found)


def _plain(value):
    return value.value if isinstance(value, _Array) else value


def _check_steps(content):
    """Refuse more steps than arrays take, and numbers for the memo beyond that: it is made as long as the largest."""
    for step, (code, argument, _) in enumerate(pickletools.genops(content)):
        is_memo = code.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if step > MOST_STEPS or (is_memo and argument > MOST_STEPS):
            raise InputError("the pickle takes more steps than arrays do; expected arrays only")
