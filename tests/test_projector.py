"""taigs.Projector and `taigs project`: values, gradients, arrays of other libraries, files, and RELION's images."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from gradients import assert_grad_close, central_difference
from scenes import CLOUD_ARRAYS, PIXEL_SIZE, random_scene
from test_ctf import PROJECTIONS, cloud_of, fits, relion_views
from typer.testing import CliRunner

from taigs import Projector, runtime
from taigs.cli import main as cli
from taigs.cli.project import image_size
from taigs.errors import InputError, TaigsError
from taigs.geometry import euler_to_matrix
from taigs.imaging.ctf import Ctf
from taigs.io.clouds import read_cloud, write_cloud
from taigs.io.imod import read_angles
from taigs.io.mrc import open_stack
from taigs.io.star import Table, read_star, write_star
from taigs.projections import STACKS
from taigs.render import voxelize
from taigs.views import Grid

SHAPE, CUTOFF = (18, 25), 9.0


def a_ctf(n):
    """CTFs without symmetry, coarse enough for pixels of 1.3 A."""
    u = 3000 + 500.0 * np.arange(n)
    return Ctf(300, 2.7, 0.1, u, u - 700, 25, 10, 20, 0.9)


@pytest.fixture
def views(cpu64, rng):
    """(projector, rotations, shifts): five views in batches of two."""
    scene = random_scene(rng, 9, SHAPE, n_views=5)
    rotations = scene.matrices * PIXEL_SIZE
    # A wide cutoff, so that the edge of a support is nowhere to be seen.
    projector = Projector(scene.cloud, SHAPE, PIXEL_SIZE, batch=2, pad=2, cutoff=CUTOFF)
    return projector, rotations, scene.offsets - projector.centre


# --- the class -----------------------------------------------------------------------------------


def test_images_are_line_integrals_in_any_batch(views, rng):
    projector, rotations, shifts = views
    scene = random_scene(rng, 9, SHAPE, n_views=5)
    scene = replace(
        scene, cloud=projector.cloud, matrices=rotations / PIXEL_SIZE, offsets=shifts + np.array(projector.centre)
    )
    images = projector.project(rotations, shifts)
    assert images.shape == (5, *SHAPE)
    expected = scene.reference_images(CUTOFF) / PIXEL_SIZE**2
    np.testing.assert_allclose(images, expected, atol=1e-12 * expected.max())
    alone = [projector.project(rotations[v : v + 1], shifts[v : v + 1])[0] for v in range(5)]
    np.testing.assert_allclose(images, alone, atol=1e-12 * expected.max())


def test_a_premultiplied_image_has_the_ctf_twice(views):
    projector, rotations, shifts = views
    once, twice = (projector.project(rotations, shifts, a_ctf(5), premultiplied=p) for p in (False, True))
    # Without padding the second CTF can be applied to the image itself.
    field = Projector(projector.cloud, tuple(2 * n for n in SHAPE), PIXEL_SIZE, batch=2, cutoff=CUTOFF)
    offset = np.array(projector.centre) + projector.margin[::-1] - field.centre
    images = field.project(rotations, shifts + offset, a_ctf(5))
    k = np.fft.rfftfreq(images.shape[2], PIXEL_SIZE), np.fft.fftfreq(images.shape[1], PIXEL_SIZE)[:, None]
    again = np.fft.irfft2(np.fft.rfft2(images) * a_ctf(5)(*k), s=images.shape[1:])
    cut = slice(None), slice(9, 27), slice(12, 37)
    np.testing.assert_allclose(once, images[cut], atol=1e-12)
    np.testing.assert_allclose(twice, again[cut], atol=1e-3 * abs(twice).max())  # but for the Nyquist frequency


@pytest.mark.parametrize("premultiplied", [False, True])
def test_the_gradient_is_the_adjoint_of_the_images_which_are_linear_in_the_masses(views, rng, premultiplied):
    projector, rotations, shifts = views
    v_images = rng.normal(size=(5, *SHAPE))
    images = projector.project(rotations, shifts, a_ctf(5), premultiplied)
    gradient = projector.project_vjp(v_images, rotations, shifts, a_ctf(5), premultiplied)
    assert np.vdot(v_images, images) == pytest.approx(np.vdot(gradient["masses"], projector.cloud.masses), rel=1e-12)


def test_gradients_through_the_ctf_equal_central_differences(views, rng):
    projector, rotations, shifts = views
    cloud, v_images, ctf = projector.cloud, rng.normal(size=(5, *SHAPE)), a_ctf(5)
    gradient = projector.project_vjp(v_images, rotations, shifts, ctf)

    def value(rotations=rotations, shifts=shifts, **arrays):
        projector.cloud = replace(cloud, **arrays)
        return (v_images * projector.project(rotations, shifts, ctf)).sum()

    for name, x in {"rotations": rotations, "shifts": shifts}.items():
        expected = central_difference(lambda a, name=name: value(**{name: a}), x, 1e-5)
        assert_grad_close(gradient[name], expected, 1e-6, name=name)
    for name in CLOUD_ARRAYS:  # one Gaussian of each stands for the others
        x = getattr(cloud, name)

        def of_first(a, name=name, x=x):
            return value(**{name: np.concatenate([a, x[1:]])})

        assert_grad_close(gradient[name][:1], central_difference(of_first, x[:1], 1e-5), 1e-6, name=name)


class OnlyDlpack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class OnlyArray:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array.astype(dtype or self.array.dtype)


class OnAGpu(OnlyArray):
    """As CuPy: no implicit copy, but DLPack; as it stands, of memory that cannot be reached."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __dlpack__(self, **options):
        raise BufferError("the array is in device memory")

    def __dlpack_device__(self):
        return (2, 0)


