"""Pseudo-atoms: gemmi reads positions, occupancies, B-factors and tensors as the model has them."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import gemmi
import numpy as np
import pytest
from scenes import random_cloud
from typer.testing import CliRunner

from taigs.cli.main import app
from taigs.errors import InputError, RefusedError
from taigs.io import pdb
from taigs.io.clouds import map_position, write_cloud
from taigs.io.pdb import write_cif, write_pdb

HEADER = {"format": "taigs-model", "version": 1, "pixel_size_A": 3.5, "shape_zyx": [20, 30, 40]}
PLACE = [19.5 * 3.5, 14.5 * 3.5, 9.5 * 3.5]  # of the origin, (n - 1) / 2
WRITERS = {"pdb": write_pdb, "cif": write_cif}


def read_atoms(path):
    """What gemmi finds, copied: its objects do not outlive their structure."""
    structure = gemmi.read_structure(str(path))
    found = []
    for chain in structure[0]:
        for residue in chain:
            [atom] = residue
            u = atom.aniso
            found.append(
                SimpleNamespace(
                    chain=chain.name, residue=residue.name, number=residue.seqid.num, het=residue.het_flag,
                    position=atom.pos.tolist(), occupancy=atom.occ, b=atom.b_iso, element=atom.element.name,
                    tensor=[[u.u11, u.u12, u.u13], [u.u12, u.u22, u.u23], [u.u13, u.u23, u.u33]], serial=atom.serial,
                )
            )  # fmt: skip
    return found


def column(found, name):
    return np.array([getattr(atom, name) for atom in found])


@pytest.fixture
def cloud(rng):
    return random_cloud(rng, 25, (30, 20, 10), sigmas=(0.5, 3.0))


@pytest.mark.parametrize(("kind", "digits", "fine"), [("pdb", 2, 1e-4), ("cif", 6, 1e-5)])
def test_gemmi_reads_the_gaussians(tmp_path, cloud, kind, digits, fine):
    path = tmp_path / f"m.{kind}"
    WRITERS[kind](path, cloud, HEADER)
    found = read_atoms(path)
    assert len(found) == len(cloud)
    np.testing.assert_allclose(column(found, "position"), cloud.positions + PLACE, atol=6e-4)
    covariances = cloud.covariances()
    np.testing.assert_allclose(column(found, "tensor"), covariances, atol=0.51 * fine)
    b_factors = 8 * np.pi**2 * np.trace(covariances, axis1=1, axis2=2) / 3
    np.testing.assert_allclose(column(found, "b"), b_factors, atol=0.006)
    occupancies = cloud.masses / cloud.masses.max()
    np.testing.assert_allclose(column(found, "occupancy"), occupancies, atol=0.51 * 10**-digits)
    assert set(column(found, "element")) == {"C"}


@pytest.mark.parametrize("kind", WRITERS)
def test_each_atom_is_a_residue_of_its_own(tmp_path, cloud, kind):
    WRITERS[kind](tmp_path / f"m.{kind}", cloud, HEADER)
    found = read_atoms(tmp_path / f"m.{kind}")
    assert column(found, "number").tolist() == list(range(1, 26))
    assert {(atom.residue, atom.het) for atom in found} == {("UNL", "H")}


def test_lines_of_a_pdb_have_80_columns_and_say_what_the_numbers_mean(tmp_path, cloud):
    write_pdb(tmp_path / "m.pdb", cloud, HEADER)
    lines = (tmp_path / "m.pdb").read_text().splitlines()
    assert {len(line) for line in lines} == {80}
    text = "\n".join(line for line in lines if line.startswith("REMARK"))
    assert f"mass divided by {cloud.masses.max():.6g}" in text and "8 pi^2" in text and "Angstrom" in text


def test_b_factors_of_tomograms_fit_their_columns(tmp_path, cloud):
    """B is 999.99 at a sigma of 3.6 A already."""
    wide = replace(cloud, log_sigmas=np.repeat(np.log(np.linspace(3, 31, 25))[:, None], 3, axis=1))
    write_pdb(tmp_path / "m.pdb", wide, HEADER)
    found = read_atoms(tmp_path / "m.pdb")
    np.testing.assert_allclose(column(found, "b"), 8 * np.pi**2 * np.linspace(3, 31, 25) ** 2, rtol=1e-4)
    np.testing.assert_allclose(column(found, "tensor"), wide.covariances(), atol=1e-4)


def test_negative_masses_have_negative_occupancies(tmp_path, cloud):
    signed = replace(cloud, masses=np.where(np.arange(25) < 5, -2.0, 1.0), signed=True)
    write_cif(tmp_path / "m.cif", signed, HEADER)
    assert column(read_atoms(tmp_path / "m.cif"), "occupancy").tolist() == [-1.0] * 5 + [0.5] * 20


def test_more_atoms_than_a_chain_has_numbers_for(tmp_path, rng):
    write_pdb(tmp_path / "m.pdb", random_cloud(rng, 10_001, (30, 20, 10)), HEADER)
    found = read_atoms(tmp_path / "m.pdb")
    assert Counter(column(found, "chain").tolist()) == {"A": 9999, "B": 2}
    assert (found[-1].serial, found[-1].number) == (10_001, 2)


@pytest.mark.parametrize(
    ("changes", "limit", "message"),
    [
        ({}, 24, "25 Gaussians; expected at most 24 in PDB; try --to cif"),
        ({"positions": np.full((25, 3), 1e4)}, 99_999, "expected -999 to 9999 in PDB; try --to cif"),
        ({"log_sigmas": np.full((25, 3), np.log(32.0))}, 99_999, "a sigma above 31.6 A is too wide"),
    ],
)
def test_what_a_pdb_cannot_hold_is_refused_and_a_cif_can(tmp_path, cloud, monkeypatch, changes, limit, message):
    monkeypatch.setattr(pdb, "MOST_ATOMS", limit)
    cloud = replace(cloud, **changes)
    with pytest.raises(InputError, match=message):
        write_pdb(tmp_path / "m.pdb", cloud, HEADER)
    assert not list(tmp_path.iterdir())
    write_cif(tmp_path / "m.cif", cloud, HEADER)
    found = read_atoms(tmp_path / "m.cif")
    np.testing.assert_allclose(column(found, "position"), cloud.positions + PLACE, atol=6e-4)


def test_the_frame_is_that_of_the_map():
    """IMOD's centre, RELION's, an offset map, and no map at all."""
    np.testing.assert_allclose(map_position(HEADER), PLACE)
    np.testing.assert_allclose(map_position({**HEADER, "centre_xyz": [20, 15, 10]}), [70, 52.5, 35])
    np.testing.assert_allclose(map_position({**HEADER, "map_origin_A": [1, 2, -3]}), np.add(PLACE, [1, 2, -3]))
    np.testing.assert_array_equal(map_position({**HEADER, "shape_zyx": None}), 0)
    np.testing.assert_array_equal(map_position({**HEADER, "pixel_size_A": None}), 0)


def export(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture
def model(tmp_path, cloud):
    write_cloud(tmp_path / "model.npz", cloud, 3.5, (20, 30, 40))
    return tmp_path / "model.npz"


@pytest.mark.parametrize("kind", ["ply", "pdb", "cif", "bild"])
def test_the_command_takes_the_kind_from_an_option_or_a_name(model, kind):
    assert export(model, "--to", kind).stdout == f"{model.with_suffix('.' + kind)}\n"
    by_name = model.parent / f"other.{kind.upper()}"
    assert export(model.parent, "-o", by_name).exit_code == 0
    assert by_name.read_bytes() == model.with_suffix(f".{kind}").read_bytes()


def test_the_command_refuses_an_unknown_kind_and_to_replace_a_file(model):
    assert export(model).exit_code == 2
    error = export(model, "-o", model.parent / "m.xyz").exception
    assert isinstance(error, InputError) and '".xyz"; expected one of ply, pdb, cif, bild, cxc' in str(error)
    (model.parent / "model.pdb").write_text("precious")
    assert isinstance(export(model, "--to", "pdb").exception, RefusedError)
    assert (model.parent / "model.pdb").read_text() == "precious"
    assert export(model, "--to", "pdb", "--overwrite").exit_code == 0
    assert {p.name for p in model.parent.iterdir()} == {"model.npz", "model.pdb"}
