"""The viewer: clouds as one HTML page that draws their projections in a browser, without a network.

The page holds, for every Gaussian, what its projection needs (position, covariance, mass) as float32. The
drawing is in templates/viewer_gl.js; the projection is that of `taigs.project`.
"""

import base64
import math
import webbrowser
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import numpy as np

from taigs.cloud import GaussianCloud
from taigs.errors import InputError
from taigs.io.clouds import read_cloud

SCRIPTS = ("rotation", "gl", "overlay", "input", "controls")  # viewer_*.js, before viewer.js, in one module
MEASURED_SIZE = 256  # pixels: measured images are binned to about this
GREY_RANGE = (0.3, 99.7)  # percentiles of a measured image that become black and white


@dataclass(frozen=True)
class NamedCloud:
    """A model of the page and what its button says."""

    name: str
    cloud: GaussianCloud


@dataclass(frozen=True)
class MeasuredSeries:
    """The images of a tilt series, small, with the direction of each.

    Parameters
    ----------
    angles : (V,) array
        Degrees, ascending.
    rotations : (V, 3, 3) array
        Volume -> image.
    images : (V, H, W) uint8 array
        Larger = denser.
    origins : (V, 2) array
        Pixel (x, y) at which the volume's centre appears.
    pixel_size : float
        Angstrom.
    """

    angles: np.ndarray
    rotations: np.ndarray
    images: np.ndarray
    origins: np.ndarray
    pixel_size: float


def measured_series(views):
    """The images of `views`, which have tilt angles, for the page: MeasuredSeries."""
    views = views.subset(np.argsort(views.tilt_angles, kind="stable"))
    views = views.binned(math.ceil(max(views.image_shape) / MEASURED_SIZE))
    # The page draws rotations: a magnification, near 1 in an alignment, is left out.
    x = views.projections[:, 0] / np.linalg.norm(views.projections[:, 0], axis=-1, keepdims=True)
    z = np.cross(x, views.projections[:, 1])
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    images = np.asarray(views.images, np.float32)
    low, high = np.percentile(images, GREY_RANGE, axis=(1, 2))[:, :, None, None]
    grey = np.clip((images - low) / np.maximum(high - low, np.finfo(np.float32).tiny), 0, 1)
    return MeasuredSeries(
        angles=views.tilt_angles,
        rotations=np.stack([x, np.cross(z, x), z], axis=1),
        images=np.rint(255 * grey).astype(np.uint8),
        origins=views.shifts + views.centre,
        pixel_size=views.pixel_size,
    )


def find_models(path):
    """Models of a run's folder, model.npz first, or the one file: list of (name, Path).

    Raises
    ------
    InputError
        If a folder holds none.
    """
    path = Path(path)
    if not path.is_dir():
        return [(path.stem, path)]
    found = sorted(path.glob("model*.npz"), key=lambda model: (model.name != "model.npz", model.name))
    if not found:
        raise InputError(f"{path}: no model.npz; expected the folder of a finished run, or a model")
    return [(model.stem, model) for model in found]


def read_models(paths):
    """The models of files and folders: list of NamedCloud, with names that differ.

    Raises
    ------
    InputError
        A folder without models, a file that is none, or a model without Gaussians.
    """
    found = [(name, model, Path(path)) for path in paths for name, model in find_models(path)]
    models = []
    for name, model, path in found:
        cloud = read_cloud(model)[0]
        if not len(cloud):
            raise InputError(f"{model}: has no Gaussians; expected a model with some")
        if [other for other, _, _ in found].count(name) > 1:
            name = f"{path.resolve().name if path.is_dir() else model.resolve().parent.name}/{name}"
        models.append(NamedCloud(name, cloud))
    return models


def viewer_page(models, title, tilt_series=False, measured=None, max_gaussians=None):
    """The page that shows models, as text.

    Parameters
    ----------
    models : list of NamedCloud
        At least one; none of them empty.
    title : str
    tilt_series : bool
        Offer a slider for the tilt about y.
    measured : MeasuredSeries, optional
        Shown beside the projection; the slider then runs over its tilts.
    max_gaussians : int, optional
        Of a larger model, only those with most mass are drawn; the page says so.

    Returns
    -------
    str
    """
    import jinja2
    from markupsafe import Markup

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("taigs"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    folder = resources.files("taigs") / "templates"
    scripts = [f"viewer_{name}.js" for name in SCRIPTS] + ["viewer.js"]
    return templates.get_template("viewer.html.j2").render(
        title=title,
        style=Markup((folder / "viewer.css").read_text("utf-8")),
        script=Markup("\n".join((folder / name).read_text("utf-8") for name in scripts)),
        data=_data(models, title, tilt_series, measured, max_gaussians),
    )


def _data(models, title, tilt_series, measured, max_gaussians):
    """What the page's scripts read, as JSON's types."""
    half = np.max([_half_extent(model.cloud) for model in models], axis=0)
    first = models[0].cloud
    return {
        "title": title,
        "models": [_model(model, max_gaussians) for model in models],
        "series": _series(measured) if measured else {"images": None} if tilt_series else None,
        "half": half.tolist(),
        "radius": float(np.linalg.norm(half)),
        # A typical line integral: sums in its units suit a half float, and sliders have a range from the start.
        "density": float(max(np.abs(first.masses).sum(), np.finfo(np.float32).tiny) / (4 * half[0] * half[1])),
        "sigma": float(np.exp(np.median(first.log_sigmas))),
    }


def _half_extent(cloud):
    """(3,) Angstrom from the volume's centre that hold all but a thousandth of the Gaussians on each side."""
    width = 2 * np.exp(np.median(cloud.log_sigmas))
    return np.abs(np.percentile(cloud.positions, (0.1, 99.9), axis=0)).max(axis=0) + width


def _model(model, max_gaussians):
    cloud = model.cloud
    drawn = cloud
    if max_gaussians is not None and len(cloud) > max_gaussians:
        drawn = cloud.subset(np.sort(np.argsort(-np.abs(cloud.masses), kind="stable")[:max_gaussians]))
    total = np.abs(cloud.masses).sum()
    return {
        "name": model.name,
        "drawn": len(drawn),
        "total": len(cloud),
        "mass": float(cloud.masses.sum()),
        "kept": float(np.abs(drawn.masses).sum() / total) if total else 1.0,
        "size": np.ptp(cloud.positions, axis=0).tolist(),
        "data": _base64(gaussian_table(drawn)),
    }


def gaussian_table(cloud):
    """(N, 10) float32 array: x y z (A), covariance xx xy xz yy yz zz (A^2), mass."""
    S = cloud.covariances()
    upper = S[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    return np.concatenate([cloud.positions, upper, cloud.masses[:, None]], axis=1).astype("<f4")


def _series(measured):
    return {
        "angles": measured.angles.tolist(),
        "rotations": measured.rotations.tolist(),
        "origins": measured.origins.tolist(),
        "pixelSize": measured.pixel_size,
        "height": measured.images.shape[1],
        "width": measured.images.shape[2],
        "images": [_base64(image) for image in measured.images],
    }


def _base64(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def serve_page(page, say=print, open_browser=webbrowser.open):
    """Offer a page to this machine's browsers on a free port until interrupted.

    Parameters
    ----------
    page : str
    say, open_browser : callable
        Both are handed the address.
    """
    body = page.encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path in ("/", "/index.html")
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body) if found else 0))
            self.end_headers()
            self.wfile.write(body if found else b"")

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        say(address)
        open_browser(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