@pytest.mark.parametrize("kind", [OnlyDlpack, OnlyArray, list])
def test_arrays_of_other_libraries_are_taken(views, rng, kind):
    projector, rotations, shifts = views
    v_images = rng.normal(size=(5, *SHAPE))
    expected = projector.project_vjp(v_images, rotations, shifts)
    gradient = projector.project_vjp(kind(v_images), kind(rotations), kind(shifts))
    for name, value in expected.items():
        np.testing.assert_array_equal(gradient[name], value)


def test_arrays_that_cannot_be_read_are_named(views):
    projector, rotations, shifts = views
    with pytest.raises(InputError, match=r"rotations: .*device memory; expected an array; try \.detach"):
        projector.project(OnAGpu(rotations))
    for arguments, message in (
        ((rotations[0],), r"rotations have shape \(2, 3\)"),
        ((rotations, shifts[:2]), r"shifts: array of shape \(2, 2\); expected finite numbers of shape \(5, 2\)"),
        ((rotations * np.nan,), "rotations: .*finite"),
        ((rotations, shifts, a_ctf(3)), "CTF of 3 images; expected one for each of 5"),
    ):
        with pytest.raises(InputError, match=message):
            projector.project(*arguments)
    with pytest.raises(InputError, match="v_images"):
        projector.project_vjp(np.zeros((5, 3, 3)), rotations)


@pytest.mark.parametrize("bad", [{"shape": (0, 5)}, {"pixel_size": 0}, {"pad": 0}, {"batch": 0}])
def test_impossible_images_are_refused(bad):
    cloud = random_scene(np.random.default_rng(0), 1, SHAPE).cloud
    with pytest.raises(InputError):
        Projector(**{"cloud": cloud, "shape": SHAPE, "pixel_size": 1.0} | bad)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def relion():
    """RELION's images of seven Gaussians, and all that made them."""
    with np.load(PROJECTIONS) as archive:
        return dict(archive)


