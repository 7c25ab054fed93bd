"""taigs.io.particles: particles of RELION, cryoSPARC and cryoDRGN read into Views, and what is refused."""

import pickle
import warnings
from dataclasses import fields

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from taigs.errors import InputError, InputWarning
from taigs.geometry import euler_to_matrix, ry, tilt_rotation
from taigs.imaging.ctf import Ctf
from taigs.imaging.fourier import fourier_crop
from taigs.io.cryodrgn import read_ctf, read_pickle, read_poses
from taigs.io.cryosparc import list_cryosparc
from taigs.io.mrc import write_stack
from taigs.io.particles import read_particles_with_notes as read_particles
from taigs.io.star import Table, read_star, write_star

N = 6
POSES = {
    "rlnAngleRot": [10.0, -20, 30, 40, 50, 60],
    "rlnAngleTilt": [5.0, 15, 25, 95, 105, 175],
    "rlnAnglePsi": [0.0, 1, -2, 3, -4, 5],
}
DEFOCUS = {
    "rlnDefocusU": np.linspace(10000.0, 20000, N),
    "rlnDefocusV": np.linspace(9000.0, 21000, N),
    "rlnDefocusAngle": np.linspace(-80.0, 80, N),
}
MICROSCOPE = {"rlnVoltage": [300.0], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1]}


@pytest.fixture
def images(tmp_path, rng):
    """The images of x.mrcs: 6 of 8 pixels of 2 A."""
    images = rng.normal(size=(N, 8, 8)).astype(np.float32)
    write_stack(tmp_path / "x.mrcs", images, 2.0)
    return images


@pytest.fixture
def star(tmp_path, images):
    """Writes a RELION 3.1 star of x.mrcs: columns may be replaced, added, or left out (None), optics too."""

    def write(name="p.star", optics=None, **columns):
        particles = {"rlnImageName": [f"{i + 1:06d}@x.mrcs" for i in range(N)]} | POSES | DEFOCUS
        particles |= {"rlnOpticsGroup": np.ones(N, int)} | columns
        group = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [2.0], "rlnImageSize": [8]} | MICROSCOPE | (optics or {})
        blocks = {"optics": group, "particles": particles}
        kept = {name: {k: v for k, v in columns.items() if v is not None} for name, columns in blocks.items()}
        write_star(tmp_path / name, [Table(block, columns) for block, columns in kept.items()], overwrite=True)
        return tmp_path / name

    return write


def old_star(path, **columns):
    """RELION 3.0: one block for everything."""
    particles = {"rlnImageName": [f"{i + 1:06d}@x.mrcs" for i in range(N)]} | POSES | DEFOCUS
    particles |= {label: value * N for label, value in MICROSCOPE.items()}
    particles |= {"rlnDetectorPixelSize": [5.0] * N, "rlnMagnification": [25000.0] * N} | columns
    table = Table("images", {label: value for label, value in particles.items() if value is not None})
    write_star(path, [table], overwrite=True)
    return path


