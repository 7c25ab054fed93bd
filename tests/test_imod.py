"""taigs.io.imod: tilt angles and alignments, good and bad."""

import numpy as np
import pytest

from taigs.errors import InputError, RefusedError
from taigs.geometry import imod_to_relion
from taigs.io.imod import read_angles, read_per_image, read_xf, write_angles


def write(folder, text, name="ts.tlt"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_angles_are_read_around_comments_blank_lines_and_foreign_line_ends(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf# nominal \xe9\r\n -60.5\r\n\r\n  0.0 # the first taken\r\n+3e1")
    assert read_angles(path, 3).tolist() == [-60.5, 0.0, 30.0]


def test_angles_may_repeat_and_stand_in_any_order(tmp_path):
    path = write(tmp_path, "0\n3\n3\n-3\n6\n")
    assert read_angles(path).tolist() == [0, 3, 3, -3, 6]


def test_one_angle_may_be_anything(tmp_path):
    assert read_angles(write(tmp_path, "0\n"), 1).tolist() == [0]


def test_angles_written_are_read_again(tmp_path):
    angles = np.linspace(-59.98765, 60, 41)
    write_angles(tmp_path / "a.tlt", angles)
    np.testing.assert_allclose(read_angles(tmp_path / "a.tlt", 41), angles, atol=5.1e-5)
    with pytest.raises(RefusedError, match="exists already"):
        write_angles(tmp_path / "a.tlt", angles)


@pytest.mark.parametrize("word", ["ten", "10,5", "nan", "inf", "-Infinity", "1e999", "1_0", "\x00", "é"])
def test_what_is_not_a_finite_number_is_named_with_its_line(tmp_path, word):
    path = write(tmp_path, f"# one\n1.0\n{word}\n")
    with pytest.raises(InputError, match=r"ts\.tlt:3: .* is not a finite number"):
        read_angles(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no numbers"),
        ("# only\n\n", "holds no numbers"),
        ("1\n2 3\n", r":2: 2 values; expected 1"),
        ("5\n5\n5\n", "all 3 tilt angles are 5"),
        ("-1.04\n-0.5\n0\n0.5\n1.04\n", "radians; expected degrees; try multiplying by 57.29578"),
    ],
)
def test_angles_that_cannot_be_a_tilt_series_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_angles(write(tmp_path, text))


@pytest.mark.parametrize("angles", [[-1, 0, 1, 1], [-1.5, 0, 1.5], [-2.5, -1.5, 0, 1.5, 2.5]])
def test_small_angles_in_degrees_are_not_taken_for_radians(angles):
    assert read_angles(angles).tolist() == angles


def test_a_wrong_number_of_angles_names_both_counts_and_both_files(tmp_path):
    path = write(tmp_path, "1\n2\n")
    with pytest.raises(InputError, match=r"ts\.tlt: 2 tilt angles, but ts\.mrc has 41 images"):
        read_angles(path, 41, stack="ts.mrc")


def test_a_missing_file_is_reported_with_the_nearest_name(tmp_path):
    write(tmp_path, "1\n2\n", "position_01.tlt")
    with pytest.raises(InputError, match=r"position_1\.tlt: no such file; did you mean .*position_01\.tlt\?"):
        read_angles(tmp_path / "position_1.tlt")


def test_a_repaired_file_is_read_anew(tmp_path):
    with pytest.raises(InputError):
        read_angles(write(tmp_path, "1\nx\n"))
    assert read_angles(write(tmp_path, "1\n2\n")).tolist() == [1, 2]


def test_per_image_numbers_may_all_be_equal(tmp_path):
    assert read_per_image(write(tmp_path, "0\n0\n"), "x-axis tilts", 2).tolist() == [0, 0]
    with pytest.raises(InputError, match="doses: shape"):
        read_per_image([1.0, np.nan], "doses")


def test_xf_lines_become_matrices_and_shifts(tmp_path):
    path = write(tmp_path, "1 2 -3 4 5.5 -6\n0.9 0 0 0.9 0 0\n", "a.xf")
    xf = read_xf(path, 2)
    assert xf.shape == (2, 2, 3)
    assert xf[0].tolist() == [[1, 2, 5.5], [-3, 4, -6]]
    assert np.array_equal(read_xf(xf, 2), xf)


@pytest.mark.parametrize(
    "line, message",
    [
        ("1 0 0 1 0", r"a\.xf:2: 5 values; expected 6"),
        ("1 0 0 0 0 0", r"a\.xf:2: determinant 0;"),
        ("1 0 0 -1 0 0", r"a\.xf:2: determinant -1;"),
        ("1 0 0 1 0 nan", r"a\.xf:2: 'nan' is not a finite number"),
        ("1 0 0 1 0 0\n1 0 0 1 0 0", r"a\.xf: 3 transforms, but the stack has 2 images"),
    ],
)
def test_an_unusable_xf_is_refused(tmp_path, line, message):
    with pytest.raises(InputError, match=message):
        read_xf(write(tmp_path, f"1 0 0 1 0 0\n{line}\n", "a.xf"), 2)


def test_an_xf_array_of_the_wrong_shape_is_refused():
    with pytest.raises(InputError, match="xf: shape"):
        read_xf(np.zeros((4, 2, 2)))


@pytest.mark.shared
def test_files_written_by_imod_are_read(shared):
    folder = shared / "data/metadata/imod_aretomo/convert/imod_1"
    angles = read_angles(folder / "tilt_1.tlt")
    xf = read_xf(folder / "tilt_1.xf", len(angles))
    xtilt = read_per_image(folder / "tilt_1.xtilt", "x-axis tilts", len(angles))
    assert len(angles) == 59 and angles[0] == -52.24
    assert xf[0].tolist() == [[-0.1813379, -0.9834202, -58.17], [0.9834202, -0.1813379, 69.816]]
    assert not xtilt.any()


@pytest.mark.shared
def test_files_written_by_aretomo_are_read(shared):
    folder = shared / "data/metadata/imod_aretomo"
    angles = read_angles(folder / "test.rawtlt")
    xf = read_xf(folder / "test.xf", len(angles))
    zrot = imod_to_relion(angles, xf, (1, 1), (1, 1, 1))[0][:, 2]
    np.testing.assert_allclose(zrot, [-11.376, -11.413, -11.395], atol=0.02)  # one tilt axis