@pytest.fixture
def folder(tmp_path, monkeypatch, cpu32, relion):
    """model.npz and RELION's poses of it in relion.star and tilts in ts.tlt, in the current directory."""
    pixel_size = float(relion["pixel_size"])
    monkeypatch.chdir(tmp_path)
    write_cloud("model.npz", cloud_of(relion, pixel_size), pixel_size, (64, 64, 64))
    labels = [name for name in relion if name.startswith("rln") and relion[name].ndim == 1]
    names = [f"{i:06d}@elsewhere/old.mrcs" for i in range(9, 3, -1)]
    particles = {"rlnMine": ["a", "b c", "c", "d", "e", "f"], "rlnImageName": names, "rlnOpticsGroup": np.full(6, 4)}
    optics = {"rlnOpticsGroup": [4], "rlnImagePixelSize": [pixel_size], "rlnImageSize": [64]}
    optics |= {name: [float(relion[name])] for name in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")}
    tables = [Table("particles", particles | {name: relion[name] for name in labels}), Table("optics", optics)]
    write_star("relion.star", [*tables, Table("other", {"kept": ["yes"]}, is_loop=False)])
    (tmp_path / "ts.tlt").write_text("-20\n0\n31.5\n")
    # Starting Taichi again would compile everything anew.
    monkeypatch.setattr(runtime, "init", lambda *arguments, **options: runtime.current())
    return tmp_path


def taigs(*arguments):
    """(exit code, stdout, stderr) of a command, run in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = CliRunner().invoke(cli.app, [*map(str, arguments)])
    if isinstance(result.exception, TaigsError):
        return result.exception.exit_code, result.stdout, f"error: {result.exception}\n"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


def taigs_project(*arguments):
    return taigs("project", "model.npz", "--quiet", *arguments)


def test_the_images_of_a_star_file_are_relions(folder, relion):
    assert taigs_project("--star", "relion.star", "-o", "new.mrcs") == (0, "new.mrcs\nnew.star\n", "")
    header, images = open_stack("new.mrcs")
    pixel_size = float(relion["pixel_size"])
    assert header.voxel_size[0] == pixel_size and images.shape == relion["images"].shape
    for measured, image in zip(relion["images"].astype(float), images, strict=True):
        correlation, slope = fits(measured, image / pixel_size)  # RELION sums voxels along the ray
        assert correlation > 0.9999 and slope == pytest.approx(1, abs=1e-3)


def test_the_star_beside_keeps_rows_columns_and_tables(folder):
    taigs_project("--star", "relion.star", "-o", "new.mrcs")
    old, new = read_star("relion.star"), read_star("new.star")
    assert list(new) == ["particles", "optics", "other"]
    assert new["particles"].strings("rlnImageName").tolist() == [f"{i:06d}@new.mrcs" for i in range(1, 7)]
    for name, table in old.items():
        assert list(new[name].columns) == list(table.columns)
        for label, column in table.columns.items():
            assert label == "rlnImageName" or np.array_equal(new[name].columns[label], column)


def test_without_ctf_the_star_need_not_have_one(folder, relion):
    tables = read_star("relion.star")
    columns = {k: v for k, v in tables["particles"].columns.items() if "Defocus" not in k}
    write_star("bare.star", [tables["optics"], Table("particles", columns)])
    code, _, err = taigs_project("--star", "bare.star", "-o", "new.mrcs")
    assert code == 3 and "rlnDefocusU" in err and "--no-ctf" in err and err.count("\n") == 1
    assert not list(folder.glob("new*"))
    assert taigs_project("--star", "bare.star", "--no-ctf", "-o", "new.mrcs")[0] == 0
    rotations, origins, _ = relion_views(relion.__getitem__, (300, 2.7, 0.1))
    projector = Projector(read_cloud("model.npz")[0], (64, 64), 1.5, centre=(32, 32))
    expected = projector.project(rotations, -origins / 1.5)
    np.testing.assert_allclose(open_stack("new.mrcs")[1], expected, atol=1e-4 * expected.max())


def test_an_untilted_projection_is_the_sum_of_the_voxels(folder):
    assert taigs_project("--tilt-angles", "ts.tlt", "-o", "ts.mrc", "--overwrite")[0] == 6  # ts.tlt is the input
    assert taigs_project("--tilt-angles", "ts.tlt", "-o", "again.mrc") == (0, "again.mrc\nagain.tlt\n", "")
    images = open_stack("again.mrc")[1]
    volume = voxelize(read_cloud("model.npz")[0], Grid((64, 64, 64), 1.5))
    expected = volume.sum(axis=0) * 1.5
    assert np.abs(images[1] - expected).max() < 1e-3 * expected.max()
    assert read_angles("again.tlt").tolist() == [-20, 0, 31.5]


def test_euler_angles_may_be_lists_and_a_movie_goes_round(folder):
    assert taigs_project("--rot", "10,20", "--tilt", "-30", "-o", "euler.mrcs")[0] == 0
    assert taigs_project("--movie", 4, "--rot", 10, "--tilt", "-30", "-o", "movie.mrcs")[0] == 0
    euler, movie = (np.asarray(open_stack(f"{name}.mrcs")[1]) for name in ("euler", "movie"))
    np.testing.assert_array_equal(euler[0], movie[0])
    # From behind, x is mirrored about 32; supports are cut by pixels that are not.
    np.testing.assert_allclose(movie[2][:, 1:], movie[0][:, :0:-1], atol=1e-3 * movie.max())
    assert taigs_project("--star", "movie.star", "--no-ctf", "-o", "back.mrcs")[0] == 0
    np.testing.assert_allclose(open_stack("back.mrcs")[1], movie, atol=1e-4 * movie.max())


def test_the_shape_and_pixel_size_can_be_chosen(folder):
    options = ("--rot", 0, "--shape", "64", "--pixel-size", 3)
    assert taigs_project(*options, "-o", "coarse.mrcs")[0] == 0
    header, images = open_stack("coarse.mrcs")
    assert images.shape == (1, 64, 64) and header.voxel_size[0] == 3
    assert image_size("64,32") == (32, 64)  # width first
    assert np.asarray(images).sum() * 9 == pytest.approx(read_cloud("model.npz")[0].masses.sum(), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "a.mrcs"], 2, "give one of"),
        (["--star", "relion.star", "--rot", "1", "-o", "a.mrcs"], 2, "give one of"),
        (["--star", "relion.star", "--pixel-size", "2", "-o", "a.mrcs"], 2, "the star says it"),
        (["--rot", "ten", "-o", "a.mrcs"], 3, '--rot "ten": expected degrees'),
        (["--rot", "1,2", "--psi", "1,2,3", "-o", "a.mrcs"], 3, "2, 1, 3 angles"),
        (["--rot", "1,2", "--movie", "3", "-o", "a.mrcs"], 3, "one angle each"),
        (["--rot", "1", "--shape", "a", "-o", "a.mrcs"], 3, '--shape "a"'),
        (["--rot", "1", "-o", "a.png"], 3, 'unknown extension ".png"; expected ' + ", ".join(STACKS)),
        (["--star", "model.npz", "-o", "a.mrcs"], 3, "is this a STAR file"),
        (["--star", "missing.star", "-o", "a.mrcs"], 3, "no such file"),
        (["--star", "relion.star", "--shape", "64,32", "-o", "a.mrcs"], 3, "expected a square image"),
        (["--tilt-angles", "relion.star", "-o", "a.mrcs"], 3, "relion.star:"),
        (["--star", "relion.star", "-o", "relion.mrcs", "--overwrite"], 6, "is an input"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(folder, arguments, code, message):
    before = set(folder.iterdir())
    found, out, err = taigs_project(*arguments)
    assert (found, out) == (code, "") and message in err
    assert code == 2 or err.count("\n") == 1 or "33 problems:" in err
    assert set(folder.iterdir()) == before


def test_results_are_not_overwritten_unasked(folder):
    (folder / "a.star").write_text("precious")
    assert taigs_project("--rot", 1, "-o", "a.mrcs")[0] == 6
    assert (folder / "a.star").read_text() == "precious" and not (folder / "a.mrcs").exists()
    assert taigs_project("--rot", 1, "-o", "a.mrcs", "--overwrite")[0] == 0


def test_rotations_of_a_movie_keep_y(rng):
    from taigs.projections import movie_poses

    rotations = movie_poses(6, (20, 30, 40)).rotations
    np.testing.assert_allclose(rotations[:, 1], np.tile(rotations[0, 1], (6, 1)), atol=1e-12)
    np.testing.assert_allclose(rotations[0], euler_to_matrix(20, 30, 40), atol=1e-12)
