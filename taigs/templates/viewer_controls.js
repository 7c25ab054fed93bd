// The controls and what the page says; `seen` and `act` are viewer.js's.

// --- what the page says ----------------------------------------------------------------------

/** Four digits with thousands separated. */
const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });
const count = (value) => value.toLocaleString("en");

function showModel() {
  const { name, drawn, total, mass, kept, size } = models[seen.model];
  const [divisor, unit] = Math.max(...size) < 1000 ? [1, "Å"] : [10, "nm"];
  const edges = size.map((edge) => count(Math.round(edge / divisor))).join(" × ");
  const facts = [name, `${count(total)} Gaussians`, `mass ${number(mass)}`, `${edges} ${unit}`];
  if (drawn < total) facts.push(`${count(drawn)} drawn, with ${(100 * kept).toFixed(1)} % of the mass`);
  // Lines break between the facts only.
  byId("facts").textContent = facts.map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · ");
  for (const button of byId("model-choices").children) {
    button.setAttribute("aria-pressed", Number(button.value) === seen.model);
  }
}

function showAngles() {
  ["rot", "tilt", "psi"].forEach((id, i) => {
    if (document.activeElement !== byId(id)) byId(id).value = angles()[i];
  });
  canvas.setAttribute("aria-label", `Projection of the model: ${anglesText()}`);
}

/** The sliders of the window run over the bounds in thousandths. */
function showContrast() {
  const [low, high] = seen.bounds;
  for (const id of ["black", "white"]) {
    byId(id).value = (1000 * (seen[id] - low)) / (high - low);
    byId(`${id}-value`).textContent = `${plain(seen[id])} / Å²`;
  }
  byId("auto").checked = seen.auto;
}

function showControls() {
  for (const [box, key] of [["slice", "sliced"], ["spread", "spread"], ["inverted", "inverted"]]) {
    byId(box).checked = seen[key];
  }
  for (const id of ["thickness", "depth", "sigma"]) {
    byId(id).value = seen[id];
    byId(id).disabled = id === "sigma" ? !seen.spread : !seen.sliced;
    byId(`${id}-value`).textContent = lengthText(seen[id]);
  }
  byId("frame").parentElement.classList.toggle("inverted", seen.inverted);
}

function showMeasured() {
  if (!series?.images) return;
  const index = seen.measured ?? Number(byId("series-tilt").value);
  const target = byId("measured-view");
  const perPixel = (seen.pixelSize * canvas.clientWidth) / canvas.width;
  [target.width, target.height] = [canvas.width, canvas.height];
  const image = showMeasured.image(index, seen.inverted);
  drawMeasured(target, image, series.origins[index], series.pixelSize, seen.pan, perPixel, seen.inverted);
  const away = seen.measured === null ? "; the model is seen from elsewhere" : "";
  byId("measured-caption").textContent = `Measured at ${series.angles[index].toFixed(1)}°${away}`;
  target.setAttribute("aria-label", byId("measured-caption").textContent);
}

// --- controls --------------------------------------------------------------------------------

function slider(id, min, max, onInput) {
  const input = byId(id);
  Object.assign(input, { min, max, step: (max - min) / 400 });
  input.addEventListener("input", () => onInput(Number(input.value)));
}

function setUpSeries() {
  if (!series) return;
  const input = byId("series-tilt");
  const measured = Boolean(series.images);
  byId("series").hidden = false;
  byId("measured").hidden = !measured;
  const last = measured ? series.angles.length - 1 : 90;
  Object.assign(input, { min: measured ? 0 : -90, max: last, step: measured ? 1 : 0.5 });
  const choose = () => {
    const value = Number(input.value);
    byId("series-value").textContent = `${(measured ? series.angles[value] : value).toFixed(1)}°`;
    turnTo(measured ? series.rotations[value] : about(1, value), measured ? value : null);
  };
  input.addEventListener("input", choose);
  if (!measured) {
    input.value = 0;
    byId("series-value").textContent = "0.0°";
    return;
  }
  byId("series-label").textContent = "Measured tilt";
  showMeasured.image = measuredImages(series);
  const size = series.angles.map(Math.abs);
  input.value = size.indexOf(Math.min(...size));
  choose();
}

function setUpModels() {
  byId("models").hidden = models.length < 2;
  models.forEach(({ name }, index) => {
    const button = Object.assign(document.createElement("button"), { type: "button", value: index, textContent: name });
    button.addEventListener("click", () => act.choose(index));
    byId("model-choices").append(button);
  });
}

function setUpContrast() {
  for (const [id, other] of [["black", "white"], ["white", "black"]]) {
    byId(id).addEventListener("input", () => {
      const [low, high] = seen.bounds;
      seen[id] = low + (byId(id).value / 1000) * (high - low);
      const apart = (high - low) / 1000; // black stays below white
      seen[other] = id === "black" ? Math.max(seen[other], seen[id] + apart) : Math.min(seen[other], seen[id] - apart);
      seen.auto = false;
      showContrast();
      changed({ contrast: false });
    });
  }
  byId("auto").addEventListener("change", () => {
    seen.auto = byId("auto").checked;
    if (seen.auto) measureContrast();
    changed({ contrast: false });
  });
}

function setUpSliceAndSpread() {
  const change = (values) => {
    Object.assign(seen, values);
    showControls();
    changed();
  };
  slider("thickness", radius / 200, 2 * radius, (value) => change({ thickness: value }));
  slider("depth", -radius, radius, (value) => change({ depth: value }));
  slider("sigma", sigma / 20, 8 * sigma, (value) => change({ sigma: value }));
  for (const [box, key] of [["slice", "sliced"], ["spread", "spread"], ["inverted", "inverted"]]) {
    byId(box).addEventListener("change", () => change({ [key]: byId(box).checked }));
  }
}

function setUpDirection() {
  for (const button of document.querySelectorAll("[data-along]")) {
    button.addEventListener("click", () => act.along(button.dataset.along));
  }
  for (const id of ["rot", "tilt", "psi"]) {
    byId(id).addEventListener("change", () => {
      const given = ["rot", "tilt", "psi"].map((name) => Number(byId(name).value));
      if (given.every(Number.isFinite)) turnTo(fromEuler(...given));
    });
  }
  byId("reset").addEventListener("click", act.reset);
  byId("copy").addEventListener("click", copyAngles);
  byId("save").addEventListener("click", savePicture);
  byId("panel").addEventListener("submit", (event) => event.preventDefault());
}
