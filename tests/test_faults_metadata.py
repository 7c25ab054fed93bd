"""Damaged and inconsistent tables, given to the real command: cases 19 to 34 of FAULTS.md."""

import pickle

import numpy as np
import pytest
from faults import PARTICLES, TILTS, accepted, good_particles, good_tilt_series, patched, python, refused

from taigs.io.mrc import write_stack, write_volume

FIRST = 30


@pytest.fixture
def star(tmp_path):
    """24 particles of 16 pixels of 8 A; the first stands on line FIRST."""
    path = good_particles(tmp_path)
    assert path.read_text().splitlines()[FIRST - 1].startswith("000001@p.mrcs")
    return path


@pytest.fixture
def series(tmp_path):
    return good_tilt_series(tmp_path)


def edited(path, line, change):
    """The file with one line (from 1) changed by a function of it."""
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"\n".join(lines))
    return path


def info(star, *words, **limits):
    return refused(["info", star], star.parent, *words, **limits)


def spa(star, *words, more=(), **limits):
    return refused(["spa", star, *more, "-o", "out"], star.parent, *words, **limits)


def tilt(series, *words, more=(), **limits):
    folder = series.stack.parent
    return refused([*series.arguments, *more, "-o", "out"], folder, *words, **limits)


def replaced(line, column, value):
    """A row of a star file with another value in a column (from 0)."""
    words = line.split()
    words[column] = value
    return b" ".join(words)


def test_19_short_and_long_rows_are_named_with_their_lines(star):
    edited(star, FIRST, lambda line: line + b" 7")
    edited(star, FIRST + 2, lambda line: line.rsplit(None, 1)[0])
    info(star, "2 problems", f"p.star:{FIRST}: 10 values, the loop has 9 columns", f"p.star:{FIRST + 2}: 8 values")


def test_20_a_file_cut_in_its_last_row_is_refused(star):
    text = star.read_bytes().rstrip()
    star.write_bytes(text[:-2])
    info(star, f"p.star:{FIRST + PARTICLES - 1}: 8 values, the loop has 9 columns")
    star.write_bytes(text)  # complete, without a newline
    accepted(["info", star], star.parent, "data_particles +24 rows, 9 columns")


@pytest.mark.parametrize("text", [b"ten", b"10,5", b'""'])
def test_21_what_is_no_number_is_named_with_line_and_column(star, text):
    edited(star, FIRST + 1, lambda line: replaced(line, 1, text))
    shown = text.decode().strip('"')
    spa(star, rf'p\.star:{FIRST + 1}: rlnAngleRot "{shown}" is not a number; expected a finite one such as -59\.9')


def test_22_poses_defocus_and_shifts_that_are_not_finite_are_all_named(tmp_path):
    star = good_particles(tmp_path, rlnOriginXAngst=np.zeros(PARTICLES), rlnOriginYAngst=np.zeros(PARTICLES))
    first = FIRST + 2
    for row, (column, text) in enumerate(((2, b"nan"), (4, b"inf"), (9, b"-inf"))):
        edited(star, first + row, lambda line, column=column, text=text: replaced(line, column, text))
    wanted = (("AngleTilt", "nan"), ("DefocusU", "inf"), ("OriginXAngst", "-inf"))
    said = [rf'p\.star:{first + row}: rln{label} "{text}" is not a number' for row, (label, text) in enumerate(wanted)]
    spa(star, "3 problems", *said)


def test_23_a_missing_column_is_named_with_those_there_are(tmp_path):
    star = good_particles(tmp_path, rlnDefocusU=None)
    spa(star, "no rlnDefocusU in block particles; found: rlnImageName, .*; try --no-ctf if")
    script = "from taigs.io.particles import read_particles; print(read_particles('p.star', no_ctf=True).ctf)"
    assert python(script, tmp_path).stdout == "None\n"


def test_24_a_second_column_or_block_of_a_name_is_refused(star):
    text = star.read_text()
    star.write_text(text.replace("_rlnDefocusV", "_rlnDefocusU"))
    info(star, r"p\.star:26: a second column rlnDefocusU; expected different labels")
    star.write_text(text + text[text.index("data_particles") :])
    info(star, r"p\.star:\d+: a second block data_particles; expected different names")


@pytest.mark.parametrize(
    "content, words",
    [
        (np.random.default_rng(0).bytes(3000), "p.star:1: byte 0x[0-9a-f]{2} is not UTF-8; is this a STAR file"),
        ("data_\n\n_é x\n".encode("latin-1"), "p.star:3: byte 0xe9 is not UTF-8"),
        ("data_\n_a b\n".encode("utf-16"), "p.star:1: byte 0xff is not UTF-8"),
        (b"data_\n_a b\0\n", "p.star:2: byte 0x00 is not text"),
    ],
)
def test_25_what_is_no_utf8_text_is_named_with_line_and_byte(star, content, words):
    star.write_bytes(content)
    info(star, words)


