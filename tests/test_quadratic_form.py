"""The forms of both objectives, on the host and on the device: one loss, one gradient."""

import logging

import numpy as np
import pytest
from gradients import assert_grad_close
from scenes import PIXEL_SIZE, random_cloud
from scipy import fft
from test_volume_objective import mild_ctf, premultiplied, random_views

from taigs import runtime
from taigs.device import DeviceCloud
from taigs.errors import ResourceError
from taigs.image_form import DeviceImages, HostImages
from taigs.particle_objective import ParticleObjective
from taigs.quadratic_form import DeviceForm, HostForm, quadratic_form
from taigs.render import cloud_gradient
from taigs.views import Grid
from taigs.volume_objective import VolumeData, VolumeObjective

N = 20  # no multiple of a CPU vector


def cube(n=N):
    return Grid((n,) * 3, PIXEL_SIZE, (n // 2,) * 3)


@pytest.fixture
def objective(renderers):
    """A function that makes a VolumeObjective of the running backend, with a form of the wanted kind."""

    def get(kind):
        key = ("forms", runtime.generation())
        if key not in renderers:
            gaussians = DeviceCloud(100)
            found = VolumeObjective(gaussians, N, PIXEL_SIZE)
            forms = {one: one(gaussians, cube(), PIXEL_SIZE**-2) for one in (HostForm, DeviceForm)}
            forms[HostForm].voxelizer = forms[DeviceForm].voxelizer  # compiles once
            renderers[key] = found, forms
        found, forms = renderers[key]
        found.form = forms[kind]
        return found

    return get


def random_data(rng):
    """W and B as of images with a spectrum that falls, more of it in some places than in others."""
    k = np.sqrt(sum(k**2 for k in np.meshgrid(*[np.fft.fftfreq(N)] * 3)))[..., : N // 2 + 1]
    weight = fft.rfftn(rng.normal(size=(N,) * 3)).real ** 2 / N**3 * np.exp(-5 * k)
    data = fft.rfftn(rng.normal(size=(N,) * 3)) * np.exp(-5 * k)
    return VolumeData(weight, data, None, np.linspace(2, 1, N // 2 + 1))


def results(objective, cloud, data):
    """(loss, best scale, gradient)"""
    objective.set_data(data)
    scale = objective.best_scale(cloud)
    loss = objective.loss_and_gradient()
    return loss, scale, cloud_gradient(objective.gaussians.cloud, len(cloud))


def assert_forms_agree(objective, rng, of_loss, of_gradient):
    """In any place of the box, at its edges too, where the padding of rows begins."""
    cloud, data = random_cloud(rng, 65, (N, N, N)), random_data(rng)
    loss, device_scale, v = results(objective(DeviceForm), cloud, data)
    expected, scale, v_expected = results(objective(HostForm), cloud, data)
    assert loss == pytest.approx(expected, rel=of_loss)
    assert device_scale == pytest.approx(scale, rel=of_loss)
    for name, found in v.items():
        assert_grad_close(found, v_expected[name], of_gradient, name=name)


def test_the_device_form_in_float64_equals_the_host_form(cpu64, objective, rng):
    assert_forms_agree(objective, rng, 1e-11, 1e-10)


@pytest.mark.vulkan
def test_the_device_form_equals_the_host_form_on_vulkan(vulkan, objective, rng):
    assert_forms_agree(objective, rng, 1e-5, 1e-4)


def assert_images_agree(renderer, rng, n, kind, of_loss, of_gradient):
    """With noise beyond the circle, and fewer images than there is room for and than before."""
    views = random_views(rng, n, 5, images=rng.normal(size=(5, n, n)), **{"ctf": mild_ctf(rng, 5)})
    views = premultiplied(views) if kind == "premultiplied" else views
    renderer.set_cloud(random_cloud(rng, 65, (n, n, n)))
    found = []
    for form in (DeviceImages, HostImages):  # not the other way round: what one leaves is right for both
        objective = ParticleObjective(renderer, views, NoVolume())
        objective.form = form(renderer, n, views.pixel_size**-2)
        objective.set_views(np.arange(5), np.linspace(2, 1, n // 2 + 1), np.random.default_rng(0))
        objective.loss_and_gradient()
        found.append((objective.loss_and_gradient(np.array([4, 0, 1])), cloud_gradient(renderer.cloud, renderer.n)))
    (loss, v), (expected, v_expected) = found
    assert loss == pytest.approx(expected, rel=of_loss)
    for name, one in v.items():
        assert_grad_close(one, v_expected[name], of_gradient, name=name)


class NoVolume:
    """In place of a volume objective, where there is no score."""

    held_out_score = score_tolerance = None


@pytest.mark.parametrize("n, kind", [(15, "raw"), (20, "raw"), (20, "premultiplied")])
def test_the_device_form_of_images_in_float64_equals_the_host_form(cpu64, renderer, rng, n, kind):
    """With an odd number of rows in an image, the last one is transformed with the first of the next image."""
    assert_images_agree(renderer(n_views=24, shape=(21, 21)), rng, n, kind, 1e-11, 1e-10)


@pytest.mark.vulkan
@pytest.mark.parametrize("n, kind", [(15, "raw"), (20, "premultiplied")])
def test_the_device_form_of_images_equals_the_host_form_on_vulkan(vulkan, renderer, rng, n, kind):
    assert_images_agree(renderer(), rng, n, kind, 1e-5, 1e-4)


def test_volumes_of_both_forms_are_the_same(cpu64, objective, rng):
    cloud = random_cloud(rng, 65, (N, N, N))
    objective(HostForm).gaussians.set_cloud(cloud)
    expected = objective(HostForm).volume()
    np.testing.assert_allclose(objective(DeviceForm).volume(), expected, atol=1e-12 * expected.max())


def test_the_cpu_takes_the_host_form(cpu64):
    assert isinstance(quadratic_form(DeviceCloud(1), cube(), 1.0), HostForm)


@pytest.mark.vulkan
def test_a_gpu_takes_the_device_form_for_sizes_it_can_transform_and_says_where_it_cannot(vulkan, caplog):
    with caplog.at_level(logging.WARNING, "taigs"):
        assert isinstance(quadratic_form(DeviceCloud(1), cube(), 1.0), DeviceForm)
        assert not caplog.messages
        assert isinstance(quadratic_form(DeviceCloud(1), cube(14), 1.0), HostForm)
    assert "try one of 16" in caplog.messages[0]


def test_a_volume_beyond_what_taichi_counts_is_refused_with_the_remedy(cpu64):
    with pytest.raises(ResourceError, match=r"fewer than 2\^31; try --bin 2 or a smaller box"):
        DeviceForm(DeviceCloud(1), cube(1296), 1.0)
