"""Files of FSC curves: they hold the numbers, under the names that other programs look for."""

import csv
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import relion

from taigs.anisotropy import directional_fsc
from taigs.errors import RefusedError
from taigs.io import fsc_files
from taigs.io.star import read_star
from taigs.resolution import HalfMapFsc, half_map_fsc
from taigs.sharpening import sharpen


@pytest.fixture(scope="module")
def halves():
    return relion.half_maps("even")


@pytest.fixture(scope="module")
def masked(halves):
    half1, half2, mask, voxel_size = halves
    return half_map_fsc(half1, half2, voxel_size, mask)


@pytest.fixture(scope="module")
def plain(masked):
    return HalfMapFsc(masked.n, masked.voxel_size, masked.unmasked)


def test_the_csv_has_a_column_for_each_curve(tmp_path, halves, masked):
    half1, half2, mask, voxel_size = halves
    cones = directional_fsc(half1, half2, voxel_size, mask)
    fsc_files.write_fsc_csv(tmp_path / "fsc.csv", masked, cones)
    rows = list(csv.DictReader((tmp_path / "fsc.csv").read_text().splitlines()))
    assert len(rows) == 21
    assert (rows[0]["shell"], rows[0]["resolution_A"], rows[1]["resolution_A"]) == ("0", "inf", "80")
    for column, curve in (
        ("frequency_per_A", masked.frequency),
        ("unmasked", masked.unmasked),
        ("masked", masked.masked),
        ("phase_randomised", masked.randomised),
        ("phase_randomised_sd", masked.draws.std(axis=0)),
        ("corrected", masked.corrected),
        ("cone_mean", cones.curves.mean(axis=0)),
        ("cone_sd", cones.curves.std(axis=0)),
        ("cone_min", cones.curves.min(axis=0)),
        ("cone_max", cones.curves.max(axis=0)),
    ):
        np.testing.assert_allclose([float(row[column]) for row in rows], curve, rtol=1e-5, atol=1e-12)


def test_the_csv_without_a_mask_has_the_unmasked_curve_alone(tmp_path, plain):
    fsc_files.write_fsc_csv(tmp_path / "fsc.csv", plain)
    header = (tmp_path / "fsc.csv").read_text().splitlines()[0]
    assert header == "shell,frequency_per_A,resolution_A,unmasked"


@pytest.mark.parametrize("seed", [0, "given_bfactor"])
def test_the_star_file_has_the_blocks_and_columns_of_relions_in_their_order(tmp_path, halves, masked, seed):
    half1, half2, _, voxel_size = halves
    theirs = relion.star_text("even", seed)
    sharpened = sharpen((half1 + half2) / 2, voxel_size, -50.0, masked.corrected)
    if seed == 0:  # as with an automatic B-factor, which these maps are too coarse for
        line = {"slope": -60.0, "intercept": -5.0, "correlation": 0.9}
        object.__setattr__(sharpened, "guinier", type(sharpened.guinier)(**(vars(sharpened.guinier) | line)))
    fsc_files.write_postprocess_star(
        tmp_path / "postprocess.star", masked, ("half1.mrc", "half2.mrc"), "mask.mrc", sharpened
    )
    ours = (tmp_path / "postprocess.star").read_text()
    assert list(relion.pairs(ours)) == list(relion.pairs(theirs))
    for name in ("fsc", "guinier"):
        assert list(relion.loop(ours, name)) == list(relion.loop(theirs, name))
    for label in (relion.UNMASKED, relion.MASKED, relion.SOLVENT, "rlnResolution", "rlnAngstromResolution"):
        np.testing.assert_allclose(relion.loop(ours, "fsc")[label], relion.loop(theirs, "fsc")[label], atol=1e-5)
    for label in ("rlnUnfilteredMapHalf1", "rlnUnfilteredMapHalf2", "rlnMaskName"):
        assert relion.pairs(ours)[label] == relion.pairs(theirs)[label]
    for label in ("rlnRandomiseFrom", "rlnParticleBoxFractionSolventMask", "rlnFinalResolution"):
        assert float(relion.pairs(ours)[label]) == pytest.approx(float(relion.pairs(theirs)[label]), abs=1e-5)


def test_the_star_file_without_a_mask_is_as_relions(tmp_path, plain):
    theirs = relion.star_text("even", "without_mask")
    fsc_files.write_postprocess_star(tmp_path / "p.star", plain, ("half1.mrc", "half2.mrc"))
    ours = (tmp_path / "p.star").read_text()
    assert list(relion.pairs(ours)) == list(relion.pairs(theirs))
    assert list(relion.loop(ours, "fsc")) == list(relion.loop(theirs, "fsc"))
    assert "guinier" not in ours


def test_the_star_file_is_read_back_by_our_own_reader(tmp_path, masked):
    fsc_files.write_postprocess_star(tmp_path / "p.star", masked, ("a b.mrc", "c.mrc"), "mask.mrc")
    tables = read_star(tmp_path / "p.star")
    assert list(tables) == ["general", "fsc"]
    assert tables["general"].strings("rlnUnfilteredMapHalf1")[0] == "a b.mrc"
    np.testing.assert_allclose(tables["fsc"].floats(relion.CORRECTED), masked.corrected, rtol=1e-5, atol=1e-6)


def test_a_curve_that_never_crosses_is_written_with_the_last_shell_as_relion_does(tmp_path):
    fsc_files.write_postprocess_star(tmp_path / "p.star", HalfMapFsc(16, 2.0, np.ones(9)), ("a", "b"))
    assert float(relion.pairs((tmp_path / "p.star").read_text())["rlnFinalResolution"]) == 4.0


def test_masked_maps_without_random_phases_have_no_column_for_them(tmp_path, halves):
    half1, _, mask, voxel_size = halves
    same = half_map_fsc(half1, half1, voxel_size, mask)
    fsc_files.write_postprocess_star(tmp_path / "p.star", same, ("a", "b"), "m")
    text = (tmp_path / "p.star").read_text()
    assert "Randomi" not in text and relion.CORRECTED in text


def test_the_xml_is_what_emdb_takes(tmp_path, masked, plain):
    for name, result, title in (("m", masked, "Masked, corrected"), ("p", plain, "Unmasked")):
        fsc_files.write_fsc_xml(tmp_path / name, result)
        root = ElementTree.parse(tmp_path / name).getroot()
        assert root.tag == "fsc" and root.get("title").startswith(title)
        assert (root.get("xaxis"), root.get("yaxis")) == ("Resolution (A-1)", "Correlation Coefficient")
        assert {child.tag for child in root} == {"coordinate"}
        points = np.array([[float(child.find("x").text), float(child.find("y").text)] for child in root])
        np.testing.assert_allclose(points, np.stack([result.frequency, result.best], axis=1), rtol=1e-5, atol=1e-12)


def test_files_are_replaced_only_when_asked_to(tmp_path, plain):
    path = tmp_path / "file"
    path.write_text("precious")
    for write in (
        fsc_files.write_fsc_csv,
        fsc_files.write_fsc_xml,
        lambda p, r, overwrite=False: fsc_files.write_postprocess_star(p, r, ("a", "b"), overwrite=overwrite),
    ):
        path.write_text("precious")
        with pytest.raises(RefusedError):
            write(path, plain)
        assert path.read_text() == "precious"
        write(path, plain, overwrite=True)
        assert path.read_text() != "precious"
