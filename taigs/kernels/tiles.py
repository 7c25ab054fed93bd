"""The rasteriser for CUDA and Vulkan: ellipses are listed per 8 x 8 tile, pixels gather from their tile's list.

count -> allocate -> fill -> gather. Tiles only need disjoint ranges, so an atomic counter replaces the
prefix sum. The pixels of a tile read the same ellipse at the same time, which the caches serve.
"""

from taigs.kernels.fields import scalars, table
from taigs.kernels.layout import LAYOUT, SUPPORT, exp, round_up
from taigs.kernels.raster import support
from taigs.memory import check_memory
from taigs.runtime import MAX_ELEMENTS, check_size, ti

REMEDY = "fewer or smaller Gaussians"
ENTRIES = ti.types.ndarray(dtype=ti.i32, ndim=1)


@ti.data_oriented
class TileFields:
    """Lists of ellipses for up to `n_tiles` tiles: `count`, the `cursor` behind the last one filled in, all `entries`.

    total : number of entries, and whether it has passed 2^31.
    """

    def __init__(self, n_tiles):
        check_size(n_tiles * SUPPORT * SUPPORT, "the images of a batch")
        tree = ti.FieldsBuilder()
        self.count = scalars(tree, n_tiles, dtype=ti.i32)
        self.cursor = scalars(tree, n_tiles, dtype=ti.i32)
        self.total = table(tree, 2, dtype=ti.i32)
        tree.finalize()
        self.entries = ti.ndarray(ti.i32, shape=1 << 16)

    def reserve(self, n):
        """Make room for n entries; the old ones are lost."""
        if n > self.entries.shape[0]:
            check_memory(4 * n, f"the list of {n:,} Gaussians per tile", REMEDY)
            self.entries = ti.ndarray(ti.i32, shape=1 << (n - 1).bit_length() if n < 1 << 30 else n)


def tile_raster(tiles, ellipses, images, n, n_views, height, blocks):
    """Sum of all ellipses of each view into images.parts (n_views images)."""
    rows = round_up(height, SUPPORT) // SUPPORT
    columns = blocks * LAYOUT.lanes // SUPPORT
    n_tiles = n_views * rows * columns
    clear_tiles(tiles, n_tiles)
    count_tiles(tiles, ellipses, n, n_views, height, blocks, rows, columns)
    allocate_tiles(tiles, n_tiles)
    total, passed = map(int, tiles.total.to_numpy())
    check_size(2**31 if passed else total, "the list of Gaussians per tile", REMEDY)
    tiles.reserve(total)
    fill_tiles(tiles, ellipses, tiles.entries, n, n_views, height, blocks, rows, columns)
    gather_tiles(tiles, ellipses, images, tiles.entries, n_tiles, height, blocks, rows, columns)


@ti.kernel
def clear_tiles(tiles: ti.template(), n_tiles: int):
    for i in range(n_tiles):
        tiles.count[i] = 0
        if i == 0:
            tiles.total[0] = 0
            tiles.total[1] = 0


@ti.func
def tile_range(ellipses: ti.template(), i, height, blocks):
    """First and last tile row, first and last tile column of ellipse i; rows empty if it is outside."""
    y0, y1, k0, k1 = support(ellipses, i, height, blocks)
    last = y1 // SUPPORT
    if y1 < y0 or k1 < k0:
        last = y0 // SUPPORT - 1
    return y0 // SUPPORT, last, k0 * LAYOUT.lanes // SUPPORT, k1 * LAYOUT.lanes // SUPPORT


@ti.kernel
def count_tiles(
    tiles: ti.template(), ellipses: ti.template(), n: int, n_views: int, height: int, blocks: int, rows: int,
    columns: int,
):  # fmt: skip
    """How many ellipses reach each tile."""
    ti.loop_config(block_dim=LAYOUT.atomic_block)
    for k in range(n * n_views):
        view = k // n
        r0, r1, c0, c1 = tile_range(ellipses, view * ti.static(ellipses.capacity) + k - view * n, height, blocks)
        width = c1 - c0 + 1
        for j in range((r1 - r0 + 1) * width):
            ti.atomic_add(tiles.count[(view * rows + r0 + j // width) * columns + c0 + j % width], 1)


@ti.kernel
def allocate_tiles(tiles: ti.template(), n_tiles: int):
    """A range of entries for each tile; `cursor` stands at its start."""
    for i in range(n_tiles):
        first = ti.atomic_add(tiles.total[0], tiles.count[i])
        if first > MAX_ELEMENTS - tiles.count[i]:
            tiles.total[1] = 1
        tiles.cursor[i] = first


@ti.kernel
def fill_tiles(
    tiles: ti.template(), ellipses: ti.template(), entries: ENTRIES, n: int, n_views: int, height: int, blocks: int,
    rows: int, columns: int,
):  # fmt: skip
    """Write each ellipse into the lists of its tiles; `cursor` ends behind the tile's last entry."""
    ti.loop_config(block_dim=LAYOUT.atomic_block)
    for k in range(n * n_views):
        view = k // n
        i = view * ti.static(ellipses.capacity) + k - view * n
        r0, r1, c0, c1 = tile_range(ellipses, i, height, blocks)
        width = c1 - c0 + 1
        for j in range((r1 - r0 + 1) * width):
            tile = (view * rows + r0 + j // width) * columns + c0 + j % width
            entries[ti.atomic_add(tiles.cursor[tile], 1)] = i


@ti.kernel
def gather_tiles(
    tiles: ti.template(), ellipses: ti.template(), images: ti.template(), entries: ENTRIES, n_tiles: int, height: int,
    blocks: int, rows: int, columns: int,
):  # fmt: skip
    """Every vector of pixels sums the ellipses of its tile, within the support all forms share."""
    per_row = ti.static(SUPPORT // LAYOUT.lanes)
    per_tile = ti.static(SUPPORT * SUPPORT // LAYOUT.lanes)
    for k in range(n_tiles * per_tile):
        tile = k // per_tile
        r = k - tile * per_tile
        view = tile // (rows * columns)
        y = (tile // columns - view * rows) * SUPPORT + r // per_row
        kx = (tile % columns) * per_row + r % per_row
        if y < height:
            pixel = images.lane[0] + kx * LAYOUT.lanes
            value = ti.Vector([0.0] * LAYOUT.lanes)
            last = tiles.cursor[tile]
            for e in range(last - tiles.count[tile], last):
                i = entries[e]
                dy = y - ellipses.y[i]
                if ti.abs(dy) <= ellipses.ry[i]:
                    dx = pixel - ellipses.x[i]
                    value += ellipses.peak[i] * exp(
                        (ellipses.a[i] * dx + ellipses.b[i] * dy) * dx + ellipses.c[i] * dy * dy
                    )
            images.parts[(view * height + y) * blocks + kx] = value
