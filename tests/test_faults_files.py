"""Damaged and strange image files, given to the real command: cases 1 to 18 of FAULTS.md."""

import bz2
import gzip
import os

import numpy as np
import pytest
from faults import accepted, good_particles, good_tilt_series, patched, python, refused, run

from taigs.io.mrc import _HEADER, IMOD_STAMP, _new_header, write_stack, write_volume


@pytest.fixture
def series(tmp_path):
    return good_tilt_series(tmp_path)


@pytest.fixture
def stack(series):
    """A stack of 5 images of 24 x 32 pixels of 8 A."""
    return series.stack


def info(stack, *words, **limits):
    return refused(["info", stack], stack.parent, *words, **limits)


def tilt(series, *words, more=(), **limits):
    folder = series.stack.parent
    return refused([*series.arguments, *more, "-o", folder / "out"], folder, *words, **limits)


def stored(path, values, kind, **fields):
    """An MRC file written field by field, of any type and byte order."""
    from taigs.io.mrc import MODES

    values = np.asarray(values).astype(kind)
    header = _new_header(values.shape, 8.0, None, 0)
    header["mode"] = {np.dtype(name).str[1:]: mode for mode, name in MODES.items()}[
        values.dtype.str[1:].replace("u1", "i1")
    ]
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.astype(_HEADER.newbyteorder(kind[0])).tobytes() + values.tobytes())
    return path


def test_01_a_missing_file_is_named_with_the_nearest_name(series):
    typo = series.stack.with_name("ts.mcr")
    refused(["info", typo], typo.parent, r"ts\.mcr: no such file; did you mean .*/ts\.mrc\?")
    typo = series.angles.with_name("ts.tilt")
    refused(["tilt", series.stack, "--angles", typo, "-o", "out"], typo.parent, r"ts\.tilt: no such file; did you mean")
    refused(["info", "x" * 300], typo.parent, "no such file")


def test_01_a_folder_is_no_file(stack):
    refused(["info", stack.parent], stack.parent, "is a directory; expected a file")


def test_01_a_file_that_may_not_be_read_is_no_fault_of_the_input(stack):
    secret = stack
    secret.chmod(0)
    if os.access(secret, os.R_OK):  # the superuser reads everything but this
        secret = "/proc/self/mem"
    refused(["info", secret], stack.parent, "cannot be read", code=4)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_01_what_is_no_regular_file_is_refused_and_not_opened(series, kind):
    path = series.stack.with_name("pipe")
    os.mkfifo(path)  # whoever opens it waits for a writer
    path = path if kind == "pipe" else "/dev/zero"
    refused(["info", path], series.stack.parent, f"is a {kind}; expected a regular file", timeout=20)


def test_01_a_stack_in_a_star_that_is_a_pipe_is_refused_and_not_opened(tmp_path):
    star = good_particles(tmp_path)
    (tmp_path / "p.mrcs").unlink()
    os.mkfifo(tmp_path / "p.mrcs")
    refused(["spa", star, "-o", "out"], tmp_path, r"p\.mrcs: is a pipe; expected a regular file", timeout=20)


@pytest.mark.parametrize(
    "size, words",
    [
        (0, "0 bytes, an MRC header is 1024"),
        (1023, "1023 bytes, an MRC header is 1024"),
        (1024, "file has 0: truncated"),
    ],
)
def test_02_a_file_without_data_is_refused_with_its_size(stack, size, words):
    os.truncate(stack, size)
    info(stack, rf"ts\.mrc: .*{words}")


@pytest.mark.parametrize(
    "content, words",
    [
        (np.random.default_rng(0).bytes(5000), 'not an MRC file .no "MAP " at byte 208'),
        (b"What is this? " * 200, 'not an MRC file .no "MAP " at byte 208'),
        (b"\x1f\x8b\x08" + bytes(3000), "the compressed file is damaged"),
        (b"BZh9" + bytes(3000), "the compressed file is damaged"),
    ],
)
def test_03_a_file_of_another_kind_is_refused(stack, content, words):
    stack.write_bytes(content)
    info(stack, rf"ts\.mrc: {words}")


