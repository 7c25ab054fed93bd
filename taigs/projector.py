"""Projections for scripts: a cloud from many sides, with CTF and gradients, arrays in and NumPy out."""

import numpy as np
from scipy import fft

from taigs.errors import InputError
from taigs.render import Renderer, cloud_gradient

MOST_VIEWS = 64  # in one batch
BATCH_PIXELS = 1 << 20
GAUSSIANS_PER_PIXEL = 4  # a pixel of a batch takes about as much memory as a quarter of a Gaussian


class Projector:
    """Images of a cloud under any views, and the gradients of a function of them.

    An image holds line integrals of the density (mass / A^2, `taigs.project` over the pixel's area): the units
    of the images that a cloud was fitted to. Every array may be NumPy's or anything else with ``__array__`` or
    DLPack, such as PyTorch's and CuPy's; results are NumPy's, which ``torch.from_dlpack`` and ``cupy.asarray`` take.

    Parameters
    ----------
    cloud : GaussianCloud
        Another may be assigned to ``projector.cloud`` at any time.
    shape : (H, W)
        Pixels.
    pixel_size : float
        Angstrom.
    batch : int, optional
        Views that are drawn at a time, which takes memory; default: as many as have a million pixels.
    centre : (x, y), optional
        Pixel of the volume centre; default (n - 1) / 2, IMOD's. RELION's is n // 2.
    pad : int
        The CTF acts on a field `pad` times as wide as the image. With 1 what it spreads over an edge comes in
        again at the opposite one, as in relion_project; with 2 and more it is lost, as in a micrograph.
    cutoff : float
        Sigmas at which a Gaussian is cut off.

    Raises
    ------
    InputError
        Here and below, if an array does not have the shape that is expected, or cannot be read.

    Examples
    --------
    For PyTorch, a function that is differentiable with respect to poses and Gaussians::

        class Project(torch.autograd.Function):
            @staticmethod
            def forward(ctx, projector, rotations, shifts, *gaussians):  # positions, log_sigmas, ...: see below
                arrays = [t.detach().cpu().numpy() for t in (rotations, shifts, *gaussians)]
                ctx.projector, ctx.views, ctx.cloud = projector, arrays[:2], taigs.GaussianCloud(*arrays[2:])
                projector.cloud = ctx.cloud
                return torch.from_numpy(projector.project(*ctx.views)).to(rotations)

            @staticmethod
            def backward(ctx, v_images):
                ctx.projector.cloud = ctx.cloud
                gradient = ctx.projector.project_vjp(v_images.detach().cpu(), *ctx.views)
                names = ("rotations", "shifts", "positions", "log_sigmas", "quaternions", "masses")
                return None, *(torch.from_numpy(gradient[name]).to(v_images) for name in names)

        images = Project.apply(projector, rotations, shifts, positions, log_sigmas, quaternions, masses)

    with rotations of shape (V, 2, 3), the rows that a projection depends on.
    """

    def __init__(self, cloud, shape, pixel_size, batch=None, centre=None, pad=1, cutoff=4.0):
        self.cloud, self.shape, self.pixel_size, self.pad, self.cutoff = cloud, tuple(shape), pixel_size, pad, cutoff
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise InputError(f"images of shape {self.shape}; expected (height, width) of at least 1")
        if not 0 < pixel_size < np.inf:
            raise InputError(f"pixel size {pixel_size}; expected a positive number of Angstrom")
        if pad < 1 or (batch is not None and batch < 1):
            raise InputError(f"pad {pad}, batch {batch}; expected at least 1")
        self.field = tuple(pad * n for n in self.shape)
        self.margin = tuple((f - n) // 2 for f, n in zip(self.field, self.shape, strict=True))
        pixels = max(np.prod(self.field), len(cloud) // GAUSSIANS_PER_PIXEL)
        self.batch = batch or int(np.clip(BATCH_PIXELS // pixels, 1, MOST_VIEWS))
        self.centre = [(n - 1) / 2 for n in self.shape[::-1]] if centre is None else centre

    def project(self, rotations, shifts=None, ctf=None, premultiplied=False):
        """Images of the cloud.

        Parameters
        ----------
        rotations : (V, 3, 3) or (V, 2, 3) array
            Volume -> image; only the first two rows matter.
        shifts : (V, 2) array, optional
            (x, y) in pixels.
        ctf : Ctf, optional
            One entry per view.
        premultiplied : bool
            The CTF acts twice, as on images that were multiplied by it.

        Returns
        -------
        (V, H, W) float32 array (float64 with that precision of the runtime)
        """
        views = self._views(rotations, shifts, ctf)
        images = [self._drawn(*part, premultiplied) for _, *part in self._batches(*views)]
        return np.concatenate(images) if images else np.zeros((0, *self.shape), np.float32)

    def project_vjp(self, v_images, rotations, shifts=None, ctf=None, premultiplied=False):
        """Gradient of sum(v_images * project(...)) with respect to the cloud, the rotations and the shifts.

        Parameters
        ----------
        v_images : (V, H, W) array
            Cotangents of the images; the other parameters are those of `project`.

        Returns
        -------
        dict
            positions (N, 3), log_sigmas (N, 3), quaternions (N, 4), masses (N,) as the cloud's;
            rotations (V, 2, 3), dL/d(first two rows); shifts (V, 2), dL/d(pixel).
        """
        views = self._views(rotations, shifts, ctf)
        v_images = as_array(v_images, "v_images", (len(views[0]), *self.shape))
        totals, poses = {}, []
        for part, *of_part in self._batches(*views):
            renderer = self._forward(*of_part[:2])
            # The CTF is real and even, hence its own adjoint; what cuts the image out of the field embeds it again.
            v_field = np.zeros((len(of_part[0]), *self.field), v_images.dtype)
            v_field[self._cut] = v_images[part]
            v_field = self._filtered(v_field, of_part[2], premultiplied)
            renderer.load_images(renderer.images.residual, v_field / self.pixel_size**2)
            renderer.backward()
            for name, value in cloud_gradient(renderer.cloud, len(self.cloud)).items():
                totals[name] = totals.get(name, 0) + value
            sums = renderer.views.v_parts.to_numpy()[: len(v_field), : renderer.n_chunks]
            poses.append(sums.astype(np.float64).sum(axis=1))
        poses = np.concatenate(poses)
        return {**totals, "rotations": poses[:, :6].reshape(-1, 2, 3) / self.pixel_size, "shifts": poses[:, 6:]}

    def _views(self, rotations, shifts, ctf):
        rotations = as_array(rotations, "rotations")
        if rotations.ndim != 3 or rotations.shape[1:] not in ((3, 3), (2, 3)):
            raise InputError(f"rotations have shape {rotations.shape}; expected (V, 3, 3) or (V, 2, 3)")
        n = len(rotations)
        shifts = np.zeros((n, 2)) if shifts is None else as_array(shifts, "shifts", (n, 2))
        if ctf is not None and len(ctf) != n:
            raise InputError(f"a CTF of {len(ctf)} images; expected one for each of {n} views")
        return rotations[:, :2], shifts, ctf

    def _batches(self, rotations, shifts, ctf):
        for start in range(0, len(rotations), self.batch):
            part = slice(start, start + self.batch)
            yield part, rotations[part], shifts[part], None if ctf is None else ctf[part]

    def _forward(self, rotations, shifts):
        """The renderer, with these views of the cloud drawn."""
        renderer = Renderer(len(self.cloud), self.batch, self.field, self.cloud.signed, self.cutoff, with_pose=True)
        renderer.set_cloud(self.cloud)
        offsets = shifts + self.centre + self.margin[::-1]
        renderer.set_views(rotations / self.pixel_size, offsets, self.field)
        renderer.forward()
        return renderer

    def _drawn(self, rotations, shifts, ctf, premultiplied):
        images = self._forward(rotations, shifts).get_images() / self.pixel_size**2
        return self._filtered(images, ctf, premultiplied)[self._cut]

    @property
    def _cut(self):
        (top, left), (height, width) = self.margin, self.shape
        return slice(None), slice(top, top + height), slice(left, left + width)

    def _filtered(self, images, ctf, premultiplied):
        if ctf is None:
            return images
        height, width = self.field
        transfer = ctf(fft.rfftfreq(width, self.pixel_size), fft.fftfreq(height, self.pixel_size)[:, None])
        transfer = (transfer**2 if premultiplied else transfer).astype(images.dtype)
        return fft.irfft2(fft.rfft2(images, workers=-1) * transfer, s=self.field, workers=-1)


def as_array(values, name, shape=None):
    """Anything with ``__array__`` or DLPack as a finite float64 array, of this shape if one is given.

    Raises
    ------
    InputError
        Otherwise; also if the values lie in memory that cannot be reached, or their library guards them.
    """
    try:
        try:
            array = np.asarray(values, np.float64)
        except (TypeError, ValueError):  # no __array__, or one that refuses to copy from a GPU
            if not hasattr(values, "__dlpack__"):
                raise
            array = np.asarray(_from_dlpack(values), np.float64)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(f"{name}: {error}; expected an array; try .detach() and .cpu(), or .get(), first") from error
    if (shape is not None and array.shape != shape) or not np.isfinite(array).all():
        expected = "finite numbers" if shape is None else f"finite numbers of shape {shape}"
        raise InputError(f"{name}: array of shape {array.shape}; expected {expected}")
    return array


def _from_dlpack(values):
    try:
        return np.from_dlpack(values, device="cpu")  # NumPy 2.1 or later: copies from a GPU, if the library can
    except TypeError:
        return np.from_dlpack(values)
