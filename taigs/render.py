"""Rendering a cloud: host side of the kernels. NumPy in, NumPy out."""

import numpy as np

from taigs import runtime
from taigs.device import DeviceCloud, float_type
from taigs.errors import InputError
from taigs.kernels import transfer
from taigs.kernels.covariance import covariance, covariance_vjp
from taigs.kernels.fields import (
    EllipseFields,
    ImageFields,
    ViewFields,
    VoxelFields,
    image_blocks,
    lend,
    roomy,
)
from taigs.kernels.layout import LAYOUT, round_up
from taigs.kernels.project import project as project_kernel
from taigs.kernels.project import project_vjp as project_vjp_kernel
from taigs.kernels.raster import raster, raster_vjp
from taigs.kernels.raster_gpu import splat, splat_vjp
from taigs.kernels.voxelize import prepare_voxels, sort_voxels
from taigs.kernels.voxelize import voxelize as voxelize_kernel
from taigs.kernels.voxelize import voxelize_vjp as voxelize_vjp_kernel
from taigs.kernels.voxelize_gpu import splat_voxels, splat_voxels_vjp
from taigs.views import Grid

IMAGES_IN_FLIGHT = 16  # private images per batch on the CPU: enough tasks for 16 threads, the same for any number


class Renderer(DeviceCloud):
    """Device memory and launches for one cloud under batches of views.

    Parameters
    ----------
    capacity : int
        Most Gaussians the cloud may grow to.
    n_views : int
        Most views in one batch.
    image_shape : (H, W)
        Largest image.
    signed, with_pose : bool
        Masses may be negative; gradients of the views' geometry are wanted.
    """

    def __init__(self, capacity, n_views, image_shape, signed=False, cutoff=4.0, with_pose=False):
        self.on_cpu = runtime.current().is_cpu
        self.with_pose = with_pose
        self.n_parts = -(-IMAGES_IN_FLIGHT // n_views) if self.on_cpu else 1
        super().__init__(capacity, signed)
        n_chunks = self.cloud.capacity // LAYOUT.chunk
        size = roomy(image_shape[0] * image_blocks(image_shape[1]))
        self.views = lend(self, ViewFields, n_views, n_chunks if with_pose else 1)
        self.views.blur[None] = 0.0
        self.ellipses = lend(self, EllipseFields, n_views, self.cloud.capacity, cutoff)
        self.images = lend(self, ImageFields, n_views, self.n_parts, size, n_chunks)
        self.n_views = 0

    def set_views(self, matrices, offsets, image_shape):
        """Geometry of the batch: (B, 2, 3) pixels per Angstrom, (B, 2) pixels (x, y), and the images' (H, W)."""
        self.n_views = len(matrices)
        self.height, self.width = image_shape
        self.blocks = image_blocks(self.width)
        if self.n_views * self.height * self.blocks > self.images.residual.shape[0]:
            raise InputError(f"{self.n_views} images of {image_shape}; expected no more than the renderer has room for")
        table = np.zeros(self.views.table.shape, float_type())
        table[: self.n_views, :6] = np.reshape(matrices, (-1, 6))
        table[: self.n_views, 6:] = offsets
        self.views.table.from_numpy(table)

    def forward(self):
        """Draw the batch into images.parts."""
        covariance(self.cloud, self.n_chunks)
        project_kernel(self.cloud, self.views, self.ellipses, self.n_chunks, self.n_views)
        if self.on_cpu:
            sizes = (self.n_chunks, self.n_views, self.n_parts, self.height, self.blocks)
            raster(self.ellipses, self.images, *sizes)
        else:
            transfer.fill(self.images.parts, self.n_views * self.height * self.blocks, 0.0)
            splat(self.ellipses, self.images, self.n, self.n_views, self.height, self.blocks)

    def backward(self):
        """Pull images.residual back to cloud.v_raw (and views.v_parts)."""
        pull = raster_vjp if self.on_cpu else splat_vjp
        pull(self.ellipses, self.images, self.n_chunks, self.n_views, self.height, self.blocks)
        project_vjp_kernel(self.cloud, self.views, self.ellipses, self.n_chunks, self.n_views, self.with_pose)
        covariance_vjp(self.cloud, self.n_chunks)

    def get_images(self):
        """(B, H, W) images last drawn."""
        size = self.height * self.blocks
        out = np.empty(self.n_parts * self.n_views * size * LAYOUT.lanes, float_type())
        transfer.store_vectors(self.images.parts, out, len(out) // LAYOUT.lanes)
        out = out.reshape(self.n_parts, self.n_views, self.height, -1)
        return out.sum(axis=0)[:, :, : self.width]

    def load_images(self, vectors, images):
        """Copy (B, H, W) images into a field of vectors, columns padded with zeros."""
        padded = padded_rows(images)
        if padded.size > vectors.shape[0] * LAYOUT.lanes:
            raise InputError(f"images {images.shape}; expected no more than the renderer has room for")
        transfer.load_vectors(vectors, padded.reshape(-1), padded.size // LAYOUT.lanes)


def padded_rows(array):
    """Rows of an array, of the fields' type, followed by zeros up to `image_blocks`."""
    width = np.shape(array)[-1]
    padded_width = image_blocks(width) * LAYOUT.lanes
    if width == padded_width:
        return np.ascontiguousarray(array, float_type())
    padded = np.zeros((*np.shape(array)[:-1], padded_width), float_type())
    padded[..., :width] = array
    return padded


def project(cloud, rotation, shape, pixel_size, shift=(0.0, 0.0), centre=None, cutoff=4.0):
    """Image of a cloud along one axis: the mass on each pixel.

    The sum over the image is the sum of the masses; line integrals of the density (mass / A^2) are the
    image over pixel_size^2. Source: the projection of a Gaussian along z'
    keeps its mass and drops the third row and column of the rotated covariance.

    Parameters
    ----------
    cloud : GaussianCloud
    rotation : (3, 3) or (2, 3) array
        Volume -> image.
    shape : (H, W)
        Pixels.
    pixel_size : float
        Angstrom.
    shift : (x, y)
        Pixels.
    centre : (x, y), optional
        Pixel of the volume centre; default (n - 1) / 2.
    cutoff : float
        Sigmas at which a Gaussian is cut off.

    Returns
    -------
    (H, W) array
    """
    renderer = _one_view(cloud, rotation, shape, pixel_size, shift, centre, cutoff)
    renderer.forward()
    return renderer.get_images()[0]


def project_vjp(cloud, rotation, v_image, pixel_size, shift=(0.0, 0.0), centre=None, cutoff=4.0):
    """Gradient of sum(v_image * project(...)) with respect to the cloud, the rotation and the shift.

    Parameters
    ----------
    v_image : (H, W) array
        Cotangent of the image; the other parameters are those of `project`.

    Returns
    -------
    dict
        positions (N, 3), log_sigmas (N, 3), quaternions (N, 4), masses (N,) as the cloud's;
        rotation (2, 3), dL/d(first two rows); shift (2,), dL/d(pixel).
    """
    shape = np.shape(v_image)
    renderer = _one_view(cloud, rotation, shape, pixel_size, shift, centre, cutoff)
    renderer.forward()
    renderer.load_images(renderer.images.residual, np.asarray(v_image)[None])
    renderer.backward()
    gradient = cloud_gradient(renderer.cloud, len(cloud))
    parts = renderer.views.v_parts.to_numpy()[0, : renderer.n_chunks].astype(np.float64).sum(axis=0)
    return {**gradient, "rotation": parts[:6].reshape(2, 3) / pixel_size, "shift": parts[6:]}


def cloud_gradient(fields, n):
    """dL/d(position, log sigma, quaternion, mass) from the last backward pass."""
    rows = np.empty((12, n), float_type())
    transfer.store_gradient(fields, rows, n)
    v = rows.astype(np.float64)
    return {"positions": v[:3].T, "log_sigmas": v[3:6].T, "quaternions": v[6:10].T, "masses": v[11]}


def _one_view(cloud, rotation, shape, pixel_size, shift, centre, cutoff):
    rotation = np.asarray(rotation, np.float64)
    if rotation.shape not in ((3, 3), (2, 3)):
        raise InputError(f"rotation has shape {rotation.shape}; expected (3, 3) or (2, 3)")
    centre = ((shape[1] - 1) / 2, (shape[0] - 1) / 2) if centre is None else centre
    renderer = Renderer(len(cloud), 1, shape, cloud.signed, cutoff, with_pose=True)
    renderer.set_cloud(cloud)
    renderer.set_views(rotation[None, :2] / pixel_size, (np.asarray(shift) + centre)[None], shape)
    return renderer


SLAB_VECTORS = 1 << 23  # of one slab: 256 MB of float32 on the CPU
PLANES_PER_TASK = 8


class Voxelizer:
    """Device memory and launches that turn a cloud into a volume slab by slab (`whole`: in one), and its gradient."""

    def __init__(self, gaussians: DeviceCloud, grid: Grid, cutoff=4.0, whole=False):
        nz, self.height, self.width = grid.shape
        self.blocks = image_blocks(self.width)
        self.grid = grid
        self.gaussians, self.fields = gaussians, gaussians.cloud
        self.planes = nz if whole else min(nz, max(1, SLAB_VECTORS // (self.height * self.blocks)))
        n_tiles, size = roomy(-(-nz // 8) * -(-self.height // 8)), roomy(self.planes * self.height * self.blocks)
        self.voxels = lend(self, VoxelFields, self.fields.capacity, n_tiles, size, cutoff)
        self.voxels.grid.from_numpy(np.array([*grid.lower, grid.voxel_size], float_type()))

    def _slabs(self):
        nz = self.grid.shape[0]
        return [(z, min(z + self.planes, nz)) for z in range(0, nz, self.planes)]

    def prepare(self, n):
        """Take the first n Gaussians as they are now: `draw` does, and `vjp` relies on it."""
        self.n, self.n_chunks = n, round_up(n, LAYOUT.chunk) // LAYOUT.chunk
        covariance(self.fields, self.n_chunks)
        if runtime.current().is_cpu:
            slots = self.n_chunks * LAYOUT.chunk
            sort_voxels(self.fields, self.voxels, n, slots, self.grid.shape[0], self.height)
        prepare_voxels(self.fields, self.voxels, self.n_chunks)

    def draw(self, n):
        """The density of the first n Gaussians, per voxel, into the slab: once for each (z_first, z_last) it yields."""
        self.prepare(n)
        for z0, z1 in self._slabs():
            transfer.fill(self.voxels.slab, (z1 - z0) * self.height * self.blocks, 0.0)
            if runtime.current().is_cpu:
                tasks = -(-(z1 - z0) // PLANES_PER_TASK)
                voxelize_kernel(self.voxels, tasks, z0, z1, self.grid.shape[0], self.height, self.blocks)
            else:
                splat_voxels(self.voxels, n, z0, z1, self.height, self.blocks)
            yield z0, z1

    def add(self, n, volume, weight=1.0):
        """volume += weight * density of the first n Gaussians, per voxel; volume (nz, ny, nx) float array."""
        for z0, z1 in self.draw(n):
            vectors = (z1 - z0) * self.height * self.blocks
            out = np.empty(vectors * LAYOUT.lanes, float_type())
            transfer.store_vectors(self.voxels.slab, out, vectors)
            volume[z0:z1] += weight * out.reshape(z1 - z0, self.height, -1)[:, :, : self.width]
        return volume

    def vjp(self, v_volume=None):
        """dL/d(raw parameters) into fields.v_raw from dL/dvolume, for the density per voxel of the Gaussians prepared.

        Without `v_volume` (nz, ny, nx), dL/dvolume lies in the slab, which is the whole volume.
        """
        transfer.clear_gradient(self.fields, self.n_chunks * LAYOUT.chunk)
        for z0, z1 in self._slabs():
            if v_volume is not None:
                padded = padded_rows(v_volume[z0:z1])
                transfer.load_vectors(self.voxels.slab, padded.reshape(-1), padded.size // LAYOUT.lanes)
            if runtime.current().is_cpu:
                sizes = (self.n, self.n_chunks, z0, z1, self.height, self.blocks)
                voxelize_vjp_kernel(self.fields, self.voxels, *sizes)
            else:
                splat_voxels_vjp(self.fields, self.voxels, self.n, z0, z1, self.height, self.blocks)
        covariance_vjp(self.fields, self.n_chunks)


def voxelize(cloud, grid, pixel_size=None, cutoff=4.0):
    """Density of a cloud on a grid, computed slab by slab.

    Parameters
    ----------
    cloud : GaussianCloud
    grid : Grid or (nz, ny, nx)
        With a shape, `pixel_size` (Angstrom) is needed and the centre is at (n - 1) / 2.
    cutoff : float
        Sigmas at which a Gaussian is cut off.

    Returns
    -------
    (nz, ny, nx) float32 array
        Density at the voxel centres, in mass per cubic Angstrom.
    """
    grid = grid if isinstance(grid, Grid) else Grid(tuple(grid), pixel_size)
    voxelizer = _loaded_voxelizer(cloud, grid, cutoff)
    volume = np.zeros(grid.shape, np.promote_types(float_type(), np.float32))
    return voxelizer.add(len(cloud), volume, grid.voxel_size**-3)


def voxelize_vjp(cloud, grid, v_volume, cutoff=4.0):
    """Gradient of sum(v_volume * voxelize(cloud, grid)) with respect to the cloud: dict as project_vjp's."""
    voxelizer = _loaded_voxelizer(cloud, grid, cutoff)
    voxelizer.prepare(len(cloud))
    voxelizer.vjp(np.asarray(v_volume) * grid.voxel_size**-3)
    return cloud_gradient(voxelizer.fields, len(cloud))


def _loaded_voxelizer(cloud, grid, cutoff):
    gaussians = DeviceCloud(len(cloud), cloud.signed)
    gaussians.set_cloud(cloud)
    return Voxelizer(gaussians, grid, cutoff)