def test_04_truncated_data_are_refused_with_both_sizes(series):
    os.truncate(series.stack, 1024 + 3 * 24 * 32 * 4 + 100)
    said = r"header says 5 x 24 x 32 float32 = 15 360 bytes, file has 9 316: truncated copy\?"
    info(series.stack, rf"ts\.mrc: {said}")
    tilt(series, said)


def test_04_whole_sections_of_truncated_data_are_used_on_request(series):
    os.truncate(series.stack, 1024 + 3 * 24 * 32 * 4 + 100)
    said = "the first 3 of 5 sections are whole and are used"
    accepted(["info", series.stack, "--allow-truncated"], series.stack.parent, said, "range +-")
    script = """
import warnings
from taigs.io.tilt_series import read_tilt_series_with_notes
warnings.simplefilter("ignore")
settings = {"dose": "ts.dose", "exclude": [2], "allow_truncated": True}
views, notes = read_tilt_series_with_notes("ts.mrc", "ts.tlt", "ts.xf", **settings)
print(views.tilt_angles.tolist(), [name.split("@")[0] for name in views.names], notes)
"""
    outcome = python(script, series.stack.parent)
    assert outcome.stdout.startswith("[-40.0, 0.0] ['1', '3']"), outcome
    assert "images 4 to 5 are left out: the stack is truncated" in outcome.stdout


def test_05_bytes_after_the_data_are_counted_and_ignored(stack):
    stack.write_bytes(stack.read_bytes() + bytes(1234))
    accepted(["info", stack], stack.parent, r"warning: .*ts\.mrc: 1 234 bytes after the data are ignored", "range +-12")


def test_06_a_huge_size_in_a_small_file_costs_nothing(stack):
    info(patched(stack, 0, "<i", 2**31 - 1), r"5 x 24 x 2147483647 float32 = .*truncated copy\?", memory=1e9)
    info(patched(stack, 0, "<3i", *[2**31 - 1] * 3), "truncated copy", memory=1e9)


@pytest.mark.parametrize("at, values, words", [(0, [0], "nx = 0"), (0, [-8], "nx = -8"), (4, [-24, -5], "ny = -24")])
def test_07_a_size_that_is_none_is_named(stack, at, values, words):
    info(patched(stack, at, f"<{len(values)}i", *values), rf"ts\.mrc: {words} is not a size")


@pytest.mark.parametrize("mode, words", [(4, r" .complex."), (101, r" .4-bit integers."), (999, "")])
def test_08_modes_that_are_no_images_are_named(stack, mode, words):
    info(patched(stack, 12, "<i", mode), f"mode {mode}{words} is not an image; supported 0 1 2 6 12")


def test_09_the_sign_of_bytes_is_the_flag_s_the_user_s_or_guessed_with_a_warning(tmp_path):
    values = np.array([0, 100, 200, 255] * 16).reshape(1, 8, 8)
    plain = stored(tmp_path / "plain.mrc", values, "<u1")
    imod = stored(tmp_path / "imod.mrc", values, "<u1", imod_stamp=IMOD_STAMP)
    guess = "warning: .*8-bit data read as signed .*try --mode0 unsigned"
    accepted(["info", plain], tmp_path, guess, "range +-56 to 100")
    for args in (["info", imod], ["info", plain, "--mode0", "unsigned"]):
        assert not accepted(args, tmp_path, "range +0 to 255").stderr
    assert not accepted(["info", imod, "--mode0", "signed"], tmp_path, "range +-56 to 100").stderr


def test_09_the_sign_of_bytes_is_told_for_tilt_series_and_particles(series):
    folder = series.stack.parent
    star = good_particles(folder)
    stored(series.stack, np.arange(5 * 24 * 32).reshape(5, 24, 32) % 256, "<u1")
    stored(folder / "p.mrcs", np.arange(24 * 256).reshape(24, 16, 16) % 256, "<u1")
    script = """
import warnings
from taigs.io.particles import read_particles
from taigs.io.tilt_series import read_tilt_series
for mode0 in (None, "unsigned"):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        images = read_particles("p.star", mode0=mode0).images
        series = read_tilt_series("ts.mrc", "ts.tlt", mode0=mode0, contrast="bright")
    print(images[0].min(), images[0].max(), sum("8-bit" in str(w.message) for w in heard))
"""
    assert python(script, star.parent).stdout == "-128.0 127.0 2\n0.0 255.0 0\n"