def same_views(a, b, exact=True):
    """Whether all but the names of two Views are equal, or equal to single precision."""
    close = {"rtol": 0, "atol": 0} if exact else {"rtol": 2e-6, "atol": 2e-6}
    np.testing.assert_array_equal(a.images[:], b.images[:])
    for name in ("projections", "shifts", "pixel_size", "centre", "weights", "half_sets", "particles"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            np.testing.assert_allclose(x, y, err_msg=name, **close)
    same_ctf(a.ctf, b.ctf, close)
    assert a.premultiplied == b.premultiplied


def same_ctf(a, b, close):
    assert (a is None) == (b is None)
    for f in fields(Ctf) if a is not None else ():
        np.testing.assert_allclose(getattr(a, f.name), getattr(b, f.name), err_msg=f.name, **close)


def line_of(path, text):
    """Number of the first line with this text."""
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


# --- RELION: what is read ------------------------------------------------------------------------


def test_a_star_becomes_views_in_the_conventions_of_the_package(star, images):
    path = star(
        rlnOriginXAngst=np.arange(N) * 1.0, rlnOriginYAngst=-np.arange(N) * 2.0, rlnPhaseShift=[90.0] * N,
        rlnCtfBfactor=[40.0] * N, rlnCtfScalefactor=np.linspace(0.5, 1, N), rlnRandomSubset=[1, 2] * 3,
    )  # fmt: skip
    views, notes = read_particles(path)
    np.testing.assert_array_equal(views.images[:], images)
    np.testing.assert_allclose(views.projections, euler_to_matrix(*POSES.values())[:, :2], atol=1e-12)
    np.testing.assert_allclose(views.shifts, np.stack([-np.arange(N) / 2, np.arange(N)], axis=1))
    assert views.pixel_size == 2.0 and views.centre.tolist() == [4, 4] and views.weights.tolist() == [1] * N
    assert views.half_sets.tolist() == [1, 2] * 3 and views.particles is None and views.tilt_angles is None
    assert views.names[3] == "000004@x.mrcs" and not views.premultiplied
    expected = Ctf(300, 2.7, 0.1, *DEFOCUS.values(), 90.0, 40.0, np.linspace(0.5, 1, N))
    same_ctf(views.ctf, expected, {"rtol": 1e-7})
    assert any("RELION 3.1 or later: 6 particles of one optics group, 2 A per pixel" in note for note in notes)
    assert any("half-sets as in the file: 3 images in 1, 3 images in 2" in note for note in notes)


def test_absent_columns_have_their_neutral_values(star):
    views, notes = read_particles(star())
    assert not views.shifts.any() and views.half_sets is None
    assert not views.ctf.phase_shift.any() and not views.ctf.bfactor.any() and np.all(views.ctf.scale == 1)
    assert not views.ctf.dose.any() and len(notes) == 1


def test_generation_3_0_has_origins_in_pixels_and_its_own_pixel_size(star, tmp_path):
    origins = np.linspace(-3, 3, N)
    new = read_particles(star(rlnOriginXAngst=2 * origins, rlnOriginYAngst=origins))[0]
    old, notes = read_particles(old_star(tmp_path / "old.star", rlnOriginX=origins, rlnOriginY=origins / 2))
    same_views(new, old, exact=False)
    assert any("RELION 3.0" in note and "rlnDetectorPixelSize and rlnMagnification" in note for note in notes)
    named = old_star(tmp_path / "b.star", rlnPixelSize=[2.0] * N, rlnDetectorPixelSize=None, rlnMagnification=None)
    assert read_particles(named)[0].pixel_size == 2.0


def test_a_detector_pixel_without_magnification_is_taken_for_angstrom_with_a_warning(star, tmp_path):
    path = old_star(tmp_path / "old.star", rlnDetectorPixelSize=[2.0] * N, rlnMagnification=None)
    with pytest.warns(InputWarning, match="rlnDetectorPixelSize without rlnMagnification taken for Angstrom"):
        assert read_particles(path)[0].pixel_size == 2.0


def test_optics_groups_are_joined_particle_by_particle_whatever_their_order(star):
    optics = {
        "rlnOpticsGroup": [7, 3], "rlnVoltage": [200.0, 300.0], "rlnSphericalAberration": [2.0, 2.7],
        "rlnAmplitudeContrast": [0.07, 0.1], "rlnImagePixelSize": [2.0, 2.0], "rlnImageSize": [8, 8],
    }  # fmt: skip
    views, notes = read_particles(star(optics=optics, rlnOpticsGroup=[3, 7, 7, 3, 3, 7]))
    assert views.ctf.voltage_kv.tolist() == [300, 200, 200, 300, 300, 200]
    assert views.ctf.cs_mm.tolist() == [2.7, 2, 2, 2.7, 2.7, 2]
    assert "2 optics groups" in notes[0]


def test_unknown_columns_and_the_order_of_columns_and_blocks_change_nothing(star, tmp_path):
    path = star(rlnOriginXAngst=np.arange(N) * 1.0, rlnOriginYAngst=np.zeros(N))
    tables = read_star(path)
    columns = dict(reversed(tables["particles"].columns.items()))
    columns = {"rlnNewInVersion9": np.arange(N), **columns, "wrpSomething": [b"a b"] * N}
    more = Table("more", {"rlnVoltage": [1]})
    write_star(tmp_path / "other.star", [Table("particles", columns), tables["optics"], more])
    same_views(read_particles(path)[0], read_particles(tmp_path / "other.star")[0])


def test_rows_may_stand_in_any_order_and_name_several_stacks(star, images, tmp_path):
    write_stack(tmp_path / "y.mrcs", -images, 2.0)
    names = ["6@x.mrcs", "000001@y.mrcs", "2@x.mrcs", "2@y.mrcs", "1@x.mrcs", "5@x.mrcs"]
    views = read_particles(star(rlnImageName=names))[0]
    np.testing.assert_array_equal(views.images[:], [images[5], -images[0], images[1], -images[1], images[0], images[4]])
    assert views.names[0] == "000006@x.mrcs"


def test_premultiplied_images_are_known_as_such(star):
    assert read_particles(star(optics={"rlnCtfDataAreCtfPremultiplied": [1]}))[0].premultiplied


def test_images_without_a_ctf_are_read_on_request(star):
    path = star(rlnDefocusU=None, rlnDefocusV=None, rlnDefocusAngle=None, optics={"rlnVoltage": None})
    views, notes = read_particles(path, no_ctf=True)
    assert views.ctf is None and any("without CTF" in note for note in notes)


def test_a_negative_bfactor_is_a_loss_all_the_same(star):
    with pytest.warns(InputWarning, match="rlnCtfBfactor down to -64; taken for a loss"):
        assert read_particles(star(rlnCtfBfactor=[-64.0] * N))[0].ctf.bfactor.tolist() == [64] * N


@pytest.mark.parametrize(
    "optics",
    [
        {"rlnBeamTiltX": [0.1], "rlnBeamTiltY": [0.0]},
        {"rlnOddZernike": ["[0,0,0.5]"]},
        {"rlnEvenZernike": ["[1.0e-1,0]"]},
        {"rlnMagMat00": [1.01], "rlnMagMat01": [0.0], "rlnMagMat10": [0.0], "rlnMagMat11": [1.0]},
    ],
)
def test_aberrations_are_named_as_not_applied(star, optics):
    with pytest.warns(InputWarning, match=f"{next(iter(optics))} are not applied"):
        read_particles(star(optics=optics))


def test_aberrations_that_are_none_cause_no_warning(star):
    neutral = {"rlnBeamTiltX": [0.0], "rlnOddZernike": ["[0,0,0.0]"], "rlnMagMat00": [1.0], "rlnMagMat01": [0.0]}
    read_particles(star(optics=neutral))


def test_pixel_sizes_that_disagree_are_both_named_and_the_star_is_believed(star):
    with pytest.warns(InputWarning, match=r"x\.mrcs: 2 A per pixel in the header, 2.1 in .*p\.star; 2.1 used"):
        assert read_particles(star(optics={"rlnImagePixelSize": [2.1]}))[0].pixel_size == 2.1
    assert read_particles(star(optics={"rlnImagePixelSize": [2.01]}))[0].pixel_size == 2.01


# --- choosing and cropping -----------------------------------------------------------------------


def test_a_class_and_a_half_set_are_chosen(star, images):
    path = star(rlnClassNumber=[1, 2, 2, 1, 2, 2], rlnRandomSubset=[1, 1, 2, 2, 2, 1])
    views, _ = read_particles(path, class_number=2, subset=2)
    np.testing.assert_array_equal(views.images[:], images[[2, 4]])
    assert views.half_sets.tolist() == [2, 2] and views.names == ("000003@x.mrcs", "000005@x.mrcs")
    np.testing.assert_allclose(views.ctf.defocus_u, DEFOCUS["rlnDefocusU"][[2, 4]])
    _, notes = read_particles(path)
    assert any("classes 1 (2 images), 2 (4 images), all used together; --class chooses one" in note for note in notes)
    with pytest.raises(InputError, match=r"no image of class 3; found: 1 \(2 images\), 2 \(4 images\)"):
        read_particles(path, class_number=3)
    with pytest.raises(InputError, match="half-set 1 asked for, but no column says"):
        read_particles(star(), subset=1)


def test_only_stacks_of_chosen_particles_need_to_be_there(star, images):
    names = [f"1@none{i}.mrcs" if i % 2 else f"{i + 1}@x.mrcs" for i in range(N)]
    views, _ = read_particles(star(rlnImageName=names, rlnClassNumber=[1, 2] * 3), class_number=1)
    np.testing.assert_array_equal(views.images[:], images[::2])
    with pytest.raises(InputError, match=r"p\.star: 3 of 4 stacks missing, first: none1\.mrcs .*--datadir DIR"):
        read_particles(star(rlnImageName=names))


def test_one_of_several_pixel_sizes_may_be_chosen(star):
    optics = {label: value * 2 for label, value in MICROSCOPE.items()}
    optics |= {"rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [2.0, 3.0], "rlnImageSize": [8, 8]}
    path = star(optics=optics, rlnOpticsGroup=[1, 1, 2, 1, 1, 2], rlnClassNumber=[1, 1, 2, 1, 1, 2])
    with pytest.raises(InputError) as error:
        read_particles(path)
    first, *table = str(error.value).splitlines()
    assert "optics groups differ in pixel sizes; expected one for all; try --class" in first
    assert table == [
        "  group 1: 4 images, 2 A per pixel, 8 pixels, not CTF-premultiplied",
        "  group 2: 2 images, 3 A per pixel, 8 pixels, not CTF-premultiplied",
    ]
    assert len(read_particles(path, class_number=1)[0]) == 4


@pytest.mark.parametrize("n, centre", [(6, 3), (5, 2)])
def test_cropping_makes_coarser_pixels_of_the_same_field(star, images, n, centre):
    path = star(rlnOriginXAngst=[4.0] * N, rlnOriginYAngst=[-2.0] * N)
    views, notes = read_particles(path, box_crop=n)
    assert views.images.shape == (N, n, n) and views.pixel_size == pytest.approx(16 / n)
    assert views.centre.tolist() == [centre, centre]
    np.testing.assert_allclose(views.shifts, np.tile([-2 * n / 8, 1 * n / 8], (N, 1)))
    np.testing.assert_allclose(views.images[[4]], fourier_crop(images[[4]], n), rtol=1e-6)
    assert any(f"from 8 to {n} pixels" in note for note in notes)


@pytest.mark.parametrize("wanted, n", [(2.0, 8), (2.1, 6), (2.66, 6), (2.67, 4), (4.0, 4), (7.9, 2), (50.0, 2)])
def test_a_pixel_size_crops_to_the_nearest_even_box_that_is_not_finer(star, wanted, n):
    views, _ = read_particles(star(), pixel_size=wanted)
    assert views.images.shape[1:] == (n, n) and views.pixel_size == pytest.approx(16 / n)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pixel_size": 1.9}, "pixel size 1.9; expected at least the images', 2 A"),
        ({"pixel_size": np.nan}, "pixel size nan"),
        ({"box_crop": 9}, "box of 9 pixels to crop to; expected a whole number from 2 to 8"),
        ({"box_crop": 5.5}, "box of 5.5 pixels"),
        ({"box_crop": 1}, "box of 1 pixels"),
        ({"box_crop": 4, "pixel_size": 4.0}, "both a box and a pixel size"),
        ({"poses": "pose.pkl"}, r"poses \(pose.pkl\) besides a .star file"),
        ({"tomograms": "t.star"}, r"tomograms \(t.star\) besides particles that are no sub-tomograms"),
    ],
)
def test_options_that_cannot_be_used_are_refused(star, options, message):
    with pytest.raises(InputError, match=message):
        read_particles(star(), **options)


