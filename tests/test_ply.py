"""PLY files: our own come back unchanged, others read them, and plain splats are imported."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement
from scenes import CLOUD_ARRAYS, random_cloud

from taigs.cloud import GaussianCloud
from taigs.errors import InputError, InputWarning, RefusedError
from taigs.io import ply
from taigs.io.clouds import read_cloud, write_cloud
from taigs.io.ply import optical_depths, read_ply, write_ply

HEADER = {"format": "taigs-model", "version": 1, "signed": False, "pixel_size_A": 3.5, "shape_zyx": [5, 6, 7]}
SPLAT = ("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *ply.SCALE, *ply.ROTATION)


@pytest.fixture
def cloud(rng):
    return random_cloud(rng, 30, (9, 8, 7))


@pytest.fixture
def written(tmp_path, cloud):
    write_ply(tmp_path / "m.ply", cloud, HEADER)
    return tmp_path / "m.ply"


def plain_splats(path, n=4, names=SPLAT, kind="f4", **values):
    """A PLY as splatting programs write it."""
    rows = np.zeros(n, [(name, kind) for name in names])
    for name, value in {"rot_0": 1.0, **values}.items():
        if name in names:
            rows[name] = value
    PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(str(path))
    return path


def floats(low, high):
    return st.floats(low, high, width=32, allow_subnormal=False)


@st.composite
def clouds(draw):
    """Clouds of float32 numbers, as model.npz holds them."""
    n, signed = draw(st.integers(0, 5)), draw(st.booleans())
    position, log_sigma = floats(-(2.0**14), 2.0**14), floats(-8, 8)
    mass = floats(-(2.0**40) if signed else 0, 2.0**40)
    quaternion = st.tuples(*[floats(-2, 2)] * 4).filter(lambda q: np.linalg.norm(q) > 0.01)

    def rows(element, width):
        return np.array(draw(st.lists(element, min_size=n, max_size=n)), float).reshape(n, width)

    positions, log_sigmas = rows(st.tuples(*[position] * 3), 3), rows(st.tuples(*[log_sigma] * 3), 3)
    return GaussianCloud(positions, log_sigmas, rows(quaternion, 4), rows(mass, 1)[:, 0], signed)


@settings(max_examples=40, deadline=None)
@given(cloud=clouds(), pixel_size=st.floats(0.1, 50))
def test_a_cloud_comes_back_exactly(tmp_path_factory, cloud, pixel_size):
    path = tmp_path_factory.getbasetemp() / "round.ply"
    write_ply(path, cloud, {**HEADER, "pixel_size_A": pixel_size, "centre_xyz": [3, 3, 2]}, overwrite=True)
    back, header = read_ply(path)
    for name in CLOUD_ARRAYS:
        np.testing.assert_array_equal(getattr(back, name), getattr(cloud, name))
    assert back.signed == cloud.signed == header["signed"]
    assert (header["pixel_size_A"], header["centre_xyz"]) == (pixel_size, [3, 3, 2])


def test_a_model_goes_through_ply_unchanged(tmp_path, cloud):
    write_cloud(tmp_path / "model.npz", cloud, 2.5, (8, 8, 8), centre=(4, 4, 4), unit="per voxel")
    first, header = read_cloud(tmp_path / "model.npz")
    write_ply(tmp_path / "model.ply", first, header)
    second, back = read_cloud(tmp_path / "model.ply")
    assert back == header
    for name in CLOUD_ARRAYS:
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name))


def test_an_independent_reader_finds_the_splats(written, cloud):
    file = PlyData.read(str(written))
    assert (file.text, file.byte_order) == (False, "<")
    vertex = file["vertex"]
    assert [p.name for p in vertex.properties] == [*SPLAT, "mass"]
    np.testing.assert_array_equal(vertex["x"], cloud.positions[:, 0].astype("f4"))
    np.testing.assert_allclose(np.exp(vertex["scale_2"]), np.exp(cloud.log_sigmas[:, 2]), rtol=1e-6)
    np.testing.assert_array_equal(vertex["rot_0"], cloud.quaternions[:, 0].astype("f4"))
    np.testing.assert_array_equal(vertex["mass"], cloud.masses.astype("f4"))
    assert any("Angstrom" in comment for comment in file.comments) and "taigs 0" in file.comments[0]


def test_viewers_show_a_solid_grey_object_that_is_no_wall(rng):
    """The line through the middle is a few optical depths long, however many Gaussians share the mass."""
    for n in (300, 3000):
        ball = rng.normal(size=(n, 3))
        cloud = GaussianCloud(50 * ball, np.full((n, 3), 1.0), np.tile([1.0, 0, 0, 0], (n, 1)), np.full(n, 7.0))
        depths = optical_depths(cloud)
        lines = rng.uniform(-20, 20, size=(400, 2))  # many, near the middle: single ones may miss all Gaussians
        r2 = ((cloud.positions[None, :, :2] - lines[:, None]) ** 2).sum(axis=2) / np.exp(2.0)
        near = (depths * np.exp(-r2 / 2)).sum(axis=1).mean()
        assert 1.5 < near < 5


def test_negative_masses_are_darker(tmp_path, rng):
    cloud = random_cloud(rng, 2, (4, 4, 4))
    write_ply(tmp_path / "m.ply", GaussianCloud(*(getattr(cloud, n) for n in CLOUD_ARRAYS[:3]), [1, -1], True), HEADER)
    light, dark = 0.5 + ply.SH_ZERO * PlyData.read(str(tmp_path / "m.ply"))["vertex"]["f_dc_1"]
    assert (light, dark) == pytest.approx((0.8, 0.2))


def test_a_cloud_without_mass_can_be_written(tmp_path, rng):
    cloud = random_cloud(rng, 3, (4, 4, 4))
    empty = GaussianCloud(cloud.positions, cloud.log_sigmas, cloud.quaternions, np.zeros(3))
    write_ply(tmp_path / "m.ply", empty, HEADER)
    assert np.isfinite(PlyData.read(str(tmp_path / "m.ply"))["vertex"]["opacity"]).all()


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_plain_splats_get_masses_from_their_opacities_and_a_warning(tmp_path, kind):
    """Of an opaque Gaussian's peak the optical depth is -log(1 - opacity)."""
    path = plain_splats(tmp_path / "s.ply", kind=kind, opacity=np.log(0.6 / 0.4), scale_0=1.0, scale_1=0.5, x=3)
    with pytest.warns(InputWarning, match="no masses in it"):
        cloud, header = read_cloud(path)
    np.testing.assert_allclose(cloud.masses, 2 * np.pi * np.exp(2 * 0.5) * -np.log(0.4), rtol=1e-6)
    assert cloud.positions[0].tolist() == [3, 0, 0] and header["pixel_size_A"] is None