@pytest.mark.parametrize(
    "kind, stamp, warns",
    [
        ("<f4", b"\0\0\0\0", True),
        ("<f4", b"\x11\x11\0\0", True),
        (">f4", b"\x11\x11\0\0", False),
        (">f4", b"DD\0\0", True),
    ],
)
def test_10_the_byte_order_is_deduced_where_the_stamp_is_wrong(tmp_path, kind, stamp, warns):
    values = np.arange(60.0).reshape(3, 4, 5)
    path = stored(tmp_path / "a.mrc", values, kind, stamp=np.void(stamp + bytes(2)))
    outcome = accepted(["info", path], tmp_path, "shape +3 x 4 x 5", "range +0 to 59")
    assert ("machine stamp" in outcome.stderr) == warns


def test_11_permuted_axes_are_turned(tmp_path, rng):
    volume = rng.normal(size=(8, 9, 10))
    write_volume(tmp_path / "straight.mrc", volume, 2.0)
    write_volume(tmp_path / "turned.mrc", volume.transpose(2, 1, 0), 2.0)
    patched(tmp_path / "turned.mrc", 64, "<3i", 3, 2, 1)
    script = """
from taigs.io.mrc import read_volume
print((read_volume("straight.mrc")[0] == read_volume("turned.mrc")[0]).all())
"""
    assert python(script, tmp_path).stdout == "True\n"


def test_11_axes_that_are_no_permutation_are_refused(stack):
    info(patched(stack, 64, "<3i", 1, 1, 1), r"mapc, mapr, maps = \(1, 1, 1\); expected 1, 2, 3 in some order")


@pytest.mark.parametrize("cell", [(0, 0, 0), (np.nan, np.inf, 8)])
def test_12_an_unknown_pixel_size_is_asked_for(series, cell):
    patched(series.stack, 40, "<3f", *cell)
    tilt(series, r"ts\.mrc: the header holds no pixel size; try --pixel-size")


def test_12_oblong_pixels_are_refused_with_both_sizes(series):
    patched(series.stack, 40, "<2f", 32 * 8.0, 24 * 8.2)
    tilt(series, r"ts\.mrc: pixels of 8 x 8\.2 A; expected square ones; try --pixel-size")


def test_12_a_pixel_size_that_differs_from_the_header_s_is_used_and_both_are_said(series):
    star = good_particles(series.stack.parent, optics={"rlnImagePixelSize": [4.0]})
    script = """
from taigs.io.particles import read_particles
from taigs.io.tilt_series import read_tilt_series
print(read_tilt_series("ts.mrc", "ts.tlt", pixel_size=10).pixel_size, read_particles("p.star").pixel_size)
"""
    outcome = python(script, star.parent)
    assert outcome.stdout == "10.0 4.0\n"
    assert "ts.mrc: 8 A per pixel in the header, 10 given; 10 used" in outcome.stderr
    assert "p.mrcs: 8 A per pixel in the header, 4 in p.star; 4 used" in outcome.stderr


@pytest.mark.parametrize("nsymbt", [-4, 2**31 - 1, 15361])
def test_13_an_impossible_extended_header_is_refused_without_allocation(stack, nsymbt):
    info(
        patched(stack, 92, "<i", nsymbt), f"extended header of nsymbt = {nsymbt} bytes; the file has 15360", memory=1e9
    )


@pytest.mark.parametrize("mz", [0, 3])
def test_14_a_stack_of_volumes_that_does_not_divide_is_refused(stack, mz):
    info(patched(patched(stack, 88, "<i", 401), 36, "<i", mz), f"volume stack with nz=5, mz={mz}")


@pytest.mark.parametrize("share", ["one", "some", "all"])
def test_15_pixels_that_are_not_finite_are_counted_and_the_first_one_is_located(series, share):
    images = np.fromfile(series.stack, "<f4", offset=1024).reshape(5, 24, 32)
    bad = {"one": (2, 3, 4), "some": np.random.default_rng(0).random(images.shape) < 0.01, "all": ...}[share]
    images[bad] = np.inf if share == "one" else np.nan
    with open(series.stack, "r+b") as file:
        file.seek(1024)
        file.write(images.tobytes())
    v, y, x = (int(i) for i in np.argwhere(~np.isfinite(images))[0])
    count = (~np.isfinite(images)).sum()
    said = rf"ts\.mrc: {count} pixels are NaN or infinite, first in image {v + 1} .from 1. at y {y}, x {x}"
    tilt(series, said, "try --mask-nonfinite")


