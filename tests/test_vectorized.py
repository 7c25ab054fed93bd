"""The inner loops of the CPU form must be vector code: a small change can make them ten times slower.

Taichi writes the machine code of each kernel into the working folder if asked to.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import numpy as np
from taigs import runtime
runtime.init("cpu", "float32", threads=1)
runtime.ti.init(
    arch=runtime.ti.cpu, default_fp=runtime.ti.f32, cpu_max_num_threads=1, offline_cache=False,
    print_kernel_asm=True, log_level=runtime.ti.ERROR,
)
from taigs.cloud import GaussianCloud
from taigs.render import Renderer
renderer = Renderer(1, 1, (16, 16))
renderer.set_cloud(GaussianCloud(np.zeros((1, 3)), np.zeros((1, 3)), np.eye(4)[:1], np.ones(1)))
renderer.set_views(np.eye(3)[None, :2], np.full((1, 2), 8.0), (16, 16))
renderer.forward()
renderer.backward()
"""
# Wide and scalar multiplications, and the least share of wide ones. Scalar ones remain in loop ends and in
# what is done once for a Gaussian; raster and raster_vjp are where the time goes.
WIDE = re.compile(r"^\s+v(?:mulps|fn?m(?:add|sub)\d+ps)\s.*%[yz]mm", re.MULTILINE)
SCALAR = re.compile(r"^\s+v(?:mulss|fn?m(?:add|sub)\d+ss)\s", re.MULTILINE)
LEAST = {
    "covariance": 0.6,
    "project": 0.5,
    "raster": 0.6,
    "raster_vjp": 0.8,
    "project_vjp": 0.3,
    "covariance_vjp": 0.6,
}


@pytest.fixture(scope="module")
def machine_code(tmp_path_factory):
    """Machine code of all kernels of a step, by the kernel's name."""
    folder = tmp_path_factory.mktemp("machine_code")
    root = Path(__file__).resolve().parents[1]
    script = folder / "step.py"  # a file: Taichi reads the source of its kernels, and the package from the checkout
    script.write_text(f"import sys\nsys.path.insert(0, {str(root)!r})\n{SCRIPT}")
    subprocess.run([sys.executable, script], cwd=folder, check=True, capture_output=True, timeout=120)
    codes = {}
    for path in folder.glob("*.s"):
        code = path.read_text()
        symbol = re.search(r"^(\w+?)_c\d+_\d+_kernel_\d+_range_for:", code, re.MULTILINE)
        if symbol:
            codes[symbol[1]] = code
    return codes


@pytest.mark.x86
@pytest.mark.parametrize("kernel", LEAST)
def test_the_loops_of_a_kernel_are_vector_code(machine_code, kernel):
    wide, scalar = (len(kind.findall(machine_code[kernel])) for kind in (WIDE, SCALAR))
    print(f"{kernel}: {wide} wide, {scalar} scalar multiplications")
    assert wide >= 50
    assert wide / (wide + scalar) > LEAST[kernel]
