"""taigs.io.mrc against mrcfile, and against every damage a header can have."""

import bz2
import errno
import gzip
import os
import resource
import struct
import warnings

import mrcfile
import numpy as np
import pytest

from taigs.errors import InputError, InputWarning, NumericalError, RefusedError, ResourceError
from taigs.io import mrc
from taigs.io.mrc import open_stack, read_header, read_volume, write_stack, write_volume

SHAPE = (3, 4, 5)


@pytest.fixture
def volume():
    return np.random.default_rng(7).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def good(tmp_path, volume):
    """A file written by mrcfile, voxel size 2.5 A."""
    path = tmp_path / "good.mrc"
    with mrcfile.new(path, volume) as file:
        file.voxel_size = 2.5
    return path


def patched(path, at, form, *values):
    """The same file with some header bytes replaced."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at, *values)
    path.write_bytes(content)
    return path


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["i1", "i2", "f4", "u2", "f2"])
def test_every_mode_in_both_byte_orders_reads_as_mrcfile_reads_it(tmp_path, kind, order):
    values = np.random.default_rng(1).integers(0, 120, SHAPE).astype(order + kind)
    with mrcfile.new(tmp_path / "a.mrc", values):
        pass
    header, images = open_stack(tmp_path / "a.mrc")
    assert header.dtype == values.dtype and header.shape == SHAPE
    assert np.array_equal(images, mrcfile.read(tmp_path / "a.mrc"))
    got, _ = read_volume(tmp_path / "a.mrc")
    assert got.dtype == np.float32 and got.dtype.isnative
    assert np.array_equal(got, values.astype(np.float32))


def test_voxel_size_labels_and_extended_header_are_read(tmp_path, volume):
    with mrcfile.new(tmp_path / "a.mrc", volume) as file:
        file.voxel_size = (1.35, 1.4, 2)
        file.set_extended_header(np.zeros(48, "V1"))
        file.add_label("aligned")
    header = read_header(tmp_path / "a.mrc")
    assert header.voxel_size == (1.35, 1.4, 2.0)
    assert header.offset == 1024 + 48
    assert header.labels[-1].startswith("aligned")
    assert np.array_equal(read_volume(tmp_path / "a.mrc")[0], volume)


@pytest.mark.parametrize("cell", [(0, 0, 0), (5, 4, 3), (np.nan,) * 3, (np.inf, 4, 3), (-5, 4, 3)])
def test_a_voxel_size_of_0_or_1_or_nonsense_is_unknown(good, cell):
    assert read_header(patched(good, 40, "<3f", *cell)).voxel_size is None  # sampling is 5, 4, 3


def test_sampling_of_zero_makes_the_voxel_size_unknown(good):
    assert read_header(patched(good, 28, "<3i", 0, 0, 0)).voxel_size is None


def test_an_image_stack_without_a_cell_depth_keeps_its_pixel_size(good):
    patched(good, 88, "<i", 0)
    assert read_header(patched(good, 48, "<f", 0)).voxel_size == (2.5, 2.5, 2.5)


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (3, 1, 2), (2, 3, 1), (1, 3, 2)])
def test_a_volume_stored_with_permuted_axes_is_turned_to_zyx(tmp_path, volume, axes):
    mapc, mapr, maps = axes
    stored = volume.transpose([3 - maps, 3 - mapr, 3 - mapc])  # axis a is dimension 3 - a of [z, y, x]
    with mrcfile.new(tmp_path / "a.mrc", np.ascontiguousarray(stored)) as file:
        file.header.mapc, file.header.mapr, file.header.maps = axes
    got, header = read_volume(tmp_path / "a.mrc")
    assert np.array_equal(got, volume) and got.flags.c_contiguous
    assert header.axes == axes and header.shape == stored.shape


def test_permuted_axes_in_a_stack_are_refused(good):
    with pytest.raises(InputError, match=r"axis order \(3, 2, 1\) in an image stack"):
        open_stack(patched(good, 64, "<3i", 3, 2, 1))


def test_axes_that_are_no_permutation_are_refused(good):
    with pytest.raises(InputError, match=r"mapc, mapr, maps = \(1, 1, 1\)"):
        read_header(patched(good, 64, "<3i", 1, 1, 1))


def test_unset_axes_are_assumed_with_a_warning(good, volume):
    with pytest.warns(InputWarning, match="mapc, mapr, maps are unset"):
        assert np.array_equal(read_volume(patched(good, 64, "<3i", 0, 0, 0))[0], volume)


@pytest.mark.parametrize("stamp", [b"\0\0\0\0", b"\x11\x11\0\0", b"abcd"])
def test_a_wrong_machine_stamp_is_overruled_by_mode_and_size(good, volume, stamp):
    with pytest.warns(InputWarning, match="machine stamp .* is wrong; mode and nx say little-endian"):
        assert np.array_equal(read_volume(patched(good, 212, "4s", stamp))[0], volume)


def test_a_big_endian_file_with_a_little_endian_stamp_is_read(tmp_path, volume):
    with mrcfile.new(tmp_path / "a.mrc", volume.astype(">f4")):
        pass
    with pytest.warns(InputWarning, match="say big-endian"):
        got, _ = read_volume(patched(tmp_path / "a.mrc", 212, "4s", b"\x44\x44\0\0"))
    assert np.array_equal(got, volume)


def test_map_followed_by_nul_is_accepted(good, volume):
    assert np.array_equal(read_volume(patched(good, 208, "4s", b"MAP\0"))[0], volume)


@pytest.mark.parametrize("flags, expected", [(0, [0, 127, 128, 255]), (1, [0, 127, -128, -1])])
def test_imods_flag_decides_the_sign_of_bytes(tmp_path, flags, expected):
    with mrcfile.new(tmp_path / "a.mrc", np.array([[[0, 127, -128, -1]]], np.int8)):
        pass
    path = patched(tmp_path / "a.mrc", 152, "<2i", 1146047817, flags)
    assert read_volume(path)[0].ravel().tolist() == expected
    assert read_header(path).is_imod


def test_bytes_without_imods_stamp_are_signed_with_a_warning(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc", np.array([[[0, -1]]], np.int8)):
        pass
    with pytest.warns(InputWarning, match="8-bit data read as signed"):
        assert read_volume(tmp_path / "a.mrc")[0].ravel().tolist() == [0, -1]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compressed_files_are_read_whatever_their_name(good, volume, pack):
    good.write_bytes(pack(good.read_bytes()))
    header, images = open_stack(good)
    assert np.array_equal(images, volume)
    assert header.file_size == 1024 + 4 * 60


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:60] + bytes([b[60] ^ 255]) + b[61:]])
def test_damaged_compressed_files_are_refused_by_name(good, pack, damage):
    good.write_bytes(damage(pack(good.read_bytes())))
    with pytest.raises(InputError, match=r"good\.mrc: the compressed file is damaged"):
        read_volume(good)


# --- damage --------------------------------------------------------------------------------------


def test_a_missing_file_is_reported_with_the_nearest_name(good):
    with pytest.raises(InputError, match=r"god\.mrc: no such file; did you mean .*good\.mrc\?"):
        read_header(good.with_name("god.mrc"))
    with pytest.raises(InputError, match=r"no such file$"):
        read_header(good.parent / "nowhere" / "a.mrc")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        read_header(tmp_path)


def test_a_file_that_may_not_be_read_is_a_resource_error(good, monkeypatch):
    def forbidden(*_):  # a superuser running the tests may read everything
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(mrc, "open", forbidden, raising=False)
    with pytest.raises(ResourceError, match=r"good\.mrc: cannot be read \(Permission denied\)"):
        read_header(good)


@pytest.mark.parametrize("size", [0, 1, 1023])
def test_a_file_shorter_than_a_header_is_refused(good, size):
    good.write_bytes(good.read_bytes()[:size])
    with pytest.raises(InputError, match=f"{size} bytes, an MRC header is 1024"):
        read_header(good)


@pytest.mark.parametrize("content", [bytes(2000), b"loop_\n" * 500, b"\x1f\x8b" + bytes(2000)])
def test_a_file_of_another_kind_is_refused(good, content):
    good.write_bytes(content)
    with pytest.raises(InputError, match=r"not an MRC file|compressed file is damaged"):
        read_header(good)


def test_truncated_data_are_refused_with_both_sizes(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc", np.zeros((41, 40, 30), np.float32)):
        pass
    with open(tmp_path / "a.mrc", "r+b") as file:
        file.truncate(1024 + 100_000)
    message = r"header says 41 x 40 x 30 float32 = 196 800 bytes, file has 100 000: truncated copy\?"
    with pytest.raises(InputError, match=message):
        read_header(tmp_path / "a.mrc")


def test_a_header_without_data_is_refused(good):
    good.write_bytes(good.read_bytes()[:1024])
    with pytest.raises(InputError, match="file has 0: truncated"):
        open_stack(good)


@pytest.mark.parametrize("at, name", [(0, "nx"), (4, "ny"), (8, "nz")])
@pytest.mark.parametrize("size", [0, -8])
def test_a_size_that_is_none_is_named(good, at, name, size):
    with pytest.raises(InputError, match=f"{name} = {size} is not a size"):
        read_header(patched(good, at, "<i", size))


def test_a_huge_size_in_a_small_file_is_refused_from_the_header(good):
    with pytest.raises(InputError, match="3 x 4 x 2147483647 float32 = 103 079 215 056 bytes"):
        open_stack(patched(good, 0, "<i", 2**31 - 1))


@pytest.mark.parametrize("mode, word", [(3, "complex"), (4, "complex"), (16, "RGB"), (101, "4-bit"), (999, "999")])
def test_other_modes_are_refused(good, mode, word):
    with pytest.raises(InputError, match=f"mode {mode}.* is not an image; supported 0 1 2 6 12") as error:
        read_header(patched(good, 12, "<i", mode))
    assert word in str(error.value)


@pytest.mark.parametrize("nsymbt", [-4, 241, 2**31 - 1])
def test_an_impossible_extended_header_is_refused(good, nsymbt):
    with pytest.raises(InputError, match=f"nsymbt = {nsymbt} bytes; the file has 240 after the header"):
        read_header(patched(good, 92, "<i", nsymbt))


@pytest.mark.parametrize("mz", [0, 2])
def test_a_stack_of_volumes_that_does_not_divide_is_refused(good, mz):
    patched(good, 88, "<i", 401)
    with pytest.raises(InputError, match=f"volume stack with nz=3, mz={mz}"):
        read_header(patched(good, 36, "<i", mz))


def test_bytes_after_the_data_are_warned_about(good, volume):
    good.write_bytes(good.read_bytes() + bytes(1234))
    with pytest.warns(InputWarning, match="1 234 bytes after the data are ignored"):
        assert np.array_equal(read_volume(good)[0], volume)


def test_no_damage_to_header_bytes_raises_anything_but_an_input_error(good):
    rng, content = np.random.default_rng(3), good.read_bytes()
    for _ in range(1000):
        damaged = bytearray(content)
        for at in rng.integers(0, 256, rng.integers(1, 5)):
            damaged[at] = rng.integers(256)
        good.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            try:
                header = read_header(good)
            except InputError:
                continue
            assert header.offset + np.prod(header.shape) * header.dtype.itemsize <= len(damaged)


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("write, ispg", [(write_volume, 1), (write_stack, 0)])
def test_what_is_written_is_valid_and_reads_back(tmp_path, volume, write, ispg, capsys):
    path = tmp_path / "a.mrc"
    write(path, volume + 1000, 1.35, label="density bright")
    assert mrcfile.validate(path), capsys.readouterr().out
    with mrcfile.open(path) as file:
        assert np.array_equal(file.data, volume + 1000)
        assert int(file.header.ispg) == ispg
        assert file.voxel_size.tolist() == pytest.approx((1.35, 1.35, 1.35))
        values = file.data.astype(float)
        found = [float(file.header[name]) for name in ("dmin", "dmax", "dmean", "rms")]
    assert found == pytest.approx([values.min(), values.max(), values.mean(), values.std()], rel=1e-6)
    header = read_header(path)
    assert header.voxel_size == (1.35, 1.35, 1.35) and header.labels == ("density bright",)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mrc"]


def test_other_types_and_strides_are_written_as_float32(tmp_path, volume):
    turned = volume.astype(">f8").transpose(2, 1, 0)
    write_volume(tmp_path / "a.mrc", turned, (1.5, 2, 3))
    got, header = read_volume(tmp_path / "a.mrc")
    assert np.array_equal(got, turned.astype(np.float32)) and header.voxel_size == (1.5, 2.0, 3.0)


def test_an_existing_file_is_replaced_only_on_request(good, volume):
    before = good.read_bytes()
    with pytest.raises(RefusedError, match="exists already"):
        write_volume(good, volume, 1.5)
    assert good.read_bytes() == before
    write_volume(good, volume + 1, 1.5, overwrite=True)
    assert np.array_equal(read_volume(good)[0], volume + 1)


def assert_untouched(path, before):
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_full_disk_leaves_the_old_file_and_no_rest(good):
    before, limits = good.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # Python ignores SIGXFSZ: OSError
    try:
        with pytest.raises(ResourceError, match=r"good\.mrc: cannot be written \(File too large\)"):
            write_volume(good, np.zeros((40, 40, 40)), 1.5, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_untouched(good, before)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_while_finishing_leaves_the_old_file(good, volume, monkeypatch, step):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = good.read_bytes()
    monkeypatch.setattr(mrc.os, step, fail)
    with pytest.raises(ResourceError, match="Input/output error"):
        write_volume(good, volume, 1.5, overwrite=True)
    assert_untouched(good, before)


def test_an_interrupt_leaves_the_old_file(good):
    before = good.read_bytes()
    with pytest.raises(KeyboardInterrupt), mrc.atomic_file(good, overwrite=True) as file:
        file.write(b"half a")
        raise KeyboardInterrupt
    assert_untouched(good, before)


def test_a_missing_folder_is_a_resource_error(tmp_path, volume):
    with pytest.raises(ResourceError, match="No such file or directory"):
        write_volume(tmp_path / "nowhere" / "a.mrc", volume, 1.5)


def test_non_finite_voxels_are_not_written(good, volume):
    before = good.read_bytes()
    volume[1, 2, 3] = np.nan
    with pytest.raises(NumericalError, match="section 1 holds NaN or infinite values"):
        write_volume(good, volume, 1.5, overwrite=True)
    assert_untouched(good, before)


@pytest.mark.parametrize("shape, voxel_size", [((4, 4), 1.5), ((0, 4, 4), 1.5), (SHAPE, 0), (SHAPE, np.nan)])
def test_nothing_to_write_or_no_voxel_size_is_refused(tmp_path, shape, voxel_size):
    with pytest.raises(InputError, match="expected"):
        write_volume(tmp_path / "a.mrc", np.zeros(shape), voxel_size)
    assert not list(tmp_path.iterdir())


# --- real files ----------------------------------------------------------------------------------


@pytest.mark.shared
def test_a_header_only_file_of_another_package_is_refused(shared):
    with pytest.raises(InputError, match="not an MRC file"):
        read_header(shared / "data/metadata/star_odd/header_only.mrc")


@pytest.mark.shared
def test_a_deposited_map_with_permuted_axes_is_turned(shared):
    path = shared / "data/maps/EMD-3001.map"
    volume, header = read_volume(path)
    with mrcfile.open(path) as file:
        assert header.axes == (3, 1, 2)
        # columns run along z, rows along x, sections along y
        assert np.array_equal(volume, file.data.transpose(2, 0, 1))
        assert header.voxel_size == pytest.approx(file.voxel_size.tolist(), rel=1e-6)


@pytest.mark.shared
def test_a_real_tilt_series_reads_as_mrcfile_reads_it(shared):
    path = shared / "data/tilt_series_bead/p1_unweighted_aligned.mrc"
    header, images = open_stack(path)
    assert header.voxel_size is None and header.shape == (41, 100, 100)
    assert np.array_equal(images, mrcfile.read(path))