def test_25_a_byte_order_mark_is_accepted(star):
    star.write_bytes(b"\xef\xbb\xbf" + star.read_bytes())
    accepted(["info", star], star.parent, "data_particles +24 rows")


def test_26_quotes_signs_in_paths_comments_and_foreign_line_ends_are_read_right(star):
    folder = star.parent / "it's a #1"
    folder.mkdir()
    (star.parent / "p.mrcs").rename(folder / "p.mrcs")
    lines = star.read_text().rstrip().splitlines()
    rows = [line.replace("@p", "@it's a #1/p").split("mrcs") for line in lines[FIRST - 1 :]]
    lines[FIRST - 1 :] = [f'  "{name}mrcs"{rest} \r\n\r\n# said' for name, rest in rows]
    star.write_bytes("\r\n".join(lines).replace("loop_", " loop_ ").encode())
    script = """
from taigs.io.particles import read_particles
views = read_particles("p.star")
print(len(views), views.names[23], views.images[23].shape, views.ctf.defocus_u[23])
"""
    expected = "24 000024@it's a #1/p.mrcs (16, 16) 15000.0\n"
    assert python(script, star.parent).stdout == expected


def test_27_images_that_a_stack_has_not_are_named_with_line_and_number(star):
    def renamed(name):
        return lambda line: replaced(line, 0, name)

    edited(star, FIRST, renamed(b"0@p.mrcs"))
    edited(star, FIRST + 1, renamed(b"p.mrcs"))
    said = 'rlnImageName "{}"; expected one such as 000123@stack.mrcs, from 1'
    spa(
        star, "2 problems", f"p.star:{FIRST}: {said.format('0@p.mrcs')}", f"p.star:{FIRST + 1}: {said.format('p.mrcs')}"
    )
    edited(star, FIRST + 1, renamed(b"2@p.mrcs"))
    edited(star, FIRST, renamed(b"9" * 40 + b"@p.mrcs"))
    spa(star, "rlnImageName .9999.*; expected one such as 000123@stack.mrcs, from 1")
    edited(star, FIRST, renamed(b"999@p.mrcs"))
    spa(star, rf"p\.star:{FIRST}: image 999 of p\.mrcs; expected 1 to 24")


def test_28_missing_stacks_are_counted_and_the_first_one_is_named_with_the_remedy(star):
    for row in range(17):
        edited(star, FIRST + row, lambda line, row=row: replaced(line, 0, b"1@lost/s%02d.mrcs" % row))
    spa(star, r"17 of 18 stacks missing, first: lost/s00\.mrcs .tried .*; try --datadir DIR to rebase")


def test_29_a_wrong_number_of_angles_names_both_counts_and_both_files(series):
    series.angles.write_text("-40\n-20\n0\n20\n")
    tilt(series, r"ts\.tlt: 4 tilt angles, but .*ts\.mrc has 5 images")


def test_29_everything_wrong_with_a_tilt_series_is_said_at_once(series):
    patched(series.stack, 12, "<i", 4)
    series.angles.write_text("-40\nnan\n0 1\n")
    series.xf.write_text("1 0 0 1 0 0\n" * 4 + "1 0 0 0 0 0\n")
    series.dose.unlink()
    said = (
        r"ts\.mrc: mode 4",
        r"ts\.tlt:2: 'nan'",
        r"ts\.tlt:3: 2 values",
        r"ts\.xf:5: determinant 0",
        r"ts\.dose: no such",
    )
    tilt(series, r"ts\.mrc: 6 problems:", *said, "tilt axis 5 besides an .xf", more=["--tilt-axis", 5])


def test_29_everything_wrong_with_particles_is_said_at_once(star):
    write_stack(star.with_name("q.mrcs"), np.zeros((3, 16, 16)), 8.0)
    patched(star.with_name("p.mrcs"), 12, "<i", 4)
    edited(star, FIRST, lambda line: replaced(line, 0, b"4@q.mrcs"))
    write_volume(star.with_name("mask.mrc"), np.ones((16, 16, 16)), 8.0)
    patched(star.with_name("mask.mrc"), 0, "<i", 0)
    said = (r"p\.mrcs: mode 4", rf"p\.star:{FIRST}: image 4 of q\.mrcs; expected 1 to 3", r"mask\.mrc: nx = 0", "X7")
    spa(star, r"p\.star: 4 problems:", *said, more=["--mask", "mask.mrc", "--sym", "X7"])


def test_29_of_many_problems_the_first_ten_are_shown_and_the_rest_counted(star):
    star.write_text(star.read_text().replace("15000", "x15000"))
    outcome = spa(star, r"p\.star: 24 problems:", "and 14 more")
    assert outcome.stderr.count("rlnDefocusU") == 10


@pytest.mark.parametrize(
    "angles, words",
    [
        (np.deg2rad(TILTS), r"no tilt angle exceeds 0\.698: they look like radians; .*; try multiplying by 57"),
        (np.full(5, 3.0), "all 5 tilt angles are 3; expected a tilt series"),
    ],
)
def test_30_angles_that_are_no_tilt_series_are_refused(series, angles, words):
    np.savetxt(series.angles, angles, "%.4f")
    tilt(series, rf"ts\.tlt: {words}")


