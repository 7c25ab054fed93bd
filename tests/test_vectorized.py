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
runtime.thread_count = runtime.ti.field(int, shape=())
runtime.thread_count[None] = 1
from taigs.cloud import GaussianCloud
from taigs.kernels.adam import adam
from taigs.kernels.residual import collect, residual
from taigs.render import Renderer, Voxelizer
from taigs.views import Grid
r = Renderer(1, 1, (16, 16))
r.set_cloud(GaussianCloud(np.zeros((1, 3)), np.zeros((1, 3)), np.eye(4)[:1], np.ones(1)))
r.set_views(np.eye(3)[None, :2], np.full((1, 2), 8.0), (16, 16))
r.forward()
collect(r.images, 1, r.n_parts, r.height, r.width, r.blocks)
residual(r.images, 1, r.height, r.width, r.blocks)
r.backward()
adam(r.cloud, r.n_chunks, 0.9, 0.99, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, -10.0, 10.0)
voxelizer = Voxelizer(r, Grid((16, 16, 16), 1.0), whole=True)
list(voxelizer.draw(1))
voxelizer.vjp()
"""
# Wide multiplications, and the least share of them among all. Scalar ones remain in loop ends and in what is done once
# for a Gaussian. What runs has the same loops, but multiplies and adds where this code has both in one.
WIDE = re.compile(r"^\s+v(?:mulps|fn?m(?:add|sub)\d+ps)\s.*%[yz]mm", re.MULTILINE)
SCALAR = re.compile(r"^\s+v(?:mulss|fn?m(?:add|sub)\d+ss)\s", re.MULTILINE)
LEAST = {
    "covariance": (60, 0.8),
    "project": (45, 0.6),
    "raster": (35, 0.7),
    "collect": (40, 0.9),
    "residual": (8, 0.7),
    "raster_vjp": (60, 0.55),
    "project_vjp": (25, 0.4),
    "covariance_vjp": (100, 0.9),
    "adam": (60, 0.9),
    "voxelize": (50, 0.4),
    "voxelize_vjp": (50, 0.25),
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


def row_loops(code):
    """Bodies of the innermost loops that draw or read a column by the recurrence, which has no exponential."""
    begun = {}
    lines = code.splitlines()
    for i, line in enumerate(lines):
        if label := re.match(r"(\.LBB\w+):", line):
            begun[label[1]] = i
        elif (jump := re.match(r"\s+j\w+\s+(\.LBB\w+)", line)) and jump[1] in begun:
            body = lines[begun[jump[1]] + 1 : i]
            if not any(text.startswith(".LBB") for text in body):
                body = "\n".join(body)
                if re.search(r"v(add|mul|fmadd231)ps\s+[^,]*\(%r", body) and "vandps" in body and "vround" not in body:
                    yield body


@pytest.mark.x86
@pytest.mark.parametrize("kernel", ["raster", "raster_vjp", "voxelize", "voxelize_vjp"])
def test_addresses_of_rows_follow_from_each_other(machine_code, kernel):
    """LLVM computes each from its index again if that might overflow: a third of the instructions of a row."""
    found = list(row_loops(machine_code[kernel]))
    assert found
    assert not any(re.search(r"\b(movslq|cltq|imul)", body) for body in found)


@pytest.mark.x86
@pytest.mark.parametrize("kernel", LEAST)
def test_the_loops_of_a_kernel_are_vector_code(machine_code, kernel):
    wide, scalar = (len(kind.findall(machine_code[kernel])) for kind in (WIDE, SCALAR))
    print(f"{kernel}: {wide} wide, {scalar} scalar multiplications")
    count, share = LEAST[kernel]
    assert wide >= count
    assert wide / (wide + scalar) >= share
