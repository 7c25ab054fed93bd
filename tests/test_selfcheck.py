"""The self-check passes where the kernels are right, and fails, with its exit code, where one is not."""

import sys
import types

import numpy as np
import pytest

from taigs import baseline, render, runtime, selfcheck
from taigs.cli import describe
from taigs.cli.main import main
from taigs.errors import NumericalError
from taigs.selfcheck import Check, check_all, run_checks

QUICK = "images against float64", "adjointness of volumes", "values wrong after writing and replacing a file"


def test_every_check_passes_and_the_small_reconstruction_is_far_above_its_bounds(cpu32, tmp_path):
    checks = {check.name: check for check in run_checks(tmp_path)}
    assert [name for name, check in checks.items() if not check.ok] == []
    assert {*QUICK} < {*checks} and len(checks) == 11
    assert checks["correlation of a small reconstruction with its truth"].measured > 0.85
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def without_reconstruction(monkeypatch):
    monkeypatch.setattr(selfcheck, "_reconstruction", lambda: ())


@pytest.mark.vulkan
def test_the_self_check_passes_on_vulkan(vulkan, without_reconstruction):
    assert [check.name for check in run_checks() if not check.ok] == []


def nothing(*_):
    """A kernel that does not run."""


def no_image(ellipses, images, *_):
    images.parts.fill(0)


def no_gradient(cloud, _):
    for field in cloud.v_raw:
        field.fill(0)


BROKEN = {  # what is put in place of a kernel: module, name, replacement, a check that must notice
    "no gradient of the volume": (render, "voxelize_vjp_kernel", nothing, "gradients of volumes"),
    "no gradient of the covariance": (render, "covariance_vjp", no_gradient, "gradients of images"),
    "nothing drawn": (render, "raster", no_image, "images against float64"),
    "no voxels": (render, "voxelize_kernel", nothing, "volumes against float64"),
    "no back-projection": (baseline, "back_project", nothing, "adjointness of back-projection"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_kernel_is_noticed(cpu32, monkeypatch, without_reconstruction, case):
    module, name, replacement, noticed = BROKEN[case]
    monkeypatch.setattr(module, name, replacement)
    lines = []
    with pytest.raises(NumericalError, match=f"of 9 checks failed: .*{noticed}") as failure:
        check_all(lines.append)
    assert failure.value.exit_code == 5
    assert any(line.startswith(noticed) and line.endswith("FAILED") for line in lines)
    assert any(line.endswith(" ok") for line in lines), "the others are done nevertheless"


def test_a_reconstruction_that_fails_is_a_failed_check(cpu32, monkeypatch):
    def diverged(*_, **__):
        raise NumericalError("step 7: the loss is nan")

    monkeypatch.setattr(selfcheck, "reconstruct_tilt_series", diverged)
    (check,) = selfcheck._reconstruction()
    assert not check.ok and "the loss is nan" in check.name


def test_a_gradient_that_is_wrong_by_a_percent_is_noticed(cpu32, monkeypatch, without_reconstruction):
    right = selfcheck.project_vjp

    def wrong(*args, **kwargs):
        v = right(*args, **kwargs)
        return {**v, "log_sigmas": 1.01 * v["log_sigmas"]}

    monkeypatch.setattr(selfcheck, "project_vjp", wrong)
    failed = [check.name for check in run_checks() if not check.ok]
    assert failed == ["gradients of images against finite differences"]


@pytest.mark.parametrize("measured, code", [(1e-7, 0), (0.5, 5), (float("nan"), 5)])
def test_the_command_prints_each_number_with_its_bound_and_ends_with_5_if_one_fails(
    monkeypatch, capsys, measured, code
):
    monkeypatch.setattr(selfcheck, "run_checks", lambda _: [Check("images", measured, 1e-5)])
    monkeypatch.setattr(describe, "_probe", lambda _: "works")
    monkeypatch.setattr(runtime, "init", lambda arch: types.SimpleNamespace(arch=arch))
    monkeypatch.setattr(sys, "argv", ["taigs", "doctor", "--self-check", "--arch", "cpu"])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert (stop.value.code or 0) == code
    assert "self-check on cpu" in out and "taichi" in out and "memory" in out
    assert f"images: {measured:.3g} (<= 1e-05) {'FAILED' if code else 'ok'}" in out
    assert ("1 of 1 checks failed: images" in err) == bool(code)


def test_a_disk_that_does_not_keep_what_is_written_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setattr(selfcheck, "read_volume", lambda _: (np.zeros((4, 5, 6), np.float32), None))
    assert not selfcheck._disk(tmp_path).ok
