"""`taigs voxelize`: a model on any grid, slab by slab straight to disk."""

import math
import shutil
from pathlib import Path

import numpy as np

from taigs.device import DeviceCloud, float_type
from taigs.errors import InputError, ResourceError
from taigs.io.clouds import map_grid, map_position, values_per_density
from taigs.io.mrc import write_sections
from taigs.progress import NoProgress
from taigs.render import Voxelizer
from taigs.tilt import blurred
from taigs.views import Grid

SIGMA_PER_RESOLUTION = math.sqrt(math.log(2) / 2) / math.pi  # a Gaussian's transform is 1/2 at 1 / resolution
FINEST = 1 / 8  # of the model's pixel: a whole box at less is a slip of the unit, nm for A
LONGEST = 2**16  # voxels along an axis: more is a slip too
EXTENSIONS = (".mrc", ".map", ".rec")


def target_grid(header, pixel_size=None, shape=None, origin=None, region=None):
    """The grid to draw a model on; by default that of the map it was made for.

    Parameters
    ----------
    header : dict
        The model's.
    pixel_size : float, optional
        Angstrom; without `shape` the box keeps its extent.
    shape : (nz, ny, nx), optional
    origin : (x, y, z), optional
        Angstrom; where voxel 0 shall lie in the frame of the model's map. Default: the model's origin stays at
        the same place of the box, (n - 1) / 2 or n // 2, as in that map.
    region : three (first, end), optional
        z, y, x; the voxels to draw out of that grid, from 0, without `end`.

    Raises
    ------
    InputError
        The model names no grid and none is given, or the request makes no sense.
    """
    full = map_grid(header)
    own_size = header.get("pixel_size_A")
    size = own_size if pixel_size is None else pixel_size
    if size is None:
        raise InputError("the model names no pixel size; expected --pixel-size A")
    if not 0 < size < math.inf:
        raise InputError(f"pixel size {size}; expected a positive number of Angstrom")
    if shape is None:
        if full is None:
            raise InputError("the model names no box; expected --shape NX,NY,NZ")
        shape = tuple(max(1, round(n * full.voxel_size / size)) for n in full.shape)
        too_fine = region is None and size < FINEST * full.voxel_size
        if too_fine or size > max(full.shape) * full.voxel_size / 2:
            raise InputError(
                f"pixel size {size:g} A for a box of {_extent(full)} A at {full.voxel_size:g} A per pixel; expected "
                "Angstrom, not nm or voxels; try --shape or --region with it"
            )
    if max(shape) > LONGEST:
        raise InputError(f"volume shape {tuple(shape)} (z, y, x); expected voxels, at most {LONGEST} along an axis")
    grid = Grid(tuple(shape), size, _like(full, shape, size))
    if origin is not None:
        if not np.isfinite(origin).all():
            raise InputError(f"origin {tuple(origin)}; expected three numbers of Angstrom")
        grid = Grid(grid.shape, size, tuple((map_position(header) - origin) / size))
    return grid if region is None else _part(grid, region)


def _like(full, grid_shape, size):
    """Centre by the convention of the model's map: n // 2, or (n - 1) / 2 and what the map is off it, in Angstrom."""
    if full is None:
        return None
    new, old = np.array(grid_shape[::-1]), np.array(full.shape[::-1])
    if np.array_equal(full.centre, old // 2):
        return tuple(new // 2)
    return tuple((new - 1) / 2 + (full.centre - (old - 1) / 2) * full.voxel_size / size)


def _part(grid, region):
    for axis, (first, end), n in zip("zyx", region, grid.shape, strict=True):
        if end <= first:
            raise InputError(f"region {axis} {first}:{end} is empty; expected first:end, voxels from 0, end left out")
        if first < 0 or end > n:
            raise InputError(f"region {axis} {first}:{end} leaves the {n} voxels there are; expected voxels, not A")
    shape = tuple(end - first for first, end in region)
    firsts = [first for first, _ in region[::-1]]
    return Grid(shape, grid.voxel_size, tuple(np.asarray(grid.centre) - firsts))


def _extent(grid):
    return " x ".join(f"{n * grid.voxel_size:.0f}" for n in grid.shape[::-1])


def write_map(path, cloud, header, grid, lowpass=None, overwrite=False, progress=None):
    """Draw a model on a grid into an MRC file; memory holds one slab.

    The MRC origin puts it upon the map the model was made for: 0 on that map's own grid.

    Parameters
    ----------
    path : path
        .mrc, .map or .rec.
    cloud : GaussianCloud
    header : dict
        The model's: it says in which unit the map is.
    grid : Grid
    lowpass : float, optional
        Angstrom; where a Gaussian low-pass falls to half amplitude. Exact: its variance adds to every Gaussian's.
    progress : Progress, optional

    Raises
    ------
    InputError
        Unknown extension, or a low-pass that is not a number of Angstrom.
    RefusedError, ResourceError
        The file exists; the disk has no room.
    """
    path = Path(path)
    if path.suffix.lower() not in EXTENSIONS:
        raise InputError(f'{path}: unknown kind of map "{path.suffix}"; expected {", ".join(EXTENSIONS)}')
    if lowpass is not None:
        box = max(n * grid.voxel_size for n in (map_grid(header) or grid).shape)
        if not 0 < lowpass <= box:
            raise InputError(f"low-pass {lowpass:g} A in a box of {box:.0f} A; expected Angstrom, at most the box")
        cloud = blurred(cloud, lowpass * SIGMA_PER_RESOLUTION)
    needed = 4 * math.prod(grid.shape)
    if path.parent.is_dir() and (free := shutil.disk_usage(path.parent).free) < needed:
        raise ResourceError(f"{path}: {needed / 1e9:.1f} GB to write; expected room for it, {free / 1e9:.1f} GB free")
    unit = header.get("map_unit", "per A")
    label = f"taigs: image units {unit}, protein bright{f', low-pass {lowpass:g} A' if lowpass else ''}"
    # Rounded, or the difference of two equal numbers would leave 1e-14 A where 0 is meant.
    origin = np.round(map_position(header) + grid.lower, 4) + 0.0
    values = values_per_density(header, grid.voxel_size)
    write_sections(
        path, draw_sections(cloud, grid, values, progress), grid.shape, grid.voxel_size, overwrite, label, origin
    )


def draw_sections(cloud, grid, factor=1.0, progress=None):
    """Yield the (ny, nx) sections of `factor` times `taigs.voxelize(cloud, grid)`, one slab in memory at a time.

    A part of a grid equals that part of the whole up to tails beyond the cut-off: blocks of 8 voxels in x are drawn
    whole, and they begin with the grid.
    """
    progress = progress or NoProgress()
    progress.stage("voxelising")
    gaussians = DeviceCloud(len(cloud), cloud.signed)
    gaussians.set_cloud(cloud)
    voxelizer = Voxelizer(gaussians, grid)
    nz, ny, nx = grid.shape
    x, y, z = grid.centre
    for first in range(0, nz, voxelizer.planes):
        planes = min(voxelizer.planes, nz - first)
        slab = Grid((planes, ny, nx), grid.voxel_size, (x, y, z - first))
        voxelizer.grid = slab
        voxelizer.voxels.grid.from_numpy(np.array([*slab.lower, slab.voxel_size], float_type()))
        volume = np.zeros(slab.shape, np.promote_types(float_type(), np.float32))
        # Copies, and no name for the slab: a view of it in someone's hands would keep it beside the next one.
        sections = map(np.copy, voxelizer.add(len(cloud), volume, factor * grid.voxel_size**-3))
        del volume
        yield from sections
        progress.update(first + planes, nz)
