"""Nothing that a file holds is executed, unpacked without end, or shown as anything but text."""

import gzip
import io
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from faults import PARTICLES, accepted, good_particles, python, refused

from taigs.cloud import GaussianCloud
from taigs.io.clouds import write_cloud

ROOT = Path(__file__).resolve().parents[1]
TIB = 2**40


def cloud(n=5):
    return GaussianCloud(np.zeros((n, 3)), np.zeros((n, 3)), np.tile([1.0, 0, 0, 0], (n, 1)), np.ones(n))


@pytest.fixture
def model(tmp_path):
    write_cloud(tmp_path / "model.npz", cloud(), 3.5, (8, 8, 8))
    return tmp_path / "model.npz"


# --- execution -----------------------------------------------------------------------------------


def test_no_source_file_executes_data():
    calls = r"(?<!re\.)\b(eval|exec|compile|__import__)\(|pickle\.loads?\(|np\.load\(|os\.system\("
    executing = re.compile(rf"{calls}|allow_pickle=True|shell=True|import (yaml|marshal|shelve|dill)")
    files = [*ROOT.glob("taigs/**/*.py"), *ROOT.glob("cli/**/*.py")]
    found = [(str(path), line) for path in files for line in path.read_text().splitlines() if executing.search(line)]
    assert len(files) > 50 and not found
    users = [path.name for path in files if re.search(r"^import pickle|Unpickler\(", path.read_text(), re.MULTILINE)]
    assert users == ["pickles.py"]  # which admits arrays only


class Malicious:
    """Writes a file when it is unpickled the usual way."""

    def __reduce__(self):
        return open, ("trace", "w")


def test_a_pickle_that_would_execute_something_is_refused_and_does_not(tmp_path):
    good_particles(tmp_path)
    (tmp_path / "pose.pkl").write_bytes(pickle.dumps(Malicious()))
    args = ["spa", "p.mrcs", "--poses", "pose.pkl", "--no-ctf", "-o", "out"]
    refused(args, tmp_path, r"pose\.pkl: the pickle asks for .*open, which taigs refuses to execute")
    assert not (tmp_path / "trace").exists()


HOSTILE = {
    "remembers a list as number 2^25, and makes room for as many": b"\x80\x04]r\x00\x00\x00\x02.",
    "takes more steps than arrays do": b"\x80\x04" + b"(" * 20_000 + b".",
    "holds Python objects": pickle.dumps(np.array([{}], object)),
    "holds records": pickle.dumps(np.zeros(3, [("a", "f4")])),
    "makes a type that holds pointers": b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8I00\nI01\ntR.",
    "changes a function": b"cnumpy\ndtype\n}X\x01\x00\x00\x00xK\x01s\x86b.",
    "makes an array of a TiB": b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L1099511627776L\ntC\x01btR.",
}


def test_pickles_that_would_fill_the_memory_or_deceive_numpy_are_harmless(tmp_path):
    for i, content in enumerate(HOSTILE.values()):
        (tmp_path / f"{i}.pkl").write_bytes(content)
    script = f"""
from taigs.errors import InputError
from taigs.io.cryodrgn import read_poses
for i in range({len(HOSTILE)}):
    try:
        read_poses(f"{{i}}.pkl", 8)
    except InputError as error:
        print(str(error).split(":")[0])
"""
    outcome = python(script, tmp_path, memory=4e9)
    assert outcome.code == 0 and outcome.stdout.split() == [f"{i}.pkl" for i in range(len(HOSTILE))], outcome
    assert outcome.peak_bytes < 200e6


# --- archives and arrays -------------------------------------------------------------------------


