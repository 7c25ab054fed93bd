"""`taigs simulate`: images against other ways to make them, noise, errors, damage, sources, and the way back."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
from scipy.spatial.transform import Rotation
from test_ctf import scalar_ctf
from typer.testing import CliRunner

from taigs import runtime, simulate
from taigs.baseline import weighted_back_projection
from taigs.cli import main as cli
from taigs.cloud import GaussianCloud
from taigs.compare import read_pair
from taigs.errors import TaigsError
from taigs.imaging.dose import dose_weight
from taigs.io.clouds import read_cloud, write_cloud
from taigs.io.imod import read_angles, read_numbers, read_xf
from taigs.io.mrc import open_stack, read_volume, write_stack, write_volume
from taigs.io.particles import read_particles
from taigs.io.star import read_star
from taigs.io.tilt_series import read_tilt_series
from taigs.metrics import ncc
from taigs.phantom import phantom_particles, phantom_scene, phantom_tilt_series
from taigs.render import voxelize
from taigs.simulate import Particles, _rotations, noise_color
from taigs.simulate_source import extent, radius, read_source
from taigs.simulate_tilt import dose_before
from taigs.views import Grid

BOX, PIXEL_SIZE = 48, 8.0
INIT, DRAW = runtime.init, simulate.draw_sections
SHAPE = (26, 48, 48)


def phantom():
    return phantom_scene(np.random.default_rng(5), PIXEL_SIZE * np.array(SHAPE[::-1]))


def cloud_of(scene):
    return GaussianCloud(scene.positions, np.log(scene.sigmas), scene.quaternions, scene.masses)


@pytest.fixture
def folder(tmp_path, monkeypatch, cpu32):
    """The phantom as model.npz, in the current directory."""
    monkeypatch.chdir(tmp_path)
    write_cloud("model.npz", cloud_of(phantom()), PIXEL_SIZE, SHAPE)
    # Starting Taichi again would compile everything anew, and so does every truth that is drawn slab by slab.
    monkeypatch.setattr(runtime, "init", lambda *arguments, **options: runtime.current())
    monkeypatch.setattr(simulate, "draw_sections", lambda cloud, grid, factor, _: factor * voxelize(cloud, grid))
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


def simulate_spa(*arguments, output="sim", particles=40):
    arguments = ("model.npz", *arguments, "-o", output, "--particles", particles, "--box", BOX, "-q")
    assert taigs("simulate", "spa", *arguments) == (0, f"{output}/particles.star\n", "")
    return np.array(open_stack(f"{output}/particles.mrcs")[1], float)


def simulate_tilt(*arguments, output="sim"):
    assert taigs("simulate", "tilt", "model.npz", *arguments, "-o", output, "-q") == (0, f"{output}/ts.mrc\n", "")
    return np.array(open_stack(f"{output}/ts.mrc")[1], float)


# --- particles -----------------------------------------------------------------------------------


def test_clean_particles_are_those_of_the_phantoms_own_code(folder, rng):
    images = simulate_spa("--snr", "inf", "--shift-px", 2)
    assert {path.name for path in (folder / "sim").iterdir()} == {
        "command.txt", "config.json", "environment.json", "particles.mrcs", "particles.star", "run.log", "truth.mrc",
        "truth.npz", "truth.star",
    }  # fmt: skip
    views = read_particles("sim/particles.star")
    rotations = np.concatenate([views.projections, np.cross(*views.projections.transpose(1, 0, 2))[:, None]], axis=1)
    expected = phantom_particles(phantom(), rotations, views.shifts, BOX, PIXEL_SIZE, views.ctf, 1e6, rng)
    for image, other in zip(images, expected, strict=True):
        assert np.corrcoef(image.ravel(), other.ravel())[0, 1] > 0.9999
    assert views.pixel_size == PIXEL_SIZE and np.abs(views.shifts).max() > 2
    assert np.bincount(views.half_sets).tolist() == [0, 20, 20]
    assert 8000 <= views.ctf.defocus_v.min() and views.ctf.defocus_v.max() <= 20000


def test_projecting_the_truth_at_its_poses_gives_the_clean_images(folder):
    noisy = simulate_spa("--snr", 0.25, "--shift-px", 2, "--pose-error", 5)
    assert taigs("project", "sim/truth.npz", "--star", "sim/truth.star", "-o", "clean.mrcs", "-q")[0] == 0
    clean = np.array(open_stack("clean.mrcs")[1], float)
    noise = noisy - clean
    assert noise.var() == pytest.approx(1, rel=0.02) and abs(noise.mean()) < 0.02
    assert clean.var(axis=(1, 2)).mean() == pytest.approx(0.25, rel=1e-4)


def test_the_truth_is_a_map_whose_sum_is_the_image(folder, monkeypatch):
    monkeypatch.setattr(simulate, "draw_sections", DRAW)
    simulate_spa("--no-ctf")
    volume, header = read_volume("sim/truth.mrc")
    assert volume.shape == (BOX,) * 3 and header.voxel_size[0] == PIXEL_SIZE
    assert taigs("project", "sim/truth.npz", "--rot", 0, "-o", "front.mrcs", "-q")[0] == 0
    front = open_stack("front.mrcs")[1][0]
    assert np.abs(volume.sum(axis=0) - front).max() < 1e-3 * front.max()
    assert "rlnDefocusU" not in read_star("sim/particles.star")["particles"]


def test_errors_of_poses_have_the_size_asked_for(folder):
    simulate_spa("--pose-error", 4, "--shift-error", 1.5, "--shift-px", 1, "--no-ctf", particles=400)
    wrong, right = (read_particles(f"sim/{name}.star", no_ctf=True) for name in ("particles", "truth"))
    turns = [np.concatenate([p, np.cross(*p)[None]]) for p in np.concatenate([wrong.projections, right.projections])]
    turns = np.array(turns).reshape(2, 400, 3, 3)
    angles = Rotation.from_matrix(turns[0] @ turns[1].transpose(0, 2, 1)).magnitude()
    assert np.degrees(np.sqrt((angles**2).mean())) == pytest.approx(4, rel=0.1)
    assert (wrong.shifts - right.shifts).std() == pytest.approx(1.5, rel=0.1)
    assert right.shifts.std() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("poses", ["uniform", "preferred"])
def test_directions_are_uniform_or_near_the_poles(poses):
    plan = Particles(4000, BOX, PIXEL_SIZE, poses=poses)
    axes = _rotations(plan, np.random.default_rng(1))[:, 2]
    assert np.abs(axes.mean(axis=0)).max() < 0.05
    if poses == "uniform":
        np.testing.assert_allclose(axes.T @ axes / 4000, np.eye(3) / 3, atol=0.02)
    else:
        assert np.degrees(np.arccos(np.abs(axes[:, 2]).min())) < 45
        assert 0.5 < np.degrees(np.arccos(np.abs(axes[:, 2]))).mean() / 25 < 1.5


def test_the_same_seed_gives_the_same_images_and_another_one_others(folder):
    one, again, other = (simulate_spa("--seed", s, output=o) for s, o in ((3, "a"), (3, "b"), (4, "c")))
    np.testing.assert_array_equal(one, again)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.5


def test_coloured_noise_has_variance_one_and_its_spectrum(rng):
    color = noise_color((64, 64), 4.0)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((200, 64, 64))) * color, s=(64, 64))
    assert noise.var() == pytest.approx(1, rel=0.02)
    power = (np.abs(np.fft.rfft2(noise)) ** 2).mean(axis=0)
    assert power[0, 1] / power[0, 30] == pytest.approx(5, rel=0.5)
    assert (power / color**2 / 64**2)[1:, 1:-1].mean() == pytest.approx(1, rel=0.02)


# --- tilt series ---------------------------------------------------------------------------------


def test_clean_tilt_series_are_those_of_the_phantoms_own_code(folder, rng):
    images = simulate_tilt("--snr", "inf", "--angles", "-60:60:40")
    assert read_angles("sim/ts.tlt").tolist() == [-60, -20, 20, 60]
    _, expected = phantom_tilt_series(phantom(), [-60, -20, 20, 60], SHAPE[1:], PIXEL_SIZE, 1.0, rng)
    for image, other in zip(images, expected, strict=True):
        assert np.corrcoef(image.ravel(), other.ravel())[0, 1] > 0.9999
    assert read_volume("sim/truth.mrc")[0].shape == SHAPE


def test_a_tilt_axis_turns_the_images(folder):
    straight, turned = (simulate_tilt("--snr", "inf", "--tilt-axis", a, output=f"a{a}") for a in (0, 90))
    np.testing.assert_allclose(turned, np.rot90(straight, -1, axes=(1, 2)), atol=1e-3 * straight.max())


def test_dose_damps_as_its_weights_and_the_smallest_tilts_come_first(folder):
    angles = np.arange(-40, 41, 20)
    assert dose_before(angles, 3.0).tolist() == [12, 6, 0, 3, 9]
    options = ("--snr", "inf", "--angles", "-40:40:20")
    clean, damped = simulate_tilt(*options, output="a"), simulate_tilt(*options, "--dose", 30, output="b")
    dose = read_angles("b/ts_dose.txt")
    assert dose.tolist() == [120, 60, 0, 30, 90]
    k = np.hypot(np.fft.rfftfreq(48, PIXEL_SIZE), np.fft.fftfreq(48, PIXEL_SIZE)[:, None])
    window = np.hanning(48)[:, None] * np.hanning(48)  # what left the field is not in the image
    ratio = (np.fft.rfft2(damped * window) / np.fft.rfft2(clean * window)).real
    band = (k > 0.01) & (k < 0.03)
    for v in range(5):
        assert np.median(ratio[v][band]) == pytest.approx(np.median(dose_weight(dose[v], k[band])), abs=0.03)


def read_defocus(path):
    """Rows of a .defocus file after its first line: image, tilt, defoci in A, angle."""
    head, *rows = [line.split() for line in Path(path).read_text().splitlines()]
    assert head == ["1", "0", "0.", "0.", "0.", "3"]
    values = np.array(rows, float)
    np.testing.assert_array_equal(values[:, 0], values[:, 1])
    np.testing.assert_array_equal(values[:, 2], values[:, 3])
    return values[:, 0], values[:, 2], 10 * values[:, 4:6], values[:, 6]


def test_images_with_a_ctf_are_what_numpy_makes_of_the_truth_and_the_alignment(folder):
    """Drawn on a field twice as wide by the reference, from the files alone."""
    images = simulate_tilt(
        "--angles", "-40:50:30", "--defocus", "20000:40000", "--dose", 8, "--shift-px", 3, "--tilt-axis", 12,
        "--snr", 1e9, "--amplitude-contrast", 0.07, "--voltage", 200, "--cs", 1.5,
    )  # fmt: skip
    cloud, tilts = read_cloud("sim/truth.npz")[0], read_angles("sim/truth.tlt")
    numbers, angles, defoci, directions = read_defocus("sim/ts.defocus")
    assert numbers.tolist() == [1, 2, 3, 4] and angles.tolist() == tilts.tolist() == [-40, -10, 20, 50]
    assert defoci.min() > 19999 and defoci.max() < 40401 and (np.ptp(defoci, axis=1) <= 400).all()
    n, half_plane = 2 * BOX, np.meshgrid(np.fft.rfftfreq(2 * BOX, PIXEL_SIZE), np.fft.fftfreq(2 * BOX, PIXEL_SIZE))
    optics = {"voltage_kv": 200, "cs_mm": 1.5, "amplitude_contrast": 0.07, "phase_shift": 0, "scale": 1, "bfactor": 0}
    doses = read_numbers("sim/ts_dose.txt")[0][:, 0]
    assert doses.tolist() == [16, 0, 8, 24]
    for i, (turn, moved) in enumerate((a[:, :2], a[:, 2]) for a in read_xf("sim/truth.xf")):
        t = np.radians(tilts[i])
        seen = np.linalg.inv(turn) @ [[np.cos(t), 0, np.sin(t)], [0, 1, 0]]
        offset = (n - 1) / 2 - np.linalg.inv(turn) @ moved
        image = reference.image(cloud, seen / PIXEL_SIZE, offset, (n, n)) / PIXEL_SIZE**2
        lens = optics | dict(zip(("defocus_u", "defocus_v"), defoci[i], strict=True))
        lens |= {"defocus_angle": directions[i], "dose": doses[i]}
        transfer = np.vectorize(lambda kx, ky, lens=lens: scalar_ctf(kx, ky, lens))(*half_plane)
        image = np.fft.irfft2(np.fft.rfft2(image) * transfer, s=(n, n))[24:72, 24:72]
        assert np.abs(images[i] - image).max() < 2e-3 * np.abs(image).max()
    assert np.abs(images).max() > 1e4, "noise does not matter"


def test_a_ctf_changes_no_noise_shift_or_error(folder):
    options = ("--angles", "-40:40:20", "--shift-px", 2, "--pose-error", 1, "--snr", 1e-12)
    one, other = (simulate_tilt(*options, *more, output=o) for o, more in (("a", ()), ("b", ("--defocus", "2e4:3e4"))))
    np.testing.assert_allclose(one, other, atol=1e-4)
    for name in ("ts.xf", "ts.tlt", "truth.xf", "truth.tlt"):
        assert (folder / "a" / name).read_text() == (folder / "b" / name).read_text()
    assert not (folder / "a" / "ts.defocus").exists()


def test_errors_of_an_alignment_have_the_size_asked_for_and_the_images_none(folder):
    options = ("--angles", "-60:60:1", "--snr", "inf", "--shift-px", 3, "--tilt-axis", -8)
    right = simulate_tilt(*options, output="right")
    wrong = simulate_tilt(*options, "--pose-error", 2, "--shift-error", 0.7)
    np.testing.assert_array_equal(right, wrong)
    for name in ("truth.xf", "truth.tlt"):
        assert (folder / "right" / name).read_text() == (folder / "sim" / name).read_text()
    tilts, found = {}, {}
    for name in ("ts", "truth"):
        tilts[name], xf = read_angles(f"sim/{name}.tlt"), read_xf(f"sim/{name}.xf")
        axis = -np.degrees(np.arctan2(xf[:, 1, 0], xf[:, 0, 0]))
        found[name] = axis, -np.linalg.solve(xf[:, :, :2], xf[:, :, 2:])[..., 0]
    np.testing.assert_allclose(found["truth"][0], -8, atol=1e-4)
    assert found["truth"][1].std() == pytest.approx(3, rel=0.15)
    errors = tilts["ts"] - tilts["truth"], found["ts"][0] - found["truth"][0]
    assert [e.std() for e in errors] == pytest.approx([2 / np.sqrt(2)] * 2, rel=0.2)
    assert (found["ts"][1] - found["truth"][1]).std() == pytest.approx(0.7, rel=0.15)


# --- sources -------------------------------------------------------------------------------------


def test_a_map_is_drawn_voxel_by_voxel_about_its_centre(folder):
    volume = np.zeros((20, 20, 20))
    volume[10, 10, 14], volume[12, 7, 10] = 2, 1  # x, y, z from the centre 10: (4, 0, 0) and (0, -3, 2)
    write_volume("map.mrc", volume, 4.0)
    cloud = read_source("map.mrc", contour=0.5).cloud
    order = np.argsort(cloud.masses)
    np.testing.assert_allclose(cloud.positions[order], [[0, -12, 8], [16, 0, 0]], atol=1e-5)
    np.testing.assert_allclose(cloud.masses[order], [64, 128])
    np.testing.assert_allclose(np.exp(cloud.log_sigmas), 2.4, rtol=1e-5)


@pytest.mark.shared
def test_atoms_are_drawn_about_their_centre_of_mass(folder, shared):
    pytest.importorskip("gemmi")
    path = shared / "data" / "models" / "3c91.pdb"
    cloud = read_source(path, 4.0, 10.0).cloud
    np.testing.assert_allclose(np.average(cloud.positions, axis=0, weights=cloud.masses), 0, atol=1e-9)
    np.testing.assert_allclose(np.exp(cloud.log_sigmas), 2.25)
    assert len(cloud) == 46578 and 70 < radius(cloud) < 90 and 130 < min(extent(cloud))
    # The truth lies upon its atoms.
    assert taigs("simulate", "tilt", path, "--pixel-size", 6, "--resolution", 16, "-o", "sim", "-q")[0] == 0
    pair = read_pair("sim/truth.mrc", path)
    assert ncc(pair.volume, pair.truth) > 0.99


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spa", "model.npz", "--snr", "0"], "signal-to-noise ratio 0; expected more than 0"),
        (["spa", "model.npz", "--snr", "nan"], "signal-to-noise ratio nan"),
        (["spa", "model.npz", "--box", "10"], "box of 10 px, 80 Å; the object is"),
        (["spa", "model.npz", "--defocus", "1:x"], '--defocus "1:x": expected MIN:MAX'),
        (["spa", "model.npz", "--defocus", "2:1"], '--defocus "2:1"'),
        (["spa", "model.npz", "--amplitude-contrast", "7"], "amplitude contrast 7"),
        (["spa", "model.npz", "--voltage", "0"], "voltage 0"),
        (["spa", "model.npz", "--pixel-size", "-1"], "pixel size -1"),
        (["spa", "model.npz", "--shift-px", "-1"], "expected a standard deviation"),
        (["spa", "model.npz", "--resolution", "4"], "--resolution has no meaning"),
        (["spa", "model.xyz"], 'unknown extension ".xyz"; expected .npz'),
        (["spa", "missing.npz"], "no such file"),
        (["spa", "atoms.pdb"], "atoms have no pixel size; try --pixel-size"),
        (["spa", "atoms.pdb", "--pixel-size", "4", "--resolution", "3"], "expected at least 2 pixels"),
        (["spa", "map.mrc"], "0 voxels above the contour"),
        (["tilt", "model.npz", "--angles", "-60:60"], '--angles "-60:60": expected MIN:MAX:STEP'),
        (["tilt", "model.npz", "--angles", "-60:60:0"], "expected a step above 0"),
        (["tilt", "model.npz", "--angles", "-60:120:3"], "within 90 degrees"),
        (["tilt", "model.npz", "--snr", "-1"], "signal-to-noise ratio -1"),
        (["tilt", "model.npz", "--dose", "-1"], "no negative dose"),
        (["tilt", "model.npz", "--defocus", "2:1"], '--defocus "2:1"'),
        (["tilt", "model.npz", "--defocus", "30000"], "expected MIN:MAX in Angstrom"),
        (["tilt", "model.npz", "--voltage", "0", "--dose", "1"], "voltage 0"),
        (["tilt", "model.npz", "--shift-error", "nan"], "expected a standard deviation"),
        (["tilt", "model.npz", "--tilt-axis", "nan"], "tilt axis nan; expected degrees"),
        (["tilt", "model.npz", "--shape", "4,4"], "at least 8 px"),
        (["tilt", "model.npz", "--shape", "x"], '--shape "x"'),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(folder, arguments, message):
    write_volume("map.mrc", np.zeros((8, 8, 8)), 4.0)
    before = set(folder.iterdir())
    code, out, err = taigs("simulate", *arguments, "-o", "sim", "-q")
    assert (code, out) == (3, "") and message in err and err.count("\n") == 1
    assert set(folder.iterdir()) == before


def test_an_object_outside_of_the_images_is_reported(folder):
    cloud = cloud_of(phantom())
    write_cloud("away.npz", replace(cloud, positions=cloud.positions + np.array([0, 1e5, 0])), PIXEL_SIZE, SHAPE)
    code, _, err = taigs("simulate", "tilt", "away.npz", "-o", "sim", "-q")
    assert code == 5 and "the images are empty" in err


def test_a_folder_with_results_is_kept(folder):
    (folder / "sim").mkdir()
    (folder / "sim" / "ts.mrc").write_text("precious")
    assert taigs("simulate", "tilt", "model.npz", "-o", "sim")[0] == 6
    assert (folder / "sim" / "ts.mrc").read_text() == "precious"


@pytest.mark.parametrize("command", ["spa", "tilt"])
def test_help_has_an_example(command):
    result = CliRunner().invoke(cli.app, ["simulate", command, "--help"])
    assert result.exit_code == 0 and f"taigs simulate {command} model.npz -o sim" in result.stdout


# --- the whole way -------------------------------------------------------------------------------


def test_a_simulated_tilt_series_is_the_projection_of_its_truth(folder):
    images = simulate_tilt("--snr", "inf", "--angles", "-60:60:40")
    assert taigs("project", "sim/truth.npz", "--tilt-angles", "sim/ts.tlt", "-o", "again.mrc", "-q")[0] == 0
    np.testing.assert_allclose(open_stack("again.mrc")[1], images, atol=1e-5 * images.max())


def project_voxels(volume, tilt):
    """Exact line integrals in voxels of the band-limited function through a volume's voxels, tilted about y."""
    nz, _, nx = volume.shape
    k, t = np.fft.fftfreq(nx), np.radians(tilt)
    z, x = (np.arange(n) - (n - 1) / 2 for n in (nz, nx))
    waves = np.exp(-2j * np.pi * k[:, None, None] * (x * np.cos(t) + z[:, None] * np.sin(t)))
    transform = np.einsum("kzx,zyx->yk", waves, volume, optimize=True)
    return np.fft.ifft(transform * np.exp(-2j * np.pi * k * (nx - 1) / 2), axis=1).real