def test_15_pixels_of_particles_that_are_not_finite_are_located_when_they_are_read(tmp_path):
    star = good_particles(tmp_path)
    patched(tmp_path / "p.mrcs", 1024 + 4 * (7 * 256 + 2 * 16 + 5), "<f", np.nan)
    script = """
from taigs.errors import InputError
from taigs.io.particles import read_particles
try:
    read_particles("p.star").images[:]
except InputError as error:
    print(error, error.exit_code)
"""
    said = python(script, star.parent).stdout
    assert "p.mrcs: section 8 (from 1) holds 1 NaN or infinite pixels, first at y 2, x 5" in said and said.endswith(
        "3\n"
    )


def test_16_constant_views_are_dropped_with_a_warning(series):
    images = np.fromfile(series.stack, "<f4", offset=1024).reshape(5, 24, 32)
    images[1], images[2] = 0, 7.5
    write_stack(series.stack, images, 8.0, overwrite=True)
    script = """
from taigs.io.tilt_series import read_tilt_series
print(read_tilt_series("ts.mrc", "ts.tlt").tilt_angles.tolist())
"""
    outcome = python(script, series.stack.parent)
    assert outcome.stdout == "[-40.0, 20.0, 40.0]\n"
    assert "ts.mrc: constant images dropped: 2, 3 (from 1)" in outcome.stderr


def test_16_a_stack_of_constant_views_is_refused(series):
    write_stack(series.stack, np.zeros((5, 24, 32)), 8.0, overwrite=True)
    tilt(series, r"ts\.mrc: every image is constant; expected images with content")


def test_16_particles_that_are_all_constant_are_refused(tmp_path):
    good_particles(tmp_path)
    write_stack(tmp_path / "p.mrcs", np.full((24, 16, 16), 3.0), 8.0, overwrite=True)
    outcome = run(["spa", "p.star", "-o", "out"], tmp_path)
    assert outcome.code == 3, outcome
    assert "error: every image is constant; expected images with content" in outcome.stderr
    assert not list(tmp_path.glob("out/*.mrc"))


@pytest.mark.parametrize("change", ["os.truncate(path, 2000)", "os.replace('other', path)"])
def test_17_a_file_that_changes_while_it_is_used_is_an_error_and_no_crash(series, change):
    folder = series.stack.parent
    good_particles(folder)
    write_volume(folder / "v.mrc", np.zeros((24, 24, 24)), 8.0)
    script = f"""
import os, shutil
from taigs.errors import InputError
from taigs.io.mrc import open_sections
from taigs.io.particles import read_particles
for path, images in (("ts.mrc", open_sections("ts.mrc")[1]), ("v.mrc", open_sections("v.mrc")[1]),
                     ("p.mrcs", read_particles("p.star").images)):
    images[0], images[-1]
    with open("other", "wb") as file:
        file.write(bytes(os.path.getsize(path)))
    {change}
    try:
        images[-1]
    except InputError as error:
        print(error)
"""
    outcome = python(script, folder)
    assert outcome.code == 0, outcome
    said = "changed after its header was read; try again when it is complete\n"
    assert outcome.stdout == "".join(f"{path}: {said}" for path in ("ts.mrc", "v.mrc", "p.mrcs"))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_18_compressed_files_are_read_if_they_are_whole(stack, pack):
    plain = accepted(["info", stack], stack.parent).stdout
    packed = pack(stack.read_bytes())
    stack.write_bytes(packed)
    assert accepted(["info", stack], stack.parent).stdout == plain
    for damaged in (packed[:-20], packed[:600] + bytes([packed[600] ^ 255]) + packed[601:]):
        stack.write_bytes(damaged)
        info(stack, r"ts\.mrc: the compressed file is damaged .*; fetch it again")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_18_a_compressed_file_is_unpacked_no_further_than_its_header_says(stack, pack):
    stack.write_bytes(pack(stack.read_bytes() + bytes(300 * 10**6)))
    outcome = accepted(["info", stack], stack.parent, "bytes after the data are ignored", "range +-12")
    assert outcome.peak_bytes < 200e6