# --- RELION: faults ------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["rlnImageName", "rlnAngleRot", "rlnDefocusU", "rlnDefocusAngle", "rlnOpticsGroup"])
def test_a_missing_column_is_named_with_those_there_are(star, label):
    path = star(**{label: None})
    with pytest.raises(InputError, match=rf"p\.star: no {label} in block particles; found: .*rlnAngleTilt") as error:
        read_particles(path)
    assert ("try --no-ctf" in str(error.value)) == label.startswith("rlnDefocus")


@pytest.mark.parametrize("label", ["rlnVoltage", "rlnAmplitudeContrast"])
def test_a_missing_property_of_the_microscope_is_named(star, label):
    with pytest.raises(InputError, match=f"p.star: no {label}; try --no-ctf"):
        read_particles(star(optics={label: None}))


def test_a_missing_pixel_size_is_named_with_all_columns_that_could_hold_it(star):
    with pytest.raises(InputError, match=r"no pixel size; expected rlnImagePixelSize .*or rlnDetectorPixelSize and"):
        read_particles(star(optics={"rlnImagePixelSize": None}))
    with pytest.raises(InputError, match=r"p\.star:\d+: pixel size 0 A; expected more than 0"):
        read_particles(star(optics={"rlnImagePixelSize": [0.0]}))


@pytest.mark.parametrize("label", ["rlnAngleTilt", "rlnDefocusV", "rlnOriginXAngst"])
@pytest.mark.parametrize("value", ["ten", "10,5", "nan", "inf"])
def test_values_that_are_no_finite_numbers_are_named_with_their_line(star, label, value):
    columns = {"rlnOriginXAngst": ["0"] * N, "rlnOriginYAngst": ["0"] * N}
    columns[label] = ["1.5"] * 4 + [value, "1.5"]
    path = star(**columns)
    line = line_of(path, "000005@")
    with pytest.raises(InputError, match=rf'p\.star:{line}: {label} "{value}" is not a number'):
        read_particles(path)


@pytest.mark.parametrize("name", ["0@x.mrcs", "x.mrcs", "-1@x.mrcs", "one@x.mrcs", "3@"])
def test_image_names_without_a_section_are_named_with_their_line(star, name):
    path = star(rlnImageName=["1@x.mrcs", "2@x.mrcs", name, "4@x.mrcs", "5@x.mrcs", "6@x.mrcs"])
    line = line_of(path, "2@x.mrcs") + 1
    with pytest.raises(InputError, match=rf'p\.star:{line}: rlnImageName "{name}"; expected one such as 000123@stack'):
        read_particles(path)


def test_sections_beyond_the_end_are_named_with_line_and_number(star, tmp_path):
    path = star(rlnImageName=["1@x.mrcs", "999@x.mrcs", "2@x.mrcs", "7@x.mrcs", "5@x.mrcs", "6@x.mrcs"])
    line = line_of(path, "999@")
    with pytest.raises(InputError) as error:
        read_particles(path)
    assert f"{path}:{line}: image 999 of {tmp_path}/x.mrcs; expected 1 to 6" in str(error.value)
    assert f"{path}:{line + 2}: image 7 of" in str(error.value)


def test_lines_are_right_after_a_choice_too(star):
    names = ["1@x.mrcs", "2@x.mrcs", "3@x.mrcs", "99@x.mrcs", "5@x.mrcs", "6@x.mrcs"]
    path = star(rlnImageName=names, rlnClassNumber=[1, 1, 2, 2, 2, 2])
    with pytest.raises(InputError, match=rf"p\.star:{line_of(path, '99@')}: image 99 of"):
        read_particles(path, class_number=2)


def test_groups_that_differ_in_premultiplication_or_box_are_refused_with_a_table(star):
    optics = {label: value * 2 for label, value in MICROSCOPE.items()}
    optics |= {"rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [2.0, 2.0], "rlnImageSize": [8, 8]}
    half = {"rlnOpticsGroup": [1, 2] * 3}
    with pytest.raises(InputError, match=r"differ in premultiplied; [^\n]*\n  group 1: 3 images, .*, not CTF-prem"):
        read_particles(star(optics=optics | {"rlnCtfDataAreCtfPremultiplied": [0, 1]}, **half))
    with pytest.raises(InputError, match=r"differ in boxes; [^\n]*\n  group 1: 3 images, 2 A per pixel, 8 pixels,"):
        read_particles(star(optics=optics | {"rlnImageSize": [8, 10]}, **half))


def test_images_of_another_box_than_listed_may_have_another_pixel_size(star):
    with pytest.raises(InputError, match=r"p\.star: images of 16 pixels, but the stacks hold 8"):
        read_particles(star(optics={"rlnImageSize": [16]}))


def test_optics_groups_must_be_there_once(star):
    path = star(rlnOpticsGroup=[1, 1, 1, 4, 1, 1])
    with pytest.raises(InputError, match=rf"p\.star:{line_of(path, '000004@')}: no optics group 4; found: 1"):
        read_particles(path)
    twice = {label: value * 2 for label, value in MICROSCOPE.items()}
    twice |= {"rlnOpticsGroup": [1, 1], "rlnImagePixelSize": [2.0, 2.0], "rlnImageSize": [8, 8]}
    with pytest.raises(InputError, match=r"optics groups \[1, 1\]; expected different numbers"):
        read_particles(star(optics=twice))


def test_half_sets_must_be_one_and_two(star):
    with pytest.raises(InputError, match=r"all images are in half-set 1; expected 1 and 2.*; try --subset 1"):
        read_particles(star(rlnRandomSubset=[1] * N))
    path = star(rlnRandomSubset=[1, 2, 1, 0, 2, 2])
    with pytest.raises(InputError, match=rf"p\.star:{line_of(path, '000004@')}: half-set 0; expected 1 or 2"):
        read_particles(path)


def test_an_image_in_both_half_sets_is_refused(star):
    names = [f"{i}@x.mrcs" for i in (1, 2, 3, 4, 2, 6)]
    path = star(rlnImageName=names, rlnRandomSubset=[1, 1, 2, 2, 2, 1])
    line = line_of(path, "2@x.mrcs")
    with pytest.raises(InputError, match=rf"p\.star:{line}: the same image is in the other half-set.*:{line + 3}\)"):
        read_particles(path)
    assert len(read_particles(star(rlnImageName=names, rlnRandomSubset=[1, 1, 2, 2, 1, 1]))[0]) == N


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            {"optics": {"rlnImageDimensionality": [3]}},
            "the particles are volumes; .* try extracting sub-tomograms as 2D",
        ),
        ({"optics": {"rlnCtfDataArePhaseFlipped": [1]}}, r":\d+: phase-flipped images; expected untouched ones"),
    ],
)
def test_images_of_other_kinds_are_refused(star, columns, message):
    with pytest.raises(InputError, match=message):
        read_particles(star(**columns))