def test_projections_of_the_voxels_and_of_the_gaussians_agree(folder):
    """Gaussians of 1.5 pixels and more: of finer ones, voxels hold less than everything."""
    cloud = cloud_of(phantom())
    sigmas = np.maximum(cloud.log_sigmas, np.log(1.5 * PIXEL_SIZE))
    inside = cloud.positions * [0.6, 0.6, 0.3]  # of the volume, to the last digit
    wide = replace(cloud, positions=inside, log_sigmas=sigmas)
    write_cloud("wide.npz", wide, PIXEL_SIZE, SHAPE)
    Path("some.tlt").write_text("-57\n0\n33\n")
    assert taigs("project", "wide.npz", "--tilt-angles", "some.tlt", "-o", "wide.mrcs", "-q")[0] == 0
    volume = voxelize(wide, SHAPE, PIXEL_SIZE)
    for tilt, image in zip((-57, 0, 33), open_stack("wide.mrcs")[1], strict=True):
        assert np.abs(PIXEL_SIZE * project_voxels(volume, tilt) - image).max() < 1e-3 * image.max(), tilt
        assert np.abs(PIXEL_SIZE * project_voxels(volume, -tilt) - image).max() > 0.1 * image.max() or tilt == 0


def mirrored(volume):
    """Name -> the volume as any wrong sign of an axis, or x and y interchanged, would leave it."""
    axes = {"".join(n for n, flip in zip("zyx", flips, strict=True) if flip): flips for flips in np.ndindex(2, 2, 2)}
    found = {f"-{name}": volume[tuple(slice(None, None, 1 - 2 * f) for f in flips)] for name, flips in axes.items()}
    return found | {"x and y": volume.transpose(0, 2, 1)}


