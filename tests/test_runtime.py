"""Threads of the CPU backend: who runs what, and where."""

import os
from pathlib import Path

import numpy as np
import pytest

from taigs import runtime
from taigs.kernels.fields import CloudFields
from taigs.kernels.layout import share, slots
from taigs.runtime import ti


@ti.kernel
def count(visits: ti.types.ndarray(ndim=1), n_tasks: int):
    for k in range(slots(n_tasks)):
        begin, end = share(k, n_tasks)
        for task in range(begin, end):
            visits[task] += 1


@ti.kernel
def keep_busy(values: ti.types.ndarray(ndim=1), n_tasks: int, turns: int):
    for k in range(slots(n_tasks)):
        begin, end = share(k, n_tasks)
        for task in range(begin, end):
            x = 0.0
            for j in range(turns):
                x = ti.sin(x + j)
            values[task] = x


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_task_is_done_once(threads):
    runtime.init("cpu", threads=threads)
    for n_tasks in (0, 1, 2, 3, 7, 8, 9, 100, 513, 5000):
        visits = np.zeros(n_tasks + 1, np.int32)
        count(visits, n_tasks)
        np.testing.assert_array_equal(visits, [1] * n_tasks + [0])


@pytest.mark.vulkan
def test_every_task_is_done_once_on_a_gpu(vulkan):
    for n_tasks in (1, 7, 9, 513, 5000):
        visits = np.zeros(n_tasks + 1, np.int32)
        count(visits, n_tasks)
        np.testing.assert_array_equal(visits, [1] * n_tasks + [0])


def processor_time():
    """Clock ticks that each thread of this process has had."""
    ticks = {}
    for thread in Path("/proc/self/task").iterdir():
        fields = (thread / "stat").read_text().rsplit(")", 1)[1].split()
        ticks[int(thread.name)] = int(fields[11]) + int(fields[12])
    return ticks


def who_works(threads):
    """The processors that each thread which takes part in a long kernel may use."""
    runtime.init("cpu", threads=threads)
    before = processor_time()
    keep_busy(np.zeros(64), 64, 400_000)
    after = processor_time()
    busy = [t for t in after if after[t] - before.get(t, 0) > 5 and t != os.getpid()]
    return [os.sched_getaffinity(t) for t in busy]


@pytest.mark.linux
def test_workers_that_use_all_processors_have_one_each():
    processors = os.sched_getaffinity(0)
    found = who_works(len(processors))
    assert len(found) == len(processors)
    assert sorted(map(sorted, found)) == [[p] for p in sorted(processors)]


@pytest.mark.linux
def test_other_numbers_of_workers_go_where_there_is_room():
    processors = os.sched_getaffinity(0)
    for threads in {1, len(processors) + 1} - {len(processors)}:
        found = who_works(threads)
        assert found and all(allowed == processors for allowed in found)


@ti.kernel
def read(cloud: ti.template(), index: int) -> float:
    return cloud.mass[index]


@pytest.mark.parametrize("debug", [True, False])
def test_bounds_are_checked_if_asked_for(debug):
    runtime.init("cpu", debug=debug)
    cloud = CloudFields(512, False)
    size = cloud.mass.shape[0]
    assert read(cloud, size - 1) == 0
    if debug:
        with pytest.raises(AssertionError, match=rf"of size \({size}\) with indices \({size}\)"):
            read(cloud, size)
    else:
        read(cloud, size)  # another field of the same tree