def test_a_star_without_particles_is_refused_with_its_blocks(tmp_path):
    path = tmp_path / "p.star"
    write_star(path, [Table("optics", {"rlnOpticsGroup": [1]}), Table("job", {"a": [1]})])
    with pytest.raises(InputError, match=r"no block of particles .* found: data_optics, data_job"):
        read_particles(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(InputError, match=r"p\.json: expected particles as \.star, \.cs, \.mrcs"):
        read_particles(tmp_path / "p.json")


def test_a_file_repaired_is_read_anew(star):
    with pytest.raises(InputError):
        read_particles(star(rlnAngleRot=["x"] * N))
    assert len(read_particles(star())[0]) == N


# --- sub-tomograms -------------------------------------------------------------------------------

TILTS = np.array([-60.0, -30, 0, 30, 60])
SHOWN = [[1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 1, 1, 0, 1]]


@pytest.fixture
def tomo(tmp_path, rng):
    """Writes sub-tomograms of two series, three particles, 5 tilts, with all tilts in the stacks or the visible."""

    def write(keeps_all=False, name="particles.star", tilts=None, series=None, optics=None, **columns):
        stacks = [rng.normal(size=(5, 8, 8)).astype(np.float32) for _ in SHOWN]
        for i, (stack, shown) in enumerate(zip(stacks, SHOWN, strict=True)):
            kept = stack if keeps_all else stack[np.array(shown, bool)]
            write_stack(tmp_path / f"{i}.mrcs", kept, 4.0, overwrite=True)
        particles = {
            "rlnTomoName": ["B", "A", "B"], "rlnImageName": [f"{i}.mrcs" for i in range(3)], "rlnOpticsGroup": [1] * 3,
            "rlnTomoVisibleFrames": [str(shown).replace(" ", "") for shown in SHOWN],
            "rlnAngleRot": [10.0, 20, 30], "rlnAngleTilt": [40.0, 50, 60], "rlnAnglePsi": [70.0, 80, 90],
        } | columns  # fmt: skip
        group = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [4.0], "rlnCtfDataAreCtfPremultiplied": [1]}
        group |= MICROSCOPE | (optics or {})
        tables = {
            "general": Table("general", {"rlnTomoSubTomosAre2DStacks": [1]}, is_loop=False),
            "optics": Table("optics", group),
            "particles": Table("particles", {k: v for k, v in particles.items() if v is not None}),
        }
        write_star(tmp_path / name, tables.values(), overwrite=True)
        table = {
            "rlnTomoXTilt": np.full(5, 1.0), "rlnTomoYTilt": TILTS, "rlnTomoZRot": np.full(5, 85.0),
            "rlnDefocusU": 30000 + TILTS, "rlnDefocusV": 29000 + TILTS, "rlnDefocusAngle": TILTS,
            "rlnCtfScalefactor": np.cos(np.deg2rad(TILTS)), "rlnMicrographPreExposure": [12.0, 6, 0, 3, 9],
        } | (tilts or {})  # fmt: skip
        table = {k: v for k, v in table.items() if v is not None}
        rows = {"rlnTomoName": ["A", "B"], "rlnTomoHand": [-1.0, -1.0], "rlnTomoTiltSeriesPixelSize": [2.0, 2.0]}
        rows |= {f"rlnTomoSize{axis}": [size] * 2 for axis, size in (("X", 400), ("Y", 600), ("Z", 200))}
        blocks = {"global": Table("global", rows | (series or {}))} | {s: Table(s, table) for s in "AB"}
        write_star(tmp_path / "tomograms.star", blocks.values(), overwrite=True)
        return tmp_path / name, np.stack(stacks)

    return write


def flat(stacks):
    """The images of all visible tilts: by particle, then tilt."""
    return stacks[np.array(SHOWN, bool)]


@pytest.mark.parametrize("keeps_all", [False, True])
def test_every_visible_tilt_of_every_particle_is_a_view(tomo, keeps_all):
    path, stacks = tomo(keeps_all)
    views, notes = read_particles(path)
    particle, tilt = np.nonzero(SHOWN)
    np.testing.assert_array_equal(views.images[:], flat(stacks))
    assert views.particles.tolist() == particle.tolist() and views.premultiplied
    assert views.pixel_size == 4.0 and views.centre.tolist() == [4, 4]
    a = euler_to_matrix([10, 20, 30], [40, 50, 60], [70, 80, 90])[particle]
    np.testing.assert_allclose(views.projections, (tilt_rotation(TILTS, 85.0, 1.0)[tilt] @ a)[:, :2], atol=1e-12)
    np.testing.assert_allclose(views.ctf.scale, np.cos(np.deg2rad(TILTS))[tilt], rtol=1e-5)
    assert views.ctf.dose.tolist() == np.array([12.0, 6, 0, 3, 9])[tilt].tolist()
    assert views.ctf.defocus_u.tolist() == (30000 + TILTS)[tilt].tolist()
    assert f"12 images of 3 particles in 2 tilt series ({path.parent}/tomograms.star)" in notes[0]
    assert ("all tilts, hidden ones too" if keeps_all else "the visible tilts") in notes[1]
    assert views.names[5] == ("000002@1.mrcs" if keeps_all else "000001@1.mrcs")


def test_a_point_of_a_particle_appears_where_tomogram_and_tilt_put_it(tomo):
    angles = {f"rlnTomoSubtomogram{n}": v for n, v in (("Rot", [5.0] * 3), ("Tilt", [-33.0] * 3), ("Psi", [61.0] * 3))}
    origins = {f"rlnOrigin{axis}Angst": v for axis, v in (("X", [3.0] * 3), ("Y", [-8.0] * 3), ("Z", [11.0] * 3))}
    views, _ = read_particles(tomo(**angles, **origins)[0])
    point = np.array([7.0, -5, 13])  # of particle 0, from its centre, in Angstrom
    sub = euler_to_matrix(5, -33, 61)
    in_tomogram = sub @ (euler_to_matrix(10, 40, 70) @ point) - sub @ np.array([3.0, -8, 11])
    for view, tilt in enumerate(TILTS):
        expected = (tilt_rotation(tilt, 85.0, 1.0) @ in_tomogram)[:2] / 4.0
        np.testing.assert_allclose(views.projections[view] @ point / 4.0 + views.shifts[view], expected, atol=1e-9)


