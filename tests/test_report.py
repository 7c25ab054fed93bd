"""The run directory refuses to harm earlier results; the report is safe to open and to pass on."""

import base64
import csv
import hashlib
import json
import logging
import os
import re

import numpy as np
import pytest

from taigs import report
from taigs.errors import RefusedError, ResourceError
from taigs.run_record import RunRecord
from taigs.slices import slices_of

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def volumes():
    rng = np.random.default_rng(0)
    return {"taigs": rng.normal(size=(12, 20, 16)), "WBP": rng.normal(size=(12, 20, 16))}


def sample_report(path, **changes):
    content = {
        "title": "reconstruction of a",
        "summary": [("Views", 41), ("NCC", 0.12345)],
        "verdict": "fine",
        "tables": [("scores", ("method", "NCC"), [("WBP", 0.5), ("taigs", None)])],
        "figures": [report.Figure("a picture", PNG)],
        "notes": ["guessed"],
        "settings": {"thickness": 48},
        "timings": {"fit": 1.26},
    }
    report.write_report(path, **(content | changes))
    return path.read_text()


def test_run_directory_records_what_was_run(tmp_path):
    with report.RunDirectory(tmp_path / "run") as run:
        run.begin(["taigs", "tilt", "my stack.mrc"], {"thickness": np.int64(48), "out": tmp_path})
        logging.getLogger("taigs").info("a line of the log")
        run.log_metrics({"step": 0, "loss": 1.5, "held_out": None})
        run.log_metrics({"step": 1, "loss": 1.25, "held_out": 1.0})
    assert (tmp_path / "run" / "command.txt").read_text() == "taigs tilt 'my stack.mrc'\n"
    assert json.loads((run / "config.json").read_text()) == {"thickness": 48, "out": str(tmp_path)}
    assert "numpy" in json.loads((run / "environment.json").read_text())["versions"]
    assert "a line of the log" in (run / "run.log").read_text()
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert rows == [
        {"step": "0", "loss": "1.5", "held_out": ""},
        {"step": "1", "loss": "1.25", "held_out": "1.0"},
    ]
    assert not list((tmp_path / "run").glob("*.tmp-*"))


def test_run_directory_refuses_a_folder_with_files(tmp_path):
    (tmp_path / "precious.mrc").write_text("x")
    with pytest.raises(RefusedError, match="--overwrite"):
        report.RunDirectory(tmp_path)
    assert os.listdir(tmp_path) == ["precious.mrc"]
    report.RunDirectory(tmp_path, overwrite=True)


def test_run_directory_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RefusedError, match="is a file"):
        report.RunDirectory(tmp_path / "file", overwrite=True)


def test_run_directory_needs_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *a: False)  # root may write everywhere
    with pytest.raises(ResourceError, match="no permission"):
        report.RunDirectory(tmp_path / "new")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="cannot be created"):
        report.RunDirectory(tmp_path / "file" / "below")


def test_a_run_that_fails_before_it_begins_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError), report.RunDirectory(tmp_path / "new"):
        raise ValueError
    assert not (tmp_path / "new").exists()


def test_overwriting_starts_log_and_metrics_anew(tmp_path):
    for loss in (1, 2):
        with report.RunDirectory(tmp_path, overwrite=True) as run:
            run.begin(["taigs"], {})
            run.log_metrics({"loss": loss})
    assert (tmp_path / "metrics.csv").read_text().split() == ["loss", "2"]
    assert (tmp_path / "run.log").read_text().count("INFO taigs") == 1


def test_the_report_escapes_everything(tmp_path):
    evil = "<script>alert('x')</script>.mrc"
    text = sample_report(
        tmp_path / "report.html",
        title=evil,
        verdict=evil,
        summary=[(evil, evil)],
        tables=[(evil, (evil,), [(evil,)])],
        figures=[report.Figure(f'{evil}" onerror="x', PNG)],
        notes=[evil],
        slices=slices_of({evil: np.zeros((2, 2, 2))}, {evil: (0, 1)}, 1.0, evil),
        data=[(evil, evil)],
        record=RunRecord(evil, {evil: evil}, {"arch": evil, "threads": 1}),
        settings={evil: evil},
        timings={evil: 1.0},
    )
    assert text.count("<script") == text.count("</script") == 1
    assert '" onerror' not in text
    assert text.count("&lt;script&gt;alert") >= 20


def test_the_report_needs_no_network(tmp_path):
    text = sample_report(tmp_path / "report.html")
    assert not re.search(r"https?:|//[a-z]|<link|@import|\burl\(|\bfetch\b", text)
    assert re.findall(r'src="(.{22})', text) == ["data:image/png;base64,"]


def test_the_only_script_allowed_is_the_one_in_the_report(tmp_path):
    text = sample_report(tmp_path / "report.html")
    script = re.search(r"<script>(.*)</script>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'; ")
    assert not re.search(r"\son[a-z]+=", text.replace(script, ""))


def test_the_report_tells_what_was_run_with_what_and_what_it_took(tmp_path):
    (tmp_path / "stack.mrc").write_bytes(bytes(1234))
    options = {"stack": str(tmp_path / "stack.mrc"), "tilt_axis": 85.25, "signed": False, "wbp": True}
    record = RunRecord("taigs tilt stack.mrc", options, {"arch": "cpu", "threads": 2})
    text = sample_report(tmp_path / "report.html", record=record, data=[("images", "41 of 64 x 48 pixels")])
    for part in (
        "<pre>taigs tilt stack.mrc</pre>",
        "<td>images</td><td>41 of 64 x 48 pixels</td>",
        f"<td>stack</td><td>{tmp_path}/stack.mrc (1.2 kB)</td>",
        "<td>tilt axis</td><td>85.25</td>",
        "<td>wbp</td><td>yes</td>",
        "<td>device</td><td>CPU, 2 threads</td>",
        "<td>fit</td><td>1.3 s</td>",
    ):
        assert part in text
    assert re.search(r"largest memory of the process</td><td>[0-9.]+ [MG]B<", text)
    assert "signed" not in text


def test_the_paragraphs_of_a_verdict_stay_apart(tmp_path):
    assert "<p>good</p><p>but</p>" in sample_report(tmp_path / "report.html", verdict="good\nbut")


def test_the_report_shows_numbers_readably(tmp_path):
    text = sample_report(tmp_path / "report.html")
    assert "<dd>0.123</dd>" in text
    assert "<td></td>" in text  # None
    assert "1.3 s" in text


def test_the_report_replaces_an_old_one_only_when_complete(tmp_path):
    sample_report(tmp_path / "report.html")
    with pytest.raises(TypeError):
        sample_report(tmp_path / "report.html", summary=3)
    assert "fine" in (tmp_path / "report.html").read_text()
    assert os.listdir(tmp_path) == ["report.html"]


def test_every_figure_is_a_png(volumes):
    rng = np.random.default_rng(1)
    history = [
        {"step": 0, "loss": 1.0, "held_out": None, "gaussians": 5},
        {"step": 1, "loss": 0.5, "held_out": 1},
    ]
    frequency = np.linspace(0, 0.06, 9)
    for png in (
        report.power_spectrum_figure(volumes, 8.0),
        report.power_spectrum_figure({"empty": np.zeros((8, 8, 8))}, 8.0),
        report.residual_figure(rng.normal(size=(16, 24)), np.zeros((16, 24))),
        report.curves_figure(history),
        report.curves_figure([]),
        report.fsc_figure({"taigs": (frequency, np.exp(-frequency))}),
    ):
        assert png.startswith(PNG)
        assert b"matplotlib" not in png
