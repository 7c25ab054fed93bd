"""The report in a real browser: its sliders show the slices they name, it fits a phone, and nothing is complained of.

The page allows no script but its own, so it is driven from the page around it.
"""

import json

import numpy as np
import pytest
from browser import visit

from taigs.report import Figure, fsc_figure, write_report
from taigs.run_record import RunRecord
from taigs.slices import slices_of

SHAPE = (21, 24, 31)
# The report in a frame of the wanted size, and what is asked of it; what a window shows is read from the sheet behind.
OUTER = """<link rel="icon" href="data:,">
<iframe src="page" style="width:{width}px;height:{height}px;border:0"></iframe>
<script type="module">
const frame = document.querySelector("iframe");
await new Promise((done) => frame.addEventListener("load", done));
const page = frame.contentDocument;
await Promise.allSettled([...page.images].map((image) => image.decode()));
const seen = (plane) => [...plane.querySelectorAll(".window")].map((view) => {{
  const image = view.querySelector("img"), [a, b] = [view, image].map((x) => x.getBoundingClientRect());
  const scale = image.naturalHeight / b.height, y = (a.top - b.top + a.height / 2) * scale;
  const copy = new OffscreenCanvas(1, 1).getContext("2d");
  copy.drawImage(image, (a.left - b.left + a.width / 2) * scale, y, 1, 1, 0, 0, 1, 1);
  return [copy.getImageData(0, 0, 1, 1).data[0], a.width, a.height, b.height];
}});
const state = (plane) => ({{
  seen: seen(plane), said: plane.querySelector("output").textContent,
  spoken: plane.querySelector("input")?.getAttribute("aria-valuetext"), hidden: plane.querySelector("input")?.hidden,
}});
const result = await (async () => {{ {script} }})();
fetch("result", {{ method: "POST", body: JSON.stringify(result) }});
</script>"""


def report(path, **changes):
    """The text of a report with everything; every slice of "a" is level, and as grey as its number along the axis."""
    steps = [np.moveaxis(np.broadcast_to(np.arange(n), (1, 1, n)), 2, axis) for axis, n in enumerate(SHAPE)]
    volume = sum(step / (n - 1) for step, n in zip(steps, SHAPE, strict=True)) / 3
    volumes = {"a": volume, "b": 1 - volume, "c" * 60: volume}
    frequency = np.linspace(0, 0.1, 20)
    content = {
        "title": "long_name_" * 20,
        "summary": [("Views", 41), ("word" * 20, "word" * 20)],
        "verdict": "word" * 60,
        "slices": slices_of(volumes, dict.fromkeys(volumes, (0, 1)), 8.0, "a caption"),
        "tables": [("scores " * 20, [f"column {i}" for i in range(12)], [[0.5] * 12])],
        "figures": [Figure("a figure", fsc_figure({"a": (frequency, np.exp(-frequency))}))],
        "notes": ["note" * 60],
        "data": [("stack", "/folder" * 40)],
        "record": RunRecord("taigs tilt " + "/folder" * 40, {"option": "x" * 200}, {"arch": "cpu", "threads": 2}),
        "settings": {"setting" * 20: "value" * 30},
        "timings": {"stage": 1.0},
    }  # fmt: skip
    write_report(path, **(content | changes))
    return path.read_text("utf-8")


def browse(folder, page, script, size=(1280, 900)):
    outer = OUTER.format(width=size[0], height=size[1], script=script)
    return visit(folder, {"/": outer, "/page": page})