@pytest.mark.parametrize("form", ["centred", "relion4"])
def test_defocus_follows_the_depth_of_the_particle(tomo, form):
    centred = np.array([[100.0, 40, -20], [0, 0, 0], [-200, 0, 30]])
    if form == "centred":
        columns = {f"rlnCenteredCoordinate{axis}Angst": centred[:, i] for i, axis in enumerate("XYZ")}
    else:
        corner = (centred + np.array([400, 600, 200])) / 2
        columns = {f"rlnCoordinate{axis}": corner[:, i] for i, axis in enumerate("XYZ")}
    views, notes = read_particles(tomo(**columns)[0])
    depth = tilt_rotation(TILTS, 85.0, 1.0)[:, 2] @ centred[0]
    np.testing.assert_allclose(views.ctf.defocus_u[:5], 30000 + TILTS - depth, rtol=1e-9)
    assert any("corrected for the particles' depth" in note for note in notes)


def test_projection_matrices_are_read_as_well_as_angles(tomo):
    rotations = tilt_rotation(TILTS, 85.0, 1.0)
    rows = {
        f"rlnTomoProj{axis}": ["[" + ",".join(f"{x:.9f}" for x in (*r[i], 5.0)) + "]" for r in rotations]
        for i, axis in enumerate("XYZ")
    }
    angles = {"rlnTomoXTilt": None, "rlnTomoYTilt": None, "rlnTomoZRot": None}
    by_matrix = read_particles(tomo(tilts=rows | angles)[0])[0]
    by_angles = read_particles(tomo()[0])[0]
    np.testing.assert_allclose(by_matrix.projections, by_angles.projections, atol=1e-8)
    broken = rows | angles | {"rlnTomoProjZ": rows["rlnTomoProjX"]}
    path = tomo(tilts=broken)[0].parent / "tomograms.star"
    line = line_of(path, rows["rlnTomoProjX"][0])
    with pytest.raises(InputError, match=rf"tomograms\.star:{line}: rlnTomoProjX.*is not a rotation"):
        read_particles(path.parent / "particles.star")


def test_tilts_without_signal_are_left_out(tomo):
    path, stacks = tomo(tilts={"rlnCtfScalefactor": [1.0, 0, 1, 1, 1]})
    views, notes = read_particles(path)
    kept = np.array(SHOWN, bool)
    kept[:, 1] = False
    np.testing.assert_array_equal(views.images[:], stacks[kept])
    assert any("3 images left out, of tilts whose rlnCtfScalefactor is 0" in note for note in notes)


def test_half_sets_and_classes_hold_for_all_views_of_a_particle(tomo):
    path, stacks = tomo(rlnRandomSubset=[1, 2, 2], rlnClassNumber=[1, 1, 2])
    assert read_particles(path)[0].half_sets.tolist() == [1] * 5 + [2] * 7
    views, _ = read_particles(path, subset=2)
    np.testing.assert_array_equal(views.images[:], flat(stacks)[5:])
    assert views.particles.tolist() == [0] * 3 + [1] * 4


def test_series_may_stand_in_files_of_their_own(tomo, tmp_path):
    path, _ = tomo()
    expected, _ = read_particles(path)
    tables = read_star(tmp_path / "tomograms.star")
    (tmp_path / "tilt_series").mkdir()
    for name in "AB":
        write_star(tmp_path / f"tilt_series/{name}.star", [tables[name]])
    columns = tables["global"].columns | {"rlnTomoTiltSeriesStarFile": ["tilt_series/A.star", "tilt_series/B.star"]}
    (tmp_path / "tomograms.star").unlink()
    write_star(tmp_path / "other.star", [Table("global", columns)])
    with pytest.raises(InputError, match=r"no tomograms\.star beside it; .* try --tomograms FILE"):
        read_particles(path)
    same_views(read_particles(path, tomograms=tmp_path / "other.star")[0], expected)
    (tmp_path / "tilt_series/B.star").unlink()
    with pytest.raises(InputError, match=r"other\.star:\d+: no tilt series tilt_series/B\.star .*--datadir DIR"):
        read_particles(path, tomograms=tmp_path / "other.star")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rlnTomoName": ["B", "A", "C"]}, r"tomograms\.star: no tilt series C \(1 missing\); found: A, B"),
        ({"rlnTomoVisibleFrames": ["[1,1]"] * 3}, r"particles\.star:\d+: rlnTomoVisibleFrames of 2 tilts; .* has 5"),
        ({"rlnTomoVisibleFrames": ["[1,x]"] * 3}, r':\d+: rlnTomoVisibleFrames "\[1,x\]"; expected a list'),
        ({"rlnTomoVisibleFrames": ["[0,0,0,0,0]"] * 3}, "no image of any particle shows anything"),
        ({"rlnImageName": ["0.mrcs", "1.mrcs", "1.mrcs"]}, r":\d+: stack 1\.mrcs again; expected one a particle"),
        ({"rlnImageName": ["0.mrcs", "2.mrcs", "1.mrcs"]}, r"[12]\.mrcs: [34] images; expected [34]"),
        ({"tilts": {"rlnDefocusU": None}}, "no rlnDefocusU in block [AB]; .*; try --no-ctf"),
        ({"tilts": {"rlnTomoZRot": None}}, "no rlnTomoZRot in block [AB]"),
    ],
)
def test_sub_tomograms_that_do_not_fit_their_series_are_refused(tomo, arguments, message):
    with pytest.raises(InputError, match=message):
        read_particles(tomo(**arguments)[0])


@pytest.mark.shared
def test_real_sub_tomograms_have_a_view_for_each_visible_tilt(shared):
    path = shared / "data/subtomo_70s/particles.star"
    views, notes = read_particles(path)
    assert len(views) == 10 * 34 + 10 * 37 and views.premultiplied and views.half_sets is None
    assert np.bincount(views.particles).tolist() == [34] * 10 + [37] * 10
    assert views.images.shape == (710, 32, 32) and views.pixel_size == 12.0
    assert any("hidden ones too" in note for note in notes)
    assert any("the file does not tell its depth" in note for note in notes)
    assert views.images[:].std(axis=(1, 2)).min() > 0.1  # hidden tilts are empty in these stacks
    assert views.ctf.scale.min() == 0.5 and views.ctf.dose.min() == 0


@pytest.mark.shared
def test_real_sub_tomograms_align_to_one_structure(shared):
    views, _ = read_particles(shared / "data/subtomo_70s/particles.star")
    right, wrong = (_half_map_agreement(views, shuffled) for shuffled in (False, True))
    assert right > 0.5 and wrong < 0.3


