"""The viewer's page stands alone, and its picture in a real browser is the projection of the model."""

import base64
import json
import re
import threading
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from browser import visit
from typer.testing import CliRunner

from taigs import viewer
from taigs.cli import main as cli
from taigs.cloud import GaussianCloud
from taigs.errors import InputError, RefusedError
from taigs.geometry import euler_to_matrix, tilt_rotation
from taigs.io.clouds import write_cloud
from taigs.io.mrc import write_stack
from taigs.views import Views

ANGLES = (33.0, 71.0, -118.0)  # rot, tilt, psi
SIZE, PIXEL_SIZE = (96, 80), 2.5  # width, height
SLICE = {"thickness": 30.0, "depth": 12.0}
SPREAD = 3.0  # A
# The page in a frame of the wanted size, which reports to the outer page, and that to the test's server.
OUTER = """<link rel="icon" href="data:,"><iframe src="page" style="width:{}px;height:{}px;border:0"></iframe>
<script>addEventListener("message", (e) => fetch("result", {{ method: "POST", body: e.data }}))</script>"""
ERRORS = """<script>
var errors = [];
addEventListener("error", (e) => errors.push(String(e.message)));
addEventListener("unhandledrejection", (e) => errors.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => errors.push(e.blockedURI));
for (const name of ["error", "warn"]) console[name] = (...parts) => errors.push(parts.join(" "));
</script>"""
DONE = """
const text = (data) => { let s = ""; for (const b of new Uint8Array(data.buffer)) s += String.fromCharCode(b); return btoa(s); };
const frame = () => new Promise(requestAnimationFrame);
const page = document.getElementById("view");
"""  # noqa: E501


def blob(rng, n=400):
    """A lopsided cloud some 150 A wide, of anisotropic Gaussians."""
    return GaussianCloud(
        positions=rng.normal(size=(n, 3)) * (40, 25, 15) + (10, -5, 0),
        log_sigmas=np.log(rng.uniform(2, 8, (n, 3))),
        quaternions=rng.normal(size=(n, 4)),
        masses=rng.uniform(1, 5, n),
    )


@pytest.fixture
def cloud(rng):
    return blob(rng)


