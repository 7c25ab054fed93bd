"""Checkpoint files: what is written is read again to the bit, and nothing else is believed."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest

from taigs.checkpoint import FORMAT, read_checkpoint, storable, write_checkpoint
from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.schedule import FitResult, Place, Stage

IDENTITY = {"seed": 3, "data": "ts.mrc, 12 bytes"}


@storable
@dataclass
class Pair:
    a: object
    b: object


def tree(rng):
    cloud = GaussianCloud(rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 4)), rng.random(5))
    return {
        "result": FitResult(cloud, np.inf, [Stage(0.65, 100, 7), Stage(0.46, 140, 3, 0.5, 0.03)]),
        "place": Place(step=12, stage_best=0.1 + 0.2, improved=True),
        "arrays": [rng.normal(size=(3, 0, 2)).astype(np.float32), np.arange(7), np.arange(6.0).reshape(2, 3).T],
        "complex": rng.normal(size=4) + 1j * rng.normal(size=4),
        ("volume", 3): (None, True, "Å", 2**80, [1.5, {}]),
        "rng": np.random.default_rng(1).bit_generator.state,
        "scalar": np.float64(0.1),
    }


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return same(vars(a), vars(b)) if hasattr(a, "__dataclass_fields__") else a == b


def test_a_tree_is_read_as_it_was_written(tmp_path, rng):
    value = tree(rng)
    write_checkpoint(tmp_path / "c.npz", value, IDENTITY)
    found, identity = read_checkpoint(tmp_path / "c.npz")
    assert same(value, found) and identity == IDENTITY
    assert not same(value, {**found, "scalar": 0.2}), "or the comparison sees nothing"
    assert all(array.flags.writeable for array in found["arrays"])


def test_what_cannot_be_stored_is_a_bug_and_writes_nothing(tmp_path):
    @dataclass
    class Pair:  # of the same name as a storable one
        a: object

    for value in (object(), {"f": len}, Pair(1), {1, 2}):
        with pytest.raises(TypeError):
            write_checkpoint(tmp_path / "c.npz", value, {})
    assert not list(tmp_path.iterdir())


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def header(**changes):
    found = {"format": FORMAT, "version": 1, "identity": {}, "tree": {"array": "a0"}, "arrays": {"a0": ["<f8", [3]]}}
    return npy(np.frombuffer(json.dumps(found | changes).encode(), np.uint8))


def lying(shape):
    """A .npy member that claims a shape it has no data for."""
    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(start, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return start.getvalue() + b"\0" * 24


GOOD = {"header.npy": header(), "a0.npy": npy(np.arange(3.0))}
BAD = {
    "of another program": ({"x.npy": npy(np.zeros(3))}, "not a checkpoint of taigs"),
    "of another format": ({"header.npy": header(format="x"), "a0.npy": npy(np.arange(3.0))}, "not a checkpoint"),
    "newer": ({**GOOD, "header.npy": header(version=2)}, "version 2; expected 1; try a newer taigs"),
    "with a pickle": ({**GOOD, "a0.npy": npy(np.array([os.system, 1, 2], object))}, "holds Python objects"),
    "with another shape": ({**GOOD, "a0.npy": npy(np.arange(4.0))}, "arrays are not those"),
    "with another type": ({**GOOD, "a0.npy": npy(np.arange(3))}, "arrays are not those"),
    "claiming 8 TB": (
        {"header.npy": header(arrays={"a0": ["<f8", [2**40]]}), "a0.npy": lying((2**40,))},
        "8,796,093,022,208 bytes, the file has 24",
    ),
    "with an overflowing size": (
        {"header.npy": header(arrays={"a0": ["<f8", [2**40, 2**40]]}), "a0.npy": lying((2**40, 2**40))},
        "bytes, the file has 24",
    ),
    "with NaN": ({**GOOD, "a0.npy": npy([0.0, np.nan, 1.0])}, "a0 has non-finite values"),
    "with more than it says": ({**GOOD, "b.npy": npy(np.zeros(3))}, "arrays are not those"),
    "with less than it says": ({"header.npy": header()}, "arrays are not those"),
    "of an unknown class": ({**GOOD, "header.npy": header(tree={"class": "Path", "fields": {}})}, "KeyError"),
    "with text for an array": ({**GOOD, "a0.npy": b"nothing of the kind"}, "no plain array"),
    "with a broken header": ({**GOOD, "header.npy": npy(np.frombuffer(b"{", np.uint8))}, "not a checkpoint"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_checkpoint_is_refused(tmp_path, name):
    members, message = BAD[name]
    archive(tmp_path / "c.npz", members)
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / "c.npz")


def test_the_good_one_that_the_bad_ones_are_made_from_is_read(tmp_path):
    archive(tmp_path / "c.npz", GOOD)
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "c.npz")[0], np.arange(3.0))


def test_a_compressed_bomb_is_refused_before_it_is_unpacked(tmp_path):
    zeros = npy(np.zeros(1 << 24))
    archive(tmp_path / "c.npz", {**GOOD, "a0.npy": zeros}, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "c.npz").stat().st_size < len(zeros) / 100
    with pytest.raises(InputError, match="would unpack to more than it is"):
        read_checkpoint(tmp_path / "c.npz")


def test_every_truncation_and_every_flipped_bit_is_noticed(tmp_path, rng):
    write_checkpoint(tmp_path / "c.npz", {"a": np.arange(40.0), "b": [1, 2]}, IDENTITY)
    content = (tmp_path / "c.npz").read_bytes()
    bad = tmp_path / "bad.npz"
    for length in [0, 1, 100, *rng.integers(2, len(content), 40).tolist(), len(content) - 1]:
        bad.write_bytes(content[:length])
        with pytest.raises(InputError):
            read_checkpoint(bad)
    start = content.index(np.arange(40.0).tobytes())
    for place in rng.integers(start, start + 320, 40).tolist():
        bad.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        with pytest.raises(InputError, match="CRC"):
            read_checkpoint(bad)
    for place in rng.integers(0, len(content), 200).tolist():  # anywhere else: noticed, or of no consequence
        bad.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            found, identity = read_checkpoint(bad)
        except InputError:
            continue
        assert identity == IDENTITY and same(found, {"a": np.arange(40.0), "b": [1, 2]})


def test_a_missing_checkpoint_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_checkpoint(tmp_path / "none.npz")


WRITER = """
import sys, numpy as np
from taigs.checkpoint import write_checkpoint
for i in range(10**9):
    write_checkpoint(sys.argv[1], {"step": i, "values": np.full(200_000, i)}, {})
    print(i, flush=True)
"""


def test_a_writer_that_is_killed_at_any_moment_leaves_a_sound_checkpoint(tmp_path, rng):
    path = tmp_path / "c.npz"
    for _ in range(25):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            first = int(writer.stdout.readline())
            for _ in range(int(rng.integers(0, 5))):
                first = int(writer.stdout.readline())
            time.sleep(rng.uniform(0, 0.01))
            writer.send_signal(signal.SIGKILL)
        found, _ = read_checkpoint(path)
        assert found["step"] >= first and (found["values"] == found["step"]).all()
