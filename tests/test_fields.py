"""Device memory is handed out again, and nothing depends on what is left in it."""

import gc

import numpy as np
import pytest
from scenes import random_cloud

import taigs
from taigs import runtime
from taigs.baseline import TiltGeometry
from taigs.device import DeviceCloud
from taigs.errors import ResourceError
from taigs.kernels import fields
from taigs.kernels.fields import LEAST, CloudFields, EllipseFields, image_blocks, lend, roomy
from taigs.kernels.layout import LAYOUT, MOST_BLOCKS, MOST_ROWS, MOST_VECTORS
from taigs.kernels.project import TALL
from taigs.render import Renderer
from taigs.runtime import ti
from taigs.views import Grid
from taigs.volume_fit import fit_volume


class Owner:
    pass


def test_fields_are_lent_again_when_their_owner_is_gone_and_not_before(cpu32):
    first, second = Owner(), Owner()
    a, b = (lend(owner, CloudFields, LEAST, False) for owner in (first, second))
    assert a is not b
    del first
    third, fourth, fifth = Owner(), Owner(), Owner()
    assert lend(third, CloudFields, LEAST, True) not in (a, b)
    assert lend(fourth, CloudFields, LEAST, False) is a
    assert lend(fifth, CloudFields, LEAST, False) not in (a, b)


def test_fields_of_another_start_of_taichi_are_not_lent(cpu32):
    owner = Owner()
    a = lend(owner, CloudFields, LEAST, False)
    del owner
    runtime.init("cpu")
    assert lend(Owner(), CloudFields, LEAST, False) is not a


def test_numbers_stay_below_what_the_compiler_is_told(cpu32):
    """See `bounded`: a number beyond would be another one, without a word."""
    assert 2 * TALL + 1 <= MOST_ROWS
    assert MOST_VECTORS + MOST_ROWS * MOST_BLOCKS < 2**31, "no index of a column can overflow"
    assert image_blocks(8 * MOST_BLOCKS) == MOST_BLOCKS
    assert [image_blocks(width) for width in (1, 8, 9, 128, 129, 256)] == [1, 1, 3, 17, 17, 33], "odd, for the cache"
    with pytest.raises(ResourceError, match="a row of 134217721 pixels; expected at most 134217720"):
        image_blocks(8 * MOST_BLOCKS + 1)


@pytest.mark.parametrize("n", [0, 1, LEAST, LEAST + 1, 1000, 50_000, 123_457, 2**30 - 5])
def test_room_is_an_eighth_at_most_in_whole_chunks(n):
    assert roomy(n) >= n and roomy(n) % 128 == 0
    assert roomy(n) <= max(LEAST, n + max(128, n / 8))
    assert roomy(roomy(n)) == roomy(n)


@pytest.mark.parametrize("n", [LEAST, 1024, 6656])
def test_arrays_of_a_struct_do_not_lie_whole_pages_apart(cpu32, n):
    for field in CloudFields(n, False).raw:
        assert n <= field.shape[0] <= n + 1024 and 64 <= 4 * field.shape[0] % 4096 <= 4096 - 64


def test_like_sizes_share_kernels(cpu32):
    """A kernel is compiled anew for fields it has not seen."""
    owners = [Renderer(n, 1, shape) for n, shape in ((300, (40, 30)), (310, (41, 31)))]
    assert owners[0].images is not owners[1].images
    kept = owners[0].images, owners[0].cloud
    del owners[0]
    again = Renderer(305, 1, (42, 29))
    assert (again.images, again.cloud) == kept


def everything(rng):
    """What is computed in device memory, in all kinds of it."""
    cloud, grid = random_cloud(rng, 200, (20, 18, 16)), Grid((16, 18, 20), 1.0)
    image, volume = rng.normal(size=(18, 20)), rng.normal(size=grid.shape)
    fitted = fit_volume(np.abs(taigs.voxelize(cloud, grid)), 1.0, gaussians=64)
    tilts = TiltGeometry([-40.0, 5.0, 50.0], (18, 24), grid.shape)
    return [
        taigs.project(cloud, np.eye(3), image.shape, 1.0),
        *taigs.project_vjp(cloud, np.eye(3), image, 1.0).values(),
        *taigs.voxelize_vjp(cloud, grid, volume).values(),
        tilts.project(volume),
        tilts.back_project(rng.normal(size=(3, 18, 24))),
        fitted.cloud.positions,
        fitted.volume,
    ]  # the last two come of many steps


def spoil(struct):
    for name, value in vars(struct).items():
        for field in value if isinstance(value, list) else [value]:
            if isinstance(field, ti.Field) and name not in ("lane", "zero"):
                whole = field.dtype == ti.i32
                field.fill(1 << 30 if whole else float("nan"))


@pytest.mark.parametrize("backend", ["cpu32", pytest.param("vulkan", marks=pytest.mark.vulkan)])
def test_nothing_depends_on_what_is_left_in_lent_memory(backend, request):
    request.getfixturevalue(backend)
    fields._unused.clear()
    expected = everything(np.random.default_rng(0))
    gc.collect()
    structs = [struct for unused in fields._unused.values() for struct in unused]
    assert len({type(struct) for struct in structs}) >= 6
    for struct in structs:
        spoil(struct)
    found = everything(np.random.default_rng(0))
    if LAYOUT.team > 1 and not runtime.current().software:  # a GPU adds in any order, and a fit magnifies that
        assert np.linalg.norm(found[-1] - expected[-1]) < 0.1 * np.linalg.norm(expected[-1])
        del found[-2:], expected[-2:]
    for a, b in zip(found, expected, strict=True):  # atomics add in any order
        np.testing.assert_allclose(a, b, rtol=0, atol=0 if backend == "cpu32" else 1e-4 * np.abs(b).max())
    gc.collect()
    assert sum(map(len, fields._unused.values())) == len(structs), "some memory was not lent again"


def test_kernels_run_after_a_size_was_refused(cpu32, rng):
    with pytest.raises(ResourceError):
        EllipseFields(1 << 13, 1 << 18, 4.0)
    held, cloud = DeviceCloud(100), random_cloud(rng, 100, (9, 9, 9))
    held.set_cloud(cloud)
    np.testing.assert_allclose(held.get_cloud().positions, cloud.positions, rtol=1e-6)