@pytest.fixture
def run(tmp_path, cloud):
    """A folder with a model."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_cloud(folder / "model.npz", cloud, 2.0)
    return folder


def page_of(*clouds, **options):
    models = [viewer.NamedCloud(f"model {i + 1}", cloud) for i, cloud in enumerate(clouds)]
    return viewer.viewer_page(models, "a title", **options)


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def browse(folder, page, script, before="", size=(640, 480)):
    """What `script` (an async function's body) returns inside the page, and what the browser complained of."""
    reporting = (
        f'<script type="module">{DONE}let result = null;'
        f"try {{ result = await (async () => {{{script}}})(); }} catch (error) {{ errors.push(String(error)); }}"
        f'parent.postMessage(JSON.stringify({{result, errors}}), "*");</script>'
    )
    page = page.replace("<style>", f"{ERRORS}<script>{before}</script><style>", 1)
    page = page.replace("</body>", f"{reporting}</body>")
    answer, complaints = visit(folder, {"/": OUTER.format(*size), "/page": page})
    return answer["result"], answer["errors"] + complaints


def read_image(width=SIZE[0], height=SIZE[1], pixel_size=PIXEL_SIZE):
    """JavaScript whose value is an image as base64."""
    return f"text(taigs.readImage({{width: {width}, height: {height}, pixelSize: {pixel_size}}}).data)"


def decoded(image):
    return np.frombuffer(base64.b64decode(image), np.float32).reshape(SIZE[::-1])


def projected(cloud, angles=ANGLES):
    from taigs import project

    return project(cloud, euler_to_matrix(*angles), SIZE[::-1], PIXEL_SIZE)


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


# --- the page as text --------------------------------------------------------------------------


def test_page_refers_to_nothing_outside_itself(cloud):
    page = page_of(cloud)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\(|\bimport\b|\bfetch\b""", page)
    assert "default-src 'none'" in page


def test_page_escapes_names(cloud):
    nasty = '<img src=x onerror="alert(1)"></script>&'
    page = viewer.viewer_page([viewer.NamedCloud(nasty, cloud)], nasty)
    assert "<img" not in page
    assert page.count("</script>") == 2  # data and program
    assert data_of(page)["models"][0]["name"] == data_of(page)["title"] == nasty


def test_page_holds_the_model(cloud):
    model = data_of(page_of(cloud))["models"][0]
    table = np.frombuffer(base64.b64decode(model["data"]), "<f4").reshape(-1, 10)
    S = cloud.covariances()
    np.testing.assert_allclose(table[:, :3], cloud.positions, rtol=1e-6)
    np.testing.assert_allclose(table[:, 3:9], S[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(table[:, 9], cloud.masses, rtol=1e-6)
    assert (model["drawn"], model["total"]) == (len(cloud), len(cloud))


def test_fewer_gaussians_are_those_with_most_mass(cloud):
    model = data_of(page_of(cloud, max_gaussians=100))["models"][0]
    table = np.frombuffer(base64.b64decode(model["data"]), "<f4").reshape(-1, 10)
    most = np.sort(cloud.masses)[-100:]
    np.testing.assert_allclose(np.sort(table[:, 9]), most, rtol=1e-6)
    assert model["kept"] == pytest.approx(most.sum() / cloud.masses.sum())
    assert (model["drawn"], model["total"]) == (100, 400)


def test_measured_images_keep_the_place_of_the_centre(rng):
    tilts = np.array([30.0, -30.0, 0.0])
    images = rng.normal(size=(3, 300, 520))
    views = Views(
        images, tilt_rotation(tilts)[:, :2], np.full((3, 2), 4.0), 2.0, np.array([259.5, 149.5]), np.ones(3), tilts
    )
    series = viewer.measured_series(views)
    np.testing.assert_array_equal(series.angles, [-30, 0, 30])
    np.testing.assert_allclose(series.rotations, tilt_rotation(series.angles), atol=1e-12)
    assert series.images.shape == (3, 100, 173)
    assert series.pixel_size == 6.0
    np.testing.assert_allclose(series.origins * 3 + 1, np.tile([263.5, 153.5], (3, 1)))  # in the pixels before
    expected = images[1, :300, :519].reshape(100, 3, 173, 3).mean(axis=(1, 3))
    assert correlation(series.images[0], expected) > 0.99


# --- the command -------------------------------------------------------------------------------


def test_view_writes_a_page_beside_the_model_and_keeps_an_older_one(run):
    done = CliRunner().invoke(cli.app, ["view", str(run)])
    assert (done.exit_code, done.stdout.strip()) == (0, str(run / "view.html"))
    assert data_of((run / "view.html").read_text())["title"] == "run"
    again = CliRunner().invoke(cli.app, ["view", str(run)])
    assert isinstance(again.exception, RefusedError)
    assert CliRunner().invoke(cli.app, ["view", str(run), "--overwrite"]).exit_code == 0
    assert CliRunner().invoke(cli.app, ["view", str(run / "model.npz")]).stdout.strip() == str(run / "model.html")


def test_view_compares_the_models_of_a_run_and_of_several(run, cloud):
    write_cloud(run / "model_half1.npz", cloud, 2.0)
    names = [model.name for model in viewer.read_models([run])]
    assert names == ["model", "model_half1"]
    other = run.parent / "other"
    other.mkdir()
    write_cloud(other / "model.npz", cloud, 2.0)
    names = [model.name for model in viewer.read_models([run, other / "model.npz"])]
    assert names == ["run/model", "model_half1", "other/model"]


def test_view_refuses_what_holds_no_gaussians(tmp_path, cloud):
    with pytest.raises(InputError, match=r"no model\.npz"):
        viewer.read_models([tmp_path])
    write_cloud(tmp_path / "model.npz", cloud.subset(slice(0)), 2.0)
    with pytest.raises(InputError, match="no Gaussians"):
        viewer.read_models([tmp_path])


def test_view_of_a_tilt_series_shows_its_images_if_they_are_there(run, rng):
    write_stack(run / "ts.mrc", rng.normal(size=(3, 24, 32)) + 9 * np.hypot(*np.mgrid[-12:12, -16:16]), 8.0)
    np.savetxt(run / "ts.tlt", [-40, 0, 40])
    config = {"stack": str(run / "ts.mrc"), "angles": str(run / "ts.tlt"), "exclude": "1", "xf": None}
    (run / "config.json").write_text(json.dumps(config))
    assert CliRunner().invoke(cli.app, ["view", str(run)]).exit_code == 0
    assert data_of((run / "view.html").read_text())["series"]["angles"] == [0, 40]

    (run / "ts.mrc").unlink()
    done = CliRunner().invoke(cli.app, ["view", str(run), "--overwrite"])
    assert "no measured images" in done.stderr
    assert data_of((run / "view.html").read_text())["series"] == {"images": None}


def test_served_page_is_reached_on_this_machine_only(cloud):
    page = page_of(cloud)
    addresses, opened = [], threading.Event()

    def open_browser(address):
        addresses.append(address)
        opened.set()

    threading.Thread(target=viewer.serve_page, args=(page, addresses.append, open_browser), daemon=True).start()
    assert opened.wait(10)
    assert addresses[0] == addresses[1]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", addresses[0])
    with urllib.request.urlopen(addresses[0], timeout=10) as answer:
        assert answer.read().decode() == page
    with pytest.raises(urllib.error.HTTPError), urllib.request.urlopen(addresses[0] + "etc", timeout=10):
        pass


# --- in a browser ------------------------------------------------------------------------------


@pytest.mark.chromium
def test_picture_is_the_projection(tmp_path, cloud, cpu32):
    other = cloud.subset(slice(0, 300))
    slice_ = json.dumps({"sliced": True, **SLICE})
    script = f"""
      taigs.setRotation({ANGLES[0]}, {ANGLES[1]}, {ANGLES[2]});
      const whole = {read_image()}, angles = taigs.getRotation();
      taigs.setModel(1);
      const other = {read_image()};
      taigs.setModel(0);
      taigs.set({slice_});
      const slice = {read_image()};
      taigs.set({{sliced: false, spread: true, sigma: {SPREAD}}});
      const spread = {read_image()};
      return {{whole, other, slice, spread, angles, bits: taigs.readImage().bits}};
    """
    found, errors = browse(tmp_path, page_of(cloud, other), script)
    assert errors == []
    assert found["bits"] == 32
    np.testing.assert_allclose(found["angles"], ANGLES, atol=1e-6)

    whole, expected = decoded(found["whole"]), projected(cloud)
    assert correlation(whole, expected) > 0.9999
    np.testing.assert_allclose(whole, expected, atol=1e-3 * expected.max())
    assert correlation(decoded(found["other"]), projected(other)) > 0.9999
    depth = (cloud.positions @ euler_to_matrix(*ANGLES).T)[:, 2]
    masses = np.where(abs(depth - SLICE["depth"]) <= SLICE["thickness"] / 2, cloud.masses, 0)
    inside = replace(cloud, masses=masses)  # as many Gaussians: one renderer, compiled once
    assert correlation(decoded(found["slice"]), projected(inside)) > 0.9999
    spread = replace(cloud, log_sigmas=0.5 * np.log(np.exp(2 * cloud.log_sigmas) + SPREAD**2))
    assert correlation(decoded(found["spread"]), projected(spread)) > 0.9999


@pytest.mark.chromium
def test_half_floats_stand_in_where_floats_cannot_be_blended(tmp_path, cloud, cpu32):
    before = """
      const get = WebGL2RenderingContext.prototype.getExtension;
      WebGL2RenderingContext.prototype.getExtension = function (name) {
        return name === "EXT_float_blend" ? null : get.call(this, name);
      };
    """
    script = f"""
      taigs.setRotation({ANGLES[0]}, {ANGLES[1]}, {ANGLES[2]});
      return {{image: {read_image()}, bits: taigs.readImage().bits}};
    """
    found, errors = browse(tmp_path, page_of(cloud), script, before)
    assert (errors, found["bits"]) == ([], 16)
    assert correlation(decoded(found["image"]), projected(cloud)) > 0.999


@pytest.mark.chromium
def test_drag_keys_and_controls_change_the_picture(tmp_path, cloud):
    script = """
      const picture = async (change) => {
        change();
        await frame();  // the page's own frame comes first, and its drawing lasts as long as this one
        return page.toDataURL();
      };
      const pointer = (type, x, y, more) =>
        page.dispatchEvent(new PointerEvent(type, { pointerId: 1, clientX: x, clientY: y, bubbles: true, ...more }));
      const drag = (dx, dy, more) => {
        const box = page.getBoundingClientRect();
        const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
        pointer("pointerdown", x, y, more);
        for (let i = 1; i <= 10; i++) pointer("pointermove", x + dx * i / 10, y + dy * i / 10, more);
        pointer("pointerup", x + dx, y + dy, more);
      };
      const press = (key, more) => page.dispatchEvent(new KeyboardEvent("keydown", { key, ...more }));
      const click = (id) => document.getElementById(id).click();
      const side = Math.min(page.clientWidth, page.clientHeight);
      const result = { pictures: [await picture(() => taigs.setRotation(0, 0, 0))] };
      result.pictures.push(await picture(() => drag(side / 6, 0)));
      result.dragged = taigs.getRotation();
      for (const change of [
        () => drag(0, side / 8), () => drag(30, 20, { shiftKey: true }), () => press("ArrowUp"), () => press("+"),
        () => press("["), () => press("ArrowLeft", { shiftKey: true }),
        () => page.dispatchEvent(new WheelEvent("wheel", { deltaY: 120 })), () => click("slice"),
        () => click("spread"), () => click("inverted"), () => press("2"),
      ]) result.pictures.push(await picture(change));
      result.pressed = document.querySelector("[aria-pressed=true]").textContent;
      press("0");
      result.reset = taigs.getRotation();
      press("x");
      result.along = taigs.getRotation();
      return result;
    """
    found, errors = browse(tmp_path, page_of(cloud, cloud.subset(slice(0, 200))), script)
    assert errors == []
    assert len(set(found["pictures"])) == len(found["pictures"])
    # A sixth of the shorter side to the right is 30 degrees about y: what is in front goes with the pointer.
    np.testing.assert_allclose(euler_to_matrix(*found["dragged"]), tilt_rotation(30.0), atol=1e-5)
    assert found["pressed"] == "model 2"
    np.testing.assert_allclose(found["reset"], 0, atol=1e-6)
    np.testing.assert_allclose(euler_to_matrix(*found["along"])[2], [1, 0, 0], atol=1e-6)


@pytest.mark.chromium
def test_picture_is_saved_with_its_angles_and_they_are_copied(tmp_path, cloud):
    script = f"""
      const saved = new Promise((done) => {{
        let blob;
        URL.createObjectURL = (given) => {{ blob = given; return "#"; }};
        HTMLAnchorElement.prototype.click = function () {{ done([blob, this.download]); }};
      }});
      taigs.setRotation({ANGLES[0]}, {ANGLES[1]}, {ANGLES[2]});
      document.getElementById("save").click();
      const [blob, name] = await saved;
      const picture = await createImageBitmap(blob);
      const copy = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
      copy.drawImage(picture, 0, 0);
      const bytes = copy.getImageData(picture.width / 2 - 50, picture.height / 2 - 50, 100, 100).data;
      const brightest = Math.max(...bytes.filter((_, i) => i % 4 < 3));  // without the opacity
      document.getElementById("copy").click();
      await new Promise((done) => setTimeout(done, 500));
      const said = document.getElementById("status").textContent;
      return {{ name, type: blob.type, same: picture.width === page.width, brightest, said }};
    """
    found, errors = browse(tmp_path, page_of(cloud), script)
    assert errors == []
    assert (found["type"], found["same"], found["name"]) == ("image/png", True, "a_title_33.00_71.00_-118.00.png")
    assert "rot 33.00°, tilt 71.00°, psi -118.00°" in found["said"]
    assert found["brightest"] == 255


@pytest.mark.chromium
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_tilt_series_is_turned_by_its_slider_and_nothing_overflows(tmp_path, cloud, rng, size):
    tilts = np.arange(-40.0, 41, 20)
    views = Views(
        rng.normal(size=(5, 40, 60)), tilt_rotation(tilts)[:, :2], np.zeros((5, 2)), 4.0, np.array([29.5, 19.5]),
        np.ones(5), tilts,
    )  # fmt: skip
    page = viewer.viewer_page(
        [viewer.NamedCloud("a_very_long_name_" * 8, cloud)], "word" * 40, True, viewer.measured_series(views)
    )
    script = """
      const input = document.getElementById("series-tilt");
      input.value = 4;
      input.dispatchEvent(new Event("input"));
      await frame();
      const { scrollWidth, clientWidth } = document.documentElement;  // the latter without a scroll bar
      const caption = document.getElementById("measured-caption").textContent;
      return { scrollWidth, clientWidth, innerWidth, caption, angles: taigs.getRotation() };
    """
    found, errors = browse(tmp_path, page, script, size=size)
    assert errors == []
    assert found["scrollWidth"] <= found["clientWidth"] <= found["innerWidth"] == size[0]
    assert found["caption"] == "Measured at 40.0°"
    np.testing.assert_allclose(euler_to_matrix(*found["angles"]), tilt_rotation(40.0), atol=1e-6)


@pytest.mark.chromium
@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("HTMLCanvasElement.prototype.getContext = () => null;", "no WebGL 2"),
        ("WebGL2RenderingContext.prototype.getExtension = () => null;", "float textures"),
    ],
)
def test_page_says_what_the_browser_lacks(tmp_path, cloud, before, said):
    script = """
      const message = document.getElementById("message");
      return { hidden: message.hidden, text: message.textContent };
    """
    found, errors = browse(tmp_path, page_of(cloud), script, before)
    assert errors == []
    assert not found["hidden"]
    assert said in found["text"]