def test_30_unsorted_repeated_and_single_angles_are_read(series):
    write_stack(series.stack.with_name("one.mrc"), np.random.default_rng(0).normal(size=(1, 24, 32)), 8.0)
    script = """
from taigs.io.tilt_series import read_tilt_series
for stack, angles in (("ts.mrc", [0, 20, -20, 40, 0]), ("one.mrc", [1.0])):
    print(read_tilt_series(stack, angles, contrast="dark").tilt_angles.tolist())
"""
    assert python(script, series.stack.parent).stdout == "[0.0, 20.0, -20.0, 40.0, 0.0]\n[1.0]\n"


def test_31_optics_groups_that_differ_are_refused_with_a_table(tmp_path):
    groups = 1 + np.arange(PARTICLES) // 20
    microscope = {"rlnVoltage": [300.0] * 2, "rlnSphericalAberration": [2.7] * 2, "rlnAmplitudeContrast": [0.1] * 2}
    optics = {"rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [8.0, 4.0], "rlnImageSize": [16, 32]} | microscope
    star = good_particles(tmp_path, optics, rlnOpticsGroup=groups)
    table = (r"group 1: 20 images, 8 A per pixel, 16 pixels", r"group 2: 4 images, 4 A per pixel, 32 pixels")
    spa(star, "optics groups differ in pixel sizes and boxes; expected one for all", *table)


def test_31_stacks_of_different_boxes_are_refused_with_a_table(star):
    write_stack(star.with_name("q.mrcs"), np.zeros((3, 20, 20)), 8.0)
    edited(star, FIRST, lambda line: replaced(line, 0, b"1@q.mrcs"))
    spa(star, r"stacks of different boxes: 20 x 20 in 1 .first q\.mrcs., 16 x 16 in 1 .first p\.mrcs.; expected")


@pytest.mark.parametrize(
    "matrix, words", [(np.diag([1, 1, -1.0]), "determinant -1"), (np.eye(3) * 1.002, r"differs from 1 by 0\.004")]
)
def test_32_a_matrix_that_is_no_rotation_is_named_with_its_row(star, matrix, words):
    poses = np.tile(np.eye(3), (PARTICLES, 1, 1))
    poses[6] = matrix
    star.with_name("pose.pkl").write_bytes(pickle.dumps(poses))
    args = ["spa", "p.mrcs", "--poses", "pose.pkl", "--no-ctf", "-o", "out"]
    refused(args, star.parent, rf"p\.mrcs: image 7: .*is not a rotation .*{words}")


def test_32_a_quaternion_of_length_zero_is_named_with_its_row(tmp_path):
    quaternions = np.tile(np.float32([1, 0, 0, 0]), (5, 1))
    quaternions[3] = 0
    header = np.frombuffer(b'{"format": "taigs-model", "version": 1, "signed": false}', np.uint8)
    zeros = np.zeros((5, 3), np.float32)
    arrays = {"positions": zeros, "log_sigmas": zeros, "quaternions": quaternions, "masses": np.ones(5, np.float32)}
    np.savez(tmp_path / "model.npz", header=header, **arrays)
    refused(["info", "model.npz"], tmp_path, r"model\.npz: Gaussian 4 of 5 has a quaternion of length 0")


@pytest.mark.parametrize(
    "halves, words",
    [
        (np.ones(PARTICLES, int), "all images are in half-set 1; expected 1 and 2"),
        (np.arange(PARTICLES), "half-set 0; exp"),
    ],
)
def test_33_half_sets_that_are_not_two_are_refused(tmp_path, halves, words):
    spa(good_particles(tmp_path, rlnRandomSubset=halves), words)


def test_33_an_image_in_both_half_sets_is_refused_with_both_lines(star):
    edited(star, FIRST + 1, lambda line: replaced(line, 0, b"1@p.mrcs"))
    spa(
        star,
        rf"p\.star:{FIRST}: the same image is in the other half-set, too .*p\.star:{FIRST + 1}.; expected it in one",
    )


def test_34_a_repaired_file_is_read_anew_in_the_same_process(star):
    series = good_tilt_series(star.parent)
    edited(star, FIRST, lambda line: line + b" 7")
    series.angles.write_text("1\n2\n3\n4\nfive\n")
    script = """
from pathlib import Path
from taigs.errors import InputError
from taigs.io.imod import read_angles
from taigs.io.star import read_star
for read, path, wrong, right in ((read_star, "p.star", " 7\\n", "\\n"), (read_angles, "ts.tlt", "five", "5")):
    try:
        read(path)
    except InputError:
        Path(path).write_text(Path(path).read_text().replace(wrong, right))
        print(len(read(path)))
"""
    assert python(script, star.parent).stdout == "2\n5\n"
