"""The demo's own part: what it simulates, how it scores and words the outcome; the methods are stand-ins."""

import importlib
import sys
import types

import numpy as np
import pytest
from rich.console import Console

from taigs.cloud import GaussianCloud
from taigs.io.mrc import read_volume
from taigs.progress import NoProgress
from taigs.report import RunDirectory
from taigs.views import Grid


@pytest.fixture
def demo(monkeypatch):
    """taigs.demo with reconstructions that are quick and bad."""

    def noise(views, grid, *_, **__):
        return np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)

    def reconstruct_tilt_series(views, thickness, seed, progress):
        volume = np.broadcast_to(views.images[len(views) // 2], (thickness, *views.image_shape))
        cloud = GaussianCloud(np.zeros((3, 3)), np.zeros((3, 3)), np.eye(4)[:3], np.ones(3))
        history = [{"step": 0, "loss": 1.0, "held_out": 1.0, "gaussians": 3}]
        images = np.asarray(views.images)[[1]]
        return types.SimpleNamespace(
            volume=volume, cloud=cloud, history=history, seconds=1.0, held_out=np.array([1]),
            predictions={"taigs": (images, images)},
        )  # fmt: skip

    baseline = types.SimpleNamespace(weighted_back_projection=noise, sirt=noise)
    tilt = types.SimpleNamespace(reconstruct_tilt_series=reconstruct_tilt_series)
    monkeypatch.setitem(sys.modules, "taigs.baseline", baseline)
    monkeypatch.setitem(sys.modules, "taigs.tilt", tilt)
    monkeypatch.delitem(sys.modules, "taigs.demo", raising=False)
    yield importlib.import_module("taigs.demo")
    del sys.modules["taigs.demo"]


def test_the_demo_writes_maps_scores_and_report(demo, tmp_path):
    with RunDirectory(tmp_path / "demo") as directory:
        result = demo.run_demo(directory, 0, NoProgress(), size=32, thickness=26, n_views=5)
    assert list(result.scores) == ["taigs", "WBP", "SIRT", "SIRT+"]
    assert result.scores["taigs"]["ncc"] > 0.1 > abs(result.scores["WBP"]["ncc"])
    written = {path.name for path in (tmp_path / "demo").iterdir()}
    maps = {"tomogram.mrc", "wbp.mrc", "sirt.mrc", "sirt_positive.mrc", "truth.mrc"}
    others = {"tilt_series.mrc", "tilt_series.tlt", "model.npz", "held_out.npz", "metrics.csv", "report.html"}
    assert maps | others == written
    assert read_volume(directory / "truth.mrc")[1].voxel_size[0] == pytest.approx(8.0)
    assert result.verdict in (directory / "report.html").read_text()
    console = Console(width=100, file=(tmp_path / "table").open("w"))
    console.print(demo.results_table(result))
    console.file.close()
    assert "SIRT+" in (tmp_path / "table").read_text()


def test_the_simulated_geometry_agrees_with_the_truth(demo):
    views, truth = demo.simulate_views(Grid((26, 32, 32), 8.0), 3, np.random.default_rng(0))
    np.testing.assert_allclose(views.projections[1], [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(views.projections[2], [[0.5, 0, np.sqrt(0.75)], [0, 1, 0]])
    assert np.corrcoef(views.images[1].ravel(), truth.sum(axis=0).ravel())[0, 1] > 0.3


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.9, 0.9, 0.9), "closest to the truth in all three"),
        ((0.9, 0.1, 0.9), "in NCC and FSC, missing wedge, but not in FSC, measured region"),
        ((0.1, 0.1, 0.1), "not the closest to the truth in any"),
    ],
)
def test_the_verdict_says_how_it_came_out(demo, scores, expected):
    keys = ("ncc", "fsc_measured", "fsc_wedge")
    other = dict.fromkeys(keys, 0.5)
    verdict = demo.describe_scores({"taigs": dict(zip(keys, scores, strict=True)), "WBP": other})
    assert expected in verdict
    assert "0.50 for WBP" in verdict