def npy(shape, data=b"", kind="<f4"):
    """A .npy file that claims a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def rewritten(model, compression=zipfile.ZIP_STORED, **members):
    """The model with other members."""
    with zipfile.ZipFile(model) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | members
    with zipfile.ZipFile(model, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("command", ["info", "voxelize"])
def test_a_model_whose_array_claims_more_than_there_is_is_refused(model, command):
    rewritten(model, **{"masses.npy": npy((TIB,), bytes(20))})
    args = [command, model] + (["-o", "m.mrc"] if command == "voxelize" else [])
    said = r"model\.npz: masses\.npy: header says shape \(1099511627776,\) of 4 bytes = 4,398,046,511,104 bytes"
    refused(args, model.parent, said, memory=1e9)


def test_a_compressed_model_may_be_a_bomb_and_is_refused(model):
    rewritten(model, zipfile.ZIP_DEFLATED, **{"masses.npy": npy((5_000_000,), bytes(20_000_000))})
    refused(["info", model], model.parent, r"model\.npz: a damaged archive \(it would unpack to more than it is\)")


def test_a_model_of_python_objects_is_refused(model):
    file = io.BytesIO()
    np.save(file, np.array([Malicious()] * 5, object), allow_pickle=True)
    rewritten(model, **{"masses.npy": file.getvalue()})
    refused(["info", model], model.parent, r"masses\.npy: no plain array \(it holds Python objects\)")
    assert not (model.parent / "trace").exists()


@pytest.mark.parametrize("header", [b"{'descr': '<f4', 'fortran", b"{'descr': '<f4', 'shape': (5L,)", b"(" * 200])
def test_a_model_whose_array_has_half_a_header_is_refused(model, header):
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(20)
    rewritten(model, **{"masses.npy": content})
    outcome = refused(["info", model], model.parent, r"masses\.npy: no plain array")
    assert "warning" not in outcome.stderr


def test_an_archive_whose_members_overlap_is_refused(model):
    content = bytearray(model.read_bytes())
    with zipfile.ZipFile(model) as archive:
        first, *others = archive.infolist()
    directory = content.index(b"PK\x01\x02")
    for info in others:  # all of them begin where the first does
        at = content.index(info.filename.encode(), directory) - 4
        content[at : at + 4] = first.header_offset.to_bytes(4, "little")
    model.write_bytes(content)
    refused(["info", model], model.parent, r"model\.npz: ")


def test_a_cs_file_that_claims_more_than_there_is_is_refused(tmp_path):
    (tmp_path / "p.cs").write_bytes(npy((TIB,), bytes(20), [("uid", "<u8"), ("blob/path", "S16")]))
    refused(["spa", "p.cs", "-o", "out"], tmp_path, r"p\.cs: header says shape .*truncated copy", memory=2e9)


def test_a_ply_that_claims_more_than_there_is_is_refused(model):
    accepted(["export", model, "--to", "ply"], model.parent)
    path = model.with_suffix(".ply")
    path.write_bytes(path.read_bytes().replace(b"vertex 5", b"vertex 9999999999999"))
    said = r"model\.ply: 9999999999999 vertices of 72 bytes, file has 360: truncated copy"
    refused(["info", path], model.parent, said, memory=1e9)


def test_an_atomic_model_that_unpacks_to_too_much_is_refused(model):
    line = b"ATOM      1  N   ALA A   1      11.104   6.134  -6.504  1.00  0.00           N\n"
    (model.parent / "a.pdb.gz").write_bytes(gzip.compress(line * 100_000))
    args = ["simulate", "spa", "a.pdb.gz", "--pixel-size", "4", "-o", "out"]
    refused(args, model.parent, r"a\.pdb\.gz: more than [\d,]+ bytes; expected an atomic model")


def test_an_image_given_as_a_list_of_angles_is_not_read_to_its_end(tmp_path):
    with open(tmp_path / "ts.mrc", "wb") as file:
        file.truncate(20 * 2**30)
    args = ["tilt", "ts.mrc", "--angles", "ts.mrc", "-o", "out"]
    refused(args, tmp_path, r"ts\.mrc: more than 4,194,304 bytes; expected a line with 1 for each image")


# --- paths and pages -----------------------------------------------------------------------------


def test_stacks_outside_of_the_project_are_followed_and_said(tmp_path):
    project = tmp_path / "project"
    (project / "job").mkdir(parents=True)
    star = good_particles(project / "job")
    (project / "job/p.mrcs").rename(tmp_path / "p.mrcs")
    names = ["1@../../p.mrcs", f"2@{tmp_path}/p.mrcs"] * (PARTICLES // 2)
    star.unlink()
    good_particles(project / "job", rlnImageName=names, rlnRandomSubset=None)
    (project / "job/p.mrcs").unlink()
    said = r'note +2 of 2 stacks lie outside of this folder and that of the file, by absolute names or "..";'
    accepted(["info", star], project, "24 of 16 x 16 px", said)


def test_stacks_inside_of_the_project_are_not_worth_a_word(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    names = ["1@../p.mrcs", f"2@{tmp_path}/p.mrcs"] * (PARTICLES // 2)
    star = good_particles(folder, rlnImageName=names, rlnRandomSubset=None)
    (folder / "p.mrcs").rename(tmp_path / "p.mrcs")
    assert "outside" not in accepted(["info", star], tmp_path, "24 of 16 x 16 px").stdout


def test_a_page_shows_names_of_files_as_text(tmp_path):
    name = '"><img src=x onerror=alert(1)><script>alert(2)<&script>.npz'
    write_cloud(tmp_path / name, cloud(), 3.5)
    accepted(["view", name, "-o", "page.html"], tmp_path)
    page = (tmp_path / "page.html").read_text()
    assert "<img" not in page and "<script>alert" not in page and "alert(2)" in page