def test_other_properties_elements_and_orders_do_not_matter(tmp_path):
    names = [*reversed(SPLAT), "f_rest_0", "mass"]
    rows = np.zeros(2, [(name, "f4") for name in names])
    rows["rot_0"], rows["mass"], rows["y"] = 1, 5, [1, 2]
    more = PlyElement.describe(np.zeros(3, [("i", "i4")]), "other")
    PlyData([PlyElement.describe(rows, "vertex"), more], byte_order="<").write(str(tmp_path / "s.ply"))
    cloud, _ = read_ply(tmp_path / "s.ply")
    assert cloud.masses.tolist() == [5, 5] and cloud.positions[:, 1].tolist() == [1, 2]


def test_files_that_are_no_splats_are_refused(tmp_path):
    path = tmp_path / "s.ply"
    PlyData([PlyElement.describe(np.zeros(2, [("x", "f4")]), "vertex")], text=True).write(str(path))
    with pytest.raises(InputError, match="format ascii; expected binary_little_endian"):
        read_ply(path)
    with pytest.raises(InputError, match="no property scale_0; expected"):
        read_ply(plain_splats(path, names=("x", "y", "z", "opacity")))
    PlyData([PlyElement.describe(np.zeros(2, [("x", "f4")]), "chunk")], byte_order="<").write(str(path))
    with pytest.raises(InputError, match="first element is no vertex"):
        read_ply(path)
    path.write_bytes(b"a PLY it is not")
    with pytest.raises(InputError, match="not a PLY file"):
        read_ply(path)


def test_a_truncated_file_is_refused(written):
    whole = written.read_bytes()
    for part in (0, 2, 100, len(whole) // 2, len(whole) - 1):
        written.write_bytes(whole[:part])
        with pytest.raises(InputError, match=r"m\.ply: "):
            read_ply(written)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"version": 1', b'"version": 2', "model version 2; expected 1; try a newer taigs"),
        (b'"format": "taigs', b'"format": "other', "not a model of taigs"),
        (b'{"format"', b'{{format"', "not a readable PLY"),
        (b'"shape_zyx": [5, 6, 7]', b'"shape_zyx": [5, 6, 0]', "shape_zyx of its map"),
        (b"property float mass", b"property list uchar float mass", "not a readable PLY"),
        (b"property float x", b"property flote x", "not a readable PLY"),
        (b"element vertex 30", b"element vertex -3", "truncated"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(written, old, new, message):
    written.write_bytes(written.read_bytes().replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_ply(written)


def test_an_existing_file_is_kept(written, cloud):
    before = written.read_bytes()
    with pytest.raises(RefusedError):
        write_ply(written, cloud.subset([0]), HEADER)
    assert written.read_bytes() == before


def test_the_header_is_plain_text_in_one_line(written):
    lines = written.read_bytes().split(b"end_header")[0].decode("ascii").splitlines()
    [own] = [line.removeprefix(ply.MARK) for line in lines if line.startswith(ply.MARK)]
    assert json.loads(own) == HEADER
