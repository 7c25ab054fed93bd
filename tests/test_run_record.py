"""What a report tells of a run is what its folder says, and nothing where the folder says nothing."""

import re
from pathlib import Path

import numpy as np
import pytest

from taigs.report import RunDirectory
from taigs.run_record import RunRecord, peak_memory, size_in_words
from taigs.runtime import Runtime


def test_a_record_is_read_from_the_folder_of_a_run(tmp_path):
    (tmp_path / "my stack.mrc").write_bytes(bytes(25_300_000))
    options = {"stack": tmp_path / "my stack.mrc", "angles": "nowhere.tlt", "tilt_axis": 0.0, "xf": None, "exclude": "",
               "signed": False, "wbp": True, "seed": 0, "output": tmp_path}  # fmt: skip
    with RunDirectory(tmp_path / "run") as run:
        run.begin(["taigs", "tilt", "my stack.mrc"], options, Runtime("vulkan", "float32", 1, "/cache"))
        record = RunRecord.of_folder(run)
    assert record.command == "taigs tilt 'my stack.mrc'"
    assert record.files() == [("stack", f"{tmp_path}/my stack.mrc (25 MB)")]
    assert record.settings() == {
        "angles": "nowhere.tlt", "tilt axis": "0", "wbp": "yes", "seed": 0, "output": str(tmp_path),
    }  # fmt: skip
    assert record.device() == "VULKAN, 1 thread"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe", b'"text"', b"{}"])
def test_a_folder_that_holds_no_record_or_a_broken_one_gives_an_empty_one(tmp_path, content):
    for name in ("command.txt", "config.json", "environment.json") if content is not None else ():
        (tmp_path / name).write_bytes(content)
    record = RunRecord.of_folder(tmp_path)
    assert (record.files(), record.settings(), record.device()) == ([], {}, "")


def test_values_that_can_be_no_path_are_no_files():
    values = {"long": "x" * 5000, "zero": "a\0b", "number": np.inf, "list": [1, 2]}
    record = RunRecord(options=values)
    assert record.files() == [] and record.settings()["list"] == [1, 2]


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (99_900, "100 kB"), (2.5e6, "2.5 MB"), (3.21e9, "3.2 GB"),
     (4.5e12, "4,500 GB")],
)  # fmt: skip
def test_sizes_are_told_in_words(n_bytes, words):
    assert size_in_words(n_bytes) == words


def test_the_peak_of_memory_is_what_the_system_says_in_bytes():
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert peak_memory() == pytest.approx(peak, rel=0.05)
