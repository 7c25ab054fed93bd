"""How work and memory are laid out on the CPU and on a GPU.

On the CPU a task is a chunk of 128 Gaussians whose inner loops LLVM vectorises, and an image row is
a sequence of 8-pixel vectors. On a GPU a task is one Gaussian and a vector is one pixel. Most kernels
are written once for both; the constants are read when a kernel is compiled. Those that draw have a form
for each: on a GPU a team of eight threads draws a Gaussian.

Two facts of Taichi 1.7 on the CPU shape the loops: a top-level loop is cut into equal pieces of 512
iterations or more, one for each thread, so that tasks are shared out by `slots` and `share`; and
``a[i] += v`` is an atomic, so sums that one task owns are written ``a[i] = a[i] + v``.
"""

import numpy as np

from taigs import runtime
from taigs.runtime import ti

SUPPORT = 8  # px: every form of the rasteriser covers whole aligned 8-pixel blocks in x
LOG2_E = 1.4426950408889634
PIECE = 512  # iterations that Taichi gives a thread at least
# What `bounded` is told of numbers on the CPU:
MOST_TASKS = 2**23 - 1  # of a loop over the chunks of a cloud
MOST_VECTORS = 2**28 - 1  # of pixels in a field
MOST_BLOCKS = 2**24 - 1  # of them in a row
MOST_ROWS = 2**6 - 1  # of what the recurrences draw: see TALL in kernels/project.py


class Layout:
    """Sizes of the running backend."""

    @property
    def lanes(self):
        """Pixels in one vector."""
        return SUPPORT if runtime.current().is_cpu else 1

    @property
    def wide(self):
        """Pixels in a vector of kernels/backproject.py: the processor's own vectors in it need not wait for each
        other, and share the way to their place."""
        return 32 if runtime.current().is_cpu else 1

    @property
    def chunk(self):
        """Gaussians in one task."""
        return 128 if runtime.current().is_cpu else 1

    @property
    def threads(self):
        """Of the CPU, in a field: a constant would have the kernels compiled for every number of them."""
        return runtime.thread_count

    @property
    def strips(self):
        """Horizontal strips in which images are compared: the order of sums must not depend on threads."""
        return 8 if runtime.current().is_cpu else 256

    @property
    def team(self):
        """Threads of a GPU that draw a Gaussian together, each its own columns; one where there is no GPU, but the
        kernels of one are compiled for the CPU."""
        return SUPPORT if ti.cfg.arch in (ti.cuda, ti.vulkan) else 1

    @property
    def block(self):
        """Threads of a GPU block in loops with teams or atomics: Mesa's lavapipe loses some of these in a partly
        filled block of more than one of its subgroups of 8."""
        return 8 if runtime.current().software else 64

    @property
    def fast_exp(self):
        """The polynomial below is float32 and pays on the CPU only."""
        return runtime.current().is_cpu and runtime.current().precision == "float32"


LAYOUT = Layout()

# Row and column of the six entries of a symmetric matrix: xx xy xz yy yz zz.
ROW = (0, 0, 0, 1, 1, 2)
COLUMN = (0, 1, 2, 1, 2, 2)


def round_up(n, multiple):
    return -(-n // multiple) * multiple


def bits(value):
    """The integer that has the bits of a float32."""
    return int(np.float32(value).view(np.int32))


@ti.func
def slots(n_tasks):
    """Iterations of a top-level loop over tasks; `share` tells the tasks of each."""
    if ti.static(LAYOUT.lanes > 1):
        return PIECE * LAYOUT.threads[None]
    else:
        return n_tasks


@ti.func
def share(slot, n_tasks):
    """First task and last + 1 of an iteration: on the CPU the share of a thread, on a GPU one task."""
    begin = slot
    end = slot + 1
    if ti.static(LAYOUT.lanes > 1):
        end = begin
        if slot % PIECE == 0:
            each = (n_tasks + LAYOUT.threads[None] - 1) // LAYOUT.threads[None]
            begin = ti.min(slot // PIECE * each, n_tasks)
            end = ti.min(begin + each, n_tasks)
    return begin, end


@ti.func
def bounded(x, most: ti.template()):
    """x, which is at most `most`, as a number that LLVM knows to be.

    It vectorises a loop, and takes its addresses from each other, only where no index can overflow.
    """
    if ti.static(LAYOUT.lanes > 1):
        return x & most
    else:
        return x


@ti.func
def chunk_of(fields: ti.template(), task):
    """First Gaussian of a task.

    `fields.zero` is added for LLVM, which vectorises a loop over fields only if the address of their tree is known
    before it: Taichi looks that up where one of them is first read.
    """
    return bounded(task + fields.zero[None], MOST_TASKS) * LAYOUT.chunk


@ti.func
def within(x, low: ti.template(), high: ti.template()):
    """Whether low <= x <= high, for 0 <= low; never for NaN, which fast arithmetic takes for any number.

    Positive numbers are ordered as the integers of their bits; negative ones lie below, infinity and NaN above.
    """
    b = ti.bit_cast(ti.cast(x, ti.f32), ti.i32)
    return (b >= ti.static(bits(low))) & (b <= ti.static(bits(high)))


@ti.func
def at_most(x, high: ti.template()):
    """Whether -high <= x <= high; never for NaN."""
    return within(ti.abs(x), 0.0, high)


@ti.func
def exp(x):
    """e^x; on the CPU in float32 a branch-free polynomial that LLVM vectorises (relative error 1e-7 for |x| < 0.3).

    2^z = 2^n 2^f with n the nearest integer; the polynomial is the minimax one of degree 6 with value 1 at 0, summed by
    Estrin's scheme, whose terms do not wait for each other. Both ends are clamped: far lanes must give 0 and not NaN.
    """
    if ti.static(LAYOUT.fast_exp):
        z = x * LOG2_E
        n = ti.floor(z + 0.5)
        f = z - n
        f2 = f * f
        p = f2 * 1.49025196e-4 + (f * 1.33895821e-3 + 9.62001795e-3)
        p = (f * 6.93147183e-1 + 1.0) + f2 * ((f * 5.55036518e-2 + 2.40226369e-1) + f2 * p)
        e = ti.min(ti.max(ti.cast(n, ti.i32) + 127, 0), 254) << 23
        return p * ti.bit_cast(e, ti.f32)
    else:
        return ti.exp(x)


@ti.func
def cosine(turns):
    """cos(2 pi turns); on the CPU in float32 a branch-free polynomial (error 6e-8 + that of the turns).

    With f the distance to the nearest whole turn, cos(2 pi f) = sin(2 pi (1/4 - f)): the minimax polynomial of that.
    """
    if ti.static(LAYOUT.fast_exp):
        h = 0.25 - ti.abs(turns - ti.floor(turns + 0.5))
        h2 = h * h
        p = 81.60101016 + h2 * (h2 * 39.53782114 - 76.54992584)
        return h * (6.28318516 + h2 * (h2 * p - 41.34165513))
    else:
        return ti.cos(6.283185307179586 * turns)
