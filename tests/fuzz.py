"""Damages good files at random and reads them: a file is read, or refused with an error of taigs, soon and in bounds.

    python tests/fuzz.py TARGET,... SEED FIRST COUNT FOLDER

runs attempts FIRST to FIRST + COUNT - 1 of each target and prints each finding as a line of JSON. An attempt depends on
target, seed and number only, so a finding is repeated by its number; its file is kept in FOLDER. `test_fuzz.py` runs a
few hundred attempts of every target, `fuzz_long.py` as many as fit into some minutes.
"""

import faulthandler
import gzip
import io
import json
import os
import pickle
import re
import shutil
import sys
import time
import traceback
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from faults import BOX, PARTICLES, good_particles, good_tilt_series

from taigs.atoms import read_atoms
from taigs.cli.describe import describe_file
from taigs.cloud import GaussianCloud
from taigs.errors import InputError, InputWarning, ResourceError
from taigs.io.clouds import read_cloud, write_cloud
from taigs.io.cryodrgn import read_ctf, read_poses
from taigs.io.imod import read_angles, read_xf
from taigs.io.mrc import read_volume, write_stack, write_volume
from taigs.io.particles import read_particles
from taigs.io.pdb import write_cif, write_pdb
from taigs.io.ply import write_ply
from taigs.io.star import Table, read_star, write_star

SECONDS, BYTES = 1.0, 200e6
HANGS_AFTER = 30  # seconds, however busy the machine is
WORDS = [
    b"nan", b"inf", b"-inf", b"1e400", b"-1", b"0", b"1_000", b"9" * 40, b"1e-320", b"-0", b"\n", b"\r", b" ", b"\t",
    b"#", b"'", b'"', b"_", b"data_", b"loop_", b"@", b"..", b"/", b"\0", b"\xff", b"\xc3\xa9", b"[", b"{", b"null",
    b"A" * 5000, b"[" * 3000, b"(" * 300, b"TRUE", b"true", b"1e300", b"<", b"%",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 127, 255, 2**15, 2**16, 2**24, 2**31 - 1, -(2**31), 0x7FC00000, 0x7F800000, 0x00000001]


# --- damage --------------------------------------------------------------------------------------