def _half_map_agreement(views, shuffled):
    """FSC of two back-projections in a sphere, averaged over shells 3 to 7."""
    n, x = 32, np.arange(32) - 16
    points = np.stack(np.meshgrid(x, x, x, indexing="ij")[::-1], axis=-1).reshape(-1, 3)
    inside = np.linalg.norm(points, axis=1) <= 10
    projections = views.projections
    if shuffled:
        turns = Rotation.random(20, random_state=1).as_matrix()
        projections = projections @ turns[views.particles]
    maps = np.zeros((2, n**3))
    for v, image in enumerate(views.images[:]):
        at = np.rint(points[inside] @ projections[v].T).astype(int) + 16
        maps[views.particles[v] % 2, inside] += image[at[:, 1], at[:, 0]]
    a, b = (np.fft.fftn(m.reshape(n, n, n)) for m in maps)
    k = np.fft.fftfreq(n, 1 / n)
    radius = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2))
    shells = [radius == s for s in range(3, 8)]
    return np.mean(
        [(a[s] * b[s].conj()).real.sum() / np.sqrt((abs(a[s]) ** 2).sum() * (abs(b[s]) ** 2).sum()) for s in shells]
    )


# --- cryoSPARC -----------------------------------------------------------------------------------


def cs_table(path, **changes):
    """A .cs file of x.mrcs with the poses and CTFs of the star files here; columns changed, added or left out."""
    rotations = Rotation.from_matrix(euler_to_matrix(*POSES.values()))
    columns = {
        "uid": np.arange(N, dtype="u8") + 2**63, "blob/path": np.array([b">x.mrcs"] * N), "blob/idx": np.arange(N),
        "blob/shape": np.full((N, 2), 8, "u4"), "blob/psize_A": np.full(N, 2.0, "f4"),
        "blob/sign": np.full(N, -1.0, "f4"), "ctf/accel_kv": np.full(N, 300.0), "ctf/cs_mm": np.full(N, 2.7),
        "ctf/amp_contrast": np.full(N, 0.1), "ctf/df1_A": DEFOCUS["rlnDefocusU"], "ctf/df2_A": DEFOCUS["rlnDefocusV"],
        "ctf/df_angle_rad": np.deg2rad(DEFOCUS["rlnDefocusAngle"]), "ctf/phase_shift_rad": np.full(N, np.pi / 2),
        "alignments3D/pose": rotations.inv().as_rotvec(), "alignments3D/shift": np.tile([1.0, -2.0], (N, 1)),
        "alignments3D/psize_A": np.full(N, 4.0), "alignments3D/split": np.array([0, 1] * 3, "u4"),
    } | changes  # fmt: skip
    columns = {name: np.asarray(column) for name, column in columns.items() if column is not None}
    table = np.zeros(N, [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        table[name] = column
    with open(path, "wb") as file:
        np.save(file, table)
    return path


def test_a_cs_file_is_what_the_star_of_the_same_particles_is(star, tmp_path):
    origins = {"rlnOriginXAngst": [4.0] * N, "rlnOriginYAngst": [-8.0] * N}
    expected, _ = read_particles(star(rlnPhaseShift=[90.0] * N, rlnRandomSubset=[1, 2] * 3, **origins))
    views, notes = read_particles(cs_table(tmp_path / "p.cs"))
    np.testing.assert_array_equal(views.images[:], -expected.images[:])
    same_views(read_particles(cs_table(tmp_path / "p.cs", **{"blob/sign": None}))[0], expected, exact=False)
    assert any("negated where blob/sign is -1: 6 of 6" in note for note in notes)


def test_a_passthrough_file_supplies_what_is_missing_by_uid(tmp_path, images):
    expected, _ = read_particles(cs_table(tmp_path / "all.cs"))
    alignments = [name for name in np.load(tmp_path / "all.cs").dtype.names if name.startswith("alignments3D")]
    cs_table(tmp_path / "p.cs", **dict.fromkeys(alignments))
    with pytest.raises(InputError, match=r"p\.cs: no alignments3D/pose, .*; found: uid, .*; try --poses FILE"):
        read_particles(tmp_path / "p.cs")
    passed = np.load(tmp_path / "all.cs")[[3, 1, 5, 0, 2, 4]]
    with open(tmp_path / "passthrough.cs", "wb") as file:
        np.save(file, passed)
    same_views(read_particles(tmp_path / "p.cs", poses=tmp_path / "passthrough.cs")[0], expected)
    with open(tmp_path / "passthrough.cs", "wb") as file:
        np.save(file, passed[:4])
    with pytest.raises(InputError, match=r"2 of 6 particles are not in .*passthrough\.cs, first uid \d+"):
        read_particles(tmp_path / "p.cs", poses=tmp_path / "passthrough.cs")


def test_classes_of_cs_files_count_from_one(tmp_path, images):
    path = cs_table(tmp_path / "p.cs", **{"alignments3D/class": np.array([0, 1, 1, 0, 1, 1], "u4")})
    views, _ = read_particles(path, class_number=1)
    np.testing.assert_array_equal(views.images[:], -images[[0, 3]])


def test_aberrations_of_cs_files_are_named_as_not_applied(tmp_path, images):
    path = cs_table(tmp_path / "p.cs", **{"ctf/tilt_A": np.ones((N, 2)), "ctf/tetra_A": np.zeros((N, 4))})
    with pytest.warns(InputWarning, match="p.cs: ctf/tilt_A are not applied"):
        read_particles(path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"blob/idx": None}, "no blob/idx; found: uid, blob/path"),
        ({"ctf/df1_A": None}, "no ctf/df1_A; .*; or --no-ctf"),
        ({"ctf/df1_A": np.array([1.0, 1, np.nan, 1, 1, 1])}, r"p\.cs: row 3: ctf/df1_A is nan; expected finite"),
        ({"blob/idx": np.array([0, 1, 2, 17, 4, 5])}, r"p\.cs: row 4: image 18 of .*x\.mrcs; expected 1 to 6"),
        ({"blob/psize_A": np.array([2.0, 2, 2, 2, 3, 3])}, "differ in pixel sizes"),
        ({"blob/psize_A": np.array([2.0, 0, 2, 2, 2, 2])}, r"p\.cs: row 2: blob/psize_A is 0\.0; expected more than 0"),
        ({"blob/path": np.array([b"\x80.mrcs"] * N)}, r"blob/path b'\\x80\.mrcs' is not UTF-8"),
        ({"blob/shape": np.full(N, 8)}, r"blob/shape is int64 of shape \(\); expected numbers of shape \(2,\)"),
        ({"alignments3D/pose": np.zeros((N, 3, 3))}, r"alignments3D/pose is .*; expected numbers of shape \(3,\)"),
        ({"ctf/df1_A": np.array([b"x"] * N)}, r"ctf/df1_A is \|S1 of shape \(\); expected numbers"),
        ({"alignments3D/split": np.zeros(N, "u4")}, "all images are in half-set 1"),
    ],
)
def test_cs_files_that_cannot_be_used_are_refused(tmp_path, images, changes, message):
    with pytest.raises(InputError, match=message):
        read_particles(cs_table(tmp_path / "p.cs", **changes))


