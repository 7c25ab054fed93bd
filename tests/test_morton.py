"""The order of Gaussians in space."""

import numpy as np

from taigs.cloud import GaussianCloud
from taigs.device import DeviceCloud
from taigs.morton import morton_order


def slow_code(point, half_width):
    """The bits of the three cells in turn, written out as text."""
    cells = [min(max(int((c / half_width + 1) * 512), 0), 1023) for c in point]
    return int("".join(f"{z:010b}"[i] + f"{y:010b}"[i] + f"{x:010b}"[i] for x, y, z in [cells] for i in range(10)), 2)


def test_points_follow_the_curve(rng):
    points = rng.uniform(-70, 70, (500, 3))  # some outside of the cube
    codes = [slow_code(point, 60.0) for point in points]
    assert morton_order(points, 60.0).tolist() == sorted(range(500), key=lambda i: (codes[i], i))


def test_points_of_one_cell_keep_their_order_and_what_is_no_number_is_first():
    points = np.array([[50.0, 50, 50], [1, 1, 1], [1.01, 1, 1], [1, 1, 1], [np.nan, 1, 1], [1e9, 1e9, 1e9]])
    assert morton_order(points[1:4], 60.0).tolist() == [0, 1, 2]
    assert morton_order(np.array([[1.0, 1, 1], [np.nan] * 3, [np.inf, 1, 1]]), 60.0).tolist() == [1, 0, 2]
    assert morton_order(points, 60.0)[-2:].tolist() == [0, 5]


def test_neighbours_in_the_order_are_near_in_space(rng):
    points = rng.uniform(-60, 60, (4000, 3))
    ordered = points[morton_order(points, 60.0)]
    steps = [np.linalg.norm(np.diff(p, axis=0), axis=1).mean() for p in (points, ordered)]
    assert steps[1] < 0.2 * steps[0]


def test_a_cloud_on_the_device_is_sorted_with_all_that_belongs_to_it(cpu32, rng):
    n = 300
    cloud = GaussianCloud(
        rng.uniform(-60, 60, (n, 3)), rng.uniform(-1, 1, (n, 3)), rng.normal(size=(n, 4)), rng.uniform(1, 2, n)
    )
    held = DeviceCloud(n)
    held.set_cloud(cloud)
    state = held.state()
    state["rows"][11:34] = rng.normal(size=state["rows"][11:34].shape)  # moments and scores
    held.set_state(state)
    before = held.state()["rows"][:, :n]
    held.sort(60.0)
    order = morton_order(before[:3].T, 60.0)
    np.testing.assert_array_equal(held.state()["rows"][:34, :n], before[:34, order])
    assert held.n == n