def damaged(rng, content, head):
    """The bytes after one to six random changes, most of them within the first `head`."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 7)):
        size = max(1, len(content))
        at = int(rng.integers(min(head, size) if rng.random() < 0.8 else size))
        kind = rng.integers(8)
        if kind == 0:
            content[at : at + 1] = rng.bytes(1)
        elif kind == 1:
            content[at : at + 1] = bytes([(content[at] if at < len(content) else 0) ^ (1 << int(rng.integers(8)))])
        elif kind in (2, 3):
            number = NUMBERS[rng.integers(len(NUMBERS))] & 0xFFFFFFFF
            at -= at % 4 if rng.random() < 0.9 else 0
            content[at : at + 4] = number.to_bytes(4, ("little", "big")[rng.integers(2)])
        elif kind in (4, 5):
            word = WORDS[rng.integers(len(WORDS))]
            content[at : at + int(rng.integers(2)) * len(word)] = word
        elif kind == 6:
            end = at + int(rng.integers(1, 200))
            content[at:end] = content[at:end] * int(rng.integers(3))
        elif rng.random() < 0.3:
            del content[at:]
        else:
            other = int(rng.integers(size))
            content[at:at] = content[other : other + int(rng.integers(1, 200))]
    return bytes(content)


def damaged_member(rng, content, head):
    """An archive with one damaged member whose check sum is right again; at times the archive itself is damaged."""
    if rng.random() < 0.3:
        return damaged(rng, content, len(content))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = list(members)[rng.integers(len(members))]
    members[name] = damaged(rng, members[name], head)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name), member)
    return file.getvalue()


def damaged_inside(rng, content, head):
    """A gzip file with damaged content; at times the file itself is damaged."""
    if rng.random() < 0.3:
        return damaged(rng, content, len(content))
    return gzip.compress(damaged(rng, zlib.decompress(content, 31), head), 1)


# --- targets -------------------------------------------------------------------------------------


class Target:
    """Good files, how they are damaged, and what reads them.

    Parameters
    ----------
    make : callable
        Folder -> path of a good file, which is made there with what it refers to.
    read : callable
        Of its path.
    head : int
        Bytes in which most of the damage is done.
    damage : callable
    """

    def __init__(self, make, read, head=2000, damage=damaged):
        self.make, self.read, self.head, self.damage = make, read, head, damage


def make_cloud(n=20):
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(n, 3)), rng.normal(size=(n, 3)), rng.normal(size=(n, 4))
    return GaussianCloud(*arrays, np.abs(rng.normal(size=n)))


def make_model(folder):
    write_cloud(folder / "model.npz", make_cloud(), 3.5, (8, 8, 8))
    return folder / "model.npz"


def exported(write, name):
    def make(folder):
        cloud, header = read_cloud(make_model(folder))
        write(folder / name, cloud, header)
        return folder / name

    return make


def make_volume(folder):
    write_volume(folder / "v.mrc", np.random.default_rng(0).normal(size=(5, 6, 7)), 2.0)
    return folder / "v.mrc"


def make_packed(folder):
    (folder / "v.mrc.gz").write_bytes(gzip.compress(make_volume(folder).read_bytes()))
    return folder / "v.mrc.gz"


def make_stack(folder):
    good_particles(folder)
    return folder / "p.mrcs"


def make_subtomograms(folder):
    """Two particles of a series of three tilts: particles.star, tomograms.star and stacks."""
    rng = np.random.default_rng(0)
    for i in range(2):
        write_stack(folder / f"{i}.mrcs", rng.normal(size=(3, 8, 8)), 4.0)
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [4.0], "rlnVoltage": [300.0]}
    optics |= {"rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1]}
    particles = {
        "rlnTomoName": ["A", "A"], "rlnImageName": ["0.mrcs", "1.mrcs"], "rlnTomoVisibleFrames": ["[1,1,1]"] * 2,
        "rlnAngleRot": [10.0, 20], "rlnAngleTilt": [40.0, 50], "rlnAnglePsi": [70.0, 80], "rlnOpticsGroup": [1, 1],
    }  # fmt: skip
    tilts = {
        "rlnTomoXTilt": [1.0] * 3, "rlnTomoYTilt": [-30.0, 0, 30], "rlnTomoZRot": [85.0] * 3,
        "rlnDefocusU": [30000.0] * 3, "rlnDefocusV": [29000.0] * 3, "rlnDefocusAngle": [0.0] * 3,
    }  # fmt: skip
    series = {"rlnTomoName": ["A"], "rlnTomoHand": [-1.0], "rlnTomoTiltSeriesPixelSize": [2.0]}
    general = Table("general", {"rlnTomoSubTomosAre2DStacks": [1]}, is_loop=False)
    write_star(folder / "tomograms.star", [Table("global", series), Table("A", tilts)])
    write_star(folder / "p.star", [general, Table("optics", optics), Table("particles", particles)])
    return folder / "p.star"


def make_cs(folder):
    good_particles(folder)
    n = PARTICLES
    columns = {
        "uid": np.arange(n, dtype="u8"), "blob/path": np.full(n, b"p.mrcs", "S6"), "blob/idx": np.arange(n, dtype="u4"),
        "blob/shape": np.full((n, 2), BOX, "u4"), "blob/psize_A": np.full(n, 8, "f4"),
        "alignments3D/pose": np.random.default_rng(0).normal(size=(n, 3)).astype("f4"),
        "alignments3D/shift": np.zeros((n, 2), "f4"), "alignments3D/psize_A": np.full(n, 8, "f4"),
        "alignments3D/split": np.arange(n, dtype="u4") % 2, "ctf/accel_kv": np.full(n, 300, "f4"),
        "ctf/cs_mm": np.full(n, 2.7, "f4"), "ctf/amp_contrast": np.full(n, 0.1, "f4"),
        "ctf/df1_A": np.full(n, 15000, "f4"), "ctf/df2_A": np.full(n, 14000, "f4"),
        "ctf/df_angle_rad": np.zeros(n, "f4"), "ctf/phase_shift_rad": np.zeros(n, "f4"),
    }  # fmt: skip
    table = np.zeros(n, [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        table[name] = column
    with open(folder / "p.cs", "wb") as file:
        np.save(file, table)
    return folder / "p.cs"


def pickled(value, protocol):
    def make(folder):
        (folder / "a.pkl").write_bytes(pickle.dumps(value, protocol))
        return folder / "a.pkl"

    return make


def all_images(path):
    """Read particles and their images; more than a few thousand would be no fault."""
    views = read_particles(path)
    return views.images[:1000]


def numbers_of(tables):
    """Every column of some tables, as numbers where they are."""
    for table in tables.values():
        for label in table.columns:
            try:
                table.floats(label)
            except InputError:
                table.strings(label)


POSES = (np.tile(np.eye(3), (6, 1, 1)), np.zeros((6, 2)))
TARGETS = {
    "mrc": Target(make_volume, read_volume, 256),
    "mrc-info": Target(make_volume, lambda path: describe_file(path, allow_truncated=True), 256),
    "mrc-gz": Target(make_packed, read_volume, 256, damaged_inside),
    "stack": Target(make_stack, lambda path: all_images(path.with_name("p.star")), 256),
    "star": Target(good_particles, all_images),
    "star-text": Target(good_particles, lambda path: numbers_of(read_star(path))),
    "subtomograms": Target(make_subtomograms, all_images),
    "tomograms": Target(
        lambda folder: make_subtomograms(folder).with_name("tomograms.star"),
        lambda path: all_images(path.with_name("p.star")),
    ),
    "tlt": Target(lambda folder: good_tilt_series(folder).angles, read_angles),
    "xf": Target(lambda folder: good_tilt_series(folder).xf, read_xf),
    "ply": Target(exported(write_ply, "m.ply"), read_cloud, 1200),
    "npz": Target(make_model, read_cloud, 200, damaged_member),
    "cs": Target(make_cs, all_images),
    "poses": Target(pickled(POSES, 4), lambda path: read_poses(path, BOX), 250),
    "ctf": Target(pickled(np.ones((6, 9), np.float32), 3), lambda path: read_ctf(path, BOX), 250),
    "pdb": Target(exported(write_pdb, "m.pdb"), read_atoms, 4000),
    "cif": Target(exported(write_cif, "m.cif"), read_atoms, 4000),
}


# --- running -------------------------------------------------------------------------------------


def memory(name):
    """VmRSS or VmHWM of this process, bytes."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def attempt(target, path, content):
    """What is wrong with how a file is read, in words; None if nothing is."""
    path.write_bytes(content)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before, started = memory("VmRSS"), time.process_time()
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    try:
        target.read(path)
    except (InputError, ResourceError):
        pass
    except BaseException:
        return traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds, extra = time.process_time() - started, memory("VmHWM") - before
    if seconds > SECONDS or extra > BYTES:
        return f"{seconds:.2f} s, {extra / 1e6:.0f} MB more"
    return None


def main(names, seed, first, count, folder):
    for name in names.split(","):
        os.mkdir(name)
        os.chdir(name)
        fuzz(name, int(seed), int(first), int(count), Path.cwd())
        os.chdir(folder)


def fuzz(name, seed, first, count, folder):
    """Make attempts on one target in a folder; print the findings."""
    target = TARGETS[name]
    path = target.make(folder)
    good = path.read_bytes()
    warnings.simplefilter("error")  # such as an overflow
    warnings.simplefilter("ignore", InputWarning)
    wrong = attempt(target, path, good)
    assert wrong is None, f"the good file is not read: {wrong}"
    for number in range(first, first + count):
        (folder.parent / "last").write_text(f"{name} {number}")
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
        content = target.damage(rng, good, target.head)
        wrong = attempt(target, path, content)
        if wrong is not None:
            kept = folder / f"{name}-{seed}-{number}{path.suffix}"
            shutil.copy(path, kept)
            print(json.dumps({"target": name, "seed": seed, "number": number, "file": str(kept), "wrong": wrong}))


if __name__ == "__main__":
    os.chdir(sys.argv[5])
    main(*sys.argv[1:])
