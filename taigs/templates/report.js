"use strict";
// Each plane has a sheet of slices for every volume; moving the sheets behind their windows shows another slice.
for (const plane of document.querySelectorAll(".plane")) {
  const slider = plane.querySelector("input");
  if (!slider) continue;
  const labels = plane.dataset.labels.split("|");
  const show = () => {
    const slice = slider.valueAsNumber;
    for (const sheet of plane.querySelectorAll(".window img")) {
      sheet.style.transform = `translateY(${(-100 * slice) / labels.length}%)`;
    }
    plane.querySelector("output").value = labels[slice];
    slider.setAttribute("aria-valuetext", labels[slice]);
  };
  slider.addEventListener("input", show);
  slider.hidden = false;
  show();  // a reloaded page keeps the slider where it was
}