@pytest.mark.chromium
def test_the_slider_of_a_plane_shows_the_slice_it_names_in_all_volumes(tmp_path):
    script = """
      const found = [];
      for (const plane of page.querySelectorAll(".plane")) {
        const states = [state(plane)], slider = plane.querySelector("input");
        slider.focus();
        for (const at of [0, Number(slider.max), 3]) {
          slider.value = at;
          slider.dispatchEvent(new Event("input", { bubbles: true }));
          states.push(state(plane));
        }
        found.push({ states, focused: page.activeElement === slider, label: slider.labels[0].textContent });
      }
      return found;
    """
    found, complaints = browse(tmp_path, report(tmp_path / "report.html"), script)
    assert complaints == []
    assert [plane["label"] for plane in found] == ["XY", "XZ", "YZ"] and all(plane["focused"] for plane in found)
    for plane, axis, n in zip(found, "zyx", SHAPE, strict=True):
        for state, index in zip(plane["states"], (n // 2, 0, n - 1, 3), strict=True):
            assert state["said"] == state["spoken"] and not state["hidden"]
            assert state["said"].startswith(f"{axis} = ") and state["said"].endswith(f"slice {index + 1} of {n}")
            # The middle of a slice: halfway along the other axes.
            grey = 255 * (index / (n - 1) + 1) / 3
            (a, width, height, whole), (b, *_), (c, *_) = state["seen"]
            np.testing.assert_allclose((a, b, c), (grey, 255 - grey, grey), atol=10)
            assert n * height == pytest.approx(whole, rel=0.01) and width > 100


@pytest.mark.chromium
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_nothing_overflows_on_a_desk_or_a_phone(tmp_path, size):
    script = """
      const { scrollWidth, clientWidth } = page.documentElement;
      const wide = [...page.querySelectorAll("main *")].filter((x) => !x.closest(".scroll"));
      const outside = wide.filter((x) => !(x.closest(".window") && !x.matches(".window")))
        .filter((x) => x.getBoundingClientRect().right > clientWidth + 1).map((x) => x.outerHTML.slice(0, 100));
      const image = page.querySelector("figure img").getBoundingClientRect();
      return { scrollWidth, clientWidth, outside, figure: image.width };
    """
    found, complaints = browse(tmp_path, report(tmp_path / "report.html"), script, size)
    assert complaints == []
    assert found["scrollWidth"] <= found["clientWidth"] <= size[0] and found["outside"] == []
    assert found["figure"] > 600  # whose labels are then legible; on a phone it scrolls


@pytest.mark.chromium
def test_what_a_file_says_is_text_and_no_other_script_runs(tmp_path):
    evil = '<img src=x onerror="parent.ran = true"><script>parent.ran = true</script>'
    page = report(tmp_path / "report.html", title=evil, notes=[evil], record=RunRecord(evil, {evil: evil}))
    script = "return [window.ran ?? false, page.title, page.querySelectorAll('script').length];"
    found, complaints = browse(tmp_path, page, script)
    assert (found, complaints) == ([False, evil, 1], [])
    # The policy stops what escaping would miss; the browser says so.
    (tmp_path / "again").mkdir()
    found, complaints = browse(tmp_path / "again", page.replace("</main>", f"{evil}</main>"), script)
    assert not found[0] and any("Content Security Policy" in line for line in complaints)


def test_without_a_script_the_middle_slices_are_there(tmp_path):
    """The positions are in the page itself, and the sliders, which would do nothing, are hidden."""
    page = report(tmp_path / "report.html")
    for n in SHAPE:
        assert page.count(f"translateY({-100 * (n // 2) / n}%)") == 3
        assert page.count(f"slice {n // 2 + 1} of {n}</output>") == 1
    assert page.count('type="range"') == 3 and page.count(" hidden>") == 3


def test_a_plane_of_one_slice_has_no_slider(tmp_path):
    flat = slices_of({"a": np.zeros((1, 8, 8))}, {"a": (0, 1)}, 8.0, "flat")
    page = report(tmp_path / "report.html", slices=flat)
    assert page.count('type="range"') == 2 and "z = 0.0 nm, slice 1 of 1</output>" in page
    assert json.dumps(page).count("translateY(0.0%)") + page.count("translateY(-0.0%)") == 1
