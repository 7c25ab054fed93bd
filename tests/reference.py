"""What every operation computes, in NumPy and float64: slow, plain, the definition of the method.

Arrays of Gaussians come first: positions (N, 3), log_sigmas (N, 3), quaternions (N, 4), masses (N,).
"""

import numpy as np


def rotation(quaternions):
    """(N, 3, 3) rotation matrices of quaternions w x y z of any length: v -> q v q*."""
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    zero = np.zeros_like(w)
    cross = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    return np.eye(3) + 2 * w[:, None, None] * cross + 2 * cross @ cross


def covariance(log_sigmas, quaternions):
    """(N, 3, 3) R diag(sigma^2) R^T."""
    R = rotation(quaternions)
    return np.einsum("nij,nj,nkj->nik", R, np.exp(2 * log_sigmas), R)


def softplus(raw):
    return np.logaddexp(0, raw)


def project(positions, covariances, matrix, offset):
    """Means (N, 2) and covariances (N, 2, 2) in pixels, seen through a (2, 3) matrix and a shift."""
    return positions @ matrix.T + offset, matrix @ covariances @ matrix.T


def ellipses(means, covariances, masses, shape):
    """(N, H, W): every ellipse by itself at every pixel, not cut off."""
    y, x = np.indices(shape)
    d = np.stack([x - means[:, 0, None, None], y - means[:, 1, None, None]], -1)
    Q = np.linalg.inv(covariances)
    # A product of an axis at a time: three numbers per ellipse instead of a matrix product per pixel.
    qxx, qxy, qyy = (Q[:, i, j, None, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    exponent = qxx * d[..., 0] ** 2 + 2 * qxy * d[..., 0] * d[..., 1] + qyy * d[..., 1] ** 2
    peak = masses / (2 * np.pi * np.sqrt(np.linalg.det(covariances)))
    return peak[:, None, None] * np.exp(-0.5 * exponent)


def within(mean, half, n):
    """(N, n): indices at most `half` from the mean."""
    return np.abs(np.arange(n) - mean[:, None]) <= half[:, None]


def within_blocks(mean, half, n):
    """(N, n): indices in an aligned block of 8 in which some integer is at most `half` from the mean."""
    first = np.floor(np.ceil(mean - half) / 8)[:, None]
    last = np.floor(np.floor(mean + half) / 8)[:, None]
    block = np.arange(n) // 8
    return (first <= block) & (block <= last)


def support(means, covariances, shape, cutoff):
    """(N, H, W): where an ellipse is drawn: rows within cutoff * sigma_y, aligned 8-pixel blocks in x."""
    sigma = np.sqrt(np.einsum("nii->ni", covariances))
    rows = within(means[:, 1], cutoff * sigma[:, 1], shape[0])
    columns = within_blocks(means[:, 0], cutoff * sigma[:, 0], shape[1])
    return rows[:, :, None] & columns[:, None, :]


def raster(means, covariances, masses, shape, cutoff=None):
    """(H, W) sum of all ellipses, on their support if there is a cut-off."""
    drawn = ellipses(means, covariances, masses, shape)
    return (drawn if cutoff is None else drawn * support(means, covariances, shape, cutoff)).sum(axis=0)


def image(cloud, matrix, offset, shape, cutoff=None):
    """(H, W) image of a cloud in one view."""
    means, covariances = project(cloud.positions, covariance(cloud.log_sigmas, cloud.quaternions), matrix, offset)
    return raster(means, covariances, cloud.masses, shape, cutoff)


def blobs(means, covariances, masses, shape):
    """(N, nz, ny, nx): every Gaussian by itself at every voxel, not cut off; means (x, y, z) in voxels."""
    z, y, x = np.indices(shape)
    d = np.stack([x, y, z], -1).reshape(-1, 3) - means[:, None, :]
    exponent = np.einsum("npi,nij,npj->np", d, np.linalg.inv(covariances), d, optimize=True)
    peak = masses / np.sqrt(np.linalg.det(2 * np.pi * covariances))
    return (peak[:, None] * np.exp(-0.5 * exponent)).reshape(len(means), *shape)


def voxel_support(means, covariances, shape, cutoff):
    """(N, nz, ny, nx): within cutoff * sigma in z and y, aligned 8-voxel blocks in x."""
    half = cutoff * np.sqrt(np.einsum("nii->ni", covariances))
    planes = within(means[:, 2], half[:, 2], shape[0])
    rows = within(means[:, 1], half[:, 1], shape[1])
    columns = within_blocks(means[:, 0], half[:, 0], shape[2])
    return planes[:, :, None, None] & rows[:, None, :, None] & columns[:, None, None, :]


def to_voxels(positions, covariances, grid):
    """Means and covariances in voxels of a grid."""
    return positions / grid.voxel_size + np.asarray(grid.centre), covariances / grid.voxel_size**2


def voxelize(cloud, grid, cutoff=None):
    """(nz, ny, nx) density of a cloud, mass per cubic Angstrom."""
    means, covariances = to_voxels(cloud.positions, covariance(cloud.log_sigmas, cloud.quaternions), grid)
    drawn = blobs(means, covariances, cloud.masses, grid.shape)
    if cutoff is not None:
        drawn = drawn * voxel_support(means, covariances, grid.shape, cutoff)
    return drawn.sum(axis=0) / grid.voxel_size**3


def statistics(models, targets):
    """(V, 5) sums over pixels of model, model^2, model * target, target, target^2."""
    products = (models, models**2, models * targets, targets, targets**2)
    return np.stack([p.sum(axis=(1, 2)) for p in products], axis=1)


def gain_and_offset(models, targets):
    """(V,) and (V,): the straight line that fits targets best, view by view."""
    fits = [np.polyfit(m.ravel(), t.ravel(), 1) for m, t in zip(models, targets, strict=True)]
    return np.transpose(fits)


def residual(models, targets, gain, offset, weight):
    """dL/dmodel and the loss of every view: 1/2 w sum (gain model + offset - target)^2."""
    gain, offset, weight = (np.asarray(a)[:, None, None] for a in (gain, offset, weight))
    d = gain * models + offset - targets
    return weight * gain * d, 0.5 * (weight * d**2).sum(axis=(1, 2))


def adam(raw, gradient, moment1, moment2, step, rates, log_sigma_bounds, beta1=0.9, beta2=0.999, epsilon=1e-15):
    """Step `step` (from 1) of Adam on (11, N) parameters with (11,) rates: parameters, both moments."""
    moment1 = beta1 * moment1 + (1 - beta1) * gradient
    moment2 = beta2 * moment2 + (1 - beta2) * gradient**2
    mean, square = moment1 / (1 - beta1**step), moment2 / (1 - beta2**step)
    raw = raw - rates[:, None] * mean / (np.sqrt(square) + epsilon)
    raw[3:6] = np.clip(raw[3:6], *log_sigma_bounds)
    return raw, moment1, moment2


def tilt_matrix(rays, n_columns, nz, nx):
    """(V, n_columns, nz, nx): share of voxel (z, x) in column u of a view; rays (V, 3): cos, sin, offset.

    The voxel meets column u0 = x cos + z sin + offset; a column nearer than 1 gets 1 - |u - u0| of it.
    """
    z, x = np.indices((nz, nx))
    cos, sin, offset = (rays[:, i, None, None] for i in range(3))
    u0 = x * cos + z * sin + offset
    return np.maximum(0, 1 - np.abs(np.arange(n_columns)[:, None, None] - u0[:, None]))


def project_voxels(volume, rays, n_columns):
    """(V, ny, n_columns) images of a (nz, ny, nx) volume tilted about y."""
    nz, _, nx = volume.shape
    return np.einsum("vuzx,zyx->vyu", tilt_matrix(rays, n_columns, nz, nx), volume)


def back_project(images, rays, nz, nx):
    """(nz, ny, nx) volume of (V, ny, n_columns) images: the transpose of project_voxels."""
    return np.einsum("vuzx,vyu->zyx", tilt_matrix(rays, images.shape[2], nz, nx), images)


def frequencies(n):
    """(ky, kx) of a whole n x n transform, cycles per image."""
    k = np.fft.fftfreq(n, 1 / n)
    return np.meshgrid(k, k, indexing="ij")


def slices(images, shifts, ctf, weights, pixel_size, premultiplied=False):
    """(V, n, n) w CTF F and w CTF^2 of square images: whole transforms, F moved to the centre.

    Empty beyond the circle of n / 2 and where an even n has its Nyquist frequency.
    """
    n = images.shape[-1]
    ky, kx = frequencies(n)
    transforms = np.fft.fft2(np.fft.ifftshift(images, axes=(1, 2)))
    moved = transforms * np.exp(2j * np.pi / n * (shifts[:, 0, None, None] * kx + shifts[:, 1, None, None] * ky))
    c = np.ones(moved.shape) if ctf is None else ctf(kx / (n * pixel_size), ky / (n * pixel_size))
    inside = (kx**2 + ky**2 <= n**2 / 4) & (kx > -n / 2) & (ky > -n / 2)
    weight = weights[:, None, None] * inside
    return weight * (1 if premultiplied else c) * moved, weight * c**2


def slice_points(projections, n, padding):
    """(V, n, n, 3): where the coefficients of images lie (x, y, z) on a grid padded by a factor."""
    ky, kx = frequencies(n)
    return padding * np.einsum("pij,vpc->vijc", np.stack([kx, ky]), projections)


def corners(points, size):
    """Flat cells of a periodic (size, size, size) grid around points (P, 3), and their trilinear shares: (8, P)."""
    lower = np.floor(points).astype(int)
    cells, shares = [], []
    for step in np.ndindex(2, 2, 2):
        x, y, z = ((lower + step) % size).T
        cells.append((z * size + y) * size + x)
        shares.append(np.prod(1 - np.abs(points - lower - step), axis=1))
    return np.array(cells), np.array(shares)


def insert(points, values, size):
    """(size, size, size) grid to which every value is added, shared among the eight cells around its point."""
    grid = np.zeros(size**3, values.dtype)
    cells, shares = corners(points.reshape(-1, 3), size)
    np.add.at(grid, cells, shares * values.ravel())
    return grid.reshape(size, size, size)


def sample(grid, points):
    """What a grid holds at points, interpolated: the transpose of insert."""
    cells, shares = corners(points.reshape(-1, 3), len(grid))
    return (shares * grid.ravel()[cells]).sum(axis=0).reshape(points.shape[:-1])


def mirrored(transform):
    """The conjugate of what a whole transform, of any number of axes, holds at the opposite frequencies."""
    axes = tuple(range(transform.ndim))
    return np.roll(np.flip(transform, axes), 1, axes).conj()


def particles(cloud, projections, shifts, ctf, n, pixel_size):
    """(V, n, n) images of a cloud, mass per pixel, centred at n // 2: projections moved, times the CTF."""
    matrices, offsets = projections / pixel_size, n // 2 + shifts
    images = np.stack([image(cloud, M, t, (n, n)) for M, t in zip(matrices, offsets, strict=True)])
    ky, kx = frequencies(n)
    c = 1 if ctf is None else ctf(kx / (n * pixel_size), ky / (n * pixel_size))
    return np.fft.ifft2(np.fft.fft2(images) * c).real
