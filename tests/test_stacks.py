"""taigs.io.stacks: finding stacks, checking them, and reading images when they are asked for."""

import gzip
import os
import tracemalloc

import numpy as np
import pytest

from taigs.errors import InputError, InputWarning, ResourceError
from taigs.io.mrc import _HEADER, IMOD_STAMP, write_stack
from taigs.io.stacks import StackImages, find_stacks


def mrc(path, images, mode, order="<", nsymbt=0, imod=False):
    """MRC file of any type and byte order."""
    header = np.zeros((), _HEADER.newbyteorder(order))
    header["size"] = header["sampling"] = images.shape[::-1]
    header["mode"], header["axes"], header["map"], header["nsymbt"] = mode, (1, 2, 3), b"MAP ", nsymbt
    header["cell"] = 2.0 * np.array(images.shape[::-1])
    header["stamp"] = np.void(b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    header["imod_stamp"] = IMOD_STAMP if imod else 0
    kind = {0: "u1" if imod else "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}[mode]
    path.write_bytes(header.tobytes() + bytes(nsymbt) + images.astype(order + kind).tobytes())
    return path


@pytest.fixture
def two(tmp_path, rng):
    """Two stacks and their images."""
    images = [rng.normal(size=(n, 6, 6)).astype(np.float32) for n in (5, 3)]
    paths = [tmp_path / f"{name}.mrcs" for name in "ab"]
    for path, stack in zip(paths, images, strict=True):
        write_stack(path, stack, 2.0)
    return paths, images


FILES, SLICES = np.array([0, 1, 0, 0, 1, 0]), np.array([4, 2, 0, 1, 0, 0])


# --- indexing ------------------------------------------------------------------------------------


def test_images_come_in_the_order_asked_for_whatever_stack_they_are_in(two):
    paths, stacks = two
    images = StackImages(paths, FILES, SLICES)
    expected = np.stack([stacks[f][s] for f, s in zip(FILES, SLICES, strict=True)])
    assert images.shape == (6, 6, 6) and len(images) == 6
    assert images[3].dtype == images[:].dtype == np.float32
    np.testing.assert_array_equal(images[3], expected[3])
    np.testing.assert_array_equal(images[np.int64(-1)], expected[-1])
    np.testing.assert_array_equal(np.asarray(images), expected)
    for index in (slice(1, 5, 2), slice(None, None, -1), [5, 0, 5, 1], np.array([2, 3]), FILES == 1, []):
        np.testing.assert_array_equal(images[index], expected[index])
    with pytest.raises(IndexError):
        images[6]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", [0, 1, 2, 6, 12])
def test_every_type_and_byte_order_is_read(tmp_path, rng, mode, order):
    values = rng.integers(0 if mode == 6 else -100, 100, (4, 3, 3))
    path = mrc(tmp_path / "x.mrcs", values, mode, order, nsymbt=160)
    images = StackImages([path], np.zeros(4, int), np.arange(4), mode0="signed")
    np.testing.assert_array_equal(images[[3, 1]], values[[3, 1]])


def test_the_sign_of_bytes_is_guessed_with_a_warning_or_given(tmp_path):
    path = mrc(tmp_path / "x.mrcs", np.full((3, 2, 2), 200), 0)
    with pytest.warns(InputWarning, match=r"x\.mrcs: 8-bit data read as signed .* try --mode0 unsigned"):
        assert StackImages([path], [0], [1])[0].tolist() == [[-56, -56], [-56, -56]]
    assert StackImages([path], [0], [1], mode0="unsigned")[0].tolist() == [[200, 200], [200, 200]]


def test_bytes_of_imod_are_unsigned(tmp_path):
    path = mrc(tmp_path / "x.mrcs", np.full((1, 2, 2), 200), 0, imod=True)
    assert StackImages([path], [0], [0])[0].tolist() == [[200, 200], [200, 200]]


def test_a_sign_turns_the_contrast_of_all_or_some_images(two):
    paths, stacks = two
    np.testing.assert_array_equal(StackImages(paths, [0, 0], [1, 2], sign=-1)[:], -stacks[0][1:3])
    images = StackImages(paths, [0, 0], [1, 2], sign=[1, -1])
    np.testing.assert_array_equal(images[1], -stacks[0][2])
    np.testing.assert_array_equal(images[0], stacks[0][1])


def test_adjoining_sections_are_read_in_one_go_and_long_ones_in_parts(two, monkeypatch):
    paths, stacks = two
    reads = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: reads.append((n // 144, (at - 1024) // 144)) or pread(fd, n, at))
    images = StackImages(paths, np.zeros(5, int), np.arange(5))
    np.testing.assert_array_equal(images[[4, 0, 2, 1]], stacks[0][[4, 0, 2, 1]])
    assert reads == [(3, 0), (1, 4)]
    monkeypatch.setattr("taigs.io.sections.READ_BYTES", 2 * 144)
    np.testing.assert_array_equal(images[:], stacks[0])
    assert reads[2:] == [(2, 0), (2, 2), (1, 4)]


def test_memory_does_not_grow_with_the_stack(tmp_path):
    path = tmp_path / "large.mrcs"
    write_stack(path, np.zeros((1, 256, 256)), 2.0)
    n = 30_000  # 7.9 GB, all of it a hole
    with open(path, "r+b") as file:
        file.seek(8)
        file.write(np.array(n, "<i4").tobytes())
        file.truncate(1024 + n * 256 * 256 * 4)
        file.seek(1024 + (n - 1) * 256 * 256 * 4)
        file.write(np.full((256, 256), 7, "<f4").tobytes())
    tracemalloc.start()
    images = StackImages([path], np.zeros(n, int), np.arange(n))
    for i in (0, n // 2, n - 1):
        last = images[i]
    batch = images[np.arange(0, n, 2000)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last.min() == 7 and batch.shape == (15, 256, 256)
    assert peak < 20e6


# --- what is wrong with stacks -------------------------------------------------------------------


def test_sections_beyond_the_end_are_named_with_their_line_and_the_number_there_is(two):
    paths, _ = two
    with pytest.raises(InputError) as error:
        StackImages(paths, [0, 1, 1], [4, 3, 998], where=lambda i: f"p.star:{i + 10}")
    message = str(error.value)
    assert f"p.star:11: image 4 of {paths[1]}; expected 1 to 3" in message
    assert f"p.star:12: image 999 of {paths[1]}; expected 1 to 3" in message


def test_stacks_of_different_boxes_are_refused_with_a_table(two, tmp_path):
    paths, _ = two
    write_stack(tmp_path / "c.mrcs", np.ones((2, 8, 8)), 2.0)
    message = "stacks of different boxes: 6 x 6 in 2 .first .*a.mrcs., 8 x 8 in 1 .first .*c.mrcs.; expected one"
    with pytest.raises(InputError, match=message):
        StackImages([*paths, tmp_path / "c.mrcs"], [0, 1, 2], [0, 0, 0])


def test_images_must_be_square(tmp_path):
    write_stack(tmp_path / "c.mrcs", np.ones((2, 8, 9)), 2.0)
    with pytest.raises(InputError, match=r"c\.mrcs: images of 9 x 8 pixels; expected square ones"):
        StackImages([tmp_path / "c.mrcs"], [0], [0])


def test_problems_are_reported_together_ten_of_them_in_full(tmp_path):
    with pytest.raises(InputError) as error:
        StackImages([tmp_path / f"{i}.mrcs" for i in range(13)], np.arange(13), np.zeros(13, int))
    lines = str(error.value).splitlines()
    assert lines[0] == "13 stacks: 13 problems:" and len(lines) == 12 and lines[-1] == "  and 3 more"
    assert "0.mrcs: no such file" in lines[1]


def test_stacks_that_no_image_is_in_are_not_looked_at(two, tmp_path):
    paths, stacks = two
    images = StackImages([tmp_path / "none.mrcs", *paths], [1, 2], [0, 0])
    np.testing.assert_array_equal(images[1], stacks[1][0])


def test_compressed_stacks_are_refused_with_the_remedy(two):
    paths, _ = two
    packed = paths[0].with_suffix(".mrcs.gz")
    packed.write_bytes(gzip.compress(paths[0].read_bytes()))
    with pytest.raises(InputError, match=r"a\.mrcs\.gz: compressed.* try decompressing it"):
        StackImages([packed], [0], [0])


def test_a_stack_without_the_number_of_sections_asked_for_is_refused(two):
    paths, _ = two
    assert len(StackImages(paths, [0, 1], [0, 0], sections=[5, 3])) == 2
    with pytest.raises(InputError, match=r"b\.mrcs: 3 images; expected 4"):
        StackImages(paths, [0, 1], [0, 0], sections=[5, 4])


def test_volumes_with_turned_axes_are_no_stacks(two):
    paths, _ = two
    content = bytearray(paths[0].read_bytes())
    content[64:76] = np.array([3, 2, 1], "<i4").tobytes()
    paths[0].write_bytes(content)
    with pytest.raises(InputError, match=r"axis order \(3, 2, 1\) in an image stack"):
        StackImages(paths, [0], [0])


def test_no_images_are_an_error():
    with pytest.raises(InputError, match="no images"):
        StackImages([], [], [])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_found_when_they_are_read(tmp_path, value):
    images = np.zeros((5, 4, 4))
    images[3, 1, 2] = images[3, 2, 2] = value
    path = mrc(tmp_path / "x.mrcs", images, 2)
    stack = StackImages([path], np.zeros(5, int), np.arange(5))
    assert stack[[0, 4]].shape == (2, 4, 4)
    message = r"x\.mrcs: section 4 \(from 1\) holds 2 NaN or infinite pixels, first at y 1, x 2"
    with pytest.raises(InputError, match=message):
        stack[:]


@pytest.mark.parametrize("change", ["shortened", "replaced", "touched"])
def test_a_stack_that_changes_while_it_is_used_is_an_error(two, change):
    paths, _ = two
    images = StackImages(paths, FILES, SLICES)
    images[:]
    if change == "shortened":
        os.truncate(paths[0], 1500)
    elif change == "replaced":
        os.replace(paths[1], paths[0])
    else:
        os.utime(paths[0], (1, 1))
    with pytest.raises(InputError, match=r"a\.mrcs: changed after its header was read"):
        images[0]


def test_a_stack_that_disappears_is_named(two):
    paths, _ = two
    images = StackImages(paths, FILES, SLICES)
    paths[0].unlink()
    with pytest.raises(InputError, match=r"a\.mrcs: no such file"):
        images[0]


def test_a_stack_that_may_not_be_read_is_no_fault_of_the_input(two, monkeypatch):
    paths, _ = two
    images = StackImages(paths, FILES, SLICES)

    def failing(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(ResourceError, match=r"a\.mrcs: cannot be read \(Input/output error\)"):
        images[0]


def without_marks(path):
    """As cryoDRGN and tomoDRGN write them: neither "MAP " nor machine stamp."""
    content = bytearray(path.read_bytes())
    content[208:216] = bytes(8)
    path.write_bytes(content)


def test_headers_without_marks_pass_if_they_account_for_every_byte_and_warn_once(two):
    paths, stacks = two
    for path in paths:
        without_marks(path)
    with pytest.warns(InputWarning) as caught:
        images = StackImages(paths, FILES, SLICES)
    assert len(caught) == 1
    assert "a.mrcs: machine stamp 00 00 is wrong" in str(caught[0].message)
    assert str(caught[0].message).endswith("(and in 1 more stacks)")
    np.testing.assert_array_equal(images[1], stacks[1][2])


def test_a_file_without_marks_whose_size_does_not_fit_is_no_stack(two):
    paths, _ = two
    without_marks(paths[0])
    with open(paths[0], "ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r'a\.mrcs: not an MRC file \(no "MAP " at byte 208\)'):
        StackImages(paths, FILES, SLICES)


# --- finding -------------------------------------------------------------------------------------


def test_stacks_are_found_from_here_from_the_source_or_above_it(tmp_path, monkeypatch):
    project = tmp_path / "project"
    for folder in ("Extract", "Refine3D/job012"):
        (project / folder).mkdir(parents=True)
    stack = project / "Extract/a.mrcs"
    stack.write_bytes(b"")
    source = project / "Refine3D/job012/run_data.star"
    assert find_stacks(["Extract/a.mrcs"], source) == [stack]
    (source.parent / "b.mrcs").write_bytes(b"")
    assert find_stacks(["b.mrcs"], source) == [source.parent / "b.mrcs"]
    assert find_stacks([str(stack)], "elsewhere.star") == [stack]
    monkeypatch.chdir(project)
    assert [str(path) for path in find_stacks(["Extract/a.mrcs"], source)] == ["Extract/a.mrcs"]
    monkeypatch.chdir(source.parent)
    assert find_stacks(["Extract/a.mrcs"], "run_data.star") == [stack]


def test_a_data_folder_comes_first_with_the_whole_name_or_the_last_part(tmp_path):
    for folder in ("old/Extract", "new/Extract", "flat"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.mrcs").write_bytes(b"")
    source = tmp_path / "old/p.star"
    assert find_stacks(["Extract/a.mrcs"], source, tmp_path / "new") == [tmp_path / "new/Extract/a.mrcs"]
    assert find_stacks(["Extract/a.mrcs"], source, tmp_path / "flat") == [tmp_path / "flat/a.mrcs"]
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_stacks(["Extract/a.mrcs"], source, tmp_path / "nowhere")


def test_missing_stacks_are_counted_and_the_first_one_named_with_where_it_was_looked_for(tmp_path):
    (tmp_path / "s2.mrcs").write_bytes(b"")
    names = [f"s{i}.mrcs" for i in range(5)]
    with pytest.raises(InputError) as error:
        find_stacks(names, tmp_path / "p.star", tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/p.star: 4 of 5 stacks missing, first: s0.mrcs (tried {tmp_path}/s0.mrcs, s0.mrcs); "
        "try --datadir DIR to rebase"
    )