def test_a_cs_file_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "p.cs"
    path.write_bytes(b"\x94CSDAT rest")
    with pytest.raises(InputError, match=r"p\.cs: no NumPy array"):
        read_particles(path)
    for array, message in (
        (np.zeros((3, 3)), r"array of shape \(3, 3\)"),
        (np.array([{}], object), "it holds Python objects"),
    ):
        with open(path, "wb") as file:
            np.save(file, array, allow_pickle=True)
        with pytest.raises(InputError, match=message):
            read_particles(path)
    path.write_bytes(cs_table(tmp_path / "q.cs").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"p\.cs: header says .*truncated copy"):
        read_particles(path)


# --- cryoDRGN ------------------------------------------------------------------------------------


def dump(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.fixture
def drgn(tmp_path, images):
    """(stack, pose.pkl, ctf.pkl) of the star files' particles, with shifts of (1, -2) pixels."""
    rotations = euler_to_matrix(*POSES.values()).astype(np.float32)
    shifts = np.tile(np.float32([1 / 8, -2 / 8]), (N, 1))
    rest = np.tile([300.0, 2.7, 0.1, 90.0], (N, 1))
    ctf = np.column_stack([np.full(N, 8.0), np.full(N, 2.0), *DEFOCUS.values(), rest]).astype(np.float32)
    return tmp_path / "x.mrcs", dump(tmp_path / "pose.pkl", (rotations, shifts)), dump(tmp_path / "ctf.pkl", ctf)


def test_cryodrgn_poses_and_ctfs_are_those_of_the_star(star, drgn, tmp_path, images):
    origins = {"rlnOriginXAngst": [2.0] * N, "rlnOriginYAngst": [-4.0] * N}
    expected, _ = read_particles(star(rlnPhaseShift=[90.0] * N, **origins))
    stack, poses, ctf = drgn
    same_views(read_particles(stack, poses=poses, ctf=ctf)[0], expected, exact=False)
    write_stack(tmp_path / "a.mrcs", images[:2], 2.0)
    write_stack(tmp_path / "b.mrcs", images[2:], 2.0)
    (tmp_path / "list.txt").write_text("a.mrcs\n\nb.mrcs\n")
    views, notes = read_particles(tmp_path / "list.txt", poses=poses, ctf=ctf)
    same_views(views, expected, exact=False)
    assert views.names[2] == "000001@b.mrcs" and "6 images of 2 stacks" in notes[0]


def test_without_a_ctf_the_pixel_size_is_the_header_s(drgn):
    stack, poses, _ = drgn
    views, notes = read_particles(stack, poses=poses, no_ctf=True)
    assert views.ctf is None and views.pixel_size == 2.0
    assert any("pixel size 2 A from the stacks' headers" in note for note in notes)
    write_stack(stack, views.images[:], 1.0, overwrite=True)
    with pytest.raises(InputError, match="no pixel size here or in the stacks' headers; try --ctf FILE"):
        read_particles(stack, poses=poses, no_ctf=True)


def test_a_ctf_for_a_larger_box_holds_for_binned_images(drgn, tmp_path):
    table = np.tile([16.0, 1.0, 1e4, 1e4, 0, 300, 2.7, 0.1, 0], (N, 1))
    _, apix = read_ctf(dump(tmp_path / "c.pkl", table), 8)
    assert apix.tolist() == [2.0] * N


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickles_of_any_protocol_are_read(tmp_path, protocol):
    content = (np.eye(3, dtype=np.float32)[None], np.array([[0.25, -0.5]]))
    rotations, origins = read_poses(dump(tmp_path / "p.pkl", content, protocol), 64)
    assert rotations.tolist() == np.eye(3)[None].tolist() and origins.tolist() == [[16.0, -32.0]]
    assert read_pickle(dump(tmp_path / "s.pkl", np.float64(3), protocol)) == 3


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_that_would_execute_something_are_refused_and_do_not(drgn, tmp_path):
    stack, _, ctf = drgn
    poses = dump(tmp_path / "evil.pkl", Malicious(tmp_path / "trace"))
    with pytest.raises(InputError, match=r"evil\.pkl: the pickle asks for .*open, which taigs refuses to execute"):
        read_particles(stack, poses=poses, ctf=ctf)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ((np.zeros((6, 3, 2)), np.zeros((6, 2))), r"rotations are float64 \(6, 3, 2\); expected an array \(N, 3, 3\)"),
        ([1, 2], "rotations are list"),
        ((np.tile(np.eye(3), (6, 1, 1)), np.zeros((5, 2))), "6 rotations, but 5 translations"),
        ((np.tile(np.eye(3), (6, 1, 1)), np.full((6, 2), 5.0)), "translations up to 5; expected fractions of the box"),
        ((np.tile(np.eye(3), (6, 1, 1)), np.full((6, 2), np.nan)), r"pose\.pkl: row 1: translations .*finite"),
        ((np.tile(np.eye(3), (5, 1, 1)), np.zeros((5, 2))), r"pose\.pkl: 5 rows, but .*x\.mrcs lists 6 images"),
        (np.stack([np.eye(3)] * 4 + [np.diag([1, 1, -1.0]), np.eye(3)]), r"x\.mrcs: image 5: .*determinant -1"),
        (np.stack([np.eye(3)] * 2 + [ry(3) * 1.002] + [np.eye(3)] * 3), "image 3: .*is not a rotation"),
    ],
)
def test_poses_that_cannot_be_used_are_refused(drgn, tmp_path, content, message):
    stack, _, ctf = drgn
    with pytest.raises(InputError, match=message):
        read_particles(stack, poses=dump(tmp_path / "pose.pkl", content), ctf=ctf)


def test_damaged_pickles_and_missing_ones_are_named(drgn, tmp_path):
    stack, poses, ctf = drgn
    (tmp_path / "half.pkl").write_bytes(poses.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"half\.pkl: no pickle of arrays"):
        read_particles(stack, poses=tmp_path / "half.pkl", ctf=ctf)
    with pytest.raises(InputError, match="a stack holds no poses; try --poses FILE"):
        read_particles(stack)
    with pytest.raises(InputError, match="a stack holds no CTFs; try --ctf FILE, or --no-ctf"):
        read_particles(stack, poses=poses)
    with pytest.raises(InputError, match=r"ctf\.pkl: CTF parameters are float64 \(6, 8\)"):
        read_particles(stack, poses=poses, ctf=dump(ctf, np.zeros((6, 8))))


# --- real data -----------------------------------------------------------------------------------


@pytest.mark.shared
def test_real_particles_are_the_same_in_both_generations(shared, tmp_path):
    folder = shared / "data/particles_17"
    old, _ = read_particles(folder / "sample_particles_relion30.star")
    new, _ = read_particles(folder / "sample_particles_relion31.star")
    np.testing.assert_array_equal(old.images[:], new.images[:])
    assert old.half_sets.tolist() == new.half_sets.tolist() and old.pixel_size == pytest.approx(1.338)
    # The 3.1 file was edited: other poses in row 15, 1.4 A, origins in pixels called Angstrom.
    rest = np.arange(17) != 14
    np.testing.assert_allclose(old.projections[rest], new.projections[rest], atol=1e-12)
    np.testing.assert_allclose(old.shifts[rest], new.shifts[rest] * 1.4)
    same_ctf(old.ctf, new.ctf, {"rtol": 0})
    tables = read_star(folder / "sample_particles_relion31.star")
    optics, particles = dict(tables["optics"].columns), dict(tables["particles"].columns)
    optics["rlnImagePixelSize"] = [f"{old.pixel_size:.9f}"] * 2
    angles = read_star(folder / "sample_particles_relion30.star")["model_class_1"].columns
    particles |= {label: angles[label] for label in POSES}
    for i, axis in enumerate("XY"):
        particles[f"rlnOrigin{axis}Angst"] = [f"{value:.9f}" for value in -old.shifts[:, i] * old.pixel_size]
    write_star(tmp_path / "p.star", [Table("optics", optics), Table("particles", particles)])
    same_views(read_particles(tmp_path / "p.star", datadir=folder)[0], old, exact=False)