def test_a_projected_model_goes_to_a_tomogram_and_back_without_a_wrong_sign(folder, monkeypatch, rng):
    Path("angles.tlt").write_text("".join(f"{angle}\n" for angle in range(-60, 61, 6)))
    assert taigs("project", "model.npz", "--tilt-angles", "angles.tlt", "-o", "ts.mrc", "-q")[0] == 0
    clean = np.array(open_stack("ts.mrc")[1])
    noise = clean.std() / np.sqrt(0.3) * rng.standard_normal(clean.shape)
    write_stack("ts.mrc", clean + noise, PIXEL_SIZE, overwrite=True)
    write_volume("truth.mrc", voxelize(cloud_of(phantom()), SHAPE, PIXEL_SIZE), PIXEL_SIZE)
    monkeypatch.setattr(runtime, "init", INIT)  # as a new process: the fit's compiled kernels are found again
    options = ("--angles", "ts.tlt", "--thickness", SHAPE[0], "--contrast", "bright", "--arch", "cpu", "-q")
    assert taigs("tilt", "ts.mrc", *options, "-o", "run")[0] == 0
    views = read_tilt_series("ts.mrc", "ts.tlt", contrast="bright", invert_angles=True)
    write_volume("negated.mrc", weighted_back_projection(views, Grid(SHAPE, PIXEL_SIZE)), PIXEL_SIZE)
    found = {}
    for name, path in {"taigs": "run/tomogram.mrc", "wbp": "run/wbp.mrc", "negated": "negated.mrc"}.items():
        assert taigs("compare", path, "truth.mrc", "--wedge", 60, "--json", f"{name}.json")[0] == 0
        found[name] = json.loads((folder / f"{name}.json").read_text())["ncc"]
    print(found)
    assert found["taigs"] > 0.6 and found["taigs"] > found["wbp"]
    # Negated angles fit the images as well, with the mirror image; only the truth can tell.
    assert found["negated"] < found["wbp"] - 0.15
    tomogram, truth = read_volume("run/tomogram.mrc")[0], read_volume("truth.mrc")[0]
    wrong = {name: ncc(tomogram, other) for name, other in mirrored(truth).items() if name != "-"}
    print(wrong)
    assert len(wrong) == 8 and max(wrong.values()) < found["taigs"] - 0.3