@pytest.mark.shared
def test_the_order_of_blocks_does_not_matter_in_a_real_file(shared):
    folder = shared / "data/cryodrgn_examples"
    with pytest.warns(InputWarning, match=r"relion31\.mrcs: machine stamp"):
        one, other = (read_particles(folder / f"relion31{v}.star", subset=1)[0] for v in ("", ".v2"))
    same_views(one, other)
    assert len(one) == 5 and one.images.shape == (5, 256, 256) and one.pixel_size == 2.806
    with pytest.raises(InputError, match="all images are in half-set 1"):
        read_particles(folder / "relion31.star")


@pytest.mark.shared
def test_real_star_and_cs_files_of_the_same_particles_give_the_same_views(shared, tmp_path):
    folder = shared / "data/cryodrgn_examples"
    poses = {label: [*values, 70.0] for label, values in POSES.items()}  # neither file has any
    columns = read_star(folder / "empiar_10076_7.star")[""].columns | poses
    write_star(tmp_path / "p.star", [Table("", columns)])
    table = np.load(folder / "empiar_10076_7.cs")
    kinds = [("uid", "u8"), ("alignments3D/pose", "f8", 3), ("alignments3D/shift", "f8", 2)]
    passed = np.zeros(7, [*kinds, ("alignments3D/psize_A", "f8")])
    passed["uid"], passed["alignments3D/psize_A"] = table["uid"], 1.31
    rotations = Rotation.from_matrix(euler_to_matrix(*poses.values()))
    passed["alignments3D/pose"] = rotations.inv().as_rotvec()
    with open(tmp_path / "passthrough.cs", "wb") as file:
        np.save(file, passed[::-1])
    one, _ = read_particles(tmp_path / "p.star", datadir=folder)
    other, _ = read_particles(folder / "empiar_10076_7.cs", poses=tmp_path / "passthrough.cs")
    np.testing.assert_array_equal(one.images[:], -other.images[:])
    assert one.pixel_size == pytest.approx(other.pixel_size, rel=2e-6)
    np.testing.assert_allclose(one.projections, other.projections, atol=1e-7)
    same_ctf(one.ctf, other.ctf, {"rtol": 1e-6, "atol": 1e-5})


@pytest.mark.shared
def test_a_real_cs_file_holds_what_cryodrgn_made_of_it(shared):
    folder = shared / "data/cryodrgn_examples"
    listing = list_cryosparc(folder / "cryosparc_P12_J24_001_particles.cs")
    rotations, origins = read_poses(folder / "pose.cs.pkl", 180)
    np.testing.assert_allclose(listing.rotations, rotations, atol=1e-5)
    np.testing.assert_allclose(-listing.shifts, origins, atol=1e-4)
    ctf, apix = read_ctf(folder / "ctf2.pkl", 180)
    same_ctf(listing.ctf, ctf, {"rtol": 1e-5, "atol": 1e-5})
    np.testing.assert_allclose(listing.pixel_sizes, apix)
    assert len(listing) == 2019 and len(listing.stacks) == 50 and np.all(listing.signs == -1)
    assert set(listing.half_sets.tolist()) == {1, 2} and listing.slices[0] == 0


@pytest.mark.shared
def test_a_real_star_without_its_stacks_names_them_and_its_aberrations(shared):
    with pytest.warns(InputWarning, match="rlnBeamTiltX, .*rlnOddZernike, rlnEvenZernike, rlnMagMat00, .* not applied"):
        with pytest.raises(InputError, match=r"relion5\.star: 2 of 2 stacks missing, first: toy_images_a\.mrcs"):
            read_particles(shared / "data/cryodrgn_examples/relion5.star")


@pytest.mark.shared
@pytest.mark.parametrize("n", [64, 65])
def test_projections_by_relion_differ_by_the_shift_that_the_views_say(shared, n):
    folder = shared / "data/relion_projections"
    centred, shifted = (
        read_particles(folder / f"rln_proj_{n}_{kind}.star", no_ctf=True)[0] for kind in ("centered", "shifted")
    )
    assert centred.centre.tolist() == [32, 32]
    np.testing.assert_array_equal(centred.projections, shifted.projections)
    for one, other, shift in zip(centred.images[:], shifted.images[:], shifted.shifts, strict=True):
        moved = np.roll(one, np.rint(shift[::-1]).astype(int), (0, 1))
        assert np.corrcoef(moved.ravel(), other.ravel())[0, 1] > 0.9999


@pytest.mark.shared
def test_a_real_point_mass_appears_where_the_views_say(shared):
    views, _ = read_particles(shared / "data/relion_pointmass/relion_proj_batch.star")
    point = np.array([49 - 32, 0, 0])  # voxels of 3.54 A, as the pixels
    xy = views.projections @ point + views.shifts + views.centre
    frequencies = np.fft.fftfreq(64, views.pixel_size)
    ctf = views.ctf(frequencies, frequencies[:, None])
    k = np.fft.fftfreq(64)
    inside = np.hypot(k, k[:, None]) <= 0.5
    phase = np.exp(-2j * np.pi * (xy[:, 0, None, None] * k + xy[:, 1, None, None] * k[:, None]))
    expected = np.fft.ifft2(ctf * phase * inside).real
    for one, other in zip(views.images[:], expected, strict=True):  # RELION's interpolation adds 1 %
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.985


@pytest.mark.shared
def test_simulated_tilts_listed_one_by_one_are_single_particles(shared):
    folder = shared / "data/sim_10076_classD"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        clean, _ = read_particles(folder / "10076_classD_32_clean.star", datadir=folder, no_ctf=True)
        noisy, _ = read_particles(folder / "10076_classD_32_sim.star", datadir=folder)
    assert len(clean) == len(noisy) == 72 * 8 and clean.pixel_size == noisy.pixel_size == 13.1
    np.testing.assert_array_equal(clean.shifts, noisy.shifts)
    assert noisy.ctf.bfactor[:3].tolist() == [8, 16, 24] and np.all(noisy.ctf.phase_shift == 90)
    frequencies = np.fft.fftfreq(32, 13.1)
    seen = np.fft.ifft2(np.fft.fft2(clean.images[:]) * noisy.ctf(frequencies, frequencies[:, None])).real
    assert np.corrcoef(seen.ravel(), noisy.images[:].ravel())[0, 1] < -0.1  # dark, as cryoDRGN expects it
